//! The nemesis: strikes the faults of the plan.
//!
//! Every fault set it makes is one the cluster must survive: it never destroys the disks of half or more of any voter set
//! that is or may come into force, so whatever breaks is a bug.

use quorate_raft::{Membership, NodeId};

use crate::clock::{Clock, Instant};
use crate::context::Event;
use crate::coverage::Reached;
use crate::network::HostId;
use crate::partition;
use crate::plan::FaultKind;
use crate::random::Random;
use crate::tier::{Ask, Harm, Tier};
use crate::world::World;

/// Longest stall of a disk that works on the whole, in election timeouts.
pub(crate) const LONG_STALL_TIMEOUTS: u64 = 6;
/// Longest stall of one that hangs, in microseconds: as good as for ever.
const HUNG_US: u64 = 60_000_000;

impl<T: Tier> World<T> {
    /// Strikes the planned fault of this number.
    pub(crate) fn strike(&mut self, number: usize) {
        if !self.context.faulty || self.context.plan.silenced.contains(&number) {
            return;
        }
        let fault = self.context.plan.faults[number];
        let mut random = Random::new(fault.seed);
        self.struck += 1;
        self.context.trace.record(&[3, fault.kind as u64]);
        self.context.trace.line(self.context.now(), || format!("fault {number}: {:?}", fault.kind));
        match fault.kind {
            FaultKind::Kill | FaultKind::CrashLoop | FaultKind::KillAll => {
                self.strike_processes(fault.kind, &mut random)
            }
            FaultKind::Pause => {
                if let Some(&host) = random.pick(&self.running()) {
                    let longest = self.context.plan.timeout_us() * if random.chance(200_000) { 20 } else { 3 };
                    let until = Instant(self.context.now().0 + random.between(1, longest));
                    self.pause(host, until);
                }
            }
            FaultKind::Stall => {
                let host = random.below(self.hosts.len() as u64) as usize;
                let longest = self.context.plan.timeout_us() * LONG_STALL_TIMEOUTS;
                let hangs = random.chance(200_000);
                let stalled = random.between(1, if hangs { HUNG_US } else { longest });
                let until = Instant(self.context.now().0 + stalled);
                let it = &mut self.hosts[host];
                // What waits already waits for the end of the stall it met.
                it.disk_stalled_until = it.disk_stalled_until.max(until);
                self.context.disturb(HostId(host), until);
                self.context.coverage.hit(if hangs { Reached::DiskHung } else { Reached::DiskStalled });
            }
            FaultKind::ClockJump => {
                let host = random.below(self.context.plan.hosts as u64) as usize;
                self.disturb(HostId(host));
                let it = &mut self.hosts[host];
                let jump = random.below(self.context.plan.timeout_us() * 3);
                let now = self.context.queue.now();
                it.clock = Clock::new(now, it.clock.read(now).0 + jump, 0);
                self.context.coverage.hit(Reached::ClockJumped);
            }
            FaultKind::Suspend => {
                if let Some(&host) = random.pick(&self.running()) {
                    let until = Instant(self.context.now().0 + random.between(1, self.context.plan.timeout_us() * 5));
                    self.context.coverage.hit(Reached::Suspended);
                    self.suspend(host, until);
                }
            }
            FaultKind::Reset => {
                let host = HostId(random.below(self.hosts.len() as u64) as usize);
                self.context.coverage.hit(Reached::StreamsReset);
                self.reset_streams(host);
            }
            FaultKind::Slow => {
                let host = random.below(self.hosts.len() as u64) as usize;
                let longest = self.context.plan.timeout_us() * 10;
                let until = Instant(self.context.now().0 + random.between(1, longest));
                self.hosts[host].slow_until = until;
                self.hosts[host].slow_mean_us = *random.pick(&[100, 2_000, 20_000]).expect("choices");
                self.context.disturb(HostId(host), Instant(until.0 + self.context.most_behind_us()));
                self.context.coverage.hit(Reached::HostSlow);
            }
            FaultKind::Flap => {
                let hosts = self.hosts.len() as u64;
                let (one, other) = (HostId(random.below(hosts) as usize), HostId(random.below(hosts) as usize));
                if one == other {
                    return;
                }
                self.context.coverage.hit(Reached::LinkFlapped);
                self.flap(one, other, random.between(2, 20) as u32);
            }
            FaultKind::Stop => {
                if let Some(&host) = random.pick(&self.running()) {
                    self.context.coverage.hit(Reached::Stopped);
                    self.ask(host, Ask::Stop);
                }
            }
            FaultKind::Upgrade => self.roll_out(&mut random),
            FaultKind::WriteError => self.do_harm(Harm::WriteError, Reached::WriteErrorPlanned, &mut random),
            FaultKind::SyncError => self.do_harm(Harm::SyncError, Reached::SyncErrorPlanned, &mut random),
            FaultKind::ReadError => self.do_harm(Harm::ReadError, Reached::ReadErrorPlanned, &mut random),
            FaultKind::DirectoryError => {
                self.do_harm(Harm::DirectoryError, Reached::DirectoryErrorPlanned, &mut random);
            }
            FaultKind::BitFlip if random.chance(400_000) => {
                self.do_harm(Harm::RottenRecord, Reached::RecordRotten, &mut random);
            }
            FaultKind::BitFlip => self.do_harm(Harm::BitFlip, Reached::BitFlipped, &mut random),
            FaultKind::ZeroSector => self.do_harm(Harm::ZeroSector, Reached::SectorZeroed, &mut random),
            FaultKind::Misdirect => self.do_harm(Harm::Misdirect, Reached::PageMisdirected, &mut random),
            FaultKind::StalePage => self.do_harm(Harm::StalePage, Reached::PageStale, &mut random),
            FaultKind::Diverge => {
                let Some(&host) = random.pick(&self.running()) else { return };
                let node = self.hosts[host.0].node;
                if !self.hosts[host.0].paused && !self.dead.contains(&node) && self.may_lose(node) {
                    self.dead.push(node);
                    self.ask(host, Ask::Diverge);
                }
            }
            FaultKind::DiskFull => self.do_harm(Harm::Full, Reached::DiskFilled, &mut random),
            FaultKind::ClientCut => {
                let longest = self.context.plan.timeout_us() * 10;
                for host in self.running() {
                    if random.coin() {
                        let until = Instant(self.context.now().0 + random.between(1, longest));
                        self.hosts[host.0].clients_cut_until = until;
                        self.context.coverage.hit(Reached::ClientsCutOff);
                        self.ask(host, Ask::LoseClients);
                    }
                }
            }
            FaultKind::Wipe => {
                let host = HostId(random.below(self.hosts.len() as u64) as usize);
                if self.may_lose(self.hosts[host.0].node) {
                    self.context.coverage.hit(Reached::Wiped);
                    self.wipe(host);
                }
            }
            _ => self.strike_network(fault.kind, &mut random),
        }
    }

