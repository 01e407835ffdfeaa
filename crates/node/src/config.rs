//! What a replica is told once: its own member record, timing, and every limit by name.

use std::time::Duration;

use quorate_kv::Command;
use quorate_raft::Member;

use crate::forward::is_renewal;

/// What a replica is told at its start.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeConfig {
    /// Timing and flow control of consensus.
    pub raft: quorate_raft::Config,
    /// This node as it wants to be known. Announced through the log where the configuration says otherwise.
    pub member: Member,
    /// A request is given up after this and two election timeouts.
    pub request_timeout: Duration,
    /// How much log is kept.
    pub retention: Retention,
    /// Past each of these, requests are refused or wait.
    pub limits: Limits,
    /// State hashes are compared at multiples of this many entries. Every node of a cluster must have the same.
    pub digest_every_entries: u64,
}

/// How much of the log is kept behind the applied index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// At least this many entries, so that a node that was away briefly needs no image; unless `max_log_bytes` is passed.
    pub keep_entries: u64,
    /// The log is cut when it can shrink by this many entries at once (etcd's `snapshot-count`).
    pub step_entries: u64,
    /// Above this size more than `keep_entries` allows is cut, down to the last durable applied index.
    pub max_log_bytes: u64,
}

/// Limits of queues and batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Writes taken from clients and not answered yet.
    pub max_pending_writes: usize,
    /// Their bytes.
    pub max_pending_write_bytes: usize,
    /// Past this many, no more are taken than this node saw done in the last second.
    pub unpaced_writes: usize,
    /// On the leader: entries proposed, also for others, and not applied yet.
    pub max_unapplied_proposals: usize,
    /// Their bytes.
    pub max_unapplied_proposal_bytes: usize,
    /// Entries committed and not applied yet; past it the leader takes no writes.
    pub max_apply_backlog_entries: u64,
    /// Bytes of entries handed to the state machine and not applied yet; past it a follower takes no more entries.
    pub max_apply_backlog_bytes: usize,
    /// Renewals of leases that are taken past each of the limits of writes above, if not past those of the backlog: the end of a
    /// lease waits for no place, so whoever had no place for a renewal would lose the lease.
    pub spare_renewals: usize,
    /// Their bytes.
    pub spare_renewal_bytes: usize,
    /// Reads that wait for an index, a revision or a bound.
    pub max_waiting_reads: usize,
    /// ReadIndex requests under way; later reads share the next one.
    pub max_read_rounds: usize,
    /// Administrators' requests that wait for an answer.
    pub max_admin_requests: usize,
    /// Commands of one message to the leader.
    pub max_forward_bytes: usize,
    /// Distance of the oldest unsettled write of a run from its newest forwarded one; bounds what the leader remembers.
    pub max_forward_span: u64,
    /// Messages that wait for a log write.
    pub max_held_messages: usize,
    /// Images being sent at once.
    pub max_snapshot_streams: usize,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { keep_entries: 20_000, step_entries: 10_000, max_log_bytes: 512 << 20 }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_pending_writes: 20_000,
            max_pending_write_bytes: 128 << 20,
            unpaced_writes: 2048,
            max_unapplied_proposals: 40_000,
            max_unapplied_proposal_bytes: 256 << 20,
            max_apply_backlog_entries: 5_000,
            max_apply_backlog_bytes: 128 << 20,
            // A node gathers its renewals into one at a time, of 100 KB at most; those given up may still wait at the leader.
            spare_renewals: 64,
            spare_renewal_bytes: 8 << 20,
            max_waiting_reads: 50_000,
            max_read_rounds: 2,
            max_admin_requests: 64,
            max_forward_bytes: 1 << 20,
            max_forward_span: 65_536,
            max_held_messages: 65_536,
            max_snapshot_streams: 2,
        }
    }
}

impl Limits {
    /// How many writes and bytes may be beyond a limit for the sake of `command`.
    pub(crate) fn spare_for(&self, command: &Command) -> (usize, usize) {
        if is_renewal(command) { (self.spare_renewals, self.spare_renewal_bytes) } else { (0, 0) }
    }
}

impl NodeConfig {
    /// The defaults for a node that wants to be known as `member`.
    pub fn new(raft: quorate_raft::Config, member: Member) -> NodeConfig {
        NodeConfig {
            raft,
            member,
            request_timeout: Duration::from_secs(5),
            retention: Retention::default(),
            limits: Limits::default(),
            digest_every_entries: 512,
        }
    }

    /// How long a request may take in all: long enough to outlive one leader.
    pub(crate) fn deadline(&self) -> Duration {
        self.request_timeout + 2 * self.raft.election_timeout
    }
}
