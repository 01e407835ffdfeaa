//! What every part of a run shares: time, network, randomness, trace, coverage, the oracle, and whose turn it is.
//!
//! Owns no node. A tier reaches the rest of the world through it alone.

use quorate_raft::{Message, NodeId, Status, Time};

use crate::check::{Cluster, Oracle, Promise, View};
use crate::clock::{Clock, Instant};
use crate::coverage::{Coverage, Handler, Reached, Struck};
use crate::log_model::{LogModel, LogWrite};
use crate::network::{HostId, Network};
use crate::plan::Plan;
use crate::queue::Queue;
use crate::random::Random;
use crate::tier::{Killed, NodeEvent, Tier};
use crate::trace::Trace;

/// A slow host's disk takes this many times as long.
const SLOW_FACTOR: u64 = 20;

/// A slow process is behind by at most this part of an election timeout.
const MOST_BEHIND_SHARE: u64 = 2;

/// What is seldom done is interrupted so many times as often as the rest.
const SELDOM_FACTOR: u32 = 50;

/// A late answer comes within this many election timeouts.
const MOST_ANSWER_TIMEOUTS: u64 = 3;

/// One life of a process on a host; what was meant for an earlier one is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Life(pub u64);

/// Something that will happen.
pub(crate) enum Event<T: Tier> {
    /// A message arrives at a host, meant for one node.
    Arrive {
        /// The host.
        host: HostId,
        /// Who sent it, and when, if it is lost when their stream is reset meanwhile.
        stream: Option<(HostId, Instant)>,
        /// The node it is for; another one on that host drops it.
        node: NodeId,
        /// The message.
        message: T::Message,
    },
    /// Something happens to one life of a process.
    Node {
        /// The host.
        host: HostId,
        /// The life.
        life: Life,
        /// What happens.
        event: NodeEvent<T>,
    },
    /// The same, as long after its time as the process was behind.
    Late {
        /// The host.
        host: HostId,
        /// The life.
        life: Life,
        /// What happens.
        event: NodeEvent<T>,
    },
    /// A paused process runs on.
    Resume {
        /// The host.
        host: HostId,
        /// The life.
        life: Life,
    },
    /// A process is started.
    Start {
        /// The host.
        host: HostId,
    },
    /// A process dies.
    Kill {
        /// The host.
        host: HostId,
        /// The life that ends.
        life: Life,
    },
    /// The planned fault of this number strikes.
    Fault(usize),
    /// A link that comes and goes changes once more, and so many times after that.
    Flap {
        /// One end.
        one: HostId,
        /// The other end.
        other: HostId,
        /// Changes left.
        left: u32,
    },
    /// A host loses all its links.
    CutOff {
        /// Which.
        host: HostId,
    },
    /// A full disk has room again.
    SpaceBack {
        /// Whose.
        host: HostId,
    },
    /// The next write, read, membership change or transfer is due.
    Load(Load),
    /// The world looks at its phase.
    Poll,
}

/// Kinds of load, each with its own rhythm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// A client's write.
    Write,
    /// A client's read.
    Read,
    /// A new voter set.
    Membership,
    /// A transfer of leadership.
    Transfer,
    /// A smaller matter.
    Upkeep,
    /// A move of a workload that stands apart.
    Workload,
}

/// Shared parts of a run.
pub(crate) struct Context<T: Tier> {
    /// What was drawn before the run.
    pub(crate) plan: Plan,
    /// What happens next.
    pub(crate) queue: Queue<Event<T>>,
    /// The links.
    pub(crate) network: Network,
    /// Hash of the run.
    pub(crate) trace: Trace,
    /// Counters of what was met.
    pub(crate) coverage: Coverage,
    /// All checkers that see everything.
    pub(crate) oracle: Oracle,
    /// Clients' memory.
    pub(crate) clients: T::Clients,
    /// Randomness of disks, kills and jitter.
    pub(crate) random: Random,
    /// All logs, and who they belong to.
    pub(crate) cluster: Cluster,
    /// Whose turn it is.
    pub(crate) host: HostId,
    /// The id of the node whose turn it is.
    pub(crate) node: NodeId,
    /// Which life of it.
    pub(crate) life: Life,
    /// Its clock.
    pub(crate) clock: Clock,
    /// Until when its disk stands still.
    pub(crate) disk_stalled_until: Instant,
    /// Until when everything takes long there.
    pub(crate) slow_until: Instant,
    /// Faults are on.
    pub(crate) faulty: bool,
    /// The newest version that the release on each host knows.
    pub(crate) versions: Vec<u32>,
    /// When something befell each host last, or until when.
    pub(crate) disturbed: Vec<Instant>,
    /// When a node was told last to campaign at once.
    pub(crate) handed_over_at: Option<Instant>,
}

impl<T: Tier> Context<T> {
    /// True time.
    pub(crate) fn now(&self) -> Instant {
        self.queue.now()
    }

    /// What the node's own clock reads.
    pub(crate) fn local(&self) -> Time {
        self.clock.read(self.queue.now())
    }

    /// Schedules something for this life of this process, `delay_us` from now.
    pub(crate) fn later(&mut self, delay_us: u64, event: T::Event) {
        let at = Instant(self.now().0 + delay_us);
        self.queue.at(at, Event::Node { host: self.host, life: self.life, event: NodeEvent::Own(event) });
    }

