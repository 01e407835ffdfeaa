//! Commands of the state machine as protobuf.

use quorate_kv::{
    ClusterTime, Command, CompactRequest, Compare, CompareResult, CompareTarget, DeleteRangeRequest, DueLease,
    LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, SortOrder, SortTarget, TxnRequest,
};
use quorate_proto::quorate::log::v1 as pb;

use super::{WHAT, auth};
use crate::DecodeError;

/// What the key space applies is what the log carries: a deeper transaction is refused before it is proposed.
pub use quorate_kv::MAX_TXN_DEPTH;

pub(super) fn to_command(command: &Command) -> pb::envelope::Command {
    use pb::envelope::Command as Wire;
    match command {
        Command::Put(put) => Wire::Put(to_put(put)),
        Command::DeleteRange(delete) => Wire::DeleteRange(to_delete(delete)),
        Command::Txn(txn) => Wire::Txn(to_txn(txn)),
        Command::Compact(compact) => {
            Wire::Compact(pb::Compact { revision: compact.revision, physical: compact.physical })
        }
        Command::Auth(change) => Wire::Auth(auth::to_auth(change)),
        Command::Alarm(change) => Wire::Alarm(auth::to_alarm(*change)),
        Command::Clock(now) => Wire::Clock(pb::Clock { milliseconds: now.0 }),
        Command::LeaseGrant(grant) => Wire::LeaseGrant(pb::LeaseGrant { id: grant.id, ttl_seconds: grant.ttl_seconds }),
        Command::LeaseRevoke { id } => Wire::LeaseRevoke(pb::LeaseRevoke { id: *id }),
        Command::LeaseRenew { ids } => Wire::LeaseRenew(pb::LeaseRenew { ids: ids.clone() }),
        Command::LeaseExpire(due) => {
            Wire::LeaseExpire(pb::LeaseExpire { id: due.id, deadline_milliseconds: due.deadline.0 })
        }
    }
}

pub(super) fn from_command(command: pb::envelope::Command) -> Result<Command, DecodeError> {
    use pb::envelope::Command as Wire;
    Ok(match command {
        Wire::Put(put) => Command::Put(from_put(put)),
        Wire::DeleteRange(delete) => Command::DeleteRange(from_delete(delete)),
        Wire::Txn(txn) => Command::Txn(from_txn(txn, 1)?),
        Wire::Compact(compact) => {
            Command::Compact(CompactRequest { revision: compact.revision, physical: compact.physical })
        }
        Wire::Auth(change) => Command::Auth(auth::from_auth(change)?),
        Wire::Alarm(change) => Command::Alarm(auth::from_alarm(change)?),
        Wire::Clock(clock) => Command::Clock(ClusterTime(clock.milliseconds)),
        Wire::LeaseGrant(grant) => {
            Command::LeaseGrant(LeaseGrantRequest { id: grant.id, ttl_seconds: grant.ttl_seconds })
        }
        Wire::LeaseRevoke(revoke) => Command::LeaseRevoke { id: revoke.id },
        Wire::LeaseRenew(renew) => Command::LeaseRenew { ids: renew.ids },
        Wire::LeaseExpire(expire) => {
            Command::LeaseExpire(DueLease { id: expire.id, deadline: ClusterTime(expire.deadline_milliseconds) })
        }
    })
}

