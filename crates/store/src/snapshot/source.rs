//! Reading an image of the state in many short transactions.
//!
//! Records are immutable, so those up to the image's revision are the same whenever they are read, as long as physical
//! compaction is held where it was: a pin does that for as long as the source lives. One long transaction would do
//! without a pin, but while it is open no freed page of the file can be re-used. Rows do change; the pin comes with a
//! copy of them, which goes out first.

use std::ops::Bound;

use bytes::Bytes;
use quorate_kv::{Record, RecordKey, Row};
use quorate_raft::SnapshotMeta;
use quorate_wire::snapshot::{Header, ImageEncoder, RECORDS_TARGET_BYTES};

use crate::error::{ReadError, SnapshotError};
use crate::state::{PinnedState, RawKey, RecordReader, StateView, decode_record};

/// An image being read; iterates over its bytes in chunks of about a mebibyte.
pub struct SnapshotSource {
    state: PinnedState,
    stage: Stage,
}

enum Stage {
    Header(ImageEncoder, Bytes),
    /// Rows not yet given out.
    Rows(ImageEncoder, Vec<Row>),
    Records(ImageEncoder, Bound<RawKey>),
    Ended,
}

impl std::fmt::Debug for SnapshotSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotSource").field("meta", &self.meta()).finish_non_exhaustive()
    }
}

impl SnapshotSource {
    pub(crate) fn new(view: &StateView) -> Result<Self, SnapshotError> {
        let state = view.shared().pin()?;
        let Some(cluster_id) = state.rows.origin.cluster_id else {
            return Err(SnapshotError::Refused("this node belongs to no cluster yet".to_owned()));
        };
        let key_space = state.rows.position.key_space;
        let header = Header::new(
            cluster_id,
            state.rows.snapshot_meta(),
            key_space.revision,
            key_space.compact_revision,
            key_space.digest,
        );
        let (encoder, first) = ImageEncoder::start(&header);
        Ok(Self { state, stage: Stage::Header(encoder, first) })
    }

    /// The log position the image stands for.
    pub fn meta(&self) -> SnapshotMeta {
        self.state.rows.snapshot_meta()
    }

    /// The store revision the image is of.
    pub fn revision(&self) -> quorate_kv::Revision {
        self.state.rows.position.key_space.revision
    }

    /// About how many bytes the whole image will have: for showing progress.
    pub fn expected_bytes(&self) -> u64 {
        self.state.rows.position.totals.bytes
    }

    fn gather(&self, from: Bound<RawKey>) -> Result<Vec<(RecordKey, Record)>, ReadError> {
        let last = self.state.rows.position.key_space.revision.0;
        let reader = RecordReader::new(&self.state.database.read()?)?;
        let mut records = Vec::new();
        let mut bytes = 0;
        reader.visit_stored(from, |raw, sealed| {
            let key = RecordKey::from_bytes(raw);
            // What was written since is not of this image.
            if key.revision > last || bytes > 0 && bytes + sealed.len() > RECORDS_TARGET_BYTES {
                return Ok(false);
            }
            bytes += sealed.len();
            records.push((key, decode_record(&raw, sealed)?));
            Ok(true)
        })?;
        Ok(records)
    }
}

impl Iterator for SnapshotSource {
    type Item = Result<Bytes, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Header(encoder, first) => {
                self.stage = Stage::Rows(encoder, std::mem::take(&mut self.state.table_rows));
                Some(Ok(first))
            }
            Stage::Rows(encoder, rows) if rows.is_empty() => {
                self.stage = Stage::Records(encoder, Bound::Unbounded);
                self.next()
            }
            Stage::Rows(mut encoder, mut rows) => {
                let rest = rows.split_off(fitting(&rows));
                let chunk = encoder.rows(&rows);
                self.stage = Stage::Rows(encoder, rest);
                Some(Ok(chunk))
            }
            Stage::Records(mut encoder, from) => match self.gather(from) {
                Err(error) => Some(Err(error)),
                Ok(records) => match records.last() {
                    None => Some(Ok(encoder.finish())),
                    Some((last, _)) => {
                        let from = Bound::Excluded(last.to_bytes());
                        let chunk = encoder.records(&records);
                        self.stage = Stage::Records(encoder, from);
                        Some(Ok(chunk))
                    }
                },
            },
            Stage::Ended => None,
        }
    }
}

/// How many of the rows, one at least, make up a frame.
fn fitting(rows: &[Row]) -> usize {
    let mut bytes = 0;
    let full = rows.iter().position(|row| {
        bytes += row.key.len() + row.value.len();
        bytes > RECORDS_TARGET_BYTES
    });
    full.unwrap_or(rows.len()).max(1)
}
