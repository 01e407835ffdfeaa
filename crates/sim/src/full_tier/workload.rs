//! Workloads that stand apart: each a file with its own clients, its own memory and its own checker.
//!
//! To add one: write a file under `workload/`, implement [`Workload`], and name it in [`all`]. The tier calls it with every
//! answer and every committed command; it draws operations when asked, and panics with the number of the invariant that
//! broke. It must draw from the generator it is given alone, and hold no hash map that it iterates.

mod append;
mod auth;

use std::fmt;

use quorate_kv::Command;
use quorate_node::{Answer, ClientOp, Effect};
use quorate_raft::{LogIndex, NodeId};
use quorate_store::StateView;

use crate::clock::Instant;
use crate::plan::Plan;
use crate::random::Random;

/// One kind of client work, with what must follow from its answers.
pub(super) trait Workload: fmt::Debug {
    /// One of its clients makes a move at some running replica: the operation, and this workload's own number for it.
    /// None = nothing to do now.
    fn draw(&mut self, random: &mut Random, now: Instant) -> Option<(u64, ClientOp)>;

    /// The operation of this number was answered. A read that was granted comes with the state it may read.
    fn answered(&mut self, call: u64, now: Instant, answer: &Answer, view: &StateView);

    /// The process that took the operation died: nobody will answer.
    fn lost(&mut self, call: u64, now: Instant);

    /// A command was committed. Called once an index, in log order, at the true time at which the first node applies it.
    fn committed(&mut self, index: LogIndex, command: &Command, now: Instant);

    /// A node has applied up to `view.applied()`.
    fn applied(&mut self, node: NodeId, view: &StateView, now: Instant) {
        let _ = (node, view, now);
    }

    /// A replica wants an effect that the tier does not know; true if it was this workload's.
    fn effect(&mut self, node: NodeId, effect: &Effect, now: Instant) -> bool {
        let _ = (node, effect, now);
        false
    }

    /// A process ended, and with it what it kept for clients in memory (watches, for example).
    fn died(&mut self, node: NodeId) {
        let _ = node;
    }

    /// The world is healed and quiet, and these nodes agree: everything that was acknowledged is there, on each.
    fn check_durable(&self, views: &[(NodeId, StateView)]);
}

/// Every workload, in the order in which they take turns.
pub(super) fn all(_plan: &Plan) -> Vec<Box<dyn Workload>> {
    vec![Box::new(append::Appends::default()), Box::new(auth::Rights::default())]
}
