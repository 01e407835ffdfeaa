//! Leaving: removed from the cluster, fenced, or stopped by its owner.

use std::time::Duration;

use quorate_raft::{LogIndex, NodeId, RequestId, Time};
use quorate_wire::peer::{NodeState, PeerMessage};

use super::Node;
use crate::effect::{Answer, Effect};
use crate::error::NodeError;
use crate::lifecycle::Barred;

/// Consensus echoes this handle with the transfer that a stop asks for. Administrators' requests count up from 1.
pub(super) const STOP: RequestId = RequestId(u64::MAX);

/// A stop, or a fence on a leader, waits this many election timeouts for leadership to move.
const STOP_ELECTION_TIMEOUTS: u32 = 3;

/// Removed nodes remembered as told; more are told again.
const MAX_TOLD: usize = 1024;

/// A stop under way.
#[derive(Debug)]
pub(super) struct Stopping {
    pub(super) deadline: Time,
    /// Leadership could not be moved: stop without.
    transfer_failed: bool,
    told: bool,
}

impl Node {
    /// The node neither votes nor serves from now on.
    pub(super) fn bar(&mut self, state: NodeState, reason: String) {
        let before = self.barred.as_ref().map(|barred| barred.state);
        // Removal is final; a second fence says nothing new.
        if before == Some(NodeState::Removed) || before == Some(state) {
            return;
        }
        self.barred = Some(Barred { state, reason: reason.clone() });
        self.effects.push(Effect::StateChanged { state, reason });
        self.consent_to_nothing();
        for given_up in self.reads.drain() {
            let error = self.admit().expect_err("a barred node serves nothing");
            self.answer(given_up.request, Answer::Refused(error));
        }
        // A node that left passes its clients' writes on. One whose state is wrong would answer them from that state.
        if state != NodeState::Removed {
            let barred = self.admit().expect_err("a barred node serves nothing");
            self.give_up_writes(&NodeError::OutcomeUnknown, &barred);
        }
    }

    /// Answers all writes, by whether they may have taken effect or were never sent.
    fn give_up_writes(&mut self, in_flight: &NodeError, unsent: &NodeError) {
        for given_up in self.proposals.drain() {
            let error = if given_up.in_flight { in_flight } else { unsent };
            self.answer(given_up.request, Answer::Refused(error.clone()));
        }
    }

    pub(super) fn consent_to_nothing(&mut self) {
        if self.is_leader() {
            self.raft(quorate_raft::Input::TransferLeader { request: STOP, to: None });
        }
        self.raft(quorate_raft::Input::StopCampaigning { yes: true });
    }

    /// Tells a node that it left, on every occasion at most once an election timeout.
    pub(super) fn tell_removed(&mut self, id: NodeId, config_index: LogIndex) {
        if self.told_removed.len() >= MAX_TOLD {
            self.told_removed.pop_first();
        }
        self.told_removed.insert(id, self.now);
        self.send(id, PeerMessage::Removed { config_index });
    }

    /// A node that left still speaks: perhaps it never learned.
    pub(super) fn remind_removed(&mut self, id: NodeId) {
        let pause: Duration = self.config.raft.election_timeout;
        if self.told_removed.get(&id).is_none_or(|told| *told + pause <= self.now) {
            self.tell_removed(id, self.committed_membership.0);
        }
    }

    /// A member says that this node left. Ids are never used again, so nobody says so of a node that may still come.
    pub(super) fn told_to_be_removed(&mut self, from: NodeId, config_index: LogIndex) {
        if self.membership().is_member(from) || self.leader == Some(from) {
            let reason = format!("node {from} says that the configuration at log index {config_index} removed it");
            self.bar(NodeState::Removed, reason);
        }
    }

    pub(super) fn begin_stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let deadline = self.now + self.config.raft.election_timeout * STOP_ELECTION_TIMEOUTS;
        self.stopping = Some(Stopping { deadline, transfer_failed: false, told: false });
        if self.is_leader() && self.has_successor() {
            self.raft(quorate_raft::Input::TransferLeader { request: STOP, to: None });
        }
    }

    fn has_successor(&self) -> bool {
        self.membership().voters.iter().any(|id| *id != self.id)
    }

    /// Consensus refused or ended the transfer that a stop waits for.
    pub(super) fn transfer_for_stop_ended(&mut self, request: RequestId) {
        if request == STOP
            && let Some(stopping) = &mut self.stopping
        {
            stopping.transfer_failed = true;
        }
    }

    /// Ends a stop once nothing is pending and leadership has moved, or cannot.
    pub(super) fn end_stop(&mut self) {
        let Some(stopping) = &self.stopping else { return };
        let late = self.now >= stopping.deadline;
        let leads = self.is_leader() && self.has_successor() && !stopping.transfer_failed;
        let pending = self.proposals.len() > 0 || self.reads.len() > 0 || self.admins.clients() > 0;
        if stopping.told || (!late && (leads || pending)) {
            return;
        }
        self.give_up_writes(&NodeError::Timeout, &NodeError::Stopping);
        for given_up in self.reads.drain() {
            self.answer(given_up.request, Answer::Refused(NodeError::Stopping));
        }
        for (request, asked) in self.admins.drain() {
            let error = if asked { NodeError::Timeout } else { NodeError::Stopping };
            self.answer(request, Answer::Refused(error));
        }
        self.stopping.as_mut().expect("a stop is under way").told = true;
        self.effects.push(Effect::Stopped);
    }
}
