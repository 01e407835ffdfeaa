//! Transactions that only read, in the two parts of a range: compares and walks of the index, then the records.
//!
//! Compares are decided at once, with the index held: one that names an interval walks all of it. The walks of the ranges
//! go in steps, all at one revision.

use crate::compare::{Decision, branch};
use crate::error::KvError;
use crate::keyspace::KeySpace;
use crate::precheck::check_txn;
use crate::range::{RangePlan, Step};
use crate::records::ReadRecords;
use crate::requests::{RequestOp, TxnRequest};
use crate::responses::{ResponseBody, ResponseOp, TxnResponse};
use crate::revision::Revision;

/// A physical compaction took versions away that a plan still needed: it has to begin anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overtaken;

/// A read-only transaction whose index part is under way or done.
#[derive(Debug)]
pub struct TxnPlan {
    succeeded: bool,
    ranges: Vec<RangePlan>,
    /// Ranges whose walk is done.
    walked: usize,
}

impl KeySpace {
    /// Begins a transaction of ranges only, taking `visible` for the current revision as [`KeySpace::begin_range`] does.
    /// The same records serve for [`TxnPlan::finish`].
    ///
    /// # Errors
    /// The inner error refuses the request; the outer is the storage's.
    ///
    /// # Panics
    /// If the transaction is not read-only.
    pub fn begin_read_txn<R: ReadRecords>(
        &self,
        records: &R,
        txn: &TxnRequest,
        visible: Revision,
    ) -> Result<Result<TxnPlan, KvError>, R::Error> {
        assert!(txn.is_read_only(), "a transaction that writes is served as a read");
        let decision = Decision::of(txn, self, records, visible)?;
        if let Err(refused) = check_txn(self, txn, &decision, visible) {
            return Ok(Err(refused));
        }
        let plan = |op: &RequestOp| {
            let RequestOp::Range(range) = op else { unreachable!("a read-only transaction holds ranges only") };
            RangePlan::within_txn(range, visible)
        };
        let ranges = branch(txn, decision.succeeded).iter().map(plan).collect();
        Ok(Ok(TxnPlan { succeeded: decision.succeeded, ranges, walked: 0 }))
    }
}

impl TxnPlan {
    /// Looks at up to `max_keys` more keys of the index.
    ///
    /// # Errors
    /// [`Overtaken`].
    pub fn advance(&mut self, space: &KeySpace, max_keys: usize) -> Result<Step, Overtaken> {
        let Some(range) = self.ranges.get_mut(self.walked) else { return Ok(Step::Done) };
        if range.advance_at_once(space, max_keys)? == Step::Done {
            self.walked += 1;
        }
        Ok(if self.walked == self.ranges.len() { Step::Done } else { Step::More })
    }

    /// Fetches the records and makes the answer.
    ///
    /// # Errors
    /// The storage's.
    ///
    /// # Panics
    /// If the walks are not done.
    pub fn finish<R: ReadRecords>(self, records: &R) -> Result<TxnResponse, R::Error> {
        let answer = |range: RangePlan| {
            let range = range.finish(records)?;
            Ok(ResponseOp { revision: range.revision.0, body: ResponseBody::Range(range) })
        };
        let responses = self.ranges.into_iter().map(answer).collect::<Result<_, R::Error>>()?;
        Ok(TxnResponse { succeeded: self.succeeded, responses })
    }
}
