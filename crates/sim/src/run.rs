//! Running seeds: one with its verdict, or many with a summary.
//!
//! A failing run is a panic inside it; here it becomes a [`Failure`] with the command that replays it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::time::Duration;

use crate::core_tier::CoreTier;
use crate::full_tier::FullTier;
use crate::plan::{Plan, Restriction};
use crate::world::{Verdict, World};

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TierChoice {
    /// The consensus core on a model of a disk.
    Core,
    /// The whole replica on its real stores.
    Full,
}

impl fmt::Display for TierChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TierChoice::Core => "core",
            TierChoice::Full => "full",
        })
    }
}

/// A seed that broke a promise.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The tier.
    pub tier: TierChoice,
    /// What was broken, and where.
    pub what: String,
}

impl Failure {
    /// What was broken, without where: two failures of one rule are taken for the same.
    #[must_use]
    pub fn rule(&self) -> &str {
        let line = self.what.lines().next().unwrap_or_default();
        line.split_once([':', ' ']).map_or(line, |(rule, _)| rule)
    }

    /// The first line of what was broken, short enough for a table.
    #[must_use]
    pub fn property(&self) -> &str {
        let line = self.what.lines().next().unwrap_or_default();
        line.char_indices().nth(110).map_or(line, |(end, _)| &line[..end])
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} failed in the {} tier: {}", self.seed, self.tier, self.what)?;
        write!(f, "  replay: cargo xtask sim --seed {} --tier {}", self.seed, self.tier)
    }
}

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    /// What this thread runs.
    static RUNNING: Cell<Option<(u64, TierChoice)>> = const { Cell::new(None) };
}

/// Keeps the text and place of a panic for the thread that catches it, instead of printing it. A panic that nobody can catch
/// ends the process, so what it was and how to see it again is printed.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        panic::set_hook(Box::new(|info| {
            let text = info.payload_as_str().unwrap_or("a panic without text");
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            if NOT_UNWINDING.contains(&text) {
                let before = LAST_PANIC.with(|last| last.borrow_mut().take()).unwrap_or_default();
                if let Some((seed, tier)) = RUNNING.get() {
                    eprintln!("{}", Failure { seed, tier, what: format!("{text}, after: {before}") });
                }
                return;
            }
            LAST_PANIC.with(|last| *last.borrow_mut() = Some(format!("{text}\n  at {place}")));
        }));
    });
}

/// What the standard library says of panics that end the process.
const NOT_UNWINDING: [&str; 2] = ["panic in a destructor during cleanup", "panic in a function that cannot unwind"];

/// Whether the last panic of this thread came from source whose path has `part` in it.
pub(crate) fn last_panic_was_in(part: &str) -> bool {
    let place = |text: &String| text.rsplit_once("\n  at ").is_some_and(|(_, place)| place.contains(part));
    LAST_PANIC.with(|last| last.borrow().as_ref().is_some_and(place))
}

/// Runs one seed to its verdict.
///
/// # Errors
/// [`Failure`] if a checker or an assertion found a broken promise.
pub fn run_seed(seed: u64, tier: TierChoice, verbose: bool) -> Result<Verdict, Failure> {
    run_plan(Plan::draw(seed), tier, verbose)
}

/// Runs a part of a seed: what a shrunk failure still needs.
///
/// # Errors
/// [`Failure`] as of [`run_seed`].
pub fn run_restricted(
    seed: u64,
    tier: TierChoice,
    restriction: &Restriction,
    verbose: bool,
) -> Result<Verdict, Failure> {
    let mut plan = Plan::draw(seed);
    plan.restrict(restriction);
    run_plan(plan, tier, verbose)
}

/// Runs a seed with faults for so long, whatever length it would have drawn: for measuring.
///
/// # Errors
/// [`Failure`] as of [`run_seed`].
pub fn run_lasting(seed: u64, tier: TierChoice, length: Duration) -> Result<Verdict, Failure> {
    run_plan(Plan::draw_lasting(seed, Some(length)), tier, false)
}

fn run_plan(plan: Plan, tier: TierChoice, verbose: bool) -> Result<Verdict, Failure> {
    keep_panics();
    let seed = plan.seed;
    RUNNING.set(Some((seed, tier)));
    let run = AssertUnwindSafe(|| {
        if verbose {
            eprintln!("{plan:#?}");
        }
        match tier {
            TierChoice::Core => World::<CoreTier>::new(plan, verbose).run(),
            TierChoice::Full => World::<FullTier>::new(plan, verbose).run(),
        }
    });
    panic::catch_unwind(run).map_err(|_| {
        let what = LAST_PANIC.with(|last| last.borrow_mut().take()).unwrap_or_else(|| "no text was kept".to_owned());
        Failure { seed, tier, what }
    })
}
