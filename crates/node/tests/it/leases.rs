//! Leases run out on cluster time: never early, not much late, whoever leads meanwhile, and nothing is said without them.

use std::time::Duration;

use quorate_kv::{Actor, ClusterTime, Command, DueLease, LeaseGrantRequest, LeaseView, PutRequest, Response};
use quorate_node::{Answer, ClientOp, Input, NodeConfig, NodeError};
use quorate_raft::{RequestId, Time};
use quorate_wire::peer::PeerMessage;

use crate::cluster::{Cluster, ELECTION, node_id, put};

const SECOND: Duration = Duration::from_secs(1);
/// What one change of leaders may add while a lease is far from its end: the election, and the silence of the clock.
const CHANGE: Duration = Duration::from_secs(14);
/// What ending a lease takes beyond its time under one leader.
const LATENESS: Duration = Duration::from_millis(500);

fn grant(cluster: &mut Cluster, number: u8, id: i64, ttl_seconds: i64) {
    let request = cluster.write(number, Command::LeaseGrant(LeaseGrantRequest { id, ttl_seconds }));
    cluster.advance(ELECTION / 4);
    assert!(cluster.outcome(request).result.is_ok(), "{:?}", cluster.outcome(request));
}

fn put_with(cluster: &mut Cluster, key: &str, lease: i64) {
    let Command::Put(request) = put(key, "v") else { unreachable!() };
    let request = cluster.write(1, Command::Put(PutRequest { lease, ..request }));
    cluster.advance(ELECTION / 4);
    assert!(cluster.outcome(request).result.is_ok());
}

fn renewal(cluster: &mut Cluster, number: u8, ids: &[i64]) -> RequestId {
    cluster.write(number, Command::LeaseRenew { ids: ids.to_vec() })
}

#[track_caller]
fn renewed(cluster: &Cluster, request: RequestId) -> Vec<i64> {
    match &cluster.outcome(request).result {
        Ok(Response::LeaseRenew { ttls_seconds }) => ttls_seconds.clone(),
        other => panic!("a renewal is answered by {other:?}"),
    }
}

fn lease(cluster: &Cluster, number: u8, id: i64) -> Option<LeaseView> {
    cluster.space(number).lease(id)
}

/// Lets time pass in small steps until node `number` has ended the lease; when that was.
#[track_caller]
fn ended_at(cluster: &mut Cluster, number: u8, id: i64, at_most: Duration) -> Time {
    let begun = cluster.now;
    while lease(cluster, number, id).is_some() {
        assert!(cluster.now.since(begun) <= at_most, "lease {id} is still there after {at_most:?}");
        cluster.advance(Duration::from_millis(20));
    }
    cluster.now
}

#[test]
fn a_lease_lives_its_time_and_ends_with_its_keys_on_every_node() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let granted = cluster.now;
    grant(&mut cluster, 2, 7, 5);
    put_with(&mut cluster, "a", 7);
    let revision = cluster.revision(1);
    let ended = ended_at(&mut cluster, 1, 7, 6 * SECOND);
    let lived = ended.since(granted);
    assert!(lived >= 5 * SECOND && lived <= 5 * SECOND + LATENESS, "it lived {lived:?}");
    cluster.advance(ELECTION);
    for number in 1..=3 {
        assert_eq!(lease(&cluster, number, 7), None);
        assert_eq!(cluster.revision(number), revision + 1, "its key went in one revision");
    }
}

#[test]
fn a_renewed_lease_lives_its_whole_time_from_the_renewal_on() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    grant(&mut cluster, 1, 7, 5);
    for _ in 0..4 {
        cluster.advance(4 * SECOND);
        let request = renewal(&mut cluster, 3, &[7, 8]);
        cluster.advance(ELECTION / 4);
        assert_eq!(renewed(&cluster, request), [5, 0]);
    }
    let last = cluster.now.minus(ELECTION / 4);
    let lived = ended_at(&mut cluster, 1, 7, 6 * SECOND).since(last);
    assert!(lived >= 5 * SECOND && lived <= 5 * SECOND + LATENESS, "it lived {lived:?}");
}

