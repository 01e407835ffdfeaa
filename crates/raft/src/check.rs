//! What must hold in one node after every step. Panics where it does not: a node that goes on could break its promises.

use crate::raft::Raft;
use crate::role::Role;

impl Raft {
    /// Panics if an invariant is broken. Cheap enough to run after every step in tests and in the simulator.
    pub fn check(&self) {
        self.log.check();
        assert!(self.log.last_term() <= self.term, "the log is ahead of the term");
        let installing = self.writes.is_installing();
        assert!(installing || self.log.base().0 <= self.applied, "the log forgot entries that were not applied");
        assert!(self.applied <= self.log.handed(), "applied what was never handed out");
        assert!(self.writes.durable() <= self.log.last(), "the disk holds more than the log");
        self.freshness.check();
        let membership = &self.log.membership().1;
        match &self.role {
            Role::Follower(follower) => {
                assert!(follower.verified <= self.log.last(), "verified {} is past the log", follower.verified);
                assert!(follower.leader != Some(self.id), "a follower follows itself");
            }
            Role::PreCandidate(_) => assert!(self.log.may_lead(self.id), "who asks for votes is a voter"),
            Role::Candidate(_) => {
                assert!(self.log.may_lead(self.id), "who asks for votes is a voter");
                assert_eq!(self.vote, Some(self.id), "a candidate votes for itself");
            }
            Role::Leader(leader) => {
                assert_eq!(self.vote, Some(self.id), "a leader voted for itself");
                assert!(self.hard_state_is_durable(), "a leader's term and vote are on its disk");
                assert!(leader.term_start <= self.log.last(), "a leader's first entry is in its log");
                assert!(!leader.progress.contains_key(&self.id), "a leader sends to itself");
                let bound = membership.members.iter().filter(|(_, member)| member.is_bound());
                for id in bound.map(|(id, _)| id).filter(|id| **id != self.id) {
                    assert!(leader.progress.contains_key(id), "member {id} is not fed");
                }
                for (id, progress) in &leader.progress {
                    progress.check(self.log.last(), &self.config);
                    let departed = !membership.is_member(*id);
                    assert_eq!(departed, progress.departs_at.is_some(), "node {id} is fed as what it is not");
                }
                leader.reads.check();
                let unconfirmed = leader.rounds.open.front().map(|(round, _, _)| *round);
                assert!(
                    unconfirmed.is_none_or(|round| round <= leader.rounds.current),
                    "an open round is from the future"
                );
            }
        }
    }
}
