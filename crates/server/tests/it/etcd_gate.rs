//! What the metadata of every call ask of a node, whatever the call.

use quorate_proto::etcdserverpb::cluster_client::ClusterClient;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::etcdserverpb::{LeaseKeepAliveRequest, MemberListRequest, StatusRequest};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use crate::cluster::PATIENCE;
use crate::served::Served;

/// A request with metadata.
pub(crate) fn with<T>(message: T, metadata: &[(&'static str, &[u8])]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, MetadataValue::try_from(*value).expect("a metadata value"));
    }
    request
}

const NO_LEADER: (Code, &str) = (Code::Unavailable, "etcdserver: no leader");

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wants_a_leader_is_refused_where_there_is_none() {
    let served = Served::empty().await;
    let mut maintenance = MaintenanceClient::new(served.channel());
    maintenance.status(StatusRequest {}).await.expect("a status needs none");
    maintenance.status(with(StatusRequest {}, &[("hasleader", b"false")])).await.expect("does not want one");
    let wanted: &[(&str, &[u8])] = &[("hasleader", b"true")];
    let refused = maintenance.status(with(StatusRequest {}, wanted)).await.expect_err("unary");
    assert_eq!((refused.code(), refused.message()), NO_LEADER);
    let list = with(MemberListRequest { linearizable: false }, wanted);
    let refused = ClusterClient::new(served.channel()).member_list(list).await.expect_err("unary");
    assert_eq!((refused.code(), refused.message()), NO_LEADER);
    let keep_alives = with(tokio_stream::pending::<LeaseKeepAliveRequest>(), wanted);
    let refused = LeaseClient::new(served.channel()).lease_keep_alive(keep_alives).await.expect_err("a stream");
    assert_eq!((refused.code(), refused.message()), NO_LEADER);
    served.server.stop().await;

    let served = Served::alone().await;
    MaintenanceClient::new(served.channel()).status(with(StatusRequest {}, wanted)).await.expect("there is one");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_wants_a_leader_ends_when_there_was_none_for_long() {
    let mut nodes = Served::together(2).await;
    let (left, stops) = (nodes.remove(0), nodes.remove(0));
    let keep_alives = with(tokio_stream::pending::<LeaseKeepAliveRequest>(), &[("hasleader", b"true")]);
    let opened = LeaseClient::new(left.channel()).lease_keep_alive(keep_alives).await;
    let mut answers = opened.expect("there is a leader").into_inner();
    stops.server.replica().clone().halt().await;
    let ended = tokio::time::timeout(PATIENCE, answers.message()).await.expect("in time").expect_err("no leader");
    assert_eq!((ended.code(), ended.message()), NO_LEADER);
    assert!(left.server.replica().watch_status().borrow().leader.is_none());
    left.server.replica().clone().halt().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_tells_its_version_in_text_and_is_counted_by_it() {
    let served = Served::alone().await;
    let mut maintenance = MaintenanceClient::new(served.channel());
    let refused = maintenance.status(with(StatusRequest {}, &[("client-api-version", b"\xff\xfe")])).await;
    let refused = refused.expect_err("no text");
    let text = "etcdserver: invalid client api version";
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, text));

    maintenance.status(with(StatusRequest {}, &[("client-api-version", b"3.7")])).await.expect("answered");
    maintenance.status(StatusRequest {}).await.expect("answered");
    let keep_alives = with(tokio_stream::empty::<LeaseKeepAliveRequest>(), &[("client-api-version", b"3.7")]);
    LeaseClient::new(served.channel()).lease_keep_alive(keep_alives).await.expect("opened");
    // However many a client makes up.
    for number in 0..100 {
        let version = format!("made-up-{number}");
        let request = with(StatusRequest {}, &[("client-api-version", version.as_bytes())]);
        maintenance.status(request).await.expect("answered");
    }
    let metrics = served.http("GET", "/metrics", b"").await.text();
    let counted = |version: &str, call: &str| {
        let line = format!("etcd_server_client_requests_total{{client_api_version=\"{version}\",type=\"{call}\"}} ");
        metrics.lines().find_map(|found| found.strip_prefix(&line).map(|count| count.parse::<u64>().expect("a number")))
    };
    assert_eq!(counted("3.7", "unary"), Some(1), "{metrics}");
    assert_eq!(counted("3.7", "stream"), Some(1));
    assert_eq!(counted("unknown", "unary"), Some(1));
    assert!(counted("other", "unary").is_some_and(|count| count > 50));
    assert!(metrics.matches("etcd_server_client_requests_total{").count() <= 66);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_asks_the_same() {
    let served = Served::empty().await;
    let address = served.server.client_address();
    let call = |header: &'static str| async move {
        let request = format!(
            "POST /v3/maintenance/status HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{header}\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        crate::served::http_text(address, &request).await
    };
    assert_eq!(call("accept: */*").await.status, 200);
    let refused = call("grpc-metadata-hasleader: true").await;
    assert_eq!((refused.status, refused.json()["message"].as_str()), (503, Some("etcdserver: no leader")));
    served.server.stop().await;
}
