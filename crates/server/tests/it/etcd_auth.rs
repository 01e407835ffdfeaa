//! `etcdserverpb.Auth` over gRPC: logins, rights, and that no method of any service forgets to ask.

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use prost_types::FileDescriptorSet;
use quorate_proto::authpb;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::auth_client::AuthClient;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::quorate::v1 as admin_pb;
use quorate_proto::v3electionpb::{LeaderKey, ResignRequest};
use quorate_server::server::ServerConfig;
use tokio_stream::StreamExt;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::served::{Served, put, range};

/// Puts a token into each call.
#[derive(Clone)]
pub(crate) struct As(pub(crate) Option<MetadataValue<Ascii>>);

impl As {
    pub(crate) fn token(token: &str) -> As {
        As(Some(token.parse().expect("a metadata value")))
    }
}

impl Interceptor for As {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

pub(crate) type Intercepted = InterceptedService<Channel, As>;

impl Served {
    pub(crate) fn auth_as(&self, who: &As) -> AuthClient<Intercepted> {
        AuthClient::with_interceptor(self.channel(), who.clone())
    }

    pub(crate) fn kv_as(&self, who: &As) -> KvClient<Intercepted> {
        KvClient::with_interceptor(self.channel(), who.clone())
    }

    pub(crate) async fn log_in(&self, name: &str, password: &str) -> Result<As, Status> {
        let request = pb::AuthenticateRequest { name: name.into(), password: password.into() };
        let answer = AuthClient::new(self.channel()).authenticate(request).await?.into_inner();
        Ok(As::token(&answer.token))
    }

    /// A node with the switch on; who root is.
    pub(crate) async fn with_root() -> (Served, As) {
        Served::with_root_adjusted(|_| {}).await
    }

    /// The same with other settings than the usual ones.
    pub(crate) async fn with_root_adjusted(adjust: impl FnOnce(&mut ServerConfig)) -> (Served, As) {
        let served = Served::adjusted(adjust).await;
        turn_on(&served).await;
        let root = served.log_in("root", "rootpw").await.expect("the right password");
        (served, root)
    }
}

/// Makes root a user with a password, and turns the switch on.
pub(crate) async fn turn_on(served: &Served) {
    let nobody = As(None);
    add_user(served, &nobody, "root", "rootpw").await;
    give_role(served, &nobody, "root", "root").await;
    served.auth_as(&nobody).auth_enable(pb::AuthEnableRequest {}).await.expect("root is there");
}

pub(crate) async fn add_user(served: &Served, who: &As, name: &str, password: &str) {
    let request = pb::AuthUserAddRequest { name: name.into(), password: password.into(), ..Default::default() };
    served.auth_as(who).user_add(request).await.expect("a new user");
}

pub(crate) async fn give_role(served: &Served, who: &As, user: &str, role: &str) {
    let request = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
    served.auth_as(who).user_grant_role(request).await.expect("a user and a role");
}

/// A user `u` with these rights, logged in.
pub(crate) async fn user_with(
    served: &Served,
    root: &As,
    kind: authpb::permission::Type,
    key: &str,
    range_end: &str,
) -> As {
    add_user(served, root, "u", "pw").await;
    served.auth_as(root).role_add(pb::AuthRoleAddRequest { name: "r".into() }).await.expect("a new role");
    let perm = authpb::Permission {
        perm_type: kind.into(),
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
    };
    let request = pb::AuthRoleGrantPermissionRequest { name: "r".into(), perm: Some(perm) };
    served.auth_as(root).role_grant_permission(request).await.expect("a role");
    give_role(served, root, "u", "r").await;
    served.log_in("u", "pw").await.expect("the right password")
}

#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.expect_err(text);
    assert_eq!((status.code(), status.message()), (code, text));
}

pub(crate) const DENIED: &str = "etcdserver: permission denied";
pub(crate) const NOBODY: &str = "etcdserver: user name is empty";

