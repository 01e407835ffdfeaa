//! Every limit that clients and peers meet: one below it, at it, and one past it.

use quorate_proto::etcdserverpb as etcd;
use quorate_proto::etcdserverpb::compare::TargetUnion;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_wire::peer::MAX_FRAME_BYTES;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::cluster::PATIENCE;
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
    Streams,
    RequestBytes,
    TxnOperations,
    TxnCompares,
    TxnDepth,
    Watches,
    Leases,
    ArrivingBytes,
    AnswerBytes,
}

/// Each limit and its value here.
const LIMITS: [(Limit, usize); 12] = [
    (Limit::Connections, 4),
    (Limit::PeerConnections, 4),
    (Limit::PeerMessageBytes, MAX_FRAME_BYTES),
    (Limit::Streams, 4),
    (Limit::RequestBytes, MAX_REQUEST_BYTES),
    (Limit::TxnOperations, 128),
    (Limit::TxnCompares, 128),
    (Limit::TxnDepth, quorate_kv::MAX_TXN_DEPTH),
    (Limit::Watches, 4),
    (Limit::Leases, 4),
    (Limit::ArrivingBytes, 20_000),
    (Limit::AnswerBytes, 32 * 1024),
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
                    Limit::ArrivingBytes => config.limits.max_arriving_bytes = most,
                    Limit::AnswerBytes => config.answers.max_bytes = most,
                    Limit::PeerMessageBytes
                    | Limit::RequestBytes
                    | Limit::TxnOperations
                    | Limit::TxnCompares
                    | Limit::TxnDepth => {}
                };
            })
            .await;
            served.put("first", "").await;
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
        Limit::AnswerBytes => {
            served.put("k", &"v".repeat(count - 1)).await;
            let read = served.kv().range(etcd::RangeRequest { key: "k".into(), ..Default::default() }).await;
            is_done(read, Code::ResourceExhausted)
        }
    }
}

fn is_done<T: std::fmt::Debug>(answer: Result<T, tonic::Status>, refusal: Code) -> bool {
    if let Err(status) = &answer {
        assert_eq!(status.code(), refusal, "{status}");
    }
    answer.is_ok()
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

/// A message of so many bytes to the peer port, of a field that nobody knows.
async fn peer_message(served: &Served, bytes: usize) -> bool {
    const UNKNOWN_BYTES: u8 = 15 << 3 | 2;
    // As long as that of every length near the limit.
    let varint =
        |value: usize| [value as u8 | 0x80, (value >> 7) as u8 | 0x80, (value >> 14) as u8 | 0x80, (value >> 21) as u8];
    let content = bytes - 5;
    let mut message = vec![0; bytes];
    message[0] = UNKNOWN_BYTES;
    message[1..5].copy_from_slice(&varint(content));
    let address = format!("http://{}", served.server.replica().status().peer_address);
    let channel = Endpoint::from_shared(address).expect("an address").connect_lazy();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("connects");
    let path = "/quorate.peer.v1.Peer/Identify".parse().expect("a path");
    is_done(client.unary(tonic::Request::new(message.into()), path, Raw).await, Code::OutOfRange)
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
