//! Consensus as a value: `step(now, input) -> effects`.
//!
//! Owns Raft in full: elections with pre-vote and check-quorum, log replication, joint membership changes, leadership
//! transfer, linearizable reads, leases. Does no IO, reads no clock, draws no random number, knows no wire format:
//! time, jitter and finished writes come in, messages and writes go out.

#[macro_use]
mod mutant;

mod append;
mod change;
mod check;
mod config;
mod effect;
mod election;
mod entry;
mod freshness;
mod ids;
mod input;
mod leader;
mod lease;
mod log;
mod membership;
mod message;
mod plan;
mod progress;
mod raft;
mod read_index;
mod replicate;
mod role;
mod single;
mod snapshot;
mod status;
mod transfer;
mod writes;

pub use config::Config;
pub use effect::{Effect, ReadRefused, Refused, TransferFailed};
pub use entry::{Entry, HardState, Payload};
pub use ids::{Incarnation, LogIndex, NodeId, ReadId, RequestId, Round, Term, Time, WriteSeq};
pub use input::{Input, MemberChange, Restored, SnapshotMeta, VoterTarget};
pub use membership::{MAX_REMOVED, Member, Membership, quorum_size};
pub use message::{AppendResult, Body, Echo, Message};
pub use raft::Raft;
pub use status::{PeerStatus, ReplicationState, RoleKind, Status};
