//! An upgrade to the next format version, and the way back while the cluster's version has not risen.

use std::time::Duration;

use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_tests::cluster::{Cluster, wait_for};
use quorate_tests::load::{Load, LoadConfig, read};
use quorate_tests::node::Build;

/// The cluster's version as the node at `position` reports it; `None` if it does not answer.
fn cluster_version(cluster: &Cluster, position: usize) -> Option<u64> {
    let output = cluster.nodes[position].ctl(&["--output", "json", "status"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    status["cluster_version"].as_u64()
}

async fn wait_until_it_serves(cluster: &Cluster, position: usize) {
    wait_for("the restarted node to serve", || async {
        read(&mut KvClient::new(cluster.channel(position)), "key-0").await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_version_rises_last_and_the_way_back_is_open_until_then() {
    let mut cluster = Cluster::start(3, &[]).await;
    let load = Load::start(&LoadConfig {
        endpoints: cluster.endpoints(),
        clients: 4,
        keys: 5,
        read_every: 3,
        by_lease: false,
        pace: Duration::from_millis(5),
        move_on_failure: true,
    });

    for position in [0, 1] {
        cluster.nodes[position].restart_as(Build::Next);
        wait_until_it_serves(&cluster, position).await;
        assert_eq!(cluster_version(&cluster, position), Some(1));
    }
    // The way back: one node returns to the build it came from, on the data the newer one wrote.
    cluster.nodes[1].restart_as(Build::Current);
    wait_until_it_serves(&cluster, 1).await;
    assert_eq!(cluster_version(&cluster, 1), Some(1));

    for position in [1, 2] {
        cluster.nodes[position].restart_as(Build::Next);
        wait_until_it_serves(&cluster, position).await;
    }
    wait_for("the cluster's version to rise", || async { (cluster_version(&cluster, 0) == Some(2)).then_some(()) })
        .await;

    // Now the older build must not touch the data, and must say so.
    wait_for("the last node to know", || async { (cluster_version(&cluster, 2) == Some(2)).then_some(()) }).await;
    assert!(cluster.nodes[2].stop());
    cluster.nodes[2].config.build = Build::Current;
    cluster.nodes[2].restart();
    wait_for("the older build to refuse", || async {
        cluster.nodes[2].log_tail().contains("run a newer build").then_some(())
    })
    .await;
    cluster.nodes[2].kill();
    cluster.nodes[2].config.build = Build::Next;
    cluster.nodes[2].restart();
    wait_until_it_serves(&cluster, 2).await;

    let report = load.finish().await;
    assert!(report.history.acknowledged() > 100);
    if let Err(contradiction) = report.history.check() {
        panic!("{contradiction}\n{}", cluster.logs());
    }
}
