//! Reads in their three modes: what is granted, when, and what the client is told.

use std::time::Duration;

use bytes::Bytes;
use quorate_node::{AdminOperation, Answer, ClientOp, Consistency, Input, NodeError, OnStale, ReadGrant, ReadOptions};
use quorate_raft::{Body, LogIndex, NodeId};
use quorate_wire::peer::PeerMessage;

use crate::cluster::{Cluster, ELECTION, node_id, put};

fn granted(cluster: &Cluster, request: quorate_raft::RequestId) -> ReadGrant {
    match cluster.answer(request) {
        Answer::ReadAt(grant) => *grant,
        other => panic!("not granted: {other:?}"),
    }
}

fn stale(max_ms: u64, on_stale: OnStale) -> ClientOp {
    ClientOp::Read(ReadOptions {
        consistency: Consistency::Stale,
        max_staleness: Some(Duration::from_millis(max_ms)),
        on_stale,
        min_revision: None,
    })
}

fn is_read_index(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::Raft(message) if matches!(message.body, Body::ReadIndex { .. }))
}

fn is_read_answer(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::Raft(message) if matches!(message.body, Body::ReadIndexReply { .. }))
}

#[test]
fn a_default_read_on_the_leader_needs_no_message_and_carries_a_fence() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let request = cluster.read(1, Consistency::Default);
    let grant = granted(&cluster, request);
    assert!(cluster.wire.is_empty(), "nobody was asked");
    assert_eq!(grant.effective, Consistency::Default);
    assert!(grant.known_leader);
    assert_eq!(grant.staleness, Some(Duration::ZERO));
    let lease = cluster.peer(1).lease;
    assert!(grant.fence.expect("a lease read").holds(lease, cluster.now));
}

#[test]
fn a_lease_that_ran_out_between_grant_and_check_voids_the_read() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let request = cluster.read(1, Consistency::Default);
    let fence = granted(&cluster, request).fence.expect("a lease read");
    let lease = cluster.peer(1).lease;
    assert!(!fence.holds(lease, cluster.now + ELECTION), "the process slept between the two");
}

#[test]
fn a_lease_given_up_for_a_transfer_voids_the_read() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let request = cluster.read(1, Consistency::Default);
    let fence = granted(&cluster, request).fence.expect("a lease read");
    cluster.client(1, ClientOp::Admin(AdminOperation::TransferLeader { to: None }));
    let lease = cluster.peer(1).lease;
    assert!(!fence.holds(lease, cluster.now), "somebody else may lead at any moment");
}

#[test]
fn a_default_read_without_a_lease_becomes_a_consistent_one() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    // The process slept just as long as the lease lasts.
    cluster.now = cluster.peer(1).lease.expect("a lease").until;
    let request = cluster.read(1, Consistency::Default);
    assert!(!cluster.answers.contains_key(&request), "its word alone is worth nothing now");
    cluster.run();
    let grant = granted(&cluster, request);
    assert_eq!((grant.effective, grant.fence), (Consistency::Consistent, None));
}

#[test]
fn a_consistent_read_is_confirmed_by_a_quorum() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let request = cluster.read(1, Consistency::Consistent);
    assert!(!cluster.answers.contains_key(&request));
    cluster.run();
    let grant = granted(&cluster, request);
    assert_eq!((grant.effective, grant.fence), (Consistency::Consistent, None));
}

#[test]
fn followers_read_linearizably_at_the_leaders_index() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    for mode in [Consistency::Default, Consistency::Consistent] {
        cluster.peer(2).hold_applies = true;
        let write = cluster.write(1, put("k", "v"));
        cluster.run();
        let written = cluster.status(1).applied.index;
        assert!(matches!(cluster.answer(write), Answer::Written(_)));
        let request = cluster.read(2, mode);
        cluster.run();
        assert!(!cluster.answers.contains_key(&request), "node 2 has not applied the write");
        cluster.advance(ELECTION / 5);
        cluster.release(2);
        let grant = granted(&cluster, request);
        assert!(grant.index >= written);
        assert_eq!(grant.effective, mode);
    }
}

#[test]
fn waiting_reads_share_one_request_to_the_leader() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let read = ReadOptions::default();
    let inputs =
        (0..100).map(|n| Input::Client { request: quorate_raft::RequestId(5000 + n), op: ClientOp::Read(read) });
    cluster.inputs(node_id(2), inputs.collect());
    let asked = cluster.intercept(is_read_index);
    assert_eq!(asked.len(), 1);
    cluster.wire.extend(asked);
    cluster.run();
    for n in 0..100 {
        granted(&cluster, quorate_raft::RequestId(5000 + n));
    }
}

