//! `etcdserverpb.KV`.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use quorate_kv::{Command, Response as KvResponse, Revision};
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::kv_server::Kv;
use quorate_store::StateStream;
use quorate_wire::etcd;
use tonic::codegen::http::HeaderMap;
use tonic::{Request, Response, Status};

use super::header::header;
use super::hold;
use super::metadata::asked_read;
use crate::client_api::{ApiError, ClientApi, Served, ServedStream, WriteAnswer};
use crate::encoded::encoded;
use crate::placed::{PlacedSender, placed};
use crate::relay::Relay;

/// Serves `KV`.
#[derive(Debug)]
pub(crate) struct KvService {
    api: Arc<ClientApi>,
    /// For calls that wait here while this node is removed.
    relay: Arc<Relay>,
}

impl KvService {
    /// Serves from `api`; after a removal `relay` asks the members.
    pub(super) fn new(api: Arc<ClientApi>, relay: Arc<Relay>) -> Self {
        KvService { api, relay }
    }

    fn header(&self) -> etcd::Header {
        header(self.api.replica())
    }

    async fn range_here(
        &self,
        headers: &HeaderMap,
        request: pb::RangeRequest,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let asked = asked_read(headers, request.serializable).map_err(ApiError::Choice)?;
        let request = etcd::decode_range(request).map_err(ApiError::Kv)?;
        let Served { answer, grant, held } = self.api.range(headers, request, asked.options).await?;
        let mut response = match held {
            None => Response::new(etcd::range_response(self.header(), answer)),
            Some(held) => {
                let frame = etcd::range_frame(self.header(), answer).map_err(too_large)?;
                let answer = encoded(Response::new(pb::RangeResponse::default()), tokio_stream::once(Ok(frame)));
                hold(answer, Some(held))
            }
        };
        asked.tell(response.metadata_mut(), &grant);
        Ok(response)
    }

    async fn put_here(
        &self,
        headers: &HeaderMap,
        request: pb::PutRequest,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let bytes = request.encoded_len();
        let command = Command::Put(etcd::decode_put(request));
        let WriteAnswer { response, revision, held } = self.api.write_answered(headers, command, bytes).await?;
        let KvResponse::Put(response) = response else { unreachable!("a put is answered as a put") };
        Ok(hold(Response::new(etcd::put_response(self.header(), revision, response)), held))
    }

    async fn delete_range_here(
        &self,
        headers: &HeaderMap,
        request: pb::DeleteRangeRequest,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let bytes = request.encoded_len();
        let command = Command::DeleteRange(etcd::decode_delete_range(request));
        let WriteAnswer { response, revision, held } = self.api.write_answered(headers, command, bytes).await?;
        let KvResponse::DeleteRange(response) = response else { unreachable!("a deletion is answered as a deletion") };
        Ok(hold(Response::new(etcd::delete_range_response(self.header(), revision, response)), held))
    }

    async fn txn_here(
        &self,
        headers: &HeaderMap,
        request: pb::TxnRequest,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let bytes = request.encoded_len();
        let request = etcd::decode_txn(request).map_err(ApiError::Kv)?;
        if request.is_read_only() {
            let asked = asked_read(headers, request.is_serializable()).map_err(ApiError::Choice)?;
            let served = self.api.read_txn(headers, request, asked.options).await?;
            let Served { answer: (answer, revision), grant, held } = served;
            let mut response = hold(Response::new(etcd::txn_response(self.header(), revision, answer)), held);
            asked.tell(response.metadata_mut(), &grant);
            return Ok(response);
        }
        let WriteAnswer { response, revision, held } =
            self.api.write_answered(headers, Command::Txn(request), bytes).await?;
        let KvResponse::Txn(response) = response else { unreachable!("a transaction is answered as a transaction") };
        Ok(hold(Response::new(etcd::txn_response(self.header(), revision, response)), held))
    }

    async fn compact_here(
        &self,
        headers: &HeaderMap,
        request: pb::CompactionRequest,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let bytes = request.encoded_len();
        let (physical, goal) = (request.physical, Revision(request.revision));
        let command = Command::Compact(etcd::decode_compaction(request));
        let revision = self.api.write_answered(headers, command, bytes).await?.revision;
        if physical {
            self.wait_until_pruned(goal).await?;
        }
        Ok(Response::new(etcd::compaction_response(self.header(), revision)))
    }

