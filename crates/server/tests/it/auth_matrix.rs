//! Who may call what: every method of etcd's API by everybody there can be. The rows are in [`rows`].
//!
//! What each cell is told is what etcd 3.7.3 was seen to tell, but for what `docs/etcd-compatibility.md` lists: signed tokens
//! of before a change, the wrong password of a user without one, and those who may not observe an election.

pub(crate) mod rows;

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use prost_types::FileDescriptorSet;
use quorate_proto::authpb::permission::Type;
use quorate_proto::authpb::{Permission, UserAddOptions};
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use self::rows::{Row, rows};
use crate::cluster::PATIENCE;
use crate::etcd_auth::{As, DENIED, NOBODY, Raw, give_role};
use crate::served::{Served, put};
use crate::signed::{Secret, claims};

/// The callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Sends no token.
    Nobody,
    /// Sends one that is nobody's.
    Forger,
    /// Sends root's, after its end.
    Late,
    /// Sends root's of before a change of rights.
    Old,
    /// Has a role without a right.
    Stranger,
    /// May read what begins with `app/`.
    Reader,
    /// May write what begins with `app/`.
    Writer,
    /// May read and write `app/k`.
    OnKey,
    /// May read and write what begins with `app/`.
    OnPrefix,
    /// Has the role `root`.
    Root,
}

impl Who {
    const ALL: [Who; 10] = [
        Who::Nobody,
        Who::Forger,
        Who::Late,
        Who::Old,
        Who::Stranger,
        Who::Reader,
        Who::Writer,
        Who::OnKey,
        Who::OnPrefix,
        Who::Root,
    ];

    /// The user's name, which is its role's, too.
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// What this caller is told of what it may not do.
    fn refusal(self) -> (Code, &'static str) {
        match self {
            Who::Nobody => (Code::InvalidArgument, NOBODY),
            Who::Forger | Who::Late => (Code::Unauthenticated, "etcdserver: invalid auth token"),
            Who::Old => (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
            _ => (Code::PermissionDenied, DENIED),
        }
    }

    fn token(self, secret: &Secret, revision: u64) -> Option<String> {
        let root = claims("root", revision);
        match self {
            Who::Nobody => None,
            Who::Forger => Some("abcdefghijklmnop.1".to_owned()),
            Who::Late => Some(secret.token(&serde_json::json!({ "username": "root", "revision": revision, "exp": 1 }))),
            Who::Old => Some(secret.token(&claims("root", revision - 1))),
            Who::Root => Some(secret.token(&root)),
            user => Some(secret.token(&claims(&user.name(), revision))),
        }
    }
}

/// Users, their roles and rights, and the switch. Answers the auth revision.
async fn set_up(served: &Served) -> u64 {
    let nobody = As(None);
    let mut auth = served.auth_as(&nobody);
    let (all, end) = (Bytes::from_static(b"app/"), Bytes::from_static(b"app0"));
    for (who, right) in [
        (Who::Root, None),
        (Who::Stranger, None),
        (Who::Reader, Some((Type::Read, all.clone(), end.clone()))),
        (Who::Writer, Some((Type::Write, all.clone(), end.clone()))),
        (Who::OnKey, Some((Type::Readwrite, "app/k".into(), Bytes::new()))),
        (Who::OnPrefix, Some((Type::Readwrite, all, end))),
    ] {
        let name = who.name();
        let options = Some(UserAddOptions { no_password: true });
        let add = pb::AuthUserAddRequest { name: name.clone(), options, ..Default::default() };
        auth.user_add(add).await.expect("a new user");
        auth.role_add(pb::AuthRoleAddRequest { name: name.clone() }).await.expect("a new role");
        if let Some((kind, key, range_end)) = right {
            let perm = Some(Permission { perm_type: kind.into(), key, range_end });
            let grant = pb::AuthRoleGrantPermissionRequest { name: name.clone(), perm };
            auth.role_grant_permission(grant).await.expect("a role");
        }
        give_role(served, &nobody, &name, &name).await;
    }
    auth.auth_enable(pb::AuthEnableRequest {}).await.expect("root is there");
    let status = auth.auth_status(pb::AuthStatusRequest {}).await.expect("told to everybody").into_inner();
    status.auth_revision
}

/// What every cell finds: leases 7 with a key below `app/`, 8 with one elsewhere and 9 with none, and a leader of an
/// election. Changes no rights.
pub(crate) async fn restore(served: &Served, root: &As) {
    let mut leases = LeaseClient::with_interceptor(served.channel(), root.clone());
    for id in [7, 8, 9] {
        // There already, but for the one that was revoked.
        let _ = leases.lease_grant(pb::LeaseGrantRequest { id, ttl: 600 }).await;
    }
    for (key, lease) in [("app/k", 7), ("other", 8), ("app/led/1", 0)] {
        served.kv_as(root).put(pb::PutRequest { lease, ..put(key, "v") }).await.expect("root may");
    }
}

/// Makes the call; what it is answered.
pub(crate) async fn ask(served: &Served, row: &Row, token: Option<&str>) -> Result<Bytes, Status> {
    let mut client = tonic::client::Grpc::new(served.channel());
    client.ready().await.expect("connects");
    let path = format!("/{}", row.method).parse().expect("a path");
    let asked = tokio_stream::once(Bytes::from(row.message.clone()));
    // Most calls wait for the end of what they are asked, and streams of requests end with it.
    let open = ["etcdserverpb.Watch/Watch", "etcdserverpb.Lease/LeaseKeepAlive"].contains(&row.method);
    let (until_answered, stays_open) = tokio::sync::mpsc::channel(1);
    let until_answered = open.then_some(until_answered);
    let mut request = Request::new(asked.chain(ReceiverStream::new(stays_open)));
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.parse().expect("a metadata value"));
    }
    let answering = async {
        let mut answers = client.streaming(request, path, Raw).await?.into_inner();
        answers.next().await.expect("an answer or a refusal")
    };
    let answer = timeout(PATIENCE, answering).await;
    drop(until_answered);
    answer.unwrap_or_else(|_| panic!("{} answers in time", row.method))
}

