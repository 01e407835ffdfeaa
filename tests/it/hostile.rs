//! Thousands of connections that mean harm, on the real binary: others are served on, memory has a bound, and everything
//! comes back.

use std::time::Duration;

use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_tests::cluster::{Cluster, wait_for};
use quorate_tests::hostile::{
    endless_headers, idle_streams, ping_flood, rapid_reset, silent, unread_ranges, unread_watches,
};
use quorate_tests::load::{Load, LoadConfig, Report, put};

use crate::faults::put_at_last;

/// Little room for answers, and no history that grows: what the node keeps is what the attacks leave.
const FLAGS: &[&str] = &[
    "--max-answer-bytes=16777216",
    "--auto-compaction-mode=revision",
    "--auto-compaction-retention=100",
    "--snapshot-count=100",
    "--snapshot-catchup-entries=100",
];
/// What the node may take more than before while it is attacked. Answers have 16 MiB of it, twice.
const MOST_MORE_BYTES: u64 = 256 << 20;
/// What the allocator may keep of it after a round of attacks.
const SLACK_BYTES: u64 = 48 << 20;
/// Far more than any of these may be made to take.
const FLOOD_BYTES: usize = 256 << 20;
/// What it takes to have the page caches of both files full.
const FILLS: usize = 9;
const SILENT: usize = 3000;
const CONNECTIONS: usize = 20;
const STREAMS: usize = 200;

/// Clients at the node that is attacked, none of whose calls may be refused.
fn start_bystander(cluster: &Cluster) -> Load {
    Load::start(&LoadConfig {
        endpoints: vec![cluster.nodes[0].config.client.to_string()],
        clients: 2,
        keys: 5,
        read_every: 3,
        by_lease: false,
        pace: Duration::from_millis(5),
        move_on_failure: false,
    })
}

async fn wait_for_puts(cluster: &Cluster, during: &str) {
    for number in 0..20 {
        put_at_last(cluster, 0, "during", &format!("{during}-{number}")).await;
    }
    let more = cluster.nodes[0].memory_bytes();
    println!("{during}: memory {} MiB, {} files", more >> 20, cluster.nodes[0].open_files());
}

/// Every attack, one after the other; each holds what it has while the bystanders are served.
async fn attack(cluster: &Cluster) {
    let address = cluster.nodes[0].config.client;
    let held = silent(address, SILENT).await;
    wait_for_puts(cluster, "silent connections").await;
    drop(held);

    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(idle_streams(address, STREAMS).await);
    }
    wait_for_puts(cluster, "idle streams").await;
    drop(held);

    for _ in 0..CONNECTIONS {
        let calls = rapid_reset(address, 20_000).await;
        assert!(calls < 20_000, "nobody ended a connection that took back all of its calls");
    }
    wait_for_puts(cluster, "rapid reset").await;

    for _ in 0..CONNECTIONS {
        let taken = endless_headers(address, FLOOD_BYTES).await;
        assert!(taken < FLOOD_BYTES, "headers without end are taken without end");
    }
    wait_for_puts(cluster, "headers without end").await;

    let taken = ping_flood(address, FLOOD_BYTES).await;
    assert!(taken < FLOOD_BYTES, "pings whose answers are not read are taken without end");
    wait_for_puts(cluster, "pings").await;

    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(unread_ranges(address, "large-", 20).await);
    }
    wait_for_puts(cluster, "unread answers").await;
    drop(held);

    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(unread_watches(address, "large-", 10).await);
    }
    fill(cluster).await;
    wait_for_puts(cluster, "unread watches").await;
    drop(held);

    let mut calls = tokio::task::JoinSet::new();
    for number in 0..2000 {
        let mut client = KvClient::new(cluster.channel(0));
        calls.spawn(async move { put(&mut client, "cancelled", &number.to_string()).await });
        if number % 100 == 99 {
            calls.abort_all();
            while calls.join_next().await.is_some() {}
        }
    }
    wait_for_puts(cluster, "cancelled calls").await;
}

/// Eight megabytes below one prefix, written anew each time.
async fn fill(cluster: &Cluster) {
    let value = "v".repeat(100_000);
    for number in 0..80 {
        put_at_last(cluster, 0, &format!("large-{number}"), &value).await;
    }
}

/// Nobody is connected any more who was not before, and nobody is watched for: a stream that outlives its connection would be
/// seen neither by connections nor by files.
async fn wait_for_baseline(cluster: &Cluster, files: usize) {
    let node = &cluster.nodes[0];
    wait_for("all connections to be gone", || async {
        let connections = node.metric("quorate_client_connections").await?;
        let watched = node.metric("quorate_watch_streams").await? + node.metric("quorate_watches").await?;
        (connections <= 8.0 && watched == 0.0 && node.open_files() <= files + 16).then_some(())
    })
    .await;
}

fn assert_untroubled(report: Report, cluster: &Cluster) {
    println!(
        "bystanders: {} puts, {:?} at most between two",
        report.history.acknowledged(),
        report.history.largest_gap()
    );
    let is_refused = |error: &&String| !["timed out", "Timeout", "leader"].iter().any(|late| error.contains(late));
    let refused: Vec<&String> = report.errors.iter().filter(is_refused).collect();
    assert!(refused.is_empty(), "{refused:?}\n{}", cluster.logs());
    assert_eq!(report.history.check(), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_hostile_connections_trouble_nobody_and_leave_nothing() {
    let cluster = Cluster::start_adjusted(3, |_, config| {
        config.extra = FLAGS.iter().map(ToString::to_string).collect();
        // One heap for all threads: with one a few threads glibc keeps what each of them once took, and it takes many
        // rounds until that is all there will be.
        config.environment = vec![("MALLOC_ARENA_MAX", "1")];
    })
    .await;
    for _ in 0..FILLS {
        fill(&cluster).await;
    }
    let (memory, files) = (cluster.nodes[0].memory_bytes(), cluster.nodes[0].open_files());
    let bystanders = start_bystander(&cluster);
    let watched = std::sync::atomic::AtomicU64::new(0);
    let watching = async {
        loop {
            watched.fetch_max(cluster.nodes[0].memory_bytes(), std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut after = Vec::new();
    let attacking = async {
        for _ in 0..3 {
            attack(&cluster).await;
            wait_for_baseline(&cluster, files).await;
            after.push(cluster.nodes[0].memory_bytes());
        }
    };
    tokio::select! {
        () = watching => {}
        () = attacking => {}
    }
    assert_untroubled(bystanders.finish().await, &cluster);
    let most = watched.into_inner();
    println!("memory: {memory} bytes before, {most} at most, {after:?} after each round");
    assert!(most < memory + MOST_MORE_BYTES, "{memory} bytes before, {most} at most");
    assert!(after.iter().all(|later| *later < memory + SLACK_BYTES), "{memory} bytes before, {after:?} after");
}
