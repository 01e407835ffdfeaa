//! `quorate server` and `quorate ctl`.

use std::path::Path;

use tempfile::TempDir;

use crate::process::{Background, ctl, fail, free_address, run, succeed};

/// A server and its addresses.
struct Node {
    process: Background,
    client: String,
    peer: String,
}

fn server(data: &Path, extra: &[&str]) -> Node {
    let (client, peer, metrics) = (free_address(), free_address(), free_address());
    let data = data.to_str().expect("text");
    let arguments = [
        &["server", "--data-dir", data, "--name", "n1", "--listen-client", &client][..],
        &["--listen-peer", &peer, "--listen-metrics", &metrics],
        extra,
    ];
    let process = Background::start(&arguments.concat());
    let node = Node { process, client, peer };
    while std::net::TcpStream::connect(&node.client).is_err() {
        std::thread::yield_now();
    }
    node
}

#[test]
fn an_empty_node_waits_is_initialised_and_serves() {
    let data = TempDir::new().expect("a temporary folder");
    let mut node = server(data.path(), &[]);
    let status = ctl(&node.client, &["status"]);
    assert_eq!((&status["state"], &status["node_id"]), (&"uninitialised".into(), &serde_json::Value::Null));
    let said = fail(&["ctl", "--endpoint", &node.client, "members"]);
    assert!(said.contains("quorate ctl init"), "{said}");

    // By the peer address; then again by the client address, which finishes the same cluster.
    let first = ctl(&node.client, &["init", "--voters", &format!("n1={}", node.peer)]);
    let again = ctl(&node.client, &["init", "--voters", &format!("n1={}", node.client)]);
    assert_eq!(first, again);

    let written = ctl(&node.client, &["put", "greeting", "hello"]);
    assert_eq!(written["revision"], 2);
    for consistency in ["default", "consistent", "stale"] {
        let read = ctl(&node.client, &["get", "greeting", "--consistency", consistency]);
        assert_eq!((&read["kvs"][0]["value"], &read["read"]["consistency"]), (&"hello".into(), &consistency.into()));
    }
    assert_eq!(succeed(&["ctl", "--endpoint", &node.client, "get", "greeting"]), "hello\n");
    assert_eq!(ctl(&node.client, &["del", "greeting"])["deleted"], 1);
    assert!(fail(&["ctl", "--endpoint", &node.client, "get", "greeting"]).contains("there is no key"));

    let status = ctl(&node.client, &["status"]);
    assert_eq!((&status["state"], &status["role"]), (&"member".into(), &"leader".into()));
    assert_eq!(status["configuration"]["members"][0]["name"], "n1");
    assert_eq!(node.process.end_with("TERM"), Some(0));
}

#[test]
fn admin_commands_need_the_token_and_keys_do_not() {
    let data = TempDir::new().expect("a temporary folder");
    let token = data.path().join("token");
    std::fs::write(&token, "secret\n").expect("written");
    let token = token.to_str().expect("text");
    let node = server(&data.path().join("data"), &["--admin-token-file", token]);
    let said = fail(&["ctl", "--endpoint", &node.client, "status"]);
    assert!(said.contains("--admin-token-file"), "{said}");
    ctl(&node.client, &["--admin-token-file", token, "init", "--voters", &node.peer]);
    ctl(&node.client, &["put", "a", "1"]);
}

#[test]
fn mistakes_end_with_a_reason_and_a_code() {
    let data = TempDir::new().expect("a temporary folder");
    let node = server(data.path(), &[]);
    assert!(fail(&["ctl", "--endpoint", "127.0.0.1:1", "status"]).contains("cannot connect to 127.0.0.1:1"));
    assert!(fail(&["ctl", "--endpoint", "nowhere", "status"]).contains("write HOST:PORT"));
    assert!(fail(&["ctl", "--endpoint", &node.client, "init", "--voters", "a:1,a:1"]).contains("listed twice"));
    assert!(fail(&["ctl", "--endpoint", &node.client, "put", "a", "1"]).contains("quorate ctl init"));
    let other = TempDir::new().expect("a temporary folder");
    let other = other.path().to_str().expect("text");
    let taken = fail(&["server", "--data-dir", other, "--listen-client", &node.client]);
    assert!(taken.contains("cannot listen at") && taken.contains("--listen-client"), "{taken}");
    let own = data.path().to_str().expect("text");
    let free = [free_address(), free_address(), free_address()];
    let ports = ["--listen-client", &free[0], "--listen-peer", &free[1], "--listen-metrics", &free[2]];
    fail(&[&["server", "--data-dir", own][..], &ports].concat());
    let hasty = ["server", "--data-dir", other, "--heartbeat-interval", "500", "--election-timeout", "1000"];
    assert!(fail(&hasty).contains("--election-timeout 1000"));
    assert_eq!(run(&["ctl", "fly"]).status.code(), Some(2), "what clap refuses is a mistake in typing");
}
