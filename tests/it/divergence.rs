//! A state machine of the real binary that goes its own way: the nodes' hashes tell, the node bars itself and says so
//! everywhere, the others go on, and a node with an empty disk takes its place.

use quorate_proto::etcdserverpb::HashKvRequest;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_tests::cluster::{Cluster, wait_for};

use crate::barred::assert_barred;
use crate::faults::{assert_holds, start_load_at, wait_for_writes};

/// The hash of everything that is readable at the current revision, as the node at `position` has it.
async fn hash(cluster: &Cluster, position: usize, revision: i64) -> u32 {
    let mut client = MaintenanceClient::new(cluster.channel(position));
    let answer = client.hash_kv(HashKvRequest { revision }).await.expect("it hashes what it holds");
    answer.into_inner().hash
}

async fn strays_and_is_replaced(leads: bool) {
    let mut cluster = Cluster::start_faulty(3).await;
    let leader = cluster.leader().await;
    let victim = if leads { leader } else { (leader + 1) % 3 };
    let others: Vec<usize> = (0..3).filter(|position| *position != victim).collect();
    // Until it knows, it tells its own clients what it has: nothing that a history could be asked about.
    let load = start_load_at(others.iter().map(|position| cluster.endpoints()[*position].clone()).collect(), false);
    wait_for_writes(&cluster, others[0], 20).await;
    cluster.nodes[victim].order("stray 1").await;

    assert_barred(&mut cluster, victim, "fenced", "differs from the quorum's at log index").await;
    let next = cluster.leader_other_than(victim).await;
    wait_for_writes(&cluster, next, 50).await;
    // What it knows of itself is not forgotten with the process.
    cluster.nodes[victim].kill();
    cluster.nodes[victim].restart();
    assert_barred(&mut cluster, victim, "fenced", "differs from the quorum's at log index").await;

    cluster.replace(victim, next).await;
    wait_for_writes(&cluster, victim, 50).await;
    assert_holds(&cluster, load.finish().await).await;
    let revision = wait_for("all to have the last revision", || async {
        let mut seen = Vec::new();
        for node in &cluster.nodes {
            seen.push(node.metric("quorate_revision").await?);
        }
        seen.iter().all(|revision| *revision == seen[0]).then_some(seen[0] as i64)
    })
    .await;
    for position in 1..3 {
        assert_eq!(hash(&cluster, position, revision).await, hash(&cluster, 0, revision).await, "{}", cluster.logs());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_state_goes_its_own_way_fences_itself_and_is_replaced() {
    strays_and_is_replaced(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_state_goes_its_own_way_fences_itself_and_is_replaced() {
    strays_and_is_replaced(true).await;
}
