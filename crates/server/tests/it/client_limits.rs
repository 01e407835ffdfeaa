//! Limits that clients meet: at the limit, one below, one past it, and what happens to those who never read.

use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use quorate_kv::RECORD_OVERHEAD_BYTES;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::{LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse};
use quorate_proto::quorate::v1 as admin;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::cluster::PATIENCE;
use crate::served::{Served, put};

/// Every key.
fn everything() -> RangeRequest {
    RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..RangeRequest::default() }
}

/// Puts `count` keys of seven bytes, each with a value of `bytes`.
async fn fill(served: &Served, count: usize, bytes: usize) {
    let value = "v".repeat(bytes);
    let mut writes = JoinSet::new();
    for number in 0..count {
        let (mut kv, request) = (served.kv(), put(&format!("key{number:04}"), &value));
        writes.spawn(async move { kv.put(request).await.map(drop) });
        if writes.len() == 16 {
            writes.join_next().await.expect("one is under way").expect("ends").expect("written");
        }
    }
    while let Some(written) = writes.join_next().await {
        written.expect("ends").expect("written");
    }
}

async fn read_all(served: &Served) -> Result<RangeResponse, Status> {
    let mut kv = served.kv().max_decoding_message_size(usize::MAX);
    timeout(PATIENCE, kv.range(everything())).await.expect("answers in time").map(tonic::Response::into_inner)
}

