//! Reading a state file through, piece by piece, to find what has decayed or is missing.
//!
//! Never holds a transaction, or the lock of the key index, for longer than one piece.

use std::ops::Bound;

use quorate_kv::RecordKey;

use super::records::decode_record;
use super::revisions;
use super::tables::RowReader;
use super::view::StateView;
use crate::disk::STATE_FILE;
use crate::error::ReadError;
use crate::meta::MetaRows;

/// What a record that is looked up for itself counts for: a page is read for it.
const LOOK_UP_BYTES: usize = 4096;

/// Where reading a state file through stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatePlace {
    /// At this record.
    Records(RecordKey),
    /// Behind this key of the index; `None` before the first.
    Index(Option<Box<[u8]>>),
    /// At this row.
    Rows(Vec<u8>),
    /// At what is read at once: the revisions of entries, position, configuration and origin.
    Rest,
}

impl StatePlace {
    /// The beginning.
    pub const START: StatePlace = StatePlace::Records(RecordKey { revision: 0, sub: 0 });
}

/// Bytes read, and where to go on; `None` at the end.
type Verified = (usize, Option<StatePlace>);

impl StateView {
    /// Reads the file from `from` on until that were `max_bytes`, and verifies it: records, then that each record the key index
    /// names is there, then rows (leases, users, roles, alarms), then the revisions and the rest. Gives the bytes read, where a
    /// record that is looked up counts as a page, and where to go on; `None` at the end.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] for what fails its checksum or is missing.
    pub fn verify(&self, from: StatePlace, max_bytes: usize) -> Result<Verified, ReadError> {
        match from {
            StatePlace::Records(from) => self.verify_records(from, max_bytes),
            StatePlace::Index(after) => self.verify_index(after.as_deref(), max_bytes),
            StatePlace::Rows(from) => self.verify_rows(&from, max_bytes),
            StatePlace::Rest => self.verify_rest(),
        }
    }

    fn verify_records(&self, from: RecordKey, max_bytes: usize) -> Result<Verified, ReadError> {
        let records = self.shared().read().records()?;
        let (mut bytes, mut next) = (0, StatePlace::Index(None));
        records.visit_stored(Bound::Included(from.to_bytes()), |raw, sealed| {
            if bytes >= max_bytes {
                next = StatePlace::Records(RecordKey::from_bytes(raw));
                return Ok(false);
            }
            bytes += sealed.len();
            decode_record(&raw, sealed).map(|_| true)
        })?;
        Ok((bytes, Some(next)))
    }

    fn verify_index(&self, after: Option<&[u8]>, max_bytes: usize) -> Result<Verified, ReadError> {
        let inner = self.shared().read();
        let records = inner.records()?;
        let (named, last) = inner.key_space.records_of_keys(after, (max_bytes / LOOK_UP_BYTES).max(1));
        let visible = inner.visible();
        drop(inner);
        // The index is ahead of the file by a batch at most, and records leave it before they leave the file.
        for at in named.iter().filter(|at| at.revision <= visible.0) {
            records.require(*at)?;
        }
        let next = last.map_or_else(|| StatePlace::Rows(Vec::new()), |last| StatePlace::Index(Some(last)));
        Ok((named.len() * LOOK_UP_BYTES, Some(next)))
    }

    fn verify_rows(&self, from: &[u8], max_bytes: usize) -> Result<Verified, ReadError> {
        let transaction = self.shared().read().database.read()?;
        let (bytes, next) = RowReader::new(&transaction)?.verify(from, max_bytes)?;
        Ok((bytes, Some(next.map_or(StatePlace::Rest, StatePlace::Rows))))
    }

    fn verify_rest(&self) -> Result<Verified, ReadError> {
        let transaction = self.shared().read().database.read()?;
        let revisions = revisions::read(&transaction)?;
        let bytes = MetaRows::open(STATE_FILE, &transaction)?.verify()?;
        Ok((bytes + revisions.len(), None))
    }
}
