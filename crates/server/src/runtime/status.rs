//! A node's own view of itself, as shown by `Admin.Status`, `/readyz` and the metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_raft::{Incarnation, LogIndex, Membership, NodeId, RoleKind, Term};
use quorate_wire::Identity;
use quorate_wire::peer::NodeState;

/// One look at a replica. Cheap to take: the node is not asked.
#[derive(Debug, Clone)]
pub struct ReplicaStatus {
    /// Where the node is in its life.
    pub state: NodeState,
    /// Why it is removed, fenced or damaged; else empty.
    pub state_reason: String,
    /// Name from the command line.
    pub name: String,
    /// Random name of this data folder.
    pub incarnation: Incarnation,
    /// `None` while uninitialised.
    pub identity: Option<Identity>,
    /// Peer address this node advertises.
    pub peer_address: String,
    /// Client addresses this node advertises.
    pub client_addresses: Vec<String>,
    /// Newest format version this build reads and writes.
    pub max_version: u32,
    /// Consensus figures; `None` without a running node.
    pub raft: Option<RaftView>,
    /// Figures of the key space; zero without a running node.
    pub space: SpaceView,
    /// Figures of both data files.
    pub disk: DiskView,
    /// Figures of watches; zero without a running node.
    pub watches: WatchView,
    /// Puts are refused: the disk is full, or the alarm NOSPACE of any member stands.
    pub no_space: bool,
    /// The quota of [`super::ReplicaConfig::quota_bytes`].
    pub quota_bytes: u64,
    /// Those of all members, as this node knows them.
    pub alarms: quorate_kv::Alarms,
}

/// Who answers, and in which term. Zeros while the node runs in no cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Its cluster.
    pub cluster_id: u128,
    /// Its id.
    pub node_id: u64,
    /// Its term.
    pub term: u64,
}

/// The consensus side of a [`ReplicaStatus`], at most a heartbeat old except for `applied`.
#[derive(Debug, Clone)]
pub struct RaftView {
    /// Role in `term`.
    pub role: RoleKind,
    /// Newest term seen.
    pub term: Term,
    /// Leader of `term`, if known.
    pub leader: Option<NodeId>,
    /// First entry still in the log.
    pub first: LogIndex,
    /// Last entry of the log.
    pub last: LogIndex,
    /// Its term.
    pub last_term: Term,
    /// Last committed entry known here.
    pub commit: LogIndex,
    /// Last applied entry.
    pub applied: LogIndex,
    /// The last committed configuration, and its index.
    pub membership: (LogIndex, Arc<Membership>),
    /// The configuration in force (effective on append), and its index.
    pub effective: (LogIndex, Arc<Membership>),
    /// Whether the lease allows local linearizable reads at this moment.
    pub lease_valid: bool,
    /// Age of the newest proof that the state is current.
    pub staleness: Option<Duration>,
    /// On a leader: how far each other member is.
    pub followers: BTreeMap<NodeId, FollowerView>,
}

/// A leader's view of one other member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerView {
    /// Last entry known to be durable there.
    pub matched: LogIndex,
    /// Answered within the last election timeout.
    pub active: bool,
    /// Is being sent a snapshot.
    pub snapshot: bool,
}

/// The state machine side of a [`ReplicaStatus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpaceView {
    /// Store revision.
    pub revision: i64,
    /// Reads below this revision are refused.
    pub compact_revision: i64,
    /// Digest of everything applied, equal on all nodes at the same applied index.
    pub digest: u128,
    /// The index `digest` belongs to.
    pub digest_index: LogIndex,
    /// Live keys.
    pub keys: u64,
    /// Leases.
    pub leases: u64,
    /// Changes of users, roles and rights.
    pub auth_revision: u64,
}

/// The disk side of a [`ReplicaStatus`], in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskView {
    /// Blocks the file system has given to the state file.
    pub state_allocated: u64,
    /// Records of the state file; what the quota counts.
    pub state_in_use: u64,
    /// Blocks the file system has given to the log file.
    pub log_allocated: u64,
    /// Entries of the log file, about.
    pub log_in_use: u64,
    /// The applied index that survives a crash without the log.
    pub durable_applied: LogIndex,
}

/// Watches of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WatchView {
    /// Open streams.
    pub streams: usize,
    /// Watches of all streams.
    pub watches: usize,
    /// Watches that read back what they missed.
    pub behind: usize,
    /// Events told, once for each watch that was told.
    pub events_told: u64,
    /// Answers that wait for clients.
    pub queued_answers: usize,
    /// Their bytes.
    pub queued_bytes: usize,
}

/// What readiness and waiting callers watch; a new value is published when any field changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusChange {
    /// Where the node is in its life.
    pub state: NodeState,
    /// Role in `term`.
    pub role: Option<RoleKind>,
    /// Newest term seen.
    pub term: Term,
    /// Leader known in `term`.
    pub leader: Option<NodeId>,
    /// Index of the committed configuration.
    pub config_index: LogIndex,
    /// The committed configuration is joint, or a target is in flight.
    pub changing: bool,
    /// Writes are refused for lack of space.
    pub no_space: bool,
    /// The configuration in force, committed or not, no longer lists this node.
    pub leaving: bool,
}
