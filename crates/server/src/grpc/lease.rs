//! `etcdserverpb.Lease`.

use std::sync::Arc;

use bytes::Bytes;
use quorate_kv::Revision;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::lease_server::Lease;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::HeaderMap;
use tonic::{Request, Response, Status, Streaming};

use super::header::header;
use crate::client_api::{ApiError, ClientApi};
use crate::keep_alives::Renewed;

/// Keepalives of one stream without an answer. The next message is read only when there is room: a client that sends faster
/// than the cluster renews is held back by its own connection.
const MAX_IN_FLIGHT: usize = 1024;

/// Answers of one stream that wait for their client.
const ANSWERS_AHEAD: usize = 64;

/// Serves `Lease`.
#[derive(Debug)]
pub(crate) struct LeaseService {
    api: Arc<ClientApi>,
}

/// What is next on the stream of answers.
enum InFlight {
    /// A keepalive on its way.
    Renewal { id: i64, renewed: oneshot::Receiver<Renewed> },
    /// One that was refused at once: the stream ends with it, after the answers to those before.
    Refusal(Status),
}

impl LeaseService {
    /// Serves from `api`.
    pub(super) fn new(api: Arc<ClientApi>) -> Self {
        LeaseService { api }
    }

    fn header(&self, revision: Revision) -> Option<pb::ResponseHeader> {
        full_header(&self.api, revision)
    }
}

fn full_header(api: &ClientApi, revision: Revision) -> Option<pb::ResponseHeader> {
    Some(header(api.replica()).at(revision))
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let (granted, revision) = self.api.grant_lease(metadata.as_ref(), request.id, request.ttl).await?;
        Ok(Response::new(pb::LeaseGrantResponse {
            header: self.header(revision),
            id: granted.id,
            ttl: granted.ttl_seconds,
            error: String::new(),
        }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let revision = self.api.revoke_lease(metadata.as_ref(), request.id).await?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: self.header(revision) }))
    }

    type LeaseKeepAliveStream = ReceiverStream<Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let (answers, receiver) = mpsc::channel(ANSWERS_AHEAD);
        let (flight, landing) = mpsc::channel(MAX_IN_FLIGHT);
        let headers = metadata.into_headers();
        tokio::spawn(take(Arc::clone(&self.api), headers, requests, flight, answers.clone()));
        tokio::spawn(answer(Arc::clone(&self.api), landing, answers));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let left = self.api.time_to_live(metadata.as_ref(), request.id, request.keys).await?;
        Ok(Response::new(pb::LeaseTimeToLiveResponse {
            header: self.header(left.revision),
            id: request.id,
            ttl: left.ttl_seconds,
            granted_ttl: left.granted_seconds,
            keys: left.keys.iter().map(|key| Bytes::copy_from_slice(key)).collect(),
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let (metadata, _, _) = request.into_parts();
        let (ids, revision) = self.api.leases(metadata.as_ref()).await?;
        let leases = ids.into_iter().map(|id| pb::LeaseStatus { id }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: self.header(revision), leases }))
    }
}

/// Takes the keepalives of one stream, in order, until the client ends it or goes away.
async fn take(
    api: Arc<ClientApi>,
    headers: HeaderMap,
    mut requests: Streaming<pb::LeaseKeepAliveRequest>,
    flight: mpsc::Sender<InFlight>,
    answers: mpsc::Sender<Result<pb::LeaseKeepAliveResponse, Status>>,
) {
    loop {
        let request = tokio::select! {
            request = requests.message() => request,
            // Nobody reads the answers any more.
            () = answers.closed() => return,
        };
        let Ok(Some(pb::LeaseKeepAliveRequest { id })) = request else { return };
        match api.keep_alive(&headers, id).await {
            Ok(renewed) => {
                if flight.send(InFlight::Renewal { id, renewed }).await.is_err() {
                    return;
                }
            }
            Err(refused) => {
                let _ = flight.send(InFlight::Refusal(refused.into())).await;
                return;
            }
        }
    }
}

/// Answers keepalives in the order they came; a failure ends the stream, and the client opens another.
async fn answer(
    api: Arc<ClientApi>,
    mut landing: mpsc::Receiver<InFlight>,
    answers: mpsc::Sender<Result<pb::LeaseKeepAliveResponse, Status>>,
) {
    while let Some(next) = landing.recv().await {
        let (id, renewed) = match next {
            InFlight::Renewal { id, renewed } => (id, renewed.await),
            InFlight::Refusal(status) => {
                let _ = answers.send(Err(status)).await;
                return;
            }
        };
        let Ok(renewed) = renewed else { return };
        let response = renewed.map_err(|error| Status::from(ApiError::from(error))).map(|(ttl, revision)| {
            // Not there is no error: the client sees that nothing is left.
            pb::LeaseKeepAliveResponse { header: full_header(&api, revision), id, ttl }
        });
        let failed = response.is_err();
        if answers.send(response).await.is_err() || failed {
            return;
        }
    }
}
