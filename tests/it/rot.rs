//! Bits that flip in the files of a node: found without anybody reading them, and the node bars itself and says so.

use std::path::Path;

use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_tests::cluster::{Cluster, wait_for};
use quorate_tests::load::{put, read};
use quorate_tests::node::get;

/// A value that is found in a file.
const MARK: &str = "a value that will not stay what it was, repeated so that it cannot be missed";

/// Flips a bit in every copy of [`MARK`] in the file; how many there were.
fn rot(file: &Path) -> usize {
    let mut bytes = std::fs::read(file).expect("the file of a stopped node");
    let places: Vec<usize> = bytes
        .windows(MARK.len())
        .enumerate()
        .filter(|(_, window)| *window == MARK.as_bytes())
        .map(|(place, _)| place)
        .collect();
    places.iter().for_each(|place| bytes[place + 20] ^= 1);
    std::fs::write(file, bytes).expect("the file can be written");
    places.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_rots_on_the_disk_is_found_and_bars_the_node() {
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    put(&mut KvClient::new(cluster.channel(leader)), "rotten", &MARK.repeat(4)).await.expect("written");
    for number in 0..50 {
        put(&mut KvClient::new(cluster.channel(leader)), &format!("sound-{number}"), "1").await.expect("written");
    }
    let victim = (leader + 1) % 3;
    wait_for("the victim to have it", || async {
        read(&mut KvClient::new(cluster.channel(victim)), "rotten").await.ok()
    })
    .await;
    // Cleanly, so that its next start reads the image of the index and not the records.
    assert!(cluster.nodes[victim].stop(), "{}", cluster.nodes[victim].log_tail());
    assert!(rot(&cluster.nodes[victim].config.data_dir.join("state.redb")) > 0, "the value is in the state file");
    cluster.nodes[victim].restart();

    // Nobody reads the key there.
    let metrics = cluster.nodes[victim].config.metrics;
    let ready = wait_for("the damage to be found", || async {
        let answer = get(metrics, "/readyz").await?;
        answer.contains("damaged").then_some(answer)
    })
    .await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("checksum"), "{ready}");
    let figures = get(metrics, "/metrics").await.expect("it is up");
    assert!(figures.contains("quorate_node_state{state=\"damaged\"} 1"), "{figures}");
    assert!(get(metrics, "/livez").await.expect("it is up").starts_with("HTTP/1.1 200"));
    let refused = read(&mut KvClient::new(cluster.channel(victim)), "sound-1").await.expect_err("it serves nothing");
    assert!(refused.message().contains("damaged"), "{refused}");
    let next = cluster.leader_other_than(victim).await;
    read(&mut KvClient::new(cluster.channel(next)), "rotten").await.expect("the others serve on");

    // It stays barred: what is found once is not forgotten by a restart.
    assert!(cluster.nodes[victim].is_running());
    cluster.nodes[victim].kill();
    cluster.nodes[victim].restart();
    wait_for("it to say so again", || async {
        get(metrics, "/readyz").await.filter(|answer| answer.contains("damaged"))
    })
    .await;
}
