//! Named limits: past each of them requests are refused at once, and nothing grows.

use quorate_kv::{Command, DeleteRangeRequest};
use quorate_node::{Answer, ClientOp, Consistency, Input, NodeError, ReadOptions};

use crate::cluster::{Cluster, ELECTION, node_id, put};

#[test]
fn pending_writes_are_limited_by_count() {
    let mut cluster = Cluster::with_config(3, |config| config.limits.max_pending_writes = 2);
    let first = cluster.write(2, put("a", "v"));
    let second = cluster.write(2, put("b", "v"));
    let third = cluster.write(2, put("c", "v"));
    assert_eq!(*cluster.answer(third), Answer::Refused(NodeError::TooManyRequests));
    cluster.elect();
    for request in [first, second] {
        assert!(matches!(cluster.answer(request), Answer::Written(_)));
    }
    assert_eq!(cluster.times_applied(1, "c"), 0, "a refused write did not happen");
}

#[test]
fn no_more_writes_wait_than_were_done_in_the_last_second() {
    let mut cluster = Cluster::with_config(3, |config| config.limits.unpaced_writes = 2);
    cluster.elect();
    let mut done: Vec<_> = (0..2).map(|n| cluster.write(1, put(&format!("k{n}"), "v"))).collect();
    cluster.run();
    done.push(cluster.write(1, put("third", "v")));
    cluster.run();
    cluster.isolate(1, true);
    let waiting: Vec<_> = (0..4).map(|n| cluster.write(1, put(&format!("w{n}"), "v"))).collect();
    assert!(done.iter().all(|request| matches!(cluster.answer(*request), Answer::Written(_))));
    let refused = Answer::Refused(NodeError::TooManyRequests);
    let answers: Vec<_> = waiting.iter().map(|request| cluster.answers.get(request) == Some(&refused)).collect();
    assert_eq!(answers, [false, false, false, true], "three were done, so three may wait");
}

#[test]
fn pending_writes_are_limited_by_bytes() {
    let mut cluster = Cluster::with_config(3, |config| config.limits.max_pending_write_bytes = 1000);
    let large = "x".repeat(2000);
    cluster.write(2, put("a", &large));
    assert!(cluster.answers.is_empty(), "one write always fits");
    let second = cluster.write(2, put("b", "v"));
    assert_eq!(*cluster.answer(second), Answer::Refused(NodeError::TooManyRequests));
}

#[test]
fn bytes_in_flight_are_let_in_up_to_the_limit_and_not_one_past_it() {
    // What one write takes with its envelope is not for this test to know: measured as the difference it makes.
    let fits = |limit: usize, value: usize| {
        let mut cluster = Cluster::with_config(3, |config| config.limits.max_pending_write_bytes = limit);
        cluster.write(2, put("a", ""));
        let second = cluster.write(2, put("b", &"v".repeat(value)));
        !cluster.answers.contains_key(&second)
    };
    let least = (1..10_000).find(|limit| fits(*limit, 100)).expect("both fit in some limit");
    for (value, expected) in [(99, true), (100, true), (101, false)] {
        assert_eq!(fits(least, value), expected, "{value}");
    }
    assert!(!fits(least - 1, 100), "one byte less is one too few");
}

fn renewal() -> Command {
    Command::LeaseRenew { ids: vec![7] }
}

#[test]
fn a_renewal_is_taken_past_the_limits_of_writes_up_to_one_of_its_own() {
    let mut cluster = Cluster::with_config(3, |config| {
        config.limits.max_pending_writes = 2;
        config.limits.max_pending_write_bytes = 10;
        config.limits.spare_renewals = 1;
    });
    let mut taken = vec![cluster.write(2, put("a", "v"))];
    let by_bytes = cluster.write(2, put("b", "v"));
    assert_eq!(*cluster.answer(by_bytes), Answer::Refused(NodeError::TooManyRequests));
    taken.push(cluster.write(2, renewal()));
    taken.push(cluster.write(2, renewal()));
    let by_count = cluster.write(2, renewal());
    assert_eq!(*cluster.answer(by_count), Answer::Refused(NodeError::TooManyRequests), "two writes, and one to spare");
    cluster.elect();
    for request in taken {
        assert!(matches!(cluster.answer(request), Answer::Written(_)));
    }
}

