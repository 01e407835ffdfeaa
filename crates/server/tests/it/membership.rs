//! Resizing, replacing and catching up, under writes.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use quorate_server::runtime::{RaftView, Replica, VoterPhase, VoterSpec};
use quorate_wire::peer::NodeState;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cluster::{Cluster, PATIENCE, put};

/// Writes one key after the other until told to stop; answers how many were acknowledged.
fn writer(replica: Replica, prefix: &'static str, stop: Arc<AtomicBool>) -> (Arc<AtomicUsize>, JoinHandle<usize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let acknowledged = Arc::clone(&count);
    let task = tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            let number = acknowledged.load(Ordering::Relaxed);
            put(&replica, &format!("{prefix}-{number}"), &number.to_string()).await;
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        acknowledged.load(Ordering::Relaxed)
    });
    (count, task)
}

async fn check_written(cluster: &Cluster, node: usize, prefix: &str, count: usize) {
    for number in 0..count {
        let value = cluster.get(node, &format!("{prefix}-{number}")).await;
        assert_eq!(value.as_deref(), Some(number.to_string().as_bytes()), "{prefix}-{number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resize_from_three_to_five_and_back_loses_no_write() {
    let mut cluster = Cluster::running(3).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (_, writing) = writer(cluster.replica(0).clone(), "resize", Arc::clone(&stop));
    cluster.add().await;
    cluster.add().await;
    let five: Vec<VoterSpec> = (0..5).map(|node| cluster.at(node)).collect();
    cluster.set_voters(1, &five).await.expect("grows");
    assert_eq!(cluster.voters(1).len(), 5);
    for node in 3..5 {
        cluster.until(node, "is a member", |status| status.state == NodeState::Member).await;
    }
    let three: Vec<VoterSpec> = (0..3).map(|node| VoterSpec::Id(cluster.id(node))).collect();
    cluster.set_voters(0, &three).await.expect("shrinks");
    assert_eq!(cluster.voters(0).len(), 3);
    stop.store(true, Ordering::Relaxed);
    let written = writing.await.expect("the writer ends");
    assert!(written > 0, "nothing was written meanwhile");
    check_written(&cluster, 2, "resize", written).await;
    for node in 3..5 {
        cluster.until(node, "knows it was removed", |status| status.state == NodeState::Removed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_leaves_and_writes_go_on() {
    let mut cluster = Cluster::running(3).await;
    let leaving = cluster.leader().await;
    let stays: Vec<usize> = (0..3).filter(|node| *node != leaving).collect();
    let new = cluster.add().await;
    let stop = Arc::new(AtomicBool::new(false));
    let (_, writing) = writer(cluster.replica(stays[0]).clone(), "leave", Arc::clone(&stop));
    let target = [cluster.at(stays[0]), cluster.at(stays[1]), cluster.at(new)];
    cluster.set_voters(leaving, &target).await.expect("is replaced");
    stop.store(true, Ordering::Relaxed);
    let written = writing.await.expect("the writer ends");
    cluster.until(leaving, "knows it was removed", |status| status.state == NodeState::Removed).await;
    assert!(!cluster.voters(stays[0]).contains(&cluster.id(leaving)));
    check_written(&cluster, new, "leave", written).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_member_is_replaced_while_it_is_down() {
    let mut cluster = Cluster::running(3).await;
    cluster.put(0, "key", "value").await;
    let dead = (cluster.leader().await + 1) % 3;
    let stays: Vec<usize> = (0..3).filter(|node| *node != dead).collect();
    cluster.halt(dead).await;
    let new = cluster.add().await;
    let target = [cluster.at(stays[0]), cluster.at(stays[1]), cluster.at(new)];
    cluster.set_voters(stays[0], &target).await.expect("is replaced");
    assert_eq!(cluster.get(new, "key").await.as_deref(), Some(&b"value"[..]));
    // What comes back is told that it has left.
    cluster.restart(dead).await;
    cluster.until(dead, "knows it was removed", |status| status.state == NodeState::Removed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_too_few_of_whom_are_there_are_waited_for() {
    let mut cluster = Cluster::running(3).await;
    let leader = cluster.leader().await;
    let (dead, stays) = ((leader + 1) % 3, (leader + 2) % 3);
    let dead_id = cluster.id(dead);
    cluster.halt(dead).await;
    let is_silent = |raft: &RaftView| raft.followers.get(&dead_id).is_some_and(|follower| !follower.active);
    cluster.until(leader, "misses it", |status| status.raft.as_ref().is_some_and(is_silent)).await;
    let target = [VoterSpec::Id(dead_id), VoterSpec::Id(cluster.id(stays))];
    let mut progress = cluster.replica(stays).set_voters(target.to_vec(), None).await.expect("runs");
    loop {
        let step = progress.recv().await.expect("goes on").expect("waits");
        assert!(matches!(step.phase, VoterPhase::Resolving), "{step:?}");
        if step.text.contains("too few of the voters asked for") {
            break;
        }
    }
    cluster.put(stays, "key", "the old voters go on").await;
    cluster.restart(dead).await;
    let done = async { while progress.recv().await.expect("goes on").expect("ends well").phase != VoterPhase::Done {} };
    timeout(PATIENCE, done).await.expect("ends as soon as they are there");
    assert_eq!(cluster.voters(stays), [dead_id, cluster.id(stays)].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_far_behind_is_sent_a_snapshot() {
    let mut cluster = Cluster::adjusted(1, |config| {
        config.snapshot_count = 50;
        config.keep_log_entries = 10;
    })
    .await;
    cluster.init_all().await;
    for number in 0..400 {
        cluster.put(0, &format!("key-{number}"), "value").await;
    }
    cluster.until(0, "the log was cut", |status| status.raft.as_ref().is_some_and(|raft| raft.first.0 > 100)).await;
    let new = cluster.add().await;
    cluster.set_voters(0, &[cluster.at(0), cluster.at(new)]).await.expect("grows");
    let base = cluster.replica(new).status().raft.expect("runs").first;
    assert!(base.0 > 100, "the new member was sent the whole log from {base}");
    for number in 0..400 {
        let value = cluster.get(new, &format!("key-{number}")).await;
        assert_eq!(value.as_deref(), Some(&b"value"[..]), "key-{number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_target_that_is_reached_succeeds_again() {
    let cluster = Cluster::running(3).await;
    let target: Vec<VoterSpec> = (0..3).map(|node| cluster.at(node)).collect();
    let first = cluster.set_voters(0, &target).await.expect("nothing to do");
    let second = cluster.set_voters(1, &target).await.expect("nothing to do");
    assert_eq!(first, second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_added_before_it_is_started_becomes_a_voter_by_itself() {
    let mut cluster = Cluster::running(1).await;
    cluster.put(0, "key", "value").await;
    let port = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = port.local_addr().expect("bound").to_string();
    let id = cluster.replica(0).add_member(address.clone(), true).await.expect("added");
    cluster.put(0, "key", "is written without it").await;
    let added = cluster.replica(0).status().raft.expect("runs").membership.1.members[&id].clone();
    assert_eq!((added.is_bound(), added.name.as_str(), added.peer_address), (false, "", address));
    // More than an append holds: it comes by the configuration that does not know its data directory before it comes by its own.
    let value = "x".repeat(256 << 10);
    for _ in 0..12 {
        cluster.put(0, "large", &value).await;
    }
    let node = cluster.add_on(port).await;
    cluster
        .until(0, "has two voters", |status| {
            status.raft.as_ref().is_some_and(|raft| raft.membership.1.voters.len() == 2)
        })
        .await;
    assert_eq!(cluster.id(node), id, "the id it was promised");
    assert_eq!(cluster.get(node, "key").await.as_deref(), Some(&b"is written without it"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_stays_one_until_it_is_promoted() {
    let mut cluster = Cluster::running(1).await;
    let node = cluster.add().await;
    let address = cluster.nodes[node].address.to_string();
    let id = cluster.replica(0).add_member(address, false).await.expect("added");
    cluster.until(node, "is a member", |status| status.state == NodeState::Member).await;
    assert_eq!(cluster.voters(0).len(), 1);
    // It has the newest configuration, so it has caught up; the leader hears of that with the next heartbeat.
    while let Err(refused) = cluster.replica(0).promote_member(id).await {
        assert_eq!(refused, quorate_node::NodeError::NotCaughtUp(id));
    }
    assert_eq!(cluster.voters(0).len(), 2);
    cluster.replica(0).remove_member(id).await.expect("removed");
    assert_eq!(cluster.voters(0).len(), 1);
    cluster.until(node, "knows it was removed", |status| status.state == NodeState::Removed).await;
    assert!(cluster.replica(0).promote_member(id).await.is_err(), "its id is gone for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_keeps_the_id_it_was_promised() {
    let mut cluster = Cluster::running(1).await;
    let node = cluster.add().await;
    let id = cluster.replica(0).add_member(cluster.nodes[node].address.to_string(), true).await.expect("added");
    cluster.until(node, "is a member", |status| status.state == NodeState::Member).await;
    cluster
        .until(0, "has two voters", |status| {
            status.raft.as_ref().is_some_and(|raft| raft.membership.1.voters.len() == 2)
        })
        .await;
    cluster.stop(node).await;
    cluster.restart(node).await;
    assert_eq!(cluster.id(node), id);
    cluster.put(node, "key", "value").await;
}
