//! What to do next for one cluster, as a function of what was just observed.
//!
//! Owns the decision and nothing else: no API call, no clock, no memory. A reconcile observes, calls [`plan`], does the
//! one step, and starts again; whoever crashed before, between or after, the next observation leads on from there.
//!
//! Invariants, held by the tests in `world` against random crashes and losses:
//! 1. a configuration change is asked for only when none is in flight, and names the configuration it was based on;
//! 2. no step takes a voter's pod or volume away while the others are fewer than a quorum, but for the pods, one at a time, of a quorum
//!    that answers and has had no leader for long;
//! 3. a volume is deleted only when it is known to be of this cluster and no member of the committed configuration lives on
//!    it, or when it is gone, or can be used only on Kubernetes nodes that are, and the others are a quorum;
//! 4. a cluster is initialised once: under the id that was latched first, and only by nodes that all report to be empty;
//! 5. a recovery begins on a human's word alone, never while a quorum may run, and works on one volume while no pod runs.

mod decide;
mod observed;
mod recovery;
mod resize;
mod step;
mod upkeep;

#[cfg(test)]
mod world;

pub use decide::plan;
pub use observed::{
    Change, ClusterId, ClusterView, Configuration, Incarnation, JobState, Latched, LogEnd, MemberView, NodeId,
    NodeReport, NodeState, Observed, Ordinal, PodState, Recovery, RecoveryRequest, SetState, Survivor, VolumeState,
    Wanted,
};
pub use step::{Finding, Plan, Refusal, Step, Voter, Work};
