//! A model of one node's log: what the core has asked to write, and what of it is on the disk.
//!
//! In the core tier it is the disk; in the full tier it mirrors the real log store, which must agree with it after every
//! start. Writes become durable in the order they were asked for, because the log is one file with one writer; their
//! completions may be reported in any order. A crash keeps the durable image and a random prefix of the rest.
//!
//! Invariants: indexes are consecutive from `base + 1`; each entry carries a hash of the whole log up to it, so two logs
//! are compared at one index.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use quorate_raft::{Entry, HardState, LogIndex, Member, Membership, NodeId, Payload, SnapshotMeta, Term, WriteSeq};

use crate::clock::Instant;
use crate::random::Random;

/// Hash of a log from its first entry to some index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Chain(pub u64);

impl Chain {
    /// The hash of this log with `entry` after it.
    pub(crate) fn extend(self, entry: &Entry) -> Chain {
        let mut hash = mix(self.0, entry.term.0);
        match &entry.payload {
            Payload::Noop => hash = mix(hash, 1),
            Payload::Command(bytes) => hash = bytes_hash(hash, bytes),
            Payload::Membership(membership) => hash = mix(hash, membership_hash(membership)),
        }
        Chain(hash)
    }
}

fn mix(hash: u64, number: u64) -> u64 {
    let mixed = (hash.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// Hash of everything a membership says. The fields are named one by one so that a new one cannot be forgotten.
pub(crate) fn membership_hash(membership: &Membership) -> u64 {
    let Membership { voters, outgoing, learners, standing, rising, target, members, removed, cluster_version } =
        membership;
    let ids =
        |hash: u64, ids: &BTreeSet<NodeId>| ids.iter().fold(mix(hash, ids.len() as u64), |hash, id| mix(hash, id.0));
    let sets = [voters, outgoing, learners, standing, rising].into_iter().chain(target);
    let sets_hash = sets.fold(mix(3, u64::from(target.is_some())), ids);
    let removed_hash = removed.iter().fold(mix(sets_hash, removed.len() as u64), |hash, id| mix(hash, id.0));
    let described = members.iter().fold(removed_hash, |hash, (id, member)| member_hash(mix(hash, id.0), member));
    mix(described, u64::from(*cluster_version))
}

fn member_hash(hash: u64, member: &Member) -> u64 {
    let Member { incarnation, name, peer_address, client_addresses, max_version } = member;
    let texts = [name, peer_address].into_iter().chain(client_addresses);
    let numbered = mix(bytes_hash(hash, &incarnation.0.to_le_bytes()), u64::from(*max_version));
    texts.fold(numbered, |hash, text| bytes_hash(hash, text.as_bytes()))
}

/// `hash` with `bytes` and their number after it.
fn bytes_hash(hash: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let counted = mix(hash, bytes.len() as u64);
    let hash = words.iter().fold(counted, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    rest.iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte)))
}

/// One log with its hard state.
#[derive(Debug, Clone)]
pub(crate) struct LogImage {
    /// Term, vote and commit index.
    pub(crate) hard_state: HardState,
    /// The entry before the first one held.
    pub(crate) base: (LogIndex, Term),
    /// Hash of the log up to the base.
    pub(crate) base_chain: Chain,
    /// Membership in force at the base, and the index it came with.
    pub(crate) base_membership: (LogIndex, Arc<Membership>),
    slots: VecDeque<(Entry, Chain)>,
    memberships: Vec<(LogIndex, Arc<Membership>)>,
}

impl LogImage {
    /// An empty log over `membership`.
    pub(crate) fn empty(membership: Arc<Membership>) -> LogImage {
        LogImage {
            hard_state: HardState::default(),
            base: (LogIndex(0), Term(0)),
            base_chain: Chain::default(),
            base_membership: (LogIndex(0), membership),
            slots: VecDeque::new(),
            memberships: Vec::new(),
        }
    }

    /// A log that was read from a disk.
    pub(crate) fn read(
        hard_state: HardState,
        base: (LogIndex, Term),
        base_chain: Chain,
        base_membership: (LogIndex, Arc<Membership>),
        entries: Vec<Entry>,
    ) -> LogImage {
        let empty = LogImage::empty(Arc::default());
        let mut image = LogImage { hard_state, base, base_chain, base_membership, ..empty };
        image.write(&LogWrite::Append { seq: WriteSeq(0), hard_state, entries });
        image
    }

