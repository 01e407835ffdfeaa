//! `etcdserverpb.Watch`.
//!
//! Written by hand where tonic would generate: an event that a thousand watches are told is encoded once, and each of their
//! messages is a head and a copy of those bytes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::Body as HttpBody;
use prost::Message as _;
use quorate_kv::Revision;
use quorate_node::watch::{Answer, Ended, Events};
use quorate_proto::etcdserverpb as pb;
use quorate_wire::etcd;
use tokio_stream::Stream;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::DECODE_MARGIN;
use super::header::header;
use crate::client_api::{ClientApi, Watches};

/// Answers sent between two looks at what the client asks.
const ANSWERS_A_LOOK: u32 = 16;
/// Bytes collected before they are passed on: one message of a busy stream is small.
const SEND_BYTES: usize = 64 * 1024;
/// Bytes a stream holds for encoding; there may be thousands of quiet ones.
const BUFFER_BYTES: usize = 1024;

/// Serves `Watch`.
#[derive(Debug, Clone)]
pub(super) struct WatchService {
    api: Arc<ClientApi>,
}

impl WatchService {
    /// Serves from `api`.
    pub(super) fn new(api: Arc<ClientApi>) -> Self {
        WatchService { api }
    }
}

impl NamedService for WatchService {
    const NAME: &'static str = "etcdserverpb.Watch";
}

impl<B> Service<http::Request<B>> for WatchService
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = self.clone();
        if request.uri().path() != "/etcdserverpb.Watch/Watch" {
            let unknown = Status::unimplemented(format!("{} is not a method of Watch", request.uri().path()));
            return Box::pin(async move { Ok(unknown.into_http()) });
        }
        let max_message_bytes = service.api.max_request_bytes() + DECODE_MARGIN;
        Box::pin(async move {
            let mut grpc = Grpc::new(WatchCodec).max_decoding_message_size(max_message_bytes);
            Ok(grpc.streaming(service, request).await)
        })
    }
}

impl StreamingService<pb::WatchRequest> for WatchService {
    type Response = Message;
    type ResponseStream = WatchAnswers;
    type Future = BoxFuture<Response<WatchAnswers>, Status>;

    fn call(&mut self, request: Request<Streaming<pb::WatchRequest>>) -> Self::Future {
        let api = Arc::clone(&self.api);
        Box::pin(async move {
            let (metadata, _, requests) = request.into_parts();
            let watches = api.watch(metadata.into_headers())?;
            Ok(Response::new(WatchAnswers {
                api,
                requests,
                watches,
                telling: None,
                unlooked: 0,
                asks_no_more: false,
                ended: false,
            }))
        })
    }
}

/// What one client is sent. Reads its requests, too: a client that takes no answers is not listened to.
pub(super) struct WatchAnswers {
    api: Arc<ClientApi>,
    requests: Streaming<pb::WatchRequest>,
    watches: Watches,
    telling: Option<Telling>,
    /// Answers since the last look at the requests.
    unlooked: u32,
    /// The client's half is closed: the stream ends with its last watch, for no other can come.
    asks_no_more: bool,
    ended: bool,
}

/// A response that is being told to one watch after the other, to each in all its parts.
struct Telling {
    head: Bytes,
    ids: Arc<Vec<i64>>,
    parts: Arc<[Events]>,
    next_id: usize,
    next_part: usize,
}

/// One message to a client.
pub(super) enum Message {
    Events { head: Bytes, id: i64, fragment: bool, body: Bytes },
    Other(Box<pb::WatchResponse>),
}

impl Stream for WatchAnswers {
    type Item = Result<Message, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(message) = this.next_told() {
            return Poll::Ready(Some(Ok(message)));
        }
        loop {
            if this.asks_no_more && this.watches.is_idle() {
                return this.end(None);
            }
            if this.ended {
                return Poll::Ready(None);
            }
            if this.unlooked < ANSWERS_A_LOOK {
                match this.watches.poll_answer(context) {
                    Poll::Ready(Some(Ok(answer))) => {
                        this.unlooked += 1;
                        return Poll::Ready(Some(Ok(this.begin(answer))));
                    }
                    Poll::Ready(Some(Err(why))) => return this.end(Some(ended_status(why))),
                    Poll::Ready(None) => return this.end(Some(ended_status(Ended::Stopped))),
                    Poll::Pending => {}
                }
            }
            let busy = std::mem::take(&mut this.unlooked) >= ANSWERS_A_LOOK;
            if !this.asks_no_more && this.watches.takes_requests() {
                match Pin::new(&mut this.requests).poll_next(context) {
                    Poll::Ready(Some(Ok(request))) => {
                        // A request that asks nothing is answered with nothing, as etcd does.
                        if let Some(request) = etcd::decode_watch(request) {
                            this.watches.request(request);
                        }
                        continue;
                    }
                    Poll::Ready(Some(Err(status))) => return this.end(Some(status)),
                    Poll::Ready(None) => {
                        this.asks_no_more = true;
                        continue;
                    }
                    Poll::Pending => {}
                }
            }
            if !busy {
                return Poll::Pending;
            }
        }
    }
}

