//! Correctness bugs that etcd's own robustness tests found in whole servers, each as a test of this one. The list of all:
//! docs/testing.md.

use std::time::Duration;

use quorate_proto::authpb::Permission;
use quorate_proto::authpb::permission::Type;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::auth_client::AuthClient;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_tests::cluster::{Cluster, PATIENCE, wait_for};
use tonic::{Code, Request};

use crate::faults::{assert_holds, put_at_last, start_load, wait_for_writes};

pub(crate) fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..pb::PutRequest::default() }
}

fn range(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..pb::RangeRequest::default() }
}

/// A node that was alone in its cluster answered before its write was durable.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_14370_a_killed_single_node_keeps_what_it_acknowledged() {
    let mut cluster = Cluster::start(1, &[]).await;
    let load = start_load(&cluster);
    for _ in 0..5 {
        wait_for_writes(&cluster, 0, 40).await;
        cluster.nodes[0].kill();
        cluster.nodes[0].restart();
    }
    wait_for_writes(&cluster, 0, 10).await;
    let report = load.finish().await;
    assert_holds(&cluster, report).await;
}

/// Users and their rights, made at one node, with the switch on at the end; `u` may touch what begins with `u`.
pub(crate) async fn enable_auth(cluster: &Cluster) {
    let mut auth = AuthClient::new(cluster.channel(0));
    for (user, role) in [("root", "root"), ("u", "r")] {
        let add = pb::AuthUserAddRequest { name: user.into(), password: "pw".into(), ..Default::default() };
        auth.user_add(add).await.expect("a new user");
        auth.role_add(pb::AuthRoleAddRequest { name: role.into() }).await.expect("a new role");
        let grant = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        auth.user_grant_role(grant).await.expect("both are there");
    }
    let perm = Permission { perm_type: Type::Readwrite.into(), key: "u".into(), range_end: "v".into() };
    let grant = pb::AuthRoleGrantPermissionRequest { name: "r".into(), perm: Some(perm) };
    auth.role_grant_permission(grant).await.expect("a role");
    auth.auth_enable(pb::AuthEnableRequest {}).await.expect("root is there");
}

/// A request with the token of `user`, who logs in at the node at `position`.
pub(crate) async fn signed<T>(cluster: &Cluster, position: usize, user: &str, message: T) -> Request<T> {
    let login = pb::AuthenticateRequest { name: user.into(), password: "pw".into() };
    let token = wait_for("a login", || async {
        AuthClient::new(cluster.channel(position)).authenticate(login.clone()).await.ok()
    })
    .await
    .into_inner()
    .token;
    let mut request = Request::new(message);
    request.metadata_mut().insert("token", token.parse().expect("a metadata value"));
    request
}

/// After a restart etcd did not know that its users had been switched on: that node alone took what the others refused.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_14571_a_node_restarted_after_auth_was_enabled_stays_equal_to_the_others() {
    let mut cluster = Cluster::start(3, &[]).await;
    enable_auth(&cluster).await;
    for (killed, key) in [(1, "u1"), (2, "u2"), (0, "u0")] {
        cluster.nodes[killed].kill();
        cluster.nodes[killed].restart();
        let write = signed(&cluster, killed, "u", put(key, "1")).await;
        KvClient::new(cluster.channel(killed)).put(write).await.expect("its right");
        let denied = signed(&cluster, killed, "u", put("other", "1")).await;
        let denied = KvClient::new(cluster.channel(killed)).put(denied).await.expect_err("not its right");
        assert_eq!((denied.code(), denied.message()), (Code::PermissionDenied, "etcdserver: permission denied"));
        let nobody = KvClient::new(cluster.channel(killed)).range(range("u1")).await.expect_err("nobody");
        assert_eq!(nobody.message(), "etcdserver: user name is empty");
    }
    let mut digests = Vec::new();
    for position in 0..3 {
        // A linearizable read brings the node up to all that was written.
        let read = signed(&cluster, position, "root", range("u0")).await;
        KvClient::new(cluster.channel(position)).range(read).await.expect("root may");
        let hash = signed(&cluster, position, "root", pb::HashKvRequest { revision: 0 }).await;
        let hash =
            MaintenanceClient::new(cluster.channel(position)).hash_kv(hash).await.expect("root may").into_inner();
        digests.push((hash.header.expect("a header").revision, hash.hash_revision, hash.hash));
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
}

/// A leader that was stopped like a process in a debugger answered reads from its past once it went on.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_20418_a_leader_that_was_paused_gives_no_stale_answer() {
    let cluster = Cluster::start(3, &[]).await;
    for round in 0..4 {
        let old = cluster.leader().await;
        let stale = format!("before {round}");
        put_at_last(&cluster, old, "k", &stale).await;
        // Connected while it runs, so that the read waits in the socket of a process that does nothing.
        let mut paused = KvClient::new(cluster.channel(old));
        wait_for("a read at the leader", || {
            let mut client = paused.clone();
            async move { client.range(range("k")).await.ok() }
        })
        .await;
        cluster.nodes[old].pause();
        let waiting = tokio::spawn(async move { paused.range(range("k")).await });
        let new = cluster.leader_other_than(old).await;
        let fresh = format!("after {round}");
        put_at_last(&cluster, new, "k", &fresh).await;
        cluster.nodes[old].resume();
        let answer = tokio::time::timeout(PATIENCE + Duration::from_secs(1), waiting).await.expect("in time");
        // An error promises nothing.
        if let Ok(answer) = answer.expect("runs to its end") {
            assert_eq!(answer.into_inner().kvs[0].value, fresh);
        }
        let read = wait_for("a read at the old leader", || async {
            KvClient::new(cluster.channel(old)).range(range("k")).await.ok()
        });
        assert_eq!(read.await.into_inner().kvs[0].value, fresh);
    }
}
