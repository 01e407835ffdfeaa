//! The clients of one server: sends a request to it and gives the answer in words.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::auth_client::AuthClient;
use quorate_proto::etcdserverpb::cluster_client::ClusterClient;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::etcdserverpb::watch_client::WatchClient;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::v3electionpb::election_client::ElectionClient;
use quorate_proto::v3lockpb::lock_client::LockClient;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::answer::{Answer, Comparable as _, refusal, told, words};
use super::{Action, Call, http};

/// How long a watch may be silent before it is asked again whether it has told everything.
const SILENCE: Duration = Duration::from_millis(100);
/// So often it is asked.
const MAX_ASKED: u32 = 100;

/// Puts a token into each call.
#[derive(Debug, Clone, Default)]
struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

type Signed = InterceptedService<Channel, Token>;

/// One system: its nodes, and who has logged in.
#[derive(Debug)]
pub(super) struct Side {
    nodes: Vec<(SocketAddr, Channel)>,
    tokens: BTreeMap<&'static str, Token>,
}

impl Side {
    pub(super) fn new(nodes: Vec<(SocketAddr, Channel)>) -> Side {
        Side { nodes, tokens: BTreeMap::new() }
    }

    /// Sends the request to its node, once that node knows all that was answered before.
    pub(super) async fn perform(&mut self, action: &Action) -> Answer {
        let (address, channel) = self.nodes[action.node % self.nodes.len()].clone();
        if self.nodes.len() > 1 && !action.call.is_current() {
            // A linearizable read among its checks brings the node up to date.
            http::request(address, "GET", "/readyz", None, "").await;
        }
        let token = action.user.and_then(|user| self.tokens.get(user)).cloned().unwrap_or_default();
        if let Call::Authenticate(user, request) = &action.call {
            return self.log_in(channel, user, request.clone()).await;
        }
        match action.call.clone() {
            Call::Json(path, body) => {
                let token = token.0.as_ref().map(|token| token.to_str().expect("a token is text"));
                told(http::request(address, "POST", path, token, &body).await)
            }
            Call::Get(path) => told(http::request(address, "GET", path, None, "").await),
            call => unary(Signed::new(channel, token), call).await,
        }
    }

    async fn log_in(&mut self, channel: Channel, user: &'static str, request: pb::AuthenticateRequest) -> Answer {
        let answer = AuthClient::new(channel).authenticate(request).await;
        if let Ok(answer) = &answer {
            let token = answer.get_ref().token.parse().expect("a token is text");
            self.tokens.insert(user, Token(Some(token)));
        }
        words(answer)
    }
}

/// Everything that is one call of gRPC, or a stream taken for one.
async fn unary(to: Signed, call: Call) -> Answer {
    let (mut kv, mut lease) = (KvClient::new(to.clone()), LeaseClient::new(to.clone()));
    let (mut cluster, mut maintenance) = (ClusterClient::new(to.clone()), MaintenanceClient::new(to.clone()));
    let (mut auth, mut election) = (AuthClient::new(to.clone()), ElectionClient::new(to.clone()));
    let mut lock = LockClient::new(to.clone());
    match call {
        Call::Range(request) => {
            let without = request.keys_only;
            words(kv.range(request).await.map(|mut answer| {
                if without {
                    forget_leases(answer.get_mut());
                }
                answer
            }))
        }
        Call::RangeStream(request) => range_stream(kv, request).await.unwrap_or_else(refusal),
        Call::Put(request) => words(kv.put(request).await),
        Call::LargePut(bytes) => {
            let value = vec![b'x'; bytes].into();
            words(kv.put(pb::PutRequest { key: "large".into(), value, ..pb::PutRequest::default() }).await)
        }
        Call::DeleteRange(request) => words(kv.delete_range(request).await),
        Call::Txn(request) => words(kv.txn(request.clone()).await.map(|mut answer| {
            forget_leases_within(&request, answer.get_mut());
            answer
        })),
        Call::Compact(request) => words(kv.compact(request).await),
        Call::LeaseGrant(request) => words(lease.lease_grant(request).await),
        Call::LeaseRevoke(request) => words(lease.lease_revoke(request).await),
        Call::LeaseKeepAlive(request) => keep_alive(lease, request).await.unwrap_or_else(refusal),
        Call::LeaseTimeToLive(request) => words(lease.lease_time_to_live(request).await),
        Call::LeaseLeases(request) => words(lease.lease_leases(request).await),
        Call::Watch(request) => watch(WatchClient::new(to), request).await.unwrap_or_else(refusal),
        Call::MemberList(request) => words(cluster.member_list(request).await),
        Call::MemberAdd(request) => words(cluster.member_add(request).await),
        Call::MemberRemove(request) => words(cluster.member_remove(request).await),
        Call::MemberUpdate(request) => words(cluster.member_update(request).await),
        Call::MemberPromote(request) => words(cluster.member_promote(request).await),
        Call::Alarm(request) => words(maintenance.alarm(request).await),
        Call::Status(request) => words(maintenance.status(request).await),
        Call::Defragment(request) => words(maintenance.defragment(request).await),
        Call::HashKv(request) => words(maintenance.hash_kv(request).await),
        Call::MoveLeader(request) => words(maintenance.move_leader(request).await),
        Call::Downgrade(request) => words(maintenance.downgrade(request).await),
        Call::AuthEnable(request) => words(auth.auth_enable(request).await),
        Call::AuthDisable(request) => words(auth.auth_disable(request).await),
        Call::AuthStatus(request) => words(auth.auth_status(request).await),
        Call::UserAdd(request) => words(auth.user_add(request).await),
        Call::UserGet(request) => words(auth.user_get(request).await),
        Call::UserList(request) => words(auth.user_list(request).await),
        Call::UserDelete(request) => words(auth.user_delete(request).await),
        Call::UserChangePassword(request) => words(auth.user_change_password(request).await),
        Call::UserGrantRole(request) => words(auth.user_grant_role(request).await),
        Call::UserRevokeRole(request) => words(auth.user_revoke_role(request).await),
        Call::RoleAdd(request) => words(auth.role_add(request).await),
        Call::RoleGet(request) => words(auth.role_get(request).await),
        Call::RoleList(request) => words(auth.role_list(request).await),
        Call::RoleDelete(request) => words(auth.role_delete(request).await),
        Call::RoleGrantPermission(request) => words(auth.role_grant_permission(request).await),
        Call::RoleRevokePermission(request) => words(auth.role_revoke_permission(request).await),
        Call::Lock(request) => words(lock.lock(request).await),
        Call::Unlock(request) => words(lock.unlock(request).await),
        Call::Leader(request) => words(election.leader(request).await),
        Call::Proclaim(request) => words(election.proclaim(request).await),
        Call::Resign(request) => words(election.resign(request).await),
        Call::Authenticate(..) | Call::Json(..) | Call::Get(_) => unreachable!("performed by its caller"),
    }
}

