//! The plan of one seed: sizes, limits, rates and the schedule of faults, all drawn before the run starts.
//!
//! Swarm style: each seed enables a random subset of the faults with random rates, since a run with every fault on
//! hides the bugs that need one of them to stay away. The schedule is a list, so that a failing seed can be run again
//! with parts of it left out.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use quorate_raft::Config;

use crate::clock::Instant;
use crate::context::Life;
use crate::network::NetworkPlan;
use crate::random::Random;

/// How disks behave.
#[derive(Debug, Clone)]
pub(crate) struct DiskPlan {
    /// Mean time of a durable write, in microseconds.
    pub(crate) write_mean_us: u64,
    /// Chance per million that a write takes a stall.
    pub(crate) stall: u32,
    /// Longest stall, in microseconds.
    pub(crate) stall_us: u64,
    /// Chance per million that a completion is reported late, after those of later writes.
    pub(crate) late_report: u32,
    /// Mean time to apply a batch, in microseconds.
    pub(crate) apply_mean_us: u64,
    /// Time between two durable states, in microseconds.
    pub(crate) checkpoint_us: u64,
}

/// What clients and administrators do, as mean intervals in microseconds; 0 means never.
#[derive(Debug, Clone)]
pub(crate) struct LoadPlan {
    /// Between writes, all clients together.
    pub(crate) write_us: u64,
    /// Between reads.
    pub(crate) read_us: u64,
    /// Between changes of the voter set.
    pub(crate) membership_us: u64,
    /// Between leadership transfers.
    pub(crate) transfer_us: u64,
    /// Between smaller matters: changed addresses, versions, lost streams, refusals to campaign.
    pub(crate) upkeep_us: u64,
    /// Between operations of the workloads that stand apart (full tier).
    pub(crate) workload_us: u64,
    /// Applied entries after which a node compacts its log.
    pub(crate) compact_entries: u64,
    /// Entries kept behind the applied index.
    pub(crate) keep_entries: u64,
    /// Different keys in use.
    pub(crate) keys: u64,
    /// Keys looked at by one step of a physical compaction.
    pub(crate) compact_step_keys: usize,
}

/// One planned fault.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    /// When it strikes.
    pub(crate) at: Instant,
    /// What it is.
    pub(crate) kind: FaultKind,
    /// Where it draws its targets from.
    pub(crate) seed: u64,
}

/// Kinds of planned faults. Losses of messages and kills between effects are rates, not part of the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FaultKind {
    /// One process dies and comes back.
    Kill,
    /// One process dies, and again soon after each of its next starts.
    CrashLoop,
    /// All processes die at once.
    KillAll,
    /// One process stands still.
    Pause,
    /// One host is cut off.
    Isolate,
    /// The leader's host is cut off.
    IsolateLeader,
    /// The hosts fall into two parts.
    Split,
    /// Random links are cut one way.
    OneWay,
    /// One pair of hosts loses its link.
    Partial,
    /// Each host reaches its neighbours alone.
    Ring,
    /// The links of some hosts are clogged, and freed host by host.
    Swizzle,
    /// All cuts are mended.
    Mend,
    /// One disk stalls.
    Stall,
    /// One disk is lost.
    Wipe,
    /// One clock jumps forward.
    ClockJump,
    /// One machine is suspended: its clock stands still with it.
    Suspend,
    /// One link comes and goes.
    Flap,
    /// All streams of one host break, with what is under way.
    Reset,
    /// One machine is slow: everything its disk does takes long, and its process is behind.
    Slow,
    /// One process comes back as the next release.
    Upgrade,
    /// One process is stopped gracefully.
    Stop,
    /// A write of one disk fails.
    WriteError,
    /// A sync of one disk fails, and its pages count as clean from then on.
    SyncError,
    /// A read of one disk fails.
    ReadError,
    /// A name cannot be made, changed or made durable.
    DirectoryError,
    /// A bit of one disk flips at rest.
    BitFlip,
    /// A sector of one disk reads as zeroes.
    ZeroSector,
    /// A page of one disk was written in another's place.
    Misdirect,
    /// A page of one disk is what it was before it was written last.
    StalePage,
    /// One state machine goes its own way.
    Diverge,
    /// Clients reach some hosts no more, which reach each other as before.
    ClientCut,
    /// One disk is full for a while.
    DiskFull,
}

