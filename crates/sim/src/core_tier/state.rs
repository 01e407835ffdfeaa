//! The state machine of the core tier: the hash of all it has applied.

use std::sync::Arc;

use quorate_raft::{Entry, LogIndex, Membership, Payload, SnapshotMeta, Term};

use crate::log_model::Chain;

/// The state after some entry; also the image that a snapshot carries.
#[derive(Debug, Clone)]
pub(crate) struct AppliedState {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) chain: Chain,
    membership: (LogIndex, Arc<Membership>),
}

impl AppliedState {
    /// The state before the first entry.
    pub(crate) fn empty(bootstrap: Option<&Membership>) -> AppliedState {
        AppliedState {
            index: LogIndex(0),
            term: Term(0),
            chain: Chain::default(),
            membership: (LogIndex(0), Arc::new(bootstrap.cloned().unwrap_or_default())),
        }
    }

    /// Applies the next entry.
    pub(crate) fn apply(&mut self, entry: &Entry) {
        assert!(
            entry.index == self.index.next(),
            "I-10: {} is applied after {}, so an entry is skipped or applied twice",
            entry.index,
            self.index
        );
        self.index = entry.index;
        self.term = entry.term;
        self.chain = self.chain.extend(entry);
        if let Payload::Membership(membership) = &entry.payload {
            self.membership = (entry.index, Arc::clone(membership));
        }
    }

    /// What a snapshot of this state says of itself.
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            index: self.index,
            term: self.term,
            membership: Arc::clone(&self.membership.1),
            membership_index: self.membership.0,
        }
    }
}
