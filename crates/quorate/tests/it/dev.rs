//! `quorate dev`.

use tempfile::TempDir;

use crate::process::{Background, ctl, free_address};

fn start(data: &TempDir, port: &str, nodes: &str) -> (Background, String) {
    let data = data.path().to_str().expect("text");
    let mut dev = Background::start(&["dev", "--nodes", nodes, "--client-port", port, "--data-dir", data]);
    let said = dev.wait_for("Ctrl-C ends it");
    (dev, said)
}

#[test]
fn one_node_starts_again_with_its_data() {
    let data = TempDir::new().expect("a temporary folder");
    let endpoint = free_address();
    let port = endpoint.rsplit(':').next().expect("a port");
    let (mut dev, said) = start(&data, port, "1");
    assert!(said.contains(&format!("etcdctl --endpoints {endpoint} put greeting hello")), "{said}");
    ctl(&endpoint, &["put", "kept", "value"]);
    assert_eq!(dev.end_with("INT"), Some(0));

    let (mut dev, _) = start(&data, port, "1");
    let read = ctl(&endpoint, &["get", "kept"]);
    assert_eq!(read["kvs"][0]["value"], "value");
    assert_eq!(dev.end_with("TERM"), Some(0));
}

/// Ports of a cluster in a row: P, P+1, P+2, P+10, … Picked far from where the system picks free ones.
const CLUSTER_PORT: u16 = 7310;

#[test]
fn three_nodes_serve_each_others_writes_and_resize() {
    let data = TempDir::new().expect("a temporary folder");
    let (mut dev, said) = start(&data, &CLUSTER_PORT.to_string(), "3");
    assert!(said.contains("3 nodes"), "{said}");
    let endpoint = |node: u16| format!("127.0.0.1:{}", CLUSTER_PORT + 10 * node);
    for node in 0..3 {
        ctl(&endpoint(node), &["put", &format!("k{node}"), "v"]);
    }
    for node in 0..3 {
        let read = ctl(&endpoint(node), &["get", "k", "--prefix", "--consistency", "consistent"]);
        assert_eq!(read["count"], 3, "{read}");
        assert_eq!(read["read"]["consistency"], "consistent");
    }

    // Client address of one, peer address of the other.
    let two = format!("{},127.0.0.1:{}", endpoint(0), CLUSTER_PORT + 11);
    ctl(&endpoint(0), &["set-voters", &two]);
    let members = ctl(&endpoint(0), &["members"]);
    let list = members["configuration"]["members"].as_array().expect("members");
    assert_eq!(list.len(), 2, "{members}");
    assert_eq!(dev.end_with("INT"), Some(0));
}
