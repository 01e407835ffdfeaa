//! A leader's reign: how it begins, what it does in every step and at every tick, and how it ends.
//!
//! Owns the order of a leader's work and the reasons to give leadership up: no majority heard for an election timeout
//! (check-quorum), a disk that does not finish a write for as long, or no place in the committed configuration.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::effect::{Effect, ReadRefused, Refused};
use crate::entry::{Entry, Payload};
use crate::ids::{LogIndex, NodeId, RequestId, Time};
use crate::membership::Member;
use crate::message::Body;
use crate::progress::Progress;
use crate::raft::Raft;
use crate::read_index::LeaderReads;
use crate::role::{Leader, Role, Rounds};

/// How long nodes that left are still fed, so that they learn of it, in election timeouts.
const DEPARTURE_TIMEOUTS: u32 = 10;

impl Raft {
    /// Takes office in the current term: a no-op first, so that commit can advance (thesis 3.6.2), and on a new cluster
    /// the bootstrap configuration, so that a joiner with an empty disk learns it from the log.
    pub(crate) fn become_leader(&mut self) {
        assert!(self.hard_state_is_durable(), "a leader's own vote is on its disk");
        assert!(self.log.may_lead(self.id), "only a voter leads");
        let term_start = self.log.last().next();
        self.role = Role::Leader(Box::new(Leader {
            since: self.now,
            voters_since: self.now,
            term_start,
            progress: BTreeMap::new(),
            rounds: Rounds::default(),
            reads: LeaderReads::default(),
            transfer: None,
            gave_up_lease: false,
            handover_tried: BTreeSet::new(),
        }));
        self.append_payload(Payload::Noop);
        let bootstrap = self.log.membership().1.clone();
        if self.log.base().0 == LogIndex(0) && !self.log.holds_membership_entry() {
            self.append_payload(Payload::Membership(bootstrap));
        }
        self.sync_progress(term_start);
        self.feed_departed(term_start);
        self.start_round();
    }

    /// Appends commands as consecutive entries.
    pub(crate) fn propose(&mut self, request: RequestId, commands: Vec<Bytes>) {
        let refusal = match &self.role {
            Role::Leader(leader) if leader.transfer.is_some() => Some(Refused::Transferring),
            Role::Leader(_) if commands.is_empty() => Some(Refused::Invalid("a proposal holds no command".into())),
            Role::Leader(_) => None,
            _ => Some(self.not_leader()),
        };
        if let Some(reason) = refusal {
            self.effects.push(Effect::Refused { request, reason });
            return;
        }
        let first = self.log.last().next();
        for command in commands {
            self.append_payload(Payload::Command(command));
        }
        self.effects.push(Effect::Proposed { request, first, term: self.term });
    }

    pub(crate) fn append_payload(&mut self, payload: Payload) -> LogIndex {
        let index = self.log.last().next();
        self.append_entry(Entry { term: self.term, index, payload });
        index
    }

    /// Makes the followers' progress fit the configuration in force. New ones are probed from `next`.
    pub(crate) fn sync_progress(&mut self, next: LogIndex) {
        let membership = self.log.membership().1.clone();
        let departs_at = self.now + self.config.election_timeout * DEPARTURE_TIMEOUTS;
        let Role::Leader(leader) = &mut self.role else { return };
        // Nobody knows yet whom a member without a data directory will be: there is nobody to send anything to.
        let bound = membership.members.iter().filter(|(_, member)| member.is_bound());
        for id in bound.map(|(id, _)| id).filter(|id| **id != self.id) {
            leader.progress.entry(*id).or_insert_with(|| Progress::new(next));
        }
        for (id, progress) in &mut leader.progress {
            if !membership.is_member(*id) && progress.departs_at.is_none() {
                progress.departs_at = Some(departs_at);
            }
        }
    }

