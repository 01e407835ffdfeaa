//! `quorate.v1.Admin` over gRPC: the token, bootstrap, status, membership, snapshots, reset.

use bytes::Bytes;
use quorate_proto::quorate::v1::{
    IdentifyRequest, InitMember, InitRequest, NodeState, RaftRole, ResetRequest, SetVotersPhase, SetVotersRequest,
    SnapshotRequest, StatusRequest, Target, TransferLeaderRequest, target,
};
use quorate_wire::snapshot::{ImageDecoder, Part};
use tokio_stream::StreamExt;
use tonic::{Code, Request};

use crate::cluster::CLUSTER;
use crate::served::Served;

fn cluster_id() -> Bytes {
    Bytes::copy_from_slice(&CLUSTER.to_be_bytes())
}

fn with_token<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("metadata"));
    }
    request
}

/// The codes of every call but `Identify`, made with `token`.
async fn codes(served: &Served, token: Option<&str>) -> Vec<Code> {
    let mut admin = served.admin();
    let code = |result: Result<(), tonic::Status>| result.err().map_or(Code::Ok, |status| status.code());
    vec![
        code(admin.status(with_token(StatusRequest {}, token)).await.map(drop)),
        code(admin.init(with_token(InitRequest::default(), token)).await.map(drop)),
        code(admin.set_voters(with_token(SetVotersRequest::default(), token)).await.map(drop)),
        code(admin.transfer_leader(with_token(TransferLeaderRequest::default(), token)).await.map(drop)),
        code(admin.snapshot(with_token(SnapshotRequest {}, token)).await.map(drop)),
        code(admin.reset(with_token(ResetRequest::default(), token)).await.map(drop)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_admin_call_needs_the_token_as_the_file_has_it_now() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "first\n").expect("written");
    let served = Served::guarded(file.path()).await;
    for token in [None, Some("wrong"), Some("first2")] {
        assert_eq!(codes(&served, token).await, [Code::Unauthenticated; 6], "{token:?}");
    }
    let admitted = codes(&served, Some("first")).await;
    assert!(!admitted.contains(&Code::Unauthenticated), "{admitted:?}");
    std::fs::write(file.path(), "second\n").expect("written");
    assert_eq!(codes(&served, Some("first")).await, [Code::Unauthenticated; 6]);
    served.admin().status(with_token(StatusRequest {}, Some("second"))).await.expect("the new token");
    served.admin().identify(IdentifyRequest {}).await.expect("who a node is, is no secret");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_made_once() {
    let served = Served::empty().await;
    let mut admin = served.admin();
    let own = admin.identify(IdentifyRequest {}).await.expect("answers").into_inner();
    assert_eq!(own.state(), NodeState::Uninitialised);
    let member = InitMember {
        incarnation: own.incarnation,
        name: own.name,
        peer_address: own.peer_address,
        client_addresses: own.client_addresses,
        max_version: own.max_version,
    };
    let init = InitRequest { cluster_id: cluster_id(), members: vec![member] };
    let first = admin.init(init.clone()).await.expect("accepted").into_inner();
    let again = admin.init(init.clone()).await.expect("the same is success").into_inner();
    assert_eq!(first, again);
    let other = InitRequest { cluster_id: Bytes::from_static(&[7; 16]), ..init.clone() };
    assert_eq!(admin.init(other).await.expect_err("another one").code(), Code::FailedPrecondition);
    let short = InitRequest { cluster_id: Bytes::from_static(&[7; 3]), ..init };
    assert_eq!(admin.init(short).await.expect_err("no id").code(), Code::InvalidArgument);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_shows_the_committed_configuration_and_the_log() {
    let served = Served::alone().await;
    served.put("a", "1").await;
    let status = served.admin().status(StatusRequest {}).await.expect("answers").into_inner();
    assert_eq!((status.state(), status.role()), (NodeState::Member, RaftRole::Leader));
    assert_eq!(status.cluster_id, cluster_id());
    assert_eq!(status.leader, status.node_id);
    assert_eq!(status.revision, 2);
    let log = status.log.expect("a log");
    assert!(log.commit > 0 && log.commit <= log.last && log.applied <= log.commit, "{log:?}");
    let configuration = status.configuration.expect("committed");
    assert!(!configuration.joint && configuration.target.is_empty());
    assert_eq!(configuration.members[0].node_id, status.node_id);
    assert_eq!(status.state_hash.expect("a hash").hash.len(), 16);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_voters_that_are_there_already_are_success() {
    let served = Served::alone().await;
    let own = Target { voter: Some(target::Voter::Address(served.server.client_address().to_string())) };
    let request = SetVotersRequest { targets: vec![own], expected_config_index: 0 };
    let steps = served.admin().set_voters(request).await.expect("taken").into_inner();
    let steps: Vec<_> = steps.collect().await;
    let last = steps.last().expect("at least one step").as_ref().expect("no error");
    assert_eq!(last.phase(), SetVotersPhase::Done);
    let none = served.admin().set_voters(SetVotersRequest::default()).await.expect_err("nobody is listed");
    assert_eq!(none.code(), Code::InvalidArgument);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_only_in_the_configuration_that_was_looked_at() {
    let served = Served::alone().await;
    let mut admin = served.admin();
    let status = admin.status(StatusRequest {}).await.expect("answers").into_inner();
    let index = status.configuration.expect("committed").index;
    let transfer = |expected_config_index| TransferLeaderRequest { node_id: status.node_id, expected_config_index };
    let stale = admin.transfer_leader(transfer(index + 1)).await.expect_err("of another configuration");
    assert_eq!(stale.code(), Code::FailedPrecondition);
    for expected in [index, 0] {
        let answer = admin.transfer_leader(transfer(expected)).await.expect("it leads already").into_inner();
        assert_eq!(answer.leader, status.node_id);
    }
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_a_whole_image_of_the_state() {
    let served = Served::alone().await;
    for number in 0..100 {
        served.put(&format!("k{number}"), "v").await;
    }
    let mut chunks = served.admin().snapshot(SnapshotRequest {}).await.expect("streams").into_inner();
    let (mut decoder, mut records, mut info) = (ImageDecoder::new(), None, None);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.expect("a chunk");
        info = info.or(chunk.info);
        decoder.push(&chunk.data).expect("pushed");
        while let Some(part) = decoder.next_part().expect("undamaged") {
            if let Part::End { records: count } = part {
                records = Some(count);
            }
        }
    }
    assert_eq!(records, Some(100));
    let info = info.expect("with the first chunk");
    assert_eq!((info.revision, info.cluster_id), (101, cluster_id()));
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_current_member_is_not_reset() {
    let served = Served::alone().await;
    let node_id = served.server.replica().status().identity.expect("a member").node_id.0;
    let refused = served.admin().reset(ResetRequest { cluster_id: cluster_id(), node_id }).await.expect_err("a member");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let refused =
        served.admin().reset(ResetRequest { cluster_id: cluster_id(), node_id: node_id ^ 1 }).await.expect_err("other");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    served.put("still", "there").await;
    served.server.stop().await;
}
