//! I-11: a leader's view of its followers: what it sends next lies above what they hold, and that within its own log; what
//! it knows them to hold never shrinks within a term.

use std::collections::BTreeMap;

use quorate_raft::{LogIndex, NodeId, Term};

use super::View;

/// What each leader last knew of its followers.
#[derive(Debug, Default)]
pub(super) struct Followers {
    matched: BTreeMap<NodeId, (Term, Vec<(NodeId, LogIndex)>)>,
}

impl Followers {
    pub(super) fn check_leader(&mut self, view: &View<'_>) {
        let status = view.status;
        let (term, matched) = self.matched.entry(view.node).or_default();
        if *term != status.term {
            *term = status.term;
            matched.clear();
        }
        for (peer, progress) in &status.peers {
            assert!(
                progress.matched < progress.next && progress.matched <= status.last,
                "I-11: leader {} of term {} with last {} thinks of {peer}: {progress:?}",
                view.node,
                status.term,
                status.last
            );
            let before = matched.iter().find(|(id, _)| id == peer).map_or(LogIndex(0), |(_, index)| *index);
            assert!(
                before <= progress.matched,
                "I-11: leader {} of term {} knew that {peer} holds {before} and now thinks of {}",
                view.node,
                status.term,
                progress.matched
            );
            // A node that left is told so for a while; it counts for nothing, which I-5 reads from the disks.
            let left = status.membership.removed.contains(peer);
            assert!(
                left || status.membership.is_member(*peer) || status.committed_membership.is_member(*peer),
                "I-7: leader {} of term {} keeps progress of {peer}, which is no member",
                view.node,
                status.term
            );
        }
        matched.clear();
        matched.extend(status.peers.iter().map(|(peer, progress)| (*peer, progress.matched)));
    }
}
