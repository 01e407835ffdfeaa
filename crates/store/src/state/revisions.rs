//! The revision after each applied entry, for whoever prints the log later: the state alone cannot tell it, since an
//! entry may change nothing.
//!
//! `revisions`: index of a batch's first entry -> sealed row of one varint an entry: the revision after the first, then
//! the increase of each. Rows are kept for the entries of the log, and for no more than the last [`KEPT_ENTRIES`].

use std::collections::BTreeMap;

use quorate_kv::Revision;
use quorate_raft::LogIndex;
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use crate::disk::STATE_FILE;
use crate::error::ReadError;
use crate::fields::{Fields, PutFields};
use crate::seal;

pub(crate) const REVISIONS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("revisions");

/// Far more entries than a log is meant to keep, at one or two bytes each.
const KEPT_ENTRIES: u64 = 1 << 18;

/// Rows that may go when one comes, so that the table comes down to what is kept however much that has become less.
const FORGOTTEN_ROWS: usize = 4;

/// Stores the revisions after `first` and the entries behind it, and forgets some rows of entries up to `log_base`, which no log
/// holds any more.
pub(crate) fn store(
    transaction: &WriteTransaction,
    first: LogIndex,
    after: &[Revision],
    log_base: LogIndex,
) -> Result<(), redb::Error> {
    let mut row = seal::unsealed();
    let mut before = 0;
    for revision in after {
        row.put_varint((revision.0 - before) as u64);
        before = revision.0;
    }
    seal::seal(&first.0.to_be_bytes(), &mut row);
    let mut table = transaction.open_table(REVISIONS)?;
    table.insert(first.0, row.as_slice())?;
    let oldest_kept = log_base.next().0.max(first.0.saturating_sub(KEPT_ENTRIES));
    for _ in 0..FORGOTTEN_ROWS {
        // A row reaches up to the next one.
        let next = table.iter()?.nth(1).transpose()?.map(|(index, _)| index.value());
        if next.is_none_or(|next| next > oldest_kept) {
            break;
        }
        table.pop_first()?;
    }
    Ok(())
}

/// All that are kept.
pub(crate) fn read(transaction: &ReadTransaction) -> Result<BTreeMap<LogIndex, Revision>, ReadError> {
    let failed = |error: redb::Error| ReadError::from_redb(STATE_FILE, error);
    let mut revisions = BTreeMap::new();
    let table = transaction.open_table(REVISIONS).map_err(|error| failed(error.into()))?;
    for row in ReadableTable::range::<u64>(&table, ..).map_err(|error| failed(error.into()))? {
        let (first, row) = row.map_err(|error| failed(error.into()))?;
        let first = first.value();
        let damaged =
            || ReadError::damaged(STATE_FILE, format!("the revisions from entry {first} on fail their checksum"));
        let body = seal::open(&first.to_be_bytes(), row.value()).ok_or_else(damaged)?;
        let mut fields = Fields(body);
        let (mut index, mut revision) = (first, 0);
        while !fields.0.is_empty() {
            revision += fields.varint().ok_or_else(damaged)? as i64;
            revisions.insert(LogIndex(index), Revision(revision));
            index += 1;
        }
    }
    Ok(revisions)
}