    /// Waits until this node has taken away what a compaction to `goal` hides.
    async fn wait_until_pruned(&self, goal: Revision) -> Result<(), Status> {
        let pruned = async {
            while self.api.replica().view().is_some_and(|view| view.pruned() < goal) {
                tokio::time::sleep(PRUNE_POLL).await;
            }
        };
        tokio::time::timeout(PRUNE_TIMEOUT, pruned).await.map_err(|_| {
            Status::unavailable(
                "etcdserver: request timed out: the history is compacted, its space is still being freed",
            )
        })
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        match self.range_here(metadata.as_ref(), request.clone()).await {
            Err(refused) => {
                let (mut members, request) = self.relay.instead(refused, metadata, request).await?;
                members.range(request).await
            }
            answered => answered,
        }
    }

    /// What is sent is encoded beside it.
    type RangeStreamStream = tokio_stream::Empty<Result<pb::RangeStreamResponse, Status>>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let (metadata, mut extensions, request) = request.into_parts();
        let asked = asked_read(metadata.as_ref(), request.serializable).map_err(ApiError::Choice)?;
        let request = etcd::decode_range(request).map_err(ApiError::Kv)?;
        let served = self.api.begin_stream(metadata.as_ref(), request, asked.options).await?;
        let ServedStream { stream, grant, place } = served;
        let connection = extensions.remove().unwrap_or_default();
        let (chunks, receiver) = placed(place, self.api.answer_limits().send_time, connection);
        let header = self.header();
        tokio::spawn(send_chunks(Arc::clone(&self.api), stream, header, chunks));
        let mut response = encoded(Response::new(tokio_stream::empty()), receiver);
        asked.tell(response.metadata_mut(), &grant);
        Ok(response)
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        match self.put_here(metadata.as_ref(), request.clone()).await {
            Err(refused) => {
                let (mut members, request) = self.relay.instead(refused, metadata, request).await?;
                members.put(request).await
            }
            answered => answered,
        }
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        match self.delete_range_here(metadata.as_ref(), request.clone()).await {
            Err(refused) => {
                let (mut members, request) = self.relay.instead(refused, metadata, request).await?;
                members.delete_range(request).await
            }
            answered => answered,
        }
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        match self.txn_here(metadata.as_ref(), request.clone()).await {
            Err(refused) => {
                let (mut members, request) = self.relay.instead(refused, metadata, request).await?;
                members.txn(request).await
            }
            answered => answered,
        }
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        match self.compact_here(metadata.as_ref(), request).await {
            Err(refused) => {
                let (mut members, request) = self.relay.instead(refused, metadata, request).await?;
                members.compact(request).await
            }
            answered => answered,
        }
    }
}

/// How often a physical compaction looks whether this node has done it, and how long it waits for that.
const PRUNE_POLL: Duration = Duration::from_millis(10);
const PRUNE_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads one chunk after the other until the last, or until the client is gone. A thread is held only while a chunk is
/// read: clients that do not take their answers must not keep it from other reads, replication's among them.
async fn send_chunks(
    api: Arc<ClientApi>,
    mut stream: StateStream,
    header: etcd::Header,
    chunks: PlacedSender<etcd::Frame>,
) {
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let chunk = stream.next_chunk();
            (stream, chunk)
        });
        let message = match read.await {
            Ok((rest, chunk)) => {
                stream = rest;
                match chunk {
                    Ok(None) => return,
                    // Nothing but counting was done.
                    Ok(Some(Ok(chunk))) if chunk.kvs.is_empty() && chunk.end.is_none() => continue,
                    Ok(Some(Ok(chunk))) => etcd::stream_frame(header, chunk.kvs, chunk.end).map_err(too_large),
                    Ok(Some(Err(refused))) => Err(ApiError::Kv(refused).into()),
                    Err(error) => Err(api.unread(error).into()),
                }
            }
            Err(interrupted) => {
                chunks.send(Err(ApiError::Interrupted(interrupted).into())).await;
                return;
            }
        };
        if !chunks.send(message).await {
            return;
        }
    }
}

fn too_large(error: etcd::FrameTooLarge) -> Status {
    Status::resource_exhausted(error.to_string())
}
