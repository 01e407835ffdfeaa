//! Ranges: intervals, limits, bounds, order, and the two-part way of answering.

use quorate_kv::{Command, RangeRequest, Revision, SortOrder, SortTarget, Step};

use crate::store::{Store, everything, put, range};

/// Values run against the keys, so every order differs: a=z[2,7,2] b=y[3,3,1] c=x[4,4,1] d=w[5,8,3].
fn store() -> Store {
    Store::of("a=0 b=y c=x d=0 d=1 a=z d=w")
}

fn sorted(sort_order: SortOrder, sort_target: SortTarget) -> RangeRequest {
    RangeRequest { sort_order, sort_target, ..everything() }
}

#[test]
fn intervals_are_etcds() {
    let store = Store::of("a=1 b=1 ba=1 c=1");
    let cases = [
        ("b", "", "b"),
        ("bb", "", ""),
        ("b", "c", "b ba"),
        ("b", "\0", "b ba c"),
        ("\0", "\0", "a b ba c"),
        ("c", "b", ""),
        ("b", "b", ""),
    ];
    for (key, end, keys) in cases {
        assert_eq!(store.keys(&range(key, end)), keys, "[{key:?}, {end:?})");
    }
}

#[test]
fn count_ignores_limit_and_bounds() {
    let store = store();
    let count = |request: RangeRequest| store.try_range(&request).expect("not refused").count;
    assert_eq!(count(RangeRequest { limit: 1, ..everything() }), 4);
    assert_eq!(count(RangeRequest { min_mod_revision: 8, ..everything() }), 4);
    assert_eq!(count(RangeRequest { count_only: true, max_create_revision: 2, ..everything() }), 4);
    assert_eq!(count(RangeRequest { limit: 1, sort_order: SortOrder::Descend, ..everything() }), 4);
}

#[test]
fn more_says_that_the_limit_cut() {
    let store = store();
    let cases = [
        (0, "a b c d"),
        (-1, "a b c d"),
        (1, "a +"),
        (3, "a b c +"),
        (4, "a b c d"),
        (5, "a b c d"),
        (i64::MAX, "a b c d"),
    ];
    for (limit, keys) in cases {
        assert_eq!(store.keys(&RangeRequest { limit, ..everything() }), keys, "limit {limit}");
    }
    assert_eq!(store.keys(&RangeRequest { limit: 1, ..range("a", "") }), "a");
}

#[test]
fn count_only_returns_neither_keys_nor_more() {
    assert_eq!(store().range(&RangeRequest { count_only: true, limit: 1, ..everything() }), "8:  (4)");
}

#[test]
fn keys_only_leaves_the_values_out() {
    let request = RangeRequest { keys_only: true, limit: 2, ..everything() };
    assert_eq!(store().range(&request), "8: a=[2,7,2] b=[3,3,1]+ (4)");
}

#[test]
fn every_order_by_every_target() {
    use SortOrder::{Ascend, Descend, None};
    let store = store();
    let cases = [
        (None, SortTarget::Key, "a b c d"),
        (Ascend, SortTarget::Key, "a b c d"),
        (Descend, SortTarget::Key, "d c b a"),
        (Ascend, SortTarget::Create, "a b c d"),
        (Descend, SortTarget::Create, "d c b a"),
        (None, SortTarget::Mod, "b c a d"),
        (Ascend, SortTarget::Mod, "b c a d"),
        (Descend, SortTarget::Mod, "d a c b"),
        (None, SortTarget::Value, "d c b a"),
        (Ascend, SortTarget::Value, "d c b a"),
        (Descend, SortTarget::Value, "a b c d"),
    ];
    for (order, target, keys) in cases {
        assert_eq!(store.keys(&sorted(order, target)), keys, "{order:?} by {target:?}");
    }
    // b and c have the same version, and the order of equals is nobody's promise.
    let by_version = store.keys(&sorted(Descend, SortTarget::Version));
    assert!(by_version.starts_with("d a "), "{by_version}");
}

#[test]
fn a_sorted_range_is_cut_after_sorting() {
    let limited = |order, target| RangeRequest { limit: 2, ..sorted(order, target) };
    let store = store();
    assert_eq!(store.keys(&limited(SortOrder::Ascend, SortTarget::Value)), "d c +");
    assert_eq!(store.keys(&limited(SortOrder::Descend, SortTarget::Mod)), "d a +");
    assert_eq!(store.keys(&limited(SortOrder::Descend, SortTarget::Key)), "d c +");
    assert_eq!(store.keys(&limited(SortOrder::Ascend, SortTarget::Key)), "a b +");
}

#[test]
fn a_target_without_an_order_is_cut_to_one_more_key_before_sorting() {
    let limited = |target| RangeRequest { limit: 2, ..sorted(SortOrder::None, target) };
    let store = store();
    // Of a, b and c; d would come first.
    assert_eq!(store.keys(&limited(SortTarget::Value)), "c b +");
    assert_eq!(store.keys(&limited(SortTarget::Mod)), "b c +");
    assert_eq!(store.keys(&RangeRequest { limit: 4, ..limited(SortTarget::Value) }), "d c b a");
}

