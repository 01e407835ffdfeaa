//! Cuts, one-way cuts, delays and resets between real processes, with clients at work on every node.

use std::time::{Duration, Instant};

use quorate_proto::etcdserverpb::RangeRequest;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_tests::cluster::{Cluster, wait_for};
use quorate_tests::load::put;
use quorate_tests::proxy::CLIENTS;

use crate::faults::{assert_holds, put_at_last, start_load, start_load_at, wait_for_writes};

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_is_replaced_and_acknowledges_nothing_more() {
    let cluster = Cluster::start_behind_proxies(3).await;
    let load = start_load(&cluster);
    let leader = cluster.leader().await;
    wait_for_writes(&cluster, leader, 50).await;
    cluster.network().isolate(leader);
    let next = cluster.leader_other_than(leader).await;
    wait_for_writes(&cluster, next, 50).await;
    let refused = put(&mut KvClient::new(cluster.channel(leader)), "alone", "1").await;
    assert!(refused.is_err(), "a leader without a quorum acknowledged a write");
    cluster.network().heal();
    wait_for_writes(&cluster, leader, 10).await;
    assert_holds(&cluster, load.finish().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hears_nobody_steps_down_though_all_hear_it() {
    let cluster = Cluster::start_behind_proxies(3).await;
    let load = start_load(&cluster);
    let leader = cluster.leader().await;
    wait_for_writes(&cluster, leader, 50).await;
    for other in (0..3).filter(|other| *other != leader) {
        cluster.network().cut(other, leader);
    }
    let next = cluster.leader_other_than(leader).await;
    wait_for_writes(&cluster, next, 50).await;
    cluster.network().heal();
    wait_for_writes(&cluster, leader, 10).await;
    assert_holds(&cluster, load.finish().await).await;
}

/// The usual election timeout of a node.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// The leader that a node knows, and the term.
async fn leadership(cluster: &Cluster, node: usize) -> (u64, u64) {
    wait_for("a leader and its term", || async {
        let (_, leader) = cluster.leader_seen_by(node).await.filter(|(_, leader)| *leader != 0)?;
        Some((leader, cluster.nodes[node].metric("quorate_raft_term").await? as u64))
    })
    .await
}

/// How often a node has begun to ask whether others would vote for it.
async fn pre_votes(cluster: &Cluster, node: usize) -> u64 {
    wait_for("the metrics", || async {
        let node = &cluster.nodes[node];
        node.metric("quorate_raft_term").await?;
        // A series that is not there yet is one in which nothing was counted.
        Some(node.metric("quorate_raft_campaigns_total{kind=\"pre_vote\"}").await.unwrap_or(0.0) as u64)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_cut_off_from_the_leader_alone_disturbs_nobody() {
    let cluster = Cluster::start_behind_proxies(3).await;
    let load = start_load(&cluster);
    let leader = cluster.leader().await;
    let cut_off = (leader + 1) % 3;
    let before = leadership(&cluster, leader).await;
    let asked = pre_votes(&cluster, cut_off).await;
    let cut = Instant::now();
    cluster.network().cut(leader, cut_off);
    cluster.network().cut(cut_off, leader);
    wait_for_writes(&cluster, leader, 1000).await;
    wait_for("the follower to have missed its leader for long", || async {
        let missed = cut.elapsed() >= 3 * ELECTION_TIMEOUT && pre_votes(&cluster, cut_off).await > asked;
        missed.then_some(())
    })
    .await;
    assert_eq!(leadership(&cluster, leader).await, before, "the leader changed\n{}", cluster.logs());
    cluster.network().heal();
    wait_for_writes(&cluster, cut_off, 10).await;
    for node in 0..3 {
        assert_eq!(leadership(&cluster, node).await, before, "the leader changed after the cut\n{}", cluster.logs());
    }
    assert_holds(&cluster, load.finish().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delays_and_resets_in_the_middle_of_messages_lose_nothing() {
    let cluster = Cluster::start_behind_proxies(3).await;
    let load = start_load(&cluster);
    let leader = cluster.leader().await;
    wait_for_writes(&cluster, leader, 20).await;
    for round in 0..10 {
        let node = round % 3;
        cluster.network().delay(node, Duration::from_millis(20));
        cluster.network().reset((node + 1) % 3);
        let leader = cluster.leader().await;
        wait_for_writes(&cluster, leader, 5).await;
        cluster.network().heal();
    }
    for node in 0..3 {
        wait_for_writes(&cluster, node, 5).await;
    }
    wait_for("all to see one leader", || async {
        let mut seen = Vec::new();
        for node in 0..3 {
            seen.push(cluster.leader_seen_by(node).await?.1);
        }
        (seen[0] != 0 && seen.iter().all(|id| *id == seen[0])).then_some(())
    })
    .await;
    assert_holds(&cluster, load.finish().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_lose_narrow_and_jitter_lose_no_write() {
    let cluster = Cluster::start_behind_proxies(3).await;
    let load = start_load(&cluster);
    let leader = cluster.leader().await;
    wait_for_writes(&cluster, leader, 20).await;
    for node in 0..3 {
        // One piece of two hundred ends its connection; half a megabyte a second passes.
        cluster.network().worsen(node, Duration::from_millis(15), 500_000, 5);
    }
    for node in 0..3 {
        wait_for_writes(&cluster, node, 30).await;
    }
    cluster.network().heal();
    let leader = cluster.leader().await;
    wait_for_writes(&cluster, leader, 20).await;
    assert_holds(&cluster, load.finish().await).await;
}

/// A metric that the node at `from` keeps of the member `id`.
async fn of_peer(cluster: &Cluster, from: usize, metric: &str, id: u64) -> u64 {
    wait_for("the metrics of a peer", || async {
        let series = format!("{metric}{{peer=\"{id:016x}\"}}");
        cluster.nodes[from].metric(&series).await.map(|value| value as u64)
    })
    .await
}

/// A node that was away for long gets an image through a link that takes many seconds for it. What else is said on that link
/// does not wait until the image is through, or the leader would take the node for lost all the while (hazard 53).
#[tokio::test(flavor = "multi_thread")]
async fn an_image_over_a_narrow_link_holds_up_no_message() {
    const RATE: u64 = 1_000_000;
    let flags = ["--snapshot-count=10", "--snapshot-catchup-entries=10"];
    let mut cluster = Cluster::start_behind_proxies_with(3, &flags).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    let (id, _) = wait_for("a member's id", || cluster.leader_seen_by(away)).await;
    cluster.nodes[away].kill();
    let value = "v".repeat(500_000);
    for number in 0..24 {
        put_at_last(&cluster, leader, &format!("large-{number}"), &value).await;
    }
    // Or it would be sent what it lacks.
    wait_for("the log to be cut", || async {
        let first = cluster.nodes[leader].metric("quorate_raft_first_index").await?;
        (first > 10.0).then_some(())
    })
    .await;
    cluster.network().worsen(away, Duration::ZERO, RATE, 0);
    let began = Instant::now();
    cluster.nodes[away].restart();
    wait_for("the stream to open", || async {
        (of_peer(&cluster, leader, "quorate_peer_connected", id).await == 1).then_some(())
    })
    .await;
    let trips = of_peer(&cluster, leader, "quorate_peer_round_trip_seconds_count", id).await;
    let breaks = of_peer(&cluster, leader, "quorate_peer_disconnects_total", id).await;
    let (led, asked) = (leadership(&cluster, leader).await, pre_votes(&cluster, away).await);
    wait_for("the image to arrive", || async {
        let received = cluster.nodes[away].metric("quorate_snapshots_received_total{outcome=\"installed\"}").await?;
        (received > 0.0).then_some(())
    })
    .await;
    let took = began.elapsed();
    let trips = of_peer(&cluster, leader, "quorate_peer_round_trip_seconds_count", id).await - trips;
    let breaks = of_peer(&cluster, leader, "quorate_peer_disconnects_total", id).await - breaks;
    println!(
        "the image took {took:?}; {trips} round trips of messages were measured meanwhile, {breaks} streams broke"
    );
    assert!(took > Duration::from_secs(8), "the link was not narrow: {took:?}");
    // One is asked for every two seconds.
    assert!(
        trips >= 2 && breaks == 0,
        "the image held up all messages for {took:?}: {trips} round trips, {breaks} broke"
    );
    assert_eq!(pre_votes(&cluster, away).await, asked, "heartbeats came too late behind the image\n{}", cluster.logs());
    assert_eq!(leadership(&cluster, leader).await, led, "the leader changed\n{}", cluster.logs());
    put_at_last(&cluster, away, "after", "1").await;
}

/// A message that is under way for longer than a peer may be silent is no silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_a_narrow_link_carries_for_many_seconds_arrives() {
    let cluster = Cluster::start_behind_proxies(3).await;
    let leader = cluster.leader().await;
    let narrow = (leader + 1) % 3;
    cluster.network().worsen(narrow, Duration::ZERO, 200_000, 0);
    let value = "v".repeat(1_400_000);
    let began = Instant::now();
    put_at_last(&cluster, leader, "large", &value).await;
    wait_for("the node behind the narrow link to hold it", || async {
        let mut client = KvClient::new(cluster.channel(narrow));
        let own = RangeRequest { key: "large".into(), serializable: true, keys_only: true, ..RangeRequest::default() };
        client.range(own).await.ok().filter(|answer| answer.get_ref().count == 1)
    })
    .await;
    assert!(began.elapsed() > Duration::from_secs(5), "the link was not narrow: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_lose_their_node_go_on_at_another_and_no_write_is_lost_or_doubled() {
    let cluster = Cluster::start_behind_proxies(3).await;
    let mut endpoints = Vec::new();
    for node in 0..3 {
        let behind = cluster.nodes[node].config.client;
        endpoints.push(cluster.network().add_client_port(node, behind).await.to_string());
    }
    let load = start_load_at(endpoints, false);
    for round in 0..4 {
        let leader = cluster.leader().await;
        wait_for_writes(&cluster, leader, 40).await;
        // Requests arrive and their answers do not, or the other way round, and then the connections end.
        let (from, to) = if round % 2 == 0 { (leader, CLIENTS) } else { (CLIENTS, leader) };
        cluster.network().cut(from, to);
        // Those of the other nodes go on.
        wait_for_writes(&cluster, (leader + 1) % 3, 40).await;
        cluster.network().reset_clients(leader);
        cluster.network().heal();
    }
    assert_holds(&cluster, load.finish().await).await;
}
