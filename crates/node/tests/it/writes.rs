//! A write takes effect once, wherever it entered, whatever is lost, repeated or deposed on its way.

use quorate_node::{Answer, Input, NodeError};
use quorate_raft::RequestId;
use quorate_wire::peer::PeerMessage;

use crate::cluster::{Cluster, ELECTION, node_id, put};

fn is_forward(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::Forward(_))
}

fn is_raft(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::Raft(_))
}

#[test]
fn a_write_through_any_node_is_answered_when_that_node_applied_it() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    for number in 1..=3 {
        let request = cluster.write(number, put(&format!("k{number}"), "v"));
        cluster.advance(ELECTION / 4);
        assert_eq!(cluster.outcome(request).revision.0, 1 + i64::from(number));
    }
    for number in 1..=3 {
        assert_eq!(cluster.revision(number), 4);
    }
}

#[test]
fn writes_of_one_batch_share_one_message_to_the_leader() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let inputs = (0..50).map(|n| Input::Client {
        request: quorate_raft::RequestId(1000 + n),
        op: quorate_node::ClientOp::Write { actor: quorate_kv::Actor::Anonymous, command: put(&format!("k{n}"), "v") },
    });
    cluster.inputs(node_id(2), inputs.collect());
    assert_eq!(cluster.intercept(is_forward).len(), 1);
}

#[test]
fn a_repeated_forward_takes_effect_once() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let request = cluster.write(2, put("k", "v"));
    let forwards = cluster.intercept(is_forward);
    assert_eq!(forwards.len(), 1);
    for _ in 0..3 {
        cluster.wire.extend(forwards.clone());
    }
    cluster.advance(ELECTION / 4);
    assert_eq!(cluster.times_applied(1, "k"), 1);
    assert_eq!(cluster.outcome(request).revision.0, 2);
    // Long after it was answered, too.
    cluster.wire.extend(forwards);
    cluster.advance(ELECTION / 4);
    assert_eq!(cluster.times_applied(1, "k"), 1);
}

/// A write through node 2, whose way to the leader, node 1, it did not survive.
fn with_a_lost_forward() -> (Cluster, RequestId) {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let request = cluster.write(2, put("k", "v"));
    assert_eq!(cluster.intercept(is_forward).len(), 1);
    (cluster, request)
}

#[test]
fn a_lost_forward_is_sent_again_in_the_same_term() {
    let (mut cluster, request) = with_a_lost_forward();
    cluster.advance(ELECTION * 2);
    assert_eq!(cluster.outcome(request).revision.0, 2);
    assert_eq!(cluster.times_applied(1, "k"), 1);
}

#[test]
fn a_broken_stream_to_the_leader_repeats_the_forward_at_once() {
    let (mut cluster, request) = with_a_lost_forward();
    cluster.input(node_id(2), Input::PeerLost { id: node_id(1) });
    cluster.run();
    cluster.advance(ELECTION / 4);
    assert_eq!(cluster.outcome(request).revision.0, 2);
}

#[test]
fn messages_dropped_for_want_of_room_are_not_sent_again_at_once() {
    // They would be dropped again, and sent again, for as long as the room lasts.
    let (mut cluster, request) = with_a_lost_forward();
    cluster.input(node_id(2), Input::PeerOverrun { id: node_id(1) });
    assert_eq!(cluster.intercept(is_forward).len(), 0);
    cluster.advance(ELECTION * 2);
    assert_eq!(cluster.outcome(request).revision.0, 2);
}

#[test]
fn a_write_that_the_deposed_leader_never_got_is_given_to_the_next_one() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.isolate(1, true);
    let request = cluster.write(2, put("k", "v"));
    cluster.advance(ELECTION * 4);
    assert_ne!(cluster.leader(), Some(node_id(1)));
    assert_eq!(cluster.outcome(request).revision.0, 2);
    cluster.isolate(1, false);
    cluster.advance(ELECTION * 2);
    assert_eq!(cluster.times_applied(1, "k"), 1);
}

#[test]
fn a_write_that_survives_in_the_next_leaders_log_is_not_given_to_it_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    // The leader appends the forwarded write and replicates it to node 3 alone, then falls silent; its origin sees nothing.
    cluster.cut.insert((node_id(1), node_id(2)));
    let request = cluster.write(2, put("k", "v"));
    let forwards = cluster.intercept(is_forward);
    cluster.wire.extend(forwards);
    // Nobody tells the leader that node 3 has it, so it cannot commit.
    cluster.cut.insert((node_id(3), node_id(1)));
    cluster.run();
    cluster.isolate(1, true);
    cluster.advance(ELECTION * 4);
    assert_eq!(cluster.leader(), Some(node_id(3)), "only node 3 holds the entry");
    assert_eq!(cluster.outcome(request).revision.0, 2);
    assert_eq!(cluster.times_applied(2, "k"), 1);
    assert_eq!(cluster.times_applied(3, "k"), 1);
}

