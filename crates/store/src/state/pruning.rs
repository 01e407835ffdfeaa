//! Physical compaction, on a disk that may be all but full.
//!
//! To remove a record changes the page it stands on, which is written whole with the next checkpoint, and gives space back only
//! after that. On a disk without that room redb would fail in the midst, which ends the process; at the next start it would go on
//! there and end again.
//!
//! Invariants:
//! 1. a step begins only where it can go on, and leaves room for the next checkpoint and as much again for what comes before it;
//! 2. a step that is too large for the room there is makes itself durable in parts, and what one part frees serves the next.

use quorate_kv::{KeySpaceMeta, RecordKey, Step};

use super::StateStore;
use super::records::{BatchRecords, RecordReader, RecordTotals, remove_records};
use super::rows::{self, Position};
use crate::database::{Commit, Database};
use crate::error::{ApplyError, WriteError};

/// Bytes that change with one record: the page it stands on, and one of those that lead there. On neighbouring records it is less.
const CHANGED_BYTES: u64 = 2 * 4096;
/// A table takes at most so much for each byte of its records: redb merges pages that are less than a third full.
const TABLE_BYTES_A_RECORD_BYTE: u64 = 4;
/// With room for fewer records no step begins: each part costs two syncs. In the midst of one a part has as many, come what may: they
/// are within the reserve.
const MIN_PART_RECORDS: u64 = 64;

impl StateStore {
    /// Physically removes what compaction hides, for at most `max_keys` keys; says whether more can be removed at once.
    ///
    /// Held up, with nothing done and `false`, while a snapshot is read or the disk is all but full: ask again from time to time.
    ///
    /// # Errors
    /// Any error: the node must stop, and the state is of no use before it is opened again.
    pub fn compact_step(&mut self, max_keys: usize) -> Result<bool, ApplyError> {
        let shared = self.shared.clone();
        let _batch = shared.begin_batch();
        let (database, mut rows) = self.current();
        database.check()?;
        let room = self.removable(&database, rows.position.totals)?;
        if room < MIN_PART_RECORDS {
            return Ok(false);
        }
        let before = rows.position.key_space;
        let mut records = BatchRecords::new(RecordReader::new(&database.read()?)?);
        let step = {
            let mut inner = shared.write();
            let step = inner.key_space.compact_step(&mut records, max_keys);
            let step = step.inspect_err(|error| database.poison(error.to_string()))?;
            rows.position.key_space = inner.key_space.meta();
            step
        };
        let batch = records.into_batch();
        assert!(
            batch.rows.is_empty() && batch.records.values().all(Option::is_none),
            "compaction removes records alone"
        );
        let gone: Vec<RecordKey> = batch.records.into_keys().collect();
        if !gone.is_empty() || rows.position.key_space != before {
            rows.position.totals = self.remove(&database, &rows.position, before, &gone, room)?;
            shared.publish(rows);
        }
        Ok(step == Step::More)
    }

    /// Removes these records, which brings the file from `before` to `to`. There is room for so many of them at once.
    fn remove(
        &mut self,
        database: &Database,
        to: &Position,
        before: KeySpaceMeta,
        mut gone: &[RecordKey],
        mut room: u64,
    ) -> Result<RecordTotals, WriteError> {
        let mut position = *to;
        loop {
            let (part, rest) = gone.split_at(gone.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            // A pass that a crash ends here has begun, and is not done.
            let pruned = if rest.is_empty() { to.key_space.pruned } else { before.pruned };
            position.key_space = KeySpaceMeta { pruned, ..to.key_space };
            self.pruned_bytes = self.changed_bytes(position.totals, part.len() as u64);
            position.totals = database.write(Commit::Deferred, |transaction| {
                let mut totals = position.totals;
                remove_records(transaction, part, &mut totals)?;
                rows::store_position(transaction, &Position { totals, ..position })?;
                Ok(totals)
            })?;
            if rest.is_empty() {
                return Ok(position.totals);
            }
            gone = rest;
            self.make_durable(database, &position)?;
            room = self.removable(database, position.totals)?.max(MIN_PART_RECORDS);
        }
    }

    /// How many records can be removed before the next checkpoint, with no more than half of what is free.
    fn removable(&self, database: &Database, totals: RecordTotals) -> Result<u64, WriteError> {
        let free_bytes = database.free_bytes(&*self.disk)?;
        // The other half is for what is applied meanwhile: a checkpoint that found no room once would find none ever after.
        let Some(room) = (free_bytes / 2).checked_sub(self.checkpoint_bytes()) else { return Ok(0) };
        if room + self.pruned_bytes >= TABLE_BYTES_A_RECORD_BYTE * totals.bytes {
            return Ok(u64::MAX);
        }
        Ok(room / record_bytes(totals))
    }

    /// Bytes of pages that a compaction has changed when it has removed so many records more.
    fn changed_bytes(&self, totals: RecordTotals, count: u64) -> u64 {
        let more = count.saturating_mul(record_bytes(totals));
        self.pruned_bytes.saturating_add(more).min(TABLE_BYTES_A_RECORD_BYTE * totals.bytes)
    }
}

/// Bytes of pages that change with one record. A large record shares its page with one neighbour at most.
fn record_bytes(totals: RecordTotals) -> u64 {
    CHANGED_BYTES + totals.bytes / totals.count.max(1)
}
