//! The simulator: the production code under a seeded network, disk and clock.
//!
//! Everything that happens in a run follows from its seed: the loop is single-threaded, time is virtual, and each random
//! draw comes from a generator forked from the seed. A failure is replayed from one number. Two tiers share the world, the
//! faults and the checkers: the core tier runs the consensus core on a model of a disk, fast; the full tier runs the whole
//! replica with its real stores and encoded messages.
//!
//! Map: `plan` draws a seed's sizes, rates and faults; `world` owns hosts and the event loop; `nemesis` and `load` act on
//! it; `phase` leads it from faults to the verdict; `check` holds one checker a property; `core_tier` and `full_tier` are what
//! is run, behind the trait in `tier`.
//!
//! Where to add: a checker that sees everything is a file in `check`, fed by `Oracle::stepped`; client work of its own with
//! its own checker is a file in `full_tier/workload` that implements `Workload`; a fault is a `FaultKind` with an arm in
//! `nemesis`; a known bug is a line in `crates/mutants` and a `mutant!(Name)` where it bites.

#[macro_use]
mod mutant;

mod check;
mod clock;
mod context;
mod core_tier;
mod coverage;
mod cpu;
mod full_tier;
mod load;
mod log_model;
#[cfg(feature = "mutants")]
mod mutation;
mod nemesis;
mod network;
mod partition;
mod phase;
mod plan;
mod queue;
mod random;
mod run;
mod shrink;
mod stability;
mod tier;
mod trace;
mod world;

pub use clock::Instant;
pub use coverage::{Coverage, Handler, Reached, Struck};
pub use cpu::thread_time;
#[cfg(feature = "mutants")]
pub use mutation::hunt;
pub use plan::Restriction;
pub use run::{Failure, TierChoice, run_lasting, run_restricted, run_seed};
pub use shrink::{Shrunk, shrink};
pub use trace::TraceHash;
pub use world::Verdict;