#[test]
fn bounds_are_inclusive_and_applied_before_the_limit() {
    let store = store();
    let all = everything;
    let cases = [
        (RangeRequest { min_mod_revision: 4, ..all() }, "a c d"),
        (RangeRequest { max_mod_revision: 4, ..all() }, "b c"),
        (RangeRequest { min_mod_revision: 4, max_mod_revision: 7, ..all() }, "a c"),
        (RangeRequest { min_create_revision: 4, ..all() }, "c d"),
        (RangeRequest { max_create_revision: 3, ..all() }, "a b"),
        (RangeRequest { min_create_revision: 3, max_mod_revision: 4, ..all() }, "b c"),
        (RangeRequest { min_mod_revision: 4, limit: 1, ..all() }, "a +"),
        (RangeRequest { min_mod_revision: 4, limit: 3, ..all() }, "a c d"),
        (RangeRequest { min_create_revision: 3, limit: 2, ..all() }, "b c +"),
        (RangeRequest { min_mod_revision: 4, sort_order: SortOrder::Descend, limit: 2, ..all() }, "d c +"),
        (RangeRequest { max_mod_revision: -1, ..all() }, ""),
        (RangeRequest { min_mod_revision: -1, ..all() }, "a b c d"),
    ];
    for (request, keys) in cases {
        assert_eq!(store.keys(&request), keys, "{request:?}");
    }
}

#[test]
fn bounds_and_orders_hold_in_the_past() {
    let store = store();
    let past = RangeRequest { revision: 5, ..sorted(SortOrder::Descend, SortTarget::Create) };
    assert_eq!(store.range(&past), "8: d=0[5,5,1] c=x[4,4,1] b=y[3,3,1] a=0[2,2,1] (4)");
    assert_eq!(store.keys(&RangeRequest { max_create_revision: 3, ..past }), "b a");
}

#[test]
fn a_walk_in_steps_stays_at_its_revision() {
    let mut store = store();
    let visible = store.space.revision();
    let mut plan = store.space.begin_range(&everything(), visible).expect("not refused");
    assert_eq!(plan.advance(&store.space, visible, 2), Ok(Step::More));
    store.run("a=new c=new cc=new -d");
    while plan.advance(&store.space, visible, 1).expect("not refused") == Step::More {}
    let Ok(answer) = plan.finish(&store.records);
    assert_eq!(
        answer.kvs,
        store.try_range(&RangeRequest { revision: visible.0, ..everything() }).expect("not refused").kvs
    );
    assert_eq!((answer.revision, answer.count), (visible, 4));
}

#[test]
fn what_is_not_visible_yet_is_not_read() {
    let mut store = Store::of("a=1");
    let visible = store.space.revision();
    store.run("a=2 b=1");
    let mut plan = store.space.begin_range(&everything(), visible).expect("not refused");
    assert_eq!(plan.advance(&store.space, visible, usize::MAX), Ok(Step::Done));
    let Ok(answer) = plan.finish(&store.records);
    assert_eq!((answer.count, answer.revision, answer.kvs[0].mod_revision), (1, Revision(2), 2));
    let future = RangeRequest { revision: 3, ..everything() };
    assert!(store.space.begin_range(&future, visible).is_err());
}

#[test]
fn a_current_range_that_a_compaction_overtakes_begins_anew() {
    let mut store = store();
    let old = store.space.revision();
    let mut current = store.space.begin_range(&everything(), old).expect("not refused");
    let mut pinned =
        store.space.begin_range(&RangeRequest { revision: old.0, ..everything() }, old).expect("not refused");
    assert_eq!(current.advance(&store.space, old, 1), Ok(Step::More));
    assert_eq!(pinned.advance(&store.space, old, 1), Ok(Step::More));
    store.run("a=new b=new");
    let new = store.space.revision();
    store.compact(new.0).expect("not compacted yet");
    let _ = store.prune_some(1);
    assert_eq!(current.advance(&store.space, new, usize::MAX), Ok(Step::Done));
    assert!(pinned.advance(&store.space, new, usize::MAX).is_err());
    let Ok(answer) = current.finish(&store.records);
    assert_eq!((answer.revision, answer.count), (new, 4));
    assert_eq!(answer.kvs, store.try_range(&everything()).expect("not refused").kvs);
}

#[test]
fn a_large_value_is_handed_on_without_a_copy() {
    let mut store = Store::default();
    let request = put("a", &"v".repeat(1000));
    let value = request.value.clone();
    store.apply(&Command::Put(request)).result.expect("not refused");
    let answer = store.try_range(&range("a", "")).expect("not refused");
    assert_eq!(answer.kvs[0].value.as_ptr(), value.as_ptr());
}
