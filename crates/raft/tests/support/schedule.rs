//! Random schedules: a few nodes under loss, duplication, reordering, delay, partitions, pauses, crashes that lose unsynced
//! writes, slow disks, drifting clocks, membership changes and transfers; then everything heals and must converge.
//!
//! One seed is one schedule, byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use quorate_raft::*;

use super::node::{Disk, Out, State, TestNode};
use super::oracle::Oracle;
use super::random::Random;

const MS: u64 = 1000;
const ELECTION_MS: u64 = 100;
/// Faster clocks than others' by at most this.
const DRIFT_PPM: u32 = 20_000;
const MAX_NODES: usize = 12;

/// A node that runs or lies crashed, and its clock.
struct Host {
    node: Option<TestNode>,
    disk: Option<Disk>,
    run: u64,
    /// Local time = offset + true time * rate.
    offset_us: u64,
    rate_ppm: u64,
    paused_until: u64,
    /// This much slower than the others at every write.
    disk_delay_us: u64,
}

enum Event {
    Deliver(Message),
    Image { from: NodeId, to: NodeId, term: Term, meta: SnapshotMeta, state: State },
    Report { run: u64, at: NodeId, to: NodeId, sent: Result<LogIndex, ()> },
    Sync { run: u64, at: NodeId },
    Persisted { run: u64, at: NodeId, seq: WriteSeq },
    Restart { at: NodeId },
    Heal,
    Client,
    Chaos,
}

/// How bad this seed's world is.
struct Weather {
    loss: u64,
    duplicates: u64,
    delay_us: u64,
    disk_us: u64,
    crash: u64,
    partition: u64,
    pause: u64,
    change: u64,
    transfer: u64,
    compact: u64,
    /// Share of client requests that write. Constant writes hide what only an idle cluster shows: nobody can vote for a
    /// node that missed one.
    writes: u64,
    /// Nodes may start anew with another election timeout than the others have.
    other_timeouts: bool,
}

pub(crate) struct Schedule {
    random: Random,
    weather: Weather,
    config: Config,
    hosts: BTreeMap<NodeId, Host>,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    now_us: u64,
    /// Messages from the first to the second are lost.
    cut: BTreeSet<(NodeId, NodeId)>,
    calm: bool,
    next_handle: u64,
    pub(crate) oracle: Oracle,
    ticks_at_once: u32,
    pub(crate) steps: u64,
}

impl Schedule {
    pub(crate) fn new(seed: u64) -> Schedule {
        let mut random = Random::new(seed);
        let far_us = if random.chance(30) { 80 * MS } else { 5 * MS };
        let slow_us = if random.chance(30) { 40 * MS } else { MS };
        let weather = Weather {
            loss: if random.chance(60) { random.below(30) } else { 0 },
            duplicates: if random.chance(60) { random.below(40) } else { 0 },
            delay_us: 100 + random.below(far_us),
            disk_us: 10 + random.below(slow_us),
            crash: if random.chance(70) { random.below(15) } else { 0 },
            partition: if random.chance(70) { random.below(20) } else { 0 },
            pause: if random.chance(30) { random.below(10) } else { 0 },
            change: if random.chance(60) { random.below(30) } else { 0 },
            transfer: if random.chance(50) { random.below(15) } else { 0 },
            compact: if random.chance(60) { random.below(50) } else { 0 },
            writes: if random.chance(30) { 3 } else { 60 },
            other_timeouts: random.chance(50),
        };
        let config = Config {
            election_timeout: Duration::from_millis(ELECTION_MS),
            heartbeat_interval: Duration::from_millis(10 + random.below(20)),
            clock_drift_ppm: DRIFT_PPM,
            max_append_bytes: 64 + random.below(1000) as usize,
            max_append_entries: 1 + random.below(20) as usize,
            max_inflight_appends: 1 + random.below(8) as usize,
            max_inflight_bytes: 64 + random.below(4000) as usize,
            catch_up_entries: random.below(20),
            log_cache_bytes: random.below(2000) as usize,
        };
        let mut schedule = Schedule {
            random,
            weather,
            config,
            hosts: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            now_us: MS,
            cut: BTreeSet::new(),
            calm: false,
            next_handle: 0,
            oracle: Oracle::default(),
            ticks_at_once: 0,
            steps: 0,
        };
        let size = 1 + schedule.random.below(5);
        let bootstrap = bootstrap(1..=size);
        for id in (1..=size).map(NodeId) {
            schedule.add_host(id, Disk::new(bootstrap.clone()));
        }
        schedule.later(MS, Event::Client);
        schedule.later(MS, Event::Chaos);
        schedule
    }

