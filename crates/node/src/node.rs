//! The replica: takes in what happened, lets each duty do its part, says what must be done.
//!
//! Owns the order of work within a step: inputs first, one after the other, then what they made possible together: expired
//! requests, one proposal or forward for all new writes, one ReadIndex for all new reads, grants, announcements, housekeeping.
//! The duties live in the files below `node/`, their state in the files beside this one.

mod administration;
mod admission;
mod consensus;
mod housekeeping;
mod leasing;
mod reading;
mod standing;
mod writing;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use quorate_kv::ClusterTime;
use quorate_raft::{Incarnation, LogIndex, Membership, NodeId, Raft, RequestId, RoleKind, Term, Time};
use quorate_wire::Identity;
use quorate_wire::peer::{NodeState, PeerMessage};

use crate::admin::Admins;
use crate::cluster_clock::ClusterClock;
use crate::config::NodeConfig;
use crate::divergence::Divergence;
use crate::effect::{Answer, Effect, Lease};
use crate::error::NodeError;
use crate::forward::Intake;
use crate::held::Held;
use crate::input::{AppliedState, AppliedSummary, ClientOp, Input};
use crate::lifecycle::Barred;
use crate::pace::Pace;
use crate::proposals::Proposals;
use crate::reads::Reads;
use crate::retention::LogSize;
use crate::snapshots::Streams;
use crate::status::NodeStatus;
use leasing::Expiring;
use standing::Stopping;

/// What a replica finds on its disk when it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// Log, term, vote, configurations, applied index.
    pub raft: quorate_raft::Restored,
    /// Where the durable state stands; its index is `raft.applied`.
    pub applied: AppliedState,
    /// Bytes the log takes, about.
    pub log_bytes: u64,
    /// The durable mark of a node that was removed or fenced.
    pub barred: Option<Barred>,
    /// Random name of this run, drawn by the caller at every start.
    pub session: Incarnation,
}

/// One replica. A value: a run is a function of its inputs.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    id: NodeId,
    raft: Raft,
    role: RoleKind,
    term: Term,
    leader: Option<NodeId>,
    /// When this node last lost sight of a leader: tells a client why its request timed out.
    leader_lost_at: Option<Time>,
    /// The newest committed configuration, and where it stands.
    committed_membership: (LogIndex, Arc<Membership>),
    applied: AppliedState,
    durable_applied: LogIndex,
    /// Commit index of the last run: a node that has not applied that far has less to offer than it once had.
    restored_commit: LogIndex,
    /// Batches handed to the state machine and not applied yet: last index and bytes.
    applying: VecDeque<(LogIndex, usize)>,
    applying_bytes: usize,
    handed: LogIndex,
    held: Held,
    proposals: Proposals,
    pace: Pace,
    intake: Intake,
    /// Proposals of this leader that are not applied yet: last index, count, bytes.
    unapplied: VecDeque<(LogIndex, usize, usize)>,
    unapplied_writes: usize,
    unapplied_bytes: usize,
    /// Consensus takes no proposal for now: leadership is being handed over.
    proposals_blocked: bool,
    last_proposal: Option<Result<(LogIndex, Term), quorate_raft::Refused>>,
    reads: Reads,
    clock: ClusterClock,
    expiring: Expiring,
    /// Renewals of leases were refused, or waited for room, until a moment before: until then their holders ask again.
    renewals_refused_until: Time,
    /// Commands this run proposed of itself.
    own_commands: u64,
    admins: Admins,
    announce_at: Time,
    log_size: LogSize,
    streams: Streams,
    divergence: Divergence,
    /// The alarm that no quorum agrees on a state was proposed in this term.
    doubt_alarmed: bool,
    barred: Option<Barred>,
    /// Removed nodes that were told so, and when.
    told_removed: BTreeMap<NodeId, Time>,
    disk_full: bool,
    stopping: Option<Stopping>,
    now: Time,
    effects: Vec<Effect>,
}

