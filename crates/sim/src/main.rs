//! The simulator's command: runs one seed, a range of seeds, or fresh ones for some minutes.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Parser, ValueEnum};
use quorate_sim::{Coverage, TierChoice, Verdict, run_seed};

/// Runs Quorate's consensus and replicas under seeded faults.
#[derive(Debug, Parser)]
#[command(name = "quorate-sim")]
struct Arguments {
    /// Run this one seed.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    seed: Option<u64>,
    /// Run the seeds A up to, and without, B.
    #[arg(long, value_name = "A..B", value_parser = parse_range, conflicts_with = "minutes")]
    seeds: Option<Range<u64>>,
    /// Run fresh seeds for this many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Print the hash of everything that happened.
    #[arg(long)]
    trace_hash: bool,
    /// Print every input and effect.
    #[arg(long)]
    verbose: bool,
    /// What to run; all tiers if none is named.
    #[arg(long)]
    tier: Option<Tier>,
    /// Hunt the known bugs instead of running seeds; with a name, that one alone.
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME", num_args = 0.., conflicts_with_all = ["seed", "seeds", "minutes"])]
    mutants: Option<Vec<quorate_mutants::Mutant>>,
    /// Processor time that the hunt of one bug may take, in seconds.
    #[cfg(feature = "mutants")]
    #[arg(long, default_value_t = 300)]
    budget: u64,
    /// The first seed of each hunt.
    #[cfg(feature = "mutants")]
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Tier {
    /// The consensus core on a model of a disk.
    Core,
    /// The whole replica on its real stores.
    Full,
}

impl Tier {
    fn choice(self) -> TierChoice {
        match self {
            Tier::Core => TierChoice::Core,
            Tier::Full => TierChoice::Full,
        }
    }
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("a range is written A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err("the range holds no seed".to_owned()) } else { Ok(range) }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[cfg(feature = "mutants")]
    if let Some(mutants) = &arguments.mutants {
        return hunt_mutants(mutants, &arguments);
    }
    let tiers: Vec<TierChoice> = match arguments.tier {
        Some(tier) => vec![tier.choice()],
        None => vec![TierChoice::Core, TierChoice::Full],
    };
    if let Some(seed) = arguments.seed {
        return run_one(seed, &tiers, &arguments);
    }
    let (range, until) = match (&arguments.seeds, arguments.minutes) {
        (Some(range), _) => (range.clone(), None),
        (None, minutes) => {
            let first = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()) * 100_000;
            let time = Duration::from_secs(60 * minutes.unwrap_or(1));
            (first..u64::MAX, Some(Instant::now() + time))
        }
    };
    run_many(range, until, &tiers, arguments.jobs)
}

/// All known bugs if none is named.
#[cfg(feature = "mutants")]
fn hunt_mutants(named: &[quorate_mutants::Mutant], arguments: &Arguments) -> ExitCode {
    let mutants = if named.is_empty() { quorate_mutants::Mutant::ALL } else { named };
    let budget = Duration::from_secs(arguments.budget);
    let killed = quorate_sim::hunt(mutants, arguments.first_seed, budget, arguments.jobs);
    if killed == mutants.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_one(seed: u64, tiers: &[TierChoice], arguments: &Arguments) -> ExitCode {
    let mut traces = String::new();
    for &tier in tiers {
        let verdict = match run_seed(seed, tier, arguments.verbose) {
            Ok(verdict) => verdict,
            Err(failure) => {
                println!("{failure}");
                return ExitCode::FAILURE;
            }
        };
        println!(
            "seed {seed} passed in the {tier} tier: {} simulated seconds, {} events, {} faults",
            verdict.simulated.0 / 1_000_000,
            verdict.events,
            verdict.faults
        );
        traces.push_str(&verdict.trace.to_string());
    }
    if arguments.trace_hash {
        println!("trace-hash: {traces}");
    }
    ExitCode::SUCCESS
}

/// What the runs of one tier came to.
#[derive(Default)]
struct TierSummary {
    runs: u64,
    coverage: Coverage,
    simulated_seconds: f64,
    events: u64,
    wall_seconds: f64,
    leader_after_percent: Vec<u64>,
}

impl TierSummary {
    fn add(&mut self, verdict: &Verdict, wall: Duration) {
        self.runs += 1;
        self.coverage.merge(&verdict.coverage);
        self.simulated_seconds += verdict.simulated.0 as f64 / 1e6;
        self.events += verdict.events;
        self.wall_seconds += wall.as_secs_f64();
        self.leader_after_percent.push(verdict.leader_after_percent);
    }

    fn print(&mut self, tier: TierChoice) {
        println!("{tier} tier, met by count:\n{}", self.coverage.table(tier));
        self.leader_after_percent.sort_unstable();
        let at = |percent: usize| {
            let values = &self.leader_after_percent;
            values.get(values.len().saturating_sub(1) * percent / 100).copied().unwrap_or(0)
        };
        println!(
            "{tier} tier, first leader after healing, in hundredths of an election timeout: p50 {} p99 {} p100 {}",
            at(50),
            at(99),
            at(100)
        );
        println!(
            "{tier} tier: {} runs, {:.0} simulated seconds, {} events; {:.0} simulated seconds a second of one thread",
            self.runs,
            self.simulated_seconds,
            self.events,
            self.simulated_seconds / self.wall_seconds.max(1e-9)
        );
    }
}

/// What all runs came to. A seed passes if it passes in every tier.
#[derive(Default)]
struct Summary {
    passed: u64,
    failed: u64,
    core: TierSummary,
    full: TierSummary,
}

fn run_many(range: Range<u64>, until: Option<Instant>, tiers: &[TierChoice], jobs: usize) -> ExitCode {
    let next = AtomicU64::new(range.start);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= range.end || until.is_some_and(|until| Instant::now() >= until) {
                        return;
                    }
                    let passed = tiers.iter().filter(|tier| run_counted(seed, **tier, &summary)).count() == tiers.len();
                    let mut summary = summary.lock().expect("no run panics here");
                    summary.passed += u64::from(passed);
                    summary.failed += u64::from(!passed);
                }
            });
        }
    });
    let mut summary = summary.into_inner().expect("all threads ended");
    for &tier in tiers {
        match tier {
            TierChoice::Core => summary.core.print(tier),
            TierChoice::Full => summary.full.print(tier),
        }
    }
    println!("{} passed, {} failed", summary.passed, summary.failed);
    if summary.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one seed in one tier and says whether it passed.
fn run_counted(seed: u64, tier: TierChoice, summary: &Mutex<Summary>) -> bool {
    let started = Instant::now();
    let result = run_seed(seed, tier, false);
    let mut summary = summary.lock().expect("no run panics here");
    match result {
        Ok(verdict) => {
            let of_tier = match tier {
                TierChoice::Core => &mut summary.core,
                TierChoice::Full => &mut summary.full,
            };
            of_tier.add(&verdict, started.elapsed());
            true
        }
        Err(failure) => {
            println!("{failure}");
            false
        }
    }
}
