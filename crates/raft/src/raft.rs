//! The replica: one value that holds the whole state of a node, takes in one input at a time and says what follows.
//!
//! Owns the order of work within a step: dispatch to the module of the duty, then settle what follows from it (commit,
//! send, apply, persist). Decides nothing about elections, replication or membership itself.
//!
//! A step asks for at most one log write, so that everything that became a promise in it waits for the same one.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::effect::{Effect, Refused};
use crate::entry::{Entry, HardState, Payload};
use crate::freshness::Freshness;
use crate::ids::{LogIndex, NodeId, Term, Time, WriteSeq};
use crate::input::{Input, Restored};
use crate::log::{Log, Placed};
use crate::membership::Membership;
use crate::message::{Body, Message};
use crate::role::{Follower, Role};
use crate::status::{RoleKind, Status};
use crate::transfer::EndingTransfer;
use crate::writes::Writes;

/// One node's consensus, as a value: a run is a function of its inputs alone.
#[derive(Debug)]
pub struct Raft {
    pub(crate) id: NodeId,
    pub(crate) config: Config,
    /// Newest time seen.
    pub(crate) now: Time,
    /// From the last tick; used at the next reset of the election timer.
    pub(crate) jitter: Duration,
    pub(crate) term: Term,
    pub(crate) vote: Option<NodeId>,
    pub(crate) log: Log,
    pub(crate) writes: Writes,
    pub(crate) role: Role,
    /// No vote before this: a leader that this node heard, perhaps before a restart, may serve reads until then.
    pub(crate) promise_until: Time,
    /// The longest promise that may have been given before the start, and when it has run out at the latest.
    longest_promise: Duration,
    longest_promise_until: Time,
    pub(crate) election_deadline: Time,
    /// Neither asks for votes nor grants them.
    pub(crate) stopped: bool,
    pub(crate) ending_transfer: Option<EndingTransfer>,
    pub(crate) freshness: Freshness,
    pub(crate) applied: LogIndex,
    /// The write that made, or will make, term and vote durable.
    pub(crate) hard_state_write: WriteSeq,
    /// Whether that write was not asked for yet.
    hard_state_dirty: bool,
    /// Entries from here on were not asked to be written yet.
    unwritten_from: Option<LogIndex>,
    /// What this step has produced so far, and where in it the step's log write belongs.
    pub(crate) effects: Vec<Effect>,
    write_position: usize,
    reported: (RoleKind, Term, Option<NodeId>),
}

impl Raft {
    /// A node as its disk describes it. It follows nobody until it hears a leader or its election timeout passes; a node
    /// that is the only voter campaigns at its first tick, which is due at once.
    ///
    /// # Panics
    /// If `config` or `restored` contradicts itself.
    pub fn new(config: Config, id: NodeId, restored: Restored, now: Time, jitter: Duration) -> Raft {
        config.check();
        let HardState { term, vote, promise: promised, .. } = restored.hard_state;
        let vote = vote.filter(|_| !mutant!(RestartForgetsVote));
        let (last, applied) = (restored.last, restored.applied);
        let log = Log::restore(restored);
        assert!(log.last_term() <= term, "the log is of a later term than the hard state");
        let only_voter = log.membership().1.is_only_voter(id);
        let longest = promised.max(config.election_timeout);
        let promise = if only_voter || mutant!(PromiseForgotten) { Duration::ZERO } else { longest };
        let mut raft = Raft {
            id,
            now,
            jitter,
            term,
            vote,
            log,
            writes: Writes::new(last),
            role: Role::Follower(Follower::default()),
            promise_until: now + promise,
            longest_promise: longest,
            longest_promise_until: now + longest,
            election_deadline: now,
            stopped: false,
            ending_transfer: None,
            freshness: Freshness::default(),
            applied,
            hard_state_write: WriteSeq(0),
            hard_state_dirty: false,
            unwritten_from: None,
            effects: Vec::new(),
            write_position: 0,
            reported: (RoleKind::Follower, term, None),
            config,
        };
        if !only_voter {
            raft.reset_election_timer();
        }
        if promised < raft.config.election_timeout {
            // Before it is given to anybody, who might count on it after a restart.
            raft.hard_state_changed();
        }
        raft
    }

