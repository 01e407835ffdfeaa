//! Rights of users on several nodes: what was acknowledged at one holds at all.

use quorate_proto::authpb::Permission;
use quorate_proto::authpb::permission::Type;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::auth_client::AuthClient;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_tests::cluster::Cluster;

use crate::etcd_bugs::{enable_auth, put, signed};

/// Three nodes with rights switched on, the leader's place, and that of a follower.
async fn start() -> (Cluster, usize, usize) {
    let cluster = Cluster::start(3, &[]).await;
    // Once rights are on, nobody may ask a node for its role without a token.
    let leader = cluster.leader().await;
    enable_auth(&cluster).await;
    (cluster, leader, (leader + 1) % 3)
}

/// The request waits in the socket of a node that stands still while the right is given, so it is read before the node has
/// heard of the grant.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_was_given_holds_at_a_node_that_is_behind() {
    let (cluster, leader, behind) = start().await;
    for round in 0..5 {
        let key = format!("w{round}");
        let perm =
            Permission { perm_type: Type::Readwrite.into(), key: key.clone().into(), range_end: Default::default() };
        let grant = pb::AuthRoleGrantPermissionRequest { name: "r".into(), perm: Some(perm) };
        let grant = signed(&cluster, leader, "root", grant).await;
        let write = signed(&cluster, behind, "u", put(&key, "1")).await;
        let mut paused = KvClient::new(cluster.channel(behind));
        let early = signed(&cluster, behind, "u", put(&key, "0")).await;
        paused.put(early).await.expect_err("not its right yet");
        cluster.nodes[behind].pause();
        AuthClient::new(cluster.channel(leader)).role_grant_permission(grant).await.expect("root may");
        let waiting = tokio::spawn(async move { paused.put(write).await });
        cluster.nodes[behind].resume();
        waiting.await.expect("runs to its end").expect("its right");
    }
}

/// The node judges by the rights it knows and learns of newer ones while it serves the request, which was let in by all of
/// them.
#[tokio::test(flavor = "multi_thread")]
async fn rights_that_change_elsewhere_refuse_nothing_at_a_node_that_is_behind() {
    let (cluster, leader, behind) = start().await;
    for round in 0..5 {
        let write = signed(&cluster, behind, "root", put("k", "1")).await;
        let range = pb::RangeRequest { key: "k".into(), ..pb::RangeRequest::default() };
        let read = signed(&cluster, behind, "root", range).await;
        let role = pb::AuthRoleAddRequest { name: format!("of no importance {round}") };
        let change = signed(&cluster, leader, "root", role).await;
        let (mut writer, mut reader) = (KvClient::new(cluster.channel(behind)), KvClient::new(cluster.channel(behind)));
        cluster.nodes[behind].pause();
        AuthClient::new(cluster.channel(leader)).role_add(change).await.expect("root may");
        let writing = tokio::spawn(async move { writer.put(write).await });
        let reading = tokio::spawn(async move { reader.range(read).await });
        cluster.nodes[behind].resume();
        writing.await.expect("runs to its end").expect("root may");
        reading.await.expect("runs to its end").expect("root may");
    }
}
