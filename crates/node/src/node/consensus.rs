//! Between consensus and the outside: its effects become the replica's, in their order.

use std::sync::Arc;

use quorate_raft::{
    Body, Effect as RaftEffect, Entry, LogIndex, Membership, Message, NodeId, RoleKind, Term, WriteSeq,
};
use quorate_wire::peer::{AdminSuccess, NodeState, PeerMessage};

use super::Node;
use super::standing::STOP;
use crate::admin::refusal;
use crate::effect::{Answer, Effect};
use crate::error::NodeError;
use crate::input::AppliedState;

impl Node {
    /// Steps consensus and carries out what it wants.
    pub(super) fn raft(&mut self, input: quorate_raft::Input) {
        let effects = self.raft.step(self.now, input);
        for effect in effects {
            self.raft_effect(effect);
        }
    }

    fn raft_effect(&mut self, effect: RaftEffect) {
        match effect {
            RaftEffect::Persist { seq, hard_state, entries } => {
                self.held.issue(seq);
                self.log_size.written(&entries);
                self.effects.push(Effect::WriteLog { seq, hard_state, entries });
            }
            RaftEffect::Send(message) => self.send_raft(message),
            RaftEffect::SendAfter { after, message } => {
                let max = self.config.limits.max_held_messages;
                if let Some(message) = self.held.hold(after, message, max) {
                    self.send_raft(message);
                }
            }
            RaftEffect::Apply { entries } => self.apply(entries),
            RaftEffect::ReadEntries { to, from, max_bytes } => {
                self.effects.push(Effect::ReadEntries { to, from, max_bytes });
            }
            RaftEffect::SendSnapshot { to } => self.streams.want(to),
            RaftEffect::InstallSnapshot { seq, meta } => {
                self.held.issue(seq);
                // The next entry to apply follows the image; what was handed out before is still applied before it.
                self.handed = meta.index;
                self.log_size.reset(meta.index);
                self.effects.push(Effect::InstallSnapshot { seq, meta });
            }
            RaftEffect::TruncatePrefix { up_to } => self.effects.push(Effect::TruncateLog { up_to }),
            RaftEffect::ReadReady { read, index } => self.reads.round_ready(read, index),
            RaftEffect::ReadFailed { read, .. } => {
                let pause = self.config.raft.heartbeat_interval / 2;
                self.reads.round_failed(read, self.now, pause);
            }
            RaftEffect::Proposed { first, term, .. } => self.last_proposal = Some(Ok((first, term))),
            RaftEffect::Refused { request, reason } => match self.admins.served(request) {
                // Without a refusal its origin, here or elsewhere, asks again after a while.
                Some(asker) => {
                    if let Some(refused) = refusal(reason) {
                        self.admin_done(asker, Err(refused));
                    }
                }
                None if request == STOP => self.transfer_for_stop_ended(request),
                None => self.last_proposal = Some(Err(reason)),
            },
            RaftEffect::Accepted { request, config_index } => {
                if let Some(asker) = self.admins.served(request) {
                    self.admin_done(asker, Ok(AdminSuccess::Accepted { config_index }));
                }
            }
            RaftEffect::TransferEnded { request, result } => self.transfer_ended(request, result),
            RaftEffect::RoleChanged { role, term, leader } => self.role_changed(role, term, leader),
            RaftEffect::MembershipChanged { index, membership, committed } => {
                self.membership_changed(index, membership, committed);
            }
        }
    }

    pub(super) fn send_raft(&mut self, message: Message) {
        let to = message.to;
        self.send(to, PeerMessage::Raft(message));
    }

    /// Hands committed entries to the state machine, cut where state hashes are compared.
    fn apply(&mut self, entries: Vec<Entry>) {
        for entries in self.divergence.split(entries) {
            let last = entries.last().expect("no part of a batch is empty").index;
            assert_eq!(entries[0].index, self.handed.next(), "entries are applied in order");
            let bytes = entries.iter().map(Entry::size).sum();
            self.handed = last;
            self.applying.push_back((last, bytes));
            self.applying_bytes += bytes;
            self.effects.push(Effect::Apply { entries });
        }
    }

