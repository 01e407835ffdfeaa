//! The driver: steps the [`Node`] on whichever thread brings news of it, and hands its effects to whoever carries them out.
//!
//! There is no thread that a request has to be handed to and an answer back from: who queues an event tries to become the one
//! who steps. If somebody steps already, that one takes the event too before it leaves. On an idle node a write thus costs
//! four changes of thread instead of twelve. Rejected: a thread of its own for the node; in alternating runs it was the slower
//! one for a single client and no cheaper for a thousand.
//!
//! One turn takes everything queued, steps through it, and only then lets effects go: one message batch a peer, one job batch
//! for the log writer. What other threads may know is published first ([`Published`]). Writes of clients do not begin a turn
//! while the log writer works: its completion will, and takes all of them as one proposal.
//!
//! Never blocks, and decides nothing.
//!
//! Invariant: an event that was queued is taken: by its sender, by whoever steps at that moment, or by the completion of the
//! log write that its sender saw under way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use quorate_node::{Answer, ClientOp, Effect, Input, Node, NodeError};
use quorate_raft::{NodeId, RoleKind, Time, WriteSeq};
use quorate_store::LogWrite;
use quorate_wire::PeerMessage;
use tokio::sync::oneshot;

use super::clock::{Clock, Jitter};
use super::log_writer::LogJob;
use super::mailbox::{Mailbox, NotSent};
use super::meter;
use super::pending::Pending;
use super::published::{Published, Seen};
use super::state_writer::StateJob;
use crate::metrics::Metrics;

/// A status older than this is replaced at the next turn. Role and configuration are published at once.
const STATUS_AGE: Duration = Duration::from_millis(20);
/// When the alarm looks again if somebody else was stepping as it rang.
const ALARM_RETRY: Duration = Duration::from_millis(5);

/// What reaches the node.
#[derive(Debug)]
pub(crate) enum Event {
    /// Something that happened.
    Input(Input),
    /// A client asks; the answer goes to `caller`.
    Request { op: ClientOp, caller: oneshot::Sender<Answer> },
    /// Finish what is pending and hand leadership over; `done` is told.
    Stop { done: oneshot::Sender<()> },
    /// End now: the disk failed or the process ends without a farewell.
    Halt,
}

/// What the driver needs done by sockets and files it does not own.
pub(crate) trait Outside: Send + 'static {
    /// Queues messages for a peer.
    fn send(&self, to: NodeId, messages: Vec<PeerMessage>);
    /// Carries out every effect that is neither a message, a log write, an apply nor an answer.
    fn carry_out(&self, effect: Effect);
    /// The status changed in a way that watchers care for.
    fn status_changed(&self, seen: &Seen);
    /// A step panicked: the node must end.
    fn panicked(&self);
}

/// See the module documentation.
pub(crate) struct Driver<O> {
    events: Mailbox<Event>,
    /// `None` once the node has ended.
    stepping: Mutex<Option<Stepping<O>>>,
    /// Writes handed to the log writer and not reported yet.
    log_writes: AtomicUsize,
    /// When the alarm rings next.
    alarm: Mutex<Time>,
    alarm_moved: Condvar,
    ended: AtomicBool,
    clock: Clock,
}

/// What only the one who steps may touch.
pub(crate) struct Stepping<O> {
    pub(crate) node: Node,
    pub(crate) jitter: Jitter,
    pub(crate) election_timeout: Duration,
    pub(crate) log: Arc<Mailbox<LogJob>>,
    pub(crate) state: Arc<Mailbox<StateJob>>,
    pub(crate) published: Arc<Published>,
    pub(crate) outside: O,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) progress: Progress,
}

/// Effects of one turn, sorted by who carries them out.
#[derive(Default)]
struct Outgoing {
    messages: BTreeMap<NodeId, Vec<PeerMessage>>,
    log: Vec<LogJob>,
    state: Vec<StateJob>,
    answers: Vec<(oneshot::Sender<Answer>, Answer)>,
    others: Vec<Effect>,
    notable: bool,
    stopped: bool,
}

/// What is kept between turns.
pub(crate) struct Progress {
    pending: Pending,
    stopping: Vec<oneshot::Sender<()>>,
    published_at: Time,
    role: RoleKind,
    leader: Option<NodeId>,
    taken: Vec<Event>,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress {
            pending: Pending::default(),
            stopping: Vec::new(),
            published_at: Time(0),
            role: RoleKind::Follower,
            leader: None,
            taken: Vec::new(),
        }
    }
}

impl<O: Outside> Driver<O> {
    /// A driver without a node; [`Driver::begin`] gives it one.
    pub(crate) fn new(clock: Clock) -> Driver<O> {
        Driver {
            events: Mailbox::new(),
            stepping: Mutex::new(None),
            log_writes: AtomicUsize::new(0),
            alarm: Mutex::new(clock.now()),
            alarm_moved: Condvar::new(),
            ended: AtomicBool::new(false),
            clock,
        }
    }