#[tokio::test(flavor = "multi_thread")]
async fn a_login_gives_a_token_for_the_right_password_alone() {
    let served = Served::alone().await;
    let early = served.log_in("root", "rootpw").await;
    refused(early.map(drop), Code::FailedPrecondition, "etcdserver: authentication is not enabled");
    served.server.stop().await;

    let (served, root) = Served::with_root().await;
    let failed = "etcdserver: authentication failed, invalid user ID or password";
    for (name, password) in [("root", "wrong"), ("nobody", "rootpw"), ("", "")] {
        refused(served.log_in(name, password).await.map(drop), Code::InvalidArgument, failed);
    }
    served.kv_as(&root).put(put("a", "1")).await.expect("root may");
    refused(served.kv().range(range("a")).await, Code::InvalidArgument, NOBODY);
    refused(served.kv().put(put("a", "1")).await, Code::InvalidArgument, NOBODY);
    for token in ["", "x", "abcdefghijklmnop.1", "abcdefghijklmnop.99999999999999999999", "a.b.c"] {
        let answer = served.kv_as(&As::token(token)).range(range("a")).await;
        refused(answer, Code::Unauthenticated, "etcdserver: invalid auth token");
    }
    // Other clients say it as HTTP does.
    let As(Some(token)) = root.clone() else { panic!("root has a token") };
    let bearer = format!("Bearer {}", token.to_str().expect("text"));
    served.range_with(range("a"), &[("authorization", &bearer)]).await.expect("the same token");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_does_what_its_roles_allow() {
    let (served, root) = Served::with_root().await;
    served.kv_as(&root).put(put("other", "secret")).await.expect("root may");
    let user = user_with(&served, &root, authpb::permission::Type::Readwrite, "app/", "app0").await;
    let mut kv = served.kv_as(&user);
    kv.put(put("app/a", "1")).await.expect("inside");
    kv.range(range("app/a")).await.expect("inside");
    refused(kv.put(put("other", "1")).await, Code::PermissionDenied, DENIED);
    refused(kv.range(range("other")).await, Code::PermissionDenied, DENIED);
    refused(kv.range_stream(range("other")).await.map(drop), Code::PermissionDenied, DENIED);
    let everything = pb::RangeRequest { range_end: Bytes::from_static(b"\0"), ..range("app/a") };
    refused(kv.range(everything).await, Code::PermissionDenied, DENIED);
    // CVE-2026-33343, through the wire: a read that hides in a transaction within a transaction.
    let op = |request| pb::RequestOp { request: Some(request) };
    let inner = pb::TxnRequest {
        success: vec![op(pb::request_op::Request::RequestRange(range("other")))],
        ..Default::default()
    };
    let outer =
        pb::TxnRequest { success: vec![op(pb::request_op::Request::RequestTxn(inner.clone()))], ..Default::default() };
    refused(kv.txn(outer).await, Code::PermissionDenied, DENIED);
    refused(kv.txn(inner).await, Code::PermissionDenied, DENIED);
    refused(kv.compact(pb::CompactionRequest { revision: 2, physical: false }).await, Code::PermissionDenied, DENIED);
    let mut auth = served.auth_as(&user);
    refused(auth.user_list(pb::AuthUserListRequest {}).await, Code::PermissionDenied, DENIED);
    refused(auth.auth_disable(pb::AuthDisableRequest {}).await, Code::PermissionDenied, DENIED);
    let own = auth.user_get(pb::AuthUserGetRequest { name: "u".into() }).await.expect("itself").into_inner();
    assert_eq!(own.roles, ["r"]);
    refused(auth.user_get(pb::AuthUserGetRequest { name: "root".into() }).await, Code::PermissionDenied, DENIED);
    let role = auth.role_get(pb::AuthRoleGetRequest { role: "r".into() }).await.expect("its own").into_inner();
    assert_eq!(role.perm.len(), 1);
    let mut maintenance = MaintenanceClient::with_interceptor(served.channel(), user.clone());
    maintenance.status(pb::StatusRequest {}).await.expect("any user");
    refused(maintenance.hash(pb::HashRequest {}).await, Code::PermissionDenied, DENIED);
    refused(maintenance.move_leader(pb::MoveLeaderRequest { target_id: 1 }).await, Code::PermissionDenied, DENIED);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_is_gone_once_its_loss_is_acknowledged_and_a_password_with_its_tokens() {
    let (served, root) = Served::with_root().await;
    let user = user_with(&served, &root, authpb::permission::Type::Write, "a", "").await;
    served.kv_as(&user).put(put("a", "1")).await.expect("its right");
    let request = pb::AuthRoleRevokePermissionRequest { role: "r".into(), key: "a".into(), range_end: Bytes::new() };
    served.auth_as(&root).role_revoke_permission(request).await.expect("granted before");
    refused(served.kv_as(&user).put(put("a", "2")).await, Code::PermissionDenied, DENIED);

    let request = pb::AuthUserChangePasswordRequest { name: "u".into(), password: "new".into(), ..Default::default() };
    served.auth_as(&root).user_change_password(request).await.expect("a user");
    let old = served.kv_as(&user).put(put("a", "2")).await;
    refused(old, Code::Unauthenticated, "etcdserver: invalid auth token");
    assert!(served.log_in("u", "pw").await.is_err());
    let user = served.log_in("u", "new").await.expect("the new password");
    let delete = pb::AuthUserDeleteRequest { name: "u".into() };
    served.auth_as(&root).user_delete(delete).await.expect("a user");
    let deleted = served.kv_as(&user).put(put("a", "2")).await;
    refused(deleted, Code::Unauthenticated, "etcdserver: invalid auth token");

    served.auth_as(&root).auth_disable(pb::AuthDisableRequest {}).await.expect("root may");
    served.put("a", "3").await;
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keepalive_that_is_refused_is_answered_in_its_turn() {
    let (served, root) = Served::with_root().await;
    let user = user_with(&served, &root, authpb::permission::Type::Readwrite, "app/", "app0").await;
    let leases = |who: &As| LeaseClient::with_interceptor(served.channel(), who.clone());
    for id in [1, 2] {
        leases(&root).lease_grant(pb::LeaseGrantRequest { ttl: 60, id }).await.expect("granted");
    }
    served.kv_as(&root).put(pb::PutRequest { lease: 2, ..put("other", "1") }).await.expect("root may");
    // The first wait for the log; the third may be refused at once.
    let requests = [1, 1, 2].map(|id| pb::LeaseKeepAliveRequest { id });
    let answers = leases(&user).lease_keep_alive(tokio_stream::iter(requests)).await.expect("opened");
    let answers: Vec<_> =
        answers.into_inner().map(|answer| answer.map(|answer| (answer.id, answer.ttl))).collect().await;
    let [Ok((1, 60)), Ok((1, 60)), Err(denied)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((denied.code(), denied.message()), (Code::PermissionDenied, DENIED));
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_asks_for_the_same_rights() {
    let (served, _) = Served::with_root().await;
    let read = served.http("GET", "/v1/kv/a", b"").await;
    assert_eq!((read.status, read.text().contains(NOBODY)), (401, true), "{}", read.text());
    assert_eq!(served.http("PUT", "/v1/kv/a", b"1").await.status, 401);
    assert_eq!(served.http("GET", "/health", b"").await.status, 200, "a probe is nobody and is told nothing");
    assert_eq!(served.http("GET", "/readyz", b"").await.status, 200);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_service_takes_root_or_the_admin_token_and_nobody_else() {
    let (served, root) = Served::with_root().await;
    let user = user_with(&served, &root, authpb::permission::Type::Readwrite, "\0", "\0").await;
    let admin = |who: As| admin_pb::admin_client::AdminClient::with_interceptor(served.channel(), who);
    admin(root).status(admin_pb::StatusRequest {}).await.expect("root may");
    refused(admin(user).status(admin_pb::StatusRequest {}).await, Code::PermissionDenied, DENIED);
    refused(admin(As(None)).snapshot(admin_pb::SnapshotRequest {}).await.map(drop), Code::InvalidArgument, NOBODY);
    served.server.stop().await;

    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "secret\n").expect("written");
    let served = Served::guarded(file.path()).await;
    served.init().await;
    let mut maintenance = MaintenanceClient::new(served.channel());
    let unasked = maintenance.move_leader(pb::MoveLeaderRequest { target_id: 1 }).await;
    assert_eq!(unasked.expect_err("as `ctl transfer-leader`").code(), Code::Unauthenticated);
    let mut maintenance = MaintenanceClient::with_interceptor(served.channel(), As::token("secret"));
    let asked = maintenance.move_leader(pb::MoveLeaderRequest { target_id: 1 }).await;
    refused(asked, Code::FailedPrecondition, "etcdserver: bad leader transferee");
    served.server.stop().await;
}

/// Messages as they are on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(input.copy_to_bytes(input.remaining())))
    }
}

const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Calls a method, whatever its kind, with one message that asks for as little as it can; the first answer.
async fn call(served: &Served, method: &str) -> Result<Bytes, Status> {
    let mut client = tonic::client::Grpc::new(served.channel());
    client.ready().await.expect("connects");
    let path = method.parse().expect("a path");
    let create = pb::watch_request::RequestUnion::CreateRequest(pb::WatchCreateRequest::default());
    let message = match method {
        WATCH => pb::WatchRequest { request_union: Some(create) }.encode_to_vec().into(),
        // Refused before anything is asked of the store if there is no key, as etcd does.
        "/etcdserverpb.KV/Range" | "/etcdserverpb.KV/RangeStream" => {
            pb::RangeRequest { key: "a".into(), ..pb::RangeRequest::default() }.encode_to_vec().into()
        }
        "/v3electionpb.Election/Proclaim" | "/v3electionpb.Election/Resign" => {
            let leader = LeaderKey { key: "name/1".into(), ..LeaderKey::default() };
            ResignRequest { leader: Some(leader) }.encode_to_vec().into()
        }
        _ => Bytes::new(),
    };
    let answers = client.streaming(Request::new(tokio_stream::once(message)), path, Raw).await?;
    answers.into_inner().next().await.unwrap_or(Ok(Bytes::new()))
}

/// Methods that nobody needs a name for.
const OPEN: [&str; 3] = [
    "/etcdserverpb.Auth/Authenticate",
    "/etcdserverpb.Auth/AuthStatus",
    // Who a node is; a node that admits another has no name among users.
    "/quorate.v1.Admin/Identify",
];

/// CVE-2026-33413 and its kin: every second hole in etcd's history is a method that forgot to ask.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_33413_no_method_of_any_service_forgets_to_ask() {
    let (served, _) = Served::with_root().await;
    let files = FileDescriptorSet::decode(quorate_proto::FILE_DESCRIPTOR_SET).expect("descriptors");
    let mut asked = 0;
    for file in &files.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                if OPEN.contains(&path.as_str()) || path.starts_with("/quorate.peer.") {
                    continue;
                }
                asked += 1;
                match call(&served, &path).await {
                    Err(status) if status.code() == Code::Unimplemented => {}
                    Err(status) => {
                        // etcd's locks and elections pass texts on, and no codes.
                        let code = if path.starts_with("/v3") { Code::Unknown } else { Code::InvalidArgument };
                        assert_eq!((status.code(), status.message()), (code, NOBODY), "{path}");
                    }
                    // Watches are refused one by one, and their stream goes on.
                    Ok(answer) if path == WATCH => {
                        let refused = pb::WatchResponse::decode(answer).expect("an answer");
                        assert!(refused.canceled && refused.cancel_reason.contains(NOBODY), "{refused:?}");
                    }
                    Ok(answer) => panic!("{path} answers nobody with {answer:?}"),
                }
            }
        }
    }
    assert!(asked > 40, "only {asked} methods were found");
    served.server.stop().await;
}
