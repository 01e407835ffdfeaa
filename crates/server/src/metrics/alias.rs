//! The etcd names of metrics, for dashboards and alerts made for etcd.
//!
//! A copy is made of the whole family while encoding. Only names whose meaning is the same are here.

use prometheus::proto::MetricFamily;

/// Ours, etcd's, and the name etcd gives the label `peer` (empty: none).
const ALIASES: &[(&str, &str, &str)] = &[
    ("quorate_raft_has_leader", "etcd_server_has_leader", ""),
    ("quorate_raft_is_leader", "etcd_server_is_leader", ""),
    ("quorate_raft_is_learner", "etcd_server_is_learner", ""),
    ("quorate_raft_leader_changes_total", "etcd_server_leader_changes_seen_total", ""),
    ("quorate_raft_proposals_failed_total", "etcd_server_proposals_failed_total", ""),
    ("quorate_raft_proposals_pending", "etcd_server_proposals_pending", ""),
    ("quorate_raft_commit_index", "etcd_server_proposals_committed_total", ""),
    ("quorate_raft_applied_index", "etcd_server_proposals_applied_total", ""),
    ("quorate_raft_read_indexes_failed_total", "etcd_server_read_indexes_failed_total", ""),
    ("quorate_client_requests_total", "etcd_server_client_requests_total", ""),
    ("quorate_quota_bytes", "etcd_server_quota_backend_bytes", ""),
    ("quorate_alarms", "etcd_debugging_server_alarms", ""),
    ("quorate_log_sync_seconds", "etcd_disk_wal_fsync_duration_seconds", ""),
    ("quorate_log_appended_bytes_total", "etcd_disk_wal_write_bytes_total", ""),
    ("quorate_state_commit_seconds", "etcd_disk_backend_commit_duration_seconds", ""),
    ("quorate_state_allocated_bytes", "etcd_mvcc_db_total_size_in_bytes", ""),
    ("quorate_state_live_bytes", "etcd_mvcc_db_total_size_in_use_in_bytes", ""),
    ("quorate_keys", "etcd_debugging_mvcc_keys_total", ""),
    ("quorate_revision", "etcd_debugging_mvcc_current_revision", ""),
    ("quorate_compact_revision", "etcd_debugging_mvcc_compact_revision", ""),
    ("quorate_watch_streams", "etcd_debugging_mvcc_watch_stream_total", ""),
    ("quorate_watches", "etcd_debugging_mvcc_watcher_total", ""),
    ("quorate_watches_behind", "etcd_debugging_mvcc_slow_watcher_total", ""),
    ("quorate_watch_events_total", "etcd_debugging_mvcc_events_total", ""),
    ("quorate_watch_queued_answers", "etcd_debugging_mvcc_pending_events_total", ""),
    ("quorate_leases_granted_total", "etcd_debugging_lease_granted_total", ""),
    ("quorate_leases_revoked_total", "etcd_debugging_lease_revoked_total", ""),
    ("quorate_leases_renewed_total", "etcd_debugging_lease_renewed_total", ""),
    ("quorate_leases_expired_total", "etcd_debugging_server_lease_expired_total", ""),
    ("quorate_lease_ttl_seconds", "etcd_debugging_lease_ttl_total", ""),
    ("quorate_client_sent_bytes_total", "etcd_network_client_grpc_sent_bytes_total", ""),
    ("quorate_client_received_bytes_total", "etcd_network_client_grpc_received_bytes_total", ""),
    ("quorate_peer_sent_bytes_total", "etcd_network_peer_sent_bytes_total", "To"),
    ("quorate_peer_received_bytes_total", "etcd_network_peer_received_bytes_total", "From"),
    ("quorate_peer_send_failures_total", "etcd_network_peer_sent_failures_total", "To"),
    ("quorate_peer_connected", "etcd_network_active_peers", "Remote"),
    ("quorate_peer_known", "etcd_network_known_peers", "Remote"),
    ("quorate_peer_disconnects_total", "etcd_network_disconnected_peers_total", "Remote"),
    ("process_open_fds", "os_fd_used", ""),
    ("process_max_fds", "os_fd_limit", ""),
    ("quorate_peer_round_trip_seconds", "etcd_network_peer_round_trip_time_seconds", "To"),
];

/// Adds a copy under etcd's name of every family that has one.
pub(super) fn append_etcd_names(families: &mut Vec<MetricFamily>) {
    let mut copies = Vec::with_capacity(ALIASES.len());
    for family in families.iter() {
        let Some((_, name, label)) = ALIASES.iter().find(|(ours, _, _)| *ours == family.name()) else { continue };
        let mut copy = family.clone();
        copy.set_name((*name).to_string());
        if !label.is_empty() {
            for metric in copy.mut_metric() {
                for pair in metric.mut_label().iter_mut().filter(|pair| pair.name() == "peer") {
                    pair.set_name((*label).to_string());
                }
            }
        }
        copies.push(copy);
    }
    families.append(&mut copies);
}
