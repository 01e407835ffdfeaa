//! Whether the simulator finds the bugs of the catalogue: each is switched on in turn and hunted with fresh seeds.
//!
//! Owns the hunt and its table. The control is part of it: the seed that found a mutant must pass without it, or it has
//! found nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quorate_mutants::{Layer, Mutant};

use crate::cpu::thread_time;
use crate::run::{TierChoice, run_seed};

/// How one hunt ended.
#[derive(Debug, Clone)]
struct Hunt {
    mutant: Mutant,
    /// The seed that found it, and what that seed broke.
    found: Option<(u64, String)>,
    /// Seeds run.
    seeds: u64,
    cpu: Duration,
    /// The same seed fails without the mutant.
    false_alarm: bool,
}

/// Hunts each of `mutants` with the seeds from `first_seed` on, for at most `budget` of processor time each.
///
/// Prints a line a mutant and the tally; returns how many were killed.
pub fn hunt(mutants: &[Mutant], first_seed: u64, budget: Duration, jobs: usize) -> usize {
    let next = AtomicUsize::new(0);
    let hunts: Mutex<Vec<Hunt>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(&mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let hunt = hunt_one(mutant, first_seed, budget);
                    println!("{}", line(&hunt));
                    hunts.lock().expect("no hunt panics").push(hunt);
                }
            });
        }
    });
    let mut hunts = hunts.into_inner().expect("all threads ended");
    hunts.sort_by_key(|hunt| hunt.mutant);
    summary(&hunts)
}

fn hunt_one(mutant: Mutant, first_seed: u64, budget: Duration) -> Hunt {
    let tier = tier_of(mutant);
    let started = thread_time();
    let mut hunt = Hunt { mutant, found: None, seeds: 0, cpu: Duration::ZERO, false_alarm: false };
    for seed in first_seed.. {
        quorate_mutants::switch(Some(mutant));
        let result = run_seed(seed, tier, false);
        quorate_mutants::switch(None);
        hunt.seeds += 1;
        hunt.cpu = thread_time() - started;
        if let Err(failure) = result
            && !failure.given_up
        {
            hunt.false_alarm = run_seed(seed, tier, false).is_err();
            hunt.found = Some((seed, failure.property().to_owned()));
            break;
        }
        if hunt.cpu >= budget {
            break;
        }
    }
    hunt
}

/// Where a mutant is met soonest.
fn tier_of(mutant: Mutant) -> TierChoice {
    match mutant.layer() {
        Layer::Consensus => TierChoice::Core,
        Layer::Replica => TierChoice::Full,
    }
}

fn line(hunt: &Hunt) -> String {
    let name = format!("{} (hazard {})", hunt.mutant, hunt.mutant.hazard());
    let cost = format!("{:>7.2} CPU s {:>4} seeds", hunt.cpu.as_secs_f64(), hunt.seeds);
    let tier = tier_of(hunt.mutant);
    match &hunt.found {
        Some((seed, property)) if hunt.false_alarm => {
            format!("FALSE ALARM {name:<42} {cost}  seed {seed} --tier {tier} fails without it too: {property}")
        }
        Some((seed, property)) => format!("killed   {name:<42} {cost}  seed {seed} --tier {tier}: {property}"),
        None => format!("SURVIVED {name:<42} {cost}  {}", hunt.mutant.sentence()),
    }
}

fn summary(hunts: &[Hunt]) -> usize {
    let killed: Vec<&Hunt> = hunts.iter().filter(|hunt| hunt.found.is_some() && !hunt.false_alarm).collect();
    let mut times: Vec<Duration> = killed.iter().map(|hunt| hunt.cpu).collect();
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let longest = times.last().copied().unwrap_or_default();
    let alarms = hunts.iter().filter(|hunt| hunt.false_alarm).count();
    println!(
        "control: {} seeds run without their mutant, {alarms} of them failed",
        hunts.iter().filter(|hunt| hunt.found.is_some()).count()
    );
    println!("processor time of a kill: median {:.2} s, longest {:.2} s", median.as_secs_f64(), longest.as_secs_f64());
    println!("{} of {} killed", killed.len(), hunts.len());
    killed.len()
}