    fn role_changed(&mut self, role: RoleKind, term: Term, leader: Option<NodeId>) {
        let led = self.is_leader();
        if self.leader.is_some() && leader != self.leader {
            self.leader_lost_at = Some(self.now);
        }
        let new_leader = (leader, term) != (self.leader, self.term);
        if led || role == RoleKind::Leader {
            self.forget_lease_duties();
        }
        self.role = role;
        self.term = term;
        self.leader = leader;
        if new_leader {
            self.proposals_blocked = false;
            if mutant!(RetriesInFlight) {
                self.proposals.term_applied(term);
            }
            self.reads.leader_changed();
            self.divergence.forget_reports();
            self.doubt_alarmed = false;
            self.announce_at = self.announce_at.min(self.now);
            if let Some(leader) = leader {
                self.transfers_settled(leader, term);
            }
        }
        if led != self.is_leader() || led {
            self.intake.begin(term);
            self.unapplied.clear();
            self.unapplied_writes = 0;
            self.unapplied_bytes = 0;
        }
        if !self.is_leader() {
            self.streams.stop_waiting();
        }
        self.effects.push(Effect::RoleChanged { role, term, leader });
    }

    fn membership_changed(&mut self, index: LogIndex, membership: Arc<Membership>, committed: bool) {
        if committed {
            let (_, before) = std::mem::replace(&mut self.committed_membership, (index, Arc::clone(&membership)));
            if membership.removed.contains(&self.id) {
                let reason = format!("the configuration at log index {index} no longer lists this node");
                self.bar(NodeState::Removed, reason);
            } else if self.is_leader() {
                for id in membership.removed.iter().filter(|id| !before.removed.contains(id)) {
                    self.tell_removed(*id, index);
                }
            }
        }
        let in_force = Arc::clone(self.raft.membership().1);
        self.effects.push(Effect::MembershipChanged { index, membership, committed, in_force });
    }

    pub(super) fn snapshot_installed(&mut self, seq: WriteSeq, state: AppliedState) {
        assert!(state.index <= self.handed, "an image beyond what consensus asked for");
        // Completions come in any order: a newer image may have taken this one's place already.
        if state.index > self.applied.index {
            self.take_over(state);
        }
        for message in self.held.written(seq) {
            self.send_raft(message);
        }
        self.raft(quorate_raft::Input::Persisted { seq });
    }

    /// The state machine is another one now, and what it did on its way to `state` is hidden.
    fn take_over(&mut self, state: AppliedState) {
        self.applied = state;
        self.clock.applied(state.leases.clock, self.now);
        self.durable_applied = state.index;
        self.applying.retain(|(last, _)| *last > state.index);
        self.applying_bytes = self.applying.iter().map(|(_, bytes)| bytes).sum();
        self.divergence.forget_own();
        self.divergence.forget_reports();
        if mutant!(ImageStrandsWrites) {
            return;
        }
        for request in self.proposals.snapshot_installed(state.term) {
            self.answer(request, Answer::Refused(NodeError::OutcomeUnknown));
        }
    }

    /// A message arrived.
    pub(super) fn peer(&mut self, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Raft(message) => self.raft_message(from, message),
            PeerMessage::Forward(forward) => self.take_forward(from, forward),
            PeerMessage::ForwardReply(reply) => self.forward_refused(reply),
            PeerMessage::Admin(admin) => self.serve_remote(from, admin),
            PeerMessage::AdminReply(reply) => self.admin_answered(reply),
            PeerMessage::Digest { index, digest } => self.digest_reported(from, index, digest),
            PeerMessage::Diverged { index, digest } => self.diverged(from, index, digest),
            PeerMessage::Removed { config_index } => self.told_to_be_removed(from, config_index),
            PeerMessage::Outcome(outcome) => self.outcome_told(outcome),
        }
    }

    fn raft_message(&mut self, from: NodeId, mut message: Message) {
        // The stream says who speaks; a message that says otherwise is not worth an answer.
        if message.from != from || message.to != self.id {
            return;
        }
        if self.committed_membership.1.removed.contains(&from) {
            self.remind_removed(from);
            if matches!(message.body, Body::RequestVote { .. }) {
                return;
            }
        }
        if let Body::Append { entries, .. } = &mut message.body {
            // Entries that cannot be applied yet would pile up in memory. Without them the append is still the leader's
            // sign of life, and the leader finds out like after any loss.
            if self.applying_bytes > self.config.limits.max_apply_backlog_bytes {
                entries.clear();
            }
        }
        self.raft(quorate_raft::Input::Message(message));
    }

    /// The stream to a node broke. What was asked of a leader is asked again at once: a stream breaks seldom.
    pub(super) fn peer_lost(&mut self, id: NodeId) {
        if self.leader == Some(id) {
            self.proposals.leader_lost();
            self.reads.leader_changed();
        }
        self.admins.peer_lost(id);
        self.raft(quorate_raft::Input::PeerUnreachable { id });
    }
}
