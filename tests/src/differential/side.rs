//! The clients of one server: sends a request to it and gives the answer in words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::auth_client::AuthClient;
use quorate_proto::etcdserverpb::cluster_client::ClusterClient;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::etcdserverpb::range_request::SortTarget;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::mvccpb::KeyValue;
use quorate_proto::v3electionpb::election_client::ElectionClient;
use quorate_proto::v3lockpb::lock_client::LockClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::answer::{Answer, refusal, told, words};
use super::standing::Standing;
use super::watching::{self, Watching};
use super::{Action, Call, http};

/// So many keys Go sorts without changing the order of those that are equal.
const STABLY_SORTED: i64 = 12;

/// Puts a token into each call.
#[derive(Debug, Clone, Default)]
pub(super) struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

pub(super) type Signed = InterceptedService<Channel, Token>;

/// One system: its nodes, who has logged in, and what is under way there.
#[derive(Debug)]
pub(super) struct Side {
    nodes: Vec<(SocketAddr, Channel)>,
    tokens: BTreeMap<&'static str, Token>,
    /// The newest revision any answer told.
    revision: i64,
    watching: BTreeMap<usize, Watching>,
    standing: BTreeMap<usize, Standing>,
    /// Numbers of calls that are used no more: what their callers left behind may still be tidied up.
    spent: BTreeSet<usize>,
}

impl Side {
    pub(super) fn new(nodes: Vec<(SocketAddr, Channel)>) -> Side {
        Side {
            nodes,
            tokens: BTreeMap::new(),
            revision: 0,
            watching: BTreeMap::new(),
            standing: BTreeMap::new(),
            spent: BTreeSet::new(),
        }
    }

    /// Sends the request to its node, once that node knows all that was answered before, and lets what it sets off come to
    /// rest.
    pub(super) async fn perform(&mut self, action: &Action) -> Answer {
        let (address, channel) = self.nodes[action.node % self.nodes.len()].clone();
        if self.nodes.len() > 1 && !action.call.is_current() {
            // A linearizable read among its checks brings the node up to date.
            http::request(address, "GET", "/readyz", None, "").await;
        }
        let token = action.user.and_then(|user| self.tokens.get(user)).cloned().unwrap_or_default();
        let signed = || Signed::new(channel.clone(), token.clone());
        let answer = match action.call.clone() {
            Call::Authenticate(user, request) => self.log_in(channel, user, request).await,
            Call::Json(path, body) => {
                let token = token.0.as_ref().map(|token| token.to_str().expect("a token is text"));
                told(http::request(address, "POST", path, token, &body).await)
            }
            Call::Get(path) => told(http::request(address, "GET", path, None, "").await),
            Call::Watch(create) => as_answer(watching::once(signed(), create, self.revision).await),
            Call::HalfClosedWatch(create) => as_answer(watching::half_closed(signed(), create, self.revision).await),
            Call::Watching(number, union) => self.watch_on(signed(), number, union).await,
            Call::WatchingEnds(number) => {
                self.watching.remove(&number);
                nothing()
            }
            Call::Stay(number, stay) => {
                if self.standing.contains_key(&number) || self.spent.contains(&number) {
                    return nothing();
                }
                // A wait has no end that is known beforehand.
                let patient = Endpoint::from_shared(format!("http://{address}")).expect("an address is a URI");
                let mut standing = Standing::begin(Signed::new(patient.connect_lazy(), token), stay);
                standing.rest().await;
                self.standing.insert(number, standing);
                self.so_far(number)
            }
            Call::SoFar(number) => self.so_far(number),
            Call::GiveUp(number) => {
                let gone = self.standing.remove(&number);
                if let Some(standing) = gone.filter(|standing| !standing.is_answered())
                    && !standing.give_up().await
                {
                    self.spent.insert(number);
                }
                nothing()
            }
            Call::Compact(request) => {
                // A watch may be told what a key was before only as long as that is not compacted.
                for stream in self.watching.values_mut() {
                    // What went wrong with it is told when it is asked next.
                    let _ = stream.catch_up(self.revision).await;
                }
                unary(signed(), Call::Compact(request)).await
            }
            call => unary(signed(), call).await,
        };
        if let Answer::Message { revision: Some(revision), .. } = &answer {
            self.revision = self.revision.max(*revision);
        }
        for standing in self.standing.values_mut() {
            standing.rest().await;
        }
        answer
    }