#[test]
fn a_change_of_leaders_neither_shortens_a_lease_nor_gives_it_its_whole_time_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let granted = cluster.now;
    grant(&mut cluster, 1, 7, 100);
    cluster.advance(80 * SECOND);
    cluster.isolate(1, true);
    let lived = ended_at(&mut cluster, 2, 7, 60 * SECOND).since(granted);
    assert_ne!(cluster.leader(), Some(node_id(1)));
    assert!(lived >= 100 * SECOND && lived <= 100 * SECOND + CHANGE, "it lived {lived:?}");
}

#[test]
fn time_without_a_leader_does_not_count() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    grant(&mut cluster, 1, 7, 30);
    cluster.advance(10 * SECOND);
    cluster.peer(2).down = true;
    cluster.peer(3).down = true;
    cluster.advance(100 * SECOND);
    cluster.peer(2).down = false;
    cluster.peer(3).down = false;
    cluster.advance(5 * SECOND);
    assert!(cluster.leader().is_some());
    assert!(lease(&cluster, 1, 7).is_some(), "its holder could not have renewed it");
    ended_at(&mut cluster, 1, 7, 30 * SECOND);
}

#[test]
fn a_cluster_without_leases_says_nothing_and_one_with_leases_little() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let last = |cluster: &Cluster| cluster.status(1).raft.last.0;
    let idle = last(&cluster);
    cluster.advance(100 * SECOND);
    assert_eq!(last(&cluster), idle);
    grant(&mut cluster, 1, 7, 1000);
    let before = last(&cluster);
    cluster.advance(100 * SECOND);
    let clocks = last(&cluster) - before;
    assert!((9..=11).contains(&clocks), "{clocks} entries in 100 s");
    let request = cluster.write(1, Command::LeaseRevoke { id: 7 });
    cluster.advance(SECOND);
    assert_eq!(cluster.outcome(request).result, Ok(Response::LeaseRevoke));
    let after = last(&cluster);
    cluster.advance(100 * SECOND);
    assert_eq!(last(&cluster), after);
}

/// etcd#20813, #20615: a leader that was cut off knows a deadline that the next leader's holder has long moved.
#[test]
fn the_expiry_of_a_deposed_leader_does_not_end_a_lease_that_was_renewed_under_the_next() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    grant(&mut cluster, 1, 7, 4);
    put_with(&mut cluster, "a", 7);
    cluster.advance(3 * SECOND);
    cluster.isolate(1, true);
    let before = cluster.status(1).raft.last;
    cluster.advance(Duration::from_millis(900));
    assert!(cluster.status(1).raft.last > before, "the leader proposed the end of it, and nobody heard of it");
    while cluster.leader() == Some(node_id(1)) {
        cluster.advance(Duration::from_millis(20));
    }
    let leader = if cluster.leader() == Some(node_id(2)) { 2 } else { 3 };
    let request = renewal(&mut cluster, leader, &[7]);
    cluster.advance(ELECTION / 4);
    assert_eq!(renewed(&cluster, request), [4]);
    cluster.isolate(1, false);
    cluster.advance(2 * SECOND);
    for number in 1..=3 {
        assert!(lease(&cluster, number, 7).is_some(), "node {number} ended it");
    }
}

/// etcd#12528: what an entry says decides, not who wrote it or when.
#[test]
fn an_expiry_behind_a_renewal_in_the_log_is_void() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    grant(&mut cluster, 1, 7, 4);
    let deadline = lease(&cluster, 1, 7).expect("granted").deadline;
    cluster.advance(Duration::from_millis(3800));
    // Both are proposed when the deadline has come, and the leader has not looked for leases to end yet.
    let renewal = renewal(&mut cluster, 2, &[7]);
    let expiry = cluster.write(2, Command::LeaseExpire(DueLease { id: 7, deadline }));
    cluster.advance(ELECTION / 4);
    assert_eq!(renewed(&cluster, renewal), [4]);
    assert_eq!(cluster.outcome(expiry).result, Ok(Response::LeaseExpire { expired: false }));
    assert!(lease(&cluster, 3, 7).expect("it was renewed").deadline > deadline);
}

