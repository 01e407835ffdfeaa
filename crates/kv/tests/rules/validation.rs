//! What is refused before it is proposed.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use quorate_kv::{
    Command, Compare, CompareResult, CompareTarget, KvError, Limits, MAX_TXN_DEPTH, PutRequest, RequestOp, TxnRequest,
    validate, validate_range,
};

use crate::store::{Store, always, bytes, delete, everything, put, range};

#[track_caller]
fn check(txn: TxnRequest, verdict: Result<(), KvError>) {
    assert_eq!(validate(&Command::Txn(txn), &Limits::default()), verdict);
}

fn do_put(key: &str) -> RequestOp {
    RequestOp::Put(put(key, "1"))
}

fn do_delete(key: &str, range_end: &str) -> RequestOp {
    RequestOp::DeleteRange(delete(key, range_end))
}

fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    RequestOp::Txn(TxnRequest { compare: Vec::new(), success, failure })
}

fn compare(key: &str) -> Compare {
    Compare { key: bytes(key), range_end: bytes(""), target: CompareTarget::Version(0), result: CompareResult::Equal }
}

fn ranges(count: usize) -> Vec<RequestOp> {
    vec![RequestOp::Range(everything()); count]
}

#[test]
fn a_key_is_needed_everywhere() {
    let limits = Limits::default();
    assert_eq!(validate_range(&range("", "b")), Err(KvError::EmptyKey));
    assert_eq!(validate_range(&everything()), Ok(()));
    assert_eq!(validate(&Command::Put(put("", "1")), &limits), Err(KvError::EmptyKey));
    assert_eq!(validate(&Command::DeleteRange(delete("", "\0")), &limits), Err(KvError::EmptyKey));
    check(always(vec![RequestOp::Range(range("", ""))]), Err(KvError::EmptyKey));
    check(always(vec![nested(vec![], vec![do_put("")])]), Err(KvError::EmptyKey));
    check(TxnRequest { compare: vec![compare("")], ..TxnRequest::default() }, Err(KvError::EmptyKey));
}

#[test]
fn a_put_cannot_both_give_and_ignore() {
    let limits = Limits::default();
    let cases = [
        (PutRequest { ignore_value: true, ..put("a", "1") }, Err(KvError::ValueProvided)),
        (PutRequest { ignore_lease: true, lease: 1, ..put("a", "1") }, Err(KvError::LeaseProvided)),
        (PutRequest { ignore_value: true, lease: 1, ..put("a", "") }, Ok(())),
        (PutRequest { ignore_lease: true, ..put("a", "1") }, Ok(())),
    ];
    for (request, verdict) in cases {
        assert_eq!(validate(&Command::Put(request), &limits), verdict);
    }
}

#[test]
fn the_longest_list_counts_against_the_limit() {
    let full = TxnRequest { compare: vec![compare("a"); 128], success: ranges(128), failure: ranges(128) };
    check(full, Ok(()));
    check(TxnRequest { compare: vec![compare("a"); 129], ..TxnRequest::default() }, Err(KvError::TooManyOps));
    check(TxnRequest { success: ranges(129), ..TxnRequest::default() }, Err(KvError::TooManyOps));
    check(TxnRequest { failure: ranges(129), ..TxnRequest::default() }, Err(KvError::TooManyOps));
}

#[test]
fn a_nested_transaction_has_what_its_parent_leaves() {
    let parent = |inner: usize| {
        let mut ops = ranges(99);
        ops.push(nested(ranges(inner), vec![]));
        always(ops)
    };
    check(parent(28), Ok(()));
    check(parent(29), Err(KvError::TooManyOps));
}

#[test]
fn depth_is_bounded_where_it_is_applied_too() {
    let deep = |depth: usize| (1..depth).fold(always(vec![]), |inner, _| always(vec![RequestOp::Txn(inner)]));
    check(deep(MAX_TXN_DEPTH), Ok(()));
    check(deep(MAX_TXN_DEPTH + 1), Err(KvError::TooManyOps));
    let refused = Store::default().apply(&Command::Txn(deep(MAX_TXN_DEPTH + 1))).result;
    assert_eq!(refused, Err(KvError::TooManyOps));
}

#[test]
fn how_many_operations_are_let_in_does_not_decide_what_is_applied() {
    let outcome = Store::default().apply(&Command::Txn(always(ranges(500))));
    assert!(outcome.result.is_ok());
}