const FAULTS: [(FaultKind, u64); 32] = [
    (FaultKind::Kill, 10),
    (FaultKind::CrashLoop, 2),
    (FaultKind::KillAll, 2),
    (FaultKind::Pause, 5),
    (FaultKind::Isolate, 4),
    (FaultKind::IsolateLeader, 6),
    (FaultKind::Split, 5),
    (FaultKind::OneWay, 4),
    (FaultKind::Partial, 4),
    (FaultKind::Ring, 2),
    (FaultKind::Swizzle, 3),
    (FaultKind::Mend, 10),
    (FaultKind::Stall, 3),
    (FaultKind::Wipe, 3),
    (FaultKind::ClockJump, 2),
    (FaultKind::Suspend, 2),
    (FaultKind::Flap, 3),
    (FaultKind::Reset, 3),
    (FaultKind::Slow, 3),
    (FaultKind::Upgrade, 2),
    (FaultKind::Stop, 2),
    (FaultKind::WriteError, 2),
    (FaultKind::SyncError, 2),
    (FaultKind::ReadError, 2),
    (FaultKind::DirectoryError, 2),
    (FaultKind::BitFlip, 2),
    (FaultKind::ZeroSector, 1),
    (FaultKind::Misdirect, 1),
    (FaultKind::StalePage, 1),
    (FaultKind::Diverge, 2),
    (FaultKind::ClientCut, 3),
    (FaultKind::DiskFull, 2),
];

/// A part of a plan: what a shrunk failure still needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restriction {
    /// The planned faults that strike, by number; all of them if not given.
    pub only: Option<BTreeSet<usize>>,
    /// Rates that are 0.
    pub without: BTreeSet<&'static str>,
}

impl Restriction {
    /// Rates that can be left out.
    pub const RATES: [&'static str; 15] = [
        "loss",
        "duplication",
        "reordering",
        "replay",
        "detours",
        "bandwidth",
        "kills-in-steps",
        "stalls",
        "late-reports",
        "turns",
        "new-limits",
        "voters",
        "transfers",
        "upkeep",
        "workloads",
    ];
}

impl fmt::Display for Restriction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(only) = &self.only {
            let numbers: Vec<String> = only.iter().map(ToString::to_string).collect();
            write!(f, " --only {}", if numbers.is_empty() { "none".to_owned() } else { numbers.join(",") })?;
        }
        for rate in &self.without {
            write!(f, " --without {rate}")?;
        }
        Ok(())
    }
}

/// Everything that is decided before a run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The seed itself.
    pub(crate) seed: u64,
    /// Machines; each holds at most one process.
    pub(crate) hosts: usize,
    /// How many of them are voters at the start.
    pub(crate) initial_voters: usize,
    /// Limits and timing of the core.
    pub(crate) raft: Config,
    /// The network.
    pub(crate) network: NetworkPlan,
    /// The disks.
    pub(crate) disk: DiskPlan,
    /// The load.
    pub(crate) load: LoadPlan,
    /// Limits of the replica are small: what they refuse is what a detour may spoil.
    pub(crate) small_limits: bool,
    /// Inputs wait up to so many microseconds for the replica's next turn, which takes all of them; 0 = each has its own.
    pub(crate) turn_us: u64,
    /// Processes come back with other limits than they had, as their administrators may have set them.
    pub(crate) new_limits: bool,
    /// Chance per million that an effect is the last its process performs.
    pub(crate) kill_in_step: u32,
    /// Largest deviation of a node's clock from true time, in parts per million.
    pub(crate) clock_ppm: u32,
    /// Clocks keep the bound that leases rely on. Where they do not, leases and staleness promise nothing.
    pub(crate) clocks_bounded: bool,
    /// Faults in the order of their time.
    pub(crate) faults: Vec<Fault>,
    /// Numbers of those that do not strike.
    pub(crate) silenced: BTreeSet<usize>,
    /// How long faults go on.
    pub(crate) safety: Duration,
    /// After the faults, hosts beyond what a quorum needs may stay dead.
    pub(crate) leave_minority_dead: bool,
}

impl Plan {
    /// Draws the plan of `seed`.
    pub(crate) fn draw(seed: u64) -> Plan {
        Plan::draw_lasting(seed, None)
    }

