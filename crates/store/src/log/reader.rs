//! Reading entries back, from any thread, in short transactions.

use std::ops::RangeInclusive;
use std::sync::Arc;

use quorate_raft::{Entry, LogIndex};
use redb::ReadOnlyTable;

use super::tables::{ENTRIES, EntryError, MetaKey, decode_entry, hard_state};
use crate::database::Database;
use crate::disk::LOG_FILE;
use crate::error::ReadError;
use crate::fields::Fields;
use crate::meta::MetaRows;

/// A handle on the stored entries; cheap to clone, never blocks the writer.
#[derive(Debug, Clone)]
pub struct LogReader {
    database: Arc<Database>,
}

impl LogReader {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self { database }
    }

    /// Entries from `from` on, as many as fit `max_bytes` (counted by [`Entry::size`]), but at least one.
    ///
    /// Empty if `from` is no longer, or not yet, in the log.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] as [`LogReader::visit`].
    pub fn entries(&self, from: LogIndex, max_bytes: usize) -> Result<Vec<Entry>, ReadError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        self.visit(from..=LogIndex(u64::MAX), |entry| {
            let fits = entries.is_empty() || bytes + entry.size() <= max_bytes;
            bytes += entry.size();
            if fits {
                entries.push(entry);
            }
            fits
        })?;
        Ok(entries)
    }

    /// Reads entries from `from` on until they were `max_bytes`, and verifies them; after the last entry what the file says
    /// of term, vote, base and node. Gives the bytes read and where to go on, which is past `from`; `None` at the end.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if a record or a row fails its checksum, or an entry is not where it belongs.
    ///
    /// # Panics
    /// If `max_bytes` is 0.
    pub fn verify(&self, from: LogIndex, max_bytes: usize) -> Result<(usize, Option<LogIndex>), ReadError> {
        let failed = |error: redb::Error| ReadError::from_redb(LOG_FILE, error);
        let transaction = self.database.read()?;
        assert!(max_bytes > 0, "no entry is read in steps of nothing");
        let meta = MetaRows::open(LOG_FILE, &transaction)?;
        let base = base(&meta)?;
        let table = transaction.open_table(ENTRIES).map_err(|error| failed(error.into()))?;
        // The front may be gone since the last step.
        let (mut bytes, mut expected) = (0, from.max(base.next()));
        for row in table.range(from.0..).map_err(|error| failed(error.into()))? {
            let (index, record) = row.map_err(|error| failed(error.into()))?;
            let index = LogIndex(index.value());
            check_place(index, expected)?;
            if bytes >= max_bytes {
                return Ok((bytes, Some(index)));
            }
            expected = index.next();
            bytes += record.value().len();
            decode_entry(index, record.value()).map_err(|error| damage(index, error))?;
        }
        bytes += meta.verify()?;
        check_end(expected, hard_state(&meta)?.commit)?;
        Ok((bytes, None))
    }

    /// The entries of a range, in order, until `visit` says stop with `false`. None if the range begins before the log does: its
    /// front may have been cut off since the caller knew of it. After the commit index the log may end anywhere.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if a record fails its checksum, an entry is not where it belongs, or the table ends before the
    /// range and the committed entries do. Taken for the end of the log, that would have the caller ask again for ever.
    pub fn visit(
        &self,
        range: RangeInclusive<LogIndex>,
        mut visit: impl FnMut(Entry) -> bool,
    ) -> Result<(), ReadError> {
        let failed = |error: redb::Error| ReadError::from_redb(LOG_FILE, error);
        let (first, last) = range.into_inner();
        // One transaction: a front that is cut off meanwhile is still there for it, and its base as it was.
        let transaction = self.database.read()?;
        let meta = MetaRows::open(LOG_FILE, &transaction)?;
        if first <= base(&meta)? {
            return Ok(());
        }
        let table = transaction.open_table(ENTRIES).map_err(|error| failed(error.into()))?;
        let mut expected = first;
        for row in table.range(first.0..=last.0).map_err(|error| failed(error.into()))? {
            let (index, record) = row.map_err(|error| failed(error.into()))?;
            let index = LogIndex(index.value());
            if mutant!(DamageCutOff) && index != expected {
                return Ok(());
            }
            check_place(index, expected)?;
            expected = index.next();
            let entry = decode_entry(index, record.value()).map_err(|error| damage(index, error))?;
            if !visit(entry) {
                return Ok(());
            }
        }
        if mutant!(DamageCutOff) {
            return Ok(());
        }
        check_end(expected, hard_state(&meta)?.commit.min(last))
    }
}

/// The last index before the log.
fn base(meta: &MetaRows<ReadOnlyTable<&'static str, &'static [u8]>>) -> Result<LogIndex, ReadError> {
    Ok(LogIndex(meta.require(MetaKey::Base.name(), |row| Fields(row).u64())?))
}

/// redb believes a page about its place. One that went astray takes entries with it, and those that are left are sound; one of
/// older entries leads back to them, and who goes on where the last step ended would come by them for ever.
fn check_place(index: LogIndex, expected: LogIndex) -> Result<(), ReadError> {
    if index == expected {
        return Ok(());
    }
    Err(ReadError::damaged(LOG_FILE, format!("entry {index} stands in the place of entry {expected}")))
}

/// Fails if a table that ends before `expected` lacks a committed entry.
fn check_end(expected: LogIndex, commit: LogIndex) -> Result<(), ReadError> {
    if expected > commit {
        return Ok(());
    }
    Err(ReadError::damaged(LOG_FILE, format!("entry {expected} is missing, and {commit} is committed")))
}

fn damage(index: LogIndex, error: EntryError) -> ReadError {
    match error {
        EntryError::Damaged(detail) => ReadError::damaged(LOG_FILE, detail),
        EntryError::Unknown(source) => ReadError::damaged(LOG_FILE, format!("entry {index}: {source}")),
    }
}
