//! Fences, stops, and the length of the log.

use quorate_kv::KvError;
use quorate_node::{Answer, ClientOp, Consistency, Input, NodeError, NodeState};
use quorate_raft::RoleKind;
use quorate_wire::peer::PeerMessage;

use crate::cluster::{Cluster, ELECTION, node_id, put};

fn diverging(liar: u8) -> Cluster {
    let mut cluster = Cluster::with_config(3, |config| config.digest_every_entries = 4);
    cluster.elect();
    cluster.peer(liar).lies = true;
    for n in 0..8 {
        cluster.write(1, put(&format!("k{n}"), "v"));
        cluster.advance(ELECTION / 4);
    }
    cluster
}

#[test]
fn a_divergent_follower_fences_itself() {
    let mut cluster = diverging(3);
    assert_eq!(cluster.peer(3).states, [NodeState::Fenced]);
    let request = cluster.read(3, Consistency::Stale);
    assert!(matches!(cluster.answer(request), Answer::Refused(NodeError::Fenced(_))));
    assert_eq!((cluster.peer(1).states.len(), cluster.peer(2).states.len()), (0, 0));
}

#[test]
fn a_write_in_flight_is_not_answered_from_a_state_that_is_fenced() {
    let mut cluster = Cluster::with_config(3, |config| config.digest_every_entries = 4);
    cluster.elect();
    cluster.peer(3).lies = true;
    let request = cluster.write(3, put("k", "v"));
    let forwarded = cluster.intercept(|message| matches!(message, PeerMessage::Forward(_)));
    for n in 0..8 {
        cluster.write(1, put(&format!("k{n}"), "v"));
        cluster.run();
    }
    assert_eq!(cluster.peer(3).states, [NodeState::Fenced]);
    cluster.wire.extend(forwarded);
    cluster.advance(ELECTION);
    assert_eq!(*cluster.answer(request), Answer::Refused(NodeError::OutcomeUnknown));
    assert_eq!(cluster.times_applied(1, "k"), 1);
}

#[test]
fn a_divergent_leader_fences_itself_and_hands_over() {
    let mut cluster = diverging(1);
    assert_eq!(cluster.peer(1).states, [NodeState::Fenced]);
    cluster.advance(ELECTION * 3);
    assert_ne!(cluster.leader(), Some(node_id(1)));
    let request = cluster.write(2, put("after", "v"));
    cluster.advance(ELECTION);
    assert!(matches!(cluster.answer(request), Answer::Written(_)));
}

#[test]
fn states_without_a_majority_raise_the_alarm_and_nothing_more_is_served() {
    let mut cluster = Cluster::with_config(2, |config| config.digest_every_entries = 4);
    cluster.elect();
    cluster.peer(2).lies = true;
    for n in 0..8 {
        cluster.write(1, put(&format!("k{n}"), "v"));
        cluster.advance(ELECTION / 4);
    }
    assert_eq!((cluster.peer(1).states.len(), cluster.peer(2).states.len()), (0, 0), "nobody knows who is right");
    let request = cluster.write(1, put("after", "v"));
    cluster.advance(ELECTION);
    let Answer::Written(outcome) = cluster.answer(request) else { panic!("no answer of the state machine") };
    assert_eq!(outcome.result, Err(KvError::Corrupt));
}

#[test]
fn a_node_that_is_refused_for_having_left_serves_nothing_and_campaigns_no_more() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.write(1, put("k", "v"));
    cluster.advance(ELECTION);
    cluster.isolate(3, true);
    cluster.input(node_id(3), Input::Refused { reason: "node 3 has left".to_string() });
    assert_eq!(cluster.peer(3).states, [NodeState::Removed]);
    let read = cluster.read(3, Consistency::Stale);
    assert_eq!(*cluster.answer(read), Answer::Refused(NodeError::NodeRemoved));
    let term = cluster.status(3).raft.term;
    cluster.advance(ELECTION * 5);
    assert_eq!((cluster.status(3).raft.role, cluster.status(3).raft.term), (RoleKind::Follower, term));
}

#[test]
fn equal_states_are_verified() {
    let mut cluster = Cluster::with_config(3, |config| config.digest_every_entries = 4);
    cluster.elect();
    for n in 0..8 {
        cluster.write(2, put(&format!("k{n}"), "v"));
        cluster.advance(ELECTION / 4);
    }
    assert!(cluster.status(1).verified.0 >= 8);
}

#[test]
fn nobody_but_the_leader_can_make_a_node_doubt_itself() {
    let mut cluster = Cluster::with_config(3, |config| config.digest_every_entries = 1);
    cluster.elect();
    cluster.write(1, put("k", "v"));
    cluster.advance(ELECTION);
    let index = cluster.status(2).applied.index;
    let message = PeerMessage::Diverged { index, digest: quorate_kv::Digest(1) };
    cluster.input(node_id(2), Input::Peer { from: node_id(3), message: message.clone() });
    assert_eq!(cluster.peer(2).states, []);
    cluster.input(node_id(2), Input::Peer { from: node_id(1), message });
    assert_eq!(cluster.peer(2).states, [NodeState::Fenced]);
}

#[test]
fn a_stopping_leader_hands_over_first() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let request = cluster.write(1, put("k", "v"));
    cluster.input(node_id(1), Input::Stop);
    assert!(!cluster.peer(1).stopped);
    cluster.advance(ELECTION);
    assert!(cluster.peer(1).stopped);
    assert_ne!(cluster.leader(), Some(node_id(1)));
    assert!(matches!(cluster.answer(request), Answer::Written(_)), "what was under way is finished");
    let late = cluster.write(1, put("late", "v"));
    assert_eq!(*cluster.answer(late), Answer::Refused(NodeError::Stopping));
}

