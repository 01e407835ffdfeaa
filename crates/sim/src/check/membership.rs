//! I-22: a leader changes the configuration only after an own-term commit and one change at a time. I-23: the
//! configuration in force is the last one in the log. I-24: no configuration contradicts itself. I-25: a leader that
//! the committed configuration left out soon leads no more. I-26: only who has caught up becomes a voter.

use std::collections::BTreeMap;

use quorate_raft::{LogIndex, Membership, NodeId, Payload, Term};

use super::View;
use crate::clock::Instant;
use crate::log_model::{LogImage, LogModel};

/// Configurations seen, and leaders that outlive their membership.
#[derive(Debug, Default)]
pub(super) struct MembershipChanges {
    /// Up to where each leader's own entries were looked at.
    checked: BTreeMap<(NodeId, Term), LogIndex>,
    left_out_since: BTreeMap<(NodeId, Term), Instant>,
}

/// I-23.
pub(super) fn check_active(view: &View<'_>, log: &LogModel) {
    let (index, membership) = log.issued().membership();
    let status = view.status;
    assert!(
        status.membership_index == index && status.membership == *membership,
        "I-23: node {} acts on the configuration of {} and its log says that of {index} is in force",
        view.node,
        status.membership_index
    );
}

impl MembershipChanges {
    pub(super) fn check_leader(&mut self, view: &View<'_>, log: &LogModel, catch_up: u64, election_timeout_us: u64) {
        let status = view.status;
        let key = (view.node, status.term);
        let log = log.issued();
        let from = self.checked.get(&key).copied().unwrap_or(LogIndex(0));
        if status.last > from {
            for entry in log.entries_from(LogIndex(from.0 + 1)) {
                if let Payload::Membership(membership) = &entry.payload
                    && entry.term == status.term
                {
                    check_appended(view, log, entry.index, membership, catch_up);
                }
            }
            self.checked.insert(key, status.last);
        }
        let left_out = !status.committed_membership.is_voter(view.node)
            && !status.membership.is_voter(view.node)
            && !status.committed_membership.is_empty();
        if left_out {
            let since = *self.left_out_since.entry(key).or_insert(view.now);
            assert!(
                view.now.since(since).as_micros() as u64 <= 2 * election_timeout_us,
                "I-25: node {} leads term {} and has been no voter since {since}",
                view.node,
                status.term
            );
        }
    }
}

fn same_voters(one: &Membership, other: &Membership) -> bool {
    one.voters == other.voters && one.outgoing == other.outgoing
}

/// I-22, I-24 and I-26, for a configuration that the leader in `view` appended at `index` in its own term.
fn check_appended(view: &View<'_>, log: &LogImage, index: LogIndex, membership: &Membership, catch_up: u64) {
    let status = view.status;
    membership.check();
    let before = log.membership_at(index.previous());
    // The first leader of a cluster writes the bootstrap configuration down right after its no-op.
    if before.0.0 == 0 {
        return;
    }
    assert!(
        before.0 <= status.commit,
        "I-22: leader {} appends a configuration at {index} while that of {} is uncommitted (commit {})",
        view.node,
        before.0,
        status.commit
    );
    let own = log.at(status.commit).is_some_and(|(term, _)| term == status.term);
    assert!(own, "I-22: leader {} appends a configuration at {index} before a commit of its term", view.node);
    let (joint, was_joint) = (membership.is_joint(), before.1.is_joint());
    assert!(
        joint || was_joint || membership.voters == before.1.voters,
        "I-22: leader {} changes the voters at {index} outside a joint phase",
        view.node
    );
    assert!(
        !joint
            || (!was_joint && membership.outgoing == before.1.voters)
            || (was_joint && same_voters(membership, &before.1)),
        "I-22: leader {} enters a joint phase at {index} that does not start from the voters in force",
        view.node
    );
    assert!(
        !was_joint || joint || before.1.standing.iter().all(|id| membership.learners.contains(id)),
        "I-24: a standing learner leaves at {index} with a change of the voters: {:?}, then {membership:?}",
        before.1
    );
    let started = membership.members.values().filter(|member| member.is_bound());
    let oldest = started.map(|member| member.max_version).min();
    assert!(
        oldest.is_none_or(|oldest| membership.cluster_version <= oldest),
        "I-24: the cluster is to be of version {} at {index}, a member knows {oldest:?} at most",
        membership.cluster_version
    );
    assert!(membership.cluster_version >= before.1.cluster_version, "I-24: the cluster version falls at {index}");
    if joint && !was_joint {
        for promoted in membership.voters.difference(&before.1.voters) {
            assert!(before.1.learners.contains(promoted), "I-26: {promoted} becomes a voter and was no learner");
            let matched = status.peer(*promoted).map_or(LogIndex(0), |peer| peer.matched);
            assert!(
                matched.0 + catch_up + 1 >= index.0,
                "I-26: {promoted} becomes a voter at {index} with {matched} on its disk, catch-up bound {catch_up}"
            );
            let heard = status.peer(*promoted).is_some_and(|peer| peer.recently_active);
            assert!(heard, "I-26: {promoted} becomes a voter at {index} and has not been heard of late");
        }
    }
}
