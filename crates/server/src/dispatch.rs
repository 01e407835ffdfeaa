//! The client port's one service: tells gRPC from HTTP, counts calls, and hands each to whoever serves it.
//!
//! `KV` calls skip the router: they are nearly all of the traffic, and a router costs a measurable part of a small read.
//! Never looks into a message; what its metadata asks of the node as a whole, [`Gate`] knows.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use quorate_kv::KvError;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::{Code, Status};

use crate::answers::{AnswerLimits, ConnectionEnd, HeldAnswer, HeldBody};
use crate::arriving::{Arriving, ArrivingBody};
use crate::client_api::ApiError;
use crate::encoded::with_encoded_body;
use crate::gate::{Gate, wants_leader};
use crate::gateway;
use crate::listen::PortLimits;
use crate::metrics::{MethodCounters, MethodKind, Metrics};
use crate::relay::{Relay, pass_on};

type Response = http::Response<tonic::body::Body>;

/// What is served on one connection of the client port.
#[derive(Clone)]
pub(crate) struct Dispatch<Kv> {
    kv: Kv,
    grpc: axum::Router,
    http: axum::Router,
    metrics: Arc<Metrics>,
    gate: Arc<Gate>,
    relay: Arc<Relay>,
    arriving: Arc<Arriving>,
    /// How long a client may take to receive a large answer.
    send_time: Duration,
    connection: ConnectionEnd,
}

impl<Kv> Dispatch<Kv> {
    /// `kv` gets the calls of `etcdserverpb.KV`, `grpc` every other gRPC call, `http` the rest. While `relay` is open, calls
    /// about keys go to a member.
    pub(crate) fn new(
        kv: Kv,
        grpc: axum::Router,
        http: axum::Router,
        metrics: Arc<Metrics>,
        gate: Arc<Gate>,
        relay: Arc<Relay>,
        limits: (&PortLimits, &AnswerLimits),
    ) -> Self {
        let (port, answers) = limits;
        let arriving = Arriving::new(port.max_arriving_bytes, port.request_time);
        let (send_time, connection) = (answers.send_time, ConnectionEnd::default());
        Dispatch { kv, grpc, http, metrics, gate, relay, arriving, send_time, connection }
    }

    /// The same for another connection, which `end` ends.
    pub(crate) fn on(&self, end: ConnectionEnd) -> Self
    where
        Kv: Clone,
    {
        Dispatch { connection: end, ..self.clone() }
    }
}

impl<Kv> Service<http::Request<Incoming>> for Dispatch<Kv>
where
    Kv: Service<
            http::Request<ArrivingBody>,
            Response = Response,
            Error = Infallible,
            Future = BoxFuture<Response, Infallible>,
        >,
{
    type Response = Response;
    type Error = Infallible;
    type Future = CountedCall;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Neither tonic's services nor axum's routers ever ask a caller to wait.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> CountedCall {
        let path = request.uri().path();
        let members = if is_about_keys(path) { self.relay.takes(&request) } else { None };
        let is_grpc = is_grpc(&request);
        let counters = if is_grpc { self.metrics.grpc.method(path).cloned() } else { None };
        if let Some(counters) = &counters {
            counters.started.inc();
        }
        let mut leaderless = None;
        let call = match members {
            Some(members) => pass_on(members, request),
            None => match self.admit(&request, counters.as_deref()) {
                Err(refused) => Box::pin(std::future::ready(Ok(refused.into_http()))),
                Ok(until) => {
                    leaderless = until;
                    let is_key_value = path.starts_with(KV_PATH);
                    let request = self.arriving(request, counters.as_deref());
                    match (is_grpc, is_key_value) {
                        (false, _) => route(&mut self.http, request),
                        (true, true) => self.kv.call(request),
                        (true, false) => route(&mut self.grpc, request),
                    }
                }
            },
        };
        let (send_time, connection) = (self.send_time, self.connection.clone());
        CountedCall { counters, began: Instant::now(), call, leaderless, send_time, connection }
    }
}

impl<Kv> Dispatch<Kv> {
    /// Asks what every call of gRPC is asked. A stream that wants a leader comes with what ends it; those of watches end
    /// by themselves.
    fn admit(
        &self,
        request: &http::Request<Incoming>,
        counters: Option<&MethodCounters>,
    ) -> Result<Option<Leaderless>, Status> {
        let Some(MethodCounters { kind, .. }) = counters else { return Ok(None) };
        self.gate.admit(request.headers(), *kind)?;
        let ends = *kind == MethodKind::Stream && wants_leader(request.headers()) && request.uri().path() != WATCH_PATH;
        Ok(ends.then(|| self.gate.leaderless()))
    }

