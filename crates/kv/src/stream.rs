//! A range in chunks, all read at one revision.
//!
//! Between two chunks nothing is held, neither lock nor view: the next chunk starts after the last key, at the same
//! revision.

use crate::error::KvError;
use crate::interval::Interval;
use crate::keyspace::KeySpace;
use crate::range::{Position, fetch};
use crate::record::KeyValue;
use crate::records::ReadRecords;
use crate::requests::RangeRequest;
use crate::revision::{RecordKey, Revision};

/// Index keys looked at in one step where nothing is taken: past the limit, keys are only counted.
const MAX_VISITS: usize = 10_000;

/// A streamed range under way.
#[derive(Debug)]
pub struct RangeStream {
    request: RangeRequest,
    at: Revision,
    current: Revision,
    position: Position,
    taken: i64,
    count: i64,
}

/// One chunk whose records are still to be fetched.
#[derive(Debug)]
pub struct ChunkPlan {
    records: Vec<RecordKey>,
    keys_only: bool,
    /// Set in the last chunk.
    pub end: Option<StreamEnd>,
}

/// What comes with the last chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamEnd {
    /// Current revision when the stream began, for the header.
    pub revision: Revision,
    /// The limit cut the result.
    pub more: bool,
    /// Keys in the interval, whatever the limit.
    pub count: i64,
}

/// Keys of the next chunk, so chosen that chunks grow toward a target size.
#[derive(Debug, Clone, Copy)]
pub struct ChunkSize {
    keys: usize,
    target_bytes: usize,
}

impl ChunkSize {
    const FIRST_KEYS: usize = 10;
    const MAX_KEYS: usize = 10_000;

    /// Starts small: nothing is known of the values' sizes.
    #[must_use]
    pub fn new(target_bytes: usize) -> ChunkSize {
        ChunkSize { keys: Self::FIRST_KEYS, target_bytes }
    }

    /// Keys to ask for.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// Learns from a chunk of `keys` keys that took `bytes`; a chunk is at most twice as many keys as the one before.
    pub fn observe(&mut self, keys: usize, bytes: usize) {
        if keys == 0 {
            return;
        }
        let fitting = self.target_bytes / (bytes / keys).max(1);
        self.keys = fitting.clamp(1, (self.keys * 2).min(Self::MAX_KEYS));
    }
}

impl KeySpace {
    /// Begins a streamed range that takes `visible` for the current revision, as [`KeySpace::begin_range`] does.
    /// [`crate::validate_stream`] has refused what a stream cannot do.
    ///
    /// # Errors
    /// If the revision is compacted or in the future.
    pub fn begin_stream(&self, request: &RangeRequest, visible: Revision) -> Result<RangeStream, KvError> {
        let at = self.read_revision(request.revision, visible)?;
        Ok(RangeStream {
            request: request.clone(),
            at,
            current: visible,
            position: Position::Start,
            taken: 0,
            count: 0,
        })
    }
}

impl RangeStream {
    /// Revision the keys are read at.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.at
    }

    /// Plans the next chunk, of `max_keys` keys at most. It may be empty where keys are only counted. Its records must
    /// be fetched from a view opened before the index is let go.
    ///
    /// # Errors
    /// [`KvError::Compacted`] if the revision was compacted meanwhile.
    ///
    /// # Panics
    /// If the stream has ended.
    pub fn plan_chunk(&mut self, space: &KeySpace, max_keys: usize) -> Result<ChunkPlan, KvError> {
        assert!(self.position != Position::End, "a chunk is asked for after the last");
        assert!(max_keys > 0, "a chunk of no keys leads nowhere");
        if self.at < space.floor() && !mutant!(StreamReadsPruned) {
            return Err(KvError::Compacted);
        }
        let limit = if self.request.limit > 0 { self.request.limit } else { i64::MAX };
        let wanted = if self.request.count_only { 0 } else { limit };
        let mut records = Vec::new();
        let interval = Interval::new(&self.request.key, &self.request.range_end);
        let (taken, count) = (&mut self.taken, &mut self.count);
        let walked = space.index.walk(interval, self.position.key(), self.at.0, max_keys.max(MAX_VISITS), |_, live| {
            *count += 1;
            if *taken < wanted {
                *taken += 1;
                records.push(live.at);
            }
            records.len() < max_keys
        });
        self.position = walked.into();
        let end = (self.position == Position::End).then_some(StreamEnd {
            revision: self.current,
            more: !self.request.count_only && self.count > limit,
            count: self.count,
        });
        Ok(ChunkPlan { records, keys_only: self.request.keys_only, end })
    }
}

impl ChunkPlan {
    /// True if the chunk has no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Fetches the chunk's records.
    ///
    /// # Errors
    /// The storage's.
    pub fn fetch<R: ReadRecords>(&self, records: &R) -> Result<Vec<KeyValue>, R::Error> {
        let mut kvs = fetch(records, &self.records)?;
        if self.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        Ok(kvs)
    }
}
