//! What a replica says about itself.

use std::time::Duration;

use quorate_raft::{LogIndex, Status};
use quorate_wire::peer::NodeState;

use crate::input::AppliedState;

/// A replica's view of itself: a copy that steers nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeStatus {
    /// Consensus: role, term, leader, log positions, configurations, followers.
    pub raft: Status,
    /// Member, joining, removed or fenced.
    pub state: NodeState,
    /// Why, if removed or fenced; else empty.
    pub state_reason: String,
    /// Where the state machine stands.
    pub applied: AppliedState,
    /// Up to here the state file is durable.
    pub durable_applied: LogIndex,
    /// How old the state may be; None = not known. Zero on a leader under its lease.
    pub staleness: Option<Duration>,
    /// Whether the lease allows local linearizable reads at this moment.
    pub lease_valid: bool,
    /// Writes of this node's clients that are not answered.
    pub pending_writes: usize,
    /// Their bytes.
    pub pending_write_bytes: usize,
    /// Reads that wait.
    pub waiting_reads: usize,
    /// Administrators' requests that wait.
    pub pending_admin: usize,
    /// Entries committed and handed to the state machine, not applied yet.
    pub apply_backlog_entries: u64,
    /// Messages that wait for a log write.
    pub held_messages: usize,
    /// Messages dropped because too many waited for a log write.
    pub dropped_messages: u64,
    /// Approximate bytes of the log.
    pub log_bytes: u64,
    /// Images being sent.
    pub snapshot_streams: usize,
    /// Last index at which this node's state hash was found equal to a quorum's.
    pub verified: LogIndex,
    /// The disk or the quota is full.
    pub disk_full: bool,
    /// On its way out.
    pub stopping: bool,
}
