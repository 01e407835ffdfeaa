//! The load: when and at which host clients write and read, voter sets change and leadership moves.

use std::collections::BTreeSet;

use quorate_raft::{Member, MemberChange, NodeId, Status, VoterTarget};

use crate::clock::Instant;
use crate::context::{Event, Load};
use crate::coverage::Reached;
use crate::network::HostId;
use crate::phase::Phase;
use crate::tier::{Ask, Tier};
use crate::world::{World, member};

/// How long a voter set that was asked for may still take effect, in election timeouts.
const ASKED_FOR_TIMEOUTS: u64 = 20;

impl<T: Tier> World<T> {
    /// Plans the next piece of load of one kind.
    pub(crate) fn schedule_load(&mut self, load: Load) {
        let plan = &self.context.plan.load;
        let mean = match load {
            Load::Write => plan.write_us,
            Load::Read => plan.read_us,
            Load::Membership => plan.membership_us,
            Load::Transfer => plan.transfer_us,
            Load::Upkeep => plan.upkeep_us,
            Load::Workload => plan.workload_us,
        };
        if mean > 0 {
            let at = Instant(self.context.now().0 + 1 + self.random.exponential(mean));
            self.context.queue.at(at, Event::Load(load));
        }
    }

    /// Does one piece of load and plans the next.
    pub(crate) fn load(&mut self, load: Load) {
        if self.phase != Phase::Safety {
            return;
        }
        self.schedule_load(load);
        self.look_at_leader();
        match load {
            Load::Write => {
                if let Some(host) = self.some_host(800_000) {
                    self.operations += 1;
                    self.ask(host, Ask::Write);
                }
            }
            Load::Read => {
                if let Some(host) = self.some_host(500_000) {
                    self.operations += 1;
                    self.ask(host, Ask::Read);
                }
            }
            Load::Membership => {
                match self.random.below(8) {
                    0..=3 => self.change_voters(),
                    4 => self.bind_members(),
                    _ => self.change_member(),
                }
                if self.random.chance(200_000) {
                    // A second administrator, who knows nothing of the first.
                    self.change_voters();
                }
            }
            Load::Upkeep => self.upkeep(),
            Load::Workload => {
                if let Some(host) = self.some_host(300_000) {
                    self.ask(host, Ask::Workload);
                }
            }
            Load::Transfer => {
                let Some((leader, status)) = self.leader() else { return };
                let to = self.random.pick(&status.membership.members.keys().copied().collect::<Vec<_>>()).copied();
                let to = if self.random.coin() { to } else { None };
                self.ask(leader, Ask::Transfer { to });
                if let Some(to) = to.filter(|_| self.random.chance(250_000)) {
                    self.cut_off_soon(to);
                }
            }
        }
    }

    /// A running host: the leader's with this chance per million, else any.
    pub(crate) fn some_host(&mut self, leader: u32) -> Option<HostId> {
        let now = self.context.now();
        let reached = |host: &HostId| self.hosts[host.0].clients_cut_until <= now;
        let leading = self.leading_host().filter(reached);
        let running: Vec<HostId> = self.running().into_iter().filter(reached).collect();
        if self.random.chance(leader)
            && let Some(host) = leading
        {
            return Some(host);
        }
        self.random.pick(&running).copied()
    }

    /// A node that has just been told to campaign raises the term and is heard by nobody.
    fn cut_off_soon(&mut self, node: NodeId) {
        let Some(&host) = self.context.cluster.directory.get(&node) else { return };
        self.context.coverage.hit(Reached::SuccessorCutOff);
        let network = &self.context.plan.network;
        let round_trip = 2 * (network.delay_min_us + network.delay_mean_us) + self.context.plan.disk.write_mean_us;
        let at = Instant(self.context.now().0 + self.random.below(round_trip + 1));
        self.context.queue.at(at, Event::CutOff { host });
    }

    /// Something small that an administrator or the network does.
    fn upkeep(&mut self) {
        let Some(host) = self.some_host(500_000) else { return };
        let members: Vec<(NodeId, Member)> = self.leader().map_or_else(Vec::new, |(_, status)| {
            status.membership.members.iter().map(|(id, member)| (*id, member.clone())).collect()
        });
        let Some((id, member)) = self.random.pick(&members).cloned() else { return };
        match self.random.below(5) {
            0 => {
                let client_addresses = vec![format!("host-{}:{}", host.0, self.random.between(2379, 2389))];
                self.context.coverage.hit(Reached::MemberUpdated);
                self.ask(host, Ask::UpdateMember { id, member: Member { client_addresses, ..member } });
            }
            1 => {
                self.context.coverage.hit(Reached::VersionAsked);
                self.ask(host, Ask::RaiseVersion);
            }
            2 => {
                let yes = self.random.coin();
                self.disturb(host);
                self.ask(host, Ask::StopCampaigning { yes });
            }
            _ => {
                if id != self.hosts[host.0].node {
                    self.context.coverage.hit(Reached::StreamLost);
                    if let Some(&other) = self.context.cluster.directory.get(&id)
                        && self.random.coin()
                    {
                        self.context.network.reset(host, other, self.context.now());
                    }
                    self.ask(host, Ask::PeerLost { id });
                }
            }
        }
    }

