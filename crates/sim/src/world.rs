//! The world: the event loop, and whose turn it is.
//!
//! Runs one seed from its first event to its verdict. A broken promise is a panic, in a checker here or in an assertion
//! of the code under test; whoever runs many seeds catches it. Everything a run does follows from its plan.

mod bootstrap;
mod host;

use quorate_raft::{NodeId, Status};

pub(crate) use self::bootstrap::member;
pub(crate) use self::host::Host;
use crate::check::{Cluster, Oracle};
use crate::clock::{Clock, Instant};
use crate::context::{Context, Event, Life};
use crate::coverage::{Coverage, Reached, Struck};
use crate::network::{HostId, Network};
use crate::phase::Phase;
use crate::plan::Plan;
use crate::queue::Queue;
use crate::random::Random;
use crate::stability::Stability;
use crate::tier::{Ask, NodeEvent, Tier};
use crate::trace::{Trace, TraceHash};

/// No run of a sound system has a tenth as many.
const MAX_EVENTS: u64 = 20_000_000;

/// A process that is due again at once so often does nothing but keep its processor busy.
const MAX_IDLE_TICKS: u32 = 200;

/// What a finished run tells.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Hash of everything that happened.
    pub trace: TraceHash,
    /// What was met.
    pub coverage: Coverage,
    /// Simulated time.
    pub simulated: Instant,
    /// Events handled.
    pub events: u64,
    /// From healing to the first leader, in election timeouts times a hundred.
    pub leader_after_percent: u64,
    /// Terms that this took.
    pub election_rounds: u64,
    /// Planned faults that struck.
    pub faults: u64,
    /// Reads and writes that clients began.
    pub operations: u64,
    /// The election timeout, in microseconds.
    pub election_timeout_us: u64,
}

/// One run.
pub(crate) struct World<T: Tier> {
    pub(crate) context: Context<T>,
    pub(crate) hosts: Vec<Host<T>>,
    pub(crate) phase: Phase,
    pub(crate) random: Random,
    /// Ids whose disk is lost.
    pub(crate) dead: Vec<NodeId>,
    /// Voter sets asked for lately; a disk that one of them needs is not wiped.
    pub(crate) asked: Vec<(Instant, Vec<NodeId>)>,
    /// Members whose removal was asked for lately, from whatever set is in force when it is served.
    pub(crate) removals: Vec<(Instant, NodeId)>,
    pub(crate) struck: u64,
    pub(crate) operations: u64,
    pub(crate) leader_after_percent: u64,
    /// The highest term when the world was healed; then how many terms the first leader took.
    pub(crate) election_rounds: u64,
    pub(crate) stability: Stability,
    events: u64,
}

impl<T: Tier> World<T> {
    /// A world at its first moment, ready to run.
    pub(crate) fn new(plan: Plan, verbose: bool) -> World<T> {
        let mut random = Random::new(plan.seed ^ 0x5157_4f52_4c44);
        let network = Network::new(plan.hosts, plan.network.clone(), Instant(0) + plan.safety, random.fork(1));
        let context = Context {
            queue: Queue::default(),
            network,
            trace: Trace::new(verbose),
            coverage: Coverage::default(),
            oracle: Oracle::new(&plan),
            clients: T::clients(&plan),
            random: random.fork(2),
            cluster: Cluster::default(),
            host: HostId(0),
            node: NodeId(0),
            life: Life(0),
            clock: Clock::new(Instant(0), 0, 0),
            disk_stalled_until: Instant(0),
            slow_until: Instant(0),
            faulty: true,
            versions: vec![1; plan.hosts],
            disturbed: vec![Instant(0); plan.hosts],
            handed_over_at: None,
            plan,
        };
        let mut world = World {
            context,
            hosts: Vec::new(),
            phase: Phase::Safety,
            random: random.fork(3),
            dead: Vec::new(),
            asked: Vec::new(),
            removals: Vec::new(),
            struck: 0,
            operations: 0,
            leader_after_percent: 0,
            election_rounds: 0,
            stability: Stability::default(),
            events: 0,
        };
        world.bootstrap();
        world
    }

    /// Runs to the end.
    ///
    /// # Panics
    /// If a checker or an assertion finds a broken promise.
    pub(crate) fn run(mut self) -> Verdict {
        while self.phase != Phase::Done {
            let event = self.context.queue.take().expect("the poll event keeps the queue alive");
            self.events += 1;
            assert!(self.events < MAX_EVENTS, "the run never comes to rest\n{}", self.describe());
            self.step(event);
        }
        for it in &mut self.hosts {
            if let Some(process) = it.process.take() {
                T::close(&it.disk, process);
            }
        }
        Verdict {
            trace: self.context.trace.hash(),
            simulated: self.context.now(),
            coverage: self.context.coverage,
            events: self.events,
            leader_after_percent: self.leader_after_percent,
            election_rounds: self.election_rounds,
            faults: self.struck,
            operations: self.operations,
            election_timeout_us: self.context.plan.timeout_us(),
        }
    }