    /// The same with a length of its own, for measuring.
    pub(crate) fn draw_lasting(seed: u64, length: Option<Duration>) -> Plan {
        let mut random = Random::new(seed);
        let initial_voters = *random.pick(&[1, 2, 3, 3, 3, 3, 3, 3, 3, 4, 5, 5, 5, 7]).expect("choices");
        let hosts = initial_voters + random.between(1, 3) as usize;
        let raft = draw_raft(&mut random.fork(1));
        let timeout_us = raft.election_timeout.as_micros() as u64;
        // Long enough for a few changes and crashes; some long enough for what builds up slowly.
        let longest = if random.chance(250_000) { 180 } else { 100 };
        let drawn = Duration::from_secs(random.between(30, longest));
        let safety = length.unwrap_or(drawn);
        let clocks_bounded = !random.chance(150_000);
        let mut faults = draw_faults(&mut random.fork(5), timeout_us, safety);
        if clocks_bounded {
            // Both break the bound: what was promised by the clock may then be broken by it.
            faults.retain(|fault| !matches!(fault.kind, FaultKind::ClockJump | FaultKind::Suspend));
        }
        let network = draw_network(&mut random.fork(2), timeout_us);
        Plan {
            seed,
            hosts,
            initial_voters,
            small_limits: network.detour > 0,
            network,
            disk: draw_disk(&mut random.fork(3), timeout_us),
            load: draw_load(&mut random.fork(4), timeout_us),
            turn_us: *Random::new(seed ^ 0x5455_524e).pick(&[0, 0, 500, 5_000]).expect("choices"),
            new_limits: Random::new(seed ^ 0x4e45_574c).coin(),
            kill_in_step: *random.pick(&[0, 0, 50, 200, 1_000]).expect("choices"),
            // The lease's bound is on the difference between two clocks.
            clock_ppm: match (clocks_bounded, random.coin()) {
                (true, true) => raft.clock_drift_ppm * 45 / 100,
                (true, false) => 0,
                (false, _) => 200_000,
            },
            clocks_bounded,
            faults,
            silenced: BTreeSet::new(),
            safety,
            leave_minority_dead: random.chance(300_000),
            raft,
        }
    }

    /// Leaves out what `restriction` does not allow. Everything else is as it was drawn.
    pub(crate) fn restrict(&mut self, restriction: &Restriction) {
        if let Some(only) = &restriction.only {
            self.silenced = (0..self.faults.len()).filter(|number| !only.contains(number)).collect();
        }
        for rate in &restriction.without {
            match *rate {
                "loss" => self.network.loss = 0,
                "duplication" => self.network.duplication = 0,
                "reordering" => self.network.reordering = 0,
                "replay" => self.network.replay = 0,
                "detours" => self.network.detour = 0,
                "bandwidth" => self.network.bandwidth = 0,
                "kills-in-steps" => self.kill_in_step = 0,
                "stalls" => self.disk.stall = 0,
                "late-reports" => self.disk.late_report = 0,
                "turns" => self.turn_us = 0,
                "new-limits" => self.new_limits = false,
                "voters" => self.load.membership_us = 0,
                "transfers" => self.load.transfer_us = 0,
                "upkeep" => self.load.upkeep_us = 0,
                "workloads" => self.load.workload_us = 0,
                other => unreachable!("{other} is no rate"),
            }
        }
    }

    /// Limits and timing of the core in this life of a process.
    pub(crate) fn raft_in(&self, life: Life) -> Config {
        if !self.new_limits {
            return self.raft.clone();
        }
        // What all members must agree on, and what a checker counts with.
        let Config { heartbeat_interval, clock_drift_ppm, catch_up_entries, .. } = self.raft;
        let mut random = self.limits_in(life);
        let drawn = draw_raft(&mut random);
        // Checkers go by the longest. Two heartbeats fit into the shortest.
        let election_timeout =
            if random.coin() { self.raft.election_timeout } else { self.raft.election_timeout * 2 / 3 };
        Config { election_timeout, heartbeat_interval, clock_drift_ppm, catch_up_entries, ..drawn }
    }

    /// Where the limits of this life of a process are drawn from.
    pub(crate) fn limits_in(&self, life: Life) -> Random {
        let life = if self.new_limits { life.0 } else { 0 };
        Random::new(self.seed ^ 0x4c49_4d49_5453 ^ (life << 40))
    }

    /// The election timeout in microseconds.
    pub(crate) fn timeout_us(&self) -> u64 {
        self.raft.election_timeout.as_micros() as u64
    }
}

