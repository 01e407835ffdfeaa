//! Rights at a node that is behind: it has not heard that they were switched on, and must not act as if they were not.

use std::net::SocketAddr;
use std::time::Duration;

use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::cluster_client::ClusterClient;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::quorate::v1 as admin_pb;
use quorate_server::NodeState;
use quorate_server::server::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::{Code, Status};

use crate::cluster::PATIENCE;
use crate::etcd_auth::{NOBODY, refused, turn_on};
use crate::served::Served;

/// Far longer than a node takes to answer by what it knows.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Puts a door before a peer port. While it is shut, nothing that others send gets in, and nothing is lost.
fn door_of(config: &mut ServerConfig) -> watch::Sender<bool> {
    let (door, is_open) = watch::channel(true);
    let outside = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    outside.set_nonblocking(true).expect("a socket");
    config.replica.advertise_peer = outside.local_addr().expect("bound").to_string();
    let inside = config.replica.peer_listener.local_addr().expect("bound");
    let outside = TcpListener::from_std(outside).expect("a listener");
    tokio::spawn(async move {
        while let Ok((stream, _)) = outside.accept().await {
            tokio::spawn(pass(stream, inside, is_open.clone()));
        }
    });
    door
}

/// Passes one connection on to `inside`, through the door; the answers pass in any case.
async fn pass(outside: TcpStream, inside: SocketAddr, mut is_open: watch::Receiver<bool>) {
    let Ok(inside) = TcpStream::connect(inside).await else { return };
    let (mut from, mut back) = outside.into_split();
    let (mut answers, mut to) = inside.into_split();
    let inwards = async {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut bytes).await {
            let is_over = is_open.wait_for(|open| *open).await.is_err();
            if is_over || to.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = inwards => {}
        _ = tokio::io::copy(&mut answers, &mut back) => {}
    }
}

/// The only voter of a cluster, its learner, the door of that, and its id.
async fn with_learner() -> (Served, Served, watch::Sender<bool>, u64) {
    let first = Served::alone().await;
    let mut door = None;
    let learner = Served::empty_adjusted(|config| {
        door = Some(door_of(config));
        // Silence behind the shut door is no reason to give up its leader, or a request.
        config.replica.election_timeout = 10 * PATIENCE;
        config.replica.request_timeout = PATIENCE;
    });
    let learner = learner.await;
    let address = learner.server.replica().own_identity().member.peer_address;
    let id = first.server.replica().add_member(address, false).await.expect("added");
    let joined = "is a member that knows its leader";
    learner.until(joined, |change| change.state == NodeState::Member && change.leader.is_some()).await;
    (first, learner, door.expect("made"), id.0)
}

/// Asks `through`, as nobody, for each change of the cluster: for itself as the only voter, or without itself.
fn ask_for_changes(through: &Served, id: u64) -> JoinSet<(&'static str, Result<(), Status>)> {
    let (admin, cluster) = (through.admin(), ClusterClient::new(through.channel()));
    let peer_ur_ls = || vec!["http://127.0.0.1:1".to_owned()];
    let target = admin_pb::Target { voter: Some(admin_pb::target::Voter::NodeId(id)) };
    let set_voters = admin_pb::SetVotersRequest { targets: vec![target], ..Default::default() };
    let add = pb::MemberAddRequest { peer_ur_ls: peer_ur_ls(), is_learner: false };
    let update = pb::MemberUpdateRequest { id, peer_ur_ls: peer_ur_ls() };
    let mut calls = JoinSet::new();
    let mut called = admin.clone();
    calls.spawn(async move { ("SetVoters", called.set_voters(set_voters).await.map(drop)) });
    let mut called = admin;
    let transfer = admin_pb::TransferLeaderRequest::default();
    calls.spawn(async move { ("TransferLeader", called.transfer_leader(transfer).await.map(drop)) });
    let mut called = cluster.clone();
    calls.spawn(async move { ("MemberAdd", called.member_add(add).await.map(drop)) });
    let mut called = cluster.clone();
    let remove = pb::MemberRemoveRequest { id };
    calls.spawn(async move { ("MemberRemove", called.member_remove(remove).await.map(drop)) });
    let mut called = cluster.clone();
    calls.spawn(async move { ("MemberUpdate", called.member_update(update).await.map(drop)) });
    let mut called = cluster;
    let promote = pb::MemberPromoteRequest { id };
    calls.spawn(async move { ("MemberPromote", called.member_promote(promote).await.map(drop)) });
    calls
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_changes_the_cluster_through_a_node_that_has_not_heard_of_rights() {
    let (first, learner, door, id) = with_learner().await;
    door.send_replace(false);
    turn_on(&first).await;
    let membership = || first.server.replica().status().raft.expect("runs").effective;
    let before = membership();

    let mut calls = ask_for_changes(&learner, id);
    let early = tokio::time::timeout(AT_ONCE, calls.join_next()).await;
    assert!(early.is_err(), "answered by what the node knows: {early:?}");
    door.send_replace(true);
    let answers = tokio::time::timeout(PATIENCE, calls.join_all()).await.expect("it catches up");
    assert_eq!(answers.len(), 6);
    for (call, answer) in answers {
        let status = answer.expect_err(call);
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, NOBODY), "{call}");
    }
    assert_eq!(membership(), before);
    for node in [&learner, &first] {
        node.server.replica().clone().halt().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_judged_by_the_newest_rights_or_else_by_those_in_it() {
    let (first, learner, door, _) = with_learner().await;
    door.send_replace(false);
    turn_on(&first).await;
    // Cut off, it gives what it has, in which everything is open to everybody.
    let own = learner.server.replica().status().raft.expect("runs").applied;
    let mut image = learner.admin().snapshot(admin_pb::SnapshotRequest {}).await.expect("its own").into_inner();
    let info = image.next().await.expect("a chunk").expect("readable").info.expect("comes first");
    assert_eq!(info.index, own.0);
    assert!(own < first.server.replica().status().raft.expect("runs").applied);
    door.send_replace(true);
    learner.server.replica().read(quorate_node::ReadOptions::default()).await.expect("it catches up");
    refused(learner.admin().snapshot(admin_pb::SnapshotRequest {}).await, Code::InvalidArgument, NOBODY);
    let mut maintenance = MaintenanceClient::new(learner.channel());
    refused(maintenance.snapshot(pb::SnapshotRequest {}).await, Code::InvalidArgument, NOBODY);
    for node in [&learner, &first] {
        node.server.replica().clone().halt().await;
    }
}
