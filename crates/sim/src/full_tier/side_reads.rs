//! Reads beside the plain range: one that is small and answered at once, one that is streamed while writes, compaction and images
//! go on, and the hash by which operators compare nodes.
//!
//! They draw from numbers of their own, so that a run is otherwise the same with and without them.

use bytes::Bytes;
use quorate_kv::{KeyValue, KvError, RangeRequest, RangeResponse};
use quorate_store::{RationedReadError, ReadError, RevisionHash, StateStream, StateView};

use super::{FullTier, Process};
use crate::context::Context;
use crate::coverage::{Handler, Reached};
use crate::random::Random;
use crate::tier::Killed;

/// How many of a million reads come with a piece of a stream.
const STREAMED_PER_MILLION: u32 = 500_000;
/// How many come with a hash.
const HASHED_PER_MILLION: u32 = 50_000;

/// A range on its way to a client, piece by piece.
pub(super) struct Streamed {
    stream: StateStream,
    range: RangeRequest,
    /// The revision of the state when it began.
    current: i64,
    kvs: Vec<KeyValue>,
    /// An image has taken the place of the state.
    pub(super) replaced: bool,
}

/// A range as a server reads it: at once where it is small.
pub(super) fn read_range(view: &StateView, range: &RangeRequest) -> Result<Result<RangeResponse, KvError>, ReadError> {
    match view.range_if_small(range, &|_| true) {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => view.range(range),
        Err(RationedReadError::Read(error)) => Err(error),
        Err(RationedReadError::NotAllowed) => unreachable!("everything is allowed"),
    }
}

impl Process {
    /// What a read of the state, whose revision and compact revision these are, comes with.
    pub(super) fn read_aside(&mut self, context: &mut Context<FullTier>, revisions: (i64, i64)) -> Result<(), Killed> {
        let mut random = Random::new(context.plan.seed ^ context.now().0.rotate_left(20) ^ self.requests);
        if random.chance(STREAMED_PER_MILLION) {
            self.stream_on(context, &mut random, revisions)?;
        }
        if random.chance(HASHED_PER_MILLION) {
            self.hash(context, &mut random, revisions)?;
        }
        Ok(())
    }

    fn stream_on(
        &mut self,
        context: &mut Context<FullTier>,
        random: &mut Random,
        revisions: (i64, i64),
    ) -> Result<(), Killed> {
        let Some(mut streamed) = self.streamed.take() else {
            let range = draw_streamed(random, revisions);
            match self.state.view().stream(&range) {
                Ok(stream) => {
                    let (current, kvs) = (revisions.0, Vec::new());
                    self.streamed = Some(Streamed { stream, range, current, kvs, replaced: false });
                }
                Err(refused) => {
                    context.clients.model.check_range(context.node, revisions, &range, &Err(refused));
                }
            }
            return Ok(());
        };
        let chunk = self.healthy(context, Handler::ReadBack, streamed.stream.next_chunk())?;
        match chunk.expect("a stream that has not ended goes on") {
            Ok(chunk) => {
                assert!(!streamed.replaced, "I-14: node {} streams a state that an image replaced", context.node);
                streamed.kvs.extend(chunk.kvs);
                let Some(end) = chunk.end else {
                    self.streamed = Some(streamed);
                    return Ok(());
                };
                let kvs = streamed.kvs;
                let answer = Ok(RangeResponse { kvs, more: end.more, count: end.count, revision: end.revision });
                let then = (streamed.current, i64::MIN);
                context.clients.model.check_range(context.node, then, &streamed.range, &answer);
                context.coverage.hit(Reached::RangeStreamed);
            }
            Err(error) => {
                let overtaken = streamed.replaced || streamed.stream.revision().0 < revisions.1;
                assert!(overtaken, "I-14: node {} ends a stream: {error}", context.node);
                context.coverage.hit(Reached::StreamOvertaken);
            }
        }
        Ok(())
    }

    fn hash(
        &mut self,
        context: &mut Context<FullTier>,
        random: &mut Random,
        (current, compacted): (i64, i64),
    ) -> Result<(), Killed> {
        let oldest = compacted.max(1);
        let revision = current - random.below(((current - oldest) as u64 + 1).min(20)) as i64;
        let mut hasher = match self.healthy(context, Handler::ReadBack, self.state.view().hash_at(revision))? {
            Ok(hasher) => hasher,
            Err(refused) => panic!("I-14: node {} refuses the hash at {revision}: {refused}", context.node),
        };
        let hash = loop {
            if let Some(hash) = self.healthy(context, Handler::ReadBack, hasher.step())? {
                break hash.expect("no image is installed in the midst of it");
            }
        };
        context.clients.check_hash(context.node, hash, &mut context.coverage);
        Ok(())
    }
}

/// A range in key order, of the newest revision or of one that may soon be compacted.
fn draw_streamed(random: &mut Random, (current, compacted): (i64, i64)) -> RangeRequest {
    let oldest = compacted.max(1);
    let revision = if random.coin() { 0 } else { oldest + random.below((current - oldest) as u64 + 1) as i64 };
    let limit = if random.coin() { 0 } else { random.below(30) as i64 };
    RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        revision,
        limit,
        keys_only: random.chance(100_000),
        count_only: random.chance(50_000),
        ..RangeRequest::default()
    }
}

/// The two revisions that a hash depends on, beside the records.
pub(super) fn revisions_of(hash: &RevisionHash) -> (i64, i64) {
    (hash.revision.0, hash.compact_revision.0)
}
