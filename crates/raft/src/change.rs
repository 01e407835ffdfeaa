//! Membership changes: what is asked for, and the steps a leader takes towards it.
//!
//! Owns when a configuration entry is appended. The target stands in the configuration itself, so a new leader goes on
//! where the last one stopped: learners are added and caught up, one joint entry, one entry that leaves it (thesis 4.3).
//! What each configuration looks like is `plan`'s.
//!
//! Rules: none before an entry of the own term is committed (Ongaro, raft-dev 2015), none while one is uncommitted, the
//! joint phase is entered only while enough of the incoming voters are there to decide and left only after its entry is
//! committed under both halves, and a leader without a place among the incoming voters hands over first.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::effect::{Effect, Refused};
use crate::entry::Payload;
use crate::ids::{LogIndex, NodeId, RequestId};
use crate::input::{MemberChange, VoterTarget};
use crate::membership::{Member, Membership, quorum_size};
use crate::plan;
use crate::raft::Raft;
use crate::role::Role;
use crate::single;

/// What a request asks of the configuration in force.
enum Wanted {
    /// It is so already, or on the way.
    Already,
    /// This configuration.
    Becomes(Box<Membership>),
}

impl Raft {
    pub(crate) fn set_voters(&mut self, request: RequestId, target: &[VoterTarget], expected: Option<LogIndex>) {
        let outcome = self.want_voters(target, expected);
        self.answer_change(request, outcome);
    }

    fn want_voters(&self, target: &[VoterTarget], expected: Option<LogIndex>) -> Result<Wanted, Refused> {
        if self.role.leader().is_none() {
            return Err(self.not_leader());
        }
        let (index, membership) = self.log.membership();
        let admission = plan::resolve(membership, target)?;
        let reached =
            membership.target.is_none() && membership.voters == admission.voters && membership.learners.is_empty();
        if reached || membership.target.as_ref() == Some(&admission.voters) {
            return Ok(Wanted::Already);
        }
        if membership.is_joint() && !mutant!(ChangeWhileJoint) {
            return Err(Refused::Busy { index: *index });
        }
        if expected.is_some_and(|expected| expected != *index) {
            return Err(Refused::StaleConfig { current: *index });
        }
        self.may_change()?;
        let next = plan::begin(membership, admission);
        if next.is_joint() && !self.can_decide(&next.voters) {
            return Err(Refused::Unhealthy);
        }
        Ok(Wanted::Becomes(next.into()))
    }

    pub(crate) fn change_member(&mut self, request: RequestId, change: &MemberChange) {
        let outcome = self.want_change(change);
        self.answer_change(request, outcome);
    }

    fn want_change(&self, change: &MemberChange) -> Result<Wanted, Refused> {
        if self.role.leader().is_none() {
            return Err(self.not_leader());
        }
        let membership = &self.log.membership().1;
        let caught_up = self.caught_up(&membership.learners);
        let Some(next) = single::changed(membership, change, &caught_up)? else { return Ok(Wanted::Already) };
        self.may_change()?;
        if next.target.as_ref().is_some_and(|target| !self.can_decide(target)) {
            return Err(Refused::Unhealthy);
        }
        Ok(Wanted::Becomes(next.into()))
    }

    pub(crate) fn update_member(&mut self, request: RequestId, id: NodeId, member: Member) {
        let outcome = self.want_member(id, member);
        self.answer_change(request, outcome);
    }

    fn want_member(&self, id: NodeId, member: Member) -> Result<Wanted, Refused> {
        if self.role.leader().is_none() {
            return Err(self.not_leader());
        }
        let membership = &self.log.membership().1;
        let known = membership.members.get(&id).ok_or(Refused::UnknownMember { id })?;
        if *known == member {
            return Ok(Wanted::Already);
        }
        // A member that was added before it was started takes the first data directory that is found for it.
        if known.is_bound() && known.incarnation != member.incarnation {
            return Err(Refused::Invalid(format!("node {id} was admitted with another data directory")));
        }
        if known.is_bound() || member.is_bound() {
            plan::check_member(membership, id, &member)?;
        }
        self.may_change()?;
        let mut next = Membership::clone(membership);
        next.members.insert(id, member);
        if mutant!(UpdatePromotes) && next.learners.remove(&id) {
            next.standing.remove(&id);
            next.rising.remove(&id);
            next.voters.insert(id);
        }
        Ok(Wanted::Becomes(next.into()))
    }

    pub(crate) fn raise_version(&mut self, request: RequestId, version: u32) {
        let outcome = self.want_version(version);
        self.answer_change(request, outcome);
    }

    fn want_version(&self, version: u32) -> Result<Wanted, Refused> {
        if self.role.leader().is_none() {
            return Err(self.not_leader());
        }
        let membership = &self.log.membership().1;
        if version <= membership.cluster_version {
            return Ok(Wanted::Already);
        }
        // A member that is not started yet is judged when it is.
        let lacks = |member: &Member| member.is_bound() && member.max_version < version;
        if let Some((id, member)) = membership.members.iter().find(|(_, member)| lacks(member)) {
            let supported = member.max_version;
            let text = format!("node {id} supports versions up to {supported}, not {version}");
            return Err(Refused::Invalid(text));
        }
        self.may_change()?;
        Ok(Wanted::Becomes(Membership { cluster_version: version, ..Membership::clone(membership) }.into()))
    }

    fn answer_change(&mut self, request: RequestId, outcome: Result<Wanted, Refused>) {
        let effect = match outcome {
            Ok(Wanted::Already) => Effect::Accepted { request, config_index: self.log.membership().0 },
            Ok(Wanted::Becomes(next)) => Effect::Accepted { request, config_index: self.append_membership(*next) },
            Err(reason) => Effect::Refused { request, reason },
        };
        self.effects.push(effect);
    }

