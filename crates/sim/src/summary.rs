//! What many runs came to: tallies, coverage, and how fast they were.
//!
//! Speed is simulated cluster-seconds a CPU second: the simulated time of whole runs, healing and checks included, over the
//! processor time of the threads that ran them. Runs that had too little to do, or failed, do not count.

use std::time::Duration;

use quorate_sim::{Coverage, Failure, Reached, TierChoice, Verdict};

/// How long faults go on in a run that measures speed.
pub(crate) const MEASURED_LENGTH: Duration = Duration::from_secs(130);

/// At most so many of a thousand searches for an explanation of what clients saw may be given up: about 50 are over many seeds,
/// 100 were over 37.
const UNDECIDED_PER_THOUSAND: u64 = 250;
/// Of fewer searches, those of one seed for example, the share says nothing.
const LEAST_SEARCHES: u64 = 1_000;

/// Beside the first, one of so many seeds may end without a verdict, for redb cannot be caught where it panics in a destructor.
const RUNS_A_RUN_WITHOUT_VERDICT: u64 = 20;

/// So many failures are told again at the end.
const TOLD_FAILURES: usize = 10;

/// A run counts towards speed with at least so many simulated seconds,
const LEAST_SECONDS: f64 = 120.0;
/// so many operations of clients a simulated second,
const LEAST_OPERATIONS: f64 = 4.0;
/// so many planned faults,
const LEAST_FAULTS: f64 = 0.08;
/// and election timeouts no longer than this.
const LONGEST_TIMEOUT_US: u64 = 1_000_000;

/// What the runs of one tier came to.
#[derive(Default)]
struct TierSummary {
    runs: u64,
    coverage: Coverage,
    events: u64,
    all: Measure,
    /// The runs that count towards speed.
    counted: Measure,
    leader_after_percent: Vec<u64>,
    election_rounds: Vec<u64>,
}

#[derive(Default)]
struct Measure {
    runs: u64,
    simulated_seconds: f64,
    cpu_seconds: f64,
    operations: u64,
    faults: u64,
}

impl Measure {
    fn add(&mut self, verdict: &Verdict, cpu: Duration) {
        self.runs += 1;
        self.simulated_seconds += seconds(verdict);
        self.cpu_seconds += cpu.as_secs_f64();
        self.operations += verdict.operations;
        self.faults += verdict.faults;
    }

    /// Simulated cluster-seconds a CPU second, and seeds a CPU minute.
    fn speed(&self) -> (f64, f64) {
        let cpu = self.cpu_seconds.max(1e-9);
        (self.simulated_seconds / cpu, self.runs as f64 * 60.0 / cpu)
    }
}

fn seconds(verdict: &Verdict) -> f64 {
    verdict.simulated.0 as f64 / 1e6
}

fn percentiles(values: &mut [u64]) -> String {
    values.sort_unstable();
    let at = |percent: usize| values.get(values.len().saturating_sub(1) * percent / 100).copied().unwrap_or(0);
    format!("p50 {} p99 {} p100 {}", at(50), at(99), at(100))
}

/// Whether a run had enough to do to be counted.
fn counts(verdict: &Verdict) -> bool {
    let simulated = seconds(verdict);
    simulated >= LEAST_SECONDS
        && verdict.operations as f64 >= LEAST_OPERATIONS * simulated
        && verdict.faults as f64 >= LEAST_FAULTS * simulated
        && verdict.election_timeout_us <= LONGEST_TIMEOUT_US
}

impl TierSummary {
    fn add(&mut self, verdict: &Verdict, cpu: Duration) {
        self.runs += 1;
        self.coverage.merge(&verdict.coverage);
        self.events += verdict.events;
        self.leader_after_percent.push(verdict.leader_after_percent);
        self.election_rounds.push(verdict.election_rounds);
        self.all.add(verdict, cpu);
        if counts(verdict) {
            self.counted.add(verdict, cpu);
        }
    }

