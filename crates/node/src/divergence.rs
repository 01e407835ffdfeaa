//! Comparison of state hashes: a state machine that went its own way is found and barred.
//!
//! Every node cuts its batches at the same log indexes, so hashes of the same index exist everywhere. Followers send theirs to
//! the leader; what a quorum agrees on is the truth, and whoever has another hash is told, checks against its own record, and
//! fences itself. A leader in the minority fences itself too.

use std::collections::{BTreeMap, VecDeque};

use quorate_kv::Digest;
use quorate_raft::{Entry, LogIndex, Membership, NodeId};

/// Hashes remembered, own and reported.
const MAX_REMEMBERED: usize = 64;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Divergence {
    every: u64,
    own: VecDeque<(LogIndex, Digest)>,
    reported: BTreeMap<LogIndex, BTreeMap<NodeId, Digest>>,
    verified: LogIndex,
}

/// What a quorum agreed on at one index, and who has something else.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) index: LogIndex,
    pub(crate) digest: Digest,
    pub(crate) divergent: Vec<NodeId>,
}

impl Divergence {
    pub(crate) fn new(every: u64) -> Divergence {
        assert!(every > 0, "state hashes are compared every so many entries");
        Divergence { every, own: VecDeque::new(), reported: BTreeMap::new(), verified: LogIndex(0) }
    }

    /// Splits a batch so that no part reaches across an index at which hashes are compared.
    pub(crate) fn split(&self, mut entries: Vec<Entry>) -> Vec<Vec<Entry>> {
        let mut parts = Vec::new();
        while let Some(first) = entries.first() {
            let to_boundary = self.every - (first.index.0 - 1) % self.every;
            if (entries.len() as u64) <= to_boundary {
                parts.push(entries);
                break;
            }
            let rest = entries.split_off(to_boundary as usize);
            parts.push(std::mem::replace(&mut entries, rest));
        }
        parts
    }

    /// This node's state hash after applying up to `index`; whether it is one to compare.
    pub(crate) fn applied(&mut self, index: LogIndex, digest: Digest) -> bool {
        if index.0 == 0 || !index.0.is_multiple_of(self.every) {
            return false;
        }
        self.own.push_back((index, digest));
        if self.own.len() > MAX_REMEMBERED {
            self.own.pop_front();
        }
        true
    }

    /// On the leader: a node, or the leader itself, has this hash. Gives the verdict once there is one.
    pub(crate) fn report(
        &mut self,
        from: NodeId,
        index: LogIndex,
        digest: Digest,
        membership: &Membership,
    ) -> Option<Verdict> {
        if !index.0.is_multiple_of(self.every) || !membership.is_member(from) {
            return None;
        }
        let digests = self.reported.entry(index).or_default();
        digests.insert(from, digest);
        let agreed =
            digests.values().copied().find(|digest| membership.quorum_reached(|id| digests.get(&id) == Some(digest)));
        let verdict = agreed.map(|digest| Verdict {
            index,
            digest,
            divergent: digests.iter().filter(|(_, other)| **other != digest).map(|(id, _)| *id).collect(),
        });
        if verdict.is_some() {
            self.verified = self.verified.max(index);
        }
        while self.reported.len() > MAX_REMEMBERED {
            self.reported.pop_first();
        }
        verdict
    }

    /// A quorum has this hash: whether this node is known to have had another.
    pub(crate) fn contradicts(&self, index: LogIndex, digest: Digest) -> bool {
        self.own.iter().any(|(own_index, own)| *own_index == index && *own != digest)
    }

    /// Somebody else leads, or the state was replaced by an image.
    pub(crate) fn forget_reports(&mut self) {
        self.reported.clear();
    }

    /// The state was replaced by an image: hashes of the former one mean nothing.
    pub(crate) fn forget_own(&mut self) {
        self.own.clear();
    }

    pub(crate) fn verified(&self) -> LogIndex {
        self.verified
    }
}
