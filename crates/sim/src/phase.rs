//! The phases of a run: faults and load, then healing, convergence, serving, and the last full check.
//!
//! Owns the liveness rules L-1 to L-7 and L-10: after the faults end, a cluster with a connected quorum has a leader
//! within ten election timeouts, everyone reaches the same index, no joint configuration stays, the voter set can be
//! changed, leadership can be moved, and every acknowledged write is there.

use std::sync::Arc;

use quorate_raft::Status;

use crate::clock::Instant;
use crate::context::Event;
use crate::coverage::Reached;
use crate::nemesis::LONG_STALL_TIMEOUTS;
use crate::network::HostId;
use crate::tier::{Ask, Tier};
use crate::world::{Host, World};

/// L-1, in election timeouts; the restart of processes and the wait of fresh voters come on top.
const LEADER_WITHIN_TIMEOUTS: u64 = 12;
/// L-3 and L-4: time without any progress in catching up, snapshots or a change in flight.
const CONVERGING_WITHIN_TIMEOUTS: u64 = 60;
/// L-5 to L-7: each step of serving.
const SERVED_WITHIN_TIMEOUTS: u64 = 60;

/// Writes a poll while a state that differs has to be found.
const WRITES_TO_COMPARE: usize = 10;

/// I-20 and I-35: time without anything coming to its end; longer than any lease of a workload.
const QUIET_WITHIN_TIMEOUTS: u64 = 40;

/// L-8: entries that may have come since the last checkpoint, and a little.
const LOG_SLACK_ENTRIES: u64 = 100;

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Faults and load.
    Safety,
    /// Healed at this time; waiting for all to agree.
    Converge {
        /// When faults ended, and what was on its way had arrived.
        since: Instant,
        /// A leader was seen.
        led: bool,
        /// The sum of what all have stored and applied, and when it last rose.
        progress: (u64, Instant),
    },
    /// Fresh operations must succeed.
    Serve {
        /// Which.
        step: ServeStep,
        /// Since when.
        since: Instant,
        /// Successes of its kind when it began; what was left to do when that last became less.
        before: u64,
    },
    /// The verdict is in.
    Done,
}

/// Operations of the serving phase, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServeStep {
    /// A write is acknowledged.
    Write,
    /// A consistent read is served.
    Read,
    /// The voter set becomes that of all live hosts, at most five.
    Voters,
    /// Leadership moves.
    Transfer,
    /// A write is acknowledged by what came out of all that.
    LastWrite,
    /// Leases have run out and watches were told everything (I-20, I-35).
    Quiet,
    /// All agree again.
    Settle,
    /// Everybody's log is as short as it should be (L-8).
    Trim,
    /// History that was compacted is gone from every file (L-11).
    Prune,
}

impl ServeStep {
    /// The liveness rule that a failure of this step breaks.
    fn rule(self) -> &'static str {
        match self {
            ServeStep::Voters => "L-5",
            ServeStep::Transfer => "L-6",
            ServeStep::Trim => "L-8",
            // What is not settled says which rule wants it.
            ServeStep::Quiet => "unsettled",
            ServeStep::Prune => "L-11",
            ServeStep::Write | ServeStep::Read | ServeStep::LastWrite | ServeStep::Settle => "L-7",
        }
    }
}

/// Two texts of one fingerprint are taken for the same.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Disk and process of hosts that run.
fn nodes<'a, T: Tier>(hosts: &'a [Host<T>], running: &[HostId]) -> Vec<(&'a T::Disk, &'a T::Process)> {
    let node = |host: &HostId| (&hosts[host.0].disk, hosts[host.0].process.as_ref().expect("live"));
    running.iter().map(node).collect()
}

