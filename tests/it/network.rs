//! Cuts, one-way cuts, delays and resets between real processes, with clients at work on every node.

use std::time::Duration;

use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_tests::cluster::{Cluster, wait_for};
use quorate_tests::load::put;

use crate::faults::{assert_holds, start_load, wait_for_writes};

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