    /// Counts the request while it arrives. Streams, and calls as JSON that may be streams, are told how to end their
    /// connection.
    fn arriving(
        &self,
        mut request: http::Request<Incoming>,
        counters: Option<&MethodCounters>,
    ) -> http::Request<ArrivingBody> {
        let arriving = Arc::clone(&self.arriving);
        let is_stream = counters.is_some_and(|counters| counters.kind == MethodKind::Stream);
        if is_stream || gateway::serves(request.uri().path()) {
            request.extensions_mut().insert(self.connection.clone());
        }
        if is_stream {
            return request.map(|body| ArrivingBody::stream(body, arriving));
        }
        if gateway::takes_stream(&request) {
            return request.map(|body| ArrivingBody::json_stream(body, arriving));
        }
        request.map(|body| ArrivingBody::whole(body, arriving))
    }
}

/// Resolves when a stream is to end for want of a leader.
type Leaderless = BoxFuture<Status, Infallible>;

const WATCH_PATH: &str = "/etcdserverpb.Watch/Watch";

/// Methods of `KV`.
pub(crate) const KV_PATH: &str = "/etcdserverpb.KV/";

/// What a node that left still gets answered: the store's content. What it says of itself, it says itself.
fn is_about_keys(path: &str) -> bool {
    path.starts_with(KV_PATH) || path.starts_with("/v1/kv/") || path.starts_with("/v3/kv/")
}

fn is_grpc(request: &http::Request<Incoming>) -> bool {
    let content_type = request.headers().get(http::header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn route(router: &mut axum::Router, request: http::Request<ArrivingBody>) -> BoxFuture<Response, Infallible> {
    let answer = router.call(request);
    Box::pin(async move { Ok(answer.await?.map(tonic::body::Body::new)) })
}

/// A call under way. Counts its end, or passes the counting on to the body of a stream.
pub(crate) struct CountedCall {
    counters: Option<Arc<MethodCounters>>,
    began: Instant,
    call: BoxFuture<Response, Infallible>,
    leaderless: Option<Leaderless>,
    send_time: Duration,
    connection: ConnectionEnd,
}

impl Future for CountedCall {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(Ok(response)) = self.call.as_mut().poll(cx) else { return Poll::Pending };
        let mut response = with_encoded_body(response);
        if let Some(held) = response.extensions_mut().remove::<HeldAnswer>() {
            let (time, connection) = (self.send_time, self.connection.clone());
            response = response.map(|body| tonic::body::Body::new(HeldBody::new(body, held, time, connection)));
        }
        let began = self.began;
        let Some(counters) = self.counters.take() else { return Poll::Ready(Ok(response)) };
        let response = match (Status::from_header_map(response.headers()), counters.kind) {
            (Some(status), _) => {
                let status = as_etcd_says(status);
                counters.record_handled(status.code(), began.elapsed());
                status.into_http()
            }
            // A unary call that begins to answer has succeeded: its status can only be OK.
            (None, MethodKind::Unary) => {
                counters.record_handled(Code::Ok, began.elapsed());
                response
            }
            (None, MethodKind::Stream) => {
                let leaderless = self.leaderless.take();
                response
                    .map(|body| tonic::body::Body::new(CountedBody { body, counters, began, leaderless, ended: false }))
            }
        };
        Poll::Ready(Ok(response))
    }
}

impl Drop for CountedCall {
    fn drop(&mut self) {
        if let Some(counters) = &self.counters {
            counters.record_handled(Code::Cancelled, self.began.elapsed());
        }
    }
}

/// What tonic refuses by itself, as etcd's clients know it.
///
/// It calls a message over the size limit `OutOfRange`, which they know as a refused revision; their own stack says
/// `ResourceExhausted`. And it calls one that nests too deep to be decoded `Internal`, which they take for a broken node;
/// only transactions can nest, and they are refused far earlier.
fn as_etcd_says(status: Status) -> Status {
    let says = |text| status.message().contains(text);
    match status.code() {
        Code::OutOfRange if says("message length too large") => Status::resource_exhausted(status.message()),
        Code::Internal if says("recursion limit reached") => ApiError::from(KvError::TooManyOps).into(),
        _ => status,
    }
}

/// The body of a stream of answers. Counts the status at its end, or `Cancelled` if the client left before.
struct CountedBody {
    body: tonic::body::Body,
    counters: Arc<MethodCounters>,
    began: Instant,
    leaderless: Option<Leaderless>,
    ended: bool,
}

impl CountedBody {
    fn end(&mut self, code: Code) {
        self.counters.record_handled(code, self.began.elapsed());
        self.ended = true;
    }
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(leaderless) = &mut self.leaderless
            && let Poll::Ready(Ok(status)) = leaderless.as_mut().poll(cx)
        {
            self.end(status.code());
            let mut trailers = http::HeaderMap::new();
            let added = status.add_header(&mut trailers);
            return Poll::Ready(added.is_ok().then(|| Ok(Frame::trailers(trailers))));
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            let code = Status::from_header_map(trailers).map_or(Code::Unknown, |status| status.code());
            self.end(code);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for CountedBody {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Code::Cancelled);
        }
    }
}