impl Node {
    /// A replica as its disk describes it.
    ///
    /// # Panics
    /// If `restored` contradicts itself, or the configuration cannot work.
    pub fn new(config: NodeConfig, identity: Identity, restored: Restored, now: Time, jitter: Duration) -> Node {
        assert_eq!(restored.applied.index, restored.raft.applied, "state and log name different applied indexes");
        let commit = restored.raft.hard_state.commit;
        let (base, last) = (restored.raft.base.0, restored.raft.last);
        let raft = Raft::new(config.raft.clone(), identity.node_id, restored.raft, now, jitter);
        let status = raft.status();
        let mut node = Node {
            id: identity.node_id,
            role: status.role,
            term: status.term,
            leader: status.leader,
            leader_lost_at: None,
            committed_membership: (status.committed_membership_index, status.committed_membership),
            applied: restored.applied,
            durable_applied: restored.applied.index,
            restored_commit: commit,
            applying: VecDeque::new(),
            applying_bytes: 0,
            handed: restored.applied.index,
            held: Held::default(),
            proposals: Proposals::new(restored.session),
            pace: Pace::default(),
            intake: Intake::default(),
            unapplied: VecDeque::new(),
            unapplied_writes: 0,
            unapplied_bytes: 0,
            proposals_blocked: false,
            last_proposal: None,
            reads: Reads::new(restored.session.0 as u64),
            clock: ClusterClock::new(restored.applied.leases.clock, now),
            expiring: Expiring::Idle,
            renewals_refused_until: Time(0),
            own_commands: 0,
            admins: Admins::new(restored.session),
            announce_at: now,
            log_size: LogSize::new(base, last, restored.log_bytes),
            streams: Streams::default(),
            divergence: Divergence::new(config.digest_every_entries),
            doubt_alarmed: false,
            barred: restored.barred,
            told_removed: BTreeMap::new(),
            disk_full: false,
            stopping: None,
            now,
            effects: Vec::new(),
            raft,
            config,
        };
        if node.barred.is_some() {
            node.consent_to_nothing();
        }
        node
    }

