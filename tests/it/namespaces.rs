//! Packets that are lost on their way between real processes, each in a network namespace of its own.

use quorate_tests::cluster::Cluster;
use quorate_tests::namespaces::{Namespaces, enter};

use crate::faults::{assert_holds, start_load, wait_for_writes};

#[tokio::test(flavor = "multi_thread")]
async fn packets_lost_at_random_one_way_and_all_of_them_lose_no_write() {
    if !enter("namespaces::packets_lost_at_random_one_way_and_all_of_them_lose_no_write") {
        return;
    }
    let network = Namespaces::new(3);
    let cluster = Cluster::start_adjusted(3, Namespaces::settle).await;
    let load = start_load(&cluster);
    let leader = cluster.leader().await;
    wait_for_writes(&cluster, leader, 50).await;

    network.lose(30);
    let leader = cluster.leader().await;
    wait_for_writes(&cluster, leader, 50).await;
    network.heal();

    // It sends, and hears nobody.
    let leader = cluster.leader().await;
    (0..3).filter(|other| *other != leader).for_each(|other| network.cut(other, leader));
    let next = cluster.leader_other_than(leader).await;
    wait_for_writes(&cluster, next, 50).await;
    network.heal();
    wait_for_writes(&cluster, leader, 10).await;

    let leader = cluster.leader().await;
    network.isolate(leader);
    let next = cluster.leader_other_than(leader).await;
    wait_for_writes(&cluster, next, 50).await;
    network.heal();
    wait_for_writes(&cluster, leader, 10).await;
    assert_holds(&cluster, load.finish().await).await;
}