#[test]
fn a_lost_read_request_is_asked_again_under_another_id() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let request = cluster.read(2, Consistency::Consistent);
    let first = cluster.intercept(is_read_index);
    assert_eq!(first.len(), 1);
    // Every repetition is lost, too.
    let mut ids = std::collections::BTreeSet::new();
    let (from, to) = (node_id(2), node_id(1));
    cluster.cut.insert((to, from));
    for _ in 0..2 {
        cluster.now = cluster.now + ELECTION / 2;
        cluster.input(from, Input::Tick { jitter: ELECTION });
        for (_, _, bytes) in cluster.intercept(is_read_index) {
            ids.insert(bytes);
        }
    }
    assert_eq!(ids.len(), 2, "each round has an id of its own");
    assert!(!ids.contains(&first[0].2));
    cluster.cut.clear();
    cluster.advance(ELECTION * 3);
    granted(&cluster, request);
}

/// The leader answers what it was asked, and the answer stays under way.
fn held_read_answer(cluster: &mut Cluster) -> (NodeId, NodeId, Bytes) {
    for (from, to, bytes) in cluster.intercept(is_read_index) {
        cluster.deliver(from, to, bytes);
    }
    loop {
        if let Some(answer) = cluster.intercept(is_read_answer).pop() {
            return answer;
        }
        let (from, to, bytes) = cluster.wire.pop_front().expect("the leader asks its quorum first");
        cluster.deliver(from, to, bytes);
    }
}

#[test]
fn an_answer_to_an_earlier_run_confirms_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.read(2, Consistency::Consistent);
    // The answer is under way while the asker restarts and asks anew.
    let (from, to, answer) = held_read_answer(&mut cluster);
    cluster.restart(2);
    cluster.advance(ELECTION / 2);
    let request = cluster.read(2, Consistency::Consistent);
    drop(cluster.intercept(is_read_index));
    cluster.deliver(from, to, answer);
    assert!(!cluster.answers.contains_key(&request));
}

#[test]
fn an_answer_of_the_leader_before_grants_nothing_after_the_change() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let early = cluster.read(2, Consistency::Consistent);
    let (from, to, answer) = held_read_answer(&mut cluster);
    let to_third = AdminOperation::TransferLeader { to: Some(node_id(3)) };
    cluster.client(1, ClientOp::Admin(to_third));
    // What node 2 asks the next leader is lost: only the old answer could grant anything.
    while cluster.leader() != Some(node_id(3)) || cluster.status(2).raft.leader != Some(node_id(3)) {
        let (from, to, bytes) = cluster.wire.pop_front().expect("a transfer needs no waiting");
        cluster.deliver(from, to, bytes);
        drop(cluster.intercept(is_read_index));
    }
    let write = cluster.write(3, put("k", "v"));
    cluster.run();
    assert!(matches!(cluster.answer(write), Answer::Written(_)));
    let late = cluster.read(2, Consistency::Consistent);
    drop(cluster.intercept(is_read_index));
    cluster.deliver(from, to, answer);
    assert!(!cluster.answers.contains_key(&early), "it was asked again when the leader changed");
    assert!(!cluster.answers.contains_key(&late), "it was asked after a write that the old leader knows nothing of");
    cluster.advance(ELECTION * 2);
    let written = cluster.status(3).applied.index;
    for request in [early, late] {
        assert!(granted(&cluster, request).index >= written, "the next leader answers what was lost");
    }
}

#[test]
fn a_stale_read_is_served_without_a_leader() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.write(1, put("k", "v"));
    cluster.advance(ELECTION / 2);
    cluster.isolate(2, true);
    cluster.advance(ELECTION * 5);
    let request = cluster.read(2, Consistency::Stale);
    let grant = granted(&cluster, request);
    assert_eq!(grant.effective, Consistency::Stale);
    assert!(!grant.known_leader);
    assert!(grant.staleness.expect("it was in contact once") >= ELECTION * 4);
}

#[test]
fn a_node_without_state_refuses_stale_reads() {
    let mut cluster = Cluster::new(3);
    cluster.isolate(3, true);
    let request = cluster.read(3, Consistency::Stale);
    assert_eq!(*cluster.answer(request), Answer::Refused(NodeError::NoState));
}

#[test]
fn a_restarted_node_serves_stale_reads_from_its_disk() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.write(1, put("k", "v"));
    cluster.advance(ELECTION);
    cluster.isolate(3, true);
    cluster.restart(3);
    let request = cluster.read(3, Consistency::Stale);
    let grant = granted(&cluster, request);
    assert_eq!((grant.staleness, grant.known_leader), (None, false));
}

