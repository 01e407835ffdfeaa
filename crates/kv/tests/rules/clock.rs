//! The cluster clock: set by entries alone, forward alone, without a revision, and in the digest.

use quorate_kv::{ClusterTime, Command, KeySpace, Response, Table};

use crate::store::Store;

fn set(store: &mut Store, milliseconds: u64) {
    let outcome = store.apply(&Command::Clock(ClusterTime(milliseconds)));
    assert_eq!(outcome.result, Ok(Response::Clock));
    assert!(outcome.changes.is_empty());
}

#[test]
fn the_clock_goes_forward_alone_and_makes_no_revision() {
    let mut store = Store::of("a=1");
    assert_eq!(store.space.clock(), ClusterTime(0));
    set(&mut store, 500);
    assert_eq!(store.space.clock(), ClusterTime(500));
    let digest = store.space.digest();
    set(&mut store, 499);
    set(&mut store, 500);
    assert_eq!((store.space.clock(), store.space.digest()), (ClusterTime(500), digest), "nothing was set back");
    set(&mut store, 501);
    assert_ne!(store.space.digest(), digest, "nodes compare their clocks");
    assert_eq!(store.space.revision().0, 2);
}

#[test]
fn a_start_finds_the_clock_as_it_was() {
    let mut store = Store::of("a=1");
    set(&mut store, 70_000);
    let Ok(again) = KeySpace::rebuild(store.space.meta(), &store.records);
    assert_eq!(again.clock(), ClusterTime(70_000));
    let rows: Vec<_> = store.records.rows().map(|(table, key, _)| (table, key.len())).collect();
    assert_eq!(rows, [(Table::Clock, 0)]);
}