    /// Does harm to the disk of some host. What may cost the node its data strikes only whom the cluster can lose.
    fn do_harm(&mut self, harm: Harm, reached: Reached, random: &mut Random) {
        let host = HostId(random.below(self.hosts.len() as u64) as usize);
        let node = self.hosts[host.0].node;
        let rots = harm == Harm::RottenRecord;
        let decays = matches!(harm, Harm::BitFlip | Harm::ZeroSector | Harm::Misdirect | Harm::StalePage);
        let costs_the_node = decays || rots || harm == Harm::SyncError;
        if costs_the_node && (self.dead.contains(&node) || !self.may_lose(node)) {
            return;
        }
        if rots && self.hosts[host.0].process.is_some() {
            self.kill(host);
        }
        self.turn(host);
        if !T::harm(&mut self.context, &mut self.hosts[host.0].disk, harm, random) {
            return;
        }
        self.context.coverage.hit(reached);
        self.disturb(host);
        if costs_the_node {
            self.dead.push(node);
        }
        match harm {
            Harm::Full => {
                let at = Instant(self.context.now().0 + random.between(1, self.context.plan.timeout_us() * 10));
                self.context.queue.at(at, Event::SpaceBack { host });
                self.context.disturb(host, at);
            }
            // The process happens to read its files through just then. What it holds in memory would hide the rest.
            _ if decays && self.hosts[host.0].process.is_some() => {
                if !self.hosts[host.0].paused {
                    self.ask(host, Ask::Verify);
                }
                if self.hosts[host.0].process.is_some() {
                    self.kill(host);
                }
            }
            _ => {}
        }
    }

    /// A full disk has room again.
    pub(crate) fn space_back(&mut self, host: HostId) {
        self.change_disk(host, Harm::SpaceBack);
    }

    /// A disk has no fault from now on; what it lost it has lost.
    pub(crate) fn repair_disk(&mut self, host: HostId) {
        self.change_disk(host, Harm::Repair);
    }

    fn change_disk(&mut self, host: HostId, change: Harm) {
        self.turn(host);
        let mut random = self.random.fork(11);
        T::harm(&mut self.context, &mut self.hosts[host.0].disk, change, &mut random);
    }

    /// Upgrades who is not there yet, one of them or, in a hurry, all at once. Once all are, one gets another release of the same
    /// version.
    fn roll_out(&mut self, random: &mut Random) {
        let Some(&host) = random.pick(&self.running()) else { return };
        let is_old = |host: &HostId| self.context.versions[host.0] < T::NEWEST_VERSION;
        let mut next: Vec<HostId> = self.running().into_iter().filter(is_old).collect();
        if next.is_empty() {
            next.push(host);
        }
        if !random.chance(300_000) {
            random.shuffle(&mut next);
            next.truncate(1);
        }
        for host in next {
            self.context.coverage.hit(Reached::Upgraded);
            self.context.versions[host.0] = T::NEWEST_VERSION;
            self.kill(host);
        }
    }

