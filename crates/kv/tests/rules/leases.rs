//! Leases: granted, renewed and ended by commands alone, and their keys end with them in one revision.

use std::cell::Cell;
use std::convert::Infallible;

use quorate_kv::{
    ClusterTime, Command, DueLease, KeySpace, KvError, LeaseGrantRequest, LeaseGrantResponse, MAX_LEASE_TTL_SECONDS,
    PutRequest, RequestOp, Response,
};

use crate::store::{Store, always, bytes, delete, everything, put};

fn grant(store: &mut Store, id: i64, ttl_seconds: i64) -> Result<Response, KvError> {
    store.apply(&Command::LeaseGrant(LeaseGrantRequest { id, ttl_seconds })).result
}

fn clock(store: &mut Store, seconds: u64) {
    let _ = store.apply(&Command::Clock(ClusterTime(seconds * 1000)));
}

fn renew(store: &mut Store, ids: &[i64]) -> Vec<i64> {
    match store.apply(&Command::LeaseRenew { ids: ids.to_vec() }).result {
        Ok(Response::LeaseRenew { ttls_seconds }) => ttls_seconds,
        other => panic!("a renewal is answered by {other:?}"),
    }
}

fn expire(store: &mut Store, id: i64, deadline_seconds: u64) -> bool {
    let due = DueLease { id, deadline: ClusterTime(deadline_seconds * 1000) };
    match store.apply(&Command::LeaseExpire(due)).result {
        Ok(Response::LeaseExpire { expired }) => expired,
        other => panic!("an expiry is answered by {other:?}"),
    }
}

fn put_with(store: &mut Store, key: &str, lease: i64) {
    store.apply(&Command::Put(PutRequest { lease, ..put(key, "v") })).result.expect("the lease is there");
}

