//! Power, disks and clocks that fail under the real binary, with clients at work on every node.

use std::time::{Duration, Instant};

use quorate_tests::cluster::{Cluster, PATIENCE};

use crate::faults::{assert_holds, start_load, start_load_at, wait_for_writes};

async fn wait_for_end(cluster: &mut Cluster, position: usize) {
    let started = Instant::now();
    while cluster.nodes[position].is_running() {
        assert!(started.elapsed() < PATIENCE, "{}", cluster.nodes[position].log_tail());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// All members lose their power at once, again and again, under load.
async fn lose_power_everywhere(members: usize) {
    let mut cluster = Cluster::start_faulty(members).await;
    let load = start_load(&cluster);
    for seed in 0..6 {
        let leader = cluster.leader().await;
        wait_for_writes(&cluster, leader, 60).await;
        for node in 0..members {
            cluster.nodes[node].order(&format!("lose-power {seed}")).await;
        }
        for node in 0..members {
            wait_for_end(&mut cluster, node).await;
            cluster.nodes[node].restart();
        }
    }
    let leader = cluster.leader().await;
    wait_for_writes(&cluster, leader, 60).await;
    assert_holds(&cluster, load.finish().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_lost_everywhere_under_load_loses_no_acknowledged_write() {
    lose_power_everywhere(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_lost_by_the_only_member_under_load_loses_no_acknowledged_write() {
    lose_power_everywhere(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_has_become_slow_is_replaced() {
    let cluster = Cluster::start_faulty(3).await;
    let load = start_load(&cluster);
    for _ in 0..2 {
        let leader = cluster.leader().await;
        wait_for_writes(&cluster, leader, 50).await;
        cluster.nodes[leader].order("sync-delay-us 5000000").await;
        let next = cluster.leader_other_than(leader).await;
        wait_for_writes(&cluster, next, 50).await;
        cluster.nodes[leader].order("sync-delay-us 0").await;
        wait_for_writes(&cluster, leader, 10).await;
    }
    assert_holds(&cluster, load.finish().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_each_take_longer_slow_the_node_down_and_break_nothing() {
    let cluster = Cluster::start_faulty(3).await;
    let load = start_load(&cluster);
    let leader = cluster.leader().await;
    cluster.nodes[(leader + 1) % 3].order("write-delay-us 5000").await;
    wait_for_writes(&cluster, leader, 200).await;
    cluster.nodes[leader].order("write-delay-us 1000\nsync-delay-us 20000").await;
    let leader = cluster.leader().await;
    wait_for_writes(&cluster, leader, 50).await;
    assert_holds(&cluster, load.finish().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_sync_fails_ends_and_comes_back_with_what_is_really_there() {
    let mut cluster = Cluster::start_faulty(3).await;
    let load = start_load(&cluster);
    for step in 0..2 {
        let leader = cluster.leader().await;
        wait_for_writes(&cluster, leader, 50).await;
        let victim = (leader + step) % 3;
        cluster.nodes[victim].order("fail-syncs 1").await;
        wait_for_end(&mut cluster, victim).await;
        let said = cluster.nodes[victim].log_tail();
        assert!(said.contains("the node ended itself"), "{said}");
        cluster.nodes[victim].restart();
        wait_for_writes(&cluster, victim, 20).await;
    }
    assert_holds(&cluster, load.finish().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_reads_nothing_ends_and_comes_back_whole() {
    let mut cluster = Cluster::start_faulty(3).await;
    let mut load = None;
    // A follower that nobody asks for anything, another one at work, and a leader.
    for step in [1, 2, 0] {
        let leader = cluster.leader().await;
        let victim = (leader + step) % 3;
        cluster.nodes[victim].order("fail-reads 1").await;
        wait_for_end(&mut cluster, victim).await;
        let said = cluster.nodes[victim].log_tail();
        assert!(said.contains("the node ended itself") && said.contains(".redb"), "{said}");
        cluster.nodes[victim].restart();
        load.get_or_insert_with(|| start_load(&cluster));
        wait_for_writes(&cluster, victim, 50).await;
    }
    assert_holds(&cluster, load.expect("begun").finish().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_far_beyond_the_bound_break_no_read_that_asks_a_quorum() {
    let cluster = Cluster::start_faulty(3).await;
    let load = start_load(&cluster);
    for round in 0..3_u64 {
        let leader = cluster.leader().await;
        wait_for_writes(&cluster, leader, 50).await;
        // Its clock stands still, those of the others run and jump. Whether it leads on depends on how busy it is: messages
        // that carry writes need no clock.
        cluster.nodes[leader].order("clock-rate 0").await;
        for other in (0..3).filter(|other| *other != leader) {
            let jump = 700 * (round + other as u64);
            cluster.nodes[other].order(&format!("clock-rate 1500000\nclock-jump-ms {jump}")).await;
        }
        wait_for_writes(&cluster, (leader + 1) % 3, 50).await;
        for node in &cluster.nodes {
            node.order("clock-rate 1000000").await;
        }
        wait_for_writes(&cluster, leader, 10).await;
    }
    assert_holds(&cluster, load.finish().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_within_the_bound_break_no_read_by_lease() {
    let cluster = Cluster::start_faulty(3).await;
    let load = start_load_at(cluster.endpoints(), true);
    for _ in 0..2 {
        let leader = cluster.leader().await;
        for node in 0..3 {
            let rate = if node == leader { 980_000 } else { 1_020_000 };
            cluster.nodes[node].order(&format!("clock-rate {rate}")).await;
        }
        wait_for_writes(&cluster, leader, 50).await;
        cluster.nodes[leader].pause();
        let next = cluster.leader_other_than(leader).await;
        wait_for_writes(&cluster, next, 50).await;
        // A machine that was suspended wakes with a clock that went on.
        cluster.nodes[leader].resume();
        cluster.nodes[leader].order("clock-jump-ms 5000").await;
        wait_for_writes(&cluster, leader, 20).await;
    }
    assert_holds(&cluster, load.finish().await).await;
}
