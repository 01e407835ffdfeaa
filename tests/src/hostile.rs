//! Clients that mean harm: what each does to the port of a running node, and nothing else.
//!
//! Every attack ends by itself or with what it returned; whoever holds that holds the connections of the attack.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use prost::Message;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{RangeRequest, WatchCreateRequest, WatchRequest};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// A client that floods gives up when the node has taken nothing of it for this long.
const STUCK: Duration = Duration::from_millis(500);
const PREFACE_AND_SETTINGS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADERS: u8 = 1;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

/// Connections that say nothing.
///
/// # Panics
/// If one of them is not taken.
pub async fn silent(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut connections = Vec::new();
    for _ in 0..count {
        connections.push(TcpStream::connect(address).await.expect("a connection"));
    }
    connections
}

/// An HTTP/2 connection that takes no byte of any answer.
///
/// # Panics
/// If it is not taken.
pub async fn deaf(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.expect("a connection");
    let handshake = Builder::new().initial_window_size(0).initial_max_send_streams(usize::MAX).handshake(stream);
    let (client, connection) = handshake.await.expect("HTTP/2");
    tokio::spawn(connection);
    client
}

/// Whatever keeps one call open.
pub type Call = (h2::client::ResponseFuture, h2::SendStream<Bytes>);

/// Begins a call of `method`, such as `KV/Range`, and does not wait for its answer. `None` once the connection is gone.
pub async fn call(client: &SendRequest<Bytes>, method: &str, message: &impl Message, whole: bool) -> Option<Call> {
    let mut client = client.clone().ready().await.ok()?;
    let request = http::Request::post(format!("http://test/etcdserverpb.{method}"));
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let (answer, mut body) = client.send_request(request.body(()).expect("sound"), false).ok()?;
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).expect("a small message").to_be_bytes();
    body.send_data([&[0][..], &length, &message].concat().into(), whole).ok()?;
    Some((answer, body))
}

/// Calls that have begun and never end, on one connection.
pub async fn idle_streams(address: SocketAddr, count: usize) -> (SendRequest<Bytes>, Vec<Call>) {
    let client = deaf(address).await;
    let mut calls = Vec::new();
    for _ in 0..count {
        calls.extend(call(&client, "KV/Put", &RangeRequest::default(), false).await);
    }
    (client, calls)
}

/// Reads of everything below `prefix` whose answers are never read.
pub async fn unread_ranges(address: SocketAddr, prefix: &str, count: usize) -> (SendRequest<Bytes>, Vec<Call>) {
    let client = deaf(address).await;
    let (key, range_end) = below(prefix);
    let range = RangeRequest { key, range_end, ..RangeRequest::default() };
    let mut calls = Vec::new();
    for _ in 0..count {
        calls.extend(call(&client, "KV/Range", &range, true).await);
    }
    (client, calls)
}

/// Watches of everything below `prefix` whose events are never read, each a stream.
pub async fn unread_watches(address: SocketAddr, prefix: &str, count: usize) -> (SendRequest<Bytes>, Vec<Call>) {
    let client = deaf(address).await;
    let (key, range_end) = below(prefix);
    let create = WatchCreateRequest { key, range_end, prev_kv: true, ..WatchCreateRequest::default() };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let mut calls = Vec::new();
    for _ in 0..count {
        calls.extend(call(&client, "Watch/Watch", &request, false).await);
    }
    (client, calls)
}

fn below(prefix: &str) -> (Bytes, Bytes) {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") += 1;
    (prefix.as_bytes().to_vec().into(), end.into())
}

/// Calls that are taken back as soon as they are sent; how many there were before the node ended the connection.
pub async fn rapid_reset(address: SocketAddr, count: usize) -> usize {
    let client = deaf(address).await;
    for number in 0..count {
        let Some((_, mut body)) = call(&client, "KV/Range", &RangeRequest::default(), false).await else {
            return number;
        };
        body.send_reset(h2::Reason::CANCEL);
    }
    count
}

/// Pings without end whose answers are not read; how many bytes of them were taken.
pub async fn ping_flood(address: SocketAddr, most_bytes: usize) -> usize {
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(1000);
    flood(address, &[], &pings, most_bytes).await
}

/// One request whose headers do not end; how many bytes of them were taken.
pub async fn endless_headers(address: SocketAddr, most_bytes: usize) -> usize {
    // A literal header field with a new name of one letter and a value of 100 bytes, not indexed.
    let field = [&[0, 1, b'x', 100][..], &[b'v'; 100]].concat();
    let first = frame(HEADERS, 0, 1, &field);
    let more = frame(CONTINUATION, 0, 1, &field.repeat(100));
    flood(address, &first, &more, most_bytes).await
}

async fn flood(address: SocketAddr, first: &[u8], again: &[u8], most_bytes: usize) -> usize {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let mut taken = 0;
    let begin = [PREFACE_AND_SETTINGS, first].concat();
    let mut next = &begin[..];
    while taken < most_bytes {
        match tokio::time::timeout(STUCK, stream.write_all(next)).await {
            Ok(Ok(())) => taken += next.len(),
            // Closed, or it takes no more: the two right answers.
            Ok(Err(_)) | Err(_) => break,
        }
        next = again;
    }
    taken
}

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a small frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}
