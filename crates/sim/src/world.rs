//! The world: hosts, the event loop, and the life and death of processes.
//!
//! Runs one seed from its first event to its verdict. A broken promise is a panic, in a checker here or in an assertion
//! of the code under test; whoever runs many seeds catches it. Everything a run does follows from its plan.

use quorate_raft::{Incarnation, Member, Membership, NodeId, Status};

use std::sync::Arc;

use crate::check::{Cluster, Oracle};
use crate::clock::{Clock, Instant};
use crate::context::{Context, Event, Life, Load};
use crate::coverage::{Coverage, Handler, Reached, Struck};
use crate::log_model::{LogImage, LogModel};
use crate::network::{HostId, Network};
use crate::phase::Phase;
use crate::plan::Plan;
use crate::queue::Queue;
use crate::random::Random;
use crate::stability::Stability;
use crate::tier::{Ask, NodeEvent, Tier};
use crate::trace::{Trace, TraceHash};

/// A machine.
pub(crate) struct Host<T: Tier> {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) disk: T::Disk,
    pub(crate) process: Option<T::Process>,
    pub(crate) life: Life,
    pub(crate) paused: bool,
    backlog: Vec<NodeEvent<T>>,
    pub(crate) clock: Clock,
    timer: Option<Instant>,
    pub(crate) disk_stalled_until: Instant,
    pub(crate) slow_until: Instant,
    /// Its clock stood still since, on true time, if it is suspended.
    suspended_at: Option<Instant>,
    /// This many of its next starts end soon.
    pub(crate) crash_loop: u32,
    /// Stays dead.
    pub(crate) abandoned: bool,
    /// No client reaches it before.
    pub(crate) clients_cut_until: Instant,
    /// Ticks in a row after which the next one was due at once.
    idle_ticks: u32,
}

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

    fn bootstrap(&mut self) {
        let hosts = self.context.plan.hosts;
        let voters = self.context.plan.initial_voters;
        let incarnations: Vec<Incarnation> = (0..hosts).map(|_| self.new_incarnation()).collect();
        let nodes: Vec<NodeId> = incarnations.iter().map(|&incarnation| T::node_id(incarnation)).collect();
        let membership = bootstrap_membership(&nodes[..voters], &incarnations[..voters]);
        for host in 0..hosts {
            let bootstrap = (host < voters).then_some(&membership);
            let (node, incarnation) = (nodes[host], incarnations[host]);
            self.context.host = HostId(host);
            self.context.node = node;
            self.context.cluster.directory.insert(node, HostId(host));
            self.context.cluster.nodes.push(node);
            let image = LogImage::empty(Arc::new(bootstrap.cloned().unwrap_or_default()));
            self.context.cluster.logs.push(LogModel::new(image));
            let disk = T::disk(&mut self.context, node, incarnation, bootstrap);
            self.hosts.push(Host {
                node,
                incarnation,
                disk,
                process: None,
                life: Life(0),
                paused: false,
                backlog: Vec::new(),
                clock: Clock::new(Instant(0), 0, 0),
                timer: None,
                disk_stalled_until: Instant(0),
                slow_until: Instant(0),
                suspended_at: None,
                crash_loop: 0,
                abandoned: false,
                clients_cut_until: Instant(0),
                idle_ticks: 0,
            });
            let at = Instant(self.random.below(self.context.plan.timeout_us()));
            self.context.queue.at(at, Event::Start { host: HostId(host) });
        }
        for (number, fault) in self.context.plan.faults.clone().iter().enumerate() {
            self.context.queue.at(fault.at, Event::Fault(number));
        }
        for load in [Load::Write, Load::Read, Load::Membership, Load::Transfer, Load::Upkeep, Load::Workload] {
            self.schedule_load(load);
        }
        self.context.queue.at(Instant(0) + self.context.plan.safety, Event::Poll);
    }

    pub(crate) fn new_incarnation(&mut self) -> Incarnation {
        Incarnation((u128::from(self.random.next()) << 64) | u128::from(self.random.next()))
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
            Event::Arrive { host, node, message } => {
                if self.hosts[host.0].node == node {
                    self.dispatch(host, NodeEvent::Message(message));
                }
            }
            Event::Node { host, life, event } => {
                if self.hosts[host.0].life == life {
                    self.dispatch(host, event);
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

    /// Starts the process of a host, if none runs there.
    pub(crate) fn start(&mut self, host: HostId) {
        if self.hosts[host.0].process.is_some() || self.hosts[host.0].abandoned {
            return;
        }
        let ppm = i64::from(self.context.plan.clock_ppm);
        let rate = self.random.between(0, 2 * ppm as u64) as i64 - ppm;
        let clock = Clock::new(self.context.now(), self.random.below(1 << 40), rate as i32);
        self.disturb(host);
        let it = &mut self.hosts[host.0];
        it.life = Life(it.life.0 + 1);
        it.clock = clock;
        it.timer = None;
        it.paused = false;
        it.backlog.clear();
        self.turn(host);
        let it = &mut self.hosts[host.0];
        if self.context.cluster.logs[host.0].durable().membership().1.is_joint() {
            self.context.coverage.hit(Reached::RestartedInJoint);
        }
        self.context.trace.record(&[1, host.0 as u64]);
        self.context.trace.line(self.context.now(), || format!("host {} starts node {}", host.0, it.node));
        it.process = T::start(&mut self.context, &mut it.disk);
        if it.process.is_none() {
            if T::is_refused(&it.disk) {
                self.context.coverage.hit(Reached::StartRefused);
                self.wipe(host);
            }
            self.kill(host);
            return;
        }
        self.schedule_tick(host);
        if self.hosts[host.0].crash_loop > 0 {
            self.hosts[host.0].crash_loop -= 1;
            self.context.coverage.hit(Reached::KilledAtStart);
            let at = Instant(self.context.now().0 + self.random.below(self.context.plan.timeout_us()));
            let life = self.hosts[host.0].life;
            self.context.queue.at(at, Event::Kill { host, life });
        }
    }

    /// Something befalls a host now.
    pub(crate) fn disturb(&mut self, host: HostId) {
        let now = self.context.now();
        self.context.disturb(host, now);
    }

    fn resume(&mut self, host: HostId) {
        self.disturb(host);
        self.hosts[host.0].paused = false;
        if let Some(since) = self.hosts[host.0].suspended_at.take() {
            let it = &mut self.hosts[host.0];
            it.clock = Clock::new(self.context.queue.now(), it.clock.read(since).0, 0);
        }
        let backlog = std::mem::take(&mut self.hosts[host.0].backlog);
        if backlog.iter().any(|event| matches!(event, NodeEvent::Message(_))) {
            self.context.network.heard_late(host, self.context.queue.now());
        }
        let life = self.hosts[host.0].life;
        for event in backlog {
            if self.hosts[host.0].life == life {
                // What was due while it stood still is due now.
                if matches!(event, NodeEvent::Tick) {
                    self.hosts[host.0].timer = Some(self.context.now());
                }
                self.dispatch(host, event);
            }
        }
        self.schedule_tick(host);
    }

    /// Kills the process of a host and plans its next start.
    pub(crate) fn kill(&mut self, host: HostId) {
        self.struck_in_role(host, Struck::Killed);
        self.disturb(host);
        self.turn(host);
        let it = &mut self.hosts[host.0];
        self.context.trace.record(&[2, host.0 as u64]);
        self.context.trace.line(self.context.now(), || format!("host {} loses node {}", host.0, it.node));
        T::crash(&mut self.context, &mut it.disk, it.process.take());
        it.life = Life(it.life.0 + 1);
        it.paused = false;
        it.suspended_at = None;
        it.backlog.clear();
        it.timer = None;
        self.context.oracle.died(it.node);
        let timeout = self.context.plan.timeout_us();
        // Some stay away for long; some are back before anybody has missed them, and must not have forgotten a promise.
        let longest = match self.random.below(10) {
            0..=1 if self.context.faulty => timeout * 20,
            2..=4 => timeout / 50 + 100,
            _ => timeout,
        };
        let at = Instant(self.context.now().0 + self.random.between(100, longest));
        self.context.queue.at(at, Event::Start { host });
    }

    /// Stops a process until `until`.
    pub(crate) fn pause(&mut self, host: HostId, until: Instant) {
        let it = &mut self.hosts[host.0];
        if it.process.is_some() && !it.paused {
            it.paused = true;
            self.context.coverage.hit(Reached::Paused);
            self.struck_in_role(host, Struck::Paused);
            let it = &self.hosts[host.0];
            self.context.queue.at(until, Event::Resume { host, life: it.life });
        }
    }

    /// Stops a machine with its clock until `until`.
    pub(crate) fn suspend(&mut self, host: HostId, until: Instant) {
        let it = &self.hosts[host.0];
        if it.process.is_some() && !it.paused {
            self.pause(host, until);
            self.hosts[host.0].suspended_at = Some(self.context.now());
        }
    }

    /// Counts what befell a process by what it was at that moment.
    pub(crate) fn struck_in_role(&mut self, host: HostId, struck: Struck) {
        let Some(status) = self.hosts[host.0].process.as_ref().and_then(T::status) else { return };
        self.context.coverage.struck(struck, Handler::of_role(status.role));
        if status.membership.is_joint() {
            self.context.coverage.struck(struck, Handler::JointPhase);
        }
    }

    /// Replaces the disk of a host by an empty one: a new node under the old name.
    pub(crate) fn wipe(&mut self, host: HostId) {
        let fresh = self.new_incarnation();
        let incarnation = if mutant!(IdentityOutlivesDisk) { self.hosts[host.0].incarnation } else { fresh };
        let node = T::node_id(incarnation);
        if self.hosts[host.0].process.is_some() {
            self.kill(host);
        }
        if node != self.hosts[host.0].node {
            self.dead.push(self.hosts[host.0].node);
        }
        self.context.trace.line(self.context.now(), || format!("host {} is wiped and becomes node {node}", host.0));
        self.turn(host);
        self.context.node = node;
        self.context.cluster.directory.insert(node, host);
        self.context.cluster.nodes[host.0] = node;
        let empty = LogModel::new(LogImage::empty(Arc::default()));
        let lost = std::mem::replace(&mut self.context.cluster.logs[host.0], empty);
        self.context.cluster.lost.insert(self.hosts[host.0].node, lost);
        let disk = T::disk(&mut self.context, node, incarnation, None);
        let it = &mut self.hosts[host.0];
        it.node = node;
        it.incarnation = incarnation;
        it.disk = disk;
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

/// What a host says of itself when it is admitted.
pub(crate) fn member(host: HostId, incarnation: Incarnation, max_version: u32) -> Member {
    Member {
        incarnation,
        name: format!("host-{}", host.0),
        peer_address: format!("host-{}:2380", host.0),
        client_addresses: vec![format!("host-{}:2379", host.0)],
        max_version,
    }
}

fn bootstrap_membership(nodes: &[NodeId], incarnations: &[Incarnation]) -> Membership {
    let members =
        nodes.iter().zip(incarnations).enumerate().map(|(host, (&node, &it))| (node, member(HostId(host), it, 1)));
    Membership {
        voters: nodes.iter().copied().collect(),
        members: members.collect(),
        cluster_version: 1,
        ..Membership::default()
    }
}
