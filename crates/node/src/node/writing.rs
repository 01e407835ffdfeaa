//! The path of a write: queued at its origin, proposed here or forwarded, answered when this node applies it.

use bytes::Bytes;
use quorate_kv::{Actor, ClusterTime, Command};
use quorate_raft::{LogIndex, NodeId, Refused, RequestId, Term};
use quorate_wire::peer::{Forward, ForwardRefused, ForwardReply, Outcome, PeerMessage};
use quorate_wire::{Envelope, encode_envelope};

use super::Node;
use crate::effect::Answer;
use crate::error::NodeError;
use crate::forward::is_timed;
use crate::input::AppliedResult;
use crate::proposals::GivenUp;

/// Consensus echoes a handle with each proposal; there is one at a time, so any will do. The handles of administrators'
/// requests start above it.
const PROPOSAL: RequestId = RequestId(0);

/// Where commands went.
pub(super) struct Appended {
    /// The last of them.
    pub(super) last: LogIndex,
    pub(super) term: Term,
}

impl Node {
    /// Takes a client's write.
    pub(super) fn write(&mut self, request: RequestId, actor: Actor, command: Command) -> Result<(), NodeError> {
        self.admit_write(&command)?;
        let timed = is_timed(&command);
        let (_, spare_bytes) = self.config.limits.spare_for(&command);
        let envelope = encode_envelope(&Envelope {
            origin: self.id,
            incarnation: self.proposals.session(),
            sequence: self.proposals.next_sequence(),
            actor,
            command,
        });
        self.admit_size(envelope.len(), spare_bytes)?;
        let deadline = self.deadline();
        self.proposals.push(request, envelope, timed, self.now, deadline);
        Ok(())
    }

    /// Proposes or forwards what is queued. Without a leader writes wait: a change of leaders refuses nobody.
    pub(super) fn move_writes(&mut self) {
        if self.is_leader() {
            while self.propose() {}
        } else if let Some((leader, term)) = self.forward_to() {
            let resend_after = self.resend_after();
            for forward in self.proposals.forward(term, self.now, resend_after, &self.config.limits) {
                self.send(leader, PeerMessage::Forward(forward));
            }
        }
    }

    /// Whether writes wait here that this leader has taken and has no room to propose.
    pub(super) fn writes_wait(&self) -> bool {
        !self.intake.is_empty() || self.proposals.has_queued()
    }

    /// Proposes one batch; whether there may be another.
    fn propose(&mut self) -> bool {
        if self.proposals_blocked {
            return false;
        }
        let limits = &self.config.limits;
        let room = limits.max_unapplied_proposals.saturating_sub(self.unapplied_writes);
        if room == 0 || self.unapplied_bytes >= limits.max_unapplied_proposal_bytes {
            return false;
        }
        let count = room.min(self.config.raft.max_append_entries);
        let foreign = self.intake.pop(count);
        let mut timed = foreign.iter().any(|write| write.timed);
        let mut commands: Vec<Bytes> = foreign.iter().map(|write| write.envelope.clone()).collect();
        let mut own = Vec::new();
        for (sequence, write) in self.proposals.queued().take(count - foreign.len()) {
            own.push(sequence);
            timed |= write.timed;
            commands.push(write.envelope.clone());
        }
        if commands.is_empty() {
            return false;
        }
        let stamp = if timed { self.stamp() } else { None };
        match self.append(stamp, commands) {
            Ok(appended) => {
                self.proposals.appended(&own, appended.term);
                true
            }
            // Leadership may be gone, and with it what was taken for others: their origins know what to do.
            Err(Refused::NotLeader { .. }) => false,
            Err(_) => {
                self.intake.push_front(foreign);
                false
            }
        }
    }

    /// Appends commands to this leader's log, what the clock shows before them. Refused for another reason than that this
    /// node does not lead, consensus takes no proposal for a while.
    pub(super) fn append(
        &mut self,
        stamp: Option<(ClusterTime, Bytes)>,
        commands: Vec<Bytes>,
    ) -> Result<Appended, Refused> {
        let (clock, stamp) = stamp.unzip();
        let commands: Vec<Bytes> = stamp.into_iter().chain(commands).collect();
        let (writes, bytes) = (commands.len(), commands.iter().map(Bytes::len).sum());
        self.last_proposal = None;
        self.raft(quorate_raft::Input::Propose { request: PROPOSAL, commands });
        match self.last_proposal.take().expect("consensus answers a proposal at once") {
            Ok((first, term)) => {
                let last = LogIndex(first.0 + writes as u64 - 1);
                self.unapplied.push_back((last, writes, bytes));
                self.unapplied_writes += writes;
                self.unapplied_bytes += bytes;
                if let Some(clock) = clock {
                    self.clock.logged(clock);
                }
                Ok(Appended { last, term })
            }
            Err(refused) => {
                self.proposals_blocked = !matches!(refused, Refused::NotLeader { .. });
                Err(refused)
            }
        }
    }

    /// Takes what another node forwarded to this leader.
    pub(super) fn take_forward(&mut self, from: NodeId, forward: Forward) {
        if !self.is_leader() || forward.term != self.term || self.barred.is_some() {
            // No answer: the origin learns of the next leader from the log, and of this one's silence by the clock.
            return;
        }
        let room = self.room();
        for reply in self.intake.take(from, forward, room, &self.config.limits) {
            if reply.reason == ForwardRefused::TooManyRequests {
                self.hold_leases();
            }
            self.send(from, PeerMessage::ForwardReply(reply));
        }
    }

    /// The leader will never append these.
    pub(super) fn forward_refused(&mut self, reply: ForwardReply) {
        if reply.session != self.proposals.session() {
            return;
        }
        for sequence in reply.sequences {
            if let Some(request) = self.proposals.refused(sequence, reply.term) {
                let error = match reply.reason {
                    ForwardRefused::TooManyRequests => NodeError::TooManyRequests,
                    ForwardRefused::NoSpace => NodeError::NoSpace,
                };
                self.answer(request, Answer::Refused(error));
            }
        }
    }

    /// A command was applied here: its origin answers, and a leader answers for an origin that no longer sees the log.
    pub(super) fn result_applied(&mut self, result: AppliedResult) {
        if result.origin == self.id {
            if result.session == self.proposals.session()
                && let Some(request) = self.proposals.applied(result.sequence)
            {
                self.pace.done(self.now);
                self.answer(request, Answer::Written(result.outcome));
            }
        } else if self.is_leader() && !self.membership().is_member(result.origin) {
            let outcome = Outcome { session: result.session, sequence: result.sequence, outcome: result.outcome };
            self.send(result.origin, PeerMessage::Outcome(outcome));
        }
    }

    /// The leader says what became of a write of this node, which has left the cluster.
    pub(super) fn outcome_told(&mut self, outcome: Outcome) {
        if outcome.session == self.proposals.session()
            && let Some(request) = self.proposals.applied(outcome.sequence)
        {
            self.answer(request, Answer::Written(outcome.outcome));
        }
    }

    pub(super) fn write_given_up(&self, given_up: &GivenUp) -> NodeError {
        if !given_up.in_flight && self.leader.is_none() {
            return NodeError::NoLeader;
        }
        self.timed_out(given_up.started)
    }
}
