//! `/health`, `/livez` and `/readyz` in every way in which they can say no, and what they say then.

use std::time::Duration;

use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::cluster_client::ClusterClient;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::etcdserverpb::{AlarmRequest, AlarmType, MemberAddRequest, StatusRequest};
use quorate_raft::{NodeId, RoleKind};
use quorate_wire::peer::NodeState;
use serde_json::json;
use tonic::transport::Channel;

use crate::cluster::PATIENCE;
use crate::served::Served;

fn maintenance(served: &Served) -> MaintenanceClient<Channel> {
    MaintenanceClient::new(served.channel())
}

async fn alarm(served: &Served, action: AlarmAction, alarm: AlarmType) {
    let member_id = served.server.replica().stamp().node_id;
    let request = AlarmRequest { action: action.into(), member_id, alarm: alarm.into() };
    maintenance(served).alarm(request).await.expect("raised or cleared");
}

/// Status and reason of `/health`.
async fn health(served: &Served, query: &str) -> (u16, String) {
    let answer = served.http("GET", &format!("/health{query}"), b"").await;
    let reason = answer.json()["reason"].as_str().expect("a reason").to_string();
    assert_eq!(answer.json(), json!({"health": if answer.status == 200 { "true" } else { "false" }, "reason": reason}));
    (answer.status, reason)
}

