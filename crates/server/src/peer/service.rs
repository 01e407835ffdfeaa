//! Incoming calls on the peer port.
//!
//! Owns the one incoming stream of each peer: a newer one replaces it, so a peer that reconnects leaves nothing behind.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use quorate_proto::quorate::peer::v1 as proto;
use quorate_proto::quorate::peer::v1::peer_server;
use quorate_raft::NodeId;
use quorate_wire::identity::from_bootstrap;
use quorate_wire::peer::{Hello, HelloRefused, from_frame, hello_frame};
use quorate_wire::{PeerMessage, from_term};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, once};
use tonic::{Request, Response, Status, Streaming};

use super::greeting::Caller;
use super::guests::Badge;
use super::listener::stopped;
use super::{CHUNK_TIMEOUT, Host};
use crate::metrics::Metrics;

type Answers = Pin<Box<dyn Stream<Item = Result<proto::Frame, Status>> + Send>>;

/// See the module documentation.
pub(super) struct PeerService {
    host: Arc<dyn Host>,
    metrics: Arc<Metrics>,
    stop: watch::Receiver<bool>,
    /// Ends the incoming stream of a peer when dropped.
    incoming: Arc<Mutex<BTreeMap<NodeId, oneshot::Sender<()>>>>,
}

impl PeerService {
    pub(super) fn new(host: Arc<dyn Host>, metrics: Arc<Metrics>, stop: watch::Receiver<bool>) -> PeerService {
        PeerService { host, metrics, stop, incoming: Arc::default() }
    }

    fn refuse(&self, badge: &Badge, refusal: &HelloRefused) {
        tracing::warn!("peer port: refused a stream from {}: {refusal}", badge.from);
        self.metrics.network.peer_refused_total.with_label_values(&[label(refusal)]).inc();
    }

    /// Registers the incoming stream of `from`; the returned end resolves when a newer stream takes its place.
    fn replace(&self, from: NodeId) -> oneshot::Receiver<()> {
        let (replaced, newer) = oneshot::channel();
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner).insert(from, replaced);
        newer
    }
}

/// Value of the metric's label `reason`.
fn label(refusal: &HelloRefused) -> &'static str {
    match refusal {
        HelloRefused::WrongCluster(_) => "cluster",
        HelloRefused::WrongNode(_) => "node",
        HelloRefused::WrongIncarnation(_) => "incarnation",
        HelloRefused::Removed(_) => "removed",
        HelloRefused::UnknownVersion(_) => "version",
        HelloRefused::NotServing(_) => "not_serving",
        HelloRefused::Malformed(_) => "garbage",
    }
}

/// Whose call it is.
fn caller<T>(request: &Request<T>) -> Caller {
    // Put there by what guards this service.
    request.extensions().get::<Caller>().expect("every call is guarded").clone()
}

#[tonic::async_trait]
impl peer_server::Peer for PeerService {
    type StreamStream = Answers;

