//! Kill, pause and restart, with clients at work on every node.

use std::time::{Duration, Instant};

use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_tests::cluster::{Cluster, wait_for};
use quorate_tests::history::{Event, Operation};
use quorate_tests::load::{Load, LoadConfig, Report, put, read};
use quorate_tests::node::get;

const KEYS: usize = 5;

pub(crate) fn start_load(cluster: &Cluster) -> Load {
    start_load_at(cluster.endpoints(), false)
}

/// The same at these addresses; the reads may trust the leader's lease.
pub(crate) fn start_load_at(endpoints: Vec<String>, by_lease: bool) -> Load {
    Load::start(&LoadConfig {
        endpoints,
        clients: 6,
        keys: KEYS,
        read_every: 3,
        by_lease,
        pace: Duration::from_millis(2),
        move_on_failure: true,
    })
}

/// A put that is tried again: a starved machine may lose its leader for a moment.
pub(crate) async fn put_at_last(cluster: &Cluster, position: usize, key: &str, value: &str) {
    let client = KvClient::new(cluster.channel(position));
    wait_for("a put to be taken", || {
        let mut client = client.clone();
        async move { put(&mut client, key, value).await.ok() }
    })
    .await;
}

/// Waits until the store, as the node at `position` serves it, is `count` revisions further than now.
pub(crate) async fn wait_for_writes(cluster: &Cluster, position: usize, count: i64) {
    let mut goal = None;
    loop {
        let revision = wait_for("a linearizable read", || async {
            let mut client = KvClient::new(cluster.channel(position));
            match read(&mut client, "key-0").await {
                Ok(Event::Read { revision, .. }) => Some(revision),
                _ => None,
            }
        })
        .await;
        if revision >= *goal.get_or_insert(revision + count) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reads every key on every node of the healed cluster, then checks all that was seen.
pub(crate) async fn assert_holds(cluster: &Cluster, report: Report) {
    let mut history = report.history;
    assert!(history.acknowledged() > 100, "too few writes to mean anything: {}", history.acknowledged());
    for position in 0..cluster.nodes.len() {
        for number in 0..KEYS {
            let key = format!("key-{number}");
            let began = Instant::now();
            let event = wait_for("each node to serve reads", || async {
                read(&mut KvClient::new(cluster.channel(position)), &key).await.ok()
            })
            .await;
            history.operations.push(Operation { began, ended: Instant::now(), key, event });
        }
    }
    println!(
        "{} acknowledged, {} unknown, largest gap {:?}, {} errors",
        history.acknowledged(),
        history.unknown(),
        history.largest_gap(),
        report.errors.len()
    );
    if let Err(contradiction) = history.check() {
        panic!("{contradiction}\n{}", cluster.logs());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_leaders_lose_nothing_that_was_acknowledged() {
    let mut cluster = Cluster::start(3, &[]).await;
    let load = start_load(&cluster);
    for _ in 0..3 {
        let leader = cluster.leader().await;
        wait_for_writes(&cluster, leader, 50).await;
        cluster.nodes[leader].kill();
        let next = cluster.leader_other_than(leader).await;
        wait_for_writes(&cluster, next, 50).await;
        cluster.nodes[leader].restart();
        wait_for_writes(&cluster, leader, 10).await;
    }
    assert_holds(&cluster, load.finish().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_is_replaced_and_serves_nothing_stale_when_it_wakes() {
    let cluster = Cluster::start(3, &[]).await;
    // By lease: those are the reads that a sleeper would answer without asking anybody.
    let load = start_load_at(cluster.endpoints(), true);
    for _ in 0..3 {
        let leader = cluster.leader().await;
        wait_for_writes(&cluster, leader, 50).await;
        cluster.nodes[leader].pause();
        let next = cluster.leader_other_than(leader).await;
        wait_for_writes(&cluster, next, 50).await;
        cluster.nodes[leader].resume();
        wait_for_writes(&cluster, leader, 10).await;
    }
    assert_holds(&cluster, load.finish().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_killed_at_once_come_back_with_every_acknowledged_write() {
    let mut cluster = Cluster::start(3, &[]).await;
    let load = start_load(&cluster);
    let leader = cluster.leader().await;
    wait_for_writes(&cluster, leader, 200).await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.restart();
    }
    let leader = cluster.leader().await;
    wait_for_writes(&cluster, leader, 50).await;
    assert_holds(&cluster, load.finish().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_hands_leadership_over_and_ends_with_success() {
    let mut cluster = Cluster::start(3, &[]).await;
    let load = start_load(&cluster);
    let leader = cluster.leader().await;
    wait_for_writes(&cluster, leader, 50).await;
    assert!(cluster.nodes[leader].stop(), "{}", cluster.nodes[leader].log_tail());
    let next = cluster.leader_other_than(leader).await;
    wait_for_writes(&cluster, next, 50).await;
    cluster.nodes[leader].restart();
    wait_for_writes(&cluster, leader, 10).await;
    assert_holds(&cluster, load.finish().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_about_to_stop_says_so_and_serves_whoever_still_comes() {
    let mut cluster = Cluster::start(1, &["--shutdown-delay=1h"]).await;
    let metrics = cluster.nodes[0].config.metrics;
    put_at_last(&cluster, 0, "before", "1").await;
    cluster.nodes[0].begin_stop();
    wait_for("the probe to say it", || async {
        get(metrics, "/readyz").await.filter(|answer| answer.contains("[-]shutdown failed: this node is about to stop"))
    })
    .await;
    put_at_last(&cluster, 0, "after", "2").await;
    assert!(cluster.nodes[0].is_running(), "{}", cluster.nodes[0].log_tail());
    assert!(cluster.nodes[0].hurry(), "{}", cluster.nodes[0].log_tail());
}