#[test]
fn a_key_is_changed_once() {
    let duplicate = Err(KvError::DuplicateKey);
    let cases = [
        (vec![do_put("a"), do_put("b")], Ok(())),
        (vec![do_put("a"), do_put("a")], duplicate),
        (vec![do_put("a"), do_delete("a", "")], duplicate),
        (vec![do_delete("a", ""), do_put("a")], duplicate),
        (vec![do_delete("a", "c"), do_put("b")], duplicate),
        (vec![do_delete("a", "c"), do_put("c")], Ok(())),
        (vec![do_delete("c", "a"), do_put("b")], Ok(())),
        (vec![do_delete("a", "c"), do_delete("b", "d")], Ok(())),
        (vec![do_put("a"), RequestOp::Range(range("a", ""))], Ok(())),
        (vec![do_put("a"), nested(vec![do_put("a")], vec![])], duplicate),
        (vec![do_put("a"), nested(vec![], vec![do_put("a")])], duplicate),
        (vec![nested(vec![do_put("a")], vec![do_put("a")])], Ok(())),
        (vec![nested(vec![do_put("a")], vec![do_put("a"), do_put("a")])], duplicate),
        (vec![nested(vec![do_put("a")], vec![]), nested(vec![], vec![do_put("a")])], duplicate),
        (vec![nested(vec![do_put("a")], vec![do_delete("a", "")])], Ok(())),
        (vec![do_delete("a", "c"), nested(vec![do_put("b")], vec![])], duplicate),
        (vec![nested(vec![do_put("b")], vec![]), do_delete("a", "c")], duplicate),
        (vec![do_put("b"), nested(vec![do_delete("a", "c")], vec![])], duplicate),
        (vec![nested(vec![do_delete("a", "")], vec![]), nested(vec![do_put("a")], vec![])], duplicate),
        (vec![nested(vec![do_put("a")], vec![]), nested(vec![do_delete("a", "")], vec![])], Ok(())),
        (vec![do_delete("a", "\0"), do_put("b")], Ok(())),
    ];
    for (ops, verdict) in cases {
        check(TxnRequest { success: ops.clone(), ..TxnRequest::default() }, verdict);
        check(TxnRequest { failure: ops, ..TxnRequest::default() }, verdict);
    }
}

/// What a branch changes: the keys it puts, and what it deletes as `(key, range_end)`.
type Changed = (BTreeSet<Bytes>, Vec<(Bytes, Bytes)>);

/// `None` if a branch changes a key twice.
fn changed_naively(ops: &[RequestOp]) -> Option<Changed> {
    let mut puts = BTreeSet::new();
    let mut deleted: Vec<(Bytes, Bytes)> = Vec::new();
    let is_free = |deleted: &[(Bytes, Bytes)], key: &Bytes| {
        deleted.iter().all(|(first, end)| if end.is_empty() { key != first } else { key < first || key >= end })
    };
    for op in ops {
        if let RequestOp::DeleteRange(delete) = op {
            deleted.push((delete.key.clone(), delete.range_end.clone()));
        }
    }
    for op in ops {
        if let RequestOp::Txn(nested) = op {
            let (success, failure) = (changed_naively(&nested.success)?, changed_naively(&nested.failure)?);
            for key in success.0.union(&failure.0) {
                if !is_free(&deleted, key) || !puts.insert(key.clone()) {
                    return None;
                }
            }
            deleted.extend(success.1.into_iter().chain(failure.1));
        }
    }
    for op in ops {
        if let RequestOp::Put(put) = op
            && (!is_free(&deleted, &put.key) || !puts.insert(put.key.clone()))
        {
            return None;
        }
    }
    Some((puts, deleted))
}

/// Among so many keys that a good half of the transactions changes none twice.
fn some_op() -> impl Strategy<Value = RequestOp> {
    let range_end = prop_oneof![3 => Just(String::new()), 1 => Just("\0".to_owned()), 2 => "[a-h]{1,2}"];
    let op = prop_oneof![
        2 => "[a-h]{2}".prop_map(|key| do_put(&key)),
        1 => ("[a-h]{1,2}", range_end).prop_map(|(key, end)| do_delete(&key, &end)),
    ];
    op.prop_recursive(4, 16, 4, |op| {
        (vec(op.clone(), 0..4), vec(op, 0..4)).prop_map(|(success, failure)| nested(success, failure))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_is_changed_twice_is_found_as_by_comparing_all_with_all(ops in vec(some_op(), 1..5)) {
        let verdict = changed_naively(&ops).map(drop).ok_or(KvError::DuplicateKey);
        prop_assert_eq!(validate(&Command::Txn(always(ops)), &Limits::default()), verdict);
    }
}

/// So many operations as a request of 1.5 MiB has room for, in nested transactions that are within the limits.
fn many(op: impl Fn(usize) -> RequestOp) -> RequestOp {
    const WIDTH: usize = 42;
    let innermost = |outer: usize| nested((0..WIDTH).map(|inner| op(outer * WIDTH + inner)).collect(), vec![]);
    let middle = |outer: usize| nested((0..WIDTH).map(|inner| innermost(outer * WIDTH + inner)).collect(), vec![]);
    nested((0..WIDTH).map(middle).collect(), vec![])
}

/// If every put were held against every deletion, this would take many minutes.
#[test]
fn as_many_deletions_and_puts_as_a_request_has_room_for_are_judged_at_once() {
    let puts = many(|at| do_put(&format!("k{at:05}")));
    let keeping = PutRequest { ignore_lease: true, ..put("", "2") };
    let keeps = many(|at| RequestOp::Put(PutRequest { key: bytes(&format!("k{at:05}")), ..keeping.clone() }));
    let one_key = || many(|_| do_delete("a", ""));
    let spans = many(|at| do_delete(&format!("b{at:05}"), &format!("b{at:05}a")));
    let mut store = Store::default();
    for ops in [vec![one_key(), puts], vec![one_key(), keeps.clone()], vec![spans, keeps]] {
        let txn = Command::Txn(always(ops));
        assert_eq!(validate(&txn, &Limits::default()), Ok(()));
        assert!(store.apply(&txn).result.is_ok());
    }
}
