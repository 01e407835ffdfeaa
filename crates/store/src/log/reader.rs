//! Reading entries back, from any thread, in short transactions.

use std::ops::RangeInclusive;
use std::sync::Arc;

use quorate_raft::{Entry, LogIndex};

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
    /// [`ReadError::Damaged`] if a record fails its checksum.
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
        let base = LogIndex(meta.require(MetaKey::Base.name(), |row| Fields(row).u64())?);
        let table = transaction.open_table(ENTRIES).map_err(|error| failed(error.into()))?;
        // The front may be gone since the last step.
        let (mut bytes, mut expected) = (0, from.max(base.next()));
        for row in table.range(from.0..).map_err(|error| failed(error.into()))? {
            let (index, record) = row.map_err(|error| failed(error.into()))?;
            let index = LogIndex(index.value());
            // redb believes a page about its place. One that went astray takes entries with it, and those that are left are sound;
            // one of older entries leads back to them, and who goes on where the last step ended would come by them for ever.
            if index != expected {
                let detail = format!("entry {index} stands in the place of entry {expected}");
                return Err(ReadError::damaged(LOG_FILE, detail));
            }
            if bytes >= max_bytes {
                return Ok((bytes, Some(index)));
            }
            expected = index.next();
            bytes += record.value().len();
            decode_entry(index, record.value()).map_err(|error| damage(index, error))?;
        }
        bytes += meta.verify()?;
        let commit = hard_state(&meta)?.commit;
        if expected <= commit {
            return Err(ReadError::damaged(
                LOG_FILE,
                format!("entry {expected} is missing, and {commit} is committed"),
            ));
        }
        Ok((bytes, None))
    }

    /// All entries of a range that begins within the log, in order, until `visit` says stop with `false`.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if a record fails its checksum.
    pub fn visit(
        &self,
        range: RangeInclusive<LogIndex>,
        mut visit: impl FnMut(Entry) -> bool,
    ) -> Result<(), ReadError> {
        let failed = |error: redb::Error| ReadError::from_redb(LOG_FILE, error);
        let transaction = self.database.read()?;
        let table = transaction.open_table(ENTRIES).map_err(|error| failed(error.into()))?;
        let mut expected = *range.start();
        let rows = table.range(range.start().0..=range.end().0).map_err(|error| failed(error.into()))?;
        for row in rows {
            let (index, record) = row.map_err(|error| failed(error.into()))?;
            let index = LogIndex(index.value());
            if index != expected {
                // Either the front was truncated meanwhile, or a hole opened, which the checks at open exclude.
                break;
            }
            expected = LogIndex(index.0 + 1);
            let entry = decode_entry(index, record.value()).map_err(|error| damage(index, error))?;
            if !visit(entry) {
                break;
            }
        }
        Ok(())
    }
}

fn damage(index: LogIndex, error: EntryError) -> ReadError {
    match error {
        EntryError::Damaged(detail) => ReadError::damaged(LOG_FILE, detail),
        EntryError::Unknown(source) => ReadError::damaged(LOG_FILE, format!("entry {index}: {source}")),
    }
}
