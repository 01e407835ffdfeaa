//! I-2: a node votes once a term, across all its lives, whether the vote was sent or only made durable.

use std::collections::BTreeMap;

use quorate_raft::{HardState, NodeId, Term};

/// The vote of each node in each term.
#[derive(Debug, Default)]
pub(super) struct OneVote {
    votes: BTreeMap<(NodeId, Term), NodeId>,
}

impl OneVote {
    pub(super) fn durable(&mut self, node: NodeId, hard_state: &HardState) {
        if let Some(candidate) = hard_state.vote {
            self.replied(node, hard_state.term, candidate);
        }
    }

    pub(super) fn replied(&mut self, node: NodeId, term: Term, candidate: NodeId) {
        let first = *self.votes.entry((node, term)).or_insert(candidate);
        assert!(first == candidate, "I-2: node {node} voted for {first} and for {candidate} in term {term}");
    }
}
