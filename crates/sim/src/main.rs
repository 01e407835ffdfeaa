//! The simulator's command: runs one seed, a range of seeds, or fresh ones for some time; measures its own speed; hunts
//! known bugs.

mod summary;

use std::collections::BTreeSet;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Parser, ValueEnum};
use quorate_sim::{
    Failure, Restriction, TierChoice, Verdict, run_lasting, run_restricted, run_seed, shrink, thread_time,
};

use summary::Summary;

/// Failures that are shrunk; the rest is most likely the same again.
const SHRUNK: u64 = 2;

/// One seed in so many is run twice.
const REPEATED: u64 = 100;

/// Runs Quorate's consensus and replicas under seeded faults.
#[derive(Debug, Parser)]
#[command(name = "quorate-sim")]
struct Arguments {
    /// Run this one seed.
    #[arg(long, conflicts_with_all = ["seeds", "seconds", "minutes"])]
    seed: Option<u64>,
    /// Run the seeds A up to, and without, B.
    #[arg(long, value_name = "A..B", value_parser = parse_range, conflicts_with_all = ["seconds", "minutes"])]
    seeds: Option<Range<u64>>,
    /// Run fresh seeds for this many minutes.
    #[arg(long, conflicts_with = "seconds")]
    minutes: Option<u64>,
    /// Run fresh seeds for this many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Print the hash of everything that happened.
    #[arg(long)]
    trace_hash: bool,
    /// Print every input and effect.
    #[arg(long)]
    verbose: bool,
    /// With --seed: strike only the planned faults of these numbers, or `none`.
    #[arg(long, value_name = "N,N,..", requires = "seed", value_parser = parse_numbers)]
    only: Option<Numbers>,
    /// With --seed: leave these rates of the plan out.
    #[arg(long, value_name = "RATE", requires = "seed", value_parser = Restriction::RATES)]
    without: Vec<String>,
    /// Fail if something that can be met was not met.
    #[arg(long)]
    require_coverage: bool,
    /// Run long seeds and print how fast; only those with enough load and faults count.
    #[arg(long, conflicts_with_all = ["seed", "require_coverage"])]
    speed: bool,
    /// What to run; all tiers if none is named.
    #[arg(long)]
    tier: Option<Tier>,
    /// Hunt the known bugs instead of running seeds; with a name, that one alone.
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME", num_args = 0.., conflicts_with_all = ["seed", "seeds", "minutes", "seconds"])]
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

/// Numbers of planned faults.
#[derive(Debug, Clone)]
struct Numbers(BTreeSet<usize>);

fn parse_numbers(text: &str) -> Result<Numbers, String> {
    if text == "none" {
        return Ok(Numbers(BTreeSet::new()));
    }
    let numbers = text.split(',').map(|number| number.parse().map_err(|error| format!("{number:?}: {error}")));
    numbers.collect::<Result<_, _>>().map(Numbers)
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
    let range = match &arguments.seeds {
        Some(range) => range.clone(),
        None => {
            let first = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()) * 100_000;
            println!("fresh seeds from {first} on");
            first..u64::MAX
        }
    };
    let seconds = arguments.seconds.unwrap_or(60 * arguments.minutes.unwrap_or(1));
    let until = arguments.seeds.is_none().then(|| Instant::now() + Duration::from_secs(seconds));
    run_many(range, until, &tiers, &arguments)
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
    let rates = Restriction::RATES.into_iter().filter(|rate| arguments.without.iter().any(|name| name == rate));
    let restriction =
        Restriction { only: arguments.only.as_ref().map(|Numbers(numbers)| numbers.clone()), without: rates.collect() };
    let mut traces = String::new();
    for &tier in tiers {
        let verdict = match run_restricted(seed, tier, &restriction, arguments.verbose) {
            Ok(verdict) => verdict,
            Err(failure) => {
                println!("{failure}{restriction}");
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

fn run_many(range: Range<u64>, until: Option<Instant>, tiers: &[TierChoice], arguments: &Arguments) -> ExitCode {
    let next = AtomicU64::new(range.start);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= range.end || until.is_some_and(|until| Instant::now() >= until) {
                        return;
                    }
                    run_in_tiers(seed, tiers, arguments, &summary);
                }
            });
        }
    });
    let mut summary = summary.into_inner().expect("all threads ended");
    let covered = summary.print(tiers, arguments.speed, arguments.require_coverage);
    if summary.failed == 0 && covered { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one seed in each tier. A seed passes if it passes in all of them.
fn run_in_tiers(seed: u64, tiers: &[TierChoice], arguments: &Arguments, summary: &Mutex<Summary>) {
    let mut failed = false;
    for &tier in tiers {
        let started = thread_time();
        let mut result = run_counted(seed, tier, arguments.speed);
        let cpu = thread_time() - started;
        if seed % REPEATED == 1 && !arguments.speed {
            result = result.and_then(|verdict| repeat(seed, tier, verdict));
        }
        let failure = {
            let mut summary = summary.lock().expect("no run panics here");
            match result {
                Ok(verdict) => {
                    summary.add(tier, &verdict, cpu);
                    continue;
                }
                Err(failure) if failure.given_up => {
                    println!("{failure}");
                    summary.give_up();
                    continue;
                }
                Err(failure) => {
                    summary.fail(&failure);
                    (failure, summary.failed + u64::from(failed))
                }
            }
        };
        failed = true;
        let (failure, before) = failure;
        println!("{failure}");
        if before < SHRUNK && !arguments.speed && !failure.endless {
            println!("{}", shrink(&failure));
        }
    }
    summary.lock().expect("no run panics here").count(failed);
}

/// Runs a seed once more: it must be the same run.
fn repeat(seed: u64, tier: TierChoice, first: Verdict) -> Result<Verdict, Failure> {
    let second = run_seed(seed, tier, false)?;
    if (second.trace, second.events) == (first.trace, first.events) {
        return Ok(first);
    }
    let what = format!("determinism: {} the first time and {} the second", first.trace, second.trace);
    Err(Failure::new(seed, tier, what))
}

fn run_counted(seed: u64, tier: TierChoice, speed: bool) -> Result<Verdict, Failure> {
    if speed { run_lasting(seed, tier, summary::MEASURED_LENGTH) } else { run_seed(seed, tier, false) }
}
