//! The holes that etcd's own history knows, over gRPC: each by its name. The rules alone are tested in `quorate-kv`.

use bytes::Bytes;
use quorate_proto::authpb::permission::Type;
use quorate_proto::authpb::{Permission, UserAddOptions};
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use crate::etcd_auth::{As, DENIED, Intercepted, refused, user_with};
use crate::served::{Served, put};
use crate::watcher::{Watcher, watch};

fn leases(served: &Served, who: &As) -> LeaseClient<Intercepted> {
    LeaseClient::with_interceptor(served.channel(), who.clone())
}

async fn watcher(channel: Channel, As(token): &As) -> Watcher {
    let token = token.as_ref().expect("logged in").to_str().expect("text");
    Watcher::open_with(channel, &[("token", token)]).await.expect("opened")
}

/// GHSA-xg4h-6gfc-h4m8: whoever could read one key could watch every key from it on.
#[tokio::test(flavor = "multi_thread")]
async fn ghsa_xg4h_6gfc_h4m8_who_reads_one_key_watches_one_key() {
    let (served, root) = Served::with_root().await;
    let user = user_with(&served, &root, Type::Read, "k", "").await;
    let mut watcher = watcher(served.channel(), &user).await;
    let nul = Bytes::from_static(b"\0");
    for (key, range_end) in
        [("k", nul.clone()), ("k", "l".into()), ("j", "l".into()), ("\0", nul.clone()), ("", nul), ("k0", Bytes::new())]
    {
        let told = watcher.create(pb::WatchCreateRequest { range_end, ..watch(key, 0) }).await;
        assert!(told.canceled && told.watch_id == -1, "from {key}: {told:?}");
        assert_eq!(told.cancel_reason, format!("rpc error: code = PermissionDenied desc = {DENIED}"));
    }
    assert!(!watcher.create(watch("k", 0)).await.canceled, "its own key");
    served.server.stop().await;
}

/// CVE-2026-44283: what a put asks for beside its key was not looked at where it was within a transaction.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_44283_a_nested_put_shows_no_former_value_and_takes_no_foreign_lease() {
    let (served, root) = Served::with_root().await;
    let user = user_with(&served, &root, Type::Write, "mine", "").await;
    for id in [1, 2] {
        leases(&served, &root).lease_grant(pb::LeaseGrantRequest { ttl: 60, id }).await.expect("granted");
    }
    served.kv_as(&root).put(pb::PutRequest { lease: 2, ..put("theirs", "1") }).await.expect("root may");
    served.kv_as(&root).put(put("mine", "hidden")).await.expect("root may");
    let op = |request| pb::RequestOp { request: Some(request) };
    let nested = |put: pb::PutRequest, depth: usize| {
        let mut txn =
            pb::TxnRequest { success: vec![op(pb::request_op::Request::RequestPut(put))], ..Default::default() };
        for _ in 1..depth {
            txn = pb::TxnRequest { failure: vec![op(pb::request_op::Request::RequestTxn(txn))], ..Default::default() };
        }
        txn
    };
    let mut kv = served.kv_as(&user);
    for depth in 1..=3 {
        for bad in [
            pb::PutRequest { prev_kv: true, ..put("mine", "2") },
            pb::PutRequest { lease: 2, ..put("mine", "2") },
            put("theirs", "2"),
        ] {
            refused(kv.txn(nested(bad, depth)).await, Code::PermissionDenied, DENIED);
        }
        kv.txn(nested(pb::PutRequest { lease: 1, ..put("mine", "2") }, depth)).await.expect("a lease of nobody else");
    }
    let shows = pb::PutRequest { prev_kv: true, ..put("mine", "2") };
    refused(kv.put(shows).await, Code::PermissionDenied, DENIED);
    refused(kv.put(pb::PutRequest { lease: 2, ..put("mine", "2") }).await, Code::PermissionDenied, DENIED);
    let delete = pb::DeleteRangeRequest { key: "mine".into(), prev_kv: true, ..Default::default() };
    refused(kv.delete_range(delete).await, Code::PermissionDenied, DENIED);
    let revoke = leases(&served, &user).lease_revoke(pb::LeaseRevokeRequest { id: 2 }).await;
    refused(revoke, Code::PermissionDenied, DENIED);
    served.server.stop().await;
}

