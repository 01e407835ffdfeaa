//! One running node: the threads that drive a [`quorate_node::Node`] and the handle the APIs hold.
//!
//! ```text
//! APIs, peer streams --inputs--> node thread --LogWrite--> log writer --LogWritten--+
//!         ^                        |   |  ^                                         |
//!         +------- answers --------+   |  +-----------------------------------------+
//!                                      +--Apply--> state writer --Applied--> node thread
//! ```
//!
//! Each of the three threads takes its whole backlog at once, so that load makes batches and not queues. The runtime moves
//! effects to where they are carried out and completions back; it decides nothing about consensus.
//!
//! Invariants:
//! 1. a log write is answered only after it is durable, and never after a failed one;
//! 2. what the lease allows is published before any effect of the same step leaves;
//! 3. effects of one step leave in their order.

mod admin;
mod clock;
mod config;
mod core;
mod engine;
mod images;
mod lifecycle;
mod log_writer;
mod mailbox;
mod meter;
mod node_thread;
mod pending;
mod published;
mod replica;
mod state_writer;
mod status;
mod voters;

pub use crate::peer::IdentifyError;
pub use admin::{
    InitError, ResetError, SetVotersError, SnapshotInfo, StartError, VoterPhase, VoterProgress, VoterSpec,
};
pub use config::ReplicaConfig;
pub use replica::Replica;
pub use status::{DiskView, FollowerView, RaftView, ReplicaStatus, SpaceView, Stamp, StatusChange};