impl<T: Tier> World<T> {
    /// Looks at the phase, moves it on, and comes back soon.
    pub(crate) fn poll(&mut self) {
        let now = self.context.now();
        if !matches!(self.phase, Phase::Safety | Phase::Done) {
            // Until that, a member that was added is nobody, and nobody has to catch up.
            self.bind_members();
        }
        match self.phase.clone() {
            Phase::Safety => self.heal(),
            Phase::Converge { since, led, progress } => self.converge(since, led, progress),
            Phase::Serve { step, since, before } => self.serve(step, since, before),
            Phase::Done => return,
        }
        let next = Instant(now.0 + self.context.plan.timeout_us() / 4);
        self.context.queue.at(next, Event::Poll);
    }

    fn heal(&mut self) {
        let now = self.context.now();
        self.context.trace.record(&[4]);
        self.context.trace.line(now, || "heal".to_owned());
        self.context.faulty = false;
        // The rollout is finished: an old release could not join a cluster that has left its version behind.
        self.context.versions.fill(T::NEWEST_VERSION);
        // Who is behind catches up.
        let behind = self.hosts.iter().filter_map(|it| it.busy_until).max();
        let quiet_from = self.context.network.heal(now).max(behind.unwrap_or(now));
        let mut order: Vec<HostId> = (0..self.hosts.len()).map(HostId).collect();
        self.random.shuffle(&mut order);
        for host in order {
            let it = &mut self.hosts[host.0];
            // Calls to a disk that hangs end with their process.
            let hangs = it.disk_stalled_until.since(now).as_micros() as u64
                > self.context.plan.timeout_us() * LONG_STALL_TIMEOUTS;
            it.disk_stalled_until = now;
            it.slow_until = now;
            it.crash_loop = 0;
            let node = it.node;
            // What stays dead counts as lost, so that a quorum of every voter set is left.
            if self.context.plan.leave_minority_dead && self.random.coin() && self.may_lose(node) {
                if self.hosts[host.0].process.is_some() {
                    self.kill(host);
                }
                self.hosts[host.0].abandoned = true;
                self.dead.push(node);
                continue;
            }
            if hangs && self.hosts[host.0].process.is_some() {
                self.kill(host);
            }
            // A disk that cannot be trusted is replaced, as its owner would; but who went astray must find out itself.
            if self.dead.contains(&node) && !self.owes_fence(host) {
                self.wipe(host);
            }
            self.repair_disk(host);
            self.ask(host, Ask::StopCampaigning { yes: false });
            let it = &self.hosts[host.0];
            if it.paused {
                let life = it.life;
                self.context.queue.at(now, Event::Resume { host, life });
            }
            self.context.queue.at(now, Event::Start { host });
        }
        self.election_rounds = self.highest_term();
        self.phase = Phase::Converge { since: quiet_from, led: false, progress: (0, quiet_from) };
    }

    fn highest_term(&self) -> u64 {
        let logs = self.context.cluster.logs.iter().chain(self.context.cluster.lost.values());
        logs.map(|log| log.issued().hard_state.term.0).max().unwrap_or(0)
    }

    fn late(&self, since: Instant, timeouts: u64) -> bool {
        self.context.now().since(since).as_micros() as u64 > self.context.plan.timeout_us() * timeouts + 1_000_000
    }

    fn converge(&mut self, since: Instant, led: bool, progress: (u64, Instant)) {
        let leader = self.leader();
        if !led && leader.is_some() {
            let waited = self.context.now().since(since).as_micros() as u64;
            self.leader_after_percent = waited * 100 / self.context.plan.timeout_us();
            self.election_rounds = self.highest_term() - self.election_rounds;
        }
        self.replace_fenced();
        let done = self.done();
        let progress = if done > progress.0 { (done, self.context.now()) } else { progress };
        self.phase = Phase::Converge { since, led: led || leader.is_some(), progress };
        assert!(
            led || leader.is_some() || !self.late(since, LEADER_WITHIN_TIMEOUTS),
            "L-1: no leader {LEADER_WITHIN_TIMEOUTS} election timeouts after the faults ended\n{}",
            self.describe()
        );
        match self.disagreement() {
            None => {
                self.check_all();
                self.begin(ServeStep::Write);
            }
            Some(why) => assert!(
                !self.late(progress.1, CONVERGING_WITHIN_TIMEOUTS),
                "L-3/L-4: nothing was stored or applied for {CONVERGING_WITHIN_TIMEOUTS} election timeouts, and {why}\n{}",
                self.describe()
            ),
        }
    }

