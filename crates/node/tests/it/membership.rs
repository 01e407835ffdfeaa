//! Changes of the cluster: asked of any node, carried to the leader, seen by everybody.

use quorate_node::{Answer, ClientOp, NodeError, NodeState};
use quorate_raft::{LogIndex, Membership};
use quorate_wire::peer::{AdminOperation, PeerMessage};

use crate::cluster::{Cluster, ELECTION, node_id, put};

fn transfer(to: Option<u8>) -> ClientOp {
    ClientOp::Admin(AdminOperation::TransferLeader { to: to.map(node_id) })
}

fn is_admin(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::Admin(_))
}

#[test]
fn voters_are_set_through_a_follower() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.start(4, Membership::default());
    cluster.start(5, Membership::default());
    let request = cluster.set_voters(2, &[1, 2, 3, 4, 5]);
    cluster.advance(ELECTION * 3);
    assert!(matches!(cluster.answer(request), Answer::Accepted { .. }), "{:?}", cluster.answer(request));
    for number in 1..=5 {
        let status = cluster.status(number);
        assert_eq!(status.raft.committed_membership.voters.len(), 5);
        assert_eq!(status.state, NodeState::Member);
    }
}

#[test]
fn a_lost_admin_request_is_asked_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let request = cluster.set_voters(2, &[1, 2, 3]);
    assert_eq!(cluster.intercept(is_admin).len(), 1);
    cluster.advance(ELECTION * 2);
    assert!(matches!(cluster.answer(request), Answer::Accepted { .. }));
}

#[test]
fn a_stale_configuration_is_refused_with_the_current_one() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let target = vec![quorate_raft::VoterTarget::Existing(node_id(1))];
    let operation = AdminOperation::SetVoters { target, expected: Some(LogIndex(1)) };
    let request = cluster.client(3, ClientOp::Admin(operation));
    cluster.run();
    assert!(matches!(cluster.answer(request), Answer::Refused(NodeError::StaleConfig { .. })));
}

#[test]
fn leadership_is_transferred_through_a_follower_once() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let request = cluster.client(3, transfer(Some(2)));
    cluster.advance(ELECTION);
    assert_eq!(*cluster.answer(request), Answer::Transferred);
    assert_eq!(cluster.leader(), Some(node_id(2)));
    let request = cluster.client(3, transfer(None));
    cluster.advance(ELECTION);
    assert_eq!(*cluster.answer(request), Answer::Transferred);
    let leader = cluster.leader();
    cluster.advance(ELECTION * 3);
    assert_eq!(cluster.leader(), leader, "the next leader does not transfer once more");
}

#[test]
fn a_transfer_refuses_no_write() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.client(1, transfer(Some(3)));
    let requests: Vec<_> = (1..=3).map(|number| cluster.write(number, put(&format!("k{number}"), "v"))).collect();
    cluster.advance(ELECTION * 2);
    assert_eq!(cluster.leader(), Some(node_id(3)));
    for request in requests {
        assert!(matches!(cluster.answer(request), Answer::Written(_)));
    }
    assert_eq!(cluster.revision(2), 4);
}

#[test]
fn an_unknown_target_of_a_transfer_is_refused() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let request = cluster.client(2, transfer(Some(9)));
    cluster.run();
    assert_eq!(*cluster.answer(request), Answer::Refused(NodeError::UnknownMember(node_id(9))));
}

#[test]
fn a_removed_node_learns_it_and_serves_no_more() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let request = cluster.set_voters(1, &[1, 2]);
    cluster.advance(ELECTION * 3);
    assert!(matches!(cluster.answer(request), Answer::Accepted { .. }));
    assert_eq!(cluster.peer(3).states, [NodeState::Removed]);
    let read = cluster.read(3, quorate_node::Consistency::Consistent);
    assert_eq!(*cluster.answer(read), Answer::Refused(NodeError::NodeRemoved));
    let term = cluster.status(1).raft.term;
    cluster.advance(ELECTION * 10);
    assert_eq!(cluster.status(1).raft.term, term, "it disturbs nobody");
}

#[test]
fn a_node_removed_behind_its_back_is_told_when_it_returns() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.isolate(3, true);
    cluster.set_voters(1, &[1, 2]);
    cluster.advance(ELECTION * 3);
    assert_eq!(cluster.peer(3).states, []);
    cluster.isolate(3, false);
    cluster.advance(ELECTION * 5);
    assert_eq!(cluster.peer(3).states, [NodeState::Removed]);
}

#[test]
fn a_write_under_way_on_a_node_that_leaves_is_answered() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let write = cluster.write(3, put("k", "v"));
    let forwards = cluster.intercept(|message| matches!(message, PeerMessage::Forward(_)));
    cluster.set_voters(1, &[1, 2]);
    cluster.run();
    assert_eq!(cluster.peer(3).states, [NodeState::Removed]);
    // The forward arrives when its origin no longer sees the log.
    cluster.wire.extend(forwards);
    cluster.advance(ELECTION * 2);
    assert_eq!(cluster.outcome(write).revision.0, 2);
    assert_eq!(cluster.times_applied(1, "k"), 1);
}

#[test]
fn changed_addresses_are_announced_through_the_log() {
    let mut cluster = Cluster::new(3);
    let mut moved = crate::cluster::member(2);
    moved.peer_address = "elsewhere:2380".to_owned();
    // The configuration knows node 2 under another address than it has now.
    let mut membership = cluster.status(1).raft.membership.as_ref().clone();
    membership.members.insert(node_id(2), moved);
    for number in 1..=3 {
        cluster.start(number, membership.clone());
    }
    cluster.elect();
    cluster.advance(ELECTION * 3);
    for number in 1..=3 {
        let status = cluster.status(number);
        assert_eq!(status.raft.committed_membership.members[&node_id(2)].peer_address, "n2:2380");
    }
}

#[test]
fn the_cluster_version_rises_when_every_member_supports_it() {
    let mut cluster = Cluster::new(3);
    let mut membership = cluster.status(1).raft.membership.as_ref().clone();
    membership.cluster_version = 0;
    for number in 1..=3 {
        cluster.start(number, membership.clone());
    }
    cluster.elect();
    cluster.advance(ELECTION * 3);
    assert_eq!(cluster.status(3).raft.committed_membership.cluster_version, 1);
}