#[test]
fn the_bytes_of_renewals_past_the_limit_are_limited() {
    let mut cluster = Cluster::with_config(3, |config| {
        config.limits.max_pending_write_bytes = 10;
        config.limits.spare_renewal_bytes = 1000;
    });
    let ids = vec![i64::MAX; 70];
    let first = cluster.write(2, Command::LeaseRenew { ids: ids.clone() });
    let second = cluster.write(2, Command::LeaseRenew { ids });
    assert!(!cluster.answers.contains_key(&first));
    assert_eq!(*cluster.answer(second), Answer::Refused(NodeError::TooManyRequests));
}

#[test]
fn the_pace_refuses_no_renewal() {
    let mut cluster = Cluster::with_config(3, |config| {
        config.limits.unpaced_writes = 1;
        config.limits.spare_renewals = 0;
    });
    cluster.elect();
    cluster.write(2, put("a", "v"));
    cluster.run();
    cluster.isolate(2, true);
    cluster.write(2, put("b", "v"));
    let paced = cluster.write(2, put("c", "v"));
    assert_eq!(*cluster.answer(paced), Answer::Refused(NodeError::TooManyRequests));
    let renewal = cluster.write(2, renewal());
    assert!(!cluster.answers.contains_key(&renewal));
}

#[test]
fn a_leader_without_room_takes_renewals_up_to_a_limit_and_no_other_writes() {
    let mut cluster = Cluster::with_config(3, |config| {
        config.limits.max_unapplied_proposals = 2;
        config.limits.spare_renewals = 1;
    });
    cluster.elect();
    cluster.peer(1).hold_applies = true;
    for n in 0..2 {
        cluster.write(1, put(&format!("k{n}"), "v"));
    }
    cluster.run();
    let requests = [put("a", "v"), renewal(), renewal()].map(|command| cluster.write(2, command));
    cluster.run();
    let refused = Answer::Refused(NodeError::TooManyRequests);
    let answers = requests.map(|request| cluster.answers.get(&request) == Some(&refused));
    assert_eq!(answers, [true, false, true]);
    cluster.release(1);
    cluster.run();
    assert!(matches!(cluster.answer(requests[1]), Answer::Written(_)));
}

#[test]
fn waiting_reads_are_limited() {
    let mut cluster = Cluster::with_config(3, |config| config.limits.max_waiting_reads = 1);
    cluster.read(2, Consistency::Default);
    let second = cluster.read(2, Consistency::Default);
    assert_eq!(*cluster.answer(second), Answer::Refused(NodeError::TooManyRequests));
}

#[test]
fn a_leader_whose_state_machine_lags_takes_no_writes_from_anybody() {
    let mut cluster = Cluster::with_config(3, |config| config.limits.max_apply_backlog_entries = 3);
    cluster.elect();
    cluster.peer(1).hold_applies = true;
    for n in 0..4 {
        cluster.write(1, put(&format!("k{n}"), "v"));
        cluster.run();
    }
    let own = cluster.write(1, put("own", "v"));
    assert_eq!(*cluster.answer(own), Answer::Refused(NodeError::TooManyRequests));
    let foreign = cluster.write(2, put("foreign", "v"));
    cluster.run();
    assert_eq!(*cluster.answer(foreign), Answer::Refused(NodeError::TooManyRequests));
    cluster.release(1);
    cluster.advance(ELECTION / 2);
    for number in 1..=3 {
        assert_eq!(cluster.times_applied(number, "foreign"), 0, "a refusal is final");
    }
}

