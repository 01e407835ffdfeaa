//! Checks of a request by itself, before it is proposed: a bad request makes no log entry.
//!
//! The order of the checks, and so which error wins, is etcd's.

use std::collections::BTreeSet;

use crate::deleted::{Deleted, unite};
use crate::error::KvError;
use crate::interval::Interval;
use crate::lease::MAX_LEASE_TTL_SECONDS;
use crate::requests::{
    Command, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, SortOrder, SortTarget, TxnRequest,
};

/// Most transactions within each other, the outermost counted. Part of the log's format: an entry past it is refused
/// when it is applied.
pub const MAX_TXN_DEPTH: usize = 24;

/// Bounds of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most compares, and most operations in either branch. A nested transaction has what its parent leaves of it.
    pub max_txn_ops: usize,
    /// Most transactions within each other, the outermost counted; [`MAX_TXN_DEPTH`] at most.
    pub max_txn_depth: usize,
}

impl Limits {
    /// What every node can apply, whatever it lets its clients propose: part of the log's format, because it decides
    /// outcomes.
    pub(crate) const APPLICABLE: Limits = Limits { max_txn_ops: usize::MAX, max_txn_depth: MAX_TXN_DEPTH };
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_txn_ops: 128, max_txn_depth: MAX_TXN_DEPTH }
    }
}

/// Checks a write.
///
/// # Errors
/// What is wrong with it.
pub fn validate(command: &Command, limits: &Limits) -> Result<(), KvError> {
    match command {
        Command::Put(put) => validate_put(put),
        Command::DeleteRange(delete) => key_is_given(&delete.key),
        Command::Txn(txn) => validate_txn(txn, limits),
        Command::LeaseGrant(grant) => validate_grant(grant),
        Command::Compact(_)
        | Command::Clock(_)
        | Command::Auth(_)
        | Command::Alarm(_)
        | Command::LeaseRevoke { .. }
        | Command::LeaseRenew { .. }
        | Command::LeaseExpire(_) => Ok(()),
    }
}

/// Checks a range. Unknown sort options do not get this far: decoding refuses them.
///
/// # Errors
/// [`KvError::EmptyKey`].
pub fn validate_range(range: &RangeRequest) -> Result<(), KvError> {
    key_is_given(&range.key)
}

/// Checks a streamed range: it comes unfiltered and in key order, also where a target is named without an order. (etcd
/// 3.7.3 lets that pass, too, but then sorts each chunk and goes on after its last key, so that keys are lost.)
///
/// # Errors
/// What is wrong with it.
pub fn validate_stream(range: &RangeRequest) -> Result<(), KvError> {
    validate_range(range)?;
    let in_key_order = match range.sort_order {
        SortOrder::None => true,
        SortOrder::Ascend => range.sort_target == SortTarget::Key,
        SortOrder::Descend => false,
    };
    if !in_key_order {
        return Err(KvError::StreamSorted);
    }
    let bounds = [range.min_mod_revision, range.max_mod_revision, range.min_create_revision, range.max_create_revision];
    if bounds.iter().any(|bound| *bound != 0) {
        return Err(KvError::StreamFiltered);
    }
    Ok(())
}

/// Checks a transaction, read-only ones too.
///
/// # Errors
/// What is wrong with it.
pub fn validate_txn(txn: &TxnRequest, limits: &Limits) -> Result<(), KvError> {
    validate_ops(txn, limits.max_txn_ops, limits.max_txn_depth)?;
    Changed::by_branch(&txn.success)?;
    Changed::by_branch(&txn.failure)?;
    Ok(())
}

fn key_is_given(key: &[u8]) -> Result<(), KvError> {
    if key.is_empty() { Err(KvError::EmptyKey) } else { Ok(()) }
}

fn validate_put(put: &PutRequest) -> Result<(), KvError> {
    key_is_given(&put.key)?;
    if put.ignore_value && !put.value.is_empty() {
        return Err(KvError::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(KvError::LeaseProvided);
    }
    Ok(())
}

fn validate_grant(grant: &LeaseGrantRequest) -> Result<(), KvError> {
    if grant.id == 0 {
        return Err(KvError::LeaseNotFound);
    }
    if grant.ttl_seconds > MAX_LEASE_TTL_SECONDS {
        return Err(KvError::LeaseTtlTooLarge);
    }
    Ok(())
}

fn validate_ops(txn: &TxnRequest, max_ops: usize, max_depth: usize) -> Result<(), KvError> {
    let ops = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    if ops > max_ops || max_depth == 0 {
        return Err(KvError::TooManyOps);
    }
    txn.compare.iter().try_for_each(|compare| key_is_given(&compare.key))?;
    txn.success.iter().chain(&txn.failure).try_for_each(|op| match op {
        RequestOp::Range(range) => validate_range(range),
        RequestOp::Put(put) => validate_put(put),
        RequestOp::DeleteRange(delete) => key_is_given(&delete.key),
        RequestOp::Txn(nested) => validate_ops(nested, max_ops - ops, max_depth - 1),
    })
}

/// What one branch of a transaction changes.
#[derive(Default)]
struct Changed<'a> {
    puts: BTreeSet<&'a [u8]>,
    deleted: Deleted<'a>,
}

impl<'a> Changed<'a> {
    /// Refuses two puts of a key, and a put of a key that is deleted.
    ///
    /// A nested put is held against the deletions of this level and of the nested transactions before it, not of those
    /// after it: etcd lets "put, then delete" pass there and clients may count on it. So one revision can change a key
    /// twice.
    fn by_branch(ops: &'a [RequestOp]) -> Result<Changed<'a>, KvError> {
        let mut changed = Changed::default();
        for op in ops {
            if let RequestOp::DeleteRange(delete) = op {
                changed.deleted.insert(literal_interval(&delete.key, &delete.range_end));
            }
        }
        for op in ops {
            if let RequestOp::Txn(nested) = op {
                let success = Changed::by_branch(&nested.success)?;
                let failure = Changed::by_branch(&nested.failure)?;
                changed.add_nested(success, failure)?;
            }
        }
        for op in ops {
            if let RequestOp::Put(put) = op
                && (changed.deleted.contains(&put.key) || !changed.puts.insert(&put.key))
            {
                return Err(KvError::DuplicateKey);
            }
        }
        Ok(changed)
    }

    fn add_nested(&mut self, success: Changed<'a>, failure: Changed<'a>) -> Result<(), KvError> {
        // Only one of the two branches is taken, so they may share keys.
        let mut puts = success.puts;
        unite(&mut puts, failure.puts);
        let is_deleted = puts.iter().any(|key| self.deleted.contains(key));
        let distinct = self.puts.len() + puts.len();
        unite(&mut self.puts, puts);
        if is_deleted || self.puts.len() < distinct {
            return Err(KvError::DuplicateKey);
        }
        self.deleted.absorb(success.deleted);
        self.deleted.absorb(failure.deleted);
        Ok(())
    }
}

/// The interval as etcd's duplicate check sees it, where a range end of `"\0"` is a key like any other: "delete
/// everything, then put" passes there and must pass here.
fn literal_interval<'a>(key: &'a [u8], range_end: &'a [u8]) -> Interval<'a> {
    if range_end.is_empty() { Interval::One(key) } else { Interval::Between(key, range_end) }
}