    fn step(&mut self, event: Event<T>) {
        match event {
            Event::Arrive { host, stream, node, message } => {
                if stream.is_some_and(|(from, sent)| self.context.network.is_lost_in_reset(from, host, sent)) {
                    self.context.coverage.handling(T::describe(&message).0);
                    self.context.coverage.hit(Reached::LostInReset);
                    self.context.coverage.struck_message(Struck::Lost);
                } else if self.hosts[host.0].node == node {
                    self.dispatch_in_time(host, NodeEvent::Message(message));
                }
            }
            Event::Node { host, life, event } => {
                if self.hosts[host.0].life == life {
                    self.dispatch_in_time(host, event);
                }
            }
            Event::Late { host, life, event } => {
                if self.hosts[host.0].life == life {
                    self.dispatch_late(host, event);
                }
            }
            Event::Resume { host, life } => {
                if self.hosts[host.0].life == life {
                    self.resume(host);
                }
            }
            Event::Start { host } => self.start(host),
            Event::Kill { host, life } => {
                if self.hosts[host.0].life == life {
                    self.kill(host);
                }
            }
            Event::Fault(number) => {
                self.context.network.set_now(self.context.now());
                self.strike(number);
            }
            Event::Flap { one, other, left } => {
                self.context.network.set_now(self.context.now());
                self.flap(one, other, left);
            }
            Event::SpaceBack { host } => self.space_back(host),
            Event::CutOff { host } => {
                if self.context.faulty {
                    self.context.network.set_now(self.context.now());
                    crate::partition::isolate(&mut self.context.network, self.hosts.len(), host);
                }
            }
            Event::Load(load) => self.load(load),
            Event::Poll => self.poll(),
        }
    }

    pub(crate) fn turn(&mut self, host: HostId) {
        let it = &self.hosts[host.0];
        let context = &mut self.context;
        context.host = host;
        context.node = it.node;
        context.life = it.life;
        context.clock = it.clock;
        context.disk_stalled_until = it.disk_stalled_until;
        context.slow_until = it.slow_until;
    }

    /// Lets a process handle an event, or keeps the event for it while it stands still.
    pub(crate) fn dispatch(&mut self, host: HostId, event: NodeEvent<T>) {
        self.turn(host);
        let it = &mut self.hosts[host.0];
        let Some(process) = it.process.as_mut() else { return };
        if it.paused {
            it.backlog.push(event);
            return;
        }
        if matches!(event, NodeEvent::Tick) {
            // The deadline may have moved since this tick was scheduled.
            let now = self.context.now();
            if it.timer != Some(now) {
                return;
            }
            it.timer = None;
            if self.context.local() < T::deadline(process) {
                self.schedule_tick(host);
                return;
            }
        }
        self.context.trace.record(&[self.context.now().0, host.0 as u64]);
        let ticked = matches!(event, NodeEvent::Tick);
        match T::handle(&mut self.context, &mut it.disk, process, event) {
            Ok(()) => {
                let due_again = ticked && T::deadline(process) <= self.context.local();
                it.idle_ticks = if due_again { it.idle_ticks + 1 } else { 0 };
                assert!(it.idle_ticks < MAX_IDLE_TICKS, "node {} is due again at once, for ever", it.node);
                let leads = T::leads(process);
                self.watch_leader(host, leads);
                self.schedule_tick(host);
            }
            Err(_killed) => self.kill(host),
        }
    }

    fn schedule_tick(&mut self, host: HostId) {
        let it = &mut self.hosts[host.0];
        let Some(process) = &it.process else { return };
        let now = self.context.now();
        // A deadline that has passed already is handled at the next instant, never twice at this one.
        let at = it.clock.when(T::deadline(process)).max(Instant(now.0 + 1));
        if it.timer.is_none_or(|timer| at < timer) {
            it.timer = Some(at);
            self.context.queue.at(at, Event::Node { host, life: it.life, event: NodeEvent::Tick });
        }
    }

    /// The status of the running leader of the newest term, and its host.
    pub(crate) fn leader(&self) -> Option<(HostId, Status)> {
        let host = self.leading_host()?;
        let process = self.hosts[host.0].process.as_ref()?;
        Some((host, T::status(process)?))
    }

    /// The host of the running leader of the newest term.
    pub(crate) fn leading_host(&self) -> Option<HostId> {
        let leads = |it: &Host<T>| it.process.as_ref().and_then(T::leads);
        let leaders = self.hosts.iter().enumerate().filter_map(|(host, it)| Some((leads(it)?, host)));
        leaders.max_by_key(|(term, host)| (*term, std::cmp::Reverse(*host))).map(|(_, host)| HostId(host))
    }

    /// Hosts whose process runs.
    pub(crate) fn running(&self) -> Vec<HostId> {
        (0..self.hosts.len()).map(HostId).filter(|host| self.hosts[host.0].process.is_some()).collect()
    }

    pub(crate) fn ask(&mut self, host: HostId, ask: Ask) {
        self.dispatch(host, NodeEvent::Ask(ask));
    }
}
