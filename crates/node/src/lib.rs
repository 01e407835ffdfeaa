//! One replica: everything between a decoded request and its answer.
//!
//! Owns pending writes, forwarding, the timing of leases, the read queue, admission, timeouts, routing of administrators' requests, the retention of
//! the log, the comparison of state hashes and the lifecycle of a node. Wraps consensus ([`quorate_raft::Raft`]), whose
//! messages it holds back until the disk writes they promise are durable.
//!
//! Never touches a disk, a socket, a clock or a random generator: [`Node::step`] takes what happened and returns what must be
//! done, and a run is a function of its inputs. The state machine itself lives with the caller, who applies entries and tells
//! what came of them.

#[macro_use]
mod mutant;

mod admin;
mod cluster_clock;
mod config;
mod divergence;
mod effect;
mod error;
mod forward;
mod held;
mod input;
mod lifecycle;
mod node;
mod pace;
mod proposals;
mod reads;
mod retention;
mod snapshots;
mod status;
pub mod watch;

pub use config::{Limits, NodeConfig, Retention};
pub use effect::{Answer, Effect, Lease, LeaseFence, ReadGrant};
pub use error::NodeError;
pub use input::{AppliedResult, AppliedState, AppliedSummary, ClientOp, Consistency, Input, OnStale, ReadOptions};
pub use lifecycle::{Admitted, Barred, InitAccepted, InitRefused, Lifecycle, ResetRefused};
pub use node::{Node, Restored};
pub use quorate_wire::peer::{AdminOperation, NodeState};
pub use status::NodeStatus;
