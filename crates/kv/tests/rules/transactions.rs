//! Transactions: compares, branches, nesting, and what refuses them as a whole.

use quorate_kv::{
    Command, Compare, CompareResult, CompareTarget, KvError, Overtaken, PutRequest, RangeRequest, RequestOp, Response,
    Revision, Step, TxnRequest, TxnResponse,
};

use crate::store::{Store, always, at, bytes, delete, everything, put, range, show_txn};

fn compare(key: &str, range_end: &str, target: CompareTarget, result: CompareResult) -> Compare {
    Compare { key: bytes(key), range_end: bytes(range_end), target, result }
}

fn when(compare: Compare, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { compare: vec![compare], success, failure }
}

fn do_put(key: &str, value: &str) -> RequestOp {
    RequestOp::Put(put(key, value))
}

fn do_delete(key: &str, range_end: &str) -> RequestOp {
    RequestOp::DeleteRange(delete(key, range_end))
}

#[track_caller]
fn check_compare(store: &mut Store, key: &str, range_end: &str, target: &CompareTarget, holding: &[CompareResult]) {
    use CompareResult::{Equal, Greater, Less, NotEqual};
    for result in [Equal, Greater, Less, NotEqual] {
        let answer = store.txn(when(compare(key, range_end, target.clone(), result), Vec::new(), Vec::new()));
        let wanted = if holding.contains(&result) { "then {}" } else { "else {}" };
        assert_eq!(answer, wanted, "{key:?} {target:?} {result:?}");
    }
}

#[test]
fn every_target_is_compared_in_every_relation() {
    use CompareResult::{Equal, Greater, Less, NotEqual};
    // a=m[2,4,2] with lease 0
    let mut store = Store::of("a=l b=x a=m");
    let (equal, greater, less) = ([Equal], [Greater, NotEqual], [Less, NotEqual]);
    type Target = fn(i64) -> CompareTarget;
    let cases: [(Target, i64); 4] =
        [(CompareTarget::Version, 2), (CompareTarget::Create, 2), (CompareTarget::Mod, 4), (CompareTarget::Lease, 0)];
    for (target, number) in cases {
        check_compare(&mut store, "a", "", &target(number), &equal);
        check_compare(&mut store, "a", "", &target(number - 1), &greater);
        check_compare(&mut store, "a", "", &target(number + 1), &less);
    }
    check_compare(&mut store, "a", "", &CompareTarget::Value(bytes("m")), &equal);
    check_compare(&mut store, "a", "", &CompareTarget::Value(bytes("lz")), &greater);
    check_compare(&mut store, "a", "", &CompareTarget::Value(bytes("ma")), &less);
}

#[test]
fn a_missing_key_has_zeros_and_no_value() {
    use CompareResult::{Equal, Less, NotEqual};
    let mut store = Store::of("b=1 -b");
    for key in ["a", "b"] {
        for target in
            [CompareTarget::Version(0), CompareTarget::Create(0), CompareTarget::Mod(0), CompareTarget::Lease(0)]
        {
            check_compare(&mut store, key, "", &target, &[Equal]);
        }
        check_compare(&mut store, key, "", &CompareTarget::Version(1), &[Less, NotEqual]);
        check_compare(&mut store, key, "", &CompareTarget::Value(bytes("")), &[]);
    }
}

#[test]
fn a_range_compare_asks_every_key() {
    use CompareResult::{Equal, Greater, Less, NotEqual};
    let mut store = Store::of("a=1 b=1 c=2");
    check_compare(&mut store, "a", "c", &CompareTarget::Value(bytes("1")), &[Equal]);
    check_compare(&mut store, "a", "\0", &CompareTarget::Value(bytes("1")), &[]);
    check_compare(&mut store, "a", "\0", &CompareTarget::Mod(1), &[Greater, NotEqual]);
    check_compare(&mut store, "x", "z", &CompareTarget::Version(0), &[Equal]);
    check_compare(&mut store, "x", "z", &CompareTarget::Version(1), &[Less, NotEqual]);
    check_compare(&mut store, "x", "z", &CompareTarget::Value(bytes("1")), &[]);
    check_compare(&mut store, "c", "a", &CompareTarget::Version(0), &[Equal]);
}

#[test]
fn operations_share_one_revision_and_see_those_before() {
    let mut store = Store::of("a=1 b=1");
    let ops = vec![
        RequestOp::Range(range("a", "c")),
        RequestOp::Put(PutRequest { prev_kv: true, ..put("a", "2") }),
        RequestOp::Range(range("a", "")),
        do_delete("b", ""),
        do_put("c", "1"),
        RequestOp::Range(everything()),
    ];
    assert_eq!(
        store.txn(always(ops)),
        "then {@3 range 3: a=1[2,2,1] b=1[3,3,1] (2); @4 put a=1[2,2,1]; @4 range 4: a=2[2,4,2] (1); @4 deleted 1; @4 put; \
         @4 range 4: a=2[2,4,2] c=1[4,4,1] (2)}"
    );
    assert_eq!(store.places(), "2.0 3.0 4.0 4.1 4.2");
}

