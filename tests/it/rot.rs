//! Bits that flip in the files of a node: found without anybody reading them, and the node bars itself and says so.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use quorate_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::request_op::Request;
use quorate_proto::etcdserverpb::{Compare, PutRequest, RequestOp, TxnRequest};
use quorate_tests::cluster::{Cluster, wait_for};
use quorate_tests::load::{put, read};
use quorate_tests::node::get;

use crate::barred::assert_barred;
use crate::faults::{assert_holds, start_load_at, wait_for_writes};

/// A value that is found in a file.
const MARK: &str = "a value that will not stay what it was, repeated so that it cannot be missed";

/// Flips a bit in every copy of [`MARK`] in the file; how many there were. Whatever else is written there meanwhile stays.
fn rot(path: &Path) -> usize {
    let file = File::options().read(true).write(true).open(path).expect("the file of a node");
    let mut bytes = vec![0; file.metadata().expect("an open file").len() as usize];
    file.read_exact_at(&mut bytes, 0).expect("a file does not become shorter while nothing is compacted");
    let places = bytes.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK.as_bytes());
    let places: Vec<usize> = places.map(|(place, _)| place + 20).collect();
    places.iter().for_each(|place| file.write_all_at(&[bytes[*place] ^ 1], *place as u64).expect("a byte is written"));
    places.len()
}

/// Puts [`MARK`] and waits until a follower has it; which one.
async fn spread_mark(cluster: &Cluster) -> usize {
    let leader = cluster.leader().await;
    put(&mut KvClient::new(cluster.channel(leader)), "rotten", &MARK.repeat(4)).await.expect("written");
    let victim = (leader + 1) % 3;
    wait_for("the victim to have it", || async {
        read(&mut KvClient::new(cluster.channel(victim)), "rotten").await.ok()
    })
    .await;
    victim
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_rots_on_the_disk_is_found_and_bars_the_node() {
    let mut cluster = Cluster::start(3, &[]).await;
    let victim = spread_mark(&cluster).await;
    // Cleanly, so that its next start reads the image of the index and not the records.
    assert!(cluster.nodes[victim].stop(), "{}", cluster.nodes[victim].log_tail());
    assert!(rot(&cluster.nodes[victim].config.data_dir.join("state.redb")) > 0, "the value is in the state file");
    cluster.nodes[victim].restart();

    // Nobody reads the key there.
    assert_barred(&mut cluster, victim, "damaged", "checksum").await;
    let damaged = cluster.nodes[victim].metric("quorate_damaged_records_total").await;
    assert_eq!(damaged, Some(1.0), "{}", cluster.nodes[victim].log_tail());
    let next = cluster.leader_other_than(victim).await;
    read(&mut KvClient::new(cluster.channel(next)), "rotten").await.expect("the others serve on");

    // It stays barred: what is found once is not forgotten by a restart.
    cluster.nodes[victim].kill();
    cluster.nodes[victim].restart();
    assert_barred(&mut cluster, victim, "damaged", "checksum").await;
}

/// Before anybody reads the files through: whoever ends here ends at each start.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_record_that_an_entry_needs_bars_the_node_and_does_not_end_it() {
    let mut cluster = Cluster::start(3, &[]).await;
    let victim = spread_mark(&cluster).await;
    assert!(cluster.nodes[victim].stop(), "{}", cluster.nodes[victim].log_tail());
    assert!(rot(&cluster.nodes[victim].config.data_dir.join("state.redb")) > 0, "the value is in the state file");
    let next = cluster.leader_other_than(victim).await;
    let compare = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Value.into(),
        key: b"rotten".to_vec().into(),
        target_union: Some(TargetUnion::Value(MARK.repeat(4).into_bytes().into())),
        ..Compare::default()
    };
    let put = PutRequest { key: b"compared".to_vec().into(), ..PutRequest::default() };
    let success = vec![RequestOp { request: Some(Request::RequestPut(put)) }];
    let txn = TxnRequest { compare: vec![compare], success, failure: Vec::new() };
    let answer = KvClient::new(cluster.channel(next)).txn(txn).await.expect("the others compare").into_inner();
    assert!(answer.succeeded, "{answer:?}");
    cluster.nodes[victim].restart();
    assert_barred(&mut cluster, victim, "damaged", "checksum").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_rots_while_its_node_is_stopped_bars_the_node_from_the_start() {
    let mut cluster = Cluster::start(3, &[]).await;
    let victim = spread_mark(&cluster).await;
    assert!(cluster.nodes[victim].stop(), "{}", cluster.nodes[victim].log_tail());
    assert!(rot(&cluster.nodes[victim].config.data_dir.join("log.redb")) > 0, "the value is in the log");
    cluster.nodes[victim].restart();
    assert_barred(&mut cluster, victim, "damaged", "checksum").await;
    // The file tells whose it is, so that it can be told apart from its successor.
    let status = cluster.nodes[victim].ctl(&["status", "--output", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert!(status["cluster_id"].as_str().is_some_and(|id| id.len() == 32), "{status}");

    let next = cluster.leader_other_than(victim).await;
    cluster.replace(victim, next).await;
    wait_for("the new member to have what its predecessor lost", || async {
        read(&mut KvClient::new(cluster.channel(victim)), "rotten").await.ok()
    })
    .await;
}

/// Nobody asks for the record, and the node goes on writing to the file meanwhile.
async fn rots_under_a_running_node(file: &str) {
    let mut cluster = Cluster::start_faulty(3).await;
    let victim = spread_mark(&cluster).await;
    let others: Vec<usize> = (0..3).filter(|position| *position != victim).collect();
    let load = start_load_at(others.iter().map(|position| cluster.endpoints()[*position].clone()).collect(), false);
    wait_for_writes(&cluster, others[0], 50).await;
    let path = cluster.nodes[victim].config.data_dir.join(file);
    let metrics = cluster.nodes[victim].config.metrics;
    // Again and again: every commit may put a sound copy in another place, and leave the rotten one unused.
    wait_for("the damage to be found", || async {
        rot(&path);
        get(metrics, "/readyz").await.filter(|answer| answer.contains("damaged"))
    })
    .await;
    assert_barred(&mut cluster, victim, "damaged", "checksum").await;
    let next = cluster.leader_other_than(victim).await;
    wait_for_writes(&cluster, next, 50).await;
    cluster.replace(victim, next).await;
    wait_for_writes(&cluster, victim, 50).await;
    assert_holds(&cluster, load.finish().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_rots_under_a_running_node_is_found_and_the_node_is_replaced() {
    rots_under_a_running_node("state.redb").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_rots_under_a_running_node_is_found_and_the_node_is_replaced() {
    rots_under_a_running_node("log.redb").await;
}