    /// Nodes that left with the configuration in force may not have heard of it from the leader that removed them.
    fn feed_departed(&mut self, next: LogIndex) {
        let membership = self.log.membership().1.clone();
        let Some((_, previous)) = self.log.previous_membership() else { return };
        let left = |id: &NodeId, member: &Member| member.is_bound() && membership.removed.contains(id);
        let departed: Vec<_> =
            previous.members.iter().filter(|(id, member)| left(id, member)).map(|(id, _)| *id).collect();
        let departs_at = self.now + self.config.election_timeout * DEPARTURE_TIMEOUTS;
        let Role::Leader(leader) = &mut self.role else { return };
        for id in departed.into_iter().filter(|id| *id != self.id) {
            let progress = leader.progress.entry(id).or_insert_with(|| Progress::new(next));
            progress.departs_at = Some(departs_at);
        }
    }

    pub(crate) fn tick_leader(&mut self) {
        if self.now >= self.quorum_deadline() && !mutant!(NoCheckQuorum) {
            self.become_follower(self.term, None);
            return;
        }
        if self.disk_is_stalled() && !self.log.membership().1.is_only_voter(self.id) {
            self.abandon_leadership();
            self.become_follower(self.term, None);
            return;
        }
        let heartbeat_interval = self.config.heartbeat_interval;
        let Role::Leader(leader) = &mut self.role else { return };
        leader.progress.retain(|_, progress| progress.departs_at.is_none_or(|at| at > self.now));
        let heartbeat_due = self.now >= leader.rounds.sent_at + heartbeat_interval;
        self.expire_transfer();
        if heartbeat_due && self.role.leader().is_some() {
            self.start_round();
        }
    }

    /// When this leader must step back unless a majority is heard before.
    fn quorum_deadline(&self) -> Time {
        let Role::Leader(leader) = &self.role else { return Time::NEVER };
        if self.log.membership().1.is_only_voter(self.id) || mutant!(NoCheckQuorum) {
            return Time::NEVER;
        }
        let heard_at = self.log.membership().1.quorum_value(|id| {
            if id == self.id {
                return self.now;
            }
            // New voters have a timeout to be heard: how long they were silent before says nothing about this leader. It cannot
            // go on so for ever, since the next change waits for the commit of this one.
            let heard_at = leader.progress.get(&id).and_then(|progress| progress.heard_at);
            heard_at.unwrap_or(leader.since).max(leader.voters_since)
        });
        heard_at + self.config.election_timeout
    }

    pub(crate) fn leader_deadline(&self, leader: &Leader) -> Time {
        let heartbeat = if leader.progress.is_empty() {
            Time::NEVER
        } else {
            leader.rounds.sent_at + self.config.heartbeat_interval
        };
        let transfer = leader.transfer.map_or(Time::NEVER, |transfer| transfer.deadline);
        let stall = match self.writes.oldest_unfinished() {
            Some(_) if mutant!(StalledDiskLeads) => Time::NEVER,
            Some(at) if !self.log.membership().1.is_only_voter(self.id) => at + self.config.election_timeout,
            _ => Time::NEVER,
        };
        let retry = leader.progress.values().filter_map(Progress::snapshot_retry_at).min().unwrap_or(Time::NEVER);
        heartbeat.min(transfer).min(stall).min(retry).min(self.quorum_deadline())
    }

    /// What a leader does after every input.
    pub(crate) fn settle_leader(&mut self) {
        self.advance_commit();
        self.confirm_rounds();
        self.drive_transfer();
        self.drive_change();
        // A sole voter's change may need nobody else, and reads may start a round: both are settled before sending.
        self.serve_reads();
        self.replicate();
        self.step_down_if_removed();
    }

    /// A leader without a place in the committed configuration has done its last duty (thesis 4.2.2).
    fn step_down_if_removed(&mut self) {
        let (index, membership) = self.log.membership();
        let stays = [mutant!(RemovedLeaderStays), mutant!(StrandedLeaderStays)].contains(&true);
        if self.role.leader().is_some() && *index <= self.log.commit() && !membership.is_voter(self.id) && !stays {
            self.abandon_leadership();
            self.become_follower(self.term, None);
        }
    }

    /// Answers what waited for this leader.
    pub(crate) fn retire_leader(&mut self, leader: Leader) {
        let (local, remote) = leader.reads.into_requests();
        self.fail_reads(local, ReadRefused::LeaderChanged);
        for (to, read) in remote {
            self.send(to, Body::ReadIndexReply { read, index: None });
        }
        if let Some(transfer) = leader.transfer {
            self.outlive_transfer(transfer);
        }
    }
}