fn draw_raft(random: &mut Random) -> Config {
    // A heartbeat is an event a follower: many short ones would fill a run with the dullest of its messages.
    let timeout_ms = random.between(300, 1_000);
    let heartbeat_ms = timeout_ms / random.between(3, 6);
    let mut pick = |choices: &[u64]| *random.pick(choices).expect("choices");
    Config {
        election_timeout: Duration::from_millis(timeout_ms),
        heartbeat_interval: Duration::from_millis(heartbeat_ms),
        clock_drift_ppm: pick(&[500, 10_000, 100_000]) as u32,
        max_append_bytes: pick(&[64, 300, 4_096, 1 << 20]) as usize,
        max_append_entries: pick(&[1, 2, 16, 1_024]) as usize,
        max_inflight_appends: pick(&[1, 2, 8, 256]) as usize,
        max_inflight_bytes: pick(&[128, 1_024, 1 << 22]) as usize,
        catch_up_entries: pick(&[0, 1, 5, 100]),
        log_cache_bytes: pick(&[0, 200, 2_000, 1 << 24]) as usize,
    }
}

fn draw_network(random: &mut Random, timeout_us: u64) -> NetworkPlan {
    let mut rate = |most: u64| if random.coin() { 0 } else { random.below(most) as u32 };
    let (loss, duplication, reordering, replay) = (rate(300_000), rate(500_000), rate(500_000), rate(20_000));
    NetworkPlan {
        delay_min_us: random.between(20, 1_000),
        delay_mean_us: *random.pick(&[50, 500, 2_000, timeout_us / 50, timeout_us / 10]).expect("choices"),
        loss: if random.coin() { loss } else { loss / 10 },
        duplication,
        reordering,
        replay,
        bandwidth: if random.chance(250_000) { random.between(20_000, 400_000) } else { 0 },
        detour: if random.chance(300_000) { random.below(300_000) as u32 } else { 0 },
    }
}

fn draw_disk(random: &mut Random, timeout_us: u64) -> DiskPlan {
    DiskPlan {
        write_mean_us: *random.pick(&[10, 200, 1_000, 5_000, timeout_us / 20]).expect("choices"),
        stall: if random.coin() { 0 } else { random.below(5_000) as u32 },
        stall_us: timeout_us * random.between(1, 4),
        late_report: if random.coin() { 0 } else { random.below(300_000) as u32 },
        apply_mean_us: *random.pick(&[10, 100, 2_000, timeout_us / 20]).expect("choices"),
        checkpoint_us: random.between(50_000, 3_000_000),
    }
}

fn draw_load(random: &mut Random, timeout_us: u64) -> LoadPlan {
    let often = |random: &mut Random, low: u64, high: u64| timeout_us * random.between(low, high);
    LoadPlan {
        // A quiet cluster lets nodes that were cut off still win: their logs lack nothing.
        write_us: *random.pick(&[20_000, 50_000, 100_000, 200_000, 400_000, 3_000_000]).expect("choices"),
        read_us: *random.pick(&[60_000, 200_000, 200_000]).expect("choices"),
        membership_us: if random.chance(250_000) { 0 } else { often(random, 2, 30) },
        transfer_us: if random.coin() { 0 } else { often(random, 3, 60) },
        upkeep_us: if random.chance(300_000) { 0 } else { often(random, 2, 40) },
        workload_us: *random.pick(&[0, 100_000, 400_000]).expect("choices"),
        compact_entries: random.between(3, 300),
        keep_entries: *random.pick(&[0, 1, 10, 100]).expect("choices"),
        keys: *random.pick(&[1, 3, 10, 50]).expect("choices"),
        compact_step_keys: *random.pick(&[1, 5, 5, 1_000]).expect("choices"),
    }
}

fn draw_faults(random: &mut Random, timeout_us: u64, safety: Duration) -> Vec<Fault> {
    let mut enabled: Vec<FaultKind> = Vec::new();
    for (kind, weight) in FAULTS {
        if random.coin() {
            enabled.extend(std::iter::repeat_n(kind, weight as usize));
        }
    }
    // Cuts that nobody mends make the rest of the run idle.
    enabled.extend([FaultKind::Mend; 6]);
    let interval_us = timeout_us * random.between(1, 12);
    let mut faults = Vec::new();
    let mut at = Instant(timeout_us * 3);
    while at < Instant(0) + safety {
        let kind = *random.pick(&enabled).expect("mending is always enabled");
        faults.push(Fault { at, kind, seed: random.next() });
        at = Instant(at.0 + 1 + random.exponential(interval_us));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_is_a_function_of_the_seed() {
        assert_eq!(format!("{:?}", Plan::draw(5)), format!("{:?}", Plan::draw(5)));
        assert_ne!(format!("{:?}", Plan::draw(5)), format!("{:?}", Plan::draw(6)));
    }
}
