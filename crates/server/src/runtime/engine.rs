//! A running node: its driver and threads, and what they tell each other and the world.
//!
//! Made when a node has an identity, ended when it stops, fails or is reset. Owns the stores while it runs.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use quorate_kv::Command;
use quorate_node::watch::{Batch, WatchLimits};
use quorate_node::{
    Answer, AppliedState, AppliedSummary, ClientOp, Effect, Input, Node, NodeConfig, NodeError, Restored,
};
use quorate_raft::{LogIndex, Membership, NodeId, WriteSeq};
use quorate_store::{LogReader, LogStore, NodeMark, StateStore, StateView};
use quorate_wire::peer::NodeState;
use quorate_wire::{Identity, PeerMessage};
use tokio::sync::{Notify, oneshot};

use super::clock::Jitter;
use super::core::Core;
use super::driver::{Driver, Event, Outside, Progress, Stepping};
use super::failure::Failure;
use super::images;
use super::incoming_image::IncomingImage;
use super::log_writer::{self, LogJob, LogReports};
use super::mailbox::Mailbox;
use super::published::{Published, Seen};
use super::scrub;
use super::state_writer::{self, StateJob, StateReports};
use super::watching::{WatchThread, Watching};
use crate::metrics::Metrics;

/// Time a stop allows beyond two election timeouts before it ends the node without a farewell.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// A fragment of events may be larger than the largest request by this, as etcd's may.
const WATCH_FRAGMENT_MARGIN: usize = 512 * 1024;

/// See the module documentation.
pub(crate) struct Engine {
    pub(crate) identity: Identity,
    pub(crate) driver: Arc<Driver<Reports>>,
    pub(crate) state_jobs: Arc<Mailbox<StateJob>>,
    pub(crate) published: Arc<Published>,
    pub(crate) view: StateView,
    pub(crate) watching: Arc<Watching>,
    pub(crate) log_reader: LogReader,
    /// The configuration in force, committed or not.
    pub(crate) membership: RwLock<Arc<Membership>>,
    /// One image is received at a time.
    pub(crate) incoming: Arc<IncomingImage>,
    /// Its disk has too little free space.
    pub(crate) disk_full: AtomicBool,
    /// Its live bytes come near the quota.
    pub(crate) near_quota: AtomicBool,
    /// Somebody met something in a file that could not be read: it is looked for now.
    pub(crate) doubt: Arc<Notify>,
    /// A change of its alarm waits for an answer.
    pub(crate) alarm_under_way: AtomicBool,
    log_jobs: Arc<Mailbox<LogJob>>,
    threads: Mutex<Option<Threads>>,
    stop_timeout: Duration,
    max_pending_requests: usize,
}

struct Threads {
    alarm: JoinHandle<()>,
    log: JoinHandle<LogStore>,
    state: JoinHandle<Option<StateStore>>,
    watch: JoinHandle<()>,
}

/// The files and the memory an engine starts from.
pub(crate) struct Opened {
    pub(crate) log: LogStore,
    pub(crate) state: StateStore,
    pub(crate) restored: Restored,
}

impl Engine {
    /// Starts the threads of a node.
    ///
    /// # Errors
    /// The operating system refuses a thread or randomness.
    pub(crate) fn start(
        core: &Arc<Core>,
        config: NodeConfig,
        identity: Identity,
        opened: Opened,
    ) -> std::io::Result<Arc<Engine>> {
        let mut jitter = Jitter::new()?;
        let clock = core.clock;
        let election_timeout = config.raft.election_timeout;
        let first_jitter = jitter.draw(election_timeout);
        let Opened { log, state, restored } = opened;
        let now = clock.now();
        let node = Node::new(config, identity, restored, now, first_jitter);
        let status = node.status(now);
        let membership = Arc::clone(&status.raft.membership);
        let published = Arc::new(Published::new(Seen { status, at: now }));
        let engine = Arc::new(Engine {
            identity,
            driver: Arc::new(Driver::new(clock)),
            state_jobs: Arc::new(Mailbox::new()),
            published: Arc::clone(&published),
            view: state.view(),
            watching: Arc::new(Watching::new()),
            log_reader: log.reader(),
            membership: RwLock::new(membership),
            incoming: IncomingImage::new(),
            disk_full: AtomicBool::new(false),
            near_quota: AtomicBool::new(false),
            doubt: Arc::default(),
            alarm_under_way: AtomicBool::new(false),
            log_jobs: Arc::new(Mailbox::new()),
            threads: Mutex::new(None),
            max_pending_requests: core.settings.max_pending_requests,
            stop_timeout: 2 * election_timeout + STOP_GRACE,
        });
        let stepping = Stepping {
            node,
            jitter,
            election_timeout,
            log: Arc::clone(&engine.log_jobs),
            state: Arc::clone(&engine.state_jobs),
            published,
            outside: Reports { core: Arc::clone(core), engine: Arc::clone(&engine) },
            metrics: Arc::clone(&core.metrics),
            progress: Progress::default(),
        };
        let watch_thread = WatchThread {
            watching: Arc::clone(&engine.watching),
            view: engine.view.clone(),
            published: Arc::clone(&engine.published),
            clock,
            jitter: Jitter::new()?,
            limits: WatchLimits {
                fragment_bytes: core.settings.max_request_bytes + WATCH_FRAGMENT_MARGIN,
                node_watches: core.settings.max_watches,
                progress_interval: core.settings.watch_progress_interval,
                ..WatchLimits::default()
            },
            election_timeout,
        };
        let (log_jobs, state_jobs) = (Arc::clone(&engine.log_jobs), Arc::clone(&engine.state_jobs));
        let threads = Threads {
            log: spawn(core, &engine, "log-writer", move |reports, metrics| {
                log_writer::run(log, &log_jobs, reports, metrics)
            })?,
            state: spawn(core, &engine, "state-writer", move |reports, metrics| {
                state_writer::run(state, &state_jobs, reports, metrics)
            })?,
            watch: spawn(core, &engine, "watches", move |reports, _| {
                if let Err(error) = watch_thread.run() {
                    reports.core.give_up(&reports.engine, error.into());
                }
            })?,
            alarm: {
                let driver = Arc::clone(&engine.driver);
                spawn(core, &engine, "alarm", move |_, _| driver.run_alarm())?
            },
        };
        *engine.threads.lock().unwrap_or_else(PoisonError::into_inner) = Some(threads);
        engine.driver.begin(stepping);
        core.connect(&engine);
        core.runtime.spawn(scrub::run(Arc::downgrade(core), Arc::downgrade(&engine)));
        Ok(engine)
    }

