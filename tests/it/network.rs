//! Cuts, one-way cuts, delays and resets between real processes, with clients at work on every node.

use std::time::Duration;

use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_tests::cluster::{Cluster, wait_for};
use quorate_tests::load::put;
use quorate_tests::proxy::CLIENTS;

use crate::faults::{assert_holds, start_load, start_load_at, wait_for_writes};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_cut_off_from_the_leader_alone_disturbs_nobody() {
    let cluster = Cluster::start_behind_proxies(3).await;
    let load = start_load(&cluster);
    let leader = cluster.leader().await;
    let cut_off = (leader + 1) % 3;
    let (_, id) = cluster.leader_seen_by(leader).await.expect("it answers");
    cluster.network().cut(leader, cut_off);
    cluster.network().cut(cut_off, leader);
    // More than one election timeout of work.
    wait_for_writes(&cluster, leader, 1000).await;
    assert_eq!(cluster.leader_seen_by(leader).await, Some((id, id)), "the leader changed\n{}", cluster.logs());
    cluster.network().heal();
    wait_for_writes(&cluster, cut_off, 10).await;
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