fn keys_of(store: &Store, id: i64) -> String {
    let view = store.space.lease(id).expect("the lease is there");
    view.keys.iter().map(|key| String::from_utf8_lossy(key)).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_grant_answers_its_time_to_live_and_makes_no_revision() {
    let mut store = Store::of("a=1");
    let granted = Ok(Response::LeaseGrant(LeaseGrantResponse { id: 7, ttl_seconds: 10 }));
    assert_eq!(grant(&mut store, 7, 10), granted);
    assert_eq!(grant(&mut store, 7, 20), Err(KvError::LeaseExists));
    assert_eq!(grant(&mut store, 0, 20), Err(KvError::LeaseNotFound));
    let longest = Ok(Response::LeaseGrant(LeaseGrantResponse { id: 8, ttl_seconds: MAX_LEASE_TTL_SECONDS }));
    assert_eq!(grant(&mut store, 8, MAX_LEASE_TTL_SECONDS), longest);
    assert_eq!(grant(&mut store, 9, MAX_LEASE_TTL_SECONDS + 1), Err(KvError::LeaseTtlTooLarge));
    assert_eq!(
        grant(&mut store, i64::MIN, -5),
        Ok(Response::LeaseGrant(LeaseGrantResponse { id: i64::MIN, ttl_seconds: 1 }))
    );
    assert_eq!(store.space.revision().0, 2);
    assert_eq!(store.space.leases_by_deadline(), [i64::MIN, 7, 8]);
}

#[test]
fn a_revoke_deletes_all_keys_in_their_order_in_one_revision() {
    let mut store = Store::of("m=1");
    grant(&mut store, 7, 10).expect("new");
    for key in ["z", "a", "m"] {
        put_with(&mut store, key, 7);
    }
    let outcome = store.apply(&Command::LeaseRevoke { id: 7 });
    assert_eq!(outcome.result, Ok(Response::LeaseRevoke));
    assert_eq!(outcome.revision.0, 6);
    let deleted: Vec<_> = outcome
        .changes
        .iter()
        .map(|change| (change.key().clone(), change.at.to_string(), change.record.tombstone))
        .collect();
    let gone = |key: &str, at: &str| (bytes(key), at.to_owned(), true);
    assert_eq!(deleted, [gone("a", "6.0"), gone("m", "6.1"), gone("z", "6.2")]);
    assert_eq!(store.range(&everything()), "6:  (0)");
    assert_eq!(store.apply(&Command::LeaseRevoke { id: 7 }).result, Err(KvError::LeaseNotFound));
    assert_eq!(renew(&mut store, &[7]), [0]);
}

#[test]
fn a_lease_without_keys_ends_without_a_revision() {
    let mut store = Store::of("a=1");
    grant(&mut store, 7, 10).expect("new");
    let outcome = store.apply(&Command::LeaseRevoke { id: 7 });
    assert_eq!((outcome.revision.0, outcome.changes.len()), (2, 0));
    assert_eq!(store.space.lease(7), None);
    assert_eq!(store.records.rows().count(), 0, "no row is left behind");
}

#[test]
fn the_last_put_decides_which_lease_a_key_goes_with() {
    let mut store = Store::of("");
    grant(&mut store, 1, 10).expect("new");
    grant(&mut store, 2, 10).expect("new");
    for (key, lease) in [("a", 1), ("b", 1), ("c", 1), ("d", 1)] {
        put_with(&mut store, key, lease);
    }
    put_with(&mut store, "a", 2);
    store.run("b=detached -c");
    let kept = PutRequest { ignore_lease: true, ..put("d", "new") };
    store.apply(&Command::Put(kept)).result.expect("it is there");
    assert_eq!((keys_of(&store, 1).as_str(), keys_of(&store, 2).as_str()), ("d", "a"));
    assert_eq!(store.space.lease_of(b"d"), Some(1));
    let _ = store.apply(&Command::LeaseRevoke { id: 1 });
    assert_eq!(store.keys(&everything()), "a b");
    // The id can be granted again, and the keys of the former lease are not its own.
    grant(&mut store, 1, 10).expect("it ended");
    assert_eq!(keys_of(&store, 1), "");
}

#[test]
fn a_put_with_an_unknown_lease_is_refused_also_within_a_transaction() {
    let mut store = Store::of("a=1");
    let named = PutRequest { lease: 7, ..put("a", "2") };
    assert_eq!(store.apply(&Command::Put(named.clone())).result, Err(KvError::LeaseNotFound));
    let ops = vec![RequestOp::Put(put("b", "1")), RequestOp::Put(named)];
    assert_eq!(store.txn(always(ops)), "requested lease not found");
    assert_eq!(store.range(&everything()), "2: a=1[2,2,1] (1)");
}

#[test]
fn a_transaction_attaches_and_detaches() {
    let mut store = Store::of("");
    grant(&mut store, 1, 10).expect("new");
    put_with(&mut store, "a", 1);
    let attach = |key: &str| RequestOp::Put(PutRequest { lease: 1, ..put(key, "v") });
    let _ = store.txn(always(vec![RequestOp::DeleteRange(delete("a", "")), attach("b"), attach("c")]));
    assert_eq!(keys_of(&store, 1), "b c");
}

#[test]
fn a_renewal_counts_from_the_clock_of_its_entry() {
    let mut store = Store::of("");
    clock(&mut store, 100);
    grant(&mut store, 1, 10).expect("new");
    assert_eq!(store.space.next_lease_deadline(), Some(ClusterTime(110_000)));
    clock(&mut store, 105);
    assert_eq!(renew(&mut store, &[1, 2, 1]), [10, 0, 10]);
    assert_eq!(store.space.next_lease_deadline(), Some(ClusterTime(115_000)));
    assert_eq!(store.space.revision().0, 1);
}

#[test]
fn an_expiry_is_void_if_the_lease_was_renewed_since_or_its_time_has_not_come() {
    let mut store = Store::of("");
    grant(&mut store, 1, 10).expect("new");
    put_with(&mut store, "a", 1);
    clock(&mut store, 9);
    assert!(!expire(&mut store, 1, 10), "the shared clock is not there yet");
    clock(&mut store, 10);
    renew(&mut store, &[1]);
    assert!(!expire(&mut store, 1, 10), "it was renewed");
    assert!(!expire(&mut store, 2, 10), "there is none");
    clock(&mut store, 19);
    assert!(!expire(&mut store, 1, 20));
    assert_eq!(store.keys(&everything()), "a");
    clock(&mut store, 20);
    assert!(expire(&mut store, 1, 20));
    assert_eq!(store.range(&everything()), "3:  (0)");
    assert!(!expire(&mut store, 1, 20), "once");
}

#[test]
fn a_lease_at_its_deadline_lives_until_the_log_ends_it() {
    let mut store = Store::of("");
    grant(&mut store, 1, 10).expect("new");
    clock(&mut store, 1000);
    assert_eq!(store.space.due_leases(store.space.clock(), 5), [DueLease { id: 1, deadline: ClusterTime(10_000) }]);
    assert_eq!(renew(&mut store, &[1]), [10], "a late keepalive still finds it");
    assert_eq!(store.space.due_leases(store.space.clock(), 5), []);
}

#[test]
fn due_leases_come_oldest_first_and_bounded() {
    let mut store = Store::of("");
    for (id, ttl) in [(1, 30), (2, 10), (3, 20), (4, 40)] {
        grant(&mut store, id, ttl).expect("new");
    }
    let due = |seconds: u64, max| -> Vec<i64> {
        store.space.due_leases(ClusterTime(seconds * 1000), max).into_iter().map(|due| due.id).collect()
    };
    assert_eq!(due(30, 10), [2, 3, 1]);
    assert_eq!(due(30, 2), [2, 3]);
    assert_eq!(due(9, 2), []);
}

#[test]
fn the_keys_of_a_lease_are_given_as_far_as_there_is_room_and_not_looked_at_unless_asked_for() {
    let mut store = Store::of("");
    grant(&mut store, 1, 10).expect("new");
    for key in ["a", "bb", "ccc"] {
        put_with(&mut store, key, 1);
    }
    let whole = store.space.lease(1).expect("is there");
    let within = |room: usize| {
        let left = Cell::new(room);
        let allow = |bytes: usize| left.get().checked_sub(bytes).map(|rest| left.set(rest)).is_some();
        store.space.lease_within::<Infallible>(1, &allow).ok()
    };
    assert_eq!((within(6), within(5)), (Some(Some(whole.clone())), None));
    let bare = store.space.lease_without_keys(1).expect("is there");
    assert_eq!((bare.deadline, bare.keys.len()), (whole.deadline, 0));
    assert_eq!(store.space.lease_without_keys(2), None);
}

#[test]
fn a_start_finds_leases_and_their_keys_as_they_were() {
    let mut store = Store::of("");
    clock(&mut store, 3);
    for (id, ttl) in [(5, 10), (-5, 20)] {
        grant(&mut store, id, ttl).expect("new");
    }
    put_with(&mut store, "a", -5);
    put_with(&mut store, "b", 5);
    put_with(&mut store, "b", -5);
    let Ok(again) = KeySpace::rebuild(store.space.meta(), &store.records);
    again.check();
    for id in [5, -5] {
        assert_eq!(again.lease(id), store.space.lease(id));
    }
    assert_eq!(again.leases_by_deadline(), [5, -5]);
    assert_eq!(again.lease_of(b"b"), Some(-5));
}