#[test]
fn a_branch_that_changes_nothing_makes_no_revision() {
    let mut store = Store::of("a=1");
    let idle = when(
        compare("a", "", CompareTarget::Version(1), CompareResult::Equal),
        vec![do_delete("x", ""), RequestOp::Range(range("a", ""))],
        vec![do_put("a", "2")],
    );
    assert_eq!(store.txn(idle), "then {@2 deleted 0; @2 range 2: a=1[2,2,1] (1)}");
    assert_eq!(store.space.revision(), Revision(2));
    assert_eq!(store.txn(always(Vec::new())), "then {}");
}

#[test]
fn nested_compares_see_the_state_before_the_whole_transaction() {
    let mut store = Store::of("a=1");
    let nested = when(
        compare("a", "", CompareTarget::Value(bytes("1")), CompareResult::Equal),
        vec![do_put("saw", "old")],
        vec![do_put("saw", "new")],
    );
    let second = when(
        compare("saw", "", CompareTarget::Version(0), CompareResult::Equal),
        vec![do_put("b", "missing")],
        vec![do_put("b", "there")],
    );
    let ops = vec![do_put("a", "2"), RequestOp::Txn(nested), RequestOp::Txn(second), RequestOp::Range(everything())];
    assert_eq!(
        store.txn(always(ops)),
        "then {@3 put; @0 then {@3 put}; @0 then {@3 put}; @3 range 3: a=2[2,3,2] b=missing[3,3,1] saw=old[3,3,1] (3)}"
    );
}

#[test]
fn a_failing_operation_anywhere_in_the_branch_undoes_nothing_because_nothing_was_done() {
    let bad = [
        (RequestOp::Range(at(9, everything())), KvError::FutureRevision),
        (RequestOp::Range(at(3, everything())), KvError::FutureRevision),
        (RequestOp::Put(PutRequest { ignore_value: true, ..put("x", "") }), KvError::KeyNotFound),
        (RequestOp::Put(PutRequest { ignore_lease: true, ..put("x", "1") }), KvError::KeyNotFound),
        (RequestOp::Put(PutRequest { lease: 5, ..put("x", "1") }), KvError::LeaseNotFound),
        (RequestOp::Put(PutRequest { lease: 5, ignore_value: true, ..put("x", "") }), KvError::LeaseNotFound),
    ];
    for (op, error) in bad {
        for nested in [false, true] {
            let mut store = Store::of("a=1");
            let (meta, records) = (store.space.meta(), store.records.clone());
            let op = if nested { RequestOp::Txn(always(vec![do_put("y", "1"), op.clone()])) } else { op.clone() };
            assert_eq!(store.txn(always(vec![do_put("a", "2"), op])), error.to_string());
            assert_eq!((store.space.meta(), store.records), (meta, records));
        }
    }
}

#[test]
fn only_the_branch_taken_is_checked() {
    let mut store = Store::of("a=1");
    let bad = || vec![RequestOp::Range(at(9, everything()))];
    let txn = when(compare("a", "", CompareTarget::Version(1), CompareResult::Equal), vec![do_put("b", "1")], bad());
    assert_eq!(store.txn(txn), "then {@3 put}");
}

#[test]
fn an_explicit_revision_is_held_against_the_state_before() {
    let mut store = Store::of("a=1 a=2 a=3");
    store.compact(3).expect("not compacted yet");
    let read = |revision| always(vec![do_put("a", "x"), RequestOp::Range(at(revision, range("a", "")))]);
    let compacted = "mvcc: required revision has been compacted";
    for (revision, answer) in [
        (5, "mvcc: required revision is a future revision"),
        (2, compacted),
        (-1, compacted),
        (-2, compacted),
        (3, "then {@5 put; @5 range 5: a=2[2,3,2] (1)}"),
    ] {
        assert_eq!(store.txn(read(revision)), answer, "revision {revision}");
    }
    assert_eq!(store.txn(read(4)), "then {@6 put; @6 range 6: a=3[2,4,3] (1)}");
    assert_eq!(store.txn(read(0)), "then {@7 put; @7 range 7: a=x[2,7,6] (1)}");
}