    /// One member comes, goes or rises.
    fn change_member(&mut self) {
        let Some((leader, status)) = self.leader() else { return };
        let membership = &status.membership;
        let now = self.context.now();
        let wanted: Vec<NodeId> = membership.target.as_ref().unwrap_or(&membership.voters).iter().copied().collect();
        let change = match self.random.below(4) {
            0 => {
                let ids: Vec<NodeId> = membership.members.keys().copied().collect();
                let Some(&id) = self.random.pick(&ids) else { return };
                let left: Vec<NodeId> = wanted.into_iter().filter(|node| *node != id).collect();
                let dead = left.iter().filter(|node| self.dead.contains(node)).count();
                if dead * 2 >= left.len() {
                    return;
                }
                let lately = self.asked_for_since();
                self.removals.retain(|(at, _)| *at >= lately);
                self.removals.push((now, id));
                self.asked.push((now, left));
                self.context.coverage.hit(Reached::MemberRemoved);
                MemberChange::Remove { id }
            }
            1 => {
                let ids: Vec<NodeId> = membership.standing.iter().copied().collect();
                let Some(&id) = self.random.pick(&ids) else { return };
                if self.dead.contains(&id) {
                    return;
                }
                self.asked.push((now, wanted.into_iter().chain([id]).collect()));
                self.context.coverage.hit(Reached::MemberPromoted);
                MemberChange::Promote { id }
            }
            _ => {
                let free = |host: &HostId| !membership.members.contains_key(&self.hosts[host.0].node);
                let free: Vec<HostId> = (0..self.hosts.len()).map(HostId).filter(free).collect();
                let Some(&host) = self.random.pick(&free) else { return };
                self.start_over_if_spent(host);
                let (id, peer_address) = (self.hosts[host.0].node, format!("host-{}:2380", host.0));
                self.context.coverage.hit(Reached::MemberAdded);
                MemberChange::Add { id, peer_address, rises: self.random.coin() }
            }
        };
        self.ask(leader, Ask::ChangeMember(change));
    }

    /// The leader finds the data directory at the address of a member that was added before, as `promises` of the server does.
    pub(crate) fn bind_members(&mut self) {
        let Some((leader, status)) = self.leader() else { return };
        let unbound = |host: &HostId| {
            let known = status.membership.members.get(&self.hosts[host.0].node);
            known.is_some_and(|member| !member.is_bound())
        };
        let Some(host) = self.running().into_iter().find(unbound) else { return };
        let (id, incarnation) = (self.hosts[host.0].node, self.hosts[host.0].incarnation);
        self.context.coverage.hit(Reached::MemberBound);
        let member = member(host, incarnation, self.context.versions[host.0]);
        self.ask(leader, Ask::UpdateMember { id, member });
    }

    fn change_voters(&mut self) {
        let Some((leader, status)) = self.leader() else { return };
        let size = *self.random.pick(&[1, 2, 3, 3, 3, 3, 4, 5, 5, 7]).expect("choices");
        let mut order: Vec<HostId> = (0..self.hosts.len()).map(HostId).collect();
        self.random.shuffle(&mut order);
        if self.random.chance(300_000) {
            // The leader is among those that leave.
            order.retain(|&host| host != leader);
        }
        order.truncate(size);
        if !order.contains(&leader) {
            self.context.coverage.hit(Reached::LeaderLeaves);
        }
        self.ask_voters(leader, &status, &order);
    }

    /// Asks the leader for a voter set that lives on these hosts.
    pub(crate) fn ask_voters(&mut self, leader: HostId, status: &Status, hosts: &[HostId]) {
        for &host in hosts {
            self.start_over_if_spent(host);
        }
        let mut target = Vec::new();
        let mut nodes = Vec::new();
        for &host in hosts {
            let it = &self.hosts[host.0];
            if status.membership.removed.contains(&it.node) {
                continue;
            }
            nodes.push(it.node);
            target.push(if status.membership.members.contains_key(&it.node) {
                VoterTarget::Existing(it.node)
            } else {
                VoterTarget::New { id: it.node, member: member(host, it.incarnation, self.context.versions[host.0]) }
            });
        }
        if target.is_empty() || !self.survivable(&nodes) {
            return;
        }
        let expected = match self.random.below(10) {
            0 => None,
            1 => Some(quorate_raft::LogIndex(status.membership_index.0.saturating_sub(1))),
            _ => Some(status.membership_index),
        };
        let lately = self.asked_for_since();
        self.asked.retain(|(at, _)| *at >= lately);
        self.asked.push((self.context.now(), nodes));
        self.context.coverage.hit(Reached::VotersAsked);
        self.ask(leader, Ask::SetVoters { target, expected });
    }

    /// A removed node never comes back under its id, nor does a disk that cannot be trusted any more: its host starts over. A
    /// removal that is not committed is none yet.
    fn start_over_if_spent(&mut self, host: HostId) {
        let it = &self.hosts[host.0];
        let (_, committed) = self.context.oracle.committed_membership();
        let removed = committed.is_some_and(|membership| membership.removed.contains(&it.node));
        if removed || (self.dead.contains(&it.node) && !it.abandoned) {
            self.wipe(host);
        }
    }

    /// What was asked for since then may still take effect.
    fn asked_for_since(&self) -> Instant {
        Instant(self.context.now().0.saturating_sub(self.context.plan.timeout_us() * ASKED_FOR_TIMEOUTS))
    }

    /// A set of live disks only.
    fn survivable(&self, nodes: &[NodeId]) -> bool {
        let distinct: BTreeSet<_> = nodes.iter().collect();
        distinct.len() == nodes.len() && nodes.iter().all(|node| !self.dead.contains(node))
    }
}