    /// The process on this host stands in the committed configuration with a state of its own.
    fn owes_fence(&self, host: HostId) -> bool {
        let it = &self.hosts[host.0];
        let member = |membership: Arc<quorate_raft::Membership>| membership.is_member(it.node);
        it.process.as_ref().is_some_and(T::owes_fence)
            && self.context.oracle.committed_membership().1.is_some_and(member)
    }

    /// Puts empty disks in the place of fenced nodes, as an operator would, and brings enough entries for states to be compared.
    fn replace_fenced(&mut self) {
        let mut owed = false;
        for host in self.running() {
            if self.hosts[host.0].process.as_ref().is_some_and(T::is_fenced) {
                self.wipe(host);
            }
            owed |= self.owes_fence(host);
        }
        if owed && let Some((leader, status)) = self.leader() {
            if self.owes_fence(leader) {
                // Its images are held back, so who needs one to be part of a quorum again waits for another leader.
                self.ask(leader, Ask::Transfer { to: None });
            }
            // No more than is applied: slow nodes would fall behind what they have to compare.
            if status.applied == status.last {
                for _ in 0..WRITES_TO_COMPARE {
                    self.ask(leader, Ask::Write);
                }
            }
        }
    }

    fn done(&self) -> u64 {
        let statuses = self.hosts.iter().filter_map(|it| it.process.as_ref().and_then(T::status));
        statuses.map(|status| status.applied.0 + status.durable.0).sum()
    }

    /// Why the live members do not agree yet.
    fn disagreement(&self) -> Option<String> {
        let Some((leader, status)) = self.leader() else { return Some("nobody leads".to_owned()) };
        if status.membership.is_joint() {
            return Some(format!("the configuration {:?} is joint", status.membership_index));
        }
        if status.lease_until.is_none() && !status.membership.voters.iter().eq([&status.id]) {
            return Some(format!("the leader on host {} holds no lease", leader.0));
        }
        if let Some(host) = self.running().into_iter().find(|&host| self.owes_fence(host)) {
            return Some(format!("host {} has a state of its own and does not fence itself", host.0));
        }
        let members = self.live_members(&status);
        for &host in &members {
            let process = self.hosts[host.0].process.as_ref().expect("live");
            let Some(other) = T::status(process) else { return Some(format!("host {} has no replica", host.0)) };
            let agrees = other.last == status.last && other.commit == status.last && other.applied == status.last;
            if !agrees {
                return Some(format!(
                    "host {} is at last {} commit {} applied {}, the leader on host {} at last {}",
                    host.0, other.last, other.commit, other.applied, leader.0, status.last
                ));
            }
        }
        (!members.contains(&leader)).then(|| "the leader is no member".to_owned())
    }

    /// Hosts of voters and learners that run.
    fn live_members(&self, status: &Status) -> Vec<HostId> {
        let membership = &status.membership;
        self.running()
            .into_iter()
            .filter(|host| {
                let node = self.hosts[host.0].node;
                let bound = membership.members.get(&node).is_some_and(|member| member.is_bound());
                bound && (membership.voters.contains(&node) || membership.learners.contains(&node))
            })
            .collect()
    }

    fn begin(&mut self, step: ServeStep) {
        let before = self.successes(step);
        self.context.trace.line(self.context.now(), || format!("serve {step:?}"));
        self.phase = Phase::Serve { step, since: self.context.now(), before };
        self.try_step(step);
    }

    fn successes(&self, step: ServeStep) -> u64 {
        let coverage = &self.context.coverage;
        match step {
            ServeStep::Write | ServeStep::LastWrite => coverage.count(Reached::WriteAcked),
            ServeStep::Read => coverage.count(Reached::ConsistentRead),
            ServeStep::Transfer => coverage.count(Reached::Transferred),
            // No lag was measured yet.
            ServeStep::Voters => u64::MAX,
            ServeStep::Quiet | ServeStep::Settle | ServeStep::Trim | ServeStep::Prune => 0,
        }
    }