#[test]
fn put_then_delete_in_nested_transactions_changes_a_key_twice_in_one_revision() {
    let mut store = Store::of("b=1");
    let ops = vec![RequestOp::Txn(always(vec![do_put("a", "1")])), RequestOp::Txn(always(vec![do_delete("a", "")]))];
    assert_eq!(store.txn(always(ops)), "then {@0 then {@3 put}; @0 then {@3 deleted 1}}");
    assert_eq!(store.keys(&everything()), "b");
    // etcd's check takes a range end of "\0" literally, so this passes there, too.
    assert_eq!(store.txn(always(vec![do_delete("\0", "\0"), do_put("b", "2")])), "then {@4 deleted 1; @4 put}");
    assert_eq!(store.range(&everything()), "4: b=2[4,4,1] (1)");
    assert_eq!(store.places(), "2.0 3.0 3.1 4.0 4.1");
}

#[test]
fn a_key_deleted_before_its_turn_cannot_be_kept_in_part() {
    let keep = |ignore_value, ignore_lease| PutRequest { ignore_value, ignore_lease, ..put("c", "") };
    for kept in [keep(true, false), keep(false, true)] {
        let mut store = Store::of("c=1");
        assert_eq!(store.txn(always(vec![do_delete("a", "\0"), RequestOp::Put(kept.clone())])), "key not found");
        let inner = RequestOp::Txn(always(vec![do_delete("a", "\0")]));
        assert_eq!(store.txn(always(vec![inner, RequestOp::Put(kept)])), "key not found");
        assert_eq!(store.range(&everything()), "2: c=1[2,2,1] (1)");
    }
}

#[test]
fn a_read_only_transaction_is_answered_at_what_is_visible() {
    let mut store = Store::of("a=1");
    let visible = store.space.revision();
    store.run("a=2");
    let txn = when(
        compare("a", "", CompareTarget::Version(1), CompareResult::Equal),
        vec![RequestOp::Range(range("a", "")), RequestOp::Range(RangeRequest { count_only: true, ..everything() })],
        Vec::new(),
    );
    let answer = read_in_steps(&mut store, &txn, visible, "b=1");
    assert_eq!(show_txn(&answer.expect("not refused")), "then {@2 range 2: a=1[2,2,1] (1); @2 range 2:  (1)}");
    let future = always(vec![RequestOp::Range(at(3, everything()))]);
    assert_eq!(read_in_steps(&mut store, &future, visible, "b=2"), Err(KvError::FutureRevision));
}

/// One key a step, and `between` done before each further one.
fn read_in_steps(
    store: &mut Store,
    txn: &TxnRequest,
    visible: Revision,
    between: &str,
) -> Result<TxnResponse, KvError> {
    let Ok(plan) = store.space.begin_read_txn(&store.records, txn, visible);
    let mut plan = plan?;
    while plan.advance(&store.space, 1) == Ok(Step::More) {
        store.run(between);
    }
    let Ok(answer) = plan.finish(&store.records);
    Ok(answer)
}

#[test]
fn a_read_only_transaction_that_compaction_overtakes_begins_anew() {
    let mut store = Store::of("a=1 b=1");
    let txn = always(vec![RequestOp::Range(everything())]);
    let visible = store.space.revision();
    let Ok(plan) = store.space.begin_read_txn(&store.records, &txn, visible);
    let mut plan = plan.expect("not refused");
    assert_eq!(plan.advance(&store.space, 1), Ok(Step::More));
    store.run("b=2");
    assert_eq!(store.compact(4), Ok(Response::Compact));
    assert_eq!(plan.advance(&store.space, 1), Ok(Step::More), "nothing is taken away yet");
    store.prune();
    assert_eq!(plan.advance(&store.space, 1), Err(Overtaken));
}

#[test]
fn only_top_level_ranges_make_a_transaction_read_only() {
    let serializable = || RequestOp::Range(RangeRequest { serializable: true, ..everything() });
    let linearizable = || RequestOp::Range(everything());
    let nested = || RequestOp::Txn(always(vec![serializable()]));
    let cases = [
        (vec![], vec![], true, true),
        (vec![serializable()], vec![serializable()], true, true),
        (vec![serializable()], vec![linearizable()], true, false),
        (vec![nested()], vec![], false, false),
        (vec![], vec![do_put("a", "1")], false, false),
        (vec![do_delete("a", "")], vec![], false, false),
    ];
    for (success, failure, read_only, is_serializable) in cases {
        let txn = TxnRequest { compare: Vec::new(), success, failure };
        assert_eq!((txn.is_read_only(), txn.is_serializable()), (read_only, is_serializable), "{txn:?}");
    }
}

#[test]
fn a_read_only_transaction_may_still_go_through_the_log() {
    let mut store = Store::of("a=1");
    let outcome = store.apply(&Command::Txn(always(vec![RequestOp::Range(everything())])));
    assert_eq!((outcome.revision, outcome.changes.len(), outcome.result.is_ok()), (Revision(2), 0, true));
}