/// The refusal in an answer, as `Code: text`; an answer that refuses nothing is `ok`.
fn told(row: &Row, answer: Result<Bytes, Status>) -> String {
    match answer {
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
        // Watches are refused one by one, and their stream goes on.
        Ok(message) if row.method == "etcdserverpb.Watch/Watch" => {
            let watch = pb::WatchResponse::decode(message).expect("an answer");
            let reason =
                watch.cancel_reason.strip_prefix("rpc error: code = ").map(|said| said.replace(" desc = ", ": "));
            reason.unwrap_or_else(|| if watch.canceled { format!("{watch:?}") } else { "ok".to_owned() })
        }
        Ok(_) => "ok".to_owned(),
    }
}

/// What etcd tells this caller.
fn expected(row: &Row, who: Who) -> String {
    if row.may.contains(&who) {
        return row.done.to_owned();
    }
    let (code, text) = who.refusal();
    // etcd's locks and elections pass texts on, and no codes.
    let code = if row.method.starts_with("v3") { Code::Unknown } else { code };
    format!("{code:?}: {text}")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_answers_every_caller_as_its_rights_are() {
    let secret = Secret::new("secret");
    let served = Served::adjusted(|config| config.auth_token = secret.option()).await;
    let revision = set_up(&served).await;
    let root = As::token(&Who::Root.token(&secret, revision).expect("root has one"));
    restore(&served, &root).await;
    let peer_url = format!("http://{}", served.server.replica().own_identity().member.peer_address);
    let mut wrong = Vec::new();
    for row in rows(&peer_url) {
        for who in Who::ALL {
            let answer = ask(&served, &row, who.token(&secret, revision).as_deref()).await;
            let (told, expected) = (told(&row, answer), expected(&row, who));
            if told != expected {
                wrong.push(format!("{} ({}) by {who:?}: {told}, not {expected}", row.method, row.what));
            }
            let ends = row.method == "etcdserverpb.Auth/AuthDisable";
            if row.may.contains(&who) && !ends {
                restore(&served, &root).await;
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    served.server.stop().await;
}

#[test]
fn every_method_of_the_services_has_a_row() {
    let files = FileDescriptorSet::decode(quorate_proto::FILE_DESCRIPTOR_SET).expect("descriptors");
    let mut methods = BTreeSet::new();
    for file in &files.file {
        // Of its own services the whole node asks for root or the admin token: see `etcd_auth`.
        for service in file.service.iter().filter(|_| !file.package().starts_with("quorate.")) {
            let named = |method: &str| format!("{}.{}/{method}", file.package(), service.name());
            methods.extend(service.method.iter().map(|method| named(method.name())));
        }
    }
    let listed: BTreeSet<String> = rows("http://a:1").into_iter().map(|row| row.method.to_owned()).collect();
    assert_eq!(listed, methods);
    assert!(methods.len() > 45, "only {} methods were found", methods.len());
}
