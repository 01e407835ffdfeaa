//! `v3electionpb.Election`: one leader among those who campaign under a name, as long as its lease lives.

use bytes::Bytes;
use quorate_proto::etcdserverpb::{ResponseHeader, TxnRequest};
use quorate_proto::mvccpb::KeyValue;
use quorate_proto::mvccpb::event::EventType;
use quorate_proto::v3electionpb as pb;
use quorate_proto::v3electionpb::election_server::Election;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::claims::{Caller, created_at, delete, end_of, put};
use crate::inside::Inside;

/// Serves `Election`.
#[derive(Debug)]
pub(super) struct ElectionService {
    inside: Inside,
}

type Told = Result<pb::LeaderResponse, Status>;

impl ElectionService {
    pub(super) fn new(inside: Inside) -> Self {
        ElectionService { inside }
    }
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(&self, request: Request<pb::CampaignRequest>) -> Result<Response<pb::CampaignResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let caller = Caller::new(self.inside.clone(), &metadata);
        let claim = caller.claim(&request.name, request.lease, request.value.clone()).await?;
        let leader =
            pb::LeaderKey { name: request.name, key: claim.key.clone(), rev: claim.revision, lease: claim.lease };
        // The header tells of the claim, as etcd's does, even where another value is proclaimed after it.
        let header = claim.header;
        if claim.found.as_ref().is_some_and(|found| found.value != request.value) {
            proclaim(&caller, &leader, request.value).await?;
        }
        if claim.wait().await?.is_none() {
            return Err(not_leader());
        }
        claim.keep();
        Ok(Response::new(pb::CampaignResponse { header, leader: Some(leader) }))
    }

    async fn proclaim(&self, request: Request<pb::ProclaimRequest>) -> Result<Response<pb::ProclaimResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let leader = request.leader.ok_or_else(no_key)?;
        let caller = Caller::new(self.inside.clone(), &metadata);
        let header = proclaim(&caller, &leader, request.value).await?;
        Ok(Response::new(pb::ProclaimResponse { header }))
    }

    async fn leader(&self, request: Request<pb::LeaderRequest>) -> Result<Response<pb::LeaderResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let first = Caller::new(self.inside.clone(), &metadata).first(&request.name).await?;
        let kv = first.kvs.into_iter().next().ok_or_else(|| Status::unknown("election: no leader"))?;
        Ok(Response::new(pb::LeaderResponse { header: first.header, kv: Some(kv) }))
    }

    type ObserveStream = ReceiverStream<Told>;

    async fn observe(&self, request: Request<pb::LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let caller = Caller::new(self.inside.clone(), &metadata);
        let (told, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let observing = observe(&caller, &request.name, &told);
            let ended = tokio::select! {
                ended = observing => ended,
                // Nobody listens any more.
                () = told.closed() => return,
            };
            if let Err(status) = ended {
                let _ = told.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn resign(&self, request: Request<pb::ResignRequest>) -> Result<Response<pb::ResignResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let leader = request.leader.ok_or_else(no_key)?;
        let resignation = TxnRequest {
            compare: vec![created_at(&leader.key, leader.rev)],
            success: vec![delete(&leader.key)],
            failure: Vec::new(),
        };
        let answer = Caller::new(self.inside.clone(), &metadata).txn(resignation).await?;
        Ok(Response::new(pb::ResignResponse { header: answer.header }))
    }
}

/// Gives the leader's key another value, if it is still the leader's.
async fn proclaim(caller: &Caller, leader: &pb::LeaderKey, value: Bytes) -> Result<Option<ResponseHeader>, Status> {
    let proclamation = TxnRequest {
        compare: vec![created_at(&leader.key, leader.rev)],
        success: vec![put(&leader.key, value, leader.lease)],
        failure: Vec::new(),
    };
    let answer = caller.txn(proclamation).await?;
    if answer.succeeded { Ok(answer.header) } else { Err(not_leader()) }
}

/// Tells of each leader and of what it proclaims, until nobody listens.
async fn observe(caller: &Caller, name: &Bytes, told: &mpsc::Sender<Told>) -> Result<(), Status> {
    loop {
        let first = caller.first(name).await?;
        let now = first.header.map_or(0, |header| header.revision);
        let leader = match first.kvs.into_iter().next() {
            Some(kv) => Some((first.header, kv)),
            None => next_leader(caller, name, now + 1).await?,
        };
        let Some((header, leader)) = leader else { continue };
        let (key, seen) = (leader.key.clone(), leader.mod_revision.max(now));
        let _ = told.send(Ok(pb::LeaderResponse { header, kv: Some(leader) })).await;
        let mut changes = caller.watch(key, Bytes::new(), seen + 1).await?;
        'leads: while let Some((header, events)) = changes.next().await? {
            for event in events {
                if event.r#type() == EventType::Delete {
                    break 'leads;
                }
                let _ = told.send(Ok(pb::LeaderResponse { header, kv: event.kv })).await;
            }
        }
    }
}

/// The first who comes under a name where nobody is; `None` if the watch was cut: look again.
async fn next_leader(
    caller: &Caller,
    name: &Bytes,
    from: i64,
) -> Result<Option<(Option<ResponseHeader>, KeyValue)>, Status> {
    let prefix = Bytes::from([&name[..], b"/"].concat());
    let mut changes = caller.watch(prefix.clone(), end_of(&prefix), from).await?;
    while let Some((header, events)) = changes.next().await? {
        let put = events.into_iter().find(|event| event.r#type() == EventType::Put);
        if let Some(kv) = put.and_then(|event| event.kv) {
            return Ok(Some((header, kv)));
        }
    }
    Ok(None)
}

fn no_key() -> Status {
    Status::unknown("\"leader\" field must be provided")
}

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}
