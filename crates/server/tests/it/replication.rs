//! Writes, reads, crashes and restarts.

use std::time::Duration;

use quorate_node::Consistency;
use quorate_proto::quorate::peer::v1 as proto;
use quorate_proto::quorate::peer::v1::peer_client::PeerClient;
use quorate_raft::RoleKind;
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt as _};

use crate::cluster::{Cluster, PATIENCE, get, hello_of_a_newcomer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_through_any_node_is_read_through_every_node() {
    let cluster = Cluster::running(3).await;
    for node in 0..3 {
        cluster.put(node, &format!("through-{node}"), "value").await;
    }
    for node in 0..3 {
        for written in 0..3 {
            let value = cluster.get(node, &format!("through-{written}")).await;
            assert_eq!(value.as_deref(), Some(&b"value"[..]), "through {written}, read at {node}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_is_a_cluster() {
    let mut cluster = Cluster::running(1).await;
    cluster.put(0, "key", "value").await;
    cluster.stop(0).await;
    cluster.restart(0).await;
    cluster.leader().await;
    assert_eq!(cluster.get(0, "key").await.as_deref(), Some(&b"value"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leased_read_sees_every_acknowledged_write() {
    let cluster = Cluster::running(3).await;
    let leader = cluster.leader().await;
    for round in 0..50 {
        let value = round.to_string();
        cluster.put((leader + round) % 3, "key", &value).await;
        let read = get(cluster.replica(leader), "key", Consistency::Default).await;
        assert_eq!(read.as_deref(), Some(value.as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_when_the_leader_dies_and_it_comes_back_with_its_data() {
    let mut cluster = Cluster::running(3).await;
    cluster.put(0, "before", "1").await;
    let dead = cluster.leader().await;
    cluster.halt(dead).await;
    let alive = (dead + 1) % 3;
    cluster.put(alive, "during", "2").await;
    cluster.restart(dead).await;
    for (key, value) in [("before", "1"), ("during", "2")] {
        assert_eq!(cluster.get(dead, key).await.as_deref(), Some(value.as_bytes()), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_acknowledged_is_there_after_all_nodes_died() {
    let mut cluster = Cluster::running(3).await;
    for number in 0..100 {
        cluster.put(number % 3, &format!("key-{number}"), &number.to_string()).await;
    }
    for node in 0..3 {
        cluster.halt(node).await;
    }
    for node in 0..3 {
        cluster.restart(node).await;
    }
    for number in 0..100 {
        let value = cluster.get(number % 3, &format!("key-{number}")).await;
        assert_eq!(value.as_deref(), Some(number.to_string().as_bytes()), "key-{number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polite_stop_hands_leadership_over_first() {
    let mut cluster = Cluster::running(3).await;
    let first = cluster.leader().await;
    let term = cluster.replica(first).status().raft.expect("runs").term;
    cluster.stop(first).await;
    let second = cluster.leader().await;
    let raft = cluster.replica(second).status().raft.expect("runs");
    assert_ne!(second, first);
    assert_eq!(raft.term.0, term.0 + 1, "a transfer needs one election");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_where_it_is_told() {
    let cluster = Cluster::running(3).await;
    let from = cluster.leader().await;
    let to = (from + 1) % 3;
    let (leader, _) = cluster
        .replica((from + 2) % 3)
        .transfer_leader(Some(cluster.id(to)), None)
        .await
        .expect("a follower forwards it");
    assert_eq!(leader, cluster.id(to));
    cluster.until(to, "leads", |status| status.raft.as_ref().is_some_and(|raft| raft.role == RoleKind::Leader)).await;
    cluster.put(from, "after", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn digests_are_equal_at_equal_indexes() {
    let cluster = Cluster::running(3).await;
    for number in 0..50 {
        cluster.put(number % 3, &format!("key-{}", number % 7), &number.to_string()).await;
    }
    let leader = cluster.leader().await;
    let last = cluster.replica(leader).status().raft.expect("runs").commit;
    let mut digests = Vec::new();
    for node in 0..3 {
        let status = cluster.until(node, "all applied", |status| status.space.digest_index >= last).await;
        digests.push((status.space.digest_index, status.space.digest));
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
}

/// Node 0's own image, as the leader of `term` would send it.
async fn image(cluster: &Cluster, term: u64) -> Vec<proto::SnapshotChunk> {
    let replica = cluster.replica(0);
    let mut start = Some(proto::SnapshotStart { hello: Some(hello_of_a_newcomer(replica).to_wire()), term });
    let (_, mut image) = replica.snapshot().await.expect("it runs");
    let mut chunks = Vec::new();
    while let Some(chunk) = image.recv().await {
        chunks.push(proto::SnapshotChunk { start: start.take(), data: chunk.expect("readable") });
    }
    chunks
}

/// What node 0 says to these parts of an image.
async fn send_chunks(
    cluster: &Cluster,
    chunks: impl Stream<Item = proto::SnapshotChunk> + Send + 'static,
) -> Result<proto::SnapshotResponse, tonic::Status> {
    let mut client = PeerClient::connect(format!("http://{}", cluster.nodes[0].address)).await.expect("listens");
    client.snapshot(chunks).await.map(tonic::Response::into_inner)
}

/// Sends node 0 its own image, as the leader of `term` would; answers whether it was taken in.
async fn send_image(cluster: &Cluster, term: u64) -> Result<bool, tonic::Status> {
    Ok(send_chunks(cluster, tokio_stream::iter(image(cluster, term).await)).await?.accepted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_a_leader_that_is_none_any_more_does_not_hold_up_the_next() {
    let cluster = Cluster::running(1).await;
    cluster.put(0, "key", "value").await;
    let sending = async {
        for _ in 0..3 {
            // Refused while consensus has not decided on the one before.
            while !send_image(&cluster, 0).await.expect("answers") {}
        }
    };
    timeout(Duration::from_secs(10), sending).await.expect("each leaves its place as soon as it is declined");
    assert_eq!(cluster.get(0, "key").await.as_deref(), Some(&b"value"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_stands_still_keeps_out_no_later_leaders() {
    let cluster = Cluster::running(1).await;
    cluster.put(0, "key", "value").await;
    // The leader of term 1 lives, and hangs on its disk after the first part.
    let first = image(&cluster, 1).await.swap_remove(0);
    let hanging = tokio_stream::once(first).chain(tokio_stream::pending());
    let overtaken = async {
        let answer = send_chunks(&cluster, hanging).await.expect("answers");
        assert!(!answer.accepted && answer.refusal.contains("later term"), "{answer:?}");
    };
    let later = async {
        loop {
            let earlier = send_chunks(&cluster, tokio_stream::iter(image(&cluster, 0).await)).await.expect("answers");
            if earlier.refusal.contains("another snapshot") || earlier.refusal.contains("later term") {
                break;
            }
        }
        // The first has its place now.
        while !send_image(&cluster, 2).await.expect("answers") {}
    };
    timeout(PATIENCE, async { tokio::join!(overtaken, later) }).await.expect("the later leader's is taken in");
    assert_eq!(cluster.get(0, "key").await.as_deref(), Some(&b"value"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_a_term_that_no_election_reaches_is_refused_before_consensus_hears_of_it() {
    let cluster = Cluster::running(1).await;
    cluster.put(0, "key", "value").await;
    for term in [(1 << 62) + 1, u64::MAX] {
        let refused = send_image(&cluster, term).await.expect_err("no leader has this term");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
    assert_eq!(cluster.replica(0).status().raft.expect("runs").term.0, 1);
    assert!(send_image(&cluster, 1 << 62).await.expect("answers"), "the last term there is, declined or not");
}
