//! Comparison of state hashes: a state machine that went its own way is found and barred.
//!
//! Every node cuts its batches at the same log indexes, so hashes of the same index exist everywhere. Followers send theirs to
//! the leader; what a quorum agrees on is the truth, and whoever has another hash is told, checks against its own record, and
//! fences itself. A leader in the minority fences itself too. Where every voter has reported and no quorum agrees, nobody can
//! tell who is right: that is an alarm of the whole cluster.

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

/// What the hashes of one index say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// What a quorum agreed on, and who has something else.
    Agreed { index: LogIndex, digest: Digest, divergent: Vec<NodeId> },
    /// All voters have spoken, and no quorum agrees: one to one, two to two, or three opinions.
    Undecided,
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
        let verdict = match agreed {
            Some(digest) => {
                self.verified = self.verified.max(index);
                let divergent = digests.iter().filter(|(_, other)| **other != digest).map(|(id, _)| *id).collect();
                Some(Verdict::Agreed { index, digest, divergent })
            }
            None => {
                let mut voters = membership.voters.iter().chain(&membership.outgoing);
                voters.all(|id| digests.contains_key(id)).then_some(Verdict::Undecided)
            }
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(voters: u64) -> Membership {
        let ids = (1..=voters).map(NodeId);
        Membership {
            voters: ids.clone().collect(),
            members: ids.map(|id| (id, quorate_raft::Member::default())).collect(),
            ..Membership::default()
        }
    }

    /// The last verdict, with one hash a voter.
    fn verdict(digests: &[u128]) -> Option<Verdict> {
        let membership = membership(digests.len() as u64);
        let mut divergence = Divergence::new(1);
        let reports = digests.iter().zip(1..);
        let verdicts: Vec<_> = reports
            .map(|(digest, id)| divergence.report(NodeId(id), LogIndex(1), Digest(*digest), &membership))
            .collect();
        verdicts.into_iter().last().flatten()
    }

    #[test]
    fn no_quorum_of_equal_states_is_a_verdict_once_all_voters_have_spoken() {
        for undecided in [&[1, 2][..], &[1, 2, 3], &[1, 1, 2, 2], &[1, 1, 2, 2, 3]] {
            assert_eq!(verdict(undecided), Some(Verdict::Undecided), "{undecided:?}");
        }
        let agreed = Verdict::Agreed { index: LogIndex(1), digest: Digest(1), divergent: vec![NodeId(2)] };
        assert_eq!(verdict(&[1, 2, 1]), Some(agreed));
    }

    #[test]
    fn nothing_is_said_while_a_voter_is_silent() {
        let mut divergence = Divergence::new(1);
        let membership = membership(3);
        assert_eq!(divergence.report(NodeId(1), LogIndex(1), Digest(1), &membership), None);
        assert_eq!(divergence.report(NodeId(2), LogIndex(1), Digest(2), &membership), None);
    }
}
