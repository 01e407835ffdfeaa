//! The replica of the log: dispatches what happens to the modules that own each duty.

use std::time::Duration;

use crate::config::Config;
use crate::effect::Effect;
use crate::ids::{NodeId, Time};
use crate::input::{Input, Restored};
use crate::status::Status;

/// One node's consensus, as a value: a run is a function of its inputs alone.
#[derive(Debug)]
pub struct Raft {}

impl Raft {
    /// A node as its disk describes it. It follows nobody until it hears a leader or its election timeout passes.
    pub fn new(_config: Config, _id: NodeId, _restored: Restored, _now: Time, _jitter: Duration) -> Raft {
        unimplemented!()
    }

    /// Takes in what happened at `now` and says what must be done, in order.
    pub fn step(&mut self, _now: Time, _input: Input) -> Vec<Effect> {
        unimplemented!()
    }

    /// When the next `Input::Tick` is wanted.
    pub fn next_deadline(&self) -> Time {
        unimplemented!()
    }

    /// A copy of what the node knows about itself.
    pub fn status(&self) -> Status {
        unimplemented!()
    }

    /// Whether a read may be served at `now` on the leader's word alone.
    pub fn lease_valid(&self, _now: Time) -> bool {
        unimplemented!()
    }

    /// How old what this node has applied may be at `now`; None = no bound is known.
    pub fn staleness(&self, _now: Time) -> Option<Duration> {
        unimplemented!()
    }

    /// Panics if an invariant is broken.
    pub fn check(&self) {
        unimplemented!()
    }
}
