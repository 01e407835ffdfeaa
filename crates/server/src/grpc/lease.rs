//! `etcdserverpb.Lease`.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use quorate_kv::Revision;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::lease_server::Lease;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::HeaderMap;
use tonic::{Request, Response, Status, Streaming};

use super::header::header;
use super::hold;
use crate::client_api::{ApiError, ClientApi, LeaseIds, QueuedKeepAlives};
use crate::keep_alives::{MAX_TOGETHER, Renewed};

/// Keepalives of one stream without an answer, in groups of [`MAX_TOGETHER`] at most. The next message is read only when
/// there is room: a client that sends faster than the cluster renews is held back by its own connection.
const MAX_GROUPS_IN_FLIGHT: usize = 1024 / MAX_TOGETHER;

/// Answers of one stream that wait for their client.
const ANSWERS_AHEAD: usize = 64;

/// Serves `Lease`.
#[derive(Debug)]
pub(crate) struct LeaseService {
    api: Arc<ClientApi>,
}

/// What is next on the stream of answers.
enum InFlight {
    /// Keepalives on their way.
    Renewals { ids: Vec<i64>, renewed: oneshot::Receiver<Renewed> },
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
        let (flight, landing) = mpsc::channel(MAX_GROUPS_IN_FLIGHT);
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
        let answer = pb::LeaseTimeToLiveResponse {
            header: self.header(left.revision),
            id: request.id,
            ttl: left.ttl_seconds,
            granted_ttl: left.granted_seconds,
            keys: left.keys.iter().map(|key| Bytes::copy_from_slice(key)).collect(),
        };
        Ok(hold(Response::new(answer), left.held))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let (metadata, _, _) = request.into_parts();
        let LeaseIds { ids, revision, held } = self.api.leases(metadata.as_ref()).await?;
        let leases = ids.into_iter().map(|id| pb::LeaseStatus { id }).collect();
        Ok(hold(Response::new(pb::LeaseLeasesResponse { header: self.header(revision), leases }), held))
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
        let first = tokio::select! {
            request = requests.message() => request,
            // Nobody reads the answers any more.
            () = answers.closed() => return,
        };
        let mut ids = match first {
            Ok(Some(pb::LeaseKeepAliveRequest { id })) => vec![id],
            Ok(None) => return,
            Err(unreadable) => {
                let _ = flight.send(InFlight::Refusal(unreadable)).await;
                return;
            }
        };
        let arrived = take_arrived(&mut requests, &mut ids).await;
        let QueuedKeepAlives { queued, refused } = api.keep_alive(&headers, ids).await;
        if let Some((ids, renewed)) = queued
            && flight.send(InFlight::Renewals { ids, renewed }).await.is_err()
        {
            return;
        }
        if let Some(refused) = refused {
            let _ = flight.send(InFlight::Refusal(refused.into())).await;
            return;
        }
        match arrived {
            Arrived::Goes => {}
            Arrived::Ended => return,
            Arrived::Unreadable(status) => {
                let _ = flight.send(InFlight::Refusal(status)).await;
                return;
            }
        }
    }
}

/// What comes after the keepalives that have arrived.
enum Arrived {
    /// Others, at any time.
    Goes,
    /// None: the client has ended.
    Ended,
    /// What is no keepalive, or the connection has broken.
    Unreadable(Status),
}

/// Takes what has arrived already: it shares one place in the queue, and one answer.
async fn take_arrived(requests: &mut Streaming<pb::LeaseKeepAliveRequest>, ids: &mut Vec<i64>) -> Arrived {
    poll_fn(|context| {
        while ids.len() < MAX_TOGETHER {
            match Pin::new(&mut *requests).poll_next(context) {
                Poll::Ready(Some(Ok(request))) => ids.push(request.id),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Arrived::Unreadable(status)),
                Poll::Ready(None) => return Poll::Ready(Arrived::Ended),
                Poll::Pending => break,
            }
        }
        Poll::Ready(Arrived::Goes)
    })
    .await
}

/// Answers keepalives in the order they came; a failure ends the stream, and the client opens another.
async fn answer(
    api: Arc<ClientApi>,
    mut landing: mpsc::Receiver<InFlight>,
    answers: mpsc::Sender<Result<pb::LeaseKeepAliveResponse, Status>>,
) {
    while let Some(next) = landing.recv().await {
        let (ids, renewed) = match next {
            InFlight::Renewals { ids, renewed } => (ids, renewed.await),
            InFlight::Refusal(status) => {
                let _ = answers.send(Err(status)).await;
                return;
            }
        };
        let Ok(renewed) = renewed else { return };
        let (ttls_seconds, revision) = match renewed {
            Ok(renewed) => renewed,
            Err(error) => {
                let _ = answers.send(Err(ApiError::from(error).into())).await;
                return;
            }
        };
        let header = full_header(&api, revision);
        for (id, ttl) in ids.into_iter().zip(ttls_seconds) {
            // Not there is no error: the client sees that nothing is left.
            if answers.send(Ok(pb::LeaseKeepAliveResponse { header, id, ttl })).await.is_err() {
                return;
            }
        }
    }
}