    /// From now on events are taken.
    pub(crate) fn begin(&self, stepping: Stepping<O>) {
        *self.stepping.lock().unwrap_or_else(PoisonError::into_inner) = Some(stepping);
        self.drive();
    }

    /// Something happened. A node that has ended takes nothing.
    pub(crate) fn tell(&self, event: Event) {
        if self.events.send(event).is_ok() {
            self.drive();
        }
    }

    /// Several things happened, in this order.
    pub(crate) fn tell_all(&self, mut events: Vec<Event>) {
        self.events.send_all(&mut events);
        self.drive();
    }

    /// These log writes are durable.
    pub(crate) fn log_written(&self, seqs: &[WriteSeq]) {
        // Before the events: a request that still sees the writes under way is then queued before these are taken.
        self.log_writes.fetch_sub(seqs.len(), Ordering::SeqCst);
        self.tell_all(seqs.iter().map(|seq| Event::Input(Input::LogWritten { seq: *seq })).collect());
    }

    /// Asks the node and waits for its answer. Refused if `limit` events wait already.
    pub(crate) async fn ask(&self, limit: usize, op: ClientOp) -> Result<Answer, NodeError> {
        // A read gains nothing from the log write under way, and its round to the others should not wait for a sync.
        let gains_by_waiting = !matches!(op, ClientOp::Read(_));
        let (caller, answer) = oneshot::channel();
        self.events.send_within(limit, Event::Request { op, caller }).map_err(|not_sent| match not_sent {
            NotSent::Full => NodeError::TooManyRequests,
            NotSent::Closed => NodeError::Stopping,
        })?;
        // Looked at after the event was queued: see the invariant.
        if !gains_by_waiting || self.log_writes.load(Ordering::SeqCst) == 0 {
            self.drive();
        }
        answer.await.map_err(|_| NodeError::Stopping)
    }

    /// Events not taken yet.
    pub(crate) fn backlog(&self) -> usize {
        self.events.len()
    }

    /// Whether the node takes nothing any more.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Rings at the node's deadlines until the node has ended.
    pub(crate) fn run_alarm(&self) {
        loop {
            let mut rings_at = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if self.is_ended() {
                    return;
                }
                let Some(wait) = self.clock.instant(*rings_at).checked_duration_since(Instant::now()) else { break };
                if wait.is_zero() {
                    break;
                }
                rings_at = self.alarm_moved.wait_timeout(rings_at, wait).unwrap_or_else(PoisonError::into_inner).0;
            }
            *rings_at = self.clock.now() + ALARM_RETRY;
            drop(rings_at);
            self.drive();
        }
    }

    /// Waits until nobody steps any more; for after a halt.
    pub(crate) fn join(&self) {
        drop(self.stepping.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes turns until nothing is queued, unless somebody else does.
    fn drive(&self) {
        loop {
            let mut stepping = match self.stepping.try_lock() {
                Ok(stepping) => stepping,
                Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => return,
            };
            let Some(node) = stepping.as_mut() else { return };
            let alive = node.guarded_turn(self);
            if !alive {
                let ended = stepping.take();
                drop(stepping);
                self.end();
                drop(ended);
                return;
            }
            drop(stepping);
            // Whoever queued something while the lock was held has left it to this thread.
            if self.events.len() == 0 {
                return;
            }
        }
    }

    /// Lets everybody go who still waits.
    fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.events.abandon();
        let _alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        self.alarm_moved.notify_all();
    }

    fn set_alarm(&self, deadline: Time) {
        let mut rings_at = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = deadline < *rings_at;
        *rings_at = deadline;
        drop(rings_at);
        if earlier {
            self.alarm_moved.notify_one();
        }
    }
}