#[test]
fn a_keepalive_of_a_lease_that_ended_finds_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    grant(&mut cluster, 1, 7, 2);
    grant(&mut cluster, 1, 8, 100);
    cluster.write(2, Command::LeaseRevoke { id: 8 });
    let request = renewal(&mut cluster, 2, &[8]);
    cluster.advance(ELECTION / 4);
    assert_eq!(renewed(&cluster, request), [0]);
    cluster.advance(3 * SECOND);
    let request = renewal(&mut cluster, 3, &[7]);
    cluster.advance(ELECTION / 4);
    assert_eq!(renewed(&cluster, request), [0]);
}

/// etcd#15247: a leader that was cut off does not know yet that it is none, and answers nothing on its own word.
#[test]
fn a_keepalive_at_a_leader_that_was_cut_off_is_not_answered() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    grant(&mut cluster, 1, 7, 100);
    cluster.isolate(1, true);
    let request = renewal(&mut cluster, 1, &[7]);
    cluster.advance(ELECTION * 4);
    assert!(!matches!(cluster.answers.get(&request), Some(Answer::Written(_))));
}

/// Three nodes whose leader refuses renewals once its state machine is four entries behind.
fn with_a_low_bound_of_backlog() -> Cluster {
    let mut cluster = Cluster::with_config(3, |config| config.limits.max_apply_backlog_entries = 3);
    cluster.elect();
    cluster
}

/// From now on the state machine of node 1 is behind.
fn fall_behind(cluster: &mut Cluster) {
    cluster.peer(1).hold_applies = true;
    for n in 0..4 {
        cluster.write(1, put(&format!("k{n}"), "v"));
        cluster.run();
    }
}

#[track_caller]
fn assert_renewal_refused(cluster: &mut Cluster, id: i64) {
    let refused = renewal(cluster, 2, &[id]);
    cluster.run();
    assert_eq!(*cluster.answer(refused), Answer::Refused(NodeError::TooManyRequests));
}

/// A node 1 that leads with a state machine so far behind that it refuses renewals, when lease 7 of 5 s has long run out.
fn behind_with_a_lease() -> Cluster {
    let mut cluster = with_a_low_bound_of_backlog();
    grant(&mut cluster, 1, 7, 5);
    fall_behind(&mut cluster);
    assert_renewal_refused(&mut cluster, 7);
    cluster.advance(10 * SECOND);
    cluster
}

#[test]
fn a_leader_that_refuses_renewals_ends_no_lease() {
    let mut cluster = behind_with_a_lease();
    assert!(lease(&cluster, 2, 7).is_some(), "its holder could not have renewed it");
    cluster.release(1);
    cluster.advance(SECOND / 2);
    let request = renewal(&mut cluster, 2, &[7]);
    cluster.advance(ELECTION / 4);
    assert_eq!(renewed(&cluster, request), [5], "who was refused has another chance");
    cluster.advance(2 * SECOND);
    assert!(lease(&cluster, 1, 7).is_some());
}

#[test]
fn a_lease_that_nobody_renews_ends_once_the_leader_has_caught_up() {
    let mut cluster = behind_with_a_lease();
    cluster.release(1);
    ended_at(&mut cluster, 1, 7, SECOND + LATENESS);
}

#[test]
fn a_backlog_that_does_not_end_holds_no_lease_for_ever() {
    let mut cluster = behind_with_a_lease();
    cluster.advance(10 * SECOND);
    assert!(lease(&cluster, 2, 7).is_none(), "nobody renews it, and the others apply its end");
}

#[test]
fn a_lease_that_falls_due_right_after_a_backlog_has_another_chance() {
    let mut cluster = with_a_low_bound_of_backlog();
    let granted = cluster.now;
    grant(&mut cluster, 1, 7, 5);
    cluster.advance(Duration::from_millis(2750));
    fall_behind(&mut cluster);
    cluster.advance(Duration::from_millis(1800));
    assert_renewal_refused(&mut cluster, 7);
    cluster.advance(Duration::from_millis(100));
    cluster.release(1);
    cluster.advance(Duration::from_millis(400));
    assert!(cluster.now.since(granted) > 5 * SECOND, "its time is over");
    let request = renewal(&mut cluster, 2, &[7]);
    cluster.advance(ELECTION / 4);
    assert_eq!(renewed(&cluster, request), [5], "half a second after it was refused");
    ended_at(&mut cluster, 1, 7, 5 * SECOND + LATENESS);
}

