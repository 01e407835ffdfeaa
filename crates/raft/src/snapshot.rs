//! Images of the state in place of a log that is gone: what a follower takes, and how a leader goes on afterwards.
//!
//! Owns the decision whether an image replaces the log. Never sees its content. An image never undoes what is committed
//! here, and a log that already agrees with it is kept.

use crate::effect::Effect;
use crate::ids::{LogIndex, NodeId, Round, Term};
use crate::input::SnapshotMeta;
use crate::progress::Feed;
use crate::raft::Raft;
use crate::role::Role;

/// The round of an answer that no append asked for. Rounds of a leader start at one.
const UNASKED: Round = Round(0);

impl Raft {
    /// A whole verified image from the leader of `term` lies beside the state.
    pub(crate) fn snapshot_received(&mut self, from: NodeId, term: Term, meta: SnapshotMeta) {
        meta.membership.check();
        // Nobody's log holds an entry of a term that has not begun: what says so is no leader's.
        if meta.term > term {
            return;
        }
        if term < self.term || self.role.leader().is_some() && term == self.term {
            return;
        }
        if term > self.term {
            self.become_follower(term, None);
        }
        self.follow(from);
        if meta.index <= self.log.commit() && !mutant!(OldImageInstalled) {
            return;
        }
        if self.log.term_at(meta.index) == Some(meta.term) {
            // The log holds everything the image does; only the news that it is committed was missing.
            self.commit_to(meta.index);
        } else {
            self.install(&meta);
        }
        let index = meta.index;
        if let Role::Follower(follower) = &mut self.role {
            follower.verified = follower.verified.max(index);
        }
        let newest_write = self.newest_write();
        self.reply_matched(from, UNASKED, index, newest_write);
    }

    /// Drops the whole log, also an entry at the image's end that conflicts with it (hashicorp/raft#697), and the
    /// configurations that only the dropped entries knew.
    fn install(&mut self, meta: &SnapshotMeta) {
        self.flush();
        self.log.reset(meta);
        let seq = self.writes.issue_install(self.now, meta.index);
        self.effects.push(Effect::InstallSnapshot { seq, meta: meta.clone() });
        self.fence_writes();
        let placed = self.log.membership().clone();
        self.report_membership(placed, true);
    }

    /// An image reached a follower, or did not.
    pub(crate) fn snapshot_reported(&mut self, to: NodeId, sent: Result<LogIndex, ()>) {
        let retry_at = self.now + self.config.heartbeat_interval;
        let last = self.log.last();
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&to) else { return };
        if !matches!(progress.feed, Feed::Snapshot { .. }) {
            return;
        }
        match sent {
            Ok(index) => progress.probe_from(index.min(last).next()),
            Err(()) => progress.feed = Feed::Snapshot { retry_at: Some(retry_at) },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::config::Config;
    use crate::ids::Time;
    use crate::input::{Input, Restored};
    use crate::membership::{Member, Membership};

    #[test]
    fn an_image_of_a_term_after_its_leaders_is_no_leaders() {
        let ids = [1, 2, 3].map(NodeId);
        let members = ids.map(|id| (id, Member { incarnation: crate::Incarnation(1), ..Member::default() }));
        let membership = Membership { voters: ids.into(), members: members.into(), ..Membership::default() };
        let membership = Arc::new(membership);
        let taken = |term: u64, leader_term: u64| {
            let base_membership = (LogIndex(0), Arc::clone(&membership));
            let restored = Restored { base_membership, ..Restored::default() };
            let mut raft = Raft::new(Config::default(), NodeId(1), restored, Time(0), Duration::ZERO);
            let (index, term) = (LogIndex(9), Term(term));
            let meta = SnapshotMeta { index, term, membership: membership.clone(), membership_index: LogIndex(1) };
            let input = Input::SnapshotReceived { from: NodeId(2), term: Term(leader_term), meta };
            let effects = raft.step(Time(1), input);
            raft.check();
            effects.iter().any(|effect| matches!(effect, Effect::InstallSnapshot { .. }))
        };
        assert!(taken(4, 5) && taken(5, 5));
        assert!(!taken(6, 5) && !taken(u64::MAX, 5));
    }
}