fn to_put(put: &PutRequest) -> pb::Put {
    pb::Put {
        key: put.key.clone(),
        value: put.value.clone(),
        lease: put.lease,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

fn from_put(put: pb::Put) -> PutRequest {
    PutRequest {
        key: put.key,
        value: put.value,
        lease: put.lease,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

fn to_delete(delete: &DeleteRangeRequest) -> pb::DeleteRange {
    pb::DeleteRange { key: delete.key.clone(), range_end: delete.range_end.clone(), prev_kv: delete.prev_kv }
}

fn from_delete(delete: pb::DeleteRange) -> DeleteRangeRequest {
    DeleteRangeRequest { key: delete.key, range_end: delete.range_end, prev_kv: delete.prev_kv }
}

fn to_range(range: &RangeRequest) -> pb::Range {
    pb::Range {
        key: range.key.clone(),
        range_end: range.range_end.clone(),
        limit: range.limit,
        revision: range.revision,
        sort_order: match range.sort_order {
            SortOrder::None => 0,
            SortOrder::Ascend => 1,
            SortOrder::Descend => 2,
        },
        sort_target: match range.sort_target {
            SortTarget::Key => 0,
            SortTarget::Version => 1,
            SortTarget::Create => 2,
            SortTarget::Mod => 3,
            SortTarget::Value => 4,
        },
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: range.min_mod_revision,
        max_mod_revision: range.max_mod_revision,
        min_create_revision: range.min_create_revision,
        max_create_revision: range.max_create_revision,
    }
}

fn from_range(range: pb::Range) -> Result<RangeRequest, DecodeError> {
    Ok(RangeRequest {
        key: range.key,
        range_end: range.range_end,
        limit: range.limit,
        revision: range.revision,
        // A number this build does not know is a command it does not know: guessing would make nodes differ.
        sort_order: match range.sort_order {
            0 => SortOrder::None,
            1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            _ => return Err(DecodeError::UnknownCommand),
        },
        sort_target: match range.sort_target {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Mod,
            4 => SortTarget::Value,
            _ => return Err(DecodeError::UnknownCommand),
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

fn to_txn(txn: &TxnRequest) -> pb::Txn {
    pb::Txn {
        compare: txn.compare.iter().map(to_compare).collect(),
        success: txn.success.iter().map(to_op).collect(),
        failure: txn.failure.iter().map(to_op).collect(),
    }
}

fn from_txn(txn: pb::Txn, depth: usize) -> Result<TxnRequest, DecodeError> {
    if depth > MAX_TXN_DEPTH {
        return Err(DecodeError::malformed(WHAT, format_args!("transactions nest deeper than {MAX_TXN_DEPTH}")));
    }
    let ops = |ops: Vec<pb::RequestOp>| -> Result<Vec<RequestOp>, DecodeError> {
        ops.into_iter().map(|op| from_op(op, depth)).collect()
    };
    Ok(TxnRequest {
        compare: txn.compare.into_iter().map(from_compare).collect::<Result<_, _>>()?,
        success: ops(txn.success)?,
        failure: ops(txn.failure)?,
    })
}

fn to_op(op: &RequestOp) -> pb::RequestOp {
    use pb::request_op::Request;
    let request = match op {
        RequestOp::Range(range) => Request::Range(to_range(range)),
        RequestOp::Put(put) => Request::Put(to_put(put)),
        RequestOp::DeleteRange(delete) => Request::DeleteRange(to_delete(delete)),
        RequestOp::Txn(txn) => Request::Txn(to_txn(txn)),
    };
    pb::RequestOp { request: Some(request) }
}

fn from_op(op: pb::RequestOp, depth: usize) -> Result<RequestOp, DecodeError> {
    use pb::request_op::Request;
    Ok(match op.request.ok_or(DecodeError::UnknownCommand)? {
        Request::Range(range) => RequestOp::Range(from_range(range)?),
        Request::Put(put) => RequestOp::Put(from_put(put)),
        Request::DeleteRange(delete) => RequestOp::DeleteRange(from_delete(delete)),
        Request::Txn(txn) => RequestOp::Txn(from_txn(txn, depth + 1)?),
    })
}

fn to_compare(compare: &Compare) -> pb::Compare {
    use pb::compare::Target;
    pb::Compare {
        key: compare.key.clone(),
        range_end: compare.range_end.clone(),
        result: match compare.result {
            CompareResult::Equal => 0,
            CompareResult::Greater => 1,
            CompareResult::Less => 2,
            CompareResult::NotEqual => 3,
        },
        target: Some(match &compare.target {
            CompareTarget::Version(version) => Target::Version(*version),
            CompareTarget::Create(revision) => Target::CreateRevision(*revision),
            CompareTarget::Mod(revision) => Target::ModRevision(*revision),
            CompareTarget::Value(value) => Target::Value(value.clone()),
            CompareTarget::Lease(lease) => Target::Lease(*lease),
        }),
    }
}

fn from_compare(compare: pb::Compare) -> Result<Compare, DecodeError> {
    use pb::compare::Target;
    Ok(Compare {
        key: compare.key,
        range_end: compare.range_end,
        target: match compare.target.ok_or(DecodeError::UnknownCommand)? {
            Target::Version(version) => CompareTarget::Version(version),
            Target::CreateRevision(revision) => CompareTarget::Create(revision),
            Target::ModRevision(revision) => CompareTarget::Mod(revision),
            Target::Value(value) => CompareTarget::Value(value),
            Target::Lease(lease) => CompareTarget::Lease(lease),
        },
        result: match compare.result {
            0 => CompareResult::Equal,
            1 => CompareResult::Greater,
            2 => CompareResult::Less,
            3 => CompareResult::NotEqual,
            _ => return Err(DecodeError::UnknownCommand),
        },
    })
}