    /// Sends a message to a node, through all that the network may do to it.
    pub(crate) fn send(&mut self, to: NodeId, message: &T::Message) {
        let Some(&host) = self.cluster.directory.get(&to) else { return };
        let (handler, bytes) = T::describe(message);
        self.coverage.handling(handler);
        if handler == Handler::TimeoutNow {
            self.handed_over_at = Some(self.now());
        }
        let mut arrivals = self.network.send(self.queue.now(), self.host, host, bytes, &mut self.coverage);
        if matches!(handler, Handler::Forward | Handler::ForwardReply) {
            self.network.detour(&mut arrivals, &mut self.coverage);
        }
        let [copies @ .., old] = arrivals.0;
        let stream = Some((self.host, self.now()));
        let copies = copies.into_iter().flatten().map(|at| (at, stream));
        // An old copy comes from a stream that was given up long ago.
        for (at, stream) in copies.chain(old.map(|at| (at, None))) {
            self.queue.at(at, Event::Arrive { host, stream, node: to, message: message.clone() });
        }
    }

    /// The log of the node whose turn it is.
    pub(crate) fn log(&mut self) -> &mut LogModel {
        &mut self.cluster.logs[self.host.0]
    }

    /// Takes a write into the log of the node whose turn it is.
    pub(crate) fn issue(&mut self, write: LogWrite) {
        let now = self.now();
        if self.log().issue(now, write.clone()) {
            self.coverage.hit(Reached::TailReplaced);
        }
        self.oracle.issued(&write, &self.cluster.logs[self.host.0]);
    }

    /// The oldest unfinished write of the node becomes durable.
    pub(crate) fn sync_one(&mut self) -> Option<LogWrite> {
        let write = self.log().sync_one();
        self.oracle.synced(self.node, &self.cluster.logs[self.host.0]);
        write
    }

    /// Shows the checkers the node right after a step.
    pub(crate) fn stepped(&mut self, status: &Status) {
        let (release, cluster) = (self.versions[self.host.0], status.membership.cluster_version);
        // Who has left may be told so by what a later release wrote.
        assert!(
            cluster <= release || !status.membership.is_member(self.node),
            "I-24: node {} runs a release of version {release} in a cluster of version {cluster}",
            self.node
        );
        let view = View { now: self.queue.now(), host: self.host, node: self.node, clock: &self.clock, status };
        self.oracle.stepped(&self.cluster, &self.network, &view);
    }

    /// Shows the checkers a message of the core that is about to leave, and what it promises about the disk.
    pub(crate) fn sent(&mut self, message: &Message) {
        if let Some(promise) = Promise::of(message) {
            self.oracle.promised(self.node, &promise, &self.cluster);
        }
        self.oracle.sent(self.queue.now(), &self.clock, message);
    }

    /// Whether the process survives up to its next effect.
    ///
    /// # Errors
    /// [`Killed`] if it does not.
    pub(crate) fn survive(&mut self, before: Handler) -> Result<(), Killed> {
        // What is seldom done would hardly ever be interrupted.
        let seldom = matches!(before, Handler::InstallStep | Handler::LogTruncate);
        let rate = self.plan.kill_in_step * if seldom { SELDOM_FACTOR } else { 1 };
        if self.faulty && self.random.chance(rate) {
            self.coverage.hit(Reached::KilledInStep);
            self.coverage.struck(Struck::Killed, before);
            return Err(Killed);
        }
        Ok(())
    }

    /// Something befalls a host, until then.
    pub(crate) fn disturb(&mut self, host: HostId, until: Instant) {
        let disturbed = &mut self.disturbed[host.0];
        *disturbed = until.max(*disturbed);
    }

    /// By how much a process on a slow machine may be behind, in microseconds.
    pub(crate) fn most_behind_us(&self) -> u64 {
        self.plan.timeout_us() / MOST_BEHIND_SHARE
    }

    fn slowness(&self) -> u64 {
        if self.now() < self.slow_until { SLOW_FACTOR } else { 1 }
    }

    /// For how much longer this host's disk stands still, in microseconds, before this call returns.
    pub(crate) fn stalled_us(&mut self, call: Handler) -> u64 {
        let stalled = self.disk_stalled_until.since(self.now()).as_micros() as u64;
        if stalled > 0 {
            self.coverage.struck(Struck::Stalled, call);
        }
        stalled
    }

    /// How long this host's next batch takes to apply, in microseconds.
    pub(crate) fn apply_latency_us(&mut self) -> u64 {
        1 + self.random.exponential(self.plan.disk.apply_mean_us * self.slowness())
            + self.stalled_us(Handler::ApplyStep)
    }

    /// How long this host's next read from the disk takes, in microseconds.
    pub(crate) fn read_latency_us(&mut self, call: Handler) -> u64 {
        1 + self.random.exponential(self.plan.disk.write_mean_us) + self.stalled_us(call)
    }

    /// How long an answer waits after what it says was read, in microseconds; 0 for most. Whoever asked may have stopped leading
    /// meanwhile, or lead again.
    pub(crate) fn answer_delay_us(&mut self) -> u64 {
        if !(self.faulty && self.random.chance(self.plan.disk.late_report)) {
            return 0;
        }
        self.coverage.hit(Reached::AnswerLate);
        1 + self.random.below(MOST_ANSWER_TIMEOUTS * self.plan.timeout_us())
    }

    /// How long this host's next durable write takes, in microseconds.
    pub(crate) fn write_latency_us(&mut self, call: Handler) -> u64 {
        let stalled = self.stalled_us(call);
        let mut latency = 1 + self.random.exponential(self.plan.disk.write_mean_us * self.slowness()) + stalled;
        if self.faulty && self.random.chance(self.plan.disk.stall) {
            self.coverage.hit(Reached::DiskStalled);
            self.coverage.struck(Struck::Stalled, call);
            latency += self.random.below(self.plan.disk.stall_us + 1);
            self.disturb(self.host, Instant(self.now().0 + latency));
        }
        latency
    }
}