/// etcd #15814: the time to live of a lease named the keys on it to everybody.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_15814_a_lease_does_not_name_the_keys_of_others() {
    let (served, root) = Served::with_root().await;
    let user = user_with(&served, &root, Type::Read, "mine", "").await;
    for id in [1, 2] {
        leases(&served, &root).lease_grant(pb::LeaseGrantRequest { ttl: 60, id }).await.expect("granted");
    }
    for (key, lease) in [("mine", 1), ("theirs", 2)] {
        served.kv_as(&root).put(pb::PutRequest { lease, ..put(key, "1") }).await.expect("root may");
    }
    let mut client = leases(&served, &user);
    let ask = |id, keys| pb::LeaseTimeToLiveRequest { id, keys };
    refused(client.lease_time_to_live(ask(2, true)).await, Code::PermissionDenied, DENIED);
    let bare = client.lease_time_to_live(ask(2, false)).await.expect("no keys are asked for").into_inner();
    assert!(bare.keys.is_empty() && bare.granted_ttl == 60, "{bare:?}");
    let own = client.lease_time_to_live(ask(1, true)).await.expect("its own key").into_inner();
    assert_eq!(own.keys, ["mine"]);
    refused(client.lease_leases(pb::LeaseLeasesRequest {}).await, Code::PermissionDenied, DENIED);
    served.server.stop().await;
}

/// They are judged some at a time; the one that gives it away comes last.
#[tokio::test(flavor = "multi_thread")]
async fn leases_with_keys_of_others_are_not_listed_however_many_there_are() {
    let (served, root) = Served::with_root().await;
    let user = user_with(&served, &root, Type::Read, "mine", "").await;
    let mut grants = JoinSet::new();
    for id in 1..=1_030 {
        let mut client = leases(&served, &root);
        let ttl = 600 + id;
        grants.spawn(async move { client.lease_grant(pb::LeaseGrantRequest { ttl, id }).await.map(drop) });
        if grants.len() == 16 {
            grants.join_next().await.expect("one is under way").expect("ends").expect("granted");
        }
    }
    grants.join_all().await.into_iter().for_each(|granted| granted.expect("granted"));
    for (key, lease) in [("mine", 1), ("theirs", 1_030)] {
        served.kv_as(&root).put(pb::PutRequest { lease, ..put(key, "1") }).await.expect("root may");
    }
    let mut client = leases(&served, &user);
    refused(client.lease_leases(pb::LeaseLeasesRequest {}).await, Code::PermissionDenied, DENIED);
    served.kv_as(&root).put(put("theirs", "2")).await.expect("hangs on no lease any more");
    let listed = client.lease_leases(pb::LeaseLeasesRequest {}).await.expect("listed").into_inner().leases;
    assert_eq!((listed.len(), listed[1_029].id), (1_030, 1_030));
    served.server.stop().await;
}

/// etcd #15621: a permission on an interval without a key could be granted, and could not be taken away.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_15621_no_permission_is_on_no_key() {
    let (served, root) = Served::with_root().await;
    let mut auth = served.auth_as(&root);
    auth.role_add(pb::AuthRoleAddRequest { name: "r".into() }).await.expect("a new role");
    for (key, range_end) in [("", ""), ("", "\0"), ("b", "a"), ("a", "a")] {
        let perm = Permission { perm_type: Type::Readwrite.into(), key: key.into(), range_end: range_end.into() };
        let grant = pb::AuthRoleGrantPermissionRequest { name: "r".into(), perm: Some(perm) };
        let text = "etcdserver: invalid auth management";
        refused(auth.role_grant_permission(grant).await, Code::InvalidArgument, text);
    }
    let none = pb::AuthRoleGrantPermissionRequest { name: "r".into(), perm: None };
    refused(auth.role_grant_permission(none).await, Code::InvalidArgument, "etcdserver: permission not given");
    served.server.stop().await;
}

/// CVE-2020-15115 and its kin: no password is a password that lets in.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_a_password_is_let_in_by_none() {
    let (served, root) = Served::with_root().await;
    let options = Some(UserAddOptions { no_password: true });
    let add = pb::AuthUserAddRequest { name: "n".into(), options, ..Default::default() };
    served.auth_as(&root).user_add(add).await.expect("a new user");
    let failed = "etcdserver: authentication failed, invalid user ID or password";
    for (name, password) in [("n", ""), ("n", "n"), ("root", ""), ("root", &"rootpw".repeat(20)), ("nobody", "")] {
        refused(served.log_in(name, password).await.map(drop), Code::InvalidArgument, failed);
    }
    served.server.stop().await;
}
