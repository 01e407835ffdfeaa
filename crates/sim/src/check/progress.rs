//! I-11: a leader's view of its followers: what it sends next lies above what they hold, and that within its own log.

use super::View;

pub(super) fn check(view: &View<'_>) {
    let status = view.status;
    for (peer, progress) in &status.peers {
        assert!(
            progress.matched < progress.next && progress.matched <= status.last,
            "I-11: leader {} of term {} with last {} thinks of {peer}: {progress:?}",
            view.node,
            status.term,
            status.last
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
}
