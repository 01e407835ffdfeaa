//! Workloads that stand apart from the general mix of reads and writes: each draws its own operations, remembers what its
//! clients saw, and says what must follow from it.
//!
//! Each seed runs a few of them, drawn from its number (swarm testing): a workload that is alone with the faults goes further
//! than one of many. A workload with several kinds of operation is one file. It states its promises in the panics of its
//! checks, each of which begins with its own name or the number of the invariant that broke. It must draw from the generator
//! it is given alone, and hold no hash map that it iterates.

mod append;
mod auth;
mod leases;
mod locks;
mod objects;
mod officials;
mod trees;

use std::fmt;

use bytes::Bytes;
use quorate_kv::{Command, KvError, Response};
use quorate_node::{Answer, ClientOp, Consistency, Effect, ReadOptions};
use quorate_raft::{LogIndex, NodeId};
use quorate_store::StateView;

use crate::clock::Instant;
use crate::coverage::Coverage;
use crate::plan::Plan;
use crate::random::Random;

/// A committed command as a workload is told of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Committed<'a> {
    pub(super) index: LogIndex,
    pub(super) command: &'a Command,
    /// What it came to, as far as the replay knows.
    pub(super) result: Option<&'a Result<Response, KvError>>,
}

/// What a client that has listed keys wants to be told of from then on.
#[derive(Debug, Clone)]
pub(super) struct Followed {
    pub(super) key: Bytes,
    pub(super) range_end: Bytes,
    /// The revision it knows everything of.
    pub(super) after: i64,
}

/// One kind of client work, with what must follow from its answers.
pub(super) trait Workload: fmt::Debug {
    /// Some of its clients make a move at one running replica: the operations, each with this workload's own number for it.
    fn draw(&mut self, random: &mut Random, now: Instant) -> Vec<(u64, ClientOp)>;

    /// The operation of this number was answered. A read that was granted comes with the state it may read.
    fn answered(&mut self, call: u64, now: Instant, answer: &Answer, view: &StateView, coverage: &mut Coverage);

    /// The process that took the operation died, or its client left: nobody will answer.
    fn lost(&mut self, call: u64, now: Instant);

    /// A command was committed. Called once an index, in log order, at the true time at which the first node applies it.
    fn committed(&mut self, committed: Committed<'_>, now: Instant, coverage: &mut Coverage) {
        let _ = (committed, now, coverage);
    }

    /// A node has applied up to `view.applied()`.
    fn applied(&mut self, node: NodeId, view: &StateView, now: Instant) {
        let _ = (node, view, now);
    }

    /// A replica wants an effect that the tier does not know; true if it was this workload's.
    fn effect(&mut self, node: NodeId, effect: &Effect, now: Instant) -> bool {
        let _ = (node, effect, now);
        false
    }

    /// A client goes on with a watch, if it has something to go on from.
    fn followed(&mut self) -> Option<Followed> {
        None
    }

    /// A process ended, and with it what it kept for clients in memory.
    fn died(&mut self, node: NodeId) {
        let _ = node;
    }

    /// The world is healed and quiet, and these nodes agree: everything that was acknowledged is there, on each.
    fn check_durable(&self, views: &[(NodeId, StateView)]) {
        let _ = views;
    }
}

/// The workloads of a seed, in the order in which they take turns.
pub(super) fn all(plan: &Plan) -> Vec<Box<dyn Workload>> {
    let mut random = Random::new(plan.seed ^ 0x574f_524b_4c4f_4144);
    let mut chosen: Vec<Box<dyn Workload>> = Vec::new();
    if random.coin() {
        chosen.push(Box::new(append::Appends::default()));
    }
    // The second changes at random what the first must be certain of.
    match random.below(10) {
        0..=2 => chosen.push(Box::new(auth::Rights::default())),
        3..=6 => chosen.push(Box::new(officials::Officials::default())),
        _ => {}
    }
    if random.coin() {
        chosen.push(Box::new(leases::Leases::new(plan)));
    }
    if random.coin() {
        chosen.push(Box::new(locks::Locks::default()));
    }
    if random.coin() {
        chosen.push(Box::new(objects::Objects::default()));
    }
    if random.coin() {
        chosen.push(Box::new(trees::Trees::default()));
    }
    chosen
}

/// A value that begins with the number it is known by.
fn value(number: u64, rest: &[u8]) -> Bytes {
    [&number.to_le_bytes()[..], rest].concat().into()
}

/// A read that a quorum confirms.
fn confirmed_read() -> ClientOp {
    ClientOp::Read(ReadOptions { consistency: Consistency::Consistent, ..ReadOptions::default() })
}

/// What the state machine made of a write that was answered by it.
fn written(answer: &Answer) -> Option<&Result<Response, KvError>> {
    match answer {
        Answer::Written(outcome) => Some(&outcome.result),
        _ => None,
    }
}
