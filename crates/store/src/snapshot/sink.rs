//! Taking an image in: a whole new state file, beside the one in use, verified before anything is switched.

use std::ops::Bound;
use std::sync::Arc;

use quorate_kv::{KeySpace, KeySpaceMeta, Record, RecordKey, Revision, Row};
use quorate_raft::SnapshotMeta;
use quorate_wire::DecodeError;
use quorate_wire::snapshot::{Header, ImageDecoder, Part};

use super::image_file::{ImageFile, ImageName};
use crate::database::{Commit, Database};
use crate::error::{OpenError, SnapshotError, WriteError};
use crate::state::{
    Origin, Position, RECORDS, REVISIONS, ROWS, RawKey, RecordAppender, RecordTotals, StateOptions, StateReader,
    StateRows, store_image_rows,
};

/// Bytes written between two syncs: bounds the dirty pages, and with them the time the last sync takes.
const SYNC_EVERY_BYTES: u64 = 64 << 20;

/// An image on its way in. Dropped half-way, it leaves the state as it was, and nothing of itself.
pub struct SnapshotSink {
    // Before the database: what closing that still writes is not to be kept.
    file: ImageFile,
    database: Database,
    reserve_bytes: u64,
    expected: Option<u128>,
    decoder: ImageDecoder,
    header: Option<Box<Header>>,
    totals: RecordTotals,
    /// Bytes of rows and records that the disk may not have given room for yet.
    unsynced_bytes: u64,
}

impl std::fmt::Debug for SnapshotSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotSink")
            .field("header", &self.header)
            .field("totals", &self.totals)
            .finish_non_exhaustive()
    }
}

/// A whole, verified, durable image that waits to be installed. Dropped instead, it leaves nothing of itself.
#[derive(Debug)]
pub struct ReceivedSnapshot {
    file: ImageFile,
    pub(crate) database: Database,
    pub(crate) key_space: KeySpace,
    pub(crate) rows: StateRows,
}

impl ReceivedSnapshot {
    /// The log position the image stands for.
    pub fn meta(&self) -> SnapshotMeta {
        self.rows.snapshot_meta()
    }

    /// Gives the image the state file's name, durably.
    pub(crate) fn publish(&self) -> Result<(), WriteError> {
        self.file.publish(&self.database)
    }
}

impl SnapshotSink {
    /// Begins to take an image in; one at a time in a directory. `expected` is the cluster it must be of.
    pub(crate) fn new(
        name: &Arc<ImageName>,
        expected: Option<u128>,
        options: &StateOptions,
    ) -> Result<Self, SnapshotError> {
        let (database, file) = name.take(options.cache_bytes).map_err(refused)?;
        database.write(Commit::Deferred, |transaction| {
            transaction.open_table(RECORDS)?;
            transaction.open_table(ROWS)?;
            transaction.open_table(REVISIONS)?;
            Ok(())
        })?;
        Ok(Self {
            file,
            database,
            reserve_bytes: options.image_reserve_bytes,
            expected,
            decoder: ImageDecoder::new(),
            header: None,
            totals: RecordTotals::default(),
            unsynced_bytes: 0,
        })
    }

