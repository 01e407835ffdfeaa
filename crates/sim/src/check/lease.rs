//! I-13: while a leader may serve reads under its lease, nobody leads a higher term.

use std::collections::BTreeMap;

use quorate_raft::{NodeId, Term};

use super::View;
use crate::clock::Instant;

/// Until when, in true time, each node thinks it holds a lease, and of which term.
#[derive(Debug, Default)]
pub(super) struct Lease {
    until: BTreeMap<NodeId, (Instant, Term)>,
}

impl Lease {
    pub(super) fn died(&mut self, node: NodeId) {
        self.until.remove(&node);
    }

    pub(super) fn check(&mut self, view: &View<'_>, newest_term: Term) {
        let Some(until) = view.status.lease_until else {
            self.until.remove(&view.node);
            return;
        };
        let until = view.clock.when(until);
        assert!(
            until <= view.now || newest_term <= view.status.term,
            "I-13: node {} holds a lease of term {} until {until}, and term {newest_term} has a leader",
            view.node,
            view.status.term
        );
        self.until.insert(view.node, (until, view.status.term));
    }

    /// `view` shows a node that has just become leader.
    pub(super) fn check_new_leader(&self, view: &View<'_>) {
        for (node, (until, term)) in &self.until {
            assert!(
                *node == view.node || *until <= view.now || *term >= view.status.term,
                "I-13: node {} leads term {} while node {node} holds a lease of term {term} until {until}",
                view.node,
                view.status.term
            );
        }
    }
}