#[test]
fn a_late_copy_of_a_refused_forward_is_not_appended() {
    let mut cluster = Cluster::with_config(3, |config| config.limits.max_apply_backlog_entries = 0);
    cluster.elect();
    cluster.peer(1).hold_applies = true;
    cluster.write(1, put("a", "v"));
    cluster.run();
    let request = cluster.write(2, put("b", "v"));
    let copies: Vec<_> = cluster.wire.iter().cloned().collect();
    cluster.run();
    assert_eq!(*cluster.answer(request), Answer::Refused(NodeError::TooManyRequests));
    cluster.release(1);
    cluster.run();
    cluster.wire.extend(copies);
    cluster.advance(ELECTION / 2);
    assert_eq!(cluster.times_applied(1, "b"), 0);
}

#[test]
fn a_full_disk_refuses_growth_and_lets_deletes_through() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.input(node_id(1), Input::DiskFull { yes: true });
    for number in [1, 2] {
        let request = cluster.write(number, put("k", "v"));
        cluster.run();
        assert_eq!(*cluster.answer(request), Answer::Refused(NodeError::NoSpace));
        let delete = Command::DeleteRange(DeleteRangeRequest { key: "k".into(), ..DeleteRangeRequest::default() });
        let request = cluster.write(number, delete);
        cluster.advance(ELECTION / 4);
        assert!(matches!(cluster.answer(request), Answer::Written(_)));
    }
    cluster.input(node_id(1), Input::DiskFull { yes: false });
    let request = cluster.write(2, put("k", "v"));
    cluster.advance(ELECTION / 4);
    assert!(matches!(cluster.answer(request), Answer::Written(_)), "it heals by itself");
}

#[test]
fn a_forward_with_a_garbled_envelope_is_not_appended() {
    use quorate_wire::peer::{Forward, PeerMessage};
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let term = cluster.status(1).raft.term;
    let last = cluster.status(1).raft.last;
    let forward = Forward {
        term,
        session: quorate_raft::Incarnation(99),
        settled_below: 0,
        writes: vec![(1, bytes::Bytes::from_static(b"garbage"))],
    };
    cluster.input(node_id(1), Input::Peer { from: node_id(2), message: PeerMessage::Forward(forward) });
    cluster.advance(ELECTION / 4);
    assert_eq!(cluster.status(1).raft.last, last);
}

#[test]
fn a_follower_that_cannot_apply_takes_no_more_entries_and_recovers() {
    let mut cluster = Cluster::with_config(3, |config| config.limits.max_apply_backlog_bytes = 1000);
    cluster.elect();
    cluster.peer(3).hold_applies = true;
    for n in 0..20 {
        cluster.write(1, put(&format!("k{n}"), &"x".repeat(300)));
        cluster.advance(ELECTION / 10);
    }
    let stuck = cluster.status(3);
    let ahead = cluster.status(1).raft.last;
    assert!(stuck.raft.last < ahead, "its memory is bounded");
    assert_eq!(cluster.leader(), Some(node_id(1)), "it still hears the leader");
    cluster.release(3);
    cluster.advance(ELECTION * 2);
    assert_eq!(cluster.revision(3), cluster.revision(1));
}

#[test]
fn many_requests_at_once_are_all_answered() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let mut inputs = Vec::new();
    for n in 0..1000 {
        let request = quorate_raft::RequestId(10_000 + n);
        let op = match n % 2 {
            0 => ClientOp::Write { actor: quorate_kv::Actor::Anonymous, command: put(&format!("k{n}"), "v") },
            _ => ClientOp::Read(ReadOptions::default()),
        };
        inputs.push(Input::Client { request, op });
    }
    cluster.inputs(node_id(3), inputs);
    cluster.advance(ELECTION);
    assert_eq!(cluster.answers.len(), 1000);
    assert_eq!(cluster.revision(1), 501);
}
