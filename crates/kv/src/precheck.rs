//! What the state can refuse about a write, found out before its first change.

use crate::compare::{Decision, branch};
use crate::deleted::Deleted;
use crate::error::KvError;
use crate::interval::Interval;
use crate::keyspace::KeySpace;
use crate::requests::{PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::revision::Revision;

/// Checks a bare put. The lease is looked for before the key, as in etcd.
pub(crate) fn check_put(space: &KeySpace, put: &PutRequest) -> Result<(), KvError> {
    check_lease(space, put)?;
    check_present(space, put)
}

/// Checks the operations that `decision` lets `txn` execute, in their order, by the state at `visible`.
pub(crate) fn check_txn(
    space: &KeySpace,
    txn: &TxnRequest,
    decision: &Decision,
    visible: Revision,
) -> Result<(), KvError> {
    TxnCheck { space, visible, deleted: Deleted::default() }.branch(txn, decision)
}

struct TxnCheck<'a> {
    space: &'a KeySpace,
    visible: Revision,
    /// What the transaction deletes before the operation that is checked.
    deleted: Deleted<'a>,
}

impl<'a> TxnCheck<'a> {
    fn branch(&mut self, txn: &'a TxnRequest, decision: &Decision) -> Result<(), KvError> {
        let mut nested = decision.nested.iter();
        for op in branch(txn, decision.succeeded) {
            match op {
                RequestOp::Range(range) => self.range(range)?,
                RequestOp::Put(put) => self.put(put)?,
                RequestOp::DeleteRange(delete) => self.deleted.insert(Interval::new(&delete.key, &delete.range_end)),
                RequestOp::Txn(inner) => {
                    self.branch(inner, nested.next().expect("one decision a nested transaction"))?
                }
            }
        }
        Ok(())
    }

    /// Unlike in a bare range, only 0 means the current revision here; anything below the compact revision is
    /// compacted.
    fn range(&self, range: &RangeRequest) -> Result<(), KvError> {
        let meta = &self.space.meta;
        let floor = if mutant!(TxnRangeOfPruned) { meta.pruned } else { meta.compact_revision };
        match range.revision {
            0 => Ok(()),
            asked if asked > self.visible.0 => Err(KvError::FutureRevision),
            asked if asked < floor.0 => Err(KvError::Compacted),
            _ => Ok(()),
        }
    }

    /// A key to be kept in part must be there when the put's turn comes: an open-ended deletion before it passes the
    /// duplicate check, and etcd 3.7.3, which looks only at the state before the transaction, then dies half-way
    /// through it.
    fn put(&self, put: &PutRequest) -> Result<(), KvError> {
        check_put(self.space, put)?;
        if keeps_a_field(put) && self.deleted.contains(&put.key) && !mutant!(KeepsOfDeleted) {
            return Err(KvError::KeyNotFound);
        }
        Ok(())
    }
}

fn keeps_a_field(put: &PutRequest) -> bool {
    put.ignore_value || put.ignore_lease
}

fn check_present(space: &KeySpace, put: &PutRequest) -> Result<(), KvError> {
    if keeps_a_field(put) && space.index.find(&put.key, i64::MAX).is_none() {
        return Err(KvError::KeyNotFound);
    }
    Ok(())
}

fn check_lease(space: &KeySpace, put: &PutRequest) -> Result<(), KvError> {
    if put.lease == 0 || space.leases.contains(put.lease) { Ok(()) } else { Err(KvError::LeaseNotFound) }
}
