//! The hash of the records as of a revision: what `HashKV` compares between members.
//!
//! Hashed are the records after the compact revision, and of the older ones those that a read at the compact revision sees.
//! So the hash is a function of the two revisions, however far a node has come with the removal of what compaction hides.
//! Clocks, leases and users are not in it. Read piece by piece: neither memory nor a transaction grows with the store.

use std::ops::Bound;

use quorate_kv::{KvError, Record, RecordKey, Revision};
use xxhash_rust::xxh3::Xxh3;

use super::pinned::PinnedState;
use super::records::RawKey;
use super::view::StateView;
use crate::error::ReadError;

/// Bytes of records hashed in one step.
const STEP_BYTES: usize = 1 << 20;

/// Records looked up under one hold of the index lock.
const LOOK_UP_RECORDS: usize = 512;

/// The records as of a revision, in a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevisionHash {
    /// Equal on all nodes with the same two revisions.
    pub hash: u32,
    /// The revision hashed.
    pub revision: Revision,
    /// The compact revision at the time.
    pub compact_revision: Revision,
}

/// A hash in the making.
pub struct RevisionHasher {
    state: PinnedState,
    sum: Xxh3,
    from: Bound<RawKey>,
    revision: Revision,
}

impl std::fmt::Debug for RevisionHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RevisionHasher").field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl RevisionHasher {
    pub(crate) fn new(view: &StateView, asked: i64) -> Result<Result<Self, KvError>, ReadError> {
        let (state, _) = PinnedState::new(view.shared())?;
        let now = state.rows.position.key_space;
        let revision = match asked {
            ..=0 => now.revision,
            asked if asked > now.revision.0 => return Ok(Err(KvError::FutureRevision)),
            asked if asked < now.compact_revision.0 => return Ok(Err(KvError::Compacted)),
            asked => Revision(asked),
        };
        Ok(Ok(RevisionHasher { state, sum: Xxh3::new(), from: Bound::Unbounded, revision }))
    }

    /// Hashes the next piece; the hash, after the last.
    ///
    /// # Errors
    /// The inner error says that a snapshot has replaced the state; the outer is a failure of this node's storage.
    pub fn step(&mut self) -> Result<Option<Result<RevisionHash, KvError>>, ReadError> {
        let records = self.state.gather(self.from, self.revision, STEP_BYTES)?;
        let compact_revision = self.state.rows.position.key_space.compact_revision;
        let Some((last, _)) = records.last() else {
            let hash = self.sum.digest() as u32;
            return Ok(Some(Ok(RevisionHash { hash, revision: self.revision, compact_revision })));
        };
        self.from = Bound::Excluded(last.to_bytes());
        let compactable = records.partition_point(|(at, _)| at.revision <= compact_revision.0);
        for piece in records[..compactable].chunks(LOOK_UP_RECORDS) {
            let seen = self.state.look(|index| {
                let seen = |(at, record): &(RecordKey, Record)| index.sees(*at, &record.key, compact_revision);
                piece.iter().map(seen).collect::<Vec<_>>()
            });
            let Some(seen) = seen else { return Ok(Some(Err(KvError::Compacted))) };
            for ((at, record), _) in piece.iter().zip(seen).filter(|(_, seen)| *seen || mutant!(HashOfUnpruned)) {
                self.add(*at, record);
            }
        }
        for (at, record) in &records[compactable..] {
            self.add(*at, record);
        }
        Ok(None)
    }

    fn add(&mut self, at: RecordKey, record: &Record) {
        self.sum.update(&at.to_bytes());
        self.sum.update(&[u8::from(record.tombstone)]);
        for number in [record.create_revision, record.version, record.lease, record.key.len() as i64] {
            self.sum.update(&number.to_le_bytes());
        }
        self.sum.update(&record.key);
        self.sum.update(&(record.value.len() as u64).to_le_bytes());
        self.sum.update(&record.value);
    }
}
