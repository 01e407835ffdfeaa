//! I-1: each term has at most one leader, over the whole run. I-3: whoever leads or campaigns is a voter. L-2: no leader
//! that holds a lease, or may, campaigns against itself. One that gave it up for a transfer does, to have one again.

use std::collections::{BTreeMap, BTreeSet};

use quorate_raft::{NodeId, RoleKind, Term};

use super::View;

/// Who led each term.
#[derive(Debug, Default)]
pub(super) struct OneLeader {
    leaders: BTreeMap<Term, NodeId>,
    /// Which running nodes led after their last step, with the lease of their term not given up.
    leased: BTreeSet<NodeId>,
}

impl OneLeader {
    /// Returns whether the node has just become leader.
    pub(super) fn check(&mut self, view: &View<'_>) -> bool {
        let status = view.status;
        let led = self.leased.remove(&view.node);
        assert!(
            !led || status.role != RoleKind::Candidate,
            "L-2: node {} led and campaigns against itself in term {}",
            view.node,
            status.term
        );
        if status.role == RoleKind::Leader && status.lease_until.is_some() {
            self.leased.insert(view.node);
        }
        if status.role != RoleKind::Follower {
            let (index, membership) = (status.committed_membership_index, &status.committed_membership);
            assert!(
                status.membership.is_voter(view.node) || membership.is_voter(view.node),
                "I-3: node {} is {:?} in term {} without being a voter, neither at {} nor at {index}",
                view.node,
                status.role,
                status.term,
                status.membership_index
            );
        }
        if status.role != RoleKind::Leader {
            return false;
        }
        let leader = *self.leaders.entry(status.term).or_insert(NodeId(0));
        if leader == view.node {
            return false;
        }
        assert!(leader == NodeId(0), "I-1: nodes {leader} and {} both led term {}", view.node, status.term);
        self.leaders.insert(status.term, view.node);
        true
    }

    pub(super) fn died(&mut self, node: NodeId) {
        self.leased.remove(&node);
    }

    pub(super) fn newest_term(&self) -> Term {
        self.leaders.last_key_value().map_or(Term(0), |(term, _)| *term)
    }

    pub(super) fn has_led_since(&self, node: Option<NodeId>, term: Term) -> bool {
        match node {
            Some(node) => self.leaders.range(term..).any(|(_, leader)| *leader == node),
            None => self.newest_term() > term,
        }
    }

    pub(super) fn leader_of(&self, term: Term) -> Option<NodeId> {
        self.leaders.get(&term).copied()
    }
}
