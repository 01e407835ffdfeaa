//! Conditions of transactions, all decided against the state before the transaction.

use std::cmp::Ordering;

use crate::index::{Lineage, Live};
use crate::interval::Interval;
use crate::keyspace::KeySpace;
use crate::records::ReadRecords;
use crate::requests::{Compare, CompareResult, CompareTarget, RequestOp, TxnRequest};
use crate::revision::Revision;

/// Which branch a transaction takes, and the same for the transactions nested in that branch, in order.
///
/// Decided for the whole tree before anything is executed, so that no operation of a transaction can sway a compare of
/// it.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) succeeded: bool,
    pub(crate) nested: Vec<Decision>,
}

impl Decision {
    /// Decides `txn` and all it holds against the state at `at`.
    pub(crate) fn of<R: ReadRecords>(
        txn: &TxnRequest,
        space: &KeySpace,
        records: &R,
        at: Revision,
    ) -> Result<Decision, R::Error> {
        let mut succeeded = true;
        for compare in &txn.compare {
            if !holds(compare, space, records, at)? {
                succeeded = false;
                break;
            }
        }
        let mut nested = Vec::new();
        for op in branch(txn, succeeded) {
            if let RequestOp::Txn(inner) = op {
                nested.push(Decision::of(inner, space, records, at)?);
            }
        }
        Ok(Decision { succeeded, nested })
    }
}

/// The operations of the branch that is taken.
pub(crate) fn branch(txn: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

fn holds<R: ReadRecords>(compare: &Compare, space: &KeySpace, records: &R, at: Revision) -> Result<bool, R::Error> {
    let interval = Interval::new(&compare.key, &compare.range_end);
    let mut found = false;
    let mut verdict = Ok(true);
    // The walk ends at the first key that does not satisfy the condition.
    space.index.walk(interval, None, at.0, usize::MAX, |_, live| {
        found = true;
        verdict = order(&compare.target, live, records).map(|order| relation_holds(compare.result, order));
        matches!(verdict, Ok(true))
    });
    if found {
        return verdict;
    }
    // A missing key is compared as one whose numbers are all 0; with no value at all, no relation to a value holds.
    Ok(match &compare.target {
        CompareTarget::Value(_) => false,
        CompareTarget::Version(n) | CompareTarget::Create(n) | CompareTarget::Mod(n) | CompareTarget::Lease(n) => {
            relation_holds(compare.result, 0.cmp(n))
        }
    })
}

/// Order of the key's field to the operand. The record is read only for what the index does not know.
fn order<R: ReadRecords>(target: &CompareTarget, live: Live, records: &R) -> Result<Ordering, R::Error> {
    let record = || records.get(live.at)?.ok_or_else(|| R::missing(live.at));
    let lineage = || match live.lineage {
        Some(lineage) => Ok(lineage),
        None => record().map(|record| Lineage { create_revision: record.create_revision, version: record.version }),
    };
    Ok(match target {
        CompareTarget::Mod(revision) => live.at.revision.cmp(revision),
        CompareTarget::Version(version) => lineage()?.version.cmp(version),
        CompareTarget::Create(revision) => lineage()?.create_revision.cmp(revision),
        CompareTarget::Value(value) => record()?.value.cmp(value),
        CompareTarget::Lease(lease) => record()?.lease.cmp(lease),
    })
}

fn relation_holds(relation: CompareResult, order: Ordering) -> bool {
    match relation {
        CompareResult::Equal => order.is_eq(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::NotEqual => order.is_ne(),
    }
}
