//! Every limit that clients and peers meet: one below it, at it, and one past it.

use prost::Message as _;
use quorate_kv::RECORD_OVERHEAD_BYTES;
use quorate_proto::etcdserverpb as etcd;
use quorate_proto::etcdserverpb::compare::TargetUnion;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::quorate::peer::v1 as peer;
use quorate_wire::peer::{MAX_FIRST_MESSAGE_BYTES, MAX_FRAME_BYTES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::{PATIENCE, hello_of_a_newcomer};
use crate::etcd_auth::Raw;
use crate::served::{MAX_REQUEST_BYTES, Served, put};
use crate::watcher::{Watcher, watch};

/// What is counted.
#[derive(Debug, Clone, Copy)]
enum Limit {
    Connections,
    PeerConnections,
    /// etcd #22148: a body of any size was taken in on the peer port.
    PeerMessageBytes,
    PeerFirstMessageBytes,
    PeerCallsNotWelcome,
    Streams,
    RequestBytes,
    TxnOperations,
    TxnCompares,
    TxnDepth,
    Watches,
    Leases,
    ArrivingBytes,
    /// Of a message in a stream of them.
    ArrivingMessageBytes,
    AnswerBytes,
    /// Of a write.
    WriteAnswerBytes,
}

/// Each limit and its value here.
const LIMITS: [(Limit, usize); 16] = [
    (Limit::Connections, 4),
    (Limit::PeerConnections, 4),
    (Limit::PeerMessageBytes, MAX_FRAME_BYTES),
    (Limit::PeerFirstMessageBytes, MAX_FIRST_MESSAGE_BYTES),
    (Limit::PeerCallsNotWelcome, 4),
    (Limit::Streams, 4),
    (Limit::RequestBytes, MAX_REQUEST_BYTES),
    (Limit::TxnOperations, 128),
    (Limit::TxnCompares, 128),
    (Limit::TxnDepth, quorate_kv::MAX_TXN_DEPTH),
    (Limit::Watches, 4),
    (Limit::Leases, 4),
    (Limit::ArrivingBytes, 20_000),
    (Limit::ArrivingMessageBytes, 20_000),
    (Limit::AnswerBytes, 32 * 1024),
    (Limit::WriteAnswerBytes, 16 << 20),
];

#[tokio::test(flavor = "multi_thread")]
async fn one_below_a_limit_and_the_limit_itself_are_served_and_one_past_it_is_refused() {
    for (limit, most) in LIMITS {
        for (count, expected) in [(most - 1, true), (most, true), (most + 1, false)] {
            let served = Served::adjusted(|config| {
                match limit {
                    Limit::Connections => config.limits.max_connections = most,
                    Limit::PeerConnections => config.replica.max_peer_connections = most,
                    Limit::Streams => config.limits.max_streams = u32::try_from(most).expect("small"),
                    Limit::Watches => config.replica.max_watches = most,
                    Limit::Leases => config.replica.max_leases = most,
                    Limit::ArrivingBytes | Limit::ArrivingMessageBytes => config.limits.max_arriving_bytes = most,
                    Limit::AnswerBytes => config.answers.max_bytes = most,
                    Limit::PeerMessageBytes
                    | Limit::PeerFirstMessageBytes
                    | Limit::PeerCallsNotWelcome
                    | Limit::RequestBytes
                    | Limit::TxnOperations
                    | Limit::TxnCompares
                    | Limit::TxnDepth
                    | Limit::WriteAnswerBytes => {}
                };
            })
            .await;
            // A connection of this test's own might still be counted among those it opens.
            if !matches!(limit, Limit::Connections) {
                served.put("first", "").await;
            }
            let fits = timeout(PATIENCE, fits(&served, limit, count)).await.expect("ends in time");
            assert_eq!(fits, expected, "{limit:?}: {count} of {most}");
            served.server.stop().await;
        }
    }
}

/// Whether so many are served.
async fn fits(served: &Served, limit: Limit, count: usize) -> bool {
    match limit {
        Limit::Connections => connections(served, count).await,
        Limit::PeerConnections => peer_connections(served, count).await,
        Limit::PeerMessageBytes => peer_message(served, count).await,
        Limit::PeerFirstMessageBytes => peer_first_message(served, count).await,
        Limit::PeerCallsNotWelcome => peer_calls_not_welcome(served, count).await,
        Limit::Streams => streams(served, count).await,
        Limit::RequestBytes => {
            let framed = |value: usize| prost::Message::encoded_len(&put("k", &"v".repeat(value)));
            let value = count - (framed(count) - count);
            assert_eq!(framed(value), count);
            is_done(served.kv().put(put("k", &"v".repeat(value))).await, Code::InvalidArgument)
        }
        Limit::TxnOperations => {
            let operation =
                |number: usize| etcd::RequestOp { request: Some(Op::RequestPut(put(&number.to_string(), ""))) };
            let txn = etcd::TxnRequest { success: (0..count).map(operation).collect(), ..Default::default() };
            is_done(served.kv().txn(txn).await, Code::InvalidArgument)
        }
        Limit::TxnCompares => {
            let compare =
                || etcd::Compare { key: "k".into(), target_union: Some(TargetUnion::Version(0)), ..Default::default() };
            let txn = etcd::TxnRequest { compare: (0..count).map(|_| compare()).collect(), ..Default::default() };
            is_done(served.kv().txn(txn).await, Code::InvalidArgument)
        }
        Limit::TxnDepth => {
            let within = |inner: etcd::TxnRequest| etcd::TxnRequest {
                success: vec![etcd::RequestOp { request: Some(Op::RequestTxn(inner)) }],
                ..Default::default()
            };
            let txn = (1..count).fold(etcd::TxnRequest::default(), |inner, _| within(inner));
            is_done(served.kv().txn(txn).await, Code::InvalidArgument)
        }
        Limit::Watches => {
            let mut watcher = Watcher::open(served.channel()).await;
            for _ in 0..count {
                watcher.ask(watch("k", 0));
            }
            let mut fit = true;
            for _ in 0..count {
                fit &= !watcher.next().await.canceled;
            }
            fit
        }
        Limit::Leases => {
            let mut fit = true;
            for _ in 0..count {
                let mut client = LeaseClient::new(served.channel());
                let granted = client.lease_grant(etcd::LeaseGrantRequest { ttl: 60, id: 0 });
                fit &= is_done(granted.await, Code::ResourceExhausted);
            }
            fit
        }
        // The frame of a gRPC message has five bytes.
        Limit::ArrivingBytes => {
            let framed = |value: usize| 5 + prost::Message::encoded_len(&put("k", &"v".repeat(value)));
            let value = count - (framed(count) - count);
            assert_eq!(framed(value), count);
            is_done(served.kv().put(put("k", &"v".repeat(value))).await, Code::ResourceExhausted)
        }
        Limit::ArrivingMessageBytes => arriving_message(served, count).await,
        Limit::AnswerBytes => {
            served.put("k", &"v".repeat(count - RECORD_OVERHEAD_BYTES - 1)).await;
            let read = served.kv().range(etcd::RangeRequest { key: "k".into(), ..Default::default() }).await;
            is_done(read, Code::ResourceExhausted)
        }
        Limit::WriteAnswerBytes => write_answer(served, count).await,
    }
}

fn is_done<T: std::fmt::Debug>(answer: Result<T, tonic::Status>, refusal: Code) -> bool {
    if let Err(status) = &answer {
        assert_eq!(status.code(), refusal, "{status}");
    }
    answer.is_ok()
}

/// A transaction that puts a key and reads so many bytes, most of them again and again. The put is done, whether the rest is answered.
async fn write_answer(served: &Served, bytes: usize) -> bool {
    const READINGS: usize = 63;
    const VALUES: usize = 5;
    let each = (bytes - 1_000) / READINGS / VALUES;
    for key in ["a1", "a2", "a3", "a4", "a5"] {
        served.put(key, &"v".repeat(each - RECORD_OVERHEAD_BYTES - key.len())).await;
    }
    let rest = bytes - READINGS * VALUES * each;
    served.put("b", &"v".repeat(rest - RECORD_OVERHEAD_BYTES - 1)).await;
    let range = |key: &str, end: &str| etcd::RangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..Default::default()
    };
    let mut operations = vec![Op::RequestPut(put("done", "")), Op::RequestRange(range("b", ""))];
    operations.extend((0..READINGS).map(|_| Op::RequestRange(range("a", "b"))));
    let success = operations.into_iter().map(|operation| etcd::RequestOp { request: Some(operation) }).collect();
    let mut client = served.kv().max_decoding_message_size(2 * bytes);
    let answer = client.txn(etcd::TxnRequest { success, ..Default::default() }).await;
    if let Err(withheld) = &answer {
        assert!(withheld.message().contains("the write was applied, at revision 9"), "{withheld}");
    }
    let done = served.kv().range(range("done", "")).await.expect("a read succeeds").into_inner();
    assert_eq!(done.count, 1, "the transaction is done");
    is_done(answer, Code::Internal)
}

