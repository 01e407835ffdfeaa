//! How much of the log is kept.
//!
//! Enough that a node that was away briefly needs no image, not so much that the disk fills: a count of entries behind the
//! applied index, cut short by a bound on bytes. Never past the last durable applied index, because a restart replays from
//! there.

use std::collections::VecDeque;

use quorate_raft::{Entry, LogIndex};

use crate::config::Retention;

/// A chunk is closed at this many bytes or entries: fine enough to decide by, coarse enough to cost nothing.
const CHUNK_BYTES: u64 = 256 << 10;
const CHUNK_ENTRIES: u64 = 1024;

/// Sizes of the log's parts, about.
#[derive(Debug)]
pub(crate) struct LogSize {
    /// Entries up to here are gone, or may go.
    cut: LogIndex,
    /// Last index and bytes of each chunk, ascending.
    chunks: VecDeque<Chunk>,
    bytes: u64,
}

#[derive(Debug)]
struct Chunk {
    first: LogIndex,
    last: LogIndex,
    bytes: u64,
}

impl LogSize {
    /// A log that holds the entries after `base` up to `last`, in `bytes` spread evenly over them.
    pub(crate) fn new(base: LogIndex, last: LogIndex, bytes: u64) -> LogSize {
        let mut size = LogSize { cut: base, chunks: VecDeque::new(), bytes: 0 };
        let entries = last.0.saturating_sub(base.0);
        let each = bytes.checked_div(entries).unwrap_or(0);
        for index in base.0 + 1..=last.0 {
            size.push(LogIndex(index), each);
        }
        size
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// These entries replace everything from the first one on.
    pub(crate) fn written(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        while let Some(chunk) = self.chunks.back_mut().filter(|chunk| chunk.last >= first.index) {
            if chunk.first >= first.index {
                self.bytes -= chunk.bytes;
                self.chunks.pop_back();
                continue;
            }
            let kept = first.index.0 - chunk.first.0;
            let bytes = chunk.bytes * kept / (chunk.last.0 - chunk.first.0 + 1);
            self.bytes -= chunk.bytes - bytes;
            chunk.bytes = bytes;
            chunk.last = first.index.previous();
        }
        for entry in entries {
            self.push(entry.index, entry.size() as u64);
        }
    }

    /// The log was reset to end at `index`, with nothing in it.
    pub(crate) fn reset(&mut self, index: LogIndex) {
        *self = LogSize { cut: index, chunks: VecDeque::new(), bytes: 0 };
    }

    /// Up to where the log may go now; None = not worth it yet. `keep_from`: a follower still needs everything after it,
    /// unless that is too much.
    pub(crate) fn cut(
        &mut self,
        policy: &Retention,
        applied: LogIndex,
        durable_applied: LogIndex,
        keep_from: Option<LogIndex>,
    ) -> Option<LogIndex> {
        let by_count = LogIndex(applied.0.saturating_sub(policy.keep_entries));
        let by_need = keep_from.map_or(by_count, |index| index.min(by_count));
        let by_bytes = self.over(policy.max_log_bytes);
        let up_to = by_need.max(by_bytes).min(durable_applied);
        let enough = if by_bytes > by_need { 1 } else { policy.step_entries.max(1) };
        if up_to.0 < self.cut.0.saturating_add(enough) {
            return None;
        }
        self.cut = up_to;
        while let Some(chunk) = self.chunks.front().filter(|chunk| chunk.last <= up_to) {
            self.bytes -= chunk.bytes;
            self.chunks.pop_front();
        }
        Some(up_to)
    }

    /// Whether there may be something to cut, whoever needs it: cheap enough for every step.
    pub(crate) fn may_cut(&self, policy: &Retention, applied: LogIndex, durable_applied: LogIndex) -> bool {
        let wanted = LogIndex(applied.0.saturating_sub(policy.keep_entries)).min(durable_applied);
        wanted.0 >= self.cut.0.saturating_add(policy.step_entries.max(1))
            || (self.bytes > policy.max_log_bytes && durable_applied > self.cut)
    }

    /// The last index that must go so that the rest has at most `max_bytes`; 0 = none.
    fn over(&self, max_bytes: u64) -> LogIndex {
        if self.bytes <= max_bytes {
            return LogIndex(0);
        }
        let mut kept = 0;
        for chunk in self.chunks.iter().rev() {
            kept += chunk.bytes;
            if kept > max_bytes {
                return chunk.last;
            }
        }
        LogIndex(0)
    }

    fn push(&mut self, index: LogIndex, bytes: u64) {
        self.bytes += bytes;
        match self.chunks.back_mut() {
            Some(chunk) if chunk.bytes < CHUNK_BYTES && index.0 - chunk.first.0 < CHUNK_ENTRIES => {
                chunk.last = index;
                chunk.bytes += bytes;
            }
            _ => self.chunks.push_back(Chunk { first: index, last: index, bytes }),
        }
    }

    pub(crate) fn check(&self) {
        assert_eq!(self.bytes, self.chunks.iter().map(|chunk| chunk.bytes).sum::<u64>(), "the sum is off");
        let rising = self.chunks.iter().zip(self.chunks.iter().skip(1)).all(|(a, b)| a.last < b.first);
        assert!(rising, "chunks overlap");
    }
}