/// Asks until `ask` gives a value.
async fn until<T, F: Future<Output = Option<T>>>(mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(value) = ask().await {
                return value;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asking).await.expect("happens in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_as_large_as_the_budget_is_given_and_one_byte_more_is_refused() {
    const BUDGET: usize = 64 * 1024;
    let served = Served::adjusted(|config| config.answers.max_bytes = BUDGET).await;
    // Each of the first seven takes an eighth, with its key of seven bytes and what stands around it in memory.
    const AROUND: usize = 7 + RECORD_OVERHEAD_BYTES;
    fill(&served, 7, BUDGET / 8 - AROUND).await;
    for (bytes, fits) in [(BUDGET / 8 - 1, true), (BUDGET / 8, true), (BUDGET / 8 + 1, false)] {
        served.put("key0007", &"v".repeat(bytes - AROUND)).await;
        let answer = read_all(&served).await;
        assert_eq!(answer.is_ok(), fits, "{bytes}");
        if let Err(refused) = answer {
            assert_eq!(refused.code(), Code::ResourceExhausted);
            assert!(refused.message().contains("larger than the 65536 bytes"), "{refused}");
        }
    }
    let over_http = served.http("GET", "/v1/kv/key?recurse", b"").await;
    assert_eq!(over_http.status, 429, "{}", over_http.text());
    let part = served.kv().range(RangeRequest { limit: 7, ..everything() }).await.expect("a part fits");
    assert_eq!(part.into_inner().kvs.len(), 7);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_records_are_counted_by_the_memory_they_take() {
    let served = Served::adjusted(|config| config.answers.max_bytes = 64 * 1024).await;
    // Less than three kilobytes of keys, and no values.
    fill(&served, 400, 0).await;
    let refused = read_all(&served).await.expect_err("with what stands around them it is more");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let part = served.kv().range(RangeRequest { limit: 300, ..everything() }).await.expect("a part fits");
    assert_eq!(part.into_inner().kvs.len(), 300);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_ranges_in_parallel_wait_for_each_other_and_all_are_answered() {
    let served = Served::adjusted(|config| {
        config.answers.max_bytes = 300 * 1024;
        config.answers.wait = PATIENCE;
    })
    .await;
    fill(&served, 8, 32 * 1024).await;
    let served = std::sync::Arc::new(served);
    let mut reads = JoinSet::new();
    for _ in 0..20 {
        let served = std::sync::Arc::clone(&served);
        reads.spawn(async move { read_all(&served).await.map(|answer| answer.kvs.len()) });
    }
    while let Some(answer) = reads.join_next().await {
        assert_eq!(answer.expect("ends").expect("answered"), 8);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_a_large_answer_loses_the_connection_and_the_memory_comes_back() {
    let served = Served::adjusted(|config| {
        config.answers.max_bytes = 32 << 20;
        config.answers.send_time = Duration::from_millis(200);
    })
    .await;
    // More than the sockets of both sides hold, and twice too much for the budget.
    fill(&served, 340, 60_000).await;
    let mut deaf = TcpStream::connect(served.server.client_address()).await.expect("connected");
    deaf.write_all(b"GET /v1/kv/key?recurse HTTP/1.1\r\nhost: test\r\n\r\n").await.expect("sent");
    deaf.readable().await.expect("the answer begins");
    let answer = until(|| async { read_all(&served).await.ok() }).await;
    assert_eq!(answer.kvs.len(), 340);
    let mut received = Vec::new();
    // Cut off in the middle, politely or not.
    let _ = timeout(PATIENCE, deaf.read_to_end(&mut received)).await.expect("is closed");
    assert!(received.len() < 340 * 60_000, "{} bytes came", received.len());
    served.server.stop().await;
}

/// Asks for something as JSON and reads nothing of the answer.
async fn ask_and_never_read(served: &Served, path: &str, body: &serde_json::Value) -> TcpStream {
    let mut deaf = TcpStream::connect(served.server.client_address()).await.expect("connected");
    let body = body.to_string();
    let head = format!("POST /v3/{path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", body.len());
    deaf.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
    deaf
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_as_json_is_counted_until_its_client_has_it() {
    let served = Served::adjusted(|config| {
        config.answers.max_bytes = 32 << 20;
        config.answers.wait = Duration::from_millis(100);
    })
    .await;
    fill(&served, 340, 60_000).await;
    let deaf = ask_and_never_read(&served, "kv/range", &json!({"key": "AA==", "range_end": "AA=="})).await;
    deaf.readable().await.expect("the answer begins");
    let refused = read_all(&served).await.expect_err("the memory is taken");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    drop(deaf);
    let answer = until(|| async { read_all(&served).await.ok() }).await;
    assert_eq!(answer.kvs.len(), 340);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_lease_are_counted_until_their_client_has_them() {
    let served = Served::adjusted(|config| {
        config.answers.max_bytes = 32 << 20;
        config.answers.wait = Duration::from_millis(100);
    })
    .await;
    LeaseClient::new(served.channel()).lease_grant(LeaseGrantRequest { id: 5, ttl: 600 }).await.expect("granted");
    let padding = "k".repeat(60_000);
    for number in 0..340 {
        let key = format!("{number:04}{padding}");
        served.kv().put(PutRequest { lease: 5, ..put(&key, "") }).await.expect("written");
    }
    let deaf = ask_and_never_read(&served, "lease/timetolive", &json!({"ID": 5, "keys": true})).await;
    deaf.readable().await.expect("the answer begins");
    let refused = read_all(&served).await.expect_err("the memory is taken");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    drop(deaf);
    until(|| async { read_all(&served).await.ok() }).await;
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_what_it_asked_for_as_json_loses_the_connection_and_its_place() {
    let served = Served::adjusted(|config| {
        config.answers.max_bytes = 32 << 20;
        config.answers.max_downloads = 1;
        config.answers.send_time = Duration::from_millis(200);
    })
    .await;
    let watch = json!({"create_request": {"key": "AA==", "range_end": "AA=="}});
    let watching = ask_and_never_read(&served, "watch", &watch).await;
    watching.readable().await.expect("the answer begins");
    fill(&served, 340, 60_000).await;
    let range = ask_and_never_read(&served, "kv/range", &json!({"key": "AA==", "range_end": "AA=="})).await;
    range.readable().await.expect("the answer begins");
    let download = ask_and_never_read(&served, "maintenance/snapshot", &json!({})).await;
    download.readable().await.expect("the answer begins");
    until(|| async { served.admin().snapshot(admin::SnapshotRequest {}).await.ok() }).await;
    for (mut deaf, what) in [(watching, "watch"), (range, "range"), (download, "download")] {
        let mut received = Vec::new();
        let _ = timeout(PATIENCE, deaf.read_to_end(&mut received)).await.unwrap_or_else(|_| panic!("{what} ends"));
        assert!(received.len() < 340 * 60_000, "{what}: {} bytes came", received.len());
    }
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_ranges_past_the_limit_are_refused_until_one_ends() {
    let served = Served::adjusted(|config| config.answers.max_streams = 2).await;
    fill(&served, 64, 60_000).await;
    let mut kv = served.kv();
    let first = kv.range_stream(everything()).await.expect("one");
    let _second = kv.range_stream(everything()).await.expect("two");
    let refused = kv.range_stream(everything()).await.expect_err("three are too many");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.message(), "etcdserver: 2 ranges are being streamed already: try again later");
    drop(first);
    until(|| {
        let mut kv = kv.clone();
        async move { kv.range_stream(everything()).await.ok() }
    })
    .await;
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_of_images_past_the_limit_are_refused_until_one_ends() {
    let served = Served::adjusted(|config| config.answers.max_downloads = 1).await;
    fill(&served, 64, 60_000).await;
    let mut client = served.admin();
    let first = client.snapshot(admin::SnapshotRequest {}).await.expect("one");
    let refused = client.snapshot(admin::SnapshotRequest {}).await.expect_err("two are too many");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(first);
    until(|| {
        let mut client = client.clone();
        async move { client.snapshot(admin::SnapshotRequest {}).await.ok() }
    })
    .await;
    served.server.stop().await;
}

/// A raw HTTP/2 connection.
async fn connect(served: &Served) -> h2::client::SendRequest<bytes::Bytes> {
    let stream = TcpStream::connect(served.server.client_address()).await.expect("connected");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    client
}

fn call() -> http::Request<()> {
    let request = http::Request::post("http://test/etcdserverpb.KV/Put");
    request.header("content-type", "application/grpc").body(()).expect("sound")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_may_have_as_many_streams_as_the_limit_and_the_next_waits() {
    let served = Served::adjusted(|config| config.limits.max_streams = 4).await;
    let mut client = connect(&served).await;
    let probe = || http::Request::get("http://test/livez").body(()).expect("sound");
    // The server's settings are there when the first answer is.
    client.send_request(probe(), true).expect("sent").0.await.expect("answered");
    assert_eq!(client.current_max_send_streams(), 4);
    // Without the end of its request none of these is answered. A stream may be asked for once the one before it was opened.
    let mut open = Vec::new();
    for _ in 0..4 {
        client = client.ready().await.expect("connected");
        open.push(client.send_request(call(), false).expect("sent"));
    }
    client = client.ready().await.expect("connected");
    let (mut fifth, _) = client.send_request(probe(), true).expect("queued");
    let waits = std::future::poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut fifth).poll(cx).is_pending())).await;
    assert!(waits, "a fifth stream was opened");
    open.truncate(3);
    let answer = timeout(PATIENCE, fifth).await.expect("in time").expect("answered");
    assert_eq!(answer.status(), 200);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_arrive_without_end_are_given_up_and_take_no_more_than_their_share() {
    let served = Served::adjusted(|config| {
        config.limits.max_arriving_bytes = 40_000;
        config.limits.request_time = Duration::from_millis(300);
    })
    .await;
    let mut client = connect(&served).await;
    let (answer, mut body) = client.send_request(call(), false).expect("sent");
    // The head of a message of 32,000 bytes, and nearly all of it.
    let head = [0, 0, 0, 0x7d, 0];
    body.send_data([&head[..], &[0; 31_000]].concat().into(), false).expect("sent");
    let mut other = served.kv();
    let refused = other.put(put("large", &"v".repeat(20_000))).await;
    let late = timeout(PATIENCE, answer).await.expect("ends in time").expect("an answer");
    assert_eq!(late.headers()["grpc-status"], (Code::DeadlineExceeded as i32).to_string().as_str());
    if let Err(refused) = refused {
        // The first may have been given up before the second arrived, but if it is refused, then for this.
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    }
    served.put("large", &"v".repeat(20_000)).await;
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_past_the_limit_are_refused_and_the_connection_lives() {
    let served = Served::alone().await;
    let mut client = connect(&served).await;
    let answer = |bytes: usize, client: &mut h2::client::SendRequest<bytes::Bytes>| {
        let mut request = http::Request::get("http://test/livez");
        for number in 0..bytes / 1024 {
            request = request.header(format!("x-{number}"), "v".repeat(1000));
        }
        client.send_request(request.body(()).expect("sound"), true).expect("sent").0
    };
    assert_eq!(answer(32 * 1024, &mut client).await.expect("answered").status(), 200);
    let refused = answer(80 * 1024, &mut client).await;
    assert!(refused.map_or(true, |answer| answer.status() == 431));
    client = client.ready().await.expect("lives");
    assert_eq!(answer(1024, &mut client).await.expect("answered").status(), 200);
    served.server.stop().await;
}
