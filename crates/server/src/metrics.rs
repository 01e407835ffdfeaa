//! Every figure a node publishes, one field a metric, and their text for a scraper.
//!
//! Counters and histograms are recorded where things happen. Gauges that restate a node's status are set only when
//! somebody scrapes, by [`Metrics::observe`], so that a step of the node costs no gauge writes.
//! The etcd names that dashboards know are copies made while encoding (`alias`): nothing is recorded twice.
//!
//! Never decides anything: no other module reads a metric back.

mod alias;
mod etcd;
mod grpc;
mod lease;
mod make;
mod network;
mod raft;
mod reads;
mod status;
mod storage;
mod watches;

use prometheus::{Encoder, Registry, TextEncoder};

pub use self::etcd::EtcdMetrics;
pub use self::grpc::{GrpcMetrics, MethodCounters, MethodKind};
pub use self::lease::LeaseMetrics;
pub use self::network::NetworkMetrics;
pub(crate) use self::network::PeerSeries;
pub use self::raft::RaftMetrics;
pub use self::reads::{ReadMetrics, ReadOutcome, RequestMetrics};
pub use self::storage::StorageMetrics;
pub use self::watches::WatchMetrics;

/// All metrics of one node. `quorate dev` has one of these for each of its nodes.
#[derive(Debug)]
pub struct Metrics {
    /// Terms, elections, replication, membership, snapshots.
    pub raft: RaftMetrics,
    /// Log file and state file.
    pub storage: StorageMetrics,
    /// Leases.
    pub lease: LeaseMetrics,
    /// Reads by consistency and outcome.
    pub reads: ReadMetrics,
    /// Writes, forwards, queues and limits.
    pub requests: RequestMetrics,
    /// Bytes and round trips, by peer and of clients.
    pub network: NetworkMetrics,
    /// Calls by gRPC method.
    pub grpc: GrpcMetrics,
    /// Watches.
    pub watches: WatchMetrics,
    /// Figures with a name of etcd's alone.
    pub etcd: EtcdMetrics,
    registry: Registry,
}

impl Metrics {
    /// A fresh set with every counter at zero.
    ///
    /// # Panics
    /// If two metrics share a name, which only a bug can do.
    pub fn new() -> Self {
        let registry = Registry::new();
        let make = make::Make::new(&registry);
        let metrics = Metrics {
            raft: RaftMetrics::new(&make),
            storage: StorageMetrics::new(&make),
            lease: LeaseMetrics::new(&make),
            reads: ReadMetrics::new(&make),
            requests: RequestMetrics::new(&make),
            network: NetworkMetrics::new(&make),
            grpc: GrpcMetrics::new(&make),
            watches: WatchMetrics::new(&make),
            etcd: EtcdMetrics::new(&make),
            registry,
        };
        let process = prometheus::process_collector::ProcessCollector::for_self();
        metrics.registry.register(Box::new(process)).expect("the process collector is registered once");
        metrics
    }

    /// The text exposition format, version 0.0.4, of everything including the etcd names.
    ///
    /// # Errors
    /// If a family cannot be written as text, which the encoder reports for empty families only.
    pub fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut families = self.registry.gather();
        alias::append_etcd_names(&mut families);
        let mut text = Vec::with_capacity(32 * 1024);
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use quorate_raft::NodeId;

    use super::Metrics;

    #[test]
    fn etcd_names_are_copies_of_ours() {
        let metrics = Metrics::new();
        metrics.storage.log_sync_seconds.observe(0.002);
        metrics.network.peer_sent_bytes_total.with_label_values(&["7"]).inc_by(10);
        let text = String::from_utf8(metrics.encode().expect("encodes")).expect("is text");
        assert!(text.contains("\nquorate_log_sync_seconds_count 1\n"), "{text}");
        assert!(text.contains("\netcd_disk_wal_fsync_duration_seconds_count 1\n"), "{text}");
        assert!(text.contains("\netcd_network_peer_sent_bytes_total{To=\"7\"} 10\n"), "{text}");
        assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
    }

    #[test]
    fn who_left_has_no_series() {
        let metrics = Metrics::new();
        let text = || String::from_utf8(metrics.encode().expect("encodes")).expect("is text");
        let series = metrics.network.begin_peer(NodeId(7));
        let connected = series.connected();
        assert!(text().contains("\nquorate_peer_connected{peer=\"7\"} 1\n"), "{}", text());
        metrics.network.end_peer(NodeId(7));
        // The link's task ends a little later.
        drop(connected);
        series.send_failures.inc();
        assert!(!text().contains("peer=\"7\""), "{}", text());
    }
}
