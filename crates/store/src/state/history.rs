//! The history as watchers need it: changes in the order they were made, and what keys held before.
//!
//! Records are read in short transactions, each opened under the lock of the index it is used with.

use bytes::Bytes;
use quorate_kv::{Change, KeyValue, ReadRecords, RecordKey, Revision};

use super::view::StateView;
use crate::error::ReadError;

/// Former versions that are looked for in the index at once: a reader that wants many holds up the writer for these alone.
const LOCATED_AT_ONCE: usize = 256;

/// Changes of neighbouring revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// All changes of the revisions asked for, up to and including this one, are here.
    pub through: Revision,
    /// In order.
    pub changes: Vec<Change>,
}

/// The history asked for is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// The oldest revision there is.
    pub compact_revision: Revision,
}

impl StateView {
    /// The changes from revision `from` to `to`, or fewer, whole revisions always: it ends with the revision that reaches
    /// `max_bytes`. Never beyond what readers see.
    ///
    /// # Errors
    /// The inner error says that the beginning is forgotten; the outer is a failure of this node's storage.
    ///
    /// # Panics
    /// If `to` was not reached yet.
    pub fn history(
        &self,
        from: Revision,
        to: Revision,
        max_bytes: usize,
    ) -> Result<Result<History, Forgotten>, ReadError> {
        let inner = self.shared().read();
        let compact_revision = inner.rows.position.key_space.compact_revision;
        if from < compact_revision {
            return Ok(Err(Forgotten { compact_revision }));
        }
        assert!(to <= inner.visible(), "revision {to} is asked for, but {} is visible", inner.visible());
        let records = inner.records()?;
        drop(inner);
        let mut history = History { through: to, changes: Vec::new() };
        let mut bytes = 0;
        records.scan(RecordKey::first_of(from), &mut |at, record| {
            let last = history.changes.last().map(|change: &Change| change.at.revision);
            let revision_ends = last.is_some_and(|last| last < at.revision);
            if at.revision > to.0 {
                return false;
            }
            if revision_ends && bytes >= max_bytes {
                // Revisions between two that have records are whole without any.
                history.through = Revision(at.revision - 1);
                return false;
            }
            bytes += record.encoded_len();
            history.changes.push(Change { at, record });
            true
        })?;
        Ok(Ok(history))
    }

    /// What a read of each key at its revision sees: `None` if it is not alive there, or if that is forgotten.
    ///
    /// `wanted` is in the order of the revisions. The answers are for the first of it, all of one revision or none: they end
    /// with the revision that reaches `max_bytes`.
    ///
    /// # Errors
    /// A failure of this node's storage.
    pub fn versions(&self, wanted: &[(Bytes, Revision)], max_bytes: usize) -> Result<Vec<Option<KeyValue>>, ReadError> {
        let mut versions = Vec::new();
        let mut bytes = 0;
        let mut last = None;
        for part in wanted.chunks(LOCATED_AT_ONCE) {
            let inner = self.shared().read();
            let places: Vec<Option<RecordKey>> =
                part.iter().map(|(key, revision)| inner.key_space.locate(key, *revision)).collect();
            let records = inner.records()?;
            drop(inner);
            for (place, (_, revision)) in places.into_iter().zip(part) {
                let revision_ends = last.replace(*revision).is_some_and(|last| last < *revision);
                if revision_ends && bytes >= max_bytes {
                    return Ok(versions);
                }
                let version = match place {
                    // Physical compaction may be on its way into the file.
                    Some(at) => records.get(at)?.map(|record| record.into_key_value(at)),
                    None => None,
                };
                bytes += version.as_ref().map_or(0, KeyValue::bytes);
                versions.push(version);
            }
        }
        Ok(versions)
    }
}