    /// Index of the last entry.
    pub(crate) fn last(&self) -> LogIndex {
        LogIndex(self.base.0.0 + self.slots.len() as u64)
    }

    /// Term and chain at `index`, if the log still holds it.
    pub(crate) fn at(&self, index: LogIndex) -> Option<(Term, Chain)> {
        if index == self.base.0 {
            return Some((self.base.1, self.base_chain));
        }
        let (entry, chain) = self.slot(index)?;
        Some((entry.term, *chain))
    }

    /// The entry at `index`, if the log still holds it.
    pub(crate) fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.slot(index).map(|(entry, _)| entry)
    }

    fn slot(&self, index: LogIndex) -> Option<&(Entry, Chain)> {
        let offset = index.0.checked_sub(self.base.0.0 + 1)?;
        self.slots.get(offset as usize)
    }

    /// Entries from `from` on.
    pub(crate) fn entries_from(&self, from: LogIndex) -> impl Iterator<Item = &Entry> {
        let skip = from.0.saturating_sub(self.base.0.0 + 1) as usize;
        self.slots.iter().skip(skip).map(|(entry, _)| entry)
    }

    /// Memberships in the log after the base, oldest first.
    pub(crate) fn memberships(&self) -> impl DoubleEndedIterator<Item = (LogIndex, &Arc<Membership>)> {
        self.memberships.iter().map(|(index, membership)| (*index, membership))
    }

    /// The membership in force at the end of the log.
    pub(crate) fn membership(&self) -> (LogIndex, &Arc<Membership>) {
        self.memberships().next_back().unwrap_or((self.base_membership.0, &self.base_membership.1))
    }

    /// The membership in force at `index`.
    pub(crate) fn membership_at(&self, index: LogIndex) -> (LogIndex, Arc<Membership>) {
        self.memberships()
            .take_while(|(at, _)| *at <= index)
            .last()
            .map(|(at, membership)| (at, Arc::clone(membership)))
            .unwrap_or_else(|| self.base_membership.clone())
    }

    /// Performs one write; returns whether it overwrote entries.
    fn write(&mut self, write: &LogWrite) -> bool {
        match write {
            LogWrite::Append { hard_state, entries, .. } => {
                self.hard_state = *hard_state;
                let Some(first) = entries.first() else { return false };
                assert!(
                    first.index.0 > self.base.0.0 && first.index.0 <= self.last().0 + 1,
                    "write of entries from {:?} leaves a gap: the log holds {:?} to {:?}",
                    first.index,
                    self.base.0,
                    self.last()
                );
                let keep = (first.index.0 - self.base.0.0 - 1) as usize;
                let replaces = keep < self.slots.len();
                self.slots.truncate(keep);
                self.memberships.retain(|(index, _)| *index < first.index);
                for entry in entries {
                    assert_eq!(entry.index.0, self.last().0 + 1, "indexes of one write are consecutive");
                    let chain = self.slots.back().map_or(self.base_chain, |(_, chain)| *chain).extend(entry);
                    self.slots.push_back((entry.clone(), chain));
                    if let Payload::Membership(membership) = &entry.payload {
                        self.memberships.push((entry.index, Arc::clone(membership)));
                    }
                }
                replaces
            }
            LogWrite::Reset { meta, chain, .. } => {
                self.slots.clear();
                self.memberships.clear();
                self.base = (meta.index, meta.term);
                self.base_chain = *chain;
                self.base_membership = (meta.membership_index, Arc::clone(&meta.membership));
                self.hard_state.commit = meta.index;
                if self.hard_state.term < meta.term {
                    self.hard_state.term = meta.term;
                    self.hard_state.vote = None;
                }
                false
            }
            LogWrite::Truncate { up_to } => {
                if up_to.0 > self.base.0.0 {
                    let (term, chain) = self.at(*up_to).expect("truncation ends inside the log");
                    self.base_membership = self.membership_at(*up_to);
                    self.slots.drain(..(up_to.0 - self.base.0.0) as usize);
                    self.memberships.retain(|(index, _)| index > up_to);
                    self.base = (*up_to, term);
                    self.base_chain = chain;
                }
                false
            }
        }
    }
}