    /// Takes in what happened at `now` and says what must be done, in order.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        self.step_batch(now, [input])
    }

    /// The same for everything that happened by one moment: writes among it share a proposal, reads share an index.
    ///
    /// # Panics
    /// If an input answers an effect that was never asked for, or a client's handle is used twice.
    pub fn step_batch(&mut self, now: Time, inputs: impl IntoIterator<Item = Input>) -> Vec<Effect> {
        self.step_batch_seen(now, inputs, |_, _| {})
    }

    /// The same, and shows the replica with the effects so far between one input and the next, and at the end: for checkers,
    /// which may have to see what a batch begins and ends.
    ///
    /// # Panics
    /// As [`Node::step_batch`].
    pub fn step_batch_seen(
        &mut self,
        now: Time,
        inputs: impl IntoIterator<Item = Input>,
        mut look: impl FnMut(&Node, &[Effect]),
    ) -> Vec<Effect> {
        assert!(now >= self.now, "time goes back from {} to {now}", self.now);
        self.now = now;
        let mut inputs = inputs.into_iter().peekable();
        while let Some(input) = inputs.next() {
            self.take(input);
            if inputs.peek().is_some() {
                look(self, &self.effects);
            }
        }
        self.settle();
        look(self, &self.effects);
        std::mem::take(&mut self.effects)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Tick { jitter } => {
                self.proposals_blocked = false;
                self.raft(quorate_raft::Input::Tick { jitter });
            }
            Input::Peer { from, message } => self.peer(from, message),
            Input::PeerLost { id } => self.peer_lost(id),
            Input::PeerOverrun { id } => self.raft(quorate_raft::Input::PeerUnreachable { id }),
            Input::Refused { reason } => self.bar(NodeState::Removed, reason),
            Input::Client { request, op } => self.client(request, op),
            Input::Cancel { request } => self.cancel(request),
            Input::LogWritten { seq } => {
                for message in self.held.written(seq) {
                    self.send_raft(message);
                }
                self.raft(quorate_raft::Input::Persisted { seq });
            }
            Input::SnapshotInstalled { seq, state } => self.snapshot_installed(seq, state),
            Input::Applied(summary) => self.applied(summary),
            Input::EntriesRead { to, from, entries } => {
                self.raft(quorate_raft::Input::EntriesRead { to, from, entries });
            }
            Input::SnapshotReceived { from, term, meta } => {
                self.raft(quorate_raft::Input::SnapshotReceived { from, term, meta });
            }
            Input::SnapshotSent { to, result } => {
                self.streams.ended(to);
                self.raft(quorate_raft::Input::SnapshotReport { to, sent: result });
            }
            Input::CheckpointDone { durable_applied } => {
                // An image that has become the state may be made durable again before its installation is reported.
                self.durable_applied = self.durable_applied.max(durable_applied.min(self.applied.index));
            }
            Input::DiskFull { yes } => self.disk_full = yes || (mutant!(FullDiskForEver) && self.disk_full),
            Input::LeasesDue { due } => self.leases_due(due),
            Input::Stop => self.begin_stop(),
        }
    }

    /// What the inputs of a step made possible together.
    fn settle(&mut self) {
        self.expire();
        self.move_writes();
        self.move_leases();
        self.move_reads();
        self.move_admin_requests();
        self.announce();
        self.begin_streams();
        self.cut_log();
        self.end_stop();
    }

    fn client(&mut self, request: RequestId, op: ClientOp) {
        let result = match op {
            ClientOp::Write { actor, command } => self.write(request, actor, command),
            ClientOp::Read(options) => self.read(request, options),
            ClientOp::Admin(operation) => self.administrate(request, operation),
        };
        if let Err(error) = result {
            self.answer(request, Answer::Refused(error));
        }
    }

    fn cancel(&mut self, request: RequestId) {
        if !self.proposals.cancel(request) && !self.reads.remove(request) {
            self.admins.cancel(request);
        }
    }

    /// Answers everybody whose time is over.
    fn expire(&mut self) {
        for given_up in self.proposals.expire(self.now) {
            let error = self.write_given_up(&given_up);
            self.answer(given_up.request, Answer::Refused(error));
        }
        for given_up in self.reads.expire(self.now) {
            let error = match (given_up.for_leader, self.leader) {
                (true, None) => NodeError::NoLeader,
                _ => self.timed_out(given_up.started),
            };
            self.answer(given_up.request, Answer::Refused(error));
        }
        for (request, asked) in self.admins.expire(self.now) {
            let error = if asked || self.leader.is_some() { NodeError::Timeout } else { NodeError::NoLeader };
            self.answer(request, Answer::Refused(error));
        }
    }

    fn timed_out(&self, started: Time) -> NodeError {
        match self.leader_lost_at {
            Some(lost) if lost >= started => NodeError::TimeoutLeaderFailure,
            _ => NodeError::Timeout,
        }
    }

    /// The state machine applied a batch.
    fn applied(&mut self, summary: AppliedSummary) {
        let state = summary.state;
        assert!(state.index <= self.handed, "entry {} was never handed out", state.index);
        if state.index <= self.applied.index {
            // An image has taken the place of the state this batch went into.
            return;
        }
        self.applied = state;
        self.clock.applied(state.leases.clock, self.now);
        while let Some((_, bytes)) = self.applying.front().copied().filter(|(last, _)| *last <= state.index) {
            self.applying.pop_front();
            self.applying_bytes -= bytes;
        }
        while let Some((_, writes, bytes)) = self.unapplied.front().copied().filter(|(last, ..)| *last <= state.index) {
            self.unapplied.pop_front();
            self.unapplied_writes -= if mutant!(ProposalsLeak) { 0 } else { writes };
            self.unapplied_bytes -= bytes;
        }
        for result in summary.results {
            self.result_applied(result);
        }
        self.proposals.term_applied(state.term);
        self.raft(quorate_raft::Input::Applied { index: state.index });
        self.compare_digest(state);
    }

    fn answer(&mut self, request: RequestId, answer: Answer) {
        self.effects.push(Effect::Answer { request, answer });
    }

    fn send(&mut self, to: NodeId, message: PeerMessage) {
        assert_ne!(to, self.id, "a message to itself");
        self.effects.push(Effect::Send { to, message });
    }

    /// The configuration in force here, committed or not.
    fn membership(&self) -> &Arc<Membership> {
        self.raft.membership().1
    }

    fn is_leader(&self) -> bool {
        self.role == RoleKind::Leader
    }

    fn deadline(&self) -> Time {
        self.now + self.config.deadline()
    }

    /// After how long a message that was not answered is sent again. Heartbeats find a lost leader about as fast.
    fn resend_after(&self) -> Duration {
        self.config.raft.election_timeout
    }

    /// When the next [`Input::Tick`] is wanted.
    pub fn next_deadline(&self) -> Time {
        let resend = self.resend_after();
        let stop = self.stopping.as_ref().map(|stopping| stopping.deadline).filter(|at| *at > self.now);
        // An announcement that is due and cannot be made waits for another event, not for a time.
        let announce = if self.announce_at > self.now { self.announce_at } else { Time::NEVER };
        self.raft
            .next_deadline()
            .min(self.proposals.next_deadline(self.now))
            .min(self.reads.next_deadline(self.now, resend / 2))
            .min(self.admins.next_deadline(self.now, resend))
            .min(self.next_lease_deadline())
            .min(announce)
            .min(stop.unwrap_or(Time::NEVER))
    }

    /// The lease this node holds as a leader; None = it may not serve reads on its own word.
    pub fn lease(&self) -> Option<Lease> {
        if !self.lease_valid(self.now) {
            return None;
        }
        // The only voter needs nobody's promise.
        let alone = self.raft.lease_valid(Time::NEVER);
        let until = if alone { Time::NEVER } else { self.raft.lease_until()? };
        Some(Lease { term: self.term, until })
    }

    /// What the cluster clock showed at a moment of this node's own clock: a reader goes on counting from there. Exact on a
    /// leader, elsewhere late by the way of the entry that set it.
    pub fn cluster_clock(&self) -> (ClusterTime, Time) {
        let reading = self.clock.reading();
        (reading.clock, reading.at)
    }

    /// The term this node leads, if it does.
    pub fn leads(&self) -> Option<Term> {
        self.is_leader().then_some(self.term)
    }

    /// Committed up to here, as far as this node knows.
    pub fn commit(&self) -> LogIndex {
        self.raft.commit()
    }

    /// Whether a read may be served at `now` without asking anybody.
    pub fn lease_valid(&self, now: Time) -> bool {
        self.barred.is_none() && self.is_leader() && self.raft.lease_valid(now)
    }

    /// What the node is to its cluster.
    pub fn state(&self) -> NodeState {
        match &self.barred {
            Some(barred) => barred.state,
            None if self.committed_membership.1.is_member(self.id) => NodeState::Member,
            None => NodeState::Joining,
        }
    }

    /// A copy of what the replica knows about itself.
    pub fn status(&self, now: Time) -> NodeStatus {
        NodeStatus {
            raft: self.raft.status(),
            state: self.state(),
            state_reason: self.barred.as_ref().map(|barred| barred.reason.clone()).unwrap_or_default(),
            applied: self.applied,
            durable_applied: self.durable_applied,
            staleness: self.raft.staleness(now),
            lease_valid: self.lease_valid(now),
            pending_writes: self.proposals.len(),
            pending_write_bytes: self.proposals.bytes(),
            waiting_reads: self.reads.len(),
            pending_admin: self.admins.len(),
            apply_backlog_entries: self.apply_backlog(),
            held_messages: self.held.len(),
            dropped_messages: self.held.dropped(),
            log_bytes: self.log_size.bytes(),
            snapshot_streams: self.streams.len(),
            verified: self.divergence.verified(),
            disk_full: self.disk_full,
            stopping: self.stopping.is_some(),
        }
    }

    /// Panics if something is broken that promises rest on: a node that goes on could break them. Cheap, and done in production,
    /// too.
    pub fn check_promises(&self) {
        self.raft.check();
        assert!(self.applied.index <= self.handed, "more was applied than handed out");
        assert!(self.durable_applied <= self.applied.index, "more is durable than was applied");
    }

    /// Panics if any invariant is broken. For tests and the simulator, after every step.
    pub fn check(&self) {
        self.check_promises();
        self.held.check();
        self.proposals.check(self.applied.term);
        self.intake.check(&self.config.limits);
        self.reads.check();
        self.log_size.check();
        let limits = &self.config.limits;
        let most = limits.max_pending_writes + limits.spare_renewals;
        assert!(self.proposals.len() <= most, "too many pending writes");
        assert!(self.reads.len() <= limits.max_waiting_reads, "too many waiting reads");
        assert_eq!(self.applying_bytes, self.applying.iter().map(|(_, bytes)| bytes).sum::<usize>());
        assert_eq!(self.unapplied_writes, self.unapplied.iter().map(|(_, writes, _)| writes).sum::<usize>());
        assert_eq!((self.role, self.term), (self.raft.role(), self.raft.term()), "the role changed without a word");
        assert_eq!(self.leader, self.raft.leader(), "the leader changed without a word");
        assert!(self.effects.is_empty(), "effects were left behind by a step");
    }
}