    /// Runs the faulty phase, then heals everything and requires convergence.
    pub(crate) fn run(&mut self, faulty_ms: u64) {
        self.run_until(self.now_us + faulty_ms * MS);
        self.calm_down();
        let deadline = self.now_us + 60 * ELECTION_MS * MS;
        while !self.has_converged() {
            assert!(self.now_us < deadline, "no convergence: {}", self.describe());
            self.run_until(self.now_us + 10 * MS);
        }
    }

    fn run_until(&mut self, end_us: u64) {
        while self.now_us < end_us {
            self.advance(end_us);
        }
    }

    /// Does what comes next: the earliest event or the earliest tick.
    fn advance(&mut self, end_us: u64) {
        let event_at = self.queue.keys().next().map_or(u64::MAX, |(at, _)| *at);
        let tick = self.hosts.iter().filter_map(|(id, host)| Some((host.deadline()?, *id))).min();
        let tick_at = tick.map_or(u64::MAX, |(at, _)| at.max(self.now_us));
        if event_at.min(tick_at) >= end_us {
            self.now_us = end_us;
            return;
        }
        if tick_at < event_at {
            self.ticks_at_once = if tick_at == self.now_us { self.ticks_at_once + 1 } else { 0 };
            assert!(self.ticks_at_once < 200, "a deadline does not move on: {}", self.describe());
            self.now_us = tick_at;
            let jitter = Duration::from_micros(self.random.below(ELECTION_MS * MS));
            let Some((_, id)) = tick else { return };
            self.step(id, Input::Tick { jitter });
        } else if let Some(((at, _), event)) = self.queue.pop_first() {
            self.now_us = self.now_us.max(at);
            self.happen(event);
        }
        self.check_leases();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver(message) => {
                if let Some(until) = self.paused(message.to) {
                    self.at(until, Event::Deliver(message));
                } else if !self.cut.contains(&(message.from, message.to)) {
                    self.step(message.to, Input::Message(message));
                }
            }
            Event::Image { from, to, term, meta, state } => self.deliver_image(from, to, term, meta, state),
            Event::Report { run, at, to, sent } if self.runs(at, run) => {
                self.step(at, Input::SnapshotReport { to, sent })
            }
            Event::Sync { run, at } if self.runs(at, run) => self.sync(at),
            Event::Persisted { run, at, seq } if self.runs(at, run) => self.step(at, Input::Persisted { seq }),
            Event::Restart { at } => self.restart(at),
            Event::Heal => self.cut.clear(),
            Event::Client => self.client(),
            Event::Chaos => self.chaos(),
            Event::Report { .. } | Event::Sync { .. } | Event::Persisted { .. } => {}
        }
    }

    fn step(&mut self, id: NodeId, input: Input) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let now = host.local(self.now_us);
        let Some(node) = &mut host.node else { return };
        let out = node.step(now, input);
        self.took_step(id, out);
    }

    fn took_step(&mut self, id: NodeId, out: Vec<Out>) {
        self.steps += 1;
        for out in out {
            match out {
                Out::Message(message) => self.post(message),
                Out::Held(..) => {}
                Out::Image { to, term, meta, state } => self.post_image(id, to, term, meta, state),
                Out::Effect(effect) => {
                    let host = &self.hosts[&id];
                    let Some(node) = &host.node else { continue };
                    self.oracle.effect(node, &effect);
                    if let Effect::Persist { .. } | Effect::InstallSnapshot { .. } = effect {
                        let (run, delay) = (host.run, host.disk_delay_us);
                        let delay = delay + self.random.below(self.weather.disk_us);
                        self.later(delay, Event::Sync { run, at: id });
                    }
                }
            }
        }
        let hosts = &self.hosts;
        let holds = |id: NodeId, index: LogIndex, term: Term| {
            let host = &hosts[&id];
            let disk = host.node.as_ref().map(|node| &node.disk).or(host.disk.as_ref());
            disk.is_some_and(|disk| disk.base.0 >= index || disk.entry(index).is_some_and(|entry| entry.term == term))
        };
        if let Some(node) = &hosts[&id].node {
            self.oracle.stepped(self.now_us, node, holds);
        }
    }

    fn sync(&mut self, id: NodeId) {
        let Some(node) = self.hosts.get_mut(&id).and_then(|host| host.node.as_mut()) else { return };
        let Some((seq, free)) = node.sync_one() else { return };
        let run = self.hosts[&id].run;
        // The word of it may overtake that of an earlier write, and come twice.
        let delay = if self.random.chance(20) { self.random.below(2 * self.weather.disk_us) } else { 0 };
        self.later(delay, Event::Persisted { run, at: id, seq });
        if self.random.chance(5) {
            self.later(delay + MS, Event::Persisted { run, at: id, seq });
        }
        for message in free {
            self.post(message);
        }
    }

    fn post(&mut self, message: Message) {
        if let Some(node) = &self.hosts[&message.from].node {
            self.oracle.message(node, &message);
        }
        if !self.calm && self.random.chance(self.weather.loss) {
            if self.random.chance(20) {
                let (at, to) = (message.from, message.to);
                self.step(at, Input::PeerUnreachable { id: to });
            }
            return;
        }
        if self.cut.contains(&(message.from, message.to)) {
            return;
        }
        let copies = if !self.calm && self.random.chance(self.weather.duplicates) { 2 } else { 1 };
        for copy in 0..copies {
            let mut delay = 50 + self.random.below(self.weather.delay_us);
            if copy > 0 && self.random.chance(10) {
                delay += self.random.below(1000 * MS);
            }
            self.later(delay, Event::Deliver(message.clone()));
        }
    }

    fn post_image(&mut self, from: NodeId, to: NodeId, term: Term, meta: SnapshotMeta, state: State) {
        let run = self.hosts[&from].run;
        let delay = MS + self.random.below(10 * self.weather.delay_us);
        let lost = self.cut.contains(&(from, to)) || !self.calm && self.random.chance(self.weather.loss);
        let sent = if lost { Err(()) } else { Ok(meta.index) };
        self.later(delay + MS, Event::Report { run, at: from, to, sent });
        if !lost {
            self.later(delay, Event::Image { from, to, term, meta, state });
        }
    }

    fn deliver_image(&mut self, from: NodeId, to: NodeId, term: Term, meta: SnapshotMeta, state: State) {
        let Some(host) = self.hosts.get_mut(&to) else { return };
        let now = host.local(self.now_us);
        let Some(node) = &mut host.node else { return };
        let out = node.receive_image(now, from, term, meta, state);
        self.took_step(to, out);
    }

    fn client(&mut self) {
        // A narrow window may carry less than the clients bring: when it is calm they make room for catching up.
        let longest = if self.calm { 200 * MS } else { 20 * MS };
        let pause = 200 + self.random.below(longest);
        self.later(pause, Event::Client);
        let running = self.running();
        let Some(id) = self.random.pick(&running) else { return };
        let (request, read) = (RequestId(self.handle()), ReadId(self.handle()));
        if self.random.chance(self.weather.writes) {
            for id in self.leaders() {
                let commands = self.commands();
                self.step(id, Input::Propose { request, commands });
            }
        } else {
            self.oracle.read_asked(read);
            self.step(id, Input::ReadIndex { read });
        }
        self.check_staleness(id);
    }

    fn commands(&mut self) -> Vec<Bytes> {
        let count = 1 + self.random.below(4);
        (0..count)
            .map(|_| {
                let length = self.random.below(60) as usize;
                let fill = self.random.next() as u8;
                Bytes::from(vec![fill; length])
            })
            .collect()
    }

    fn chaos(&mut self) {
        let pause = 5 * MS + self.random.below(20 * MS);
        self.later(pause, Event::Chaos);
        let running = self.running();
        let Some(id) = self.random.pick(&running) else { return };
        if self.random.chance(self.weather.compact) {
            self.compact(id);
        }
        if self.calm {
            return;
        }
        if self.random.chance(self.weather.crash) {
            self.crash(id);
        } else if self.random.chance(self.weather.pause)
            && let Some(host) = self.hosts.get_mut(&id)
        {
            host.paused_until = self.now_us + self.random.below(3 * ELECTION_MS * MS);
        }
        if self.random.chance(self.weather.partition) {
            self.partition();
        }
        if self.random.chance(self.weather.change) {
            self.change_voters();
        }
        if self.random.chance(self.weather.transfer) {
            let request = RequestId(self.handle());
            let all: Vec<NodeId> = self.hosts.keys().copied().collect();
            let to = if self.random.chance(50) { self.random.pick(&all) } else { None };
            for id in running {
                self.step(id, Input::TransferLeader { request, to });
            }
        }
        if self.random.chance(1) {
            let yes = self.random.chance(50);
            self.step(id, Input::StopCampaigning { yes });
        }
    }

    fn compact(&mut self, id: NodeId) {
        let keep = self.random.below(10);
        let Some(node) = self.hosts.get_mut(&id).and_then(|host| host.node.as_mut()) else { return };
        if self.random.chance(50) {
            node.checkpoint();
        }
        let durable = node.disk.state.applied.min(node.raft.status().applied);
        let up_to = LogIndex(durable.0.saturating_sub(keep));
        self.step(id, Input::Compact { up_to });
    }

    fn crash(&mut self, id: NodeId) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(node) = host.node.take() else { return };
        host.disk = Some(node.crash());
        self.oracle.crashed(id);
        let down = self.random.below(3 * ELECTION_MS * MS);
        self.later(down, Event::Restart { at: id });
    }

    fn restart(&mut self, id: NodeId) {
        let jitter = Duration::from_micros(self.random.below(ELECTION_MS * MS));
        let offset_us = self.random.below(1000 * MS);
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(disk) = host.disk.take() else { return };
        host.run += 1;
        host.offset_us = offset_us;
        let now = host.local(self.now_us);
        let mut config = self.config.clone();
        if self.weather.other_timeouts {
            let timeout_ms = if self.random.chance(50) { ELECTION_MS / 2 } else { 3 * ELECTION_MS };
            config.election_timeout = Duration::from_millis(timeout_ms);
        }
        let Some(host) = self.hosts.get_mut(&id) else { return };
        host.node = Some(TestNode::start(id, config, disk, now, jitter));
    }

    /// Cuts the cluster in two, or a single link of a leader; both ways or one.
    fn partition(&mut self) {
        let ids: Vec<NodeId> = self.hosts.keys().copied().collect();
        let one_way = self.random.chance(30);
        let link = self.random.chance(50);
        let leaders = self.leaders();
        let left: BTreeSet<NodeId> = if link {
            self.random.pick(if leaders.is_empty() { &ids } else { &leaders }).into_iter().collect()
        } else {
            ids.iter().copied().filter(|_| self.random.chance(50)).collect()
        };
        let right: BTreeSet<NodeId> = if link {
            self.random.pick(&ids).into_iter().collect()
        } else {
            ids.iter().copied().filter(|id| !left.contains(id)).collect()
        };
        for from in &left {
            for to in &right {
                self.cut.insert((*from, *to));
                if !one_way {
                    self.cut.insert((*to, *from));
                }
            }
        }
        let length = self.random.below(8 * ELECTION_MS * MS);
        self.later(length, Event::Heal);
    }

    /// Asks every leader for a random voter set, of members and newcomers.
    fn change_voters(&mut self) {
        let leaders = self.leaders();
        let Some(leader) = self.random.pick(&leaders) else { return };
        let Some(node) = self.hosts[&leader].node.as_ref() else { return };
        let (index, membership) = node.raft.membership();
        let membership = membership.clone();
        let mut target: Vec<VoterTarget> = Vec::new();
        for id in membership.members.keys() {
            if self.random.chance(60) {
                target.push(VoterTarget::Existing(*id));
            }
        }
        while self.hosts.len() < MAX_NODES && (target.is_empty() || self.random.chance(40)) {
            let id = NodeId(self.hosts.len() as u64 + 1);
            self.add_host(id, Disk::new(Membership::default()));
            target.push(VoterTarget::New { id, member: member(id.0) });
        }
        let request = RequestId(self.handle());
        let expected = if self.random.chance(50) { Some(index) } else { None };
        self.step(leader, Input::SetVoters { request, target, expected });
    }

    fn calm_down(&mut self) {
        self.calm = true;
        self.weather.delay_us = self.weather.delay_us.min(2 * MS);
        self.weather.disk_us = self.weather.disk_us.min(MS);
        self.cut.clear();
        let ids: Vec<NodeId> = self.hosts.keys().copied().collect();
        for id in ids {
            self.restart(id);
            if let Some(host) = self.hosts.get_mut(&id) {
                host.paused_until = 0;
                host.disk_delay_us = 0;
            }
            self.step(id, Input::StopCampaigning { yes: false });
        }
    }

    fn has_converged(&self) -> bool {
        let nodes: Vec<&TestNode> = self.hosts.values().filter_map(|host| host.node.as_ref()).collect();
        let Some(leader) =
            nodes.iter().filter(|node| node.raft.role() == RoleKind::Leader).max_by_key(|node| node.raft.term())
        else {
            return false;
        };
        let (index, membership) = leader.raft.membership();
        let settled = index <= leader.raft.commit() && membership.target.is_none() && !membership.is_joint();
        let own_term = leader.memory.entry(leader.raft.commit()).is_some_and(|entry| entry.term == leader.raft.term());
        let members = nodes.iter().filter(|node| membership.is_member(node.id));
        settled
            && own_term
            && members.into_iter().all(|node| {
                node.state.applied.0 + 10 >= leader.raft.commit().0 && node.raft.leader() == Some(leader.id)
            })
    }

    fn check_leases(&mut self) {
        let now_us = self.now_us;
        let nodes = self.hosts.values().filter_map(|host| Some((host.node.as_ref()?, host.local(now_us))));
        self.oracle.leases(nodes);
    }

    fn check_staleness(&mut self, id: NodeId) {
        let host = &self.hosts[&id];
        if let Some(node) = &host.node {
            self.oracle.staleness(self.now_us, node, host.local(self.now_us), 2 * u64::from(DRIFT_PPM));
        }
    }

    fn add_host(&mut self, id: NodeId, disk: Disk) {
        let slow = self.random.chance(10);
        let host = Host {
            node: None,
            disk: Some(disk),
            run: 0,
            offset_us: 0,
            // A rate from 1 to 1 + half the bound keeps any two clocks within it.
            rate_ppm: 1_000_000 + self.random.below(u64::from(DRIFT_PPM) / 2),
            paused_until: 0,
            disk_delay_us: if slow { self.random.below(200 * MS) } else { 0 },
        };
        self.hosts.insert(id, host);
        self.restart(id);
    }

    fn running(&self) -> Vec<NodeId> {
        let running = self.hosts.iter().filter(|(_, host)| host.node.is_some() && host.paused_until <= self.now_us);
        running.map(|(id, _)| *id).collect()
    }

    fn leaders(&self) -> Vec<NodeId> {
        self.running().into_iter().filter(|id| self.role(*id) == Some(RoleKind::Leader)).collect()
    }

    fn role(&self, id: NodeId) -> Option<RoleKind> {
        self.hosts[&id].node.as_ref().map(|node| node.raft.role())
    }

    fn runs(&self, id: NodeId, run: u64) -> bool {
        self.hosts[&id].run == run && self.hosts[&id].node.is_some()
    }

    fn paused(&self, id: NodeId) -> Option<u64> {
        let until = self.hosts.get(&id)?.paused_until;
        (until > self.now_us).then_some(until)
    }

    fn handle(&mut self) -> u64 {
        self.next_handle += 1;
        self.next_handle
    }

    fn later(&mut self, delay_us: u64, event: Event) {
        self.at(self.now_us + delay_us, event);
    }

    fn at(&mut self, time_us: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((time_us, self.sequence), event);
    }

    fn describe(&self) -> String {
        let nodes = self.hosts.iter().map(|(id, host)| match &host.node {
            Some(node) => {
                let status = node.raft.status();
                format!(
                    "\n{id}: {:?} term={} leader={:?} last={} durable={} commit={} applied={} stopped={} config={}@{:?}/{:?}/{:?} target={:?} peers={:?}",
                    status.role, status.term, status.leader, status.last, status.durable, status.commit, status.applied,
                    status.campaigning_stopped, status.membership_index, status.membership.voters,
                    status.membership.outgoing, status.membership.learners, status.membership.target, status.peers
                )
            }
            None => format!("\n{id}: down"),
        });
        nodes.collect()
    }
}

impl Host {
    fn local(&self, now_us: u64) -> Time {
        Time(self.offset_us + (u128::from(now_us) * u128::from(self.rate_ppm) / 1_000_000) as u64)
    }

    /// When this node wants its tick, in true time; not before its pause ends.
    fn deadline(&self) -> Option<u64> {
        let deadline = self.node.as_ref()?.raft.next_deadline();
        if deadline == Time::NEVER {
            return None;
        }
        let local = deadline.0.saturating_sub(self.offset_us);
        let time = (u128::from(local) * 1_000_000).div_ceil(u128::from(self.rate_ppm)) as u64;
        Some(time.max(self.paused_until))
    }
}

pub(crate) fn member(id: u64) -> Member {
    Member { incarnation: Incarnation(u128::from(id)), name: format!("n{id}"), max_version: 2, ..Member::default() }
}

pub(crate) fn bootstrap(ids: impl Iterator<Item = u64> + Clone) -> Membership {
    Membership {
        voters: ids.clone().map(NodeId).collect(),
        members: ids.map(|id| (NodeId(id), member(id))).collect(),
        cluster_version: 1,
        ..Membership::default()
    }
}
