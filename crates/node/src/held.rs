//! Messages that promise something about this node's disk, held until the disk keeps the promise.
//!
//! Invariant: a message leaves only when every write up to and including the one it names is durable, whatever the order in
//! which writes complete.

use std::collections::{BTreeMap, BTreeSet};

use quorate_raft::{Message, WriteSeq};

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Last write asked for.
    issued: WriteSeq,
    /// Every write up to here is durable.
    durable: WriteSeq,
    /// Writes after `durable` that are.
    completed: BTreeSet<WriteSeq>,
    waiting: BTreeMap<WriteSeq, Vec<Message>>,
    count: usize,
    dropped: u64,
}

impl Held {
    /// A write was asked for.
    pub(crate) fn issue(&mut self, seq: WriteSeq) {
        assert_eq!(seq, self.issued.next(), "writes are numbered without gaps, from 1");
        self.issued = seq;
    }

    /// Gives the message back if it may leave now. Past `max_messages` it is dropped, which any message survives.
    pub(crate) fn hold(&mut self, after: WriteSeq, message: Message, max_messages: usize) -> Option<Message> {
        assert!(after <= self.issued, "a message waits for write {after}, the last one is {}", self.issued);
        if after <= self.durable {
            return Some(message);
        }
        if self.count >= max_messages {
            self.dropped += 1;
            return None;
        }
        self.waiting.entry(after).or_default().push(message);
        self.count += 1;
        None
    }

    /// A write is durable; gives the messages that may leave now, in the order of what they waited for.
    pub(crate) fn written(&mut self, seq: WriteSeq) -> Vec<Message> {
        assert!(seq <= self.issued, "write {seq} was never asked for");
        if seq > self.durable {
            self.completed.insert(seq);
        }
        while self.completed.remove(&self.durable.next()) {
            self.durable = self.durable.next();
        }
        let mut free = Vec::new();
        while let Some(first) = self.waiting.first_entry().filter(|first| *first.key() <= self.durable) {
            free.extend(first.remove());
        }
        self.count -= free.len();
        free
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn check(&self) {
        assert!(self.durable <= self.issued, "more is durable than was asked for");
        assert!(self.completed.iter().all(|seq| *seq > self.durable), "a completed write was not counted");
        assert!(self.waiting.keys().all(|seq| *seq > self.durable), "a message waits for a durable write");
        assert_eq!(self.count, self.waiting.values().map(Vec::len).sum::<usize>(), "the count is off");
    }
}