    /// Breaks all streams from and to a host. Whoever holds an end of one is told.
    fn reset_streams(&mut self, host: HostId) {
        let now = self.context.now();
        for other in (0..self.hosts.len()).map(HostId).filter(|other| *other != host) {
            for (from, to) in [(host, other), (other, host)] {
                self.context.network.reset(from, to, now);
                let id = self.hosts[to.0].node;
                self.ask(from, Ask::PeerLost { id });
            }
        }
    }

    /// Cuts a link or mends it, and comes back for the opposite.
    pub(crate) fn flap(&mut self, one: HostId, other: HostId, left: u32) {
        if !self.context.faulty || one == other {
            return;
        }
        for (from, to) in [(one, other), (other, one)] {
            if left.is_multiple_of(2) {
                self.context.network.cut(from, to);
            } else {
                self.context.network.restore(from, to);
            }
        }
        if left > 0 {
            let period = self.context.plan.raft.heartbeat_interval.as_micros() as u64;
            let at = Instant(self.context.now().0 + self.random.between(1, period * 4));
            self.context.queue.at(at, Event::Flap { one, other, left: left - 1 });
        }
    }

    fn strike_processes(&mut self, kind: FaultKind, random: &mut Random) {
        let running = self.running();
        match kind {
            FaultKind::KillAll => {
                self.context.coverage.hit(Reached::KilledAll);
                for host in running {
                    self.kill(host);
                }
            }
            _ => {
                let Some(&host) = random.pick(&running) else { return };
                self.context.coverage.hit(Reached::Killed);
                if kind == FaultKind::CrashLoop {
                    self.hosts[host.0].crash_loop = random.between(1, 4) as u32;
                }
                self.kill(host);
            }
        }
    }

    fn strike_network(&mut self, kind: FaultKind, random: &mut Random) {
        let hosts = self.hosts.len();
        let leader = self.leader().map(|(host, _)| host);
        let longest_clog = self.context.plan.timeout_us() * 5;
        let now = self.context.now();
        let network = &mut self.context.network;
        // Cuts that pile up soon leave nobody connected; half of the new ones start from a whole network.
        if random.coin() {
            network.mend();
        }
        let reached = match kind {
            FaultKind::IsolateLeader => {
                let Some(leader) = leader else { return };
                partition::isolate(network, hosts, leader);
                Reached::IsolatedLeader
            }
            FaultKind::Isolate => {
                partition::isolate(network, hosts, HostId(random.below(hosts as u64) as usize));
                Reached::IsolatedHost
            }
            FaultKind::Split => {
                partition::split(network, hosts, random);
                Reached::SplitHosts
            }
            FaultKind::OneWay => {
                partition::one_way(network, hosts, random);
                Reached::OneWayCut
            }
            FaultKind::Partial => {
                partition::partial(network, hosts, random);
                Reached::PartialCut
            }
            FaultKind::Ring => {
                partition::ring(network, hosts, random);
                Reached::RingCut
            }
            FaultKind::Swizzle => {
                partition::swizzle(network, hosts, now, longest_clog, random);
                Reached::SwizzleClog
            }
            FaultKind::Mend => {
                network.mend();
                return;
            }
            other => unreachable!("{other:?} is no fault of the network"),
        };
        self.context.coverage.hit(reached);
    }

    /// Whether every voter set in force, or on its way to be, keeps a majority of disks without that of `victim`.
    pub(crate) fn may_lose(&self, victim: NodeId) -> bool {
        let lost = |set: &mut dyn Iterator<Item = &NodeId>| {
            let (mut size, mut gone, mut concerned) = (0, 0, false);
            for node in set {
                size += 1;
                concerned |= *node == victim;
                gone += usize::from(*node == victim || self.dead.contains(node));
            }
            concerned && gone * 2 >= size
        };
        let unsafe_in = |membership: &Membership| {
            lost(&mut membership.voters.iter())
                || lost(&mut membership.outgoing.iter())
                || membership.target.as_ref().is_some_and(|target| lost(&mut target.iter()))
                // Those that rise by themselves, and what is left without who is to go.
                || membership.standing.iter().any(|one| lost(&mut membership.voters.iter().chain([one])))
                || lost(&mut membership.voters.iter().chain(&membership.standing))
                || self.removals.iter().any(|(_, gone)| lost(&mut membership.voters.iter().filter(|it| *it != gone)))
        };
        let (committed_at, committed) = self.context.oracle.committed_membership();
        if committed.is_some_and(|membership| unsafe_in(&membership)) {
            return false;
        }
        for log in &self.context.cluster.logs {
            for image in [log.issued(), log.durable()] {
                if image.memberships().any(|(index, membership)| index > committed_at && unsafe_in(membership)) {
                    return false;
                }
                // Before anything is committed the bootstrap configuration is in force.
                if committed_at.0 == 0 && unsafe_in(&image.base_membership.1) {
                    return false;
                }
            }
        }
        !self.asked.iter().any(|(_, target)| lost(&mut target.iter()))
    }
}
