//! Requests of the KV service, in and out.

use quorate_kv::{
    CompactRequest, Compare, CompareResult, CompareTarget, DeleteRangeRequest, KvError, PutRequest, RangeRequest,
    RequestOp, SortOrder, SortTarget, TxnRequest,
};
use quorate_proto::etcdserverpb as pb;

/// Reads a range.
///
/// # Errors
/// [`KvError::InvalidSortOption`]; [`KvError::EmptyKey`] first, as etcd checks them.
pub fn decode_range(range: pb::RangeRequest) -> Result<RangeRequest, KvError> {
    if range.key.is_empty() {
        return Err(KvError::EmptyKey);
    }
    let order = pb::range_request::SortOrder::try_from(range.sort_order).map_err(|_| KvError::InvalidSortOption)?;
    let target = pb::range_request::SortTarget::try_from(range.sort_target).map_err(|_| KvError::InvalidSortOption)?;
    Ok(RangeRequest {
        key: range.key,
        range_end: range.range_end,
        limit: range.limit,
        revision: range.revision,
        sort_order: match order {
            pb::range_request::SortOrder::None => SortOrder::None,
            pb::range_request::SortOrder::Ascend => SortOrder::Ascend,
            pb::range_request::SortOrder::Descend => SortOrder::Descend,
        },
        sort_target: match target {
            pb::range_request::SortTarget::Key => SortTarget::Key,
            pb::range_request::SortTarget::Version => SortTarget::Version,
            pb::range_request::SortTarget::Create => SortTarget::Create,
            pb::range_request::SortTarget::Mod => SortTarget::Mod,
            pb::range_request::SortTarget::Value => SortTarget::Value,
        },
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: range.min_mod_revision,
        max_mod_revision: range.max_mod_revision,
        min_create_revision: range.min_create_revision,
        max_create_revision: range.max_create_revision,
    })
}

/// Writes a range.
#[must_use]
pub fn encode_range(range: RangeRequest) -> pb::RangeRequest {
    let order = match range.sort_order {
        SortOrder::None => pb::range_request::SortOrder::None,
        SortOrder::Ascend => pb::range_request::SortOrder::Ascend,
        SortOrder::Descend => pb::range_request::SortOrder::Descend,
    };
    let target = match range.sort_target {
        SortTarget::Key => pb::range_request::SortTarget::Key,
        SortTarget::Version => pb::range_request::SortTarget::Version,
        SortTarget::Create => pb::range_request::SortTarget::Create,
        SortTarget::Mod => pb::range_request::SortTarget::Mod,
        SortTarget::Value => pb::range_request::SortTarget::Value,
    };
    pb::RangeRequest {
        key: range.key,
        range_end: range.range_end,
        limit: range.limit,
        revision: range.revision,
        sort_order: order.into(),
        sort_target: target.into(),
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: range.min_mod_revision,
        max_mod_revision: range.max_mod_revision,
        min_create_revision: range.min_create_revision,
        max_create_revision: range.max_create_revision,
    }
}