    /// Whether a configuration entry may be appended now, on request.
    fn may_change(&self) -> Result<(), Refused> {
        let leader = self.role.leader().ok_or_else(|| self.not_leader())?;
        let (index, membership) = self.log.membership();
        if leader.transfer.is_some() {
            return Err(Refused::Transferring);
        }
        if self.log.commit() < leader.term_start && !mutant!(ChangeBeforeOwnTermCommit) {
            return Err(Refused::Busy { index: leader.term_start });
        }
        let nested = mutant!(ChangeWhileJoint) && membership.is_joint();
        let uncommitted = *index > self.log.commit() && !mutant!(TwoChangesAtOnce) && !nested;
        if uncommitted || (membership.is_joint() && !mutant!(ChangeWhileJoint)) {
            return Err(Refused::Busy { index: *index });
        }
        Ok(())
    }

    fn append_membership(&mut self, next: Membership) -> LogIndex {
        next.check();
        let bugs = [
            mutant!(ChangeBeforeOwnTermCommit),
            mutant!(TwoChangesAtOnce),
            mutant!(ChangeWhileJoint),
            mutant!(LeavesUncommittedJoint),
        ];
        let unguarded = bugs.contains(&true);
        assert!(self.own_term_committed() || unguarded, "a configuration before an entry of the own term is committed");
        let settled = self.log.membership().0 <= self.log.commit();
        assert!(settled || unguarded, "two configurations that are not committed");
        let current = &self.log.membership().1;
        let same_voters = (&next.voters, &next.outgoing) == (&current.voters, &current.outgoing);
        let index = self.append_payload(Payload::Membership(next.into()));
        self.sync_progress(index);
        if let Role::Leader(leader) = &mut self.role
            && !same_voters
        {
            leader.voters_since = self.now;
            // A quorum of these voters may have promised less, or nothing yet: the lease begins anew with their next answers.
            if let Some(confirmed) = &mut leader.rounds.confirmed
                && !mutant!(LeaseOfOldVoters)
            {
                confirmed.promise = Duration::ZERO;
            }
        }
        index
    }

    /// Takes the next step of the change in flight, if its time has come.
    pub(crate) fn drive_change(&mut self) {
        let Some(leader) = self.role.leader() else { return };
        let (index, membership) = self.log.membership();
        let mut committed = *index <= self.log.commit() && self.own_term_committed();
        committed |= mutant!(LeavesUncommittedJoint) && membership.is_joint();
        if !committed || leader.transfer.is_some() {
            return;
        }
        let Some(target) = &membership.target else { return self.raise_learners() };
        if !membership.is_joint() {
            let incoming: BTreeSet<NodeId> = target.intersection(&membership.learners).copied().collect();
            // Voters of the target may have died while its learners caught up. They are waited for here, where another target can
            // still be asked for: a joint phase that cannot decide has no way back.
            if self.caught_up(&incoming).len() == incoming.len() && self.can_decide(target) {
                let next = plan::enter_joint(membership);
                self.append_membership(next);
            }
        } else if mutant!(LeavesOnlyWhatItEntered) && self.log.term_at(*index) != Some(self.term) {
            // Somebody else's change.
        } else if membership.voters.contains(&self.id) || mutant!(RemovedLeaderStays) {
            let next = plan::leave_joint(membership);
            self.append_membership(next);
        } else {
            self.hand_over_before_leaving();
        }
    }

    /// Learners that were added as voters become such as soon as they can.
    fn raise_learners(&mut self) {
        let membership = &self.log.membership().1;
        let ready = self.caught_up(&membership.rising);
        let risen = single::risen(membership, ready.clone(), &ready);
        if let Some(next) = risen.filter(|next| self.can_decide(&next.voters)) {
            self.append_membership(next);
        }
    }

    /// Which of these learners are there and close enough to count at once (HAZARDS I-26): joining one that lags could stop
    /// commits until it has caught up.
    fn caught_up(&self, learners: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let Some(leader) = self.role.leader() else { return BTreeSet::new() };
        if mutant!(LearnerPromotedAtOnce) {
            return learners.clone();
        }
        let is_close = |id: &NodeId| {
            leader.progress.get(id).is_some_and(|progress| {
                let lag = self.log.last().0 - progress.matched.0;
                let is_there = progress.is_active(self.now, &self.config) || mutant!(SilentLearnerPromoted);
                lag <= self.config.catch_up_entries && is_there
            })
        };
        learners.iter().copied().filter(is_close).collect()
    }

    /// Whether enough of these nodes are there to agree on something. Only who was heard by this very leader is: one that was
    /// just elected and counted everybody as there would let the dead decide.
    fn can_decide(&self, voters: &BTreeSet<NodeId>) -> bool {
        let Some(leader) = self.role.leader() else { return false };
        let is_there = |id: &&NodeId| {
            **id == self.id
                || leader.progress.get(id).is_some_and(|progress| progress.is_active(self.now, &self.config))
        };
        voters.iter().filter(is_there).count() >= quorum_size(voters.len())
    }

    /// This leader is leaving: an incoming voter takes over and appends the entry that removes this node. One that does not
    /// take over within an election timeout is passed over until all were tried.
    fn hand_over_before_leaving(&mut self) {
        let tried: BTreeSet<NodeId> =
            self.role.leader().map(|leader| leader.handover_tried.clone()).unwrap_or_default();
        if let Some(to) = self.best_successor(|id| !tried.contains(&id)) {
            self.begin_transfer(to, None);
            self.drive_transfer();
        } else if let Some(leader) = self.role.leader_mut() {
            leader.handover_tried.clear();
        }
    }
}
