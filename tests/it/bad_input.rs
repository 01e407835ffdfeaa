//! Garbage and oversized input on every port: a clear refusal, and the others are served on.

use std::net::SocketAddr;

use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op::Request};
use quorate_tests::cluster::Cluster;
use quorate_tests::load::{put, read};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

/// Sends `bytes` and reads until the server closes or says nothing more for a moment.
async fn throw(address: SocketAddr, bytes: &[u8]) {
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("the port is open");
    // The server may close in the middle of it; that is one of the right answers.
    let _ = socket.write_all(bytes).await;
    let _ = socket.shutdown().await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), socket.read_to_end(&mut answer)).await;
}

fn garbage(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_every_port_disturbs_nobody() {
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let config = cluster.nodes[leader].config.clone();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    for address in [config.client, config.peer, config.metrics] {
        throw(address, &garbage(100_000)).await;
        throw(address, b"GET / HTTP/1.1\r\n\r\n").await;
        throw(address, &[preface.clone(), garbage(50_000)].concat()).await;
        throw(address, b"").await;
    }
    let mut client = KvClient::new(cluster.channel(leader));
    put(&mut client, "a", "1").await.expect("a put after the garbage");
    read(&mut client, "a").await.expect("a read after the garbage");
    for node in &mut cluster.nodes {
        assert!(node.is_running(), "{}", node.log_tail());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_past_a_limit_are_refused_with_etcds_words() {
    let cluster = Cluster::start(1, &[]).await;
    let mut client = KvClient::new(cluster.channel(0));

    let large = PutRequest { key: b"k".to_vec().into(), value: vec![0; 1_600_000].into(), ..PutRequest::default() };
    let error = client.put(large).await.expect_err("1.6 MB is too large");
    assert_eq!((error.code(), error.message()), (Code::InvalidArgument, "etcdserver: request is too large"));

    let larger = PutRequest { key: b"k".to_vec().into(), value: vec![0; 3_000_000].into(), ..PutRequest::default() };
    let error = client.put(larger).await.expect_err("3 MB is past the transport's limit");
    assert!(matches!(error.code(), Code::ResourceExhausted | Code::OutOfRange), "{error}");

    let op = |number: usize| RequestOp {
        request: Some(Request::RequestPut(PutRequest {
            key: format!("k{number}").into_bytes().into(),
            ..PutRequest::default()
        })),
    };
    let txn = |count: usize| TxnRequest { success: (0..count).map(op).collect(), ..TxnRequest::default() };
    client.txn(txn(128)).await.expect("128 operations are allowed");
    let error = client.txn(txn(129)).await.expect_err("129 are not");
    assert_eq!(
        (error.code(), error.message()),
        (Code::InvalidArgument, "etcdserver: too many operations in txn request")
    );

    let error = client.put(PutRequest::default()).await.expect_err("a key is needed");
    assert_eq!((error.code(), error.message()), (Code::InvalidArgument, "etcdserver: key is not provided"));
}