async fn probe(served: &Served, path: &str) -> (u16, String) {
    let answer = served.http("GET", path, b"").await;
    (answer.status, answer.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_is_told_in_etcds_words_and_can_be_left_out() {
    let served = Served::alone().await;
    let well = (200, String::new());
    alarm(&served, AlarmAction::Activate, AlarmType::Nospace).await;
    assert_eq!(health(&served, "").await, (503, "ALARM NOSPACE".into()));
    assert_eq!(health(&served, "?serializable=true").await, (503, "ALARM NOSPACE".into()));
    assert_eq!(health(&served, "?exclude=CORRUPT").await, (503, "ALARM NOSPACE".into()));
    assert_eq!(health(&served, "?exclude=NOSPACE").await, well);
    assert_eq!(probe(&served, "/readyz").await, (200, "ok\n".into()), "reads and deletions go on");
    alarm(&served, AlarmAction::Deactivate, AlarmType::Nospace).await;
    alarm(&served, AlarmAction::Activate, AlarmType::Corrupt).await;
    assert_eq!(health(&served, "?exclude=NOSPACE").await, (503, "ALARM CORRUPT".into()));
    assert_eq!(health(&served, "?exclude=CORRUPT").await, well);
    let said = "[-]data_corruption failed: alarm activated: CORRUPT\n\n".to_string();
    assert_eq!(probe(&served, "/readyz/data_corruption").await, (503, said));
    let ready = probe(&served, "/readyz").await;
    assert!(ready.0 == 503 && ready.1.contains("[+]non_learner ok\n"), "{ready:?}");
    assert_eq!(probe(&served, "/readyz?exclude=data_corruption").await, (200, "ok\n".into()));
    assert_eq!(probe(&served, "/livez").await, (200, "ok\n".into()), "no restart would help");
    alarm(&served, AlarmAction::Deactivate, AlarmType::Corrupt).await;
    assert_eq!(health(&served, "").await, well);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_probe_lists_its_checks_when_asked_and_ends_with_ok() {
    let served = Served::alone().await;
    served.put("a", "1").await;
    let all = "[+]shutdown ok\n[+]data_corruption ok\n[+]member ok\n[+]non_learner ok\n[+]serializable_read ok\n\
               [+]linearizable_read ok\nok\n";
    assert_eq!(probe(&served, "/readyz?verbose").await, (200, all.to_string()));
    let alive = (200, "[+]serializable_read ok\nok\n".to_string());
    for path in ["/livez?verbose", "/livez/serializable_read?verbose", "/readyz/serializable_read?verbose=1"] {
        assert_eq!(probe(&served, path).await, alive, "{path}");
    }
    for path in ["/livez", "/livez?exclude=serializable_read&verbose", "/readyz?exclude=unknown", "/readyz"] {
        assert_eq!(probe(&served, path).await, (200, "ok\n".to_string()), "{path}");
    }
    for path in ["/health", "/livez", "/readyz", "/version", "/metrics", "/readyz/member"] {
        let answer = served.http("POST", path, b"").await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")), "{path}");
    }
    let version = served.http("GET", "/version", b"").await.json();
    assert_eq!((&version["etcdserver"], &version["etcdcluster"]), (&json!("3.7.3"), &json!("3.7.0")));
    assert_eq!(served.http("GET", "/debug/vars", b"").await.status, 404, "a listed difference");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_is_not_ready() {
    let first = Served::alone().await;
    let learner = Served::empty().await;
    let url = format!("http://{}", learner.server.replica().own_identity().member.peer_address);
    let add = MemberAddRequest { peer_ur_ls: vec![url], is_learner: true };
    ClusterClient::new(first.channel()).member_add(add).await.expect("added");
    learner.until("is a member", |change| change.state == NodeState::Member).await;
    let said = "[-]non_learner failed: this node is a learner\n\n".to_string();
    assert_eq!(probe(&learner, "/readyz/non_learner").await, (503, said));
    // It has joined just now, and may not have heard how far the leader is.
    let ready = async { while probe(&learner, "/readyz?exclude=non_learner").await != (200, "ok\n".into()) {} };
    tokio::time::timeout(PATIENCE, ready).await.expect("the rest is well in time");
    assert_eq!(probe(&first, "/readyz/non_learner").await, (200, "ok\n".into()));
    learner.server.stop().await;
    first.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_its_quorum_says_that_it_cannot_read() {
    // The second keeps the lead for a while after it is alone.
    let nodes = Served::together_adjusted(2, |number, config| {
        if number == 1 {
            config.replica.election_timeout = Duration::from_secs(10);
        }
    })
    .await;
    let second = NodeId(nodes[1].server.replica().stamp().node_id);
    nodes[0].server.replica().transfer_leader(Some(second), None).await.expect("handed over");
    nodes[1].until("leads", |change| change.role == Some(RoleKind::Leader)).await;
    nodes[1].put("a", "1").await;
    nodes[0].server.replica().clone().halt().await;
    let asked = tokio::join!(
        health(&nodes[1], ""),
        health(&nodes[1], "?serializable=true"),
        probe(&nodes[1], "/readyz/linearizable_read"),
    );
    let said = "[-]linearizable_read failed: etcdserver: request timed out\n\n".to_string();
    let cannot = (503, "RANGE ERROR:etcdserver: request timed out".to_string());
    assert_eq!(asked, (cannot, (200, String::new()), (503, said)));
    assert_eq!(probe(&nodes[1], "/readyz?exclude=linearizable_read").await, (200, "ok\n".into()));
    let metrics = nodes[1].http("GET", "/metrics", b"").await.text();
    for line in [
        "etcd_server_health_failures 1",
        "etcd_server_health_success 1",
        "etcd_server_healthcheck{name=\"linearizable_read\",type=\"readyz\"} 0",
        "etcd_server_healthchecks_total{name=\"serializable_read\",status=\"success\",type=\"readyz\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "no `{line}` in\n{metrics}");
    }
    nodes[1].server.replica().clone().halt().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_state_is_not_to_be_trusted_shows_the_alarm_corrupt() {
    let directory = tempfile::TempDir::new().expect("a temporary folder");
    let served = Served::opened(directory.path()).await;
    served.init().await;
    for number in 0..50 {
        served.put(&format!("k{number}"), &"v".repeat(1000)).await;
    }
    let member_id = served.server.replica().stamp().node_id;
    served.server.stop().await;
    let file = directory.path().join("state.redb");
    let mut bytes = std::fs::read(&file).expect("the file of a stopped node");
    for place in (0..bytes.len() - 500)
        .filter(|place| bytes[*place..*place + 500].iter().all(|byte| *byte == b'v'))
        .collect::<Vec<_>>()
    {
        bytes[place + 250] ^= 1;
    }
    std::fs::write(&file, bytes).expect("written");

    let served = Served::opened(directory.path()).await;
    served.until("finds the damage", |change| change.state == NodeState::Damaged).await;
    let listed = maintenance(&served).alarm(AlarmRequest::default()).await.expect("listed").into_inner().alarms;
    let listed: Vec<_> = listed.iter().map(|alarm| (alarm.member_id, alarm.alarm())).collect();
    assert_eq!(listed, [(member_id, AlarmType::Corrupt)]);
    let nospace = AlarmRequest { alarm: AlarmType::Nospace.into(), ..AlarmRequest::default() };
    assert!(maintenance(&served).alarm(nospace).await.expect("listed").into_inner().alarms.is_empty());
    let status = maintenance(&served).status(StatusRequest {}).await.expect("answered").into_inner();
    let said = format!("memberID:{member_id} alarm:CORRUPT");
    assert!(status.errors.contains(&said), "{:?}", status.errors);
    assert_eq!(health(&served, "").await, (503, "ALARM CORRUPT".into()));
    let ready = probe(&served, "/readyz/data_corruption").await;
    assert!(ready.0 == 503 && ready.1.starts_with("[-]data_corruption failed: it is damaged: "), "{ready:?}");
    assert_eq!(probe(&served, "/livez").await.0, 200);
    let metrics = served.http("GET", "/metrics", b"").await.text();
    assert!(metrics.contains("etcd_debugging_server_alarms{alarm_type=\"CORRUPT\""), "{metrics}");
    served.server.stop().await;
}