    /// One request on a stream that stays open.
    async fn watch_on(&mut self, to: Signed, number: usize, union: Option<RequestUnion>) -> Answer {
        let now = self.revision;
        match (self.watching.get_mut(&number), union) {
            (Some(stream), union) => {
                let union = union.unwrap_or(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
                as_answer(stream.request(union, now).await)
            }
            (None, Some(RequestUnion::CreateRequest(create))) => {
                as_answer(Watching::open(to, create, now).await.map(|(stream, told)| {
                    self.watching.insert(number, stream);
                    told
                }))
            }
            (None, _) => nothing(),
        }
    }

    /// What has come of a call; one that was answered is over.
    fn so_far(&mut self, number: usize) -> Answer {
        let Some(standing) = self.standing.get_mut(&number) else { return nothing() };
        let answer = standing.so_far().unwrap_or_else(nothing);
        if standing.is_answered() {
            self.standing.remove(&number);
        }
        answer
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

/// There is nothing to tell.
fn nothing() -> Answer {
    Answer::Message { revision: None, text: String::new() }
}

fn as_answer(told: Result<String, Status>) -> Answer {
    told.map_or_else(refusal, |text| Answer::Message { revision: None, text })
}

/// Everything that is one call of gRPC, or a stream taken for one.
async fn unary(to: Signed, call: Call) -> Answer {
    // A few large values make an answer larger than clients take in by default.
    let mut kv = KvClient::new(to.clone()).max_decoding_message_size(usize::MAX);
    let mut lease = LeaseClient::new(to.clone());
    let (mut cluster, mut maintenance) = (ClusterClient::new(to.clone()), MaintenanceClient::new(to.clone()));
    let (mut auth, mut election) = (AuthClient::new(to.clone()), ElectionClient::new(to.clone()));
    let mut lock = LockClient::new(to.clone());
    match call {
        Call::Range(request) => words(kv.range(request.clone()).await.map(|mut answer| {
            settle_range(&request, answer.get_mut());
            answer
        })),
        Call::RangeStream(request) => range_stream(kv, request).await.unwrap_or_else(refusal),
        Call::Put(request) => words(kv.put(request).await),
        Call::LargePut(bytes) => {
            let value = vec![b'x'; bytes].into();
            words(kv.put(pb::PutRequest { key: "large".into(), value, ..pb::PutRequest::default() }).await)
        }
        Call::DeleteRange(request) => words(kv.delete_range(request).await),
        Call::Txn(request) => words(kv.txn(request.clone()).await.map(|mut answer| {
            settle_txn(&request, answer.get_mut());
            answer
        })),
        Call::Compact(request) => words(kv.compact(request).await),
        Call::LeaseGrant(request) => words(lease.lease_grant(request).await),
        Call::LeaseRevoke(request) => words(lease.lease_revoke(request).await),
        Call::LeaseKeepAlive(request) => keep_alive(lease, request).await.unwrap_or_else(refusal),
        Call::LeaseTimeToLive(request) => words(lease.lease_time_to_live(request).await),
        Call::LeaseLeases(request) => words(lease.lease_leases(request).await),
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
        Call::Authenticate(..)
        | Call::Json(..)
        | Call::Get(_)
        | Call::Watch(_)
        | Call::HalfClosedWatch(_)
        | Call::Watching(..)
        | Call::WatchingEnds(_)
        | Call::Stay(..)
        | Call::SoFar(_)
        | Call::GiveUp(_) => unreachable!("performed by its caller"),
    }
}

/// Where a stream is cut into chunks is the server's affair; that its end alone has a header is not.
async fn range_stream(mut kv: KvClient<Signed>, request: pb::RangeRequest) -> Result<Answer, Status> {
    let mut chunks = kv.range_stream(request.clone()).await?.into_inner();
    let mut whole = pb::RangeResponse::default();
    let mut headers = 0;
    while let Some(chunk) = chunks.message().await? {
        let chunk = chunk.range_response.unwrap_or_default();
        assert!(headers == 0, "a chunk after the last one: {chunk:?}");
        headers += usize::from(chunk.header.is_some());
        whole.kvs.extend(chunk.kvs);
        whole = pb::RangeResponse { header: chunk.header, more: chunk.more, count: chunk.count, ..whole };
    }
    settle_range(&request, &mut whole);
    Ok(words(Ok(Response::new(whole))))
}

/// Takes away what etcd itself does not tell the same way each time.
fn settle_range(asked: &pb::RangeRequest, told: &mut pb::RangeResponse) {
    if asked.keys_only {
        // The lease is left out where keys are read from the index alone.
        told.kvs.iter_mut().for_each(|kv| kv.lease = 0);
    }
    if told.count > STABLY_SORTED {
        let target = |kv: &KeyValue| match asked.sort_target() {
            SortTarget::Key => (0, kv.key.clone()),
            SortTarget::Version => (kv.version, Bytes::new()),
            SortTarget::Create => (kv.create_revision, Bytes::new()),
            SortTarget::Mod => (kv.mod_revision, Bytes::new()),
            SortTarget::Value => (0, kv.value.clone()),
        };
        let is_cut = asked.limit > 0 && told.kvs.len() as i64 == asked.limit;
        let last = told.kvs.last().map(target);
        for ties in told.kvs.chunk_by_mut(|a, b| target(a) == target(b)) {
            ties.sort_by(|a, b| a.key.cmp(&b.key));
            if is_cut && asked.sort_target() != SortTarget::Key && last == ties.last().map(target) {
                // Which of them come before the limit is as open as their order.
                ties.fill(KeyValue::default());
            }
        }
    }
}

fn settle_txn(txn: &pb::TxnRequest, answer: &mut pb::TxnResponse) {
    use pb::request_op::Request;
    use pb::response_op::Response;
    let taken = if answer.succeeded { &txn.success } else { &txn.failure };
    for (asked, told) in taken.iter().zip(&mut answer.responses) {
        match (&asked.request, &mut told.response) {
            (Some(Request::RequestRange(range)), Some(Response::ResponseRange(told))) => settle_range(range, told),
            (Some(Request::RequestTxn(inner)), Some(Response::ResponseTxn(told))) => settle_txn(inner, told),
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
