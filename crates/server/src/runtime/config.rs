//! What a replica is told at its start. Nothing here changes while it runs.
//!
//! Invariant: everything that can queue has its limit here or as a named constant beside the queue.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::Metrics;

/// Everything [`super::Replica::start`] needs.
#[derive(Debug)]
pub struct ReplicaConfig {
    /// Holds both data files and received snapshots; created if absent.
    pub data_dir: PathBuf,
    /// Shown in the member list.
    pub name: String,
    /// Bound by the caller, so that a port can be chosen before it is advertised.
    pub peer_listener: TcpListener,
    /// `HOST:PORT` under which other nodes reach the peer port.
    pub advertise_peer: String,
    /// `HOST:PORT` or URLs under which clients reach the client port.
    pub advertise_client: Vec<String>,
    /// Time between a leader's heartbeats.
    pub heartbeat_interval: Duration,
    /// A follower that hears nothing for this long (and up to twice as long) campaigns.
    pub election_timeout: Duration,
    /// The log is cut when it can shrink by this many entries at once.
    pub snapshot_count: u64,
    /// Entries the log keeps behind the durable applied index for followers that lag.
    pub keep_log_entries: u64,
    /// Largest encoded write request in bytes.
    pub max_request_bytes: usize,
    /// Writes are refused above this many live bytes of the state file; 0 = no quota.
    pub quota_bytes: u64,
    /// Bytes of the state file's page cache.
    pub state_cache_bytes: usize,
    /// Client requests a node holds unanswered; more are refused with `TooManyRequests`.
    pub max_pending_requests: usize,
    /// Open connections of the peer port; past it those go that are known least.
    pub max_peer_connections: usize,
    /// A request unanswered for this long fails with `Timeout`.
    pub request_timeout: Duration,
    /// Clusters that must never run again: data of one is set aside at the start.
    pub retired_clusters: BTreeSet<u128>,
    /// Leases at one time; with more this node asks for none. Grants that are under way at once may pass it by as many.
    pub max_leases: usize,
    /// Watches of this node at one time.
    pub max_watches: usize,
    /// A watch that wants reports of progress gets one after this long without events.
    pub watch_progress_interval: Duration,
    /// Where the replica records what it does.
    pub metrics: Arc<Metrics>,
}

impl ReplicaConfig {
    /// The defaults of `quorate server` for a node with this folder, name and peer listener.
    #[must_use]
    pub fn new(data_dir: PathBuf, name: String, peer_listener: TcpListener) -> ReplicaConfig {
        let advertise_peer = peer_listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
        ReplicaConfig {
            data_dir,
            name,
            peer_listener,
            advertise_peer,
            advertise_client: Vec::new(),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            snapshot_count: 10_000,
            keep_log_entries: 20_000,
            max_request_bytes: 3 * 512 * 1024,
            quota_bytes: 2 * 1024 * 1024 * 1024,
            state_cache_bytes: 64 * 1024 * 1024,
            max_pending_requests: 16 * 1024,
            // As many peers as there may be links to, with a stream and an image each.
            max_peer_connections: 128,
            request_timeout: Duration::from_secs(5),
            retired_clusters: BTreeSet::new(),
            max_leases: quorate_kv::MAX_LEASES,
            max_watches: 200_000,
            watch_progress_interval: Duration::from_secs(600),
            metrics: Arc::new(Metrics::new()),
        }
    }
}
