//! A state whose records stay as they are while it is read piece by piece.
//!
//! Records are immutable, so those up to a revision are the same whenever they are read, as long as physical compaction is
//! held where it was: a pin does that. One long transaction would do without a pin, but while it is open no freed page of
//! the file can be used again.

use std::ops::Bound;
use std::sync::Arc;

use quorate_kv::{KeySpace, Pin, Record, RecordKey, Revision};
use redb::ReadTransaction;

use super::records::{RawKey, RecordReader, decode_record};
use super::rows::StateRows;
use super::view::Shared;
use crate::database::Database;
use crate::error::ReadError;

/// See the module documentation. Ends with its drop.
pub(crate) struct PinnedState {
    shared: Arc<Shared>,
    database: Arc<Database>,
    pub(crate) rows: StateRows,
    generation: u64,
    pin: Option<Pin>,
}

impl PinnedState {
    /// Holds physical compaction where it is; waits for a batch on its way into the file. Comes with the file as it is at
    /// this moment: rows change in place, and are those of the pin there alone.
    pub(crate) fn new(shared: &Arc<Shared>) -> Result<(Self, ReadTransaction), ReadError> {
        let _batch = shared.begin_batch();
        let mut inner = shared.write();
        let now = inner.database.read()?;
        let pin = inner.key_space.pin();
        let pinned = PinnedState {
            shared: shared.clone(),
            database: inner.database.clone(),
            rows: inner.rows.clone(),
            generation: inner.generation,
            pin: Some(pin),
        };
        Ok((pinned, now))
    }

    /// The records after `from` up to revision `last`, one at least if there is one, and no more than `max_bytes`.
    pub(crate) fn gather(
        &self,
        from: Bound<RawKey>,
        last: Revision,
        max_bytes: usize,
    ) -> Result<Vec<(RecordKey, Record)>, ReadError> {
        let reader = RecordReader::new(&self.database.read()?)?;
        let mut records = Vec::new();
        let mut bytes = 0;
        reader.visit_stored(from, |raw, sealed| {
            let key = RecordKey::from_bytes(raw);
            // What was written since is not of this state.
            if key.revision > last.0 || bytes > 0 && bytes + sealed.len() > max_bytes {
                return Ok(false);
            }
            bytes += sealed.len();
            records.push((key, decode_record(&raw, sealed)?));
            Ok(true)
        })?;
        Ok(records)
    }

    /// Looks into the key index, which may know later changes; `None` if a snapshot has replaced the state.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&KeySpace) -> T) -> Option<T> {
        let inner = self.shared.read();
        (inner.generation == self.generation).then(|| look(&inner.key_space))
    }
}

impl Drop for PinnedState {
    fn drop(&mut self) {
        let mut inner = self.shared.write();
        // A key space that was replaced took its pins with it.
        if let Some(pin) = self.pin.take().filter(|_| inner.generation == self.generation) {
            inner.key_space.unpin(pin);
        }
    }
}
