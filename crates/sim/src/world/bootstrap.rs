//! The first moment of a world: its machines, their first configuration, and everything that is planned.

use std::sync::Arc;

use quorate_raft::{Incarnation, Member, Membership, NodeId};

use super::{Host, World};
use crate::clock::Instant;
use crate::context::{Event, Load};
use crate::log_model::{LogImage, LogModel};
use crate::network::HostId;
use crate::tier::Tier;

impl<T: Tier> World<T> {
    /// Machines, the first configuration, and all that is planned.
    pub(super) fn bootstrap(&mut self) {
        let hosts = self.context.plan.hosts;
        let voters = self.context.plan.initial_voters;
        let incarnations: Vec<Incarnation> = (0..hosts).map(|_| self.new_incarnation()).collect();
        let nodes: Vec<NodeId> = incarnations.iter().map(|&incarnation| T::node_id(incarnation)).collect();
        let membership = bootstrap_membership(&nodes[..voters], &incarnations[..voters]);
        for host in 0..hosts {
            let bootstrap = (host < voters).then_some(&membership);
            let (node, incarnation) = (nodes[host], incarnations[host]);
            self.context.host = HostId(host);
            self.context.node = node;
            self.context.cluster.directory.insert(node, HostId(host));
            self.context.cluster.nodes.push(node);
            let image = LogImage::empty(Arc::new(bootstrap.cloned().unwrap_or_default()));
            self.context.cluster.logs.push(LogModel::new(image));
            let disk = T::disk(&mut self.context, node, incarnation, bootstrap);
            self.hosts.push(Host::new(node, incarnation, disk));
            let at = Instant(self.random.below(self.context.plan.timeout_us()));
            self.context.queue.at(at, Event::Start { host: HostId(host) });
        }
        for (number, fault) in self.context.plan.faults.clone().iter().enumerate() {
            self.context.queue.at(fault.at, Event::Fault(number));
        }
        for load in [Load::Write, Load::Read, Load::Membership, Load::Transfer, Load::Upkeep, Load::Workload] {
            self.schedule_load(load);
        }
        self.context.queue.at(Instant(0) + self.context.plan.safety, Event::Poll);
    }

    pub(crate) fn new_incarnation(&mut self) -> Incarnation {
        Incarnation((u128::from(self.random.next()) << 64) | u128::from(self.random.next()))
    }
}

/// What a host says of itself when it is admitted.
pub(crate) fn member(host: HostId, incarnation: Incarnation, max_version: u32) -> Member {
    Member {
        incarnation,
        name: format!("host-{}", host.0),
        peer_address: format!("host-{}:2380", host.0),
        client_addresses: vec![format!("host-{}:2379", host.0)],
        max_version,
    }
}

fn bootstrap_membership(nodes: &[NodeId], incarnations: &[Incarnation]) -> Membership {
    let members =
        nodes.iter().zip(incarnations).enumerate().map(|(host, (&node, &it))| (node, member(HostId(host), it, 1)));
    Membership {
        voters: nodes.iter().copied().collect(),
        members: members.collect(),
        cluster_version: 1,
        ..Membership::default()
    }
}