    /// The configuration in force.
    pub(crate) fn membership(&self) -> Arc<Membership> {
        Arc::clone(&self.membership.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks the node and waits for its answer.
    pub(crate) async fn ask(&self, op: ClientOp) -> Result<Answer, NodeError> {
        self.driver.ask(most_ahead(&op, self.max_pending_requests), op).await
    }

    /// Queues an input for the node; a node that has ended takes none.
    pub(crate) fn tell(&self, input: Input) {
        self.driver.tell(Event::Input(input));
    }

    /// Makes a verdict on this node durable and shows it.
    pub(crate) fn bar(&self, core: &Core, state: NodeState, reason: String) {
        tracing::warn!(?state, "{reason}");
        let mark = match state {
            NodeState::Removed => NodeMark::Removed,
            NodeState::Fenced => NodeMark::Fenced { reason: reason.clone() },
            _ => NodeMark::Damaged { reason: reason.clone() },
        };
        // A closed log writer means that the node ends; the cluster says it again after its next start.
        let _ = self.log_jobs.send(LogJob::Mark(mark));
        core.bar(state, reason);
        // Its clients find a node that follows the cluster.
        self.watching.end_all();
    }

    /// Ends the threads and closes the state file. With `farewell` leadership is handed over and pending requests are
    /// answered first, and the state is made durable; without, the files are left as a crash would.
    pub(crate) async fn end(&self, farewell: bool) {
        if farewell {
            let (done, stopped) = oneshot::channel();
            self.driver.tell(Event::Stop { done });
            if tokio::time::timeout(self.stop_timeout, stopped).await.is_err() {
                tracing::warn!("leadership could not be handed over in time: stopping without");
            }
        }
        self.halt();
        self.watching.close();
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(threads) = threads else { return };
        let driver = Arc::clone(&self.driver);
        let log_jobs = Arc::clone(&self.log_jobs);
        let state_jobs = Arc::clone(&self.state_jobs);
        let joined = tokio::task::spawn_blocking(move || {
            driver.join();
            let alarm = threads.alarm.join();
            // Jobs the node queued last are still carried out.
            log_jobs.close();
            state_jobs.close();
            let log = threads.log.join();
            let state = threads.state.join();
            let watch = threads.watch.join();
            if let Ok(Some(state)) = state
                && farewell
                && let Err(error) = state.close()
            {
                tracing::warn!("the state was not made durable, the log has it: {error}");
            }
            alarm.is_ok() && log.is_ok() && watch.is_ok()
        });
        if !joined.await.unwrap_or(false) {
            tracing::error!("a thread of the node panicked");
        }
    }

    /// Ends all threads without waiting for them.
    pub(crate) fn abandon(&self) {
        self.halt();
        self.log_jobs.close();
        self.state_jobs.close();
        self.watching.close();
    }

    /// Ends the node at once; the writers end when [`Engine::end`] joins them.
    pub(crate) fn halt(&self) {
        self.driver.tell(Event::Halt);
    }
}

/// Events that may wait before `op`. A node sends one renewal of leases at a time; refused, it would cost all of them, so it takes
/// its place behind however many there are.
fn most_ahead(op: &ClientOp, limit: usize) -> usize {
    match op {
        ClientOp::Write { command: Command::LeaseRenew { .. }, .. } => usize::MAX,
        _ => limit,
    }
}

/// Starts one thread of a node. If it panics the whole node ends.
fn spawn<T: Send + 'static>(
    core: &Arc<Core>,
    engine: &Arc<Engine>,
    name: &'static str,
    body: impl FnOnce(&Reports, &Arc<Metrics>) -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    let reports = Reports { core: Arc::clone(core), engine: Arc::clone(engine) };
    let guard = PanicGuard { thread: name, reports };
    let metrics = Arc::clone(&core.metrics);
    std::thread::Builder::new().name(name.to_owned()).spawn(move || body(&guard.reports, &metrics))
}

/// What the threads report, and what the driver needs of the world.
pub(crate) struct Reports {
    core: Arc<Core>,
    engine: Arc<Engine>,
}

impl LogReports for Reports {
    fn log_written(&self, seqs: &[WriteSeq]) {
        self.engine.driver.log_written(seqs);
    }