/// One change of the log on its way to the disk.
#[derive(Debug, Clone)]
pub(crate) enum LogWrite {
    /// Hard state and entries, in one transaction.
    Append {
        /// Number of the effect that asked for it.
        seq: WriteSeq,
        /// New hard state.
        hard_state: HardState,
        /// They replace everything from the first one's index on.
        entries: Vec<Entry>,
    },
    /// Switch to a received image: the log starts over behind it.
    Reset {
        /// Number of the effect that asked for it.
        seq: WriteSeq,
        /// The image.
        meta: SnapshotMeta,
        /// Hash of the log up to the image.
        chain: Chain,
    },
    /// The prefix up to here goes.
    Truncate {
        /// Last index that goes.
        up_to: LogIndex,
    },
}

impl LogWrite {
    /// Number to report when durable.
    pub(crate) fn seq(&self) -> Option<WriteSeq> {
        match self {
            LogWrite::Append { seq, .. } | LogWrite::Reset { seq, .. } => Some(*seq),
            LogWrite::Truncate { .. } => None,
        }
    }
}

/// The log as asked for, the log as durable, and the writes between the two.
#[derive(Debug, Clone)]
pub(crate) struct LogModel {
    issued: LogImage,
    durable: LogImage,
    pending: VecDeque<LogWrite>,
    /// When each of them was asked for.
    asked: VecDeque<Instant>,
}

impl LogModel {
    /// A log whose durable content is `image`.
    pub(crate) fn new(image: LogImage) -> LogModel {
        LogModel { issued: image.clone(), durable: image, pending: VecDeque::new(), asked: VecDeque::new() }
    }

    /// What the process sees.
    pub(crate) fn issued(&self) -> &LogImage {
        &self.issued
    }

    /// What a crash now would leave at least.
    pub(crate) fn durable(&self) -> &LogImage {
        &self.durable
    }

    /// Writes that are not durable yet.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// When the oldest write that is not durable was asked for.
    ///
    /// That of the log's front does not count: the core asks for it and never hears of it again.
    pub(crate) fn oldest_pending(&self) -> Option<Instant> {
        let waiting = self.pending.iter().zip(&self.asked).find(|(write, _)| write.seq().is_some());
        waiting.map(|(_, since)| *since)
    }

    /// Takes a write; returns whether it overwrote entries.
    pub(crate) fn issue(&mut self, now: Instant, write: LogWrite) -> bool {
        let replaces = self.issued.write(&write);
        self.pending.push_back(write);
        self.asked.push_back(now);
        replaces
    }

    /// The oldest write becomes durable.
    pub(crate) fn sync_one(&mut self) -> Option<LogWrite> {
        let write = self.pending.pop_front()?;
        self.asked.pop_front();
        self.durable.write(&write);
        Some(write)
    }

    /// What the durable log will be once the first `writes` pending ones are on the disk.
    pub(crate) fn after(&self, writes: usize) -> LogImage {
        let mut image = self.durable.clone();
        for write in self.pending.iter().take(writes) {
            image.write(write);
        }
        image
    }

    /// Forgets writes after the first `keep` of those pending: the process died before it asked for them.
    pub(crate) fn forget_after(&mut self, keep: usize) {
        if keep >= self.pending.len() {
            return;
        }
        self.pending.truncate(keep);
        self.asked.truncate(keep);
        self.issued = self.durable.clone();
        for write in &self.pending {
            self.issued.write(write);
        }
    }

    /// Power fails: a random prefix of the pending writes stays. Returns how many stayed and how many are lost.
    pub(crate) fn crash(&mut self, random: &mut Random) -> (usize, usize) {
        let pending = self.pending.len();
        let kept = random.below(pending as u64 + 1) as usize;
        for _ in 0..kept {
            self.sync_one();
        }
        self.pending.clear();
        self.asked.clear();
        self.issued = self.durable.clone();
        (kept, pending - kept)
    }
}
