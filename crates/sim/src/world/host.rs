//! Machines: processes that start, stand still, die and come back, and disks that are lost.
//!
//! Decides nothing of what befalls them: that is in the plan, and strikes from `nemesis`.

use std::sync::Arc;

use quorate_raft::{Incarnation, Member, NodeId};

use super::World;
use crate::clock::{Clock, Instant};
use crate::context::{Event, Life};
use crate::coverage::{Handler, Reached, Struck};
use crate::log_model::{LogImage, LogModel};
use crate::network::HostId;
use crate::tier::{Ask, NodeEvent, Tier};

/// A machine.
pub(crate) struct Host<T: Tier> {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) disk: T::Disk,
    pub(crate) process: Option<T::Process>,
    pub(crate) life: Life,
    pub(crate) paused: bool,
    pub(super) backlog: Vec<NodeEvent<T>>,
    pub(crate) clock: Clock,
    pub(super) timer: Option<Instant>,
    pub(crate) disk_stalled_until: Instant,
    pub(crate) slow_until: Instant,
    /// Mean time that its process takes for an event while it is slow, in microseconds,
    pub(crate) slow_mean_us: u64,
    /// and when it is done with all that came before, if it was ever slow.
    pub(crate) busy_until: Option<Instant>,
    /// Its clock stood still since, on true time, if it is suspended.
    pub(super) suspended_at: Option<Instant>,
    /// This many of its next starts end soon.
    pub(crate) crash_loop: u32,
    /// Stays dead.
    pub(crate) abandoned: bool,
    /// No client reaches it before.
    pub(crate) clients_cut_until: Instant,
    /// Ticks in a row after which the next one was due at once.
    pub(super) idle_ticks: u32,
}

impl<T: Tier> Host<T> {
    /// One that nothing has befallen and where nothing runs yet.
    pub(super) fn new(node: NodeId, incarnation: Incarnation, disk: T::Disk) -> Host<T> {
        Host {
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
            slow_mean_us: 0,
            busy_until: None,
            suspended_at: None,
            crash_loop: 0,
            abandoned: false,
            clients_cut_until: Instant(0),
            idle_ticks: 0,
        }
    }
}

impl<T: Tier> World<T> {
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
        if self.context.plan.new_limits && self.hosts[host.0].life > Life(1) {
            self.context.coverage.hit(Reached::LimitsChanged);
        }
        self.schedule_tick(host);
        self.announce(host);
        if self.hosts[host.0].crash_loop > 0 {
            self.hosts[host.0].crash_loop -= 1;
            self.context.coverage.hit(Reached::KilledAtStart);
            let at = Instant(self.context.now().0 + self.random.below(self.context.plan.timeout_us()));
            let life = self.hosts[host.0].life;
            self.context.queue.at(at, Event::Kill { host, life });
        }
    }

    /// A member that comes back as a newer release is recorded so, where its tier has no greetings that say it.
    fn announce(&mut self, host: HostId) {
        let (id, release) = (self.hosts[host.0].node, self.context.versions[host.0]);
        if T::GREETS {
            return;
        }
        let Some((leader, status)) = self.leader() else { return };
        if let Some(member) = status.membership.members.get(&id).filter(|member| member.max_version < release) {
            let member = Member { max_version: release, ..member.clone() };
            self.ask(leader, Ask::UpdateMember { id, member });
        }
    }

    /// Something befalls a host now.
    pub(crate) fn disturb(&mut self, host: HostId) {
        let now = self.context.now();
        self.context.disturb(host, now);
    }

    /// Lets a process handle an event as soon as it comes to it, which on a slow machine is later.
    pub(super) fn dispatch_in_time(&mut self, host: HostId, event: NodeEvent<T>) {
        let now = self.context.now();
        let most = self.context.most_behind_us();
        let it = &mut self.hosts[host.0];
        let is_slow = now < it.slow_until;
        // What comes at the very moment that it has caught up stays behind what it has caught up with.
        let is_behind = it.busy_until.is_some_and(|until| now <= until);
        if it.process.is_none() || it.paused || !(is_slow || is_behind) {
            self.dispatch(host, event);
            return;
        }
        if matches!(event, NodeEvent::Tick) && it.timer != Some(now) {
            return;
        }
        let takes = if is_slow { self.random.exponential(it.slow_mean_us) } else { 0 };
        let before = it.busy_until.unwrap_or(now).max(now);
        let until = Instant(before.0 + takes).min(Instant(now.0 + most)).max(before);
        it.busy_until = Some(until);
        self.context.queue.at(until, Event::Late { host, life: it.life, event });
    }

    /// Lets a process handle what it has come to.
    pub(super) fn dispatch_late(&mut self, host: HostId, event: NodeEvent<T>) {
        self.context.coverage.hit(Reached::HandledLate);
        match event {
            NodeEvent::Message(_) => self.context.network.heard_late(host, self.context.now()),
            NodeEvent::Tick => self.hosts[host.0].timer = Some(self.context.now()),
            _ => {}
        }
        self.dispatch(host, event);
    }

    pub(super) fn resume(&mut self, host: HostId) {
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
}
