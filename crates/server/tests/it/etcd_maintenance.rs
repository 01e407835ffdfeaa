//! `Maintenance`, `Cluster`, health and reflection over gRPC.

use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::cluster_client::ClusterClient;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::etcdserverpb::{
    AlarmRequest, AlarmType, DefragmentRequest, HashKvRequest, MemberAddRequest, MemberListRequest, MoveLeaderRequest,
    StatusRequest,
};
use quorate_proto::quorate::peer::v1::IdentifyRequest;
use quorate_proto::quorate::peer::v1::peer_client::PeerClient;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::served::Served;

#[tokio::test(flavor = "multi_thread")]
async fn a_status_never_has_a_size_of_zero() {
    // etcdctl divides by it, whatever state the node is in.
    for served in [Served::empty().await, Served::alone().await] {
        let status = MaintenanceClient::new(served.channel()).status(StatusRequest {}).await;
        let status = status.expect("answered in every state").into_inner();
        assert!(status.db_size > 0 && status.db_size_quota > 0, "{status:?}");
        assert!(status.version.starts_with("3.7."), "{}", status.version);
        served.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_shows_leader_and_indexes_and_no_errors() {
    let served = Served::alone().await;
    served.put("a", "1").await;
    let status =
        MaintenanceClient::new(served.channel()).status(StatusRequest {}).await.expect("answered").into_inner();
    let header = status.header.expect("a header");
    assert_eq!(status.leader, header.member_id);
    assert_eq!(header.revision, 2);
    assert!(status.raft_index > 0 && status.raft_applied_index > 0 && status.raft_term > 0);
    assert_eq!(status.errors, Vec::<String>::new());
    assert!(!status.is_learner);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_node_shows_why_in_its_status() {
    let served = Served::empty().await;
    let status =
        MaintenanceClient::new(served.channel()).status(StatusRequest {}).await.expect("answered").into_inner();
    assert_eq!(status.leader, 0);
    assert!(status.errors.iter().any(|error| error == "etcdserver: no leader"), "{:?}", status.errors);
    assert!(status.errors.iter().any(|error| error.contains("quorate ctl init")), "{:?}", status.errors);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn housekeeping_calls_of_etcd_clients_succeed() {
    let served = Served::alone().await;
    let mut maintenance = MaintenanceClient::new(served.channel());
    let alarms = maintenance.alarm(AlarmRequest::default()).await.expect("listed").into_inner();
    assert!(alarms.alarms.is_empty());
    let deactivate = AlarmRequest { action: AlarmAction::Deactivate.into(), ..AlarmRequest::default() };
    maintenance.alarm(deactivate).await.expect("nothing to clear");
    let defragmented = maintenance.defragment(DefragmentRequest {}).await.expect("done").into_inner();
    assert!(defragmented.header.is_none());
    let hash = maintenance.hash_kv(HashKvRequest::default()).await.expect("hashed").into_inner();
    assert_eq!(hash.hash_revision, 1);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_goes_to_voters_only() {
    let served = Served::alone().await;
    let refused =
        MaintenanceClient::new(served.channel()).move_leader(MoveLeaderRequest { target_id: 7 }).await.expect_err("no");
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "etcdserver: bad leader transferee"));
    served.server.stop().await;

    let served = Served::empty().await;
    let refused =
        MaintenanceClient::new(served.channel()).move_leader(MoveLeaderRequest { target_id: 7 }).await.expect_err("no");
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "etcdserver: not leader"));
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_listed_with_urls_and_changed_elsewhere() {
    let served = Served::alone().await;
    let mut cluster = ClusterClient::new(served.channel());
    for linearizable in [false, true] {
        let list = cluster.member_list(MemberListRequest { linearizable }).await.expect("listed").into_inner();
        let [member] = &list.members[..] else { panic!("one member, not {:?}", list.members) };
        assert_eq!(member.name, "alone");
        assert_eq!(member.client_ur_ls, [format!("http://{}", served.server.client_address())]);
        assert!(member.peer_ur_ls[0].starts_with("http://127.0.0.1:"));
        assert_eq!(list.header.expect("a header").revision, 0);
    }
    let refused = cluster.member_add(MemberAddRequest::default()).await.expect_err("no address");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "etcdserver: given member URLs are invalid");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_is_not_offered_is_named_in_the_refusal() {
    let served = Served::alone().await;
    let refused = PeerClient::new(served.channel()).identify(IdentifyRequest {}).await.expect_err("not on this port");
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().starts_with("quorate.peer.v1.Peer/Identify is not offered"), "{refused}");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_known_for_the_server_as_a_whole() {
    let served = Served::alone().await;
    let mut health = HealthClient::new(served.channel());
    let whole = health.check(HealthCheckRequest { service: String::new() }).await.expect("known").into_inner();
    assert_eq!(whole.status(), ServingStatus::Serving);
    let unknown = health.check(HealthCheckRequest { service: "other".to_string() }).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_what_is_served_and_nothing_else() {
    let served = Served::alone().await;
    let ask = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let mut reflection = ServerReflectionClient::new(served.channel());
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([ask])).await.expect("offered").into_inner();
    let answer = answers.message().await.expect("an answer").expect("one").message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("a list, not {answer:?}") };
    let mut names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    let expected = [
        "etcdserverpb.Auth",
        "etcdserverpb.Cluster",
        "etcdserverpb.KV",
        "etcdserverpb.Lease",
        "etcdserverpb.Maintenance",
        "etcdserverpb.Watch",
        "grpc.health.v1.Health",
        "quorate.v1.Admin",
        "v3electionpb.Election",
        "v3lockpb.Lock",
    ];
    let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| !name.contains("reflection")).collect();
    assert_eq!(names, expected);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_are_raised_listed_and_cleared_and_refuse_meanwhile() {
    let served = Served::alone().await;
    let mut maintenance = MaintenanceClient::new(served.channel());
    let member_id = served.server.replica().stamp().node_id;
    let request =
        |action: AlarmAction, alarm: AlarmType| AlarmRequest { action: action.into(), member_id, alarm: alarm.into() };
    let raised = maintenance.alarm(request(AlarmAction::Activate, AlarmType::Nospace)).await.expect("raised");
    assert_eq!(raised.into_inner().alarms.len(), 1);
    let refused = served.kv().put(crate::served::put("a", "1")).await.expect_err("no space");
    let text = "etcdserver: mvcc: database space exceeded";
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, text));
    let listed = maintenance.alarm(AlarmRequest::default()).await.expect("listed").into_inner();
    assert_eq!(
        listed.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm())).collect::<Vec<_>>(),
        [(member_id, AlarmType::Nospace)]
    );
    let status = maintenance.status(StatusRequest {}).await.expect("answered").into_inner();
    assert_eq!(status.errors, [format!("memberID:{member_id} alarm:NOSPACE")]);
    let metrics = served.http("GET", "/metrics", b"").await.text();
    assert!(metrics.contains("etcd_debugging_server_alarms{alarm_type=\"NOSPACE\""), "{metrics}");
    let other = maintenance.alarm(request(AlarmAction::Deactivate, AlarmType::Corrupt)).await.expect("nothing there");
    assert!(other.into_inner().alarms.is_empty());
    let cleared = maintenance.alarm(request(AlarmAction::Deactivate, AlarmType::Nospace)).await.expect("cleared");
    assert_eq!(cleared.into_inner().alarms.len(), 1);
    served.put("a", "1").await;

    maintenance.alarm(request(AlarmAction::Activate, AlarmType::Corrupt)).await.expect("raised");
    let refused = served.kv().put(crate::served::put("a", "2")).await.expect_err("corrupt");
    assert_eq!((refused.code(), refused.message()), (Code::DataLoss, "etcdserver: corrupt cluster"));
    let health = served.http("GET", "/health", b"").await;
    assert_eq!((health.status, health.json()["reason"].as_str()), (503, Some("ALARM CORRUPT")));
    maintenance.alarm(request(AlarmAction::Deactivate, AlarmType::Corrupt)).await.expect("cleared");
    served.put("a", "2").await;
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_is_listed_by_every_node_as_soon_as_it_is_raised() {
    let nodes = Served::together(3).await;
    let mut clients: Vec<_> = nodes.iter().map(|node| MaintenanceClient::new(node.channel())).collect();
    let mut wrong = Vec::new();
    for round in 0..30 {
        let (asked, raise) = (round % 3, round % 2 == 0);
        let action = if raise { AlarmAction::Activate } else { AlarmAction::Deactivate };
        let request = AlarmRequest { action: action.into(), member_id: 7, alarm: AlarmType::Nospace.into() };
        clients[asked].alarm(request).await.expect("changed");
        for (number, client) in clients.iter_mut().enumerate() {
            let listed = client.alarm(AlarmRequest::default()).await.expect("listed").into_inner().alarms;
            if listed.len() != usize::from(raise) {
                wrong.push(format!("round {round}, changed at {asked}, asked at {number}: {listed:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for node in &nodes {
        node.server.replica().clone().halt().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_taken_by_every_node_as_soon_as_an_alarm_is_cleared() {
    let nodes = Served::together(3).await;
    let request = |action: AlarmAction, alarm: AlarmType| AlarmRequest {
        action: action.into(),
        member_id: 7,
        alarm: alarm.into(),
    };
    let mut refused = Vec::new();
    for round in 0..30 {
        let alarm = if round % 2 == 0 { AlarmType::Nospace } else { AlarmType::Corrupt };
        let mut maintenance = MaintenanceClient::new(nodes[round % 3].channel());
        maintenance.alarm(request(AlarmAction::Activate, alarm)).await.expect("raised");
        for node in &nodes {
            node.kv().put(crate::served::put("a", "1")).await.expect_err("the alarm stands, for all");
        }
        maintenance.alarm(request(AlarmAction::Deactivate, alarm)).await.expect("cleared");
        for (number, node) in nodes.iter().enumerate() {
            if let Err(status) = node.kv().put(crate::served::put("a", "1")).await {
                refused.push(format!("round {round}, cleared at {}, put at {number}: {status}", round % 3));
            }
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
    for node in &nodes {
        node.server.replica().clone().halt().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_leader_alarms_are_not_listed_and_each_node_shows_those_it_knows() {
    let nodes = Served::together(2).await;
    let raise = AlarmRequest { action: AlarmAction::Activate.into(), member_id: 7, alarm: AlarmType::Nospace.into() };
    let [gone, stays] = &nodes[..] else { panic!("two nodes") };
    let mut maintenance = MaintenanceClient::new(stays.channel());
    maintenance.alarm(raise).await.expect("raised");
    gone.server.replica().clone().halt().await;
    let refused = maintenance.alarm(AlarmRequest::default()).await.expect_err("nobody confirms it");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let status = maintenance.status(StatusRequest {}).await.expect("answered").into_inner();
    assert!(status.errors.iter().any(|error| error == "memberID:7 alarm:NOSPACE"), "{:?}", status.errors);
    stays.server.replica().clone().halt().await;
}
