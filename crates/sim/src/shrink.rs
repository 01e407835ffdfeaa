//! Making a failure small: which of a seed's faults does it take?
//!
//! Leaves faults and rates out, one group after another, while the run still breaks the same rule (delta debugging). What is
//! left out changes what happens after it, so the result is a small schedule that fails, not the smallest one.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::cpu::thread_time;
use crate::plan::{Plan, Restriction};
use crate::run::{Failure, TierChoice, run_restricted};

/// Processor time that one failure may take.
const BUDGET: Duration = Duration::from_secs(240);

/// A failure and what it takes.
#[derive(Debug, Clone)]
pub struct Shrunk {
    failure: Failure,
    restriction: Restriction,
    faults: Vec<String>,
    planned: usize,
    runs: u64,
}

impl fmt::Display for Shrunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, tier, .. } = self.failure;
        writeln!(
            f,
            "  shrunk from {} planned faults to {} in {} runs: {}",
            self.planned,
            self.faults.len(),
            self.runs,
            self.failure.property()
        )?;
        for fault in &self.faults {
            writeln!(f, "    {fault}")?;
        }
        write!(f, "  replay: cargo xtask sim --seed {seed} --tier {tier}{}", self.restriction)
    }
}

/// Shrinks a failure of a whole plan.
#[must_use]
pub fn shrink(failure: &Failure) -> Shrunk {
    let plan = Plan::draw(failure.seed);
    let planned = plan.faults.len();
    let mut search = Search {
        failure: failure.clone(),
        rule: failure.rule().to_owned(),
        restriction: Restriction { only: Some((0..planned).collect()), without: BTreeSet::new() },
        runs: 0,
        until: thread_time() + BUDGET,
    };
    for rate in Restriction::RATES {
        let mut candidate = search.restriction.clone();
        candidate.without.insert(rate);
        search.keep_if_it_fails(candidate);
    }
    let mut size = planned.div_ceil(2).max(1);
    loop {
        search.drop_groups_of(size);
        if size == 1 {
            break;
        }
        size = size.div_ceil(2);
    }
    let only = search.restriction.only.clone().unwrap_or_default();
    let describe = |number: &usize| format!("{number}: {:?} at {}", plan.faults[*number].kind, plan.faults[*number].at);
    Shrunk {
        failure: search.failure,
        faults: only.iter().map(describe).collect(),
        restriction: search.restriction,
        planned,
        runs: search.runs,
    }
}

struct Search {
    failure: Failure,
    rule: String,
    restriction: Restriction,
    runs: u64,
    until: Duration,
}

impl Search {
    /// Leaves out each group of `size` neighbours that the failure does not need.
    fn drop_groups_of(&mut self, size: usize) {
        let all: Vec<usize> = self.restriction.only.iter().flatten().copied().collect();
        for group in all.chunks(size) {
            let mut candidate = self.restriction.clone();
            if let Some(only) = &mut candidate.only {
                only.retain(|number| !group.contains(number));
            }
            self.keep_if_it_fails(candidate);
        }
    }

    fn keep_if_it_fails(&mut self, candidate: Restriction) {
        if thread_time() >= self.until {
            return;
        }
        self.runs += 1;
        let (seed, tier): (u64, TierChoice) = (self.failure.seed, self.failure.tier);
        if let Err(failure) = run_restricted(seed, tier, &candidate, false)
            && failure.rule() == self.rule
        {
            self.failure = failure;
            self.restriction = candidate;
        }
    }
}