/// Where a stream is cut into chunks is the server's affair; that its end alone has a header is not.
async fn range_stream(mut kv: KvClient<Signed>, request: pb::RangeRequest) -> Result<Answer, Status> {
    let keys_only = request.keys_only;
    let mut chunks = kv.range_stream(request).await?.into_inner();
    let mut whole = pb::RangeResponse::default();
    let mut headers = 0;
    while let Some(chunk) = chunks.message().await? {
        let chunk = chunk.range_response.unwrap_or_default();
        assert!(headers == 0, "a chunk after the last one: {chunk:?}");
        headers += usize::from(chunk.header.is_some());
        whole.kvs.extend(chunk.kvs);
        whole = pb::RangeResponse { header: chunk.header, more: chunk.more, count: chunk.count, ..whole };
    }
    if keys_only {
        forget_leases(&mut whole);
    }
    Ok(words(Ok(Response::new(whole))))
}

/// etcd leaves the lease out where it reads keys alone from its index.
fn forget_leases(answer: &mut pb::RangeResponse) {
    answer.kvs.iter_mut().for_each(|kv| kv.lease = 0);
}

fn forget_leases_within(txn: &pb::TxnRequest, answer: &mut pb::TxnResponse) {
    use pb::request_op::Request;
    use pb::response_op::Response;
    let taken = if answer.succeeded { &txn.success } else { &txn.failure };
    for (asked, told) in taken.iter().zip(&mut answer.responses) {
        match (&asked.request, &mut told.response) {
            (Some(Request::RequestRange(range)), Some(Response::ResponseRange(told))) if range.keys_only => {
                forget_leases(told);
            }
            (Some(Request::RequestTxn(inner)), Some(Response::ResponseTxn(told))) => forget_leases_within(inner, told),
            _ => {}
        }
    }
}

async fn keep_alive(mut lease: LeaseClient<Signed>, request: pb::LeaseKeepAliveRequest) -> Result<Answer, Status> {
    let (_open, answers) = {
        let (requests, receiver) = mpsc::channel(1);
        requests.try_send(request).expect("there is room");
        (requests, lease.lease_keep_alive(ReceiverStream::new(receiver)).await?)
    };
    let answer = answers.into_inner().message().await?.ok_or_else(|| Status::unknown("no answer"))?;
    Ok(words(Ok(Response::new(answer))))
}

/// One watch: what it is told until a report of progress shows that there is nothing more, and how it ends.
async fn watch(mut client: WatchClient<Signed>, create: pb::WatchCreateRequest) -> Result<Answer, Status> {
    let (requests, receiver) = mpsc::channel(4);
    let send = async |union| {
        // An error means that the stream has ended, which its answers show.
        let _ = requests.send(pb::WatchRequest { request_union: Some(union) }).await;
    };
    send(RequestUnion::CreateRequest(create)).await;
    let mut answers = client.watch(ReceiverStream::new(receiver)).await?.into_inner();
    let mut seen = String::new();
    let created = next(&mut answers).await?;
    let id = created.watch_id;
    let mut ended = created.canceled;
    note(&mut seen, created);
    for _ in 0..MAX_ASKED {
        if ended {
            break;
        }
        send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
        let mut told_all = false;
        while let Ok(answer) = timeout(SILENCE, next(&mut answers)).await {
            let answer = answer?;
            (told_all, ended) = (answer.watch_id == -1, answer.canceled);
            if told_all || ended {
                if ended {
                    note(&mut seen, answer);
                }
                break;
            }
            note(&mut seen, answer);
        }
        if told_all {
            send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: id })).await;
            while !ended {
                let answer = next(&mut answers).await?;
                ended = answer.canceled;
                // A report that was asked for once more says nothing new.
                if answer.watch_id != -1 {
                    note(&mut seen, answer);
                }
            }
        }
    }
    if !ended {
        seen.push_str("never told that it was told all");
    }
    Ok(Answer::Message { revision: None, text: seen })
}

async fn next(answers: &mut Streaming<pb::WatchResponse>) -> Result<pb::WatchResponse, Status> {
    answers.message().await?.ok_or_else(|| Status::unknown("the stream ended"))
}

/// Adds an answer in words: events one by one, since how many share an answer is a matter of the moment.
fn note(seen: &mut String, mut answer: pb::WatchResponse) {
    answer.settle();
    for event in std::mem::take(&mut answer.events) {
        seen.push_str(&format!("{event:?}\n"));
    }
    if answer.created || answer.canceled {
        seen.push_str(&format!("{answer:?}\n"));
    }
}