#[test]
fn a_node_alone_stops_at_once() {
    let mut cluster = Cluster::new(1);
    cluster.advance(ELECTION);
    cluster.input(node_id(1), Input::Stop);
    assert!(cluster.peer(1).stopped);
}

#[test]
fn a_stop_without_a_quorum_ends_all_the_same() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.isolate(1, true);
    let request = cluster.write(1, put("k", "v"));
    cluster.input(node_id(1), Input::Stop);
    cluster.advance(ELECTION * 4);
    assert!(cluster.peer(1).stopped);
    assert!(matches!(cluster.answer(request), Answer::Refused(_)));
}

#[test]
fn the_log_is_cut_behind_what_is_durable_and_needed() {
    let mut cluster = Cluster::with_config(3, |config| {
        config.retention.keep_entries = 5;
        config.retention.step_entries = 5;
    });
    cluster.elect();
    for n in 0..40 {
        cluster.write(1, put(&format!("k{n}"), "v"));
        cluster.run();
    }
    assert_eq!(cluster.log_first(1).0, 1, "nothing is durable in the state file");
    let applied = cluster.status(1).applied.index;
    cluster.input(node_id(1), Input::CheckpointDone { durable_applied: quorate_raft::LogIndex(20) });
    assert_eq!(cluster.log_first(1).0, 21);
    cluster.advance(ELECTION);
    cluster.input(node_id(1), Input::CheckpointDone { durable_applied: applied });
    assert_eq!(cluster.log_first(1).0, applied.0 - 5 + 1);
}

#[test]
fn a_log_too_large_is_cut_whoever_needs_it() {
    let mut cluster = Cluster::with_config(3, |config| config.retention.max_log_bytes = 400_000);
    cluster.elect();
    for n in 0..20 {
        cluster.write(1, put(&format!("k{n}"), &"x".repeat(100_000)));
        cluster.advance(ELECTION / 10);
        let durable_applied = cluster.status(1).applied.index;
        cluster.input(node_id(1), Input::CheckpointDone { durable_applied });
    }
    let status = cluster.status(1);
    assert!(status.log_bytes <= 800_000, "{} bytes are kept", status.log_bytes);
    assert!(cluster.log_first(1).0 > 1);
}

#[test]
fn a_follower_without_log_gets_an_image() {
    let mut cluster = Cluster::with_config(3, |config| {
        config.retention.keep_entries = 1;
        config.retention.step_entries = 1;
    });
    cluster.elect();
    cluster.isolate(3, true);
    for n in 0..10 {
        cluster.write(1, put(&format!("k{n}"), "v"));
        cluster.run();
    }
    cluster.advance(ELECTION * 2);
    let durable_applied = cluster.status(1).applied.index;
    cluster.input(node_id(1), Input::CheckpointDone { durable_applied });
    cluster.isolate(3, false);
    cluster.advance(ELECTION * 3);
    assert_eq!(cluster.revision(3), cluster.revision(1));
    assert_eq!(cluster.status(1).snapshot_streams, 0);
    let request = cluster.write(3, put("after", "v"));
    cluster.advance(ELECTION);
    assert!(matches!(cluster.answer(request), Answer::Written(_)));
}

#[test]
fn the_log_after_an_image_is_kept_until_its_receiver_confirms_it() {
    let mut cluster = Cluster::with_config(3, |config| {
        config.retention.keep_entries = 5;
        config.retention.step_entries = 1;
    });
    let write_many = |cluster: &mut Cluster| {
        for n in 0..20 {
            cluster.write(1, put(&format!("k{n}"), "v"));
            cluster.advance(ELECTION / 20);
            let durable_applied = cluster.status(1).applied.index;
            cluster.input(node_id(1), Input::CheckpointDone { durable_applied });
        }
    };
    // Node 3 hears the leader and never answers: nothing is known of its disk.
    cluster.cut.insert((node_id(3), node_id(1)));
    cluster.elect();
    cluster.cut.insert((node_id(1), node_id(3)));
    write_many(&mut cluster);
    assert!(cluster.log_first(1).0 > 5, "nobody alive needs it");

    // An image is sent, and its receiver's disk is slow to take it.
    cluster.peer(3).hold_writes = true;
    cluster.isolate(3, false);
    let image = cluster.status(1).applied.index;
    cluster.advance(ELECTION / 4);
    assert_eq!(cluster.log_first(3), image.next());
    write_many(&mut cluster);
    assert_eq!(cluster.log_first(1), image.next(), "all of it is needed, but more is not");

    cluster.release(3);
    cluster.advance(ELECTION);
    assert_eq!(cluster.revision(3), cluster.revision(1));
    assert_eq!(cluster.log_first(3), image.next(), "one image was enough");
    write_many(&mut cluster);
    assert!(cluster.log_first(1).0 > image.0 + 20, "confirmed, it may go");
}

#[test]
fn a_request_of_a_stopped_client_does_not_hold_up_the_stop() {
    let mut cluster = Cluster::new(3);
    let request = cluster.client(2, ClientOp::Write { actor: quorate_kv::Actor::Anonymous, command: put("k", "v") });
    cluster.input(node_id(2), Input::Cancel { request });
    cluster.input(node_id(2), Input::Stop);
    assert!(cluster.peer(2).stopped);
}
