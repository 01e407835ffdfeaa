//! Strangers on the peer port.

use quorate_proto::quorate::peer::v1 as proto;
use quorate_proto::quorate::peer::v1::peer_client::PeerClient;
use quorate_wire::identity::derive_node_id;
use quorate_wire::peer::{Hello, HelloRefused};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;

use crate::cluster::{CLUSTER, Cluster, PATIENCE, hello_of_a_newcomer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_closed_and_the_node_goes_on() {
    let cluster = Cluster::running(1).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage after it"]
    {
        let mut stream = TcpStream::connect(cluster.nodes[0].address).await.expect("listens");
        stream.write_all(garbage).await.expect("takes bytes");
        let mut rest = Vec::new();
        // Closed politely or reset, but closed.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("is closed");
    }
    cluster.put(0, "key", "value").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_silent_connections_keep_no_peer_out() {
    let mut cluster = Cluster::running(2).await;
    let address = cluster.nodes[0].address;
    cluster.stop(1).await;
    let connecting = async {
        let mut silent = Vec::new();
        for _ in 0..1000 {
            silent.push(TcpStream::connect(address).await.expect("listens"));
        }
        silent
    };
    let mut silent = timeout(PATIENCE, connecting).await.expect("all are taken, whoever is there already");
    cluster.restart(1).await;
    // Both are needed for it: node 1 must have come in.
    cluster.put(1, "key", "value").await;
    let gone = timeout(PATIENCE, silent[0].read(&mut [0])).await.expect("the oldest one has to go");
    assert!(matches!(gone, Ok(0) | Err(_)), "{gone:?}");
}

/// Greets node 0 and answers how it was refused.
async fn greet(cluster: &Cluster, adjust: impl Fn(&mut Hello)) -> Option<HelloRefused> {
    let mut hello = hello_of_a_newcomer(cluster.replica(0));
    adjust(&mut hello);
    let address = format!("http://{}", cluster.nodes[0].address);
    let mut client = PeerClient::connect(address).await.expect("listens");
    let frame = proto::Frame { hello: Some(hello.to_wire()), ..proto::Frame::default() };
    let mut answers = client.stream(tokio_stream::once(frame)).await.expect("answers").into_inner();
    let answer = answers.message().await.expect("a frame").expect("a greeting").hello.expect("a greeting");
    Hello::from_wire(answer).expect("sound").refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_by_name_of_the_reason() {
    let cluster = Cluster::running(1).await;
    let refused = greet(&cluster, |hello| {
        hello.cluster_id = CLUSTER + 1;
        hello.from = derive_node_id(CLUSTER + 1, hello.member.incarnation);
    })
    .await;
    assert!(matches!(refused, Some(HelloRefused::WrongCluster(_))), "{refused:?}");
    let refused = greet(&cluster, |hello| hello.to_incarnation.0 ^= 1).await;
    assert!(matches!(refused, Some(HelloRefused::WrongNode(_))), "{refused:?}");
    let refused = greet(&cluster, |hello| hello.from = hello.to).await;
    assert!(matches!(refused, Some(HelloRefused::WrongNode(_))), "{refused:?}");
    let refused = greet(&cluster, |hello| hello.format_version = 99).await;
    assert!(matches!(refused, Some(HelloRefused::UnknownVersion(_))), "{refused:?}");
    cluster.put(0, "key", "value").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_gets_its_echo_back() {
    let cluster = Cluster::running(2).await;
    let (callee, caller) = (cluster.replica(0).own_identity(), cluster.replica(1).own_identity());
    let identity = callee.identity.expect("initialised");
    let hello = Hello {
        cluster_id: identity.cluster_id,
        from: caller.identity.expect("initialised").node_id,
        member: caller.member,
        to: identity.node_id,
        to_incarnation: callee.member.incarnation,
        format_version: 1,
        refused: None,
    };
    let frames = [
        proto::Frame { hello: Some(hello.to_wire()), ..proto::Frame::default() },
        proto::Frame { echo: 7, ..proto::Frame::default() },
    ];
    // The stream stays open: its end would end the answers.
    let frames = tokio_stream::iter(frames).chain(tokio_stream::pending());
    let mut client = PeerClient::connect(format!("http://{}", cluster.nodes[0].address)).await.expect("listens");
    let mut answers = client.stream(frames).await.expect("answers").into_inner();
    assert!(answers.message().await.expect("a frame").expect("a greeting").hello.is_some());
    let echo = timeout(PATIENCE, answers.message()).await.expect("comes").expect("a frame");
    assert_eq!(echo.map(|frame| frame.echo), Some(7));
}