    fn snapshot_installed(&self, seq: WriteSeq, state: AppliedState) {
        self.engine.tell(Input::SnapshotInstalled { seq, state });
    }

    fn log_full(&self, full: bool) {
        self.engine.published.set_log_full(full);
        self.core.tell_space(&self.engine);
    }

    fn log_failed(&self, error: String) {
        self.core.node_failed(&self.engine, error);
    }
}

impl StateReports for Reports {
    fn is_watched(&self) -> bool {
        self.engine.watching.is_on()
    }

    fn changed(&self, batch: Batch) {
        self.engine.watching.publish(batch);
    }

    fn applied(&self, summary: AppliedSummary) {
        // Before the node answers: a client that was given a token uses it at once.
        summary.results.iter().for_each(|result| self.core.tokens.observe(&result.outcome));
        self.engine.tell(Input::Applied(summary));
    }

    fn checkpoint_done(&self, durable_applied: LogIndex) {
        self.engine.tell(Input::CheckpointDone { durable_applied });
    }

    fn look_at_space(&self, store: &StateStore) {
        self.core.look_at_space(&self.engine, store);
    }

    fn state_failed(&self, failure: Failure) {
        self.core.give_up(&self.engine, failure);
    }
}

impl Outside for Reports {
    fn send(&self, to: NodeId, messages: Vec<PeerMessage>) {
        self.core.send(to, messages);
    }

    fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::ReadEntries { to, from, max_bytes } => {
                let engine = Arc::clone(&self.engine);
                let core = Arc::clone(&self.core);
                self.core.runtime.spawn_blocking(move || match engine.log_reader.entries(from, max_bytes) {
                    Ok(entries) => engine.tell(Input::EntriesRead { to, from, entries }),
                    Err(error) => core.give_up(&engine, error.into()),
                });
            }
            Effect::FindDueLeases { until, max } => {
                let engine = Arc::clone(&self.engine);
                self.core.runtime.spawn_blocking(move || {
                    let due = engine.view.due_leases(until, max);
                    engine.tell(Input::LeasesDue { due });
                });
            }
            Effect::SendSnapshot { to, term } => {
                let sending = images::send(Arc::clone(&self.core), Arc::clone(&self.engine), to, term);
                self.core.runtime.spawn(sending);
            }
            Effect::MembershipChanged { index, membership, committed, in_force } => {
                tracing::info!(index = index.0, committed, voters = membership.voters.len(), "configuration");
                *self.engine.membership.write().unwrap_or_else(PoisonError::into_inner) = in_force;
                if committed {
                    let phase = if membership.is_joint() {
                        "joint"
                    } else if membership.target.is_some() {
                        "learners"
                    } else {
                        "simple"
                    };
                    self.core.metrics.raft.membership_changes_total.with_label_values(&[phase]).inc();
                    self.core.configuration_committed(&membership);
                }
                self.core.connect(&self.engine);
            }
            Effect::RoleChanged { role, term, leader } => {
                tracing::info!(?role, term = term.0, leader = leader.map(tracing::field::display), "role");
            }
            Effect::StateChanged { state, reason } => self.engine.bar(&self.core, state, reason),
            other => unreachable!("the driver carries out {other:?} itself"),
        }
    }

    fn status_changed(&self, seen: &Seen) {
        self.core.status_changed(&self.engine, seen);
    }

    fn panicked(&self) {
        self.core.node_failed(&self.engine, "a step of the node panicked".to_owned());
    }
}

/// A bug in one thread must not leave the others, and everybody who waits for them, hanging.
struct PanicGuard {
    thread: &'static str,
    reports: Reports,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.reports.core.node_failed(&self.reports.engine, format!("the thread {} panicked", self.thread));
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_kv::Actor;
    use quorate_node::ReadOptions;

    use super::*;

    #[test]
    fn a_renewal_is_queued_behind_any_number_of_requests() {
        let write = |command| ClientOp::Write { actor: Actor::Node, command };
        assert_eq!(most_ahead(&write(Command::LeaseRenew { ids: vec![7] }), 2), usize::MAX);
        assert_eq!(most_ahead(&write(Command::LeaseRevoke { id: 7 }), 2), 2);
        assert_eq!(most_ahead(&ClientOp::Read(ReadOptions::default()), 2), 2);
    }
}
