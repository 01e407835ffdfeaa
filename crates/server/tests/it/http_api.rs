//! HTTP on the client port and on the metrics port.

use serde_json::json;

use crate::served::{MAX_REQUEST_BYTES, Served, http};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_written_read_and_deleted() {
    let served = Served::alone().await;
    let written = served.http("PUT", "/v1/kv/a/b%20c", b"hi").await;
    assert_eq!((written.status, written.text().as_str()), (200, "true"));
    assert_eq!(written.header("x-quorate-revision"), Some("2"));

    let read = served.http("GET", "/v1/kv/a/b%20c", b"").await;
    assert_eq!(read.status, 200);
    let expected = json!([{
        "Key": "a/b c", "Value": "aGk=", "Flags": 0, "LockIndex": 0, "CreateIndex": 2, "ModifyIndex": 2, "Version": 1,
        "Lease": 0
    }]);
    assert_eq!(read.json(), expected);
    assert_eq!(read.header("x-quorate-consistency"), Some("default"));
    assert_eq!(read.header("x-quorate-known-leader"), Some("true"));

    let raw = served.http("GET", "/v1/kv/a/b%20c?raw&consistent", b"").await;
    assert_eq!((raw.status, raw.body.as_slice()), (200, &b"hi"[..]));
    assert_eq!(raw.header("x-quorate-consistency"), Some("consistent"));

    assert_eq!(served.http("DELETE", "/v1/kv/a/b%20c", b"").await.text(), "true");
    assert_eq!(served.http("GET", "/v1/kv/a/b%20c?stale", b"").await.status, 404);
    assert_eq!(served.http("DELETE", "/v1/kv/a/b%20c", b"").await.text(), "true", "nothing to delete is no failure");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_read_and_deleted_whole() {
    let served = Served::alone().await;
    for key in ["p/a", "p/b/1", "p/b/2", "q"] {
        served.put(key, "v").await;
    }
    let names = |answer: serde_json::Value| -> Vec<String> {
        let kvs = answer.as_array().expect("an array").clone();
        kvs.iter().map(|kv| kv["Key"].as_str().expect("a key").to_string()).collect()
    };
    assert_eq!(names(served.http("GET", "/v1/kv/p/?recurse", b"").await.json()), ["p/a", "p/b/1", "p/b/2"]);
    assert_eq!(served.http("GET", "/v1/kv/p/?keys", b"").await.json(), json!(["p/a", "p/b/1", "p/b/2"]));
    assert_eq!(served.http("GET", "/v1/kv/p/?keys&separator=/", b"").await.json(), json!(["p/a", "p/b/"]));
    assert_eq!(served.http("GET", "/v1/kv/?keys&separator=/", b"").await.json(), json!(["p/", "q"]));
    assert_eq!(served.http("DELETE", "/v1/kv/p/?recurse", b"").await.text(), "true");
    assert_eq!(names(served.http("GET", "/v1/kv/?recurse", b"").await.json()), ["q"]);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cas_compares_the_modify_index() {
    let served = Served::alone().await;
    assert_eq!(served.http("PUT", "/v1/kv/k?cas=0", b"1").await.text(), "true");
    assert_eq!(served.http("PUT", "/v1/kv/k?cas=0", b"2").await.text(), "false");
    assert_eq!(served.http("PUT", "/v1/kv/k?cas=2", b"3").await.text(), "true");
    assert_eq!(served.http("DELETE", "/v1/kv/k?cas=2", b"").await.text(), "false");
    assert_eq!(served.http("GET", "/v1/kv/k?raw", b"").await.text(), "3");
    assert_eq!(served.http("DELETE", "/v1/kv/k?cas=3", b"").await.text(), "true");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_meant_is_a_bad_request_with_a_reason() {
    let served = Served::alone().await;
    for (method, path) in [
        ("GET", "/v1/kv/k?stale&consistent"),
        ("GET", "/v1/kv/k?default&consistent"),
        ("GET", "/v1/kv/k?max_staleness=5ms"),
        ("GET", "/v1/kv/k?stale&max_staleness=soon"),
        ("GET", "/v1/kv/k?stale&on_stale=perhaps"),
        ("GET", "/v1/kv/k?min_revision=-1"),
        ("GET", "/v1/kv/k?max_stale=5ms"),
        ("GET", "/v1/kv/k?raw&recurse"),
        ("GET", "/v1/kv/%zz"),
        ("GET", "/v1/kv/"),
        ("PUT", "/v1/kv/"),
        ("PUT", "/v1/kv/k?cas=x"),
        ("DELETE", "/v1/kv/k?cas=0"),
        ("DELETE", "/v1/kv/k?cas=1&recurse"),
    ] {
        let refused = served.http(method, path, b"").await;
        assert_eq!(refused.status, 400, "{method} {path}: {}", refused.text());
        assert!(refused.json()["error"].is_string(), "{method} {path}");
    }
    assert_eq!(served.http("POST", "/v1/kv/k", b"").await.status, 405);
    assert_eq!(served.http("GET", "/v2/keys", b"").await.status, 404);
    let large = vec![b'v'; MAX_REQUEST_BYTES + 1];
    assert_eq!(served.http("PUT", "/v1/kv/k", &large).await.status, 413);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_node_is_alive_and_not_ready() {
    let served = Served::empty().await;
    assert_eq!(served.http("GET", "/livez", b"").await.status, 200);
    let ready = served.http("GET", "/readyz", b"").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("[-]member failed: "), "{}", ready.text());
    let health = served.http("GET", "/health", b"").await;
    assert_eq!((health.status, health.json()), (503, json!({"health": "false", "reason": "RAFT NO LEADER"})));
    assert_eq!(served.http("GET", "/version", b"").await.json()["etcdcluster"], "not_decided");
    assert_eq!(served.http("GET", "/v1/kv/k?stale", b"").await.status, 503);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_is_ready_in_every_check() {
    let served = Served::alone().await;
    for path in ["/health", "/health?serializable=true", "/readyz", "/livez/serializable_read"] {
        assert_eq!(served.http("GET", path, b"").await.status, 200, "{path}");
    }
    for check in ["data_corruption", "serializable_read", "linearizable_read", "non_learner", "member"] {
        let answer = served.http("GET", &format!("/readyz/{check}"), b"").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok\n"), "{check}");
    }
    let verbose = served.http("GET", "/readyz?verbose&exclude=linearizable_read", b"").await.text();
    assert!(verbose.contains("[+]serializable_read ok\n") && !verbose.contains("linearizable_read"), "{verbose}");
    assert_eq!(served.http("POST", "/health", b"").await.status, 405);
    assert_eq!(served.http("GET", "/readyz/nothing", b"").await.status, 404);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_our_names_and_etcds() {
    let served = Served::alone().await;
    served.put("a", "1").await;
    served.kv().range(crate::served::range("a")).await.expect("read");
    let address = served.server.metrics_address().expect("a metrics port");
    let metrics = http(address, "GET", "/metrics", b"").await;
    assert_eq!(metrics.status, 200);
    let text = metrics.text();
    for line in [
        "quorate_raft_is_leader 1",
        "etcd_server_has_leader 1",
        "etcd_debugging_mvcc_current_revision 2",
        "quorate_node_state{state=\"member\"} 1",
        "quorate_reads_total{consistency=\"consistent\",outcome=\"served\"} 1",
        "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
    }
    assert_eq!(http(address, "GET", "/readyz", b"").await.status, 200);
    assert_eq!(http(address, "GET", "/v1/kv/a", b"").await.status, 404, "no keys without credentials");
    served.server.stop().await;
}
