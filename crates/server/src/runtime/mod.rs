//! One running node: the driver and the threads around a [`quorate_node::Node`], and the handle the APIs hold.
//!
//! ```text
//! APIs, peer streams --events--> driver --LogWrite--> log writer --LogWritten--> driver
//!         ^                      |    |
//!         +------- answers ------+    +----Apply----> state writer --Applied--> driver
//! ```
//!
//! The driver is no thread but a turn that whoever brings an event takes ([`driver`]). The two writers are threads, because
//! disks block; a fourth, which tells clients what changed (`watching`), keeps slow ones from holding these up. All take their whole backlog at once, so that load makes batches and not queues. The runtime moves
//! effects to where they are carried out and completions back; it decides nothing about consensus.
//!
//! Invariants:
//! 1. a log write is answered only after it is durable, and never after a failed one;
//! 2. what the lease allows is published before any effect of the same turn leaves;
//! 3. effects of one turn leave in their order.

mod admin;
mod clock;
mod config;
mod core;
mod driver;
mod engine;
mod failure;
#[cfg(feature = "test-faults")]
mod faults;
mod images;
mod incoming_image;
mod lifecycle;
mod log_writer;
mod mailbox;
mod members;
mod meter;
mod pending;
mod promises;
mod published;
mod replica;
mod scrub;
mod set_aside;
mod space;
mod state_writer;
mod status;
mod voters;
mod watch_queue;
mod watching;

pub use crate::peer::IdentifyError;
pub use admin::{
    InitError, ResetError, SetVotersError, SnapshotInfo, StartError, VoterPhase, VoterProgress, VoterSpec,
};
pub(crate) use clock::random_u128;
pub use config::ReplicaConfig;
pub use replica::Replica;
pub use status::{DiskView, FollowerView, RaftView, ReplicaStatus, SpaceView, Stamp, StatusChange, WatchView};
pub(crate) use watch_queue::WatchStream;
pub(crate) use watching::NotOpened;
