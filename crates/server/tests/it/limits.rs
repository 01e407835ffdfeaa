//! What happens past a limit, and without a quorum.

use bytes::Bytes;
use quorate_kv::{
    Actor, Alarm, AlarmCommand, AlarmKind, Command, CompactRequest, DeleteRangeRequest, KvError, RangeRequest,
};
use quorate_node::{Consistency, ReadOptions};
use quorate_server::runtime::Replica;
use tokio::time::timeout;

use crate::cluster::{Cluster, PATIENCE, get, put_command};

/// Puts until the alarm stops it.
async fn fill(replica: &Replica) {
    let value = "v".repeat(1024);
    let filling = async {
        for number in 0.. {
            let outcome = replica.write(Actor::Anonymous, put_command(&format!("key-{number}"), &value)).await;
            if outcome.expect("no other limit is near").result == Err(KvError::NoSpace) {
                return;
            }
        }
    };
    timeout(PATIENCE, filling).await.expect("the quota is noticed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_full_member_stops_puts_on_all_of_them_until_there_is_space_again() {
    let cluster = Cluster::adjusted(3, |config| {
        config.quota_bytes = if config.name == "node-1" { 256 * 1024 } else { 1 << 30 };
    })
    .await;
    cluster.init_all().await;
    let other = cluster.replica(2);
    fill(other).await;
    for node in 0..3 {
        cluster.until(node, "the alarm of node 1 stands", |status| status.no_space).await;
        let refused = cluster.replica(node).write(Actor::Anonymous, put_command("more", "value")).await;
        assert_eq!(refused.expect("applied").result, Err(KvError::NoSpace), "node {node}");
    }
    let full = Alarm { kind: AlarmKind::NoSpace, member: cluster.id(1).0 };
    assert_eq!(other.status().alarms.iter().collect::<Vec<_>>(), [full]);
    assert!(get(other, "key-0", Consistency::Default).await.is_some(), "reads go on");

    let everything = (Bytes::from_static(b"key"), Bytes::from_static(b"kez"));
    let delete = DeleteRangeRequest { key: everything.0, range_end: everything.1, ..DeleteRangeRequest::default() };
    let deleted = other.write(Actor::Anonymous, Command::DeleteRange(delete)).await.expect("deletes go on");
    let compact = CompactRequest { revision: deleted.revision.0, physical: false };
    let compacted = other.write(Actor::Anonymous, Command::Compact(compact)).await.expect("compaction goes on");
    compacted.result.expect("a sound revision");
    for node in 0..3 {
        cluster.until(node, "there is space again", |status| !status.no_space).await;
    }
    cluster.put(0, "after", "value").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_can_be_cleared_by_hand_once_its_cause_is_gone() {
    let cluster = Cluster::running(1).await;
    let replica = cluster.replica(0);
    let alarm = Alarm { kind: AlarmKind::NoSpace, member: cluster.id(0).0 };
    let raise = Command::Alarm(AlarmCommand::Raise(alarm));
    replica.write(Actor::Anonymous, raise).await.expect("applied").result.expect("raised");
    let refused = replica.write(Actor::Anonymous, put_command("a", "1")).await.expect("applied");
    assert_eq!(refused.result, Err(KvError::NoSpace));
    cluster.until(0, "the alarm is shown", |status| status.no_space).await;
    let clear = Command::Alarm(AlarmCommand::Clear(alarm));
    replica.write(Actor::Anonymous, clear).await.expect("applied").result.expect("cleared");
    cluster.put(0, "a", "1").await;
    cluster.until(0, "nothing is shown", |status| !status.no_space).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_reads_outlive_the_quorum_and_others_do_not() {
    let mut cluster = Cluster::running(3).await;
    cluster.put(0, "key", "value").await;
    for node in 0..3 {
        assert_eq!(cluster.get(node, "key").await.as_deref(), Some(&b"value"[..]));
    }
    cluster.halt(1).await;
    cluster.halt(2).await;
    assert_eq!(get(cluster.replica(0), "key", Consistency::Stale).await.as_deref(), Some(&b"value"[..]));
    let options = ReadOptions { consistency: Consistency::Consistent, ..ReadOptions::default() };
    let refused = timeout(PATIENCE, cluster.replica(0).read(options)).await.expect("ends in time");
    assert!(refused.is_err(), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_moved_is_found_again() {
    let mut cluster = Cluster::running(3).await;
    let moved = (cluster.leader().await + 1) % 3;
    cluster.stop(moved).await;
    cluster.move_to_a_new_port(moved).await;
    let id = cluster.id(moved);
    let address = cluster.nodes[moved].address.to_string();
    for node in 0..3 {
        cluster
            .until(node, "the new address is in the configuration", |status| {
                let members = status.raft.as_ref().map(|raft| &raft.membership.1.members);
                members.is_some_and(|members| members[&id].peer_address == address)
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_the_state_is_streamed_while_writes_go_on() {
    let cluster = Cluster::running(1).await;
    for number in 0..50 {
        cluster.put(0, &format!("key-{number}"), "value").await;
    }
    let (info, mut chunks) = cluster.replica(0).snapshot().await.expect("runs");
    cluster.put(0, "later", "value").await;
    let mut bytes = 0;
    while let Some(chunk) = timeout(PATIENCE, chunks.recv()).await.expect("in time") {
        bytes += chunk.expect("readable").len();
    }
    let all = RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..RangeRequest::default()
    };
    let view = cluster.replica(0).view().expect("runs");
    let count = view.range(&all).expect("readable").expect("sound").count;
    assert_eq!((info.revision, count), (51, 51));
    assert!(bytes > 50 * "key-1value".len(), "{bytes} bytes");
}