    fn wanted_voters(&self) -> Vec<HostId> {
        let mut hosts = self.running();
        hosts.truncate(5);
        hosts
    }

    fn try_step(&mut self, step: ServeStep) {
        let Some((leader, status)) = self.leader() else { return };
        match step {
            ServeStep::Write | ServeStep::LastWrite => self.ask(leader, Ask::Write),
            ServeStep::Read => self.ask(leader, Ask::Read),
            ServeStep::Transfer => self.ask(leader, Ask::Transfer { to: None }),
            ServeStep::Voters => {
                let wanted = self.wanted_voters();
                self.ask_voters(leader, &status, &wanted);
            }
            // Something has to be applied for logs to be cut.
            ServeStep::Trim => self.ask(leader, Ask::Write),
            ServeStep::Quiet => {
                for host in self.live_members(&status) {
                    self.ask(host, Ask::Settle);
                }
            }
            ServeStep::Prune => self.ask(leader, Ask::Compact),
            ServeStep::Settle => {}
        }
    }

    /// Compacted history goes step by step: whatever goes is progress.
    fn prune(&mut self, since: Instant, before: u64) {
        match self.unpruned() {
            Some(why) => self.go_on(ServeStep::Prune, &why, (since, before), SERVED_WITHIN_TIMEOUTS),
            None => self.begin(ServeStep::Quiet),
        }
    }

    fn unpruned(&self) -> Option<String> {
        let Some((_, status)) = self.leader() else { return Some("L-11: nobody leads".to_owned()) };
        T::unpruned(&self.context, &nodes(&self.hosts, &self.live_members(&status)))
    }

    /// What has not come to its end; None = nothing, or nobody leads who could say so.
    fn unsettled(&mut self) -> Option<String> {
        let (_, status) = self.leader()?;
        let members: Vec<_> = self.live_members(&status).iter().map(|host| self.hosts[host.0].node).collect();
        T::unsettled(&mut self.context, &members)
    }

    /// The leases are gone and those that watch know all; whatever comes to its end meanwhile is progress.
    fn quiet(&mut self, since: Instant, before: u64) {
        match self.unsettled() {
            Some(why) => self.go_on(ServeStep::Quiet, &why, (since, before), QUIET_WITHIN_TIMEOUTS),
            None => self.begin(ServeStep::Settle),
        }
    }

    /// A step that has not come to its end, for this reason. The time runs anew whenever the reason changes.
    fn go_on(&mut self, step: ServeStep, why: &str, (since, before): (Instant, u64), timeouts: u64) {
        let progress = fingerprint(why);
        if progress != before {
            self.phase = Phase::Serve { step, since: self.context.now(), before: progress };
        } else {
            assert!(
                !self.late(since, timeouts),
                "{why}, and nothing changed for {timeouts} election timeouts\n{}",
                self.describe()
            );
        }
        self.try_step(step);
    }

    fn succeeded(&self, step: ServeStep, before: u64) -> bool {
        match step {
            ServeStep::Settle => self.disagreement().is_none(),
            ServeStep::Trim => self.longest_log() <= self.log_bound(),
            ServeStep::Quiet | ServeStep::Prune => false,
            ServeStep::Voters => {
                let Some((_, status)) = self.leader() else { return false };
                let wanted = self.wanted_voters().iter().map(|host| self.hosts[host.0].node).collect();
                !status.membership.is_joint()
                    && status.membership.voters == wanted
                    && status.commit >= status.membership_index
            }
            _ => self.successes(step) > before,
        }
    }