#[test]
fn what_held_one_lease_in_a_backlog_holds_the_next_though_the_first_was_renewed() {
    let mut cluster = with_a_low_bound_of_backlog();
    grant(&mut cluster, 1, 7, 5);
    grant(&mut cluster, 1, 8, 6);
    cluster.advance(Duration::from_millis(3500));
    cluster.peer(1).hold_applies = true;
    let first = renewal(&mut cluster, 2, &[7]);
    cluster.run();
    assert_eq!(
        renewed(&cluster, first),
        [5],
        "the leader has not applied it, and takes it for due when its time is over"
    );
    fall_behind(&mut cluster);
    cluster.advance(Duration::from_millis(1900));
    assert_renewal_refused(&mut cluster, 8);
    cluster.advance(Duration::from_millis(100));
    cluster.release(1);
    cluster.advance(Duration::from_millis(400));
    let second = renewal(&mut cluster, 2, &[8]);
    cluster.advance(ELECTION / 4);
    assert_eq!(renewed(&cluster, second), [6], "half a second after it was refused");
    ended_at(&mut cluster, 1, 7, 4 * SECOND);
    ended_at(&mut cluster, 1, 8, 6 * SECOND + LATENESS);
}

/// A node 1 that leads and has no room for a further write, while lease 7 of 5 s has a second left.
fn without_room(change: impl Fn(&mut NodeConfig)) -> Cluster {
    let mut cluster = Cluster::with_config(3, |config| {
        config.limits.max_unapplied_proposals = 2;
        change(config);
    });
    cluster.elect();
    grant(&mut cluster, 1, 7, 5);
    cluster.advance(Duration::from_millis(3750));
    cluster.peer(1).hold_applies = true;
    for n in 0..2 {
        cluster.write(1, put(&format!("k{n}"), "v"));
    }
    cluster.run();
    cluster
}

#[test]
fn a_lease_does_not_end_while_its_renewal_waits_for_room_at_the_leader() {
    for number in [1, 2] {
        let mut cluster = without_room(|_| {});
        let waiting = renewal(&mut cluster, number, &[7]);
        cluster.advance(4 * SECOND);
        assert!(!cluster.answers.contains_key(&waiting), "there is no room");
        assert!(lease(&cluster, 2, 7).is_some(), "its holder asked before its time was over");
        cluster.release(1);
        cluster.advance(ELECTION / 4);
        assert_eq!(renewed(&cluster, waiting), [5], "node {number}");
        ended_at(&mut cluster, 1, 7, 5 * SECOND + LATENESS);
    }
}

#[test]
fn a_lease_does_not_end_a_moment_after_its_renewal_found_no_room() {
    let mut cluster = without_room(|config| config.limits.spare_renewals = 0);
    cluster.advance(Duration::from_millis(800));
    assert_renewal_refused(&mut cluster, 7);
    cluster.advance(Duration::from_millis(50));
    cluster.release(1);
    cluster.advance(Duration::from_millis(450));
    let request = renewal(&mut cluster, 2, &[7]);
    cluster.advance(ELECTION / 4);
    assert_eq!(renewed(&cluster, request), [5], "half a second after it was refused");
}

#[test]
fn writes_that_wait_for_room_hold_no_lease_for_ever() {
    let mut cluster = without_room(|_| {});
    cluster.write(1, put("waits", "v"));
    // Longer than it may wait: others take its place.
    for _ in 0..6 {
        cluster.advance(2 * SECOND);
        cluster.write(1, put("waits", "v"));
    }
    assert!(lease(&cluster, 2, 7).is_none(), "nobody renews it, and the others apply its end");
}

