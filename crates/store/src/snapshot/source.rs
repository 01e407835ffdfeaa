//! Reading an image of the state in many short transactions.
//!
//! Records stay where they are by a pin, see [`PinnedState`]. Rows do change; a copy of them goes out first.

use std::ops::Bound;

use bytes::Bytes;
use quorate_kv::Row;
use quorate_raft::SnapshotMeta;
use quorate_wire::snapshot::{Header, ImageEncoder, RECORDS_TARGET_BYTES};

use crate::disk::STATE_FILE;
use crate::error::{ReadError, SnapshotError};
use crate::state::{PinnedState, RawKey, RowReader, StateView};

/// An image being read; iterates over its bytes in chunks of about a mebibyte, if nothing else is asked for.
pub struct SnapshotSource {
    state: PinnedState,
    frame_bytes: usize,
    stage: Stage,
}

enum Stage {
    /// The first bytes, and the rows that come after.
    Header(ImageEncoder, Bytes, Vec<Row>),
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
        Self::new_with(view, || {})
    }

    /// The same, with something done while the state is pinned and its rows are not read yet.
    fn new_with(view: &StateView, between: impl FnOnce()) -> Result<Self, SnapshotError> {
        let (state, now) = PinnedState::new(view.shared())?;
        between();
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
        let table_rows = RowReader::new(&now)?.all()?;
        Ok(Self { state, frame_bytes: RECORDS_TARGET_BYTES, stage: Stage::Header(encoder, first, table_rows) })
    }

    /// The same in frames of about so many bytes; one that has not been read from yet.
    #[must_use]
    pub fn in_frames_of(self, frame_bytes: usize) -> Self {
        Self { frame_bytes, ..self }
    }

    /// The log position the image stands for.
    pub fn meta(&self) -> SnapshotMeta {
        self.state.rows.snapshot_meta()
    }

    /// The store revision the image is of.
    pub fn revision(&self) -> quorate_kv::Revision {
        self.state.rows.position.key_space.revision
    }

    /// An image that lacks records would pass for whole wherever it arrives.
    fn check_whole(&self, given: u64) -> Result<(), ReadError> {
        let stored = self.state.rows.position.totals.count;
        if given == stored {
            return Ok(());
        }
        Err(ReadError::damaged(STATE_FILE, format!("an image of it has {given} records, and {stored} are stored")))
    }

    /// About how many bytes the whole image will have: for showing progress.
    pub fn expected_bytes(&self) -> u64 {
        self.state.rows.position.totals.bytes
    }
}

impl Iterator for SnapshotSource {
    type Item = Result<Bytes, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Header(encoder, first, table_rows) => {
                self.stage = Stage::Rows(encoder, table_rows);
                Some(Ok(first))
            }
            Stage::Rows(encoder, rows) if rows.is_empty() => {
                self.stage = Stage::Records(encoder, Bound::Unbounded);
                self.next()
            }
            Stage::Rows(mut encoder, mut rows) => {
                let rest = rows.split_off(fitting(&rows, self.frame_bytes));
                let chunk = encoder.rows(&rows);
                self.stage = Stage::Rows(encoder, rest);
                Some(Ok(chunk))
            }
            Stage::Records(mut encoder, from) => match self.state.gather(from, self.revision(), self.frame_bytes) {
                Err(error) => Some(Err(error)),
                Ok(records) => match records.last() {
                    None => Some(self.check_whole(encoder.record_count()).map(|()| encoder.finish())),
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

/// How many of the rows, one at least, make up a frame of about so many bytes.
fn fitting(rows: &[Row], frame_bytes: usize) -> usize {
    let mut bytes = 0;
    let full = rows.iter().position(|row| {
        bytes += row.key.len() + row.value.len();
        bytes > frame_bytes
    });
    full.unwrap_or(rows.len()).max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_kv::{Command, LeaseGrantRequest};
    use quorate_raft::{Entry, Incarnation, LogIndex, NodeId, Payload, Term};
    use quorate_wire::{Envelope, encode_envelope};

    use super::*;
    use crate::state::{StateOptions, StateStore};
    use crate::testing::FaultyDisk;

    const CLUSTER: u128 = 7;

    fn new_state() -> StateStore {
        let mut state = StateStore::open(Arc::new(FaultyDisk::new()), StateOptions::default()).expect("empty");
        state.set_cluster_id(CLUSTER).expect("no fault");
        state
    }

    /// A lease is a row: unlike a record, it carries no revision that would tell a later one.
    fn grant(index: u64) -> Entry {
        let envelope = Envelope {
            origin: NodeId(1),
            incarnation: Incarnation(3),
            sequence: index,
            actor: quorate_kv::Actor::Anonymous,
            command: Command::LeaseGrant(LeaseGrantRequest { id: index as i64, ttl_seconds: 9 }),
        };
        Entry { term: Term(1), index: LogIndex(index), payload: Payload::Command(encode_envelope(&envelope)) }
    }

    #[test]
    fn a_batch_between_the_pin_and_the_reading_of_rows_is_not_in_the_image() {
        let mut sender = new_state();
        sender.apply(&[grant(1)]).expect("no fault");
        let at_pin = sender.view().digest();
        let view = sender.view();
        let between = || drop(sender.apply(&[grant(2), grant(3)]).expect("no fault"));
        let source = SnapshotSource::new_with(&view, between).expect("a member");

        let mut receiver = new_state();
        let mut sink = receiver.view().receive_snapshot(CLUSTER).expect("no fault");
        source.for_each(|chunk| sink.push(&chunk.expect("sound")).expect("whole"));
        receiver.install(sink.finish().expect("whole")).expect("no fault");
        assert_eq!(receiver.view().digest(), at_pin);
        assert_eq!(receiver.view().leases_by_deadline(), [1]);
    }
}
