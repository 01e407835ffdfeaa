//! Every field and every variant survives the way out and back; what etcd refuses by number is refused.

use bytes::Bytes;
use prost::Message;

use super::*;

fn key(key: &'static str) -> Bytes {
    Bytes::from_static(key.as_bytes())
}

fn range() -> RangeRequest {
    RangeRequest {
        key: key("a"),
        range_end: key("b"),
        limit: 1,
        revision: 2,
        sort_order: SortOrder::Descend,
        sort_target: SortTarget::Value,
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 3,
        max_mod_revision: 4,
        min_create_revision: 5,
        max_create_revision: 6,
    }
}

fn put() -> PutRequest {
    PutRequest { key: key("a"), value: key("v"), lease: 7, prev_kv: true, ignore_value: true, ignore_lease: true }
}

fn delete() -> DeleteRangeRequest {
    DeleteRangeRequest { key: key("a"), range_end: key("b"), prev_kv: true }
}

fn txn() -> TxnRequest {
    let targets = [
        CompareTarget::Version(1),
        CompareTarget::Create(2),
        CompareTarget::Mod(3),
        CompareTarget::Value(key("v")),
        CompareTarget::Lease(4),
    ];
    let results = [
        CompareResult::Equal,
        CompareResult::Greater,
        CompareResult::Less,
        CompareResult::NotEqual,
        CompareResult::Equal,
    ];
    let compare = targets.into_iter().zip(results);
    TxnRequest {
        compare: compare
            .map(|(target, result)| Compare { key: key("k"), range_end: key("\0"), target, result })
            .collect(),
        success: vec![RequestOp::Range(range()), RequestOp::Put(put())],
        failure: vec![
            RequestOp::DeleteRange(delete()),
            RequestOp::Txn(TxnRequest { success: vec![RequestOp::Put(put())], ..TxnRequest::default() }),
        ],
    }
}

/// Through real bytes, so that a tag mixed up in one direction cannot cancel out in the other.
fn through_bytes<M: Message + Default>(message: &M) -> M {
    M::decode(Bytes::from(message.encode_to_vec())).expect("what was encoded decodes")
}

#[test]
fn requests_survive_the_way_out_and_back() {
    assert_eq!(decode_range(through_bytes(&encode_range(range()))), Ok(range()));
    assert_eq!(decode_put(through_bytes(&encode_put(put()))), put());
    assert_eq!(decode_delete_range(through_bytes(&encode_delete_range(delete()))), delete());
    assert_eq!(decode_txn(through_bytes(&encode_txn(txn()))), Ok(txn()));
    let compaction = CompactRequest { revision: 9, physical: true };
    assert_eq!(decode_compaction(through_bytes(&encode_compaction(compaction))), compaction);
}

#[test]
fn every_sort_option_survives() {
    for sort_order in [SortOrder::None, SortOrder::Ascend, SortOrder::Descend] {
        for sort_target in
            [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value]
        {
            let range = RangeRequest { sort_order, sort_target, ..range() };
            assert_eq!(decode_range(encode_range(range.clone())), Ok(range));
        }
    }
}

#[test]
fn unknown_sort_options_are_refused_after_a_missing_key() {
    let odd_order = pb::RangeRequest { key: key("a"), sort_order: 3, ..Default::default() };
    let odd_target = pb::RangeRequest { key: key("a"), sort_target: -1, ..Default::default() };
    let no_key = pb::RangeRequest { sort_order: 3, ..Default::default() };
    assert_eq!(decode_range(odd_order), Err(KvError::InvalidSortOption));
    assert_eq!(decode_range(odd_target), Err(KvError::InvalidSortOption));
    assert_eq!(decode_range(no_key), Err(KvError::EmptyKey));
}

#[test]
fn an_operation_that_says_nothing_is_key_not_found() {
    let txn = pb::TxnRequest { success: vec![pb::RequestOp { request: None }], ..Default::default() };
    assert_eq!(decode_txn(txn), Err(KvError::KeyNotFound));
}

#[test]
fn unknown_compares_are_refused() {
    for (result, target) in [(4, 0), (0, 5)] {
        let compare = pb::Compare { result, target, key: key("a"), ..Default::default() };
        let txn = pb::TxnRequest { compare: vec![compare], ..Default::default() };
        assert_eq!(decode_txn(txn), Err(KvError::InvalidCompare));
    }
}

#[test]
fn a_missing_or_foreign_operand_counts_as_zero() {
    use pb::compare::{CompareTarget as T, TargetUnion as U};
    let cases = [
        (T::Version, None, CompareTarget::Version(0)),
        (T::Create, Some(U::Version(9)), CompareTarget::Create(0)),
        (T::Mod, None, CompareTarget::Mod(0)),
        (T::Value, Some(U::Lease(9)), CompareTarget::Value(Bytes::new())),
        (T::Lease, None, CompareTarget::Lease(0)),
    ];
    for (target, target_union, wanted) in cases {
        let compare = pb::Compare { target: target.into(), target_union, key: key("a"), ..Default::default() };
        assert_eq!(decode_compare(compare).map(|compare| compare.target), Ok(wanted));
    }
}