#[test]
fn a_leader_without_room_for_whom_nobody_waits_ends_leases() {
    let mut cluster = without_room(|_| {});
    ended_at(&mut cluster, 2, 7, SECOND + LATENESS);
}

#[test]
fn an_expiry_that_died_with_its_leader_is_made_by_the_next() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    grant(&mut cluster, 1, 7, 10);
    cluster.advance(9 * SECOND);
    cluster.isolate(1, true);
    cluster.advance(SECOND);
    cluster.peer(1).down = true;
    ended_at(&mut cluster, 2, 7, CHANGE);
}

#[test]
fn thousands_of_leases_that_run_out_together_end_in_bounded_batches() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    let grants = (1..=3500).map(|id| Input::Client {
        request: RequestId(10_000 + id),
        op: ClientOp::Write {
            actor: Actor::Anonymous,
            command: Command::LeaseGrant(LeaseGrantRequest { id: id as i64, ttl_seconds: 5 }),
        },
    });
    cluster.inputs(node_id(1), grants.collect());
    cluster.advance(SECOND);
    assert_eq!(cluster.space(3).lease_count(), 3500);
    cluster.advance(Duration::from_millis(3900));
    let before = cluster.status(1).raft.last.0;
    cluster.advance(SECOND);
    assert_eq!(cluster.space(1).lease_count(), 0);
    let entries = cluster.status(1).raft.last.0 - before;
    assert!((3500..3510).contains(&entries), "{entries} entries: each lease once, and the clock");
}

#[test]
fn an_answer_to_a_search_of_an_earlier_term_changes_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    grant(&mut cluster, 1, 7, 100);
    let last = cluster.status(1).raft.last;
    for number in 1..=3 {
        let due = vec![DueLease { id: 7, deadline: ClusterTime(1) }];
        cluster.input(node_id(number), Input::LeasesDue { due });
    }
    assert_eq!(cluster.status(1).raft.last, last);
}

#[test]
fn commands_that_count_from_the_clock_find_it_in_front_of_them() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.advance(50 * SECOND);
    grant(&mut cluster, 3, 7, 100);
    let first = lease(&cluster, 2, 7).expect("granted").deadline;
    cluster.advance(20 * SECOND);
    let forwards = renewal(&mut cluster, 3, &[7]);
    cluster.advance(ELECTION / 4);
    assert_eq!(renewed(&cluster, forwards), [100]);
    let second = lease(&cluster, 2, 7).expect("renewed").deadline;
    let moved = first.until(second);
    assert!(moved >= 20 * SECOND && moved <= 21 * SECOND, "{moved:?}");
}

#[test]
fn a_restarted_cluster_goes_on_from_the_clock_it_had() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    grant(&mut cluster, 1, 7, 60);
    cluster.advance(50 * SECOND);
    let before = cluster.space(1).clock();
    for number in 1..=3 {
        cluster.restart(number);
    }
    cluster.advance(ELECTION * 3);
    assert!(lease(&cluster, 1, 7).is_some());
    assert!(cluster.space(1).clock() >= before);
    ended_at(&mut cluster, 1, 7, 10 * SECOND + CHANGE);
}

#[test]
fn every_node_counts_the_clock_on_between_entries() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    grant(&mut cluster, 1, 7, 1000);
    cluster.advance(25 * SECOND);
    let estimates: Vec<u64> = (1..=3)
        .map(|number| {
            let now = cluster.now;
            let (clock, at) = cluster.peer(number).node.cluster_clock();
            clock.after(now.since(at)).0
        })
        .collect();
    let spread = estimates.iter().max().expect("three") - estimates.iter().min().expect("three");
    assert!(spread <= 100, "{estimates:?}");
}

#[test]
fn a_leader_that_hands_over_ends_no_lease_meanwhile() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    grant(&mut cluster, 1, 7, 5);
    cluster.advance(4 * SECOND);
    cluster.input(node_id(1), Input::Stop);
    cluster.advance(ELECTION * 2);
    assert_ne!(cluster.leader(), Some(node_id(1)));
    ended_at(&mut cluster, 2, 7, CHANGE);
    let _ = cluster.intercept(|message| matches!(message, PeerMessage::Raft(_)));
}