#[test]
fn a_late_forward_is_not_accepted_in_a_later_term() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let request = cluster.write(2, put("k", "v"));
    let late = cluster.intercept(is_forward);
    cluster.isolate(1, true);
    cluster.advance(ELECTION * 4);
    let leader = cluster.leader().expect("a majority is left");
    assert_eq!(cluster.outcome(request).revision.0, 2);
    for (from, _, bytes) in late {
        if from != leader {
            cluster.deliver(from, leader, bytes);
        }
    }
    cluster.isolate(1, false);
    cluster.advance(ELECTION * 3);
    for number in 1..=3 {
        assert_eq!(cluster.times_applied(number, "k"), 1);
    }
}

#[test]
fn a_leaders_own_write_that_is_rolled_back_is_proposed_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.isolate(1, true);
    let request = cluster.write(1, put("k", "v"));
    cluster.advance(ELECTION * 4);
    assert_ne!(cluster.leader(), Some(node_id(1)));
    assert!(!cluster.answers.contains_key(&request), "it cannot know yet");
    cluster.isolate(1, false);
    cluster.advance(ELECTION * 2);
    assert_eq!(cluster.outcome(request).revision.0, 2);
    assert_eq!(cluster.times_applied(2, "k"), 1);
}

#[test]
fn a_write_without_a_leader_waits_and_then_fails_clearly() {
    let mut cluster = Cluster::new(3);
    let early = cluster.write(2, put("early", "v"));
    cluster.elect();
    assert_eq!(cluster.outcome(early).revision.0, 2, "an election refuses nobody");
    cluster.isolate(1, true);
    cluster.isolate(2, true);
    cluster.isolate(3, true);
    cluster.advance(ELECTION * 3);
    let request = cluster.write(2, put("late", "v"));
    cluster.advance(ELECTION * 8);
    assert_eq!(*cluster.answer(request), Answer::Refused(NodeError::NoLeader));
}

#[test]
fn a_write_lost_with_its_leader_times_out_and_says_why() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let request = cluster.write(2, put("k", "v"));
    drop(cluster.intercept(is_forward));
    cluster.isolate(2, true);
    cluster.advance(ELECTION * 8);
    assert_eq!(*cluster.answer(request), Answer::Refused(NodeError::TimeoutLeaderFailure));
}

#[test]
fn only_a_snapshot_over_it_makes_an_outcome_unknown() {
    let mut cluster = Cluster::with_config(3, |config| {
        config.retention.keep_entries = 0;
        config.retention.step_entries = 1;
    });
    cluster.elect();
    // Node 3's write is appended and committed, while node 3 sees none of it and the log is cut.
    let request = cluster.write(3, put("mine", "v"));
    let forwards = cluster.intercept(is_forward);
    for (from, to, bytes) in forwards {
        cluster.deliver(from, to, bytes);
    }
    cluster.isolate(3, true);
    cluster.run();
    for n in 0..5 {
        cluster.write(1, put(&format!("k{n}"), "v"));
        cluster.run();
    }
    assert!(!cluster.answers.contains_key(&request));
    // Long enough that the leader no longer waits for node 3, short enough that the request does not time out.
    cluster.advance(ELECTION * 3);
    for number in [1, 2] {
        let durable_applied = cluster.status(number).applied.index;
        cluster.input(node_id(number), Input::CheckpointDone { durable_applied });
    }
    assert!(cluster.log_first(1).0 > 5, "the log was cut");
    cluster.isolate(3, false);
    cluster.advance(ELECTION * 2);
    assert_eq!(*cluster.answer(request), Answer::Refused(NodeError::OutcomeUnknown));
    assert_eq!(cluster.times_applied(3, "mine"), 1);
}

#[test]
fn a_run_does_not_answer_for_the_run_before_it() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let before = cluster.write(2, put("before", "v"));
    let forwards = cluster.intercept(is_forward);
    cluster.restart(2);
    for (from, to, bytes) in forwards {
        cluster.deliver(from, to, bytes);
    }
    cluster.advance(ELECTION / 2);
    let after = cluster.write(2, put("after", "v"));
    cluster.advance(ELECTION / 2);
    assert!(!cluster.answers.contains_key(&before), "nobody is left to answer");
    assert_eq!(cluster.outcome(after).revision.0, 3, "both took effect, each once");
}

#[test]
fn a_cancelled_write_is_never_answered() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let request = cluster.write(2, put("k", "v"));
    cluster.input(node_id(2), Input::Cancel { request });
    cluster.advance(ELECTION * 8);
    assert!(!cluster.answers.contains_key(&request));
}

#[test]
fn acknowledgements_are_held_until_the_disk_has_what_they_promise() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.peer(2).hold_writes = true;
    cluster.peer(3).hold_writes = true;
    let request = cluster.write(1, put("k", "v"));
    cluster.run();
    assert!(!cluster.answers.contains_key(&request), "one disk of three is no quorum");
    assert_eq!(cluster.intercept(is_raft).len(), 0);
    cluster.release(2);
    cluster.run();
    assert_eq!(cluster.outcome(request).revision.0, 2);
}