    /// Takes the next bytes, cut anywhere.
    ///
    /// # Errors
    /// After any error the image is to be given up; the node's own state is as it was.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.decoder.push(bytes).map_err(undecodable)?;
        while let Some(part) = self.decoder.next_part().map_err(undecodable)? {
            match part {
                Part::Header(header) => self.begin(header)?,
                Part::Rows(rows) => self.store_rows(&rows)?,
                Part::Records(records) => self.store(&records)?,
                Part::End { records } => {
                    assert_eq!(records, self.totals.count, "the decoder counts what it hands out");
                }
            }
        }
        Ok(())
    }

    /// Ends the image: verifies it as a whole, makes it durable and builds its index.
    ///
    /// # Errors
    /// [`SnapshotError::Refused`] if the image is not whole; [`WriteError::DiskFull`] if it does not fit.
    pub fn finish(self) -> Result<ReceivedSnapshot, SnapshotError> {
        self.finish_with(|_| {})
    }

    /// As [`SnapshotSink::finish`], with changes to where the image says it is from: for offline restore.
    pub(crate) fn finish_with(self, change: impl FnOnce(&mut StateRows)) -> Result<ReceivedSnapshot, SnapshotError> {
        let header = match &self.header {
            Some(header) if self.decoder.ended() => header,
            _ => return Err(SnapshotError::Refused("it ends early".to_owned())),
        };
        let mut rows = rows(header, self.totals)?;
        change(&mut rows);
        self.check_space()?;
        let commit = if mutant!(ImageNotSynced) { Commit::Deferred } else { Commit::DurableQuickStart };
        self.database.write(commit, |transaction| rows.store(transaction))?;
        let key_space = StateReader::new(&self.database.read()?)?.key_space(&rows)?;
        Ok(ReceivedSnapshot { file: self.file, database: self.database, key_space, rows })
    }

    fn begin(&mut self, header: Box<Header>) -> Result<(), SnapshotError> {
        let found = header.cluster_id;
        if let Some(expected) = self.expected.filter(|expected| *expected != found) {
            return Err(SnapshotError::Refused(format!(
                "it is of cluster {found:032x}, this node is of cluster {expected:032x}"
            )));
        }
        rows(&header, self.totals)?;
        self.header = Some(header);
        Ok(())
    }

    fn store_rows(&mut self, rows: &[Row]) -> Result<(), SnapshotError> {
        let bytes: usize = rows.iter().map(|row| row.key.len() + row.value.len()).sum();
        self.unsynced_bytes += bytes as u64;
        self.check_space()?;
        Ok(self.database.write(Commit::Deferred, |transaction| store_image_rows(transaction, rows))?)
    }

    fn store(&mut self, records: &[(RecordKey, Record)]) -> Result<(), SnapshotError> {
        let last = self.header.as_ref().expect("the decoder hands out the header first").revision;
        if let Some((key, _)) = records.iter().find(|(key, _)| key.revision > last.0) {
            return Err(SnapshotError::Refused(format!("it is of revision {last} and has a record {key}")));
        }
        let bytes: u64 = records.iter().map(|(_, record)| record.encoded_len() as u64).sum();
        self.unsynced_bytes += bytes;
        self.check_space()?;
        let sync = self.unsynced_bytes > SYNC_EVERY_BYTES;
        let commit = if sync { Commit::Durable } else { Commit::Deferred };
        let mut totals = self.totals;
        self.database.write(commit, |transaction| {
            let mut table = transaction.open_table(RECORDS)?;
            let mut appender = RecordAppender::new(&mut totals);
            let mut cursor = table.upper_bound_mut(Bound::<RawKey>::Unbounded)?;
            for (key, record) in records {
                appender.append(&mut cursor, *key, record)?;
            }
            cursor.close()?;
            Ok(())
        })?;
        self.totals = totals;
        if sync {
            self.unsynced_bytes = 0;
        }
        Ok(())
    }

    /// Refuses what would take the room that the node itself needs. Of what is not synced no page may be on the disk yet: each is
    /// written whole, and twice the bytes covers the half-full ones.
    fn check_space(&self) -> Result<(), WriteError> {
        self.database.check_space(self.file.disk(), self.reserve_bytes + 2 * self.unsynced_bytes)
    }
}

/// What the state file will say of itself.
fn rows(header: &Header, totals: RecordTotals) -> Result<StateRows, SnapshotError> {
    let key_space = KeySpaceMeta {
        revision: header.revision,
        compact_revision: header.compact_revision,
        // The sender may have removed part of what its compaction hides; this node begins and ends that anew.
        pruned: Revision::NEVER_COMPACTED,
        pruning: header.compact_revision,
        digest: header.digest,
    };
    let key_space = KeySpaceMeta::from_bytes(&key_space.to_bytes())
        .ok_or_else(|| SnapshotError::Refused("its revisions contradict each other".to_owned()))?;
    Ok(StateRows {
        position: Position { applied: header.meta.index, term: header.meta.term, key_space, totals },
        membership: (header.meta.membership_index, header.meta.membership.clone()),
        origin: Origin { cluster_id: Some(header.cluster_id), born_at: header.meta.index },
    })
}

fn undecodable(error: DecodeError) -> SnapshotError {
    match error {
        DecodeError::UnknownVersion { .. } | DecodeError::UnknownCommand => SnapshotError::Unknown(error),
        error => SnapshotError::Refused(error.to_string()),
    }
}

fn refused(error: OpenError) -> SnapshotError {
    match error {
        OpenError::Write(error) => SnapshotError::Write(error),
        error => SnapshotError::Refused(error.to_string()),
    }
}