/// One request over HTTP/1.1 on a connection that stays; whether it was answered.
async fn ask(stream: &mut TcpStream) -> bool {
    // Whoever is refused finds out while writing or while reading.
    let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").await;
    matches!(stream.read(&mut [0; 256]).await, Ok(1..))
}

async fn connections(served: &Served, count: usize) -> bool {
    let mut open = Vec::new();
    let mut fit = true;
    for _ in 0..count {
        let mut stream = TcpStream::connect(served.server.client_address()).await.expect("connected");
        fit &= ask(&mut stream).await;
        open.push(stream);
    }
    fit
}

/// The newest is always let in; whether the oldest may stay.
async fn peer_connections(served: &Served, count: usize) -> bool {
    let address = served.server.replica().status().peer_address;
    let mut open = Vec::new();
    for _ in 0..count {
        let stream = TcpStream::connect(&address).await.expect("connected");
        let (mut client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let request = http::Request::post("http://test/quorate.peer.v1.Peer/Identify");
        let request = request.header("content-type", "application/grpc").body(()).expect("sound");
        let (answer, mut body) = client.send_request(request, false).expect("sent");
        body.send_data(vec![0; 5].into(), true).expect("sent");
        assert_eq!(answer.await.expect("answered").status(), 200);
        open.push((client, connection));
    }
    // The last was served after it was let in, so whoever had to go for it has been told; that it is closed takes as long
    // as the news.
    let (client, connection) = open.swap_remove(0);
    let ended = if count > 4 { timeout(PATIENCE, connection).await.is_ok() } else { connection.is_finished() };
    drop(client);
    !ended
}

/// A watch is asked for by one byte more, which comes by itself: until then so much is held. Whether it is made.
async fn arriving_message(served: &Served, bytes: usize) -> bool {
    let stream = TcpStream::connect(served.server.client_address()).await.expect("connected");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.expect("connected");
    let request = http::Request::post("http://test/etcdserverpb.Watch/Watch");
    let request = request.header("content-type", "application/grpc").body(()).expect("sound");
    let (answer, mut body) = client.send_request(request, false).expect("sent");
    let create = etcd::watch_request::RequestUnion::CreateRequest(watch("k", 0));
    let message = padded(&etcd::WatchRequest { request_union: Some(create) }, bytes + 1 - 5);
    let length = u32::try_from(message.len()).expect("small").to_be_bytes();
    let mut framed = bytes::Bytes::from([&[0], &length[..], &message].concat());
    let last = framed.split_off(bytes);
    body.send_data(framed, false).expect("sent");
    body.send_data(last, false).expect("sent");
    let (head, mut answers) = answer.await.expect("answered").into_parts();
    let made = match answers.data().await {
        Some(created) => created.is_ok(),
        None => {
            let end = answers.trailers().await.expect("an end").unwrap_or(head.headers);
            assert_eq!(Code::from_bytes(end["grpc-status"].as_bytes()), Code::ResourceExhausted, "{end:?}");
            false
        }
    };
    connection.abort();
    made
}

/// A client of the peer port that sends bytes as they are.
async fn peer_client(served: &Served) -> tonic::client::Grpc<Channel> {
    let address = format!("http://{}", served.server.replica().status().peer_address);
    let mut client = tonic::client::Grpc::new(Endpoint::from_shared(address).expect("an address").connect_lazy());
    client.ready().await.expect("connects");
    client
}

fn method(name: &str) -> http::uri::PathAndQuery {
    format!("/quorate.peer.v1.Peer/{name}").parse().expect("a path")
}

/// The greeting of a node that may have been added.
fn peer_hello(served: &Served) -> peer::Hello {
    hello_of_a_newcomer(served.server.replica()).to_wire()
}

/// A message, filled up to so many bytes with a field that nobody knows.
fn padded(message: &impl prost::Message, bytes: usize) -> bytes::Bytes {
    const UNKNOWN_BYTES: u8 = 15 << 3 | 2;
    let mut padded = message.encode_to_vec();
    let padding = bytes - padded.len() - 5;
    // In four bytes, whatever the length.
    let length = [0, 7, 14, 21].map(|shift| (padding >> shift) as u8 | if shift < 21 { 0x80 } else { 0 });
    padded.push(UNKNOWN_BYTES);
    padded.extend(length);
    padded.resize(bytes, 0);
    padded.into()
}

/// A message of so many bytes on a stream that was welcome; whether the next one is answered.
async fn peer_message(served: &Served, bytes: usize) -> bool {
    let hello = peer::Frame { hello: Some(peer_hello(served)), ..peer::Frame::default() };
    let echo = peer::Frame { echo: 7, ..peer::Frame::default() };
    let frames = [hello.encode_to_vec().into(), padded(&peer::Frame::default(), bytes), echo.encode_to_vec().into()];
    let frames = tokio_stream::iter(frames).chain(tokio_stream::pending());
    let mut client = peer_client(served).await;
    let answers = client.streaming(tonic::Request::new(frames), method("Stream"), Raw).await;
    let mut answers = answers.expect("is welcome").into_inner();
    let greeting = answers.message().await.expect("a frame").expect("a greeting");
    let refused = peer::Frame::decode(greeting).expect("a frame").hello.expect("a greeting").refused;
    assert_eq!(refused, 0, "is welcome");
    let answer = answers.message().await.expect("a frame or the end");
    answer.is_some_and(|frame| peer::Frame::decode(frame).expect("a frame").echo == 7)
}

/// A first message of so many bytes, to every call that has one worth having.
async fn peer_first_message(served: &Served, bytes: usize) -> bool {
    let mut client = peer_client(served).await;
    let message = padded(&peer::IdentifyRequest {}, bytes);
    let identified = client.unary(tonic::Request::new(message), method("Identify"), Raw).await;
    let fits = is_done(identified, Code::OutOfRange);

    let mut client = peer_client(served).await;
    let message = padded(&peer::BootstrapRequest::default(), bytes);
    let answered = client.unary(tonic::Request::new(message), method("Bootstrap"), Raw).await;
    assert_eq!(is_done(answered, Code::OutOfRange), fits, "Bootstrap");

    let mut client = peer_client(served).await;
    let hello = peer::Frame { hello: Some(peer_hello(served)), ..peer::Frame::default() };
    let frames = tokio_stream::once(padded(&hello, bytes));
    let greeted = client.streaming(tonic::Request::new(frames), method("Stream"), Raw).await;
    assert_eq!(is_done(greeted, Code::InvalidArgument), fits, "Stream");

    let mut client = peer_client(served).await;
    let start = peer::SnapshotStart { hello: Some(peer_hello(served)), term: 1 };
    let chunk = peer::SnapshotChunk { start: Some(start), ..peer::SnapshotChunk::default() };
    let chunks = tokio_stream::once(padded(&chunk, bytes));
    let judged = client.client_streaming(tonic::Request::new(chunks), method("Snapshot"), Raw).await;
    assert_eq!(is_done(judged, Code::OutOfRange), fits, "Snapshot");
    fits
}

/// So many calls on one connection at a time, which say nothing until all have begun; whether all of them are answered.
async fn peer_calls_not_welcome(served: &Served, count: usize) -> bool {
    let stream = TcpStream::connect(served.server.replica().status().peer_address).await.expect("connected");
    let (mut client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let (mut answers, mut bodies) = (JoinSet::new(), Vec::new());
    for _ in 0..count {
        let request = http::Request::post("http://test/quorate.peer.v1.Peer/Identify");
        let request = request.header("content-type", "application/grpc").body(()).expect("sound");
        client = client.ready().await.expect("there is room for a stream");
        let (answer, body) = client.send_request(request, false).expect("sent");
        answers.spawn(answer);
        bodies.push(body);
    }
    // Nobody but who is refused is answered before it has said something.
    if count <= 4 {
        bodies.iter_mut().for_each(|body| body.send_data(vec![0; 5].into(), true).expect("sent"));
    }
    let mut fit = true;
    while let Some(answer) = answers.join_next().await {
        let answer = answer.expect("no panic").expect("answered");
        // What is refused has its status among its headers, where others have it at their end.
        let code = answer.headers().get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
        assert!(matches!(code, None | Some(Code::ResourceExhausted)), "{code:?}");
        fit &= code.is_none();
        if !fit {
            break;
        }
    }
    connection.abort();
    fit
}

/// A client that cares for no limit; whether each of its streams may stay open.
async fn streams(served: &Served, count: usize) -> bool {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const PING: u8 = 6;
    const ACK: u8 = 1;
    const END_HEADERS: u8 = 4;
    let frame = |kind: u8, flags: u8, stream: u32, body: &[u8]| {
        let length = u32::try_from(body.len()).expect("small").to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
    };
    let text = |index: u8, text: &str| [&[index, u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    // POST and http are entries of HPACK's table, as are the names of the rest.
    let head =
        [vec![0x83, 0x86], text(0x44, "/etcdserverpb.KV/Put"), text(0x41, "test"), text(0x5f, "application/grpc")]
            .concat();
    let mut stream = TcpStream::connect(served.server.client_address()).await.expect("connected");
    let settings = frame(4, 0, 0, &[]);
    let opening = (0..count).flat_map(|number| {
        let id = u32::try_from(2 * number + 1).expect("small");
        // Without the end of its request none of these is answered.
        frame(HEADERS, END_HEADERS, id, &head)
    });
    let opening: Vec<u8> = opening.collect();
    let opening = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &opening].concat();
    stream.write_all(&opening).await.expect("sent");
    let mut fit = true;
    // What the server has to say of the streams is out by the second answer.
    for _ in 0..2 {
        stream.write_all(&frame(PING, 0, 0, &[7; 8])).await.expect("sent");
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.expect("a frame");
            let mut body = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
            stream.read_exact(&mut body).await.expect("a frame");
            fit &= head[3] != RST_STREAM;
            if head[3] == PING && head[4] == ACK {
                break;
            }
        }
    }
    fit
}
