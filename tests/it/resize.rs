//! One declarative change of the voter set, under writes.

use std::time::Duration;

use quorate_proto::etcdserverpb::cluster_client::ClusterClient;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::{MemberListRequest, RangeRequest};
use quorate_tests::cluster::{Cluster, wait_for};
use quorate_tests::history::{Event, History};
use quorate_tests::load::{Load, LoadConfig, read};

/// Writers on the nodes that stay; they never try twice, so an error is a refused write.
fn start_writers(cluster: &Cluster, staying: &[usize]) -> Load {
    Load::start(&LoadConfig {
        endpoints: staying.iter().map(|p| cluster.nodes[*p].config.client.to_string()).collect(),
        clients: 10,
        keys: 200,
        read_every: 0,
        by_lease: false,
        pace: Duration::from_millis(15),
        move_on_failure: true,
    })
}

async fn member_count(cluster: &Cluster, via: usize) -> usize {
    let mut client = ClusterClient::new(cluster.channel(via));
    let answer = client.member_list(MemberListRequest { linearizable: true }).await.expect("member list");
    answer.into_inner().members.len()
}

/// Every acknowledged write is in the store, at the revision it was acknowledged with.
async fn assert_all_readable(cluster: &Cluster, via: usize, history: &History) {
    let mut client = KvClient::new(cluster.channel(via));
    for operation in &history.operations {
        let Event::Written { value, revision } = &operation.event else { continue };
        let request = RangeRequest {
            key: operation.key.as_bytes().to_vec().into(),
            revision: *revision,
            ..RangeRequest::default()
        };
        let answer = client.range(request).await.expect("a read of the past").into_inner();
        let stored = answer.kvs.first().map(|kv| (kv.value.to_vec(), kv.mod_revision));
        assert_eq!(stored, Some((value.clone().into_bytes(), *revision)), "lost: {operation:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_to_five_to_three_refuses_no_write() {
    let mut cluster = Cluster::start(3, &[]).await;
    for _ in 0..2 {
        cluster.add_empty_node(&[]);
    }
    cluster.wait_until_reachable().await;
    let load = start_writers(&cluster, &[0, 1, 2]);
    cluster.set_voters(0, &[0, 1, 2, 3, 4]);
    assert_eq!(member_count(&cluster, 1).await, 5);
    cluster.set_voters(1, &[0, 1, 2]);
    assert_eq!(member_count(&cluster, 2).await, 3);
    let report = load.finish().await;
    println!("{} acknowledged, largest gap {:?}", report.history.acknowledged(), report.history.largest_gap());
    assert_eq!(report.errors, Vec::<String>::new(), "{}", cluster.logs());
    assert_eq!(report.history.check(), Ok(()));
    assert_all_readable(&cluster, 0, &report.history).await;
}

/// The store's revision as the node at `position` reads it.
async fn revision(cluster: &Cluster, position: usize) -> i64 {
    let mut client = KvClient::new(cluster.channel(position));
    match read(&mut client, "key-0").await.expect("a read") {
        Event::Read { revision, .. } => revision,
        other => unreachable!("a read gave {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_leaves_hands_over_and_its_own_clients_are_served_on() {
    let cluster = Cluster::start(5, &[]).await;
    let leader = cluster.leader().await;
    let leaving = [leader, (leader + 1) % 5];
    let staying: Vec<usize> = (0..5).filter(|p| !leaving.contains(p)).collect();
    let load = Load::start(&LoadConfig {
        endpoints: cluster.endpoints(),
        clients: 10,
        keys: 200,
        read_every: 3,
        by_lease: false,
        pace: Duration::from_millis(15),
        move_on_failure: false,
    });
    cluster.set_voters(staying[0], &staying);
    assert_eq!(member_count(&cluster, staying[1]).await, 3);
    let goal = revision(&cluster, staying[0]).await + 300;
    wait_for("clients of all five nodes to write on", || async {
        (revision(&cluster, staying[0]).await >= goal).then_some(())
    })
    .await;
    let report = load.finish().await;
    println!("{} acknowledged, largest gap {:?}", report.history.acknowledged(), report.history.largest_gap());
    assert_eq!(report.errors, Vec::<String>::new(), "{}", cluster.logs());
    assert_eq!(report.history.check(), Ok(()));
    assert_all_readable(&cluster, staying[0], &report.history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_during_the_resize_loses_nothing_and_the_resize_ends() {
    let mut cluster = Cluster::start(3, &[]).await;
    for _ in 0..2 {
        cluster.add_empty_node(&[]);
    }
    cluster.wait_until_reachable().await;
    let leader = cluster.leader().await;
    let staying: Vec<usize> = (0..3).filter(|p| *p != leader).collect();
    let load = start_writers(&cluster, &staying);
    let via = staying[0];
    let target: Vec<String> = cluster.nodes.iter().map(|n| n.config.peer.to_string()).collect();
    let mut first_call = cluster.nodes[via].ctl_in_background(&["set-voters", &target.join(",")]);
    wait_for("the new nodes to be members", || async { (member_count(&cluster, via).await == 5).then_some(()) }).await;
    cluster.nodes[leader].kill();
    cluster.leader_other_than(leader).await;
    cluster.nodes[leader].restart();
    // Whether the first call outlived the kill or not: the target is in the log, and asking again for it is success.
    first_call.wait().expect("ctl ends");
    cluster.set_voters(via, &[0, 1, 2, 3, 4]);
    assert_eq!(member_count(&cluster, via).await, 5);
    let report = load.finish().await;
    assert_eq!(report.history.check(), Ok(()));
    assert_all_readable(&cluster, via, &report.history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_replaced_while_it_is_down() {
    let mut cluster = Cluster::start(3, &[]).await;
    let new = cluster.add_empty_node(&[]);
    cluster.wait_until_reachable().await;
    let leader = cluster.leader().await;
    let dead = (leader + 1) % 3;
    cluster.nodes[dead].kill();
    let voters: Vec<usize> = (0..3).filter(|p| *p != dead).chain([new]).collect();
    cluster.set_voters(leader, &voters);
    assert_eq!(member_count(&cluster, leader).await, 3);
    let leader = cluster.leader().await;
    wait_for("the new member to serve a linearizable read", || async {
        read(&mut KvClient::new(cluster.channel(new)), "any").await.ok()
    })
    .await;
    assert_ne!(leader, dead);
}
