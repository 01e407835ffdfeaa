//! Watches on real processes: a cluster that loses its leader, and clients that ask and never listen.

use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::watch_client::WatchClient;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_tests::cluster::{Cluster, PATIENCE, wait_for};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Streaming};

/// A watch of `k` whose stream stays open.
struct Open {
    answers: Streaming<pb::WatchResponse>,
    _requests: mpsc::Sender<pb::WatchRequest>,
}

async fn watch(channel: Channel, needs_leader: bool) -> Open {
    let (requests, receiver) = mpsc::channel(1);
    let create = pb::WatchCreateRequest { key: "k".into(), ..pb::WatchCreateRequest::default() };
    let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    requests.send(create).await.expect("there is room");
    let mut request = Request::new(ReceiverStream::new(receiver));
    if needs_leader {
        request.metadata_mut().insert("hasleader", "true".parse().expect("a metadata value"));
    }
    let answers = WatchClient::new(channel).watch(request).await.expect("a stream").into_inner();
    Open { answers, _requests: requests }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_requires_a_leader_is_cut_when_it_is_lost_and_another_one_is_not() {
    let mut cluster = Cluster::start(3, &[]).await;
    let mut strict = watch(cluster.channel(0), true).await;
    let mut patient = watch(cluster.channel(0), false).await;
    for open in [&mut strict, &mut patient] {
        assert!(open.answers.message().await.expect("no error").expect("an answer").created);
    }
    for position in [1, 2] {
        cluster.nodes[position].kill();
    }
    let cut = timeout(PATIENCE, strict.answers.message()).await.expect("in time").expect_err("cut");
    assert_eq!((cut.code(), cut.message()), (Code::Unavailable, "etcdserver: no leader"));
    for position in [1, 2] {
        cluster.nodes[position].restart();
    }
    let put = pb::PutRequest { key: "k".into(), value: "1".into(), ..pb::PutRequest::default() };
    wait_for("a write", || async { KvClient::new(cluster.channel(0)).put(put.clone()).await.ok() }).await;
    let told =
        timeout(PATIENCE, patient.answers.message()).await.expect("in time").expect("no error").expect("goes on");
    assert_eq!(told.events.len(), 1, "{told:?}");
}

/// Bytes of memory that a process has, in MiB.
fn resident_mib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux tells it");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
    kib / 1024
}

/// Connections, each with a watch of all that is written and nobody who reads.
const DEAF: u64 = 1_000;
const VALUE_BYTES: usize = 64 * 1024;
const WRITES: u64 = 320;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_that_do_not_listen_cost_no_memory_for_what_they_miss() {
    let cluster = Cluster::start(1, &[]).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.endpoints()[0])).expect("an address");
    let mut deaf = Vec::new();
    for _ in 0..DEAF {
        // The smallest window that HTTP/2 begins with: more is not sent to who does not read.
        let channel = endpoint.clone().initial_stream_window_size(65_535).initial_connection_window_size(65_535);
        let mut open = watch(channel.connect().await.expect("connects"), false).await;
        assert!(open.answers.message().await.expect("no error").expect("an answer").created);
        deaf.push(open);
    }
    let mut listening = watch(cluster.channel(0), false).await;
    assert!(listening.answers.message().await.expect("no error").expect("an answer").created);
    let before = resident_mib(cluster.nodes[0].id());
    let mut kv = KvClient::new(cluster.channel(0));
    for _ in 0..WRITES {
        let value = vec![0; VALUE_BYTES].into();
        kv.put(pb::PutRequest { key: "k".into(), value, ..pb::PutRequest::default() }).await.expect("written");
    }
    let mut seen = 0;
    while seen < WRITES {
        let told = timeout(PATIENCE, listening.answers.message()).await.expect("in time").expect("no error");
        seen += told.expect("goes on").events.len() as u64;
    }
    let after = resident_mib(cluster.nodes[0].id());
    let missed = DEAF * WRITES * VALUE_BYTES as u64 / (1024 * 1024);
    println!("{before} MiB before, {after} MiB after; the deaf were told {missed} MiB less than they asked for");
    // What a connection may hold by its window is 64 MiB for all, what is written is 20 MiB, in the store and its cache.
    assert!(after < before + missed / 50, "{before} MiB before, {after} MiB after, {missed} MiB missed");
    drop(deaf);
}
