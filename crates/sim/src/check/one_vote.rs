//! I-2: a node votes once a term, across all its lives, whether the vote was sent or only made durable. Whoever comes to lead
//! a term has the votes of a quorum, each on its voter's disk.

use std::collections::BTreeMap;

use quorate_raft::{HardState, NodeId, Term};

use super::View;
use super::commit::has_majorities;

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

    /// A node has just become leader.
    pub(super) fn check_new_leader(&self, view: &View<'_>) {
        let (leader, status) = (view.node, view.status);
        let voted = |id: NodeId| self.votes.get(&(id, status.term)) == Some(&leader);
        assert!(
            has_majorities(&status.membership, voted),
            "I-2: node {leader} leads term {} without the votes of a quorum of {:?} and {:?}",
            status.term,
            status.membership.voters,
            status.membership.outgoing
        );
    }

    pub(super) fn replied(&mut self, node: NodeId, term: Term, candidate: NodeId) {
        let first = *self.votes.entry((node, term)).or_insert(candidate);
        assert!(first == candidate, "I-2: node {node} voted for {first} and for {candidate} in term {term}");
    }
}