    fn print(&mut self, tier: TierChoice) {
        println!("{tier} tier, met by count:\n{}", self.coverage.table(tier));
        let percent = percentiles(&mut self.leader_after_percent);
        println!("{tier} tier, first leader after healing, in hundredths of an election timeout: {percent}");
        let rounds = percentiles(&mut self.election_rounds);
        println!("{tier} tier, terms that the first leader after healing took: {rounds}");
        let (speed, seeds) = self.all.speed();
        println!(
            "{tier} tier: {} runs, {:.0} simulated seconds, {} events; {speed:.0} simulated cluster-seconds a CPU second, \
             {seeds:.0} seeds a CPU minute",
            self.runs, self.all.simulated_seconds, self.events
        );
    }

    /// Prints how many key histories were explained; whether too many were given up.
    fn print_searches(&self, tier: TierChoice) -> bool {
        let undecided = self.coverage.count(Reached::HistoryUndecided);
        let all = undecided + self.coverage.count(Reached::HistoryDecided);
        if all > 0 {
            println!("{tier} tier: {all} searches for an explanation of a key's history, {undecided} given up");
        }
        all >= LEAST_SEARCHES && undecided * 1_000 > all * UNDECIDED_PER_THOUSAND
    }

    fn print_speed(&self, tier: TierChoice) {
        let counted = &self.counted;
        let (speed, seeds) = counted.speed();
        let simulated = counted.simulated_seconds.max(1e-9);
        println!(
            "{tier} tier, speed: {speed:.0} simulated cluster-seconds a CPU second, {seeds:.0} seeds a CPU minute, over {} of \
             {} seeds ({simulated:.0} simulated and {:.1} CPU seconds; {:.1} operations and {:.3} faults a simulated second)",
            counted.runs,
            self.runs,
            counted.cpu_seconds,
            counted.operations as f64 / simulated,
            counted.faults as f64 / simulated,
        );
    }
}

/// What all runs came to.
#[derive(Default)]
pub(crate) struct Summary {
    passed: u64,
    pub(crate) failed: u64,
    /// Runs whose process redb ended as a whole, on rotten pages.
    given_up: u64,
    /// What is told of the seeds that failed, the first of them.
    failures: Vec<String>,
    core: TierSummary,
    full: TierSummary,
}

impl Summary {
    fn tier(&mut self, tier: TierChoice) -> &mut TierSummary {
        match tier {
            TierChoice::Core => &mut self.core,
            TierChoice::Full => &mut self.full,
        }
    }

    pub(crate) fn add(&mut self, tier: TierChoice, verdict: &Verdict, cpu: Duration) {
        self.tier(tier).add(verdict, cpu);
    }

    pub(crate) fn give_up(&mut self) {
        self.given_up += 1;
    }

    pub(crate) fn fail(&mut self, failure: &Failure) {
        if self.failures.len() < TOLD_FAILURES {
            self.failures.push(failure.to_string());
        }
    }

    pub(crate) fn count(&mut self, failed: bool) {
        self.passed += u64::from(!failed);
        self.failed += u64::from(failed);
    }

    /// Prints everything; whether all that had to be met was met, and enough was explained.
    pub(crate) fn print(&mut self, tiers: &[TierChoice], speed: bool, require_coverage: bool) -> bool {
        let (mut covered, mut given_up) = (true, false);
        for &tier in tiers {
            if speed {
                self.tier(tier).print_speed(tier);
                continue;
            }
            self.tier(tier).print(tier);
            given_up |= self.tier(tier).print_searches(tier);
            let runs = self.tier(tier).runs;
            let zeros = self.tier(tier).coverage.zeros(tier, runs);
            if !zeros.is_empty() {
                covered = false;
                println!("{tier} tier, never met: {}", zeros.join("; "));
            }
        }
        if self.given_up > 0 {
            println!(
                "{} of the runs that passed had no verdict: redb ended their process on rotten pages",
                self.given_up
            );
            given_up |= self.given_up > 1 + (self.passed + self.failed) / RUNS_A_RUN_WITHOUT_VERDICT;
        }
        // They were told when they failed, which the tables have pushed out of sight.
        for failure in &self.failures {
            println!("{failure}");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        (covered || !require_coverage) && !given_up
    }
}
