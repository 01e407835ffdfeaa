//! What is done with the data of stopped nodes, and with snapshots.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use quorate_server::Incarnation;
use quorate_store::{LogOptions, LogStore, NodeMark, RealDisk};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Background, ctl, fail, free_address, succeed};

/// Runs one node of `dev` on `data`, does `work` with its endpoint, and ends it.
fn with_node(data: &Path, work: impl FnOnce(&str)) {
    let endpoint = free_address();
    let port = endpoint.rsplit(':').next().expect("a port");
    let data = data.to_str().expect("text");
    let mut dev = Background::start(&["dev", "--nodes", "1", "--client-port", port, "--data-dir", data]);
    dev.wait_for("Ctrl-C ends it");
    work(&endpoint);
    assert_eq!(dev.end_with("TERM"), Some(0));
}

#[test]
fn the_committed_log_is_printed_line_by_line() {
    let data = TempDir::new().expect("a temporary folder");
    with_node(data.path(), |endpoint| {
        ctl(endpoint, &["put", "a", "1"]);
        ctl(endpoint, &["del", "a"]);
    });
    let node = data.path().join("n1");
    let printed = succeed(&["dump-applied", "--json", "--data-dir", node.to_str().expect("text")]);
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for (line, index) in lines.iter().zip(1..) {
        assert_eq!(line["index"], index, "no gaps: {printed}");
    }
    let of = |kind: &str| lines.iter().find(|line| line["request"]["type"] == kind);
    let put = of("put").expect("a put");
    assert_eq!(
        (&put["request"]["key"], &put["request"]["value"], &put["revision"]),
        (&"a".into(), &"1".into(), &2.into())
    );
    assert_eq!(of("delete_range").expect("a deletion")["revision"], 3);
    assert!(fail(&["dump-applied", "--json", "--data-dir", "/nonexistent"]).contains("is no directory"));
}

#[test]
fn a_snapshot_is_saved_inspected_and_restored() {
    let data = TempDir::new().expect("a temporary folder");
    let image = data.path().join("image");
    let image = image.to_str().expect("text");
    with_node(data.path(), |endpoint| {
        ctl(endpoint, &["put", "a", "1"]);
        let saved = ctl(endpoint, &["snapshot", "save", image]);
        assert_eq!(saved["revision"], 2);
        let mode = std::fs::metadata(image).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "it holds every value, and the hash of every password");
        assert!(fail(&["ctl", "--endpoint", endpoint, "snapshot", "save", image]).contains("exists"));
    });
    let held = ctl("127.0.0.1:1", &["snapshot", "inspect", image]);
    assert_eq!((&held["revision"], &held["records"]), (&2.into(), &1.into()));

    let restored = TempDir::new().expect("a temporary folder");
    let node = restored.path().join("n1");
    let node = node.to_str().expect("text");
    let made = ctl("127.0.0.1:1", &["snapshot", "restore", image, "--data-dir", node, "--name", "n1"]);
    assert_ne!(made["cluster_id"], held["cluster_id"]);
    with_node(restored.path(), |endpoint| {
        let read = ctl(endpoint, &["get", "a"]);
        assert_eq!(read["kvs"][0]["value"], "1");
        assert!(read["revision"].as_i64() > Some(1_000_000_000), "{read}");
    });

    let mut bytes = std::fs::read(image).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(image, bytes).expect("written");
    assert!(fail(&["ctl", "snapshot", "inspect", image]).contains("is no usable image"));
}

#[test]
fn a_survivor_becomes_a_cluster_of_its_own_if_the_old_one_is_named() {
    let data = TempDir::new().expect("a temporary folder");
    let mut cluster_id = String::new();
    with_node(data.path(), |endpoint| {
        ctl(endpoint, &["put", "a", "1"]);
        cluster_id = ctl(endpoint, &["status"])["cluster_id"].as_str().expect("an id").to_string();
    });
    let node = data.path().join("n1");
    let node = node.to_str().expect("text");
    let wrong = fail(&["recover", "--data-dir", node, "--confirm", "wrong"]);
    assert!(wrong.contains("nothing was changed"), "{wrong}");
    let new_id = "00000000000000000000000000c0ffee";
    let named = ["recover", "--data-dir", node, "--confirm", &cluster_id, "--new-cluster-id", new_id];
    let said = succeed(&named);
    assert!(said.contains(&cluster_id), "{said}");
    let again = succeed(&named);
    assert!(again.contains("nothing is left to do"), "{again}");
    with_node(data.path(), |endpoint| {
        let status = ctl(endpoint, &["status"]);
        assert_eq!(status["cluster_id"], new_id);
        let read = ctl(endpoint, &["get", "a"]);
        assert_eq!(read["kvs"][0]["value"], "1");
        assert!(read["revision"].as_i64() > Some(1_000_000_000), "{read}");
    });
}

/// Leaves a verdict on a stopped node, as the node itself does before it stops taking part.
fn mark(node: &str, mark: NodeMark) {
    let disk = Arc::new(RealDisk::new(node).expect("a stopped node"));
    let (mut log, _) = LogStore::open(disk, Incarnation(0), LogOptions::default()).expect("sound");
    log.set_mark(mark).expect("there is room");
}

#[test]
fn a_marked_node_is_recovered_from_only_if_that_is_asked_for() {
    let data = TempDir::new().expect("a temporary folder");
    let mut cluster_id = String::new();
    with_node(data.path(), |endpoint| {
        cluster_id = ctl(endpoint, &["status"])["cluster_id"].as_str().expect("an id").to_string();
    });
    let node = data.path().join("n1");
    let node = node.to_str().expect("text");
    let confirmed = ["recover", "--data-dir", node, "--confirm", &cluster_id];
    let marks = [
        (NodeMark::Removed, "marked as removed"),
        (NodeMark::Damaged { reason: "a record is rotten".to_owned() }, "(a record is rotten)"),
        (NodeMark::Fenced { reason: "at log index 7".to_owned() }, "(at log index 7)"),
    ];
    for (verdict, words) in marks {
        mark(node, verdict);
        let refused = fail(&confirmed);
        for said in [words, "nothing was changed", "another surviving node", "--although-marked"] {
            assert!(refused.contains(said), "{refused}");
        }
    }
    let said = succeed(&[&confirmed[..], &["--although-marked"]].concat());
    assert!(said.contains("mark       fenced: ") && said.contains("at log index 7"), "{said}");
    with_node(data.path(), |endpoint| {
        let status = ctl(endpoint, &["status"]);
        assert_ne!(status["cluster_id"], cluster_id.as_str());
        assert_eq!(status["state"], "member");
    });
}