    async fn stream(&self, request: Request<Streaming<proto::Frame>>) -> Result<Response<Answers>, Status> {
        let caller = caller(&request);
        let mut frames = request.into_inner();
        let hello = match first_hello(&mut frames).await {
            Ok(hello) => hello,
            Err(refusal) => {
                self.refuse(&caller.badge, &refusal);
                return Err(Status::invalid_argument(refusal.to_string()));
            }
        };
        let greeting = match self.host.welcome(&hello).await {
            Ok(greeting) => greeting,
            Err(refusal) => {
                self.refuse(&caller.badge, &refusal);
                let answer = refusing(&hello, refusal);
                return Ok(Response::new(Box::pin(once(Ok(answer)))));
            }
        };
        caller.welcome();
        let from = hello.from;
        let (answers, answer_stream) = mpsc::channel(1);
        // The channel is empty and has room for one, so this cannot fail.
        let _ = answers.try_send(Ok(hello_frame(&greeting)));
        let newer = self.replace(from);
        let received = self.metrics.network.peer_received_bytes_total.with_label_values(&[&from.to_string()]);
        let host = Arc::clone(&self.host);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let reading = read_frames(&*host, from, &mut frames, &answers, &received);
            tokio::select! {
                ended = reading => {
                    if let Err(text) = ended {
                        tracing::warn!(peer = %from, "peer port: stream ended: {text}");
                    }
                }
                _ = newer => {}
                () = stopped(stop) => {}
            }
            // Dropping this end closes the answers, by which the caller sees that the stream is over.
            drop(answers);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answer_stream))))
    }

    async fn identify(&self, _: Request<proto::IdentifyRequest>) -> Result<Response<proto::IdentifyResponse>, Status> {
        Ok(Response::new(self.host.identity().to_wire()))
    }

    async fn bootstrap(
        &self,
        request: Request<proto::BootstrapRequest>,
    ) -> Result<Response<proto::BootstrapResponse>, Status> {
        let bootstrap = request.into_inner().bootstrap.unwrap_or_default();
        let outcome = match from_bootstrap(bootstrap) {
            Ok(bootstrap) => self.host.bootstrap(bootstrap).await,
            Err(error) => Err(error.to_string()),
        };
        let (accepted, refusal) = match outcome {
            Ok(()) => (true, String::new()),
            Err(refusal) => (false, refusal),
        };
        Ok(Response::new(proto::BootstrapResponse { accepted, refusal }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotChunk>>,
    ) -> Result<Response<proto::SnapshotResponse>, Status> {
        let caller = caller(&request);
        let mut chunks = request.into_inner();
        let outcome = tokio::select! {
            outcome = self.take_snapshot(&caller, &mut chunks) => outcome?,
            () = stopped(self.stop.clone()) => return Err(Status::unavailable("this node stops")),
        };
        let label = if outcome.is_ok() { "installed" } else { "failed" };
        self.metrics.raft.snapshots_received_total.with_label_values(&[label]).inc();
        Ok(Response::new(match outcome {
            Ok(index) => proto::SnapshotResponse { accepted: true, index, refusal: String::new() },
            Err(refusal) => {
                tracing::warn!("peer port: snapshot refused: {refusal}");
                proto::SnapshotResponse { accepted: false, index: 0, refusal }
            }
        }))
    }
}

impl PeerService {
    /// The outer error is a broken stream, the inner one a snapshot that is not wanted or not whole.
    async fn take_snapshot(
        &self,
        caller: &Caller,
        chunks: &mut Streaming<proto::SnapshotChunk>,
    ) -> Result<Result<u64, String>, Status> {
        let Some(proto::SnapshotChunk { start: Some(start), data }) = chunks.message().await? else {
            return Err(Status::invalid_argument("a snapshot begins with its start"));
        };
        let hello = Hello::from_wire(start.hello.unwrap_or_default())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Err(refusal) = self.host.welcome(&hello).await {
            self.refuse(&caller.badge, &refusal);
            return Ok(Err(refusal.to_string()));
        }
        caller.welcome();
        let term = from_term("snapshot", start.term).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut sink = match self.host.receive_snapshot(hello.from, term).await {
            Ok(sink) => sink,
            Err(text) => return Ok(Err(text)),
        };
        let received = self.metrics.raft.snapshot_bytes_total.with_label_values(&["received"]);
        let mut next = Some(data);
        while let Some(data) = next {
            received.inc_by(data.len() as u64);
            if let Err(text) = sink.write(data).await {
                return Ok(Err(text));
            }
            next = tokio::select! {
                chunk = tokio::time::timeout(CHUNK_TIMEOUT, chunks.message()) => match chunk {
                    Ok(chunk) => chunk?.map(|chunk| chunk.data),
                    Err(_) => return Ok(Err(format!("its next part did not come within {CHUNK_TIMEOUT:?}"))),
                },
                reason = sink.overtaken() => return Ok(Err(reason)),
            };
        }
        Ok(sink.finish().await.map(|index| index.0))
    }
}

async fn first_hello(frames: &mut Streaming<proto::Frame>) -> Result<Hello, HelloRefused> {
    let malformed = |text: String| HelloRefused::Malformed(text);
    match frames.message().await {
        Err(status) => Err(malformed(format!("the first frame cannot be read: {}", status.message()))),
        Ok(None) => Err(malformed("the stream ended before its greeting".into())),
        Ok(Some(frame)) => {
            let hello = frame.hello.ok_or_else(|| malformed("the first frame holds no greeting".into()))?;
            Hello::from_wire(hello).map_err(|error| malformed(error.to_string()))
        }
    }
}

/// The answer to a caller that is not welcome: its own greeting turned round, with the reason.
fn refusing(hello: &Hello, refusal: HelloRefused) -> proto::Frame {
    let mut answer = hello.clone();
    answer.from = hello.to;
    answer.to = hello.from;
    answer.refused = Some(refusal);
    hello_frame(&answer)
}

/// Delivers frames until the stream ends; an error says what was wrong with it.
async fn read_frames(
    host: &dyn Host,
    from: NodeId,
    frames: &mut Streaming<proto::Frame>,
    answers: &mpsc::Sender<Result<proto::Frame, Status>>,
    received: &prometheus::IntCounter,
) -> Result<(), String> {
    loop {
        let frame = match frames.message().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            // A peer that died resets its streams; it is news only on this node's own stream to it.
            Err(status) if status.code() == tonic::Code::OutOfRange => return Err(status.message().to_owned()),
            Err(status) => {
                tracing::debug!(peer = %from, "incoming stream ended: {}", status.message());
                return Ok(());
            }
        };
        if frame.echo != 0 {
            // One that finds the way back blocked is not worth waiting for: the next will measure that.
            let _ = answers.try_send(Ok(proto::Frame { echo: frame.echo, ..proto::Frame::default() }));
        }
        let messages = from_frame(frame).map_err(|error| error.to_string())?;
        let mut bytes = 0;
        for message in &messages {
            if let PeerMessage::Raft(raft) = message
                && raft.from != from
            {
                return Err(format!("it speaks for node {}", raft.from));
            }
            bytes += super::outbox::weight(message);
        }
        received.inc_by(bytes as u64);
        if !messages.is_empty() {
            host.deliver(from, messages).await;
        }
    }
}
