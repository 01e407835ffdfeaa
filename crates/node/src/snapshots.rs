//! Images on their way to other nodes: how many at once, and which part of the log they still need.

use std::collections::{BTreeMap, VecDeque};

use quorate_raft::{LogIndex, NodeId};

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Receiver, and this node's applied index when the stream began: the image is at least that new, so the receiver needs
    /// the log from there on.
    active: BTreeMap<NodeId, LogIndex>,
    waiting: VecDeque<NodeId>,
}

impl Streams {
    /// An image is wanted for `to`.
    pub(crate) fn want(&mut self, to: NodeId) {
        if !self.waiting.contains(&to) {
            self.waiting.push_back(to);
        }
    }

    /// The next stream to begin, if there may be one more. One receiver gets one image at a time.
    pub(crate) fn begin(&mut self, applied: LogIndex, max_streams: usize) -> Option<NodeId> {
        if self.active.len() >= max_streams {
            return None;
        }
        let position = self.waiting.iter().position(|to| !self.active.contains_key(to))?;
        let to = self.waiting.remove(position)?;
        self.active.insert(to, applied);
        Some(to)
    }

    /// A stream ended.
    pub(crate) fn ended(&mut self, to: NodeId) {
        self.active.remove(&to);
    }

    /// This node no longer leads: it begins no more streams.
    pub(crate) fn stop_waiting(&mut self) {
        self.waiting.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.active.len()
    }

    /// The log after this index is needed by a receiver.
    pub(crate) fn needed_after(&self, to: NodeId) -> Option<LogIndex> {
        self.active.get(&to).copied()
    }
}
