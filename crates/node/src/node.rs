//! Placeholder until the first compile.
use std::time::Duration;
use quorate_raft::{Incarnation, Time};
use quorate_wire::Identity;
use crate::config::NodeConfig;
use crate::effect::{Effect, Lease};
use crate::input::{AppliedState, Input};
use crate::status::NodeStatus;
use quorate_wire::peer::NodeState;

/// What a replica finds on its disk when it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// Log, term, vote, configurations, applied index.
    pub raft: quorate_raft::Restored,
    /// Where the durable state stands; its index is `raft.applied`.
    pub applied: AppliedState,
    /// Bytes the log takes, about.
    pub log_bytes: u64,
    /// The durable mark, if the node was removed or fenced: its state and why.
    pub barred: Option<(NodeState, String)>,
    /// Random name of this run, drawn by the caller at every start.
    pub session: Incarnation,
}

/// One replica.
#[derive(Debug)]
pub struct Node {}

impl Node {
    /// A replica as its disk describes it.
    pub fn new(_config: NodeConfig, _identity: Identity, _restored: Restored, _now: Time, _jitter: Duration) -> Node {
        unimplemented!()
    }
    /// Takes in what happened at `now` and says what must be done, in order.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        self.step_batch(now, [input])
    }
    /// The same for several inputs at one moment: writes among them share a proposal, reads an index.
    pub fn step_batch(&mut self, _now: Time, _inputs: impl IntoIterator<Item = Input>) -> Vec<Effect> {
        unimplemented!()
    }
    /// When the next [`Input::Tick`] is wanted.
    pub fn next_deadline(&self) -> Time {
        unimplemented!()
    }
    /// A copy of what the replica knows about itself.
    pub fn status(&self, _now: Time) -> NodeStatus {
        unimplemented!()
    }
    /// The lease this node holds as a leader, also if it has run out.
    pub fn lease(&self) -> Option<Lease> {
        unimplemented!()
    }
    /// Whether a read may be served at `now` without asking anybody.
    pub fn lease_valid(&self, _now: Time) -> bool {
        unimplemented!()
    }
    /// Panics if an invariant is broken.
    pub fn check(&self) {
        unimplemented!()
    }
}
