//! etcd's API as JSON, at the paths of its gateway. What is expected here is what etcd 3.7.3 answers.

use quorate_proto::etcdserverpb::RangeRequest;
use quorate_proto::v3electionpb::LeaderRequest;
use quorate_proto::v3electionpb::election_client::ElectionClient;
use serde_json::{Value, json};

use crate::served::{Answer, Served};

async fn post(served: &Served, path: &str, body: &Value) -> Answer {
    served.http("POST", path, body.to_string().as_bytes()).await
}

/// Without what is a matter of one run.
fn told(answer: &Answer) -> Value {
    let mut told = answer.json();
    for field in ["cluster_id", "member_id", "raft_term"] {
        if let Some(header) = told.get_mut("header").and_then(Value::as_object_mut) {
            assert!(header.remove(field).is_some_and(|value| value.is_string()), "64-bit numbers are texts");
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_written_and_read_as_json() {
    let served = Served::alone().await;
    let written = post(&served, "/v3/kv/put", &json!({"key": "Zm9v", "value": "YmFy", "unknown": 1})).await;
    assert_eq!((written.status, told(&written)), (200, json!({"header": {"revision": "2"}})));
    assert_eq!(written.header("content-type"), Some("application/json"));
    let kv = json!({"key": "Zm9v", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "YmFy"});
    let expected = json!({"header": {"revision": "2"}, "kvs": [kv], "count": "1"});
    for path in ["/v3/kv/range", "/v3beta/kv/range"] {
        assert_eq!(
            told(&post(&served, path, &json!({"key": "Zm9v", "sort_order": "DESCEND", "limit": 1})).await),
            expected
        );
    }
    let txn = json!({
        "compare": [{"target": "VERSION", "result": "EQUAL", "key": "Zm9v", "version": "1"}],
        "success": [{"requestRange": {"key": "Zm9v"}}],
    });
    let nested = json!({"header": {"revision": "2"}, "kvs": [kv], "count": "1"});
    let expected = json!({"header": {"revision": "2"}, "succeeded": true, "responses": [{"response_range": nested}]});
    assert_eq!(told(&post(&served, "/v3/kv/txn", &txn).await), expected);
    served.server.stop().await;
}

/// Large answers are encoded apart from the small ones, for calls from within the process, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_range_is_the_same_by_grpc_by_stream_and_as_json() {
    let served = Served::alone().await;
    let values = [40_000, 0, 16_384, 100].map(|len| "v".repeat(len));
    for (number, value) in values.iter().enumerate() {
        served.put(&format!("k/{number}"), value).await;
    }
    let all = RangeRequest { key: "k/".into(), range_end: "k0".into(), ..RangeRequest::default() };
    let answer = served.kv().range(all.clone()).await.expect("read").into_inner();
    let read: Vec<_> = answer.kvs.iter().map(|kv| kv.value.as_ref()).collect();
    assert!(read == values.each_ref().map(|value| value.as_bytes()), "other values than were put");
    assert_eq!((answer.count, answer.more), (4, false));
    let mut chunks = served.kv().range_stream(all).await.expect("streams").into_inner();
    let mut streamed = Vec::new();
    while let Some(chunk) = chunks.message().await.expect("a chunk") {
        streamed.extend(chunk.range_response.expect("a part of the range").kvs);
    }
    assert!(streamed == answer.kvs, "the stream differs");
    let told = told(&post(&served, "/v3/kv/range", &json!({"key": "ay8=", "range_end": "azA="})).await);
    let lengths: Vec<_> = told["kvs"].as_array().expect("kvs").iter().map(|kv| kv["value"].as_str()).collect();
    // Base64: four characters for each three bytes.
    let lengths: Vec<_> = lengths.into_iter().map(|value| value.map(str::len)).collect();
    assert_eq!(lengths, [Some(53_336), None, Some(21_848), Some(136)]);
    assert_eq!(told["count"], "4");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_a_code_a_text_and_a_status() {
    let served = Served::alone().await;
    let refused = |answer: Answer| (answer.status, answer.json());
    let no_key = json!({"code": 3, "message": "etcdserver: key is not provided"});
    assert_eq!(refused(post(&served, "/v3/kv/range", &json!({})).await), (400, no_key.clone()));
    assert_eq!(refused(served.http("POST", "/v3/kv/range", b"").await), (400, no_key), "no body is an empty message");
    let future = json!({"code": 11, "message": "etcdserver: mvcc: required revision is a future revision"});
    assert_eq!(refused(post(&served, "/v3/kv/range", &json!({"key": "YQ==", "revision": "99"})).await), (400, future));
    let cut = json!({"code": 3, "message": "unexpected EOF"});
    assert_eq!(refused(served.http("POST", "/v3/kv/range", b"{\"key\":").await), (400, cut));
    let nowhere = json!({"code": 5, "message": "Not Found"});
    assert_eq!(refused(post(&served, "/v3/kv/nope", &json!({})).await), (404, nowhere));
    let get = json!({"code": 12, "message": "Method Not Allowed"});
    assert_eq!(refused(served.http("GET", "/v3/kv/range", b"").await), (501, get));
    let member = json!({"code": 5, "message": "etcdserver: member not found"});
    assert_eq!(refused(post(&served, "/v3/cluster/member/remove", &json!({"ID": 1})).await), (404, member));
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_and_status_are_told_under_etcds_names() {
    let served = Served::alone().await;
    let members = told(&post(&served, "/v3/cluster/member/list", &json!({"linearizable": true})).await);
    assert_eq!(members["members"][0]["name"], "alone");
    assert!(members["members"][0]["peerURLs"][0].as_str().is_some_and(|url| url.starts_with("http://")));
    let status = told(&post(&served, "/v3/maintenance/status", &json!({})).await);
    assert_eq!((&status["version"], &status["dbSizeQuota"].is_string()), (&json!("3.7.3"), &true));
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_first_under_a_name_leads_until_the_key_goes() {
    let served = Served::alone().await;
    let leader = json!({"name": "bmFtZQ=="});
    let nobody = post(&served, "/v3/election/leader", &leader).await;
    assert_eq!((nobody.status, nobody.json()), (500, json!({"code": 2, "message": "election: no leader"})));
    served.put("name/2", "second").await;
    served.put("name/1", "came later").await;
    let first = told(&post(&served, "/v3/election/leader", &leader).await);
    assert_eq!((&first["kv"]["key"], &first["kv"]["create_revision"]), (&json!("bmFtZS8y"), &json!("2")));
    let key =
        |revision: &str| json!({"leader": {"name": "bmFtZQ==", "key": "bmFtZS8y", "rev": revision}, "value": "eA=="});
    let late = post(&served, "/v3/election/proclaim", &key("1")).await;
    assert_eq!((late.status, late.json()), (500, json!({"code": 2, "message": "election: not leader"})));
    assert_eq!(post(&served, "/v3/election/proclaim", &key("2")).await.status, 200);
    let without = post(&served, "/v3/election/resign", &json!({})).await;
    assert_eq!(without.json(), json!({"code": 2, "message": "\"leader\" field must be provided"}));
    assert_eq!(post(&served, "/v3/election/resign", &key("2")).await.status, 200);
    assert_eq!(post(&served, "/v3/lock/unlock", &json!({"key": "bmFtZS8x"})).await.status, 200);
    assert_eq!(post(&served, "/v3/election/leader", &leader).await.status, 500, "everybody has gone");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_is_told_of_each_leader_and_of_what_it_proclaims() {
    let served = Served::alone().await;
    let mut election = ElectionClient::new(served.channel());
    let mut observed = election.observe(LeaderRequest { name: "name".into() }).await.expect("a stream").into_inner();
    served.put("name/1", "first").await;
    let mut seen = Vec::new();
    for next in [None, Some(("name/1", "again")), Some(("name/2", "waits"))] {
        if let Some((key, value)) = next {
            served.put(key, value).await;
        }
        if next.is_some_and(|(key, _)| key == "name/2") {
            let unlocked = post(&served, "/v3/lock/unlock", &json!({"key": "bmFtZS8x"})).await;
            assert_eq!(unlocked.status, 200);
        }
        let told = observed.message().await.expect("goes on").expect("a leader").kv.expect("a key");
        seen.push((told.key, told.value));
    }
    let expected = [("name/1", "first"), ("name/1", "again"), ("name/2", "waits")];
    assert_eq!(seen, expected.map(|(key, value)| (key.into(), value.into())));
    drop(observed);
    served.server.stop().await;
}