/// Reads a put.
#[must_use]
pub fn decode_put(put: pb::PutRequest) -> PutRequest {
    PutRequest {
        key: put.key,
        value: put.value,
        lease: put.lease,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

/// Writes a put.
#[must_use]
pub fn encode_put(put: PutRequest) -> pb::PutRequest {
    pb::PutRequest {
        key: put.key,
        value: put.value,
        lease: put.lease,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

/// Reads a deletion.
#[must_use]
pub fn decode_delete_range(delete: pb::DeleteRangeRequest) -> DeleteRangeRequest {
    DeleteRangeRequest { key: delete.key, range_end: delete.range_end, prev_kv: delete.prev_kv }
}

/// Writes a deletion.
#[must_use]
pub fn encode_delete_range(delete: DeleteRangeRequest) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: delete.key, range_end: delete.range_end, prev_kv: delete.prev_kv }
}

/// Reads a compaction.
#[must_use]
pub fn decode_compaction(compaction: pb::CompactionRequest) -> CompactRequest {
    CompactRequest { revision: compaction.revision, physical: compaction.physical }
}

/// Writes a compaction.
#[must_use]
pub fn encode_compaction(compaction: CompactRequest) -> pb::CompactionRequest {
    pb::CompactionRequest { revision: compaction.revision, physical: compaction.physical }
}

/// Reads a transaction with all it holds. The protobuf decoder has bounded its depth.
///
/// # Errors
/// An operation that says nothing is [`KvError::KeyNotFound`], as in etcd; unknown sort options and compares have their
/// own errors.
pub fn decode_txn(txn: pb::TxnRequest) -> Result<TxnRequest, KvError> {
    let ops = |ops: Vec<pb::RequestOp>| ops.into_iter().map(decode_op).collect::<Result<_, _>>();
    Ok(TxnRequest {
        compare: txn.compare.into_iter().map(decode_compare).collect::<Result<_, _>>()?,
        success: ops(txn.success)?,
        failure: ops(txn.failure)?,
    })
}

/// Writes a transaction with all it holds.
#[must_use]
pub fn encode_txn(txn: TxnRequest) -> pb::TxnRequest {
    let ops = |ops: Vec<RequestOp>| ops.into_iter().map(encode_op).collect();
    pb::TxnRequest {
        compare: txn.compare.into_iter().map(encode_compare).collect(),
        success: ops(txn.success),
        failure: ops(txn.failure),
    }
}

fn decode_op(op: pb::RequestOp) -> Result<RequestOp, KvError> {
    use pb::request_op::Request;
    Ok(match op.request.ok_or(KvError::KeyNotFound)? {
        Request::RequestRange(range) => RequestOp::Range(decode_range(range)?),
        Request::RequestPut(put) => RequestOp::Put(decode_put(put)),
        Request::RequestDeleteRange(delete) => RequestOp::DeleteRange(decode_delete_range(delete)),
        Request::RequestTxn(txn) => RequestOp::Txn(decode_txn(txn)?),
    })
}

fn encode_op(op: RequestOp) -> pb::RequestOp {
    use pb::request_op::Request;
    let request = match op {
        RequestOp::Range(range) => Request::RequestRange(encode_range(range)),
        RequestOp::Put(put) => Request::RequestPut(encode_put(put)),
        RequestOp::DeleteRange(delete) => Request::RequestDeleteRange(encode_delete_range(delete)),
        RequestOp::Txn(txn) => Request::RequestTxn(encode_txn(txn)),
    };
    pb::RequestOp { request: Some(request) }
}

/// An operand that is missing, or belongs to another target, counts as zero or as the empty value: so etcd reads it,
/// and Go clients leave zeros out.
fn decode_compare(compare: pb::Compare) -> Result<Compare, KvError> {
    use pb::compare::{CompareResult as R, CompareTarget as T, TargetUnion as U};
    let result = R::try_from(compare.result).map_err(|_| KvError::InvalidCompare)?;
    let target = T::try_from(compare.target).map_err(|_| KvError::InvalidCompare)?;
    Ok(Compare {
        key: compare.key,
        range_end: compare.range_end,
        target: match (target, compare.target_union) {
            (T::Version, Some(U::Version(version))) => CompareTarget::Version(version),
            (T::Version, _) => CompareTarget::Version(0),
            (T::Create, Some(U::CreateRevision(revision))) => CompareTarget::Create(revision),
            (T::Create, _) => CompareTarget::Create(0),
            (T::Mod, Some(U::ModRevision(revision))) => CompareTarget::Mod(revision),
            (T::Mod, _) => CompareTarget::Mod(0),
            (T::Value, Some(U::Value(value))) => CompareTarget::Value(value),
            (T::Value, _) => CompareTarget::Value(bytes::Bytes::new()),
            (T::Lease, Some(U::Lease(lease))) => CompareTarget::Lease(lease),
            (T::Lease, _) => CompareTarget::Lease(0),
        },
        result: match result {
            R::Equal => CompareResult::Equal,
            R::Greater => CompareResult::Greater,
            R::Less => CompareResult::Less,
            R::NotEqual => CompareResult::NotEqual,
        },
    })
}

fn encode_compare(compare: Compare) -> pb::Compare {
    use pb::compare::{CompareResult as R, CompareTarget as T, TargetUnion as U};
    let (target, operand) = match compare.target {
        CompareTarget::Version(version) => (T::Version, U::Version(version)),
        CompareTarget::Create(revision) => (T::Create, U::CreateRevision(revision)),
        CompareTarget::Mod(revision) => (T::Mod, U::ModRevision(revision)),
        CompareTarget::Value(value) => (T::Value, U::Value(value)),
        CompareTarget::Lease(lease) => (T::Lease, U::Lease(lease)),
    };
    let result = match compare.result {
        CompareResult::Equal => R::Equal,
        CompareResult::Greater => R::Greater,
        CompareResult::Less => R::Less,
        CompareResult::NotEqual => R::NotEqual,
    };
    pb::Compare {
        result: result.into(),
        target: target.into(),
        key: compare.key,
        range_end: compare.range_end,
        target_union: Some(operand),
    }
}

#[cfg(test)]
mod tests;
