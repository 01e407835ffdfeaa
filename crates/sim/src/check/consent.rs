//! Whoever is barred asks for no votes, and gives none: its state, or its place in the cluster, is not what its log says.
//!
//! What is seen are roles, and the votes that a node remembers. A pre-vote leaves no trace in it.

use std::collections::BTreeMap;

use quorate_raft::{NodeId, RoleKind, Term};

use super::View;

/// Which running nodes were barred after their last step, and the vote that each had given then.
#[derive(Debug, Default)]
pub(super) struct Consent {
    barred: BTreeMap<NodeId, (Term, Option<NodeId>)>,
}

impl Consent {
    pub(super) fn check(&mut self, view: &View<'_>) {
        let status = view.status;
        if !status.campaigning_stopped {
            self.barred.remove(&view.node);
            return;
        }
        assert!(status.role == RoleKind::Follower, "barred: node {} is {:?}", view.node, status.role);
        let now = (status.term, status.vote);
        let before = self.barred.insert(view.node, now).unwrap_or(now);
        assert!(
            now == before || now.1.is_none(),
            "barred: node {} gives its vote, {before:?} and then {now:?}",
            view.node
        );
    }

    pub(super) fn died(&mut self, node: NodeId) {
        self.barred.remove(&node);
    }
}