    /// Takes in what happened at `now` and says what must be done, in order.
    ///
    /// # Panics
    /// If an invariant of consensus is broken: by a bug, or by a caller that broke the contract of [`Input`].
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        self.now = self.now.max(now);
        match input {
            Input::Tick { jitter } => self.tick(jitter),
            Input::Message(message) => self.receive(message),
            Input::Propose { request, commands } => self.propose(request, commands),
            Input::SetVoters { request, target, expected } => self.set_voters(request, &target, expected),
            Input::ChangeMember { request, change } => self.change_member(request, &change),
            Input::UpdateMember { request, id, member } => self.update_member(request, id, member),
            Input::RaiseVersion { request, version } => self.raise_version(request, version),
            Input::TransferLeader { request, to } => self.transfer_leader(request, to),
            Input::ReadIndex { read } => self.read_index(read),
            Input::Persisted { seq } => self.persisted(seq),
            Input::EntriesRead { to, from, entries } => self.entries_read(to, from, entries),
            Input::SnapshotReport { to, sent } => self.snapshot_reported(to, sent),
            Input::SnapshotReceived { from, term, meta } => self.snapshot_received(from, term, meta),
            Input::Applied { index } => self.note_applied(index),
            Input::Compact { up_to } => self.compact(up_to),
            Input::PeerUnreachable { id } => self.peer_unreachable(id),
            Input::StopCampaigning { yes } => self.stop_campaigning(yes),
        }
        self.settle();
        std::mem::take(&mut self.effects)
    }

    /// When the next [`Input::Tick`] is wanted. May be past.
    pub fn next_deadline(&self) -> Time {
        let role = match &self.role {
            Role::Leader(leader) => self.leader_deadline(leader),
            Role::PreCandidate(ballot) | Role::Candidate(ballot) => self.election_deadline.min(ballot.ask_again_at),
            Role::Follower(_) => self.election_deadline,
        };
        self.ending_transfer.as_ref().map_or(role, |ending| role.min(ending.deadline))
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The newest term it has seen.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Its role.
    pub fn role(&self) -> RoleKind {
        self.role.kind()
    }

    /// The leader of its term, if known.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::PreCandidate(_) | Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.id),
        }
    }

    /// Committed up to here, as far as it knows.
    pub fn commit(&self) -> LogIndex {
        self.log.commit()
    }

    /// Its last entry.
    pub fn last(&self) -> LogIndex {
        self.log.last()
    }

    /// The configuration in force and the entry that set it.
    pub fn membership(&self) -> (LogIndex, &Arc<Membership>) {
        let (index, membership) = self.log.membership();
        (*index, membership)
    }

    /// A copy of what the node knows about itself.
    pub fn status(&self) -> Status {
        let (membership_index, membership) = self.log.membership().clone();
        let (committed_membership_index, committed_membership) = self.log.membership_at(self.log.commit()).clone();
        let leader = self.role.leader();
        let peers = leader.map(|leader| {
            leader.progress.iter().map(|(id, progress)| (*id, progress.status(self.now, &self.config))).collect()
        });
        Status {
            id: self.id,
            role: self.role.kind(),
            term: self.term,
            leader: self.leader(),
            vote: self.vote,
            first: self.log.first(),
            last: self.log.last(),
            last_term: self.log.last_term(),
            durable: self.durable(),
            commit: self.log.commit(),
            applied: self.applied,
            membership,
            membership_index,
            committed_membership,
            committed_membership_index,
            peers: peers.unwrap_or_default(),
            lease_until: self.lease_until(),
            last_quorum_round: leader.and_then(|leader| leader.rounds.confirmed).map(|confirmed| confirmed.sent_at),
            transferring_to: leader.and_then(|leader| leader.transfer).map(|transfer| transfer.to),
            pending_bytes: self.log.uncommitted_bytes(),
            campaigning_stopped: self.stopped,
        }
    }

    fn tick(&mut self, jitter: Duration) {
        self.jitter = jitter;
        self.expire_ending_transfer();
        if self.role.leader().is_some() {
            self.tick_leader();
        } else {
            self.campaign_if_due();
        }
    }

    fn persisted(&mut self, seq: WriteSeq) {
        if let Some(index) = self.writes.complete(seq) {
            self.note_applied(index);
        }
        self.count_own_vote();
    }

    fn note_applied(&mut self, index: LogIndex) {
        assert!(index <= self.log.handed(), "applied {index} was never handed out");
        self.applied = self.applied.max(index);
        self.freshness.applied(self.applied);
    }

    fn compact(&mut self, up_to: LogIndex) {
        assert!(up_to <= self.applied, "compaction up to {up_to} is past what was applied, {}", self.applied);
        if up_to > self.log.base().0 {
            self.log.compact(up_to);
            self.effects.push(Effect::TruncatePrefix { up_to });
        }
    }

    fn stop_campaigning(&mut self, yes: bool) {
        self.stopped = yes;
        if yes && self.role.kind() != RoleKind::Follower {
            self.abandon_leadership();
            self.become_follower(self.term, None);
        }
    }

    /// Takes care of terms, then gives the message to the module of its duty.
    fn receive(&mut self, message: Message) {
        if message.to != self.id || message.from == self.id {
            return;
        }
        let Message { from, term, body, .. } = message;
        match body {
            // Votes have rules of their own: a pre-vote's term is nobody's yet, and a promise to a leader outweighs both.
            Body::RequestVote { pre, last_index, last_term, transfer } => {
                self.vote_requested(from, term, pre, (last_term, last_index), transfer);
                return;
            }
            Body::VoteReply { pre, granted } => {
                self.vote_replied(from, term, pre, granted);
                return;
            }
            _ => {}
        }
        if mutant!(HigherTermIgnored) && term > self.term && matches!(body, Body::AppendReply { .. }) {
            return;
        }
        if term > self.term {
            self.become_follower(term, None);
        }
        if term < self.term {
            self.answer_stale(from, &body);
            return;
        }
        match body {
            Body::Append { round, prev_index, prev_term, entries, commit, echo } => {
                self.follow(from);
                self.note_echo(echo, commit);
                self.append_received(from, round, (prev_index, prev_term), entries, commit);
            }
            Body::AppendReply { round, result, probe, promise } => {
                self.append_replied(from, round, result, probe, promise);
            }
            Body::TimeoutNow => self.told_to_campaign(from),
            Body::ReadIndex { read } => self.read_index_asked(from, read),
            Body::ReadIndexReply { read, index } => self.read_index_answered(from, read, index),
            Body::RequestVote { .. } | Body::VoteReply { .. } => unreachable!("handled above"),
        }
    }

    /// What follows from the input, whatever it was.
    fn settle(&mut self) {
        if self.role.leader().is_some() {
            self.settle_leader();
        }
        let entries = self.log.take_applicable(self.durable());
        if !entries.is_empty() {
            self.effects.push(Effect::Apply { entries });
        }
        self.flush();
        self.write_position = 0;
        self.log.evict(self.config.log_cache_bytes, self.durable());
        let now = (self.role.kind(), self.term, self.leader());
        if now != self.reported {
            self.reported = now;
            let (role, term, leader) = now;
            self.effects.push(Effect::RoleChanged { role, term, leader });
        }
    }

    /// Asks for the step's log write, if there is anything to write.
    pub(crate) fn flush(&mut self) {
        let from = self.unwritten_from.take();
        if from.is_none() && !self.hard_state_dirty {
            return;
        }
        let seq = self.writes.issue(self.now, from, self.log.last());
        self.hard_state_dirty = false;
        let entries: Vec<Entry> =
            from.map_or_else(Vec::new, |from| self.log.cached(from, self.log.last()).cloned().collect());
        let vote = self.vote.filter(|_| !mutant!(VoteWrittenLater));
        let commit = self.log.commit();
        let hard_state = HardState { term: self.term, vote, commit, promise: self.longest_promise() };
        self.effects.insert(self.write_position, Effect::Persist { seq, hard_state, entries });
    }

    /// What a start after this moment has to keep to.
    fn longest_promise(&self) -> Duration {
        if self.now < self.longest_promise_until { self.longest_promise } else { self.config.election_timeout }
    }

    /// Effects from here on come after this step's log write.
    pub(crate) fn fence_writes(&mut self) {
        self.write_position = self.effects.len();
    }

    /// Term or vote changed and must be durable before anything rests on them.
    pub(crate) fn hard_state_changed(&mut self) {
        self.hard_state_dirty = true;
        self.hard_state_write = self.writes.upcoming();
    }

    /// Whether the term and the vote are on disk.
    pub(crate) fn hard_state_is_durable(&self) -> bool {
        !self.hard_state_dirty && self.writes.is_done(self.hard_state_write)
    }

    /// The log is on disk up to here: what this step has changed is not, yet.
    pub(crate) fn durable(&self) -> LogIndex {
        let written = self.writes.durable();
        self.unwritten_from.map_or(written, |from| written.min(from.previous()))
    }

    /// The write after which everything this node holds now is durable.
    pub(crate) fn newest_write(&self) -> WriteSeq {
        if self.hard_state_dirty || self.unwritten_from.is_some() {
            self.writes.upcoming()
        } else {
            self.writes.issued()
        }
    }

    /// Adds an entry to the log; the step's write will hold it.
    pub(crate) fn append_entry(&mut self, entry: Entry) {
        let index = entry.index;
        let is_membership = matches!(entry.payload, Payload::Membership(_));
        self.log.append(entry);
        self.unwritten_from = Some(self.unwritten_from.map_or(index, |from| from.min(index)));
        if is_membership {
            let placed = self.log.membership().clone();
            self.report_membership(placed, false);
        }
    }

    /// Drops the entries from `from` on, and the configurations among them.
    pub(crate) fn truncate_log(&mut self, from: LogIndex) {
        let in_force = self.log.membership().0;
        self.log.truncate(from);
        self.unwritten_from = self.unwritten_from.filter(|unwritten| *unwritten < from);
        let placed = self.log.membership().clone();
        if placed.0 != in_force {
            self.report_membership(placed, false);
        }
    }

    pub(crate) fn commit_to(&mut self, to: LogIndex) {
        for placed in self.log.commit_to(to) {
            self.report_membership(placed, true);
        }
    }

    pub(crate) fn report_membership(&mut self, (index, membership): Placed, committed: bool) {
        self.effects.push(Effect::MembershipChanged { index, membership, committed });
    }

    pub(crate) fn message(&self, to: NodeId, body: Body) -> Message {
        Message { from: self.id, to, term: self.term, body }
    }

    pub(crate) fn send(&mut self, to: NodeId, body: Body) {
        let message = self.message(to, body);
        self.effects.push(Effect::Send(message));
    }

    /// Sends once `after` is durable, which it may be already.
    pub(crate) fn send_after(&mut self, after: WriteSeq, message: Message) {
        let effect =
            if self.writes.is_done(after) { Effect::Send(message) } else { Effect::SendAfter { after, message } };
        self.effects.push(effect);
    }

    pub(crate) fn not_leader(&self) -> Refused {
        Refused::NotLeader { leader: self.leader() }
    }

    /// Whether this node's disk has not finished a write for a whole election timeout.
    pub(crate) fn disk_is_stalled(&self) -> bool {
        let noticed = !mutant!(StalledDiskLeads);
        noticed && self.writes.oldest_unfinished().is_some_and(|at| self.now.since(at) >= self.config.election_timeout)
    }
}