#[test]
fn past_its_bound_a_stale_read_is_refused_with_the_figure() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.write(1, put("k", "v"));
    cluster.advance(ELECTION);
    let fresh = cluster.client(2, stale(500, OnStale::Refuse));
    assert!(granted(&cluster, fresh).staleness.expect("measured") <= Duration::from_millis(500));
    cluster.isolate(2, true);
    cluster.advance(ELECTION * 2);
    let request = cluster.client(2, stale(500, OnStale::Refuse));
    match cluster.answer(request) {
        Answer::Refused(NodeError::StaleRead { staleness: Some(staleness), max }) => {
            assert!(*staleness > *max);
            assert_eq!(*max, Duration::from_millis(500));
        }
        other => panic!("not refused as stale: {other:?}"),
    }
}

#[test]
fn a_bound_is_on_what_is_applied_not_on_contact() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.peer(2).hold_applies = true;
    cluster.write(1, put("k", "v"));
    // In contact all the time, and stuck.
    cluster.advance(ELECTION * 2);
    let request = cluster.client(2, stale(500, OnStale::Refuse));
    assert!(matches!(cluster.answer(request), Answer::Refused(NodeError::StaleRead { .. })));
}

#[test]
fn past_its_bound_a_stale_read_waits_if_asked_to() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.write(1, put("k", "v"));
    cluster.advance(ELECTION);
    cluster.isolate(2, true);
    cluster.advance(ELECTION * 2);
    let request = cluster.client(2, stale(500, OnStale::Wait));
    assert!(!cluster.answers.contains_key(&request));
    cluster.isolate(2, false);
    cluster.advance(ELECTION * 3);
    assert_eq!(granted(&cluster, request).effective, Consistency::Stale);
}

#[test]
fn past_its_bound_a_stale_read_asks_the_leader_if_asked_to() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.peer(2).hold_applies = true;
    cluster.write(1, put("k", "v"));
    cluster.advance(ELECTION * 2);
    let request = cluster.client(2, stale(500, OnStale::Forward));
    cluster.run();
    cluster.release(2);
    cluster.advance(ELECTION / 2);
    assert_eq!(granted(&cluster, request).effective, Consistency::Default);
}

#[test]
fn a_read_waits_for_the_revision_it_names() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.peer(2).hold_applies = true;
    let write = cluster.write(1, put("k", "v"));
    cluster.run();
    let revision = cluster.outcome(write).revision.0;
    for consistency in [Consistency::Stale, Consistency::Default, Consistency::Consistent] {
        let options = ReadOptions { consistency, min_revision: Some(revision + 1), ..ReadOptions::default() };
        let request = cluster.client(2, ClientOp::Read(options));
        cluster.run();
        assert!(!cluster.answers.contains_key(&request));
    }
    cluster.release(2);
    cluster.advance(ELECTION / 4);
    assert_eq!(cluster.answers.len(), 1, "the revision is not there yet");
    cluster.write(1, put("k", "w"));
    cluster.advance(ELECTION / 4);
    assert_eq!(cluster.answers.len(), 5);
}

#[test]
fn linearizable_reads_wait_for_a_leader_and_then_fail_clearly() {
    let mut cluster = Cluster::new(3);
    let early = cluster.read(2, Consistency::Default);
    cluster.elect();
    granted(&cluster, early);
    for number in 1..=3 {
        cluster.isolate(number, true);
    }
    cluster.advance(ELECTION * 3);
    let request = cluster.read(2, Consistency::Consistent);
    cluster.advance(ELECTION * 8);
    assert_eq!(*cluster.answer(request), Answer::Refused(NodeError::NoLeader));
}

#[test]
fn a_lease_read_that_waits_for_the_state_machine_is_not_outrun_by_the_log() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.peer(1).hold_applies = true;
    cluster.write(1, put("a", "v"));
    cluster.run();
    let request = cluster.read(1, Consistency::Default);
    let asked_at = cluster.status(1).raft.commit;
    cluster.write(1, put("b", "v"));
    cluster.run();
    let first = cluster.peer(1).held.pop_front().expect("the first batch");
    cluster.input(node_id(1), first);
    let grant = granted(&cluster, request);
    assert_eq!(grant.index, asked_at);
    assert!(cluster.status(1).raft.commit > LogIndex(asked_at.0));
    assert!(grant.fence.is_some());
}

#[test]
fn a_node_alone_reads_under_a_lease_that_never_ends() {
    let mut cluster = Cluster::new(1);
    cluster.advance(ELECTION);
    let request = cluster.read(1, Consistency::Default);
    let fence = granted(&cluster, request).fence.expect("a lease read");
    let lease = cluster.peer(1).lease;
    assert!(fence.holds(lease, cluster.now + ELECTION * 100));
}
