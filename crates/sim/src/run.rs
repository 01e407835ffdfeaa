//! Running a seed to its verdict, each on a thread of its own.
//!
//! A failing run is a panic inside it; here it becomes a [`Failure`] with the command that replays it. A panic that cannot be
//! caught, one in a destructor while another unwinds, would end the whole process: the run reports it from the panic hook and
//! its thread stands still from then on, so that other seeds go on.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::core_tier::CoreTier;
use crate::cpu::{thread_time, waited_for};
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
    /// Nothing was broken that is promised: a process that read rotten pages ended as a whole, as redb ends it, and the run
    /// that held it cannot go on.
    pub given_up: bool,
    /// It has not ended: it goes on in its thread for as long as this process lives.
    pub endless: bool,
}

impl Failure {
    /// A broken promise.
    #[must_use]
    pub fn new(seed: u64, tier: TierChoice, what: String) -> Failure {
        Failure { seed, tier, what, given_up: false, endless: false }
    }

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
        let ended = if self.given_up { "was given up" } else { "failed" };
        writeln!(f, "seed {} {ended} in the {} tier: {}", self.seed, self.tier, self.what)?;
        write!(f, "  replay: cargo xtask sim --seed {} --tier {}", self.seed, self.tier)
    }
}

/// A run that takes longer will not end: the longest ones take a minute of a slow machine. It is the machine's time, not that of the
/// run's thread, since a step may also wait for ever.
const PATIENCE: Duration = Duration::from_secs(600);

/// How a run ended, and the processor time it took.
type Ended = (Result<Verdict, Failure>, Duration);

/// What a thread runs, and who waits for it.
struct Running {
    seed: u64,
    tier: TierChoice,
    ended: Sender<Ended>,
}

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
    /// Calls under way in which rotten pages are read.
    static ENDURED: Cell<u32> = const { Cell::new(0) };
}

/// What the standard library says of panics that end the process.
const NOT_UNWINDING: [&str; 2] = ["panic in a destructor during cleanup", "panic in a function that cannot unwind"];

/// Keeps the text and place of a panic for the thread that catches it, instead of printing it.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        panic::set_hook(Box::new(|info| {
            let text = info.payload_as_str().unwrap_or("a panic without text");
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            if NOT_UNWINDING.contains(&text) {
                outlive(text);
            }
            LAST_PANIC.with(|last| *last.borrow_mut() = Some(format!("{text}\n  at {place}")));
        }));
    });
}

/// Reports a panic that cannot be caught, and keeps it from ending the process: it is over as soon as its hook returns.
fn outlive(text: &str) {
    let in_redb = last_panic_was_in(REDB);
    let before = LAST_PANIC.with(|last| last.borrow_mut().take()).unwrap_or_default();
    let what = format!("{text}, after: {before}");
    let Some(Running { seed, tier, ended }) = RUNNING.with(|running| running.borrow_mut().take()) else {
        eprintln!("{what}");
        return;
    };
    let given_up = ENDURED.get() > 0 && in_redb;
    // Where nobody waits any more, nobody is kept waiting.
    let _ = ended.send((Err(Failure { given_up, ..Failure::new(seed, tier, what) }), thread_time()));
    loop {
        thread::park();
    }
}

/// Part of the path of redb's sources.
pub(crate) const REDB: &str = "/redb-";

/// Whether the last panic of this thread came from source whose path has `part` in it.
pub(crate) fn last_panic_was_in(part: &str) -> bool {
    let place = |text: &String| text.rsplit_once("\n  at ").is_some_and(|(_, place)| place.contains(part));
    LAST_PANIC.with(|last| last.borrow().as_ref().is_some_and(place))
}

/// Does what reads or writes pages that may be rotten: redb believes what it reads of a tree's pages, and panics on some that no
/// writer of it ever made. Such a panic ends the simulated process; one that cannot be caught ends the run without a verdict.
pub(crate) fn endure<T>(run: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    ENDURED.set(ENDURED.get() + 1);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    ENDURED.set(ENDURED.get() - 1);
    result
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
    let (ended, result) = channel();
    #[cfg(feature = "mutants")]
    let mutant = quorate_mutants::current();
    thread::spawn(move || {
        #[cfg(feature = "mutants")]
        quorate_mutants::switch(mutant);
        let running = Running { seed: plan.seed, tier, ended: ended.clone() };
        RUNNING.with(|it| *it.borrow_mut() = Some(running));
        let result = run_here(plan, tier, verbose);
        // Who waited for a run that seemed endless waits no more.
        let _ = ended.send((result, thread_time()));
    });
    let (result, cpu) = match result.recv_timeout(PATIENCE) {
        Ok(ended) => ended,
        Err(RecvTimeoutError::Timeout) => {
            let minutes = PATIENCE.as_secs() / 60;
            let what = format!("endless: no verdict after {minutes} minutes, one step of it may have no end");
            return Err(Failure { endless: true, ..Failure::new(seed, tier, what) });
        }
        Err(RecvTimeoutError::Disconnected) => unreachable!("a run reports its end, whatever it is"),
    };
    waited_for(cpu);
    result
}

fn run_here(plan: Plan, tier: TierChoice, verbose: bool) -> Result<Verdict, Failure> {
    let seed = plan.seed;
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
        Failure::new(seed, tier, what)
    })
}
