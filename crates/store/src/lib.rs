//! Stored data: the Raft log, the key space, snapshots, and the repair of both.
//!
//! The only crate that opens data files. A node has two redb files: the log ([`LogStore`]), durable before any promise,
//! one sync a batch; and the state ([`StateStore`]), whose commits cost no storage call, made durable from time to
//! time. What the state lost in a crash the log replays, so the log is never cut past the last durable applied index.
//!
//! Never decides what is committed, never talks to a peer, reads no clock and draws no random number: a run over
//! the faulty disk of the `testing` feature is a function of its seed.
//!
//! Invariants:
//! 1. after a crash at any storage call, also during recovery, the log holds exactly what was acknowledged, or that
//!    and the one write in flight; the state is as of one applied index, no older than its last checkpoint;
//! 2. what fails its checksum is refused with a diagnosis, never healed by leaving it out;
//! 3. after a failed write or sync nothing more is written.

#[macro_use]
mod mutant;

mod database;
mod disk;
mod error;
mod fields;
#[cfg(feature = "test-faults")]
mod hostile_disk;
mod log;
mod meta;
pub mod offline;
mod overlay_disk;
mod real_disk;
mod seal;
mod snapshot;
mod state;
mod stores;
#[cfg(any(feature = "testing", feature = "test-faults"))]
mod stray;
#[cfg(feature = "testing")]
pub mod testing;

pub use disk::{Disk, FileCounts, INDEX_FILE, LOG_FILE, OpenMode, STATE_FILE};
pub use error::{ApplyError, OpenError, RationedReadError, ReadError, SnapshotError, WriteError};
#[cfg(feature = "test-faults")]
pub use hostile_disk::{DiskFaults, HostileDisk};
pub use log::{LogOptions, LogReader, LogStats, LogStore, LogWrite, NodeMark, RecoveredLog, TRUNCATE_STEP_ENTRIES};
pub use overlay_disk::OverlayDisk;
pub use quorate_wire::Identity;
pub use real_disk::{DirectoryError, LOCK_FILE, RealDisk};
pub use snapshot::{ReceivedSnapshot, SnapshotSink, SnapshotSource};
pub use state::{
    AppliedBatch, AppliedEntry, Forgotten, History, RecordTotals, RevisionHash, RevisionHasher, StateOptions,
    StatePlace, StateStats, StateStore, StateStream, StateView, StreamChunk,
};
pub use stores::{OpenedStores, StoreOptions};
#[cfg(any(feature = "testing", feature = "test-faults"))]
pub use stray::stray;
