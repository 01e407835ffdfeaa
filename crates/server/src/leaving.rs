//! How a removed node parts from its clients: it closes their connections, after the requests in flight, so that they find
//! a member by themselves, and what they still send here is passed on for a while.

use std::sync::Arc;

use quorate_raft::{Member, NodeId};
use quorate_wire::peer::NodeState;
use tokio::sync::watch;

use crate::listen::PortOrder;
use crate::relay::{RELAY_TIME, Relay};
use crate::runtime::{RaftView, Replica, StatusChange};

/// Parts from the clients each time the node behind `replica` is removed; until the replica ends.
pub(crate) async fn take_leave_when_removed(
    replica: Replica,
    orders: Arc<watch::Sender<PortOrder>>,
    relay: Arc<Relay>,
) {
    let mut changes = replica.watch_status();
    let mut times = 0;
    // From the moment its removal is in force, before it is final: requests that come in between would be cut off.
    while changes.wait_for(has_left).await.is_ok() {
        times += 1;
        relay.open(&client_addresses_of_members(&replica));
        replica.end_watches(false);
        orders.send_replace(PortOrder::Reconnect(times));
        let follow = follow_members(&mut changes, &replica, &relay);
        // A reset may make a member of it again.
        let back = match tokio::time::timeout(RELAY_TIME, follow).await {
            Ok(back) => back,
            Err(_) => {
                relay.end();
                changes.wait_for(|change| !has_left(change)).await.is_ok()
            }
        };
        if !back {
            return;
        }
        relay.serve_here();
    }
}

/// Keeps the relay up with what the node still learns about who is a member, until it is one itself; false if the replica
/// ended.
async fn follow_members(changes: &mut watch::Receiver<StatusChange>, replica: &Replica, relay: &Relay) -> bool {
    loop {
        if changes.changed().await.is_err() {
            return false;
        }
        if !has_left(&changes.borrow_and_update()) {
            return true;
        }
        relay.open(&client_addresses_of_members(replica));
    }
}

fn has_left(change: &StatusChange) -> bool {
    // A node that joins reads older configurations on its way, which do not list it yet.
    (change.state == NodeState::Member && change.leaving) || change.state == NodeState::Removed
}

/// Where those can be reached who are members after this node.
fn client_addresses_of_members(replica: &Replica) -> Vec<String> {
    let status = replica.status();
    let (Some(raft), Some(identity)) = (status.raft, status.identity) else { return Vec::new() };
    let staying = members_without(identity.node_id, &raft);
    staying.flat_map(|(_, member)| member.client_addresses.iter().cloned()).collect()
}

fn members_without(own: NodeId, raft: &RaftView) -> impl Iterator<Item = (&NodeId, &Member)> {
    let membership = &raft.effective.1;
    // A node can be told of its removal before it has the configuration that removes it. Who leaves together with it, it
    // does not know then; its leader stays.
    let outdated = membership.voters.contains(&own) || membership.learners.contains(&own);
    membership.members.iter().filter(move |(id, _)| match outdated {
        true => raft.leader == Some(**id) && **id != own,
        false => membership.voters.contains(id) || membership.learners.contains(id),
    })
}
