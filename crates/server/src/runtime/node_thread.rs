//! The node thread: steps the [`Node`] and hands its effects to whoever carries them out.
//!
//! One wake takes everything queued, steps through it, and only then lets effects go: one message batch a peer, one job batch
//! for the log writer. What other threads may know is published first ([`Published`]).
//!
//! Never blocks but on its own mailbox, and decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_node::{Answer, ClientOp, Effect, Input, Node, NodeError};
use quorate_raft::{NodeId, RoleKind, Time};
use quorate_store::LogWrite;
use quorate_wire::PeerMessage;
use tokio::sync::oneshot;

use super::clock::{Clock, Jitter};
use super::log_writer::LogJob;
use super::mailbox::{Mailbox, NotSent, Wake};
use super::meter;
use super::pending::Pending;
use super::published::{Published, Seen};
use super::state_writer::StateJob;
use crate::metrics::Metrics;

/// A status older than this is replaced at the next wake. Role and configuration are published at once.
const STATUS_AGE: Duration = Duration::from_millis(20);

/// What reaches the node thread.
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

/// What the node thread needs done by sockets and files it does not own.
pub(crate) trait Outside: Send + 'static {
    /// Queues messages for a peer.
    fn send(&self, to: NodeId, messages: Vec<PeerMessage>);
    /// Carries out every effect that is neither a message, a log write, an apply nor an answer.
    fn carry_out(&self, effect: Effect);
    /// The status changed in a way that watchers care for.
    fn status_changed(&self, seen: &Seen);
}

/// Everything the node thread owns.
pub(crate) struct NodeThread<O> {
    pub(crate) node: Node,
    pub(crate) clock: Clock,
    pub(crate) jitter: Jitter,
    pub(crate) election_timeout: Duration,
    pub(crate) events: Arc<Mailbox<Event>>,
    pub(crate) log: Arc<Mailbox<LogJob>>,
    pub(crate) state: Arc<Mailbox<StateJob>>,
    pub(crate) published: Arc<Published>,
    pub(crate) outside: O,
    pub(crate) metrics: Arc<Metrics>,
}

/// Effects of one wake, sorted by who carries them out.
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

/// What the loop keeps between wakes.
struct Progress {
    pending: Pending,
    stopping: Vec<oneshot::Sender<()>>,
    published_at: Time,
    role: RoleKind,
    leader: Option<NodeId>,
}

impl<O: Outside> NodeThread<O> {
    /// Runs until told to stop or halt. Whoever still waits then is let go without an answer.
    pub(crate) fn run(mut self) {
        self.run_to_end();
        self.events.abandon();
    }

    fn run_to_end(&mut self) {
        let mut progress = Progress {
            pending: Pending::default(),
            stopping: Vec::new(),
            published_at: Time(0),
            role: RoleKind::Follower,
            leader: None,
        };
        let mut taken = Vec::new();
        let mut outgoing = Outgoing { notable: true, ..Outgoing::default() };
        loop {
            self.publish(&mut progress, &mut outgoing);
            self.let_go(&mut outgoing);
            if outgoing.stopped {
                progress.stopping.drain(..).for_each(|done| {
                    // The caller of a stop may have given up waiting.
                    let _ = done.send(());
                });
                return;
            }
            let deadline = self.clock.instant(self.node.next_deadline());
            if self.events.take(Some(deadline), &mut taken) == Wake::Closed {
                return;
            }
            if !self.step_all(&mut taken, &mut progress, &mut outgoing) {
                return;
            }
        }
    }

    /// Steps through everything taken, as one batch: writes share a proposal, reads an index. `false` = end now.
    fn step_all(&mut self, taken: &mut Vec<Event>, progress: &mut Progress, outgoing: &mut Outgoing) -> bool {
        self.metrics.raft.steps_total.inc_by(taken.len() as u64);
        let mut inputs = Vec::with_capacity(taken.len() + 1);
        for event in taken.drain(..) {
            inputs.push(match event {
                Event::Input(input) => {
                    if let Input::Peer { message, .. } = &input {
                        meter::received(&self.metrics, message);
                    }
                    input
                }
                Event::Request { op, caller } => Input::Client { request: progress.pending.add(caller), op },
                Event::Stop { done } => {
                    progress.stopping.push(done);
                    Input::Stop
                }
                Event::Halt => return false,
            });
        }
        let now = self.clock.now();
        if now >= self.node.next_deadline() {
            inputs.push(Input::Tick { jitter: self.jitter.draw(self.election_timeout) });
        }
        let effects = self.node.step_batch(now, inputs);
        self.sort(effects, progress, outgoing);
        true
    }

    fn sort(&self, effects: Vec<Effect>, progress: &mut Progress, outgoing: &mut Outgoing) {
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
                    if let Some(caller) = progress.pending.take(request) {
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
                    self.count_role(progress, role, leader);
                    outgoing.notable = true;
                    outgoing.others.push(Effect::RoleChanged { role, term, leader });
                }
                Effect::MembershipChanged { .. } | Effect::StateChanged { .. } => {
                    outgoing.notable = true;
                    outgoing.others.push(effect);
                }
                Effect::ReadEntries { .. } | Effect::SendSnapshot { .. } => outgoing.others.push(effect),
            }
        }
    }

    fn count_role(&self, progress: &mut Progress, role: RoleKind, leader: Option<NodeId>) {
        let raft = &self.metrics.raft;
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

    fn publish(&self, progress: &mut Progress, outgoing: &mut Outgoing) {
        self.published.set(self.node.lease(), self.node.commit());
        let now = self.clock.now();
        if outgoing.notable || now.since(progress.published_at) >= STATUS_AGE {
            let seen = Seen { status: self.node.status(now), at: now };
            self.published.set_status(seen);
            // After it is published: whoever is woken by the change looks at the status.
            self.outside.status_changed(&self.published.status());
            progress.published_at = now;
            outgoing.notable = false;
        }
    }

    /// Lets the effects of a wake go. The disk first: it takes longest.
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

/// Asks the node thread and waits for its answer. Refused if the node is so far behind that `limit` inputs wait.
pub(crate) async fn ask(events: &Mailbox<Event>, limit: usize, op: ClientOp) -> Result<Answer, NodeError> {
    let (caller, answer) = oneshot::channel();
    events.send_within(limit, Event::Request { op, caller }).map_err(|not_sent| match not_sent {
        NotSent::Full => NodeError::TooManyRequests,
        NotSent::Closed => NodeError::Stopping,
    })?;
    answer.await.map_err(|_| NodeError::Stopping)
}