impl WatchAnswers {
    fn next_told(&mut self) -> Option<Message> {
        let telling = self.telling.as_mut()?;
        let id = telling.ids[telling.next_id];
        let Events { body, fragment, .. } = &telling.parts[telling.next_part];
        let message = Message::Events { head: telling.head.clone(), id, fragment: *fragment, body: body.clone() };
        telling.next_part += 1;
        if telling.next_part == telling.parts.len() {
            (telling.next_id, telling.next_part) = (telling.next_id + 1, 0);
        }
        if telling.next_id == telling.ids.len() {
            self.telling = None;
        }
        Some(message)
    }

    fn begin(&mut self, answer: Answer) -> Message {
        let header = header(self.api.replica());
        let with = |revision: Revision, response: pb::WatchResponse| {
            Message::Other(Box::new(pb::WatchResponse { header: Some(header.at(revision)), ..response }))
        };
        match answer {
            Answer::Events { ids, revision, parts } => {
                let head = etcd::encode_watch_head(header, revision);
                self.telling = Some(Telling { head, ids, parts, next_id: 0, next_part: 0 });
                self.next_told().expect("events are told to somebody")
            }
            other => {
                let (revision, response) = control_response(other);
                with(revision, response)
            }
        }
    }

    fn end(&mut self, status: Option<Status>) -> Poll<Option<Result<Message, Status>>> {
        self.ended = true;
        Poll::Ready(status.map(Err))
    }
}

/// An answer that is not events, without its header.
fn control_response(answer: Answer) -> (Revision, pb::WatchResponse) {
    let empty = pb::WatchResponse::default();
    match answer {
        Answer::Created { id, revision } => (revision, pb::WatchResponse { watch_id: id, created: true, ..empty }),
        Answer::Refused { revision, reason } => {
            let cancel_reason = reason.to_string();
            (revision, pb::WatchResponse { watch_id: -1, created: true, canceled: true, cancel_reason, ..empty })
        }
        Answer::Canceled { id, revision } => (revision, pb::WatchResponse { watch_id: id, canceled: true, ..empty }),
        Answer::Compacted { id, compact_revision } => {
            let compact_revision = compact_revision.get();
            // Clients know the end of the history by the revision 0.
            (Revision(0), pb::WatchResponse { watch_id: id, canceled: true, compact_revision, ..empty })
        }
        Answer::Progress { id, revision } => (revision, pb::WatchResponse { watch_id: id, ..empty }),
        Answer::Events { .. } => unreachable!("events are told one watch after the other"),
    }
}

/// Clients resume elsewhere, except for want of a leader.
fn ended_status(why: Ended) -> Status {
    Status::unavailable(why.to_string())
}

/// See the module documentation.
#[derive(Debug, Clone, Copy)]
struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = Message;
    type Decode = pb::WatchRequest;
    type Encoder = WatchCodec;
    type Decoder = WatchCodec;

    fn encoder(&mut self) -> WatchCodec {
        *self
    }

    fn decoder(&mut self) -> WatchCodec {
        *self
    }
}

impl Encoder for WatchCodec {
    type Item = Message;
    type Error = Status;

    fn encode(&mut self, message: Message, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        match message {
            Message::Events { head, id, fragment, body } => {
                out.reserve(etcd::WATCH_HEAD_BYTES + body.len());
                etcd::encode_watch_events(&head, id, fragment, &body, out);
                Ok(())
            }
            Message::Other(response) => {
                response.encode(out).map_err(|error| Status::internal(format!("a response is too large: {error}")))
            }
        }
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, SEND_BYTES)
    }
}

impl Decoder for WatchCodec {
    type Item = pb::WatchRequest;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<pb::WatchRequest>, Status> {
        let request = pb::WatchRequest::decode(bytes);
        request.map(Some).map_err(|error| Status::internal(format!("a request cannot be decoded: {error}")))
    }
}
