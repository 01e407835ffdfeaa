//! Many leases that run out together, and many watches, on real stores behind a real server.
//!
//! The small sizes run with every test; the large ones by
//! `cargo test --release -p quorate-server --test it -- --ignored --nocapture scale`, which prints what it measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::{LeaseGrantRequest, LeaseLeasesRequest, PutRequest, RangeRequest};
use tokio::task::JoinSet;

use crate::served::{Served, put, range};
use crate::watcher::{Watcher, watch_prefix};

/// Clients that grant at the same time.
const CLIENTS: usize = 64;

/// Grants leases `ids`, each with a key under `lease/`, that end in the second after `end`, or in an hour.
async fn grant(served: &Served, ids: std::ops::Range<i64>, end: Option<Instant>) {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS as i64 {
        let (channel, mut kv) = (served.channel(), served.kv());
        let own: Vec<i64> = ids.clone().filter(|id| id % CLIENTS as i64 == client).collect();
        clients.spawn(async move {
            let mut leases = LeaseClient::new(channel);
            for id in own {
                let ttl = end.map_or(3600, |end| end.saturating_duration_since(Instant::now()).as_secs() as i64 + 1);
                leases.lease_grant(LeaseGrantRequest { ttl, id }).await.expect("granted");
                if end.is_some() {
                    let key = PutRequest { lease: id, ..put(&format!("lease/{id}"), "1") };
                    kv.put(key).await.expect("written");
                }
            }
        });
    }
    clients.join_all().await;
}

/// Lets `due` of `all` leases run out within one second, under writes.
async fn expire(all: i64, due: i64, lead: Duration) {
    let served = Served::alone().await;
    let began = Instant::now();
    grant(&served, due + 1..all + 1, None).await;
    let others_granted = began.elapsed();
    let end = Instant::now() + lead;
    let mut watcher = Watcher::open(served.channel()).await;
    watcher.create(watch_prefix("lease/", 0)).await;
    grant(&served, 1..due + 1, Some(end)).await;
    assert!(Instant::now() < end, "{due} leases were not granted in {lead:?}: the machine is too slow for this size");

    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (mut kv, stopped, count) = (served.kv(), Arc::clone(&stop), Arc::clone(&written));
    let writing = tokio::spawn(async move {
        let mut slowest = Duration::ZERO;
        while !stopped.load(Ordering::Relaxed) {
            let began = Instant::now();
            kv.put(put("other", "1")).await.expect("writes go on");
            slowest = slowest.max(began.elapsed());
            count.fetch_add(1, Ordering::Relaxed);
        }
        slowest
    });
    let (mut gone, mut first, mut before) = (0, None, 0);
    while gone < due {
        let answer = watcher.next().await;
        let deleted = answer.events.iter().filter(|event| event.r#type == 1).count() as i64;
        if deleted > 0 && first.is_none() {
            // What is asked of a lease is not to end early: each was granted at least up to here.
            assert!(Instant::now() >= end, "a lease ended {:?} early", end - Instant::now());
            first = Some(Instant::now());
            before = written.load(Ordering::Relaxed);
        }
        gone += deleted;
    }
    // The last was due a second after the first.
    let late = Instant::now().saturating_duration_since(end + Duration::from_secs(1));
    let meanwhile = written.load(Ordering::Relaxed) - before;
    stop.store(true, Ordering::Relaxed);
    let slowest = writing.await.expect("the writer ends");
    assert_eq!(gone, due);
    assert!(meanwhile > 0, "no write was answered while {due} leases ran out");
    let left = LeaseClient::new(served.channel()).lease_leases(LeaseLeasesRequest {}).await.expect("listed");
    assert_eq!(left.into_inner().leases.len() as i64, all - due, "the others live");
    let under = RangeRequest { range_end: "lease0".into(), count_only: true, ..range("lease/") };
    assert_eq!(served.kv().range(under).await.expect("read").into_inner().count, 0);
    println!(
        "{all} leases ({} granted in {others_granted:.1?}), {due} due within a second: the last key went {late:.2?} after \
         that second; {meanwhile} other puts meanwhile, the slowest {slowest:.2?}",
        all - due
    );
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_run_out_together_end_and_writes_go_on() {
    expire(1_500, 500, Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: see the module documentation"]
async fn a_hundred_thousand_leases_of_which_ten_thousand_end_at_once() {
    expire(100_000, 10_000, Duration::from_secs(60)).await;
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// Opens `streams` of a hundred watches each, and tells all of them one event.
async fn watch_all(streams: usize) {
    const PER_STREAM: usize = 100;
    let served = Served::alone().await;
    served.put("watched/a", "1").await;
    let before = resident_bytes();
    let channel = served.channel();
    let mut watchers = Vec::new();
    for _ in 0..streams {
        let mut watcher = Watcher::open(channel.clone()).await;
        for _ in 0..PER_STREAM {
            watcher.create(watch_prefix("watched/", 0)).await;
        }
        watchers.push(watcher);
    }
    let each = resident_bytes().saturating_sub(before) / (streams * PER_STREAM) as u64;
    let began = Instant::now();
    served.put("watched/a", "2").await;
    for watcher in &mut watchers {
        assert_eq!(watcher.events(PER_STREAM).await.len(), PER_STREAM);
    }
    println!(
        "{} watches: {each} bytes each, client included; told of a put in {:.1?}",
        streams * PER_STREAM,
        began.elapsed()
    );
    let metrics = served.http("GET", "/metrics", b"").await.text();
    let line = format!("etcd_debugging_mvcc_watcher_total {}", streams * PER_STREAM);
    assert!(metrics.lines().any(|found| found == line), "no `{line}`");
    drop(watchers);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_watch_of_many_streams_is_told() {
    watch_all(5).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes long: see the module documentation"]
async fn ten_thousand_watches_on_one_node() {
    watch_all(100).await;
}
