//! What everybody must be able to see of a node that does not trust its own data.

use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::etcdserverpb::{AlarmRequest, AlarmType, RangeRequest};
use quorate_tests::cluster::{Cluster, wait_for};
use quorate_tests::load::{put, read};
use quorate_tests::node::get;

/// Waits until the node at `victim` bars itself; then its probes, metrics, status, alarms and log must say so, for the
/// reason that contains `because`, it must answer no client, and no other node may say so of itself.
pub(crate) async fn assert_barred(cluster: &mut Cluster, victim: usize, state: &str, because: &str) {
    let metrics = cluster.nodes[victim].config.metrics;
    let ready = wait_for(&format!("the node to be {state}"), || async {
        get(metrics, "/readyz").await.filter(|answer| answer.contains(state))
    })
    .await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains(because), "{ready}");
    let health = get(metrics, "/health").await.expect("it is up");
    assert!(health.starts_with("HTTP/1.1 503") && health.contains("ALARM CORRUPT"), "{health}");
    assert!(get(metrics, "/livez").await.expect("it is up").starts_with("HTTP/1.1 200"));
    let figures = get(metrics, "/metrics").await.expect("it is up");
    assert!(figures.contains(&format!("quorate_node_state{{state=\"{state}\"}} 1")), "{figures}");
    assert!(figures.contains("quorate_alarms{alarm_type=\"CORRUPT\""), "{figures}");
    let status = cluster.nodes[victim].ctl(&["status"]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains(&format!("{state}: ")) && status.contains(because), "{status}");
    let logged = std::fs::read_to_string(cluster.nodes[victim].log_path()).expect("a log");
    assert!(logged.contains(because), "{logged}");
    let mut maintenance = MaintenanceClient::new(cluster.channel(victim));
    let alarms = maintenance.alarm(AlarmRequest::default()).await.expect("it tells its alarms").into_inner().alarms;
    assert!(alarms.iter().any(|alarm| alarm.alarm() == AlarmType::Corrupt && alarm.member_id != 0), "{alarms:?}");

    let mut client = KvClient::new(cluster.channel(victim));
    let linearizable = read(&mut client, "key-0").await.expect_err("it reads nothing");
    let stale = RangeRequest { key: b"key-0".to_vec().into(), serializable: true, ..RangeRequest::default() };
    let stale = client.range(stale).await.expect_err("it reads nothing of its own");
    let written = put(&mut client, "by-a-barred-node", "1").await.expect_err("it writes nothing");
    for refused in [linearizable, stale, written] {
        assert!(refused.message().contains(because), "{refused}");
    }
    assert!(cluster.nodes[victim].is_running(), "{}", cluster.nodes[victim].log_tail());
    for other in (0..cluster.nodes.len()).filter(|other| *other != victim) {
        let figures = get(cluster.nodes[other].config.metrics, "/metrics").await.expect("it is up");
        assert!(figures.contains("quorate_node_state{state=\"member\"} 1"), "{figures}");
        assert!(!figures.contains("quorate_alarms{"), "{figures}");
    }
}
