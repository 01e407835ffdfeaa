//! I-10: term, commit and applied index never decrease within a life. That the term does in no life is `log_bounds`' affair: what a
//! node thinks is what its disk says.

use std::collections::BTreeMap;

use quorate_raft::{LogIndex, NodeId, Term};

use super::View;

/// The greatest values seen of each node.
#[derive(Debug, Default)]
pub(super) struct Monotonic {
    seen: BTreeMap<NodeId, (Term, LogIndex, LogIndex)>,
}

impl Monotonic {
    pub(super) fn died(&mut self, node: NodeId) {
        self.seen.remove(&node);
    }

    pub(super) fn check(&mut self, view: &View<'_>) {
        let status = view.status;
        let now = (status.term, status.commit, status.applied);
        let before = self.seen.insert(view.node, now).unwrap_or(now);
        assert!(
            before.0 <= now.0 && before.1 <= now.1 && before.2 <= now.2,
            "I-10: node {} went from (term, commit, applied) {before:?} to {now:?}",
            view.node
        );
    }
}
