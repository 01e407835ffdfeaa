//! Empty nodes, initialisation, reset.

use std::pin::pin;
use std::task::Poll;

use quorate_server::runtime::{InitError, ResetError, VoterSpec};
use quorate_store::{DirectoryError, RealDisk};
use quorate_wire::peer::NodeState;

use crate::cluster::{CLUSTER, Cluster};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_node_waits_says_who_it_is_and_stops() {
    let cluster = Cluster::empty(1).await;
    let replica = cluster.replica(0);
    let found = replica.identify(&cluster.nodes[0].address.to_string()).await.expect("answers");
    assert_eq!(found, replica.own_identity());
    assert_eq!((found.state, found.identity), (NodeState::Uninitialised, None));
    replica.clone().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bootstrap_configuration_is_accepted_and_accepted_again() {
    let cluster = Cluster::empty(1).await;
    let replica = cluster.replica(0);
    let members = vec![replica.own_identity().member];
    let first = replica.init(CLUSTER, members.clone()).await.expect("empty");
    assert_eq!(replica.init(CLUSTER, members.clone()).await, Ok(first));
    let other = replica.init(CLUSTER + 1, members).await;
    assert!(matches!(other, Err(InitError::Refused(_))), "{other:?}");
}

/// Begins a call and leaves it, as one does whose client or leader dies.
async fn begin_and_leave<T>(call: impl Future<Output = T>) {
    let mut call = pin!(call);
    let begun = std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_pending())).await;
    assert!(begun, "it writes to the disk first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_nobody_waits_for_any_more_does_not_stay_half_way() {
    let cluster = Cluster::running(2).await;
    let id = cluster.id(1);
    cluster.set_voters(0, &[VoterSpec::Id(cluster.id(0))]).await.expect("shrinks");
    cluster.until(1, "knows it was removed", |status| status.state == NodeState::Removed).await;
    begin_and_leave(cluster.replica(1).reset(CLUSTER, id)).await;
    cluster.until(1, "is empty", |status| status.state == NodeState::Uninitialised).await;
    let members = vec![cluster.replica(1).own_identity().member];
    begin_and_leave(cluster.replica(1).init(CLUSTER + 1, members)).await;
    cluster.until(1, "runs", |status| status.raft.as_ref().is_some_and(|raft| raft.leader.is_some())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incarnation_outlives_a_restart_and_ends_with_a_reset() {
    let mut cluster = Cluster::running(2).await;
    let incarnation = cluster.replica(1).status().incarnation;
    cluster.stop(1).await;
    cluster.restart(1).await;
    assert_eq!(cluster.replica(1).status().incarnation, incarnation);
    cluster.leader().await;
    let id = cluster.id(1);
    let current = cluster.replica(1).reset(CLUSTER, id).await;
    assert!(matches!(current, Err(ResetError::Refused(_))), "{current:?}");
    cluster.set_voters(0, &[VoterSpec::Id(cluster.id(0))]).await.expect("shrinks");
    cluster.until(1, "knows it was removed", |status| status.state == NodeState::Removed).await;
    let new = cluster.replica(1).reset(CLUSTER, id).await.expect("removed");
    assert_ne!(new, incarnation);
    let second = RealDisk::new(cluster.nodes[1].directory.path());
    assert!(matches!(second, Err(DirectoryError::InUse(_))), "a reset lets a second process in: {second:?}");
    let status = cluster.replica(1).status();
    assert_eq!((status.state, status.identity), (NodeState::Uninitialised, None));
    cluster.set_voters(0, &[cluster.at(0), cluster.at(1)]).await.expect("the empty node comes in under a new id");
    assert_ne!(cluster.id(1), id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_member_is_not_taken_for_the_old_one() {
    let mut cluster = Cluster::running(3).await;
    cluster.put(0, "key", "value").await;
    let wiped = (cluster.leader().await + 1) % 3;
    let old = cluster.id(wiped);
    cluster.halt(wiped).await;
    cluster.nodes[wiped].directory = tempfile::TempDir::new().expect("a temporary folder");
    cluster.restart(wiped).await;
    let other = (wiped + 1) % 3;
    let target: Vec<VoterSpec> = (0..3).map(|node| cluster.at(node)).collect();
    cluster.set_voters(other, &target).await.expect("is replaced by itself");
    assert_ne!(cluster.id(wiped), old);
    assert!(!cluster.voters(other).contains(&old));
    assert_eq!(cluster.get(wiped, "key").await.as_deref(), Some(&b"value"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_a_retired_cluster_is_kept_aside_and_the_node_starts_empty() {
    let mut cluster = Cluster::running(1).await;
    cluster.put(0, "key", "value").await;
    let incarnation = cluster.replica(0).status().incarnation;
    cluster.adjust = |config| config.retired_clusters = [CLUSTER + 1].into();
    cluster.stop(0).await;
    cluster.restart(0).await;
    assert_eq!(cluster.replica(0).status().incarnation, incarnation);
    cluster.adjust = |config| config.retired_clusters = [CLUSTER + 1, CLUSTER].into();
    cluster.stop(0).await;
    cluster.restart(0).await;
    let status = cluster.replica(0).status();
    assert_eq!((status.state, status.identity), (NodeState::Uninitialised, None));
    let listed = std::fs::read_dir(cluster.nodes[0].directory.path()).expect("a folder");
    let folders: Vec<_> = listed.map(|entry| entry.expect("listed").path()).filter(|path| path.is_dir()).collect();
    let [aside] = &folders[..] else { panic!("one folder is set aside: {folders:?}") };
    assert!(aside.join(quorate_store::LOG_FILE).exists() && aside.join(quorate_store::STATE_FILE).exists());
}