impl<O: Outside> Stepping<O> {
    /// A turn that ends the whole node if it panics: half a step must not be built upon.
    fn guarded_turn(&mut self, driver: &Driver<O>) -> bool {
        let turn = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.turn(driver)));
        turn.unwrap_or_else(|_| {
            self.outside.panicked();
            false
        })
    }

    /// Takes everything queued and lets the effects go; `false` = the node has ended.
    fn turn(&mut self, driver: &Driver<O>) -> bool {
        let mut outgoing = Outgoing { notable: self.progress.published_at == Time(0), ..Outgoing::default() };
        if !self.step_all(driver, &mut outgoing) {
            return false;
        }
        let now = driver.clock.now();
        self.publish(now, &mut outgoing);
        let writes = outgoing.log.iter().filter(|job| matches!(job, LogJob::Write { .. })).count();
        driver.log_writes.fetch_add(writes, Ordering::SeqCst);
        self.let_go(&mut outgoing);
        driver.set_alarm(self.node.next_deadline());
        if outgoing.stopped {
            for done in self.progress.stopping.drain(..) {
                // The caller of a stop may have given up waiting.
                let _ = done.send(());
            }
        }
        !outgoing.stopped
    }

    /// Steps through everything queued, as one batch: writes share a proposal, reads an index. `false` = end now.
    fn step_all(&mut self, driver: &Driver<O>, outgoing: &mut Outgoing) -> bool {
        let mut taken = std::mem::take(&mut self.progress.taken);
        driver.events.take_queued(&mut taken);
        self.metrics.raft.steps_total.inc_by(taken.len() as u64);
        let mut inputs = Vec::with_capacity(taken.len() + 1);
        let mut image_offered = false;
        for event in taken.drain(..) {
            inputs.push(match event {
                Event::Input(input) => {
                    if let Input::Peer { message, .. } = &input {
                        meter::received(&self.metrics, message);
                    }
                    image_offered |= matches!(input, Input::SnapshotReceived { .. });
                    input
                }
                Event::Request { op, caller } => Input::Client { request: self.progress.pending.add(caller), op },
                Event::Stop { done } => {
                    self.progress.stopping.push(done);
                    Input::Stop
                }
                Event::Halt => return false,
            });
        }
        self.progress.taken = taken;
        let now = driver.clock.now();
        if now >= self.node.next_deadline() {
            inputs.push(Input::Tick { jitter: self.jitter.draw(self.election_timeout) });
        }
        if !inputs.is_empty() {
            let effects = self.node.step_batch(now, inputs);
            // Consensus takes an image in the step that offers it, or never.
            if image_offered && !effects.iter().any(|effect| matches!(effect, Effect::InstallSnapshot { .. })) {
                outgoing.state.push(StateJob::Decline);
            }
            self.sort(effects, outgoing);
        }
        true
    }

    fn sort(&mut self, effects: Vec<Effect>, outgoing: &mut Outgoing) {
        for effect in effects {
            match effect {
                Effect::WriteLog { seq, hard_state, entries } => {
                    outgoing.log.push(LogJob::Write { seq, write: LogWrite { hard_state, entries } });
                }
                Effect::Send { to, message } => {
                    meter::sent(&self.metrics, &message);
                    outgoing.messages.entry(to).or_default().push(message);
                }
                Effect::Apply { entries } => outgoing.state.push(StateJob::Apply { entries }),
                Effect::Answer { request, answer } => {
                    if let Some(caller) = self.progress.pending.take(request) {
                        outgoing.answers.push((caller, answer));
                    }
                }
                Effect::TruncateLog { up_to } => outgoing.log.push(LogJob::TruncatePrefix { up_to }),
                Effect::InstallSnapshot { seq, meta } => {
                    let (installed, switched) = std::sync::mpsc::channel();
                    outgoing.state.push(StateJob::Install { meta: meta.clone(), installed });
                    outgoing.log.push(LogJob::Reset { seq, meta, installed: switched });
                }
                Effect::Stopped => outgoing.stopped = true,
                Effect::RoleChanged { role, term, leader } => {
                    self.count_role(role, leader);
                    outgoing.notable = true;
                    outgoing.others.push(Effect::RoleChanged { role, term, leader });
                }
                Effect::MembershipChanged { .. } | Effect::StateChanged { .. } => {
                    outgoing.notable = true;
                    outgoing.others.push(effect);
                }
                Effect::ReadEntries { .. } | Effect::SendSnapshot { .. } | Effect::FindDueLeases { .. } => {
                    outgoing.others.push(effect);
                }
            }
        }
    }

    fn count_role(&mut self, role: RoleKind, leader: Option<NodeId>) {
        let (raft, progress) = (&self.metrics.raft, &mut self.progress);
        if role != progress.role {
            match role {
                RoleKind::Leader => raft.elections_won_total.inc(),
                RoleKind::PreCandidate => raft.campaigns_total.with_label_values(&["pre_vote"]).inc(),
                RoleKind::Candidate => raft.campaigns_total.with_label_values(&["vote"]).inc(),
                RoleKind::Follower => {}
            }
            progress.role = role;
        }
        if leader.is_some() && leader != progress.leader {
            raft.leader_changes_total.inc();
            progress.leader = leader;
        }
    }

    fn publish(&mut self, now: Time, outgoing: &mut Outgoing) {
        let is_due = outgoing.notable || now.since(self.progress.published_at) >= STATUS_AGE;
        if is_due {
            // Before anybody reads by what is published.
            self.node.check_promises();
        }
        self.published.set(self.node.lease(), self.node.commit());
        self.published.set_clock(self.node.cluster_clock());
        if is_due {
            let seen = Seen { status: self.node.status(now), at: now };
            self.published.set_status(seen);
            // After it is published: whoever is woken by the change looks at the status.
            self.outside.status_changed(&self.published.status());
            self.progress.published_at = now;
            outgoing.notable = false;
        }
    }

    /// Lets the effects of a turn go. The disk first: it takes longest.
    fn let_go(&self, outgoing: &mut Outgoing) {
        self.log.send_all(&mut outgoing.log);
        for (to, messages) in std::mem::take(&mut outgoing.messages) {
            self.outside.send(to, messages);
        }
        self.state.send_all(&mut outgoing.state);
        for effect in outgoing.others.drain(..) {
            self.outside.carry_out(effect);
        }
        for (caller, answer) in outgoing.answers.drain(..) {
            // A caller that went away has dropped its end.
            let _ = caller.send(answer);
        }
    }
}
