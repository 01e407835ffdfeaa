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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_images_are_under_way_than_the_limit_and_one_for_each_receiver() {
        let mut streams = Streams::default();
        for to in [1, 2, 1, 3, 4] {
            streams.want(NodeId(to));
        }
        let begin = |streams: &mut Streams| streams.begin(LogIndex(9), 2);
        assert_eq!([begin(&mut streams), begin(&mut streams)], [Some(NodeId(1)), Some(NodeId(2))]);
        assert_eq!(begin(&mut streams), None, "two are the limit");
        // The first receiver wants another one already, and has to wait for its end.
        streams.want(NodeId(1));
        streams.ended(NodeId(2));
        assert_eq!(begin(&mut streams), Some(NodeId(3)));
        streams.ended(NodeId(3));
        assert_eq!(begin(&mut streams), Some(NodeId(4)));
        streams.ended(NodeId(4));
        assert_eq!(begin(&mut streams), None, "the second image for a receiver that still takes the first");
        streams.ended(NodeId(1));
        assert_eq!(begin(&mut streams), Some(NodeId(1)));
    }
}