    /// The time runs anew when the wanted voters lag less than ever: with small appends and a slow disk they take what they
    /// need. What all hosts store is no measure, for it also rises when one of them gets nothing.
    fn await_voters(&mut self, since: Instant, least_lag: u64) {
        if let Some(lag) = self.lag_of_wanted_voters().filter(|lag| *lag < least_lag) {
            self.phase = Phase::Serve { step: ServeStep::Voters, since: self.context.now(), before: lag };
            return;
        }
        self.check_served(ServeStep::Voters, since);
        // A voter set that is asked for again supersedes the change that is under way.
        let polls = self.context.now().since(since).as_micros() as u64 * 4 / self.context.plan.timeout_us();
        if polls.is_multiple_of(40) {
            self.try_step(ServeStep::Voters);
        }
    }

    /// Entries of the leader's log that the hosts wanted as voters have not stored, in all.
    fn lag_of_wanted_voters(&self) -> Option<u64> {
        let (_, leader) = self.leader()?;
        let stored = |host: HostId| {
            let status = self.hosts[host.0].process.as_ref().and_then(T::status);
            status.map_or(0, |status| status.durable.0)
        };
        Some(self.wanted_voters().into_iter().map(|host| leader.last.0.saturating_sub(stored(host))).sum())
    }

    fn check_served(&self, step: ServeStep, since: Instant) {
        assert!(
            !self.late(since, SERVED_WITHIN_TIMEOUTS),
            "{}: no success of {step:?} within {SERVED_WITHIN_TIMEOUTS} election timeouts: {}\n{}",
            step.rule(),
            self.disagreement().unwrap_or_else(|| "all agree".to_owned()),
            self.describe()
        );
    }

    fn serve(&mut self, step: ServeStep, since: Instant, before: u64) {
        if step == ServeStep::Quiet {
            return self.quiet(since, before);
        }
        if step == ServeStep::Prune {
            return self.prune(since, before);
        }
        if !self.succeeded(step, before) {
            match step {
                ServeStep::Voters => self.await_voters(since, before),
                _ => {
                    self.check_served(step, since);
                    self.try_step(step);
                }
            }
            return;
        }
        match step {
            ServeStep::Write => self.begin(ServeStep::Read),
            ServeStep::Read => self.begin(ServeStep::Voters),
            // A leader without another live voter has nobody to hand over to.
            ServeStep::Voters if self.wanted_voters().len() < 2 => self.begin(ServeStep::LastWrite),
            ServeStep::Voters => self.begin(ServeStep::Transfer),
            ServeStep::Transfer => self.begin(ServeStep::LastWrite),
            ServeStep::LastWrite => self.begin(ServeStep::Trim),
            ServeStep::Trim => self.begin(ServeStep::Prune),
            ServeStep::Quiet | ServeStep::Prune => unreachable!("they have their own way on"),
            ServeStep::Settle => {
                self.check_all();
                self.phase = Phase::Done;
            }
        }
    }

    /// Entries of the longest log among the live members.
    fn longest_log(&self) -> u64 {
        let Some((_, status)) = self.leader() else { return u64::MAX };
        let members = self.live_members(&status);
        let statuses = members.iter().filter_map(|host| self.hosts[host.0].process.as_ref().and_then(T::status));
        statuses.map(|status| status.last.0 + 1 - status.first.0).max().unwrap_or(0)
    }

    /// What is kept on purpose, twice the step in which logs are cut, and what a checkpoint interval writes.
    fn log_bound(&self) -> u64 {
        let load = &self.context.plan.load;
        load.keep_entries + 2 * load.compact_entries + LOG_SLACK_ENTRIES
    }

    /// L-10 and the full check, on a quiet cluster.
    fn check_all(&mut self) {
        let Some((_, status)) = self.leader() else { return };
        let members = self.live_members(&status);
        T::check_durable(&mut self.context, &nodes(&self.hosts, &members));
    }

    /// Every host in one line, for a failure.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for (host, it) in self.hosts.iter().enumerate() {
            match &it.process {
                None => text.push_str(&format!("host {host} node {}: down\n", it.node)),
                Some(process) => {
                    text.push_str(&format!("host {host} paused={} {:?}\n", it.paused, T::status(process)));
                }
            }
        }
        text
    }
}
