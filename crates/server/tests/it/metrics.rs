//! The metrics by which etcd's own alerts and dashboards, and those made after them, know a cluster.

use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, RequestOp, TxnRequest, request_op,
};
use tokio_stream::StreamExt as _;

use crate::cluster::PATIENCE;
use crate::served::{Served, put, range};
use crate::watcher::{Watcher, watch};

/// What etcd's thirteen alerts and its dashboard read, with the labels that they name.
const ALERTS_AND_DASHBOARD: &[&str] = &[
    "process_resident_memory_bytes ",
    "etcd_server_has_leader 1",
    "etcd_server_leader_changes_seen_total ",
    "etcd_server_proposals_failed_total ",
    "etcd_server_proposals_pending ",
    "etcd_server_proposals_committed_total ",
    "etcd_server_proposals_applied_total ",
    "etcd_server_quota_backend_bytes ",
    "etcd_disk_wal_fsync_duration_seconds_bucket{le=",
    "etcd_disk_wal_fsync_duration_seconds_count ",
    "etcd_disk_wal_fsync_duration_seconds_sum ",
    "etcd_disk_backend_commit_duration_seconds_bucket{le=",
    "etcd_mvcc_db_total_size_in_bytes ",
    "etcd_mvcc_db_total_size_in_use_in_bytes ",
    "etcd_network_client_grpc_sent_bytes_total ",
    "etcd_network_client_grpc_received_bytes_total ",
    "etcd_network_peer_sent_bytes_total{To=\"",
    "etcd_network_peer_received_bytes_total{From=\"",
    "etcd_network_peer_sent_failures_total{To=\"",
    "etcd_network_peer_round_trip_time_seconds_bucket{To=\"",
    "grpc_server_started_total{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
    "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
    "grpc_server_handling_seconds_bucket{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\",le=\"",
    "grpc_server_handling_seconds_count{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
    // Open streams are counted as those started less those handled.
    "grpc_server_started_total{grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 1",
    "grpc_server_started_total{grpc_method=\"LeaseKeepAlive\",grpc_service=\"etcdserverpb.Lease\",grpc_type=\"bidi_stream\"} 1",
];

/// More of etcd's catalogue.
const CATALOGUE: &[&str] = &[
    "etcd_server_is_leader ",
    "etcd_server_is_learner 0",
    "etcd_server_id{server_id=\"",
    "etcd_server_version{server_version=\"3.7.3\"} 1",
    "etcd_cluster_version{cluster_version=\"3.7\"} 1",
    "etcd_server_health_success 1",
    "etcd_server_health_failures 0",
    "etcd_server_healthcheck{name=\"serializable_read\",type=\"readyz\"} 1",
    "etcd_server_healthchecks_total{name=\"serializable_read\",status=\"success\",type=\"readyz\"} 1",
    "etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"unary\"} ",
    "etcd_server_slow_apply_total ",
    "etcd_server_slow_read_indexes_total 0",
    "etcd_server_read_indexes_failed_total 0",
    "etcd_server_learner_promote_successes 0",
    "etcd_server_range_duration_seconds_count{success=\"true\"} ",
    "etcd_network_active_peers{Remote=\"",
    "etcd_network_known_peers{Remote=\"",
    "etcd_network_disconnected_peers_total{Remote=\"",
    "etcd_mvcc_put_total 3",
    "etcd_mvcc_delete_total 1",
    "etcd_mvcc_txn_total 1",
    "etcd_mvcc_range_total ",
    "etcd_debugging_mvcc_keys_total ",
    "etcd_debugging_mvcc_current_revision ",
    "etcd_debugging_mvcc_compact_revision ",
    "etcd_debugging_mvcc_watch_stream_total 1",
    "etcd_debugging_mvcc_watcher_total 1",
    "etcd_debugging_mvcc_slow_watcher_total 0",
    "etcd_debugging_mvcc_events_total ",
    "etcd_debugging_mvcc_pending_events_total ",
    "etcd_debugging_lease_granted_total 1",
    "etcd_debugging_lease_revoked_total 0",
    "etcd_debugging_lease_renewed_total 1",
    "etcd_debugging_lease_ttl_total_count 1",
    "etcd_debugging_server_lease_expired_total 0",
    "etcd_debugging_auth_revision ",
    "etcd_disk_wal_write_bytes_total ",
    "os_fd_used ",
    "os_fd_limit ",
    "process_cpu_seconds_total ",
    "process_open_fds ",
    "process_start_time_seconds ",
    "process_virtual_memory_bytes ",
];

/// Does one of everything on the node.
async fn use_it(served: &Served) -> Watcher {
    let mut watcher = Watcher::open(served.channel()).await;
    watcher.create(watch("a", 0)).await;
    served.put("a", "1").await;
    watcher.events(1).await;
    let op = |request| RequestOp { request: Some(request) };
    let (put, delete) = (put("b", "1"), DeleteRangeRequest { key: "a".into(), ..DeleteRangeRequest::default() });
    let success = vec![
        op(request_op::Request::RequestPut(put.clone())),
        op(request_op::Request::RequestPut(crate::served::put("c", "1"))),
        op(request_op::Request::RequestDeleteRange(delete)),
    ];
    served.kv().txn(TxnRequest { success, ..TxnRequest::default() }).await.expect("done");
    served.kv().range(range("b")).await.expect("read");
    let mut leases = LeaseClient::new(served.channel());
    leases.lease_grant(LeaseGrantRequest { ttl: 60, id: 1 }).await.expect("granted");
    let alive = tokio_stream::once(LeaseKeepAliveRequest { id: 1 });
    let answers: Vec<_> = leases.lease_keep_alive(alive).await.expect("opened").into_inner().collect().await;
    assert_eq!(answers.len(), 1);
    assert_eq!(served.http("GET", "/health", b"").await.status, 200);
    assert_eq!(served.http("GET", "/readyz", b"").await.status, 200);
    watcher
}

#[tokio::test(flavor = "multi_thread")]
async fn what_etcds_alerts_and_dashboards_read_is_there() {
    let nodes = Served::together(2).await;
    let watcher = use_it(&nodes[0]).await;
    // The state is made durable each second, and the way to a peer measured each two.
    let missing = |metrics: &str| -> Vec<&str> {
        let wanted = ALERTS_AND_DASHBOARD.iter().chain(CATALOGUE);
        wanted.copied().filter(|wanted| !metrics.lines().any(|line| line.starts_with(wanted))).collect()
    };
    let all_there = async {
        loop {
            let metrics = nodes[0].http("GET", "/metrics", b"").await.text();
            let measured = !metrics.contains("etcd_disk_backend_commit_duration_seconds_count 0");
            let connected =
                metrics.lines().any(|line| line.starts_with("etcd_network_active_peers{") && line.ends_with(" 1"));
            if measured && connected {
                return metrics;
            }
        }
    };
    let metrics = tokio::time::timeout(PATIENCE, all_there).await.expect("in time");
    assert_eq!(missing(&metrics), Vec::<&str>::new(), "in\n{metrics}");
    drop(watcher);
    for node in &nodes {
        node.server.replica().clone().halt().await;
    }
}
