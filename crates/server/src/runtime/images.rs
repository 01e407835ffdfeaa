//! Images of the state on their way out and in.
//!
//! Reading, writing and verifying an image block, so they run on tokio's blocking threads, a few chunks ahead of the network.
//!
//! Invariant: the image a node installs was verified whole before consensus heard of it.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quorate_node::Input;
use quorate_raft::{LogIndex, NodeId, Term};
use quorate_store::{SnapshotError, SnapshotSink, SnapshotSource};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::core::Core;
use super::engine::Engine;
use super::incoming_image::{ImagePlace, OVERTAKEN};
use super::state_writer::StateJob;
use crate::peer::{Host as _, ImageSink, Peer, send_snapshot};

/// Chunks read ahead of the network.
const CHUNKS_AHEAD: usize = 4;

/// Reads `source`, which is the state of `engine`, chunk by chunk. A blocking thread is held only while a chunk is read: whoever
/// takes them slowly must not keep it from others.
///
/// A node that cannot read its state ends, whoever asked: a leader that only gave the image up would be asked for it again, and
/// no follower behind its log could come back as long as it leads.
pub(crate) fn chunks(
    core: Arc<Core>,
    engine: Arc<Engine>,
    mut source: SnapshotSource,
) -> mpsc::Receiver<Result<Bytes, String>> {
    let (chunks, receiver) = mpsc::channel(CHUNKS_AHEAD);
    tokio::spawn(async move {
        loop {
            let read = tokio::task::spawn_blocking(move || {
                let chunk = source.next();
                (source, chunk)
            });
            let chunk = match read.await {
                Ok((_, None)) => return,
                Ok((rest, Some(chunk))) => {
                    source = rest;
                    chunk.map_err(|error| {
                        let text = error.to_string();
                        core.give_up(&engine, error.into());
                        text
                    })
                }
                Err(interrupted) => {
                    let _ = chunks.send(Err(interrupted.to_string())).await;
                    return;
                }
            };
            let failed = chunk.is_err();
            // Nobody listens any more: the connection broke or the caller went away.
            if chunks.send(chunk).await.is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Pins the state for an image.
pub(crate) async fn open_source(core: &Arc<Core>, engine: &Arc<Engine>) -> Result<SnapshotSource, String> {
    let view = engine.view.clone();
    let opened = tokio::task::spawn_blocking(move || view.snapshot()).await.map_err(|panic| panic.to_string())?;
    opened.map_err(|error| {
        let text = error.to_string();
        if let SnapshotError::Read(error) = error {
            core.give_up(engine, error.into());
        }
        text
    })
}

/// Sends an image to `to` and tells the node how that ended.
pub(crate) async fn send(core: Arc<Core>, engine: Arc<Engine>, to: NodeId, term: Term) {
    let begun = Instant::now();
    let raft = &core.metrics.raft;
    let result = try_send(&core, &engine, to, term).await;
    match &result {
        Ok(index) => {
            tracing::info!(peer = %to, index = index.0, "snapshot sent in {:?}", begun.elapsed());
            raft.snapshots_sent_total.with_label_values(&["done"]).inc();
            raft.snapshot_send_seconds.observe(begun.elapsed().as_secs_f64());
        }
        Err(text) => {
            tracing::warn!(peer = %to, "snapshot not sent: {text}");
            raft.snapshots_sent_total.with_label_values(&["failed"]).inc();
        }
    }
    engine.tell(Input::SnapshotSent { to, result: result.map_err(|_| ()) });
}

async fn try_send(core: &Arc<Core>, engine: &Arc<Engine>, to: NodeId, term: Term) -> Result<LogIndex, String> {
    let member = engine.membership().members.get(&to).cloned().ok_or("it is no member any more")?;
    let peer = Peer { id: to, incarnation: member.incarnation };
    let hello = core.hello(peer).ok_or("this node belongs to no cluster")?;
    let source = open_source(core, engine).await?;
    let sent = core.metrics.raft.snapshot_bytes_total.with_label_values(&["sent"]);
    let chunks = chunks(Arc::clone(core), Arc::clone(engine), source);
    let sending = send_snapshot(core.dialer, &member.peer_address, &hello, term, chunks, sent);
    sending.await.map_err(|error| error.to_string())
}

/// An image on its way in.
pub(crate) struct Receiving {
    engine: Arc<Engine>,
    from: NodeId,
    term: Term,
    /// Taken while a blocking thread writes.
    sink: Option<SnapshotSink>,
    place: ImagePlace,
}

/// Begins to receive an image.
pub(crate) async fn receive(engine: Arc<Engine>, from: NodeId, term: Term) -> Result<Receiving, String> {
    let place = engine.incoming.enter(term).await?;
    let (reply, sink) = oneshot::channel();
    engine
        .state_jobs
        .send(StateJob::OpenSink { expected: engine.identity.cluster_id, reply })
        .map_err(|_| "the node stops")?;
    let sink = sink.await.map_err(|_| "the node stops")??;
    Ok(Receiving { engine, from, term, sink: Some(sink), place })
}

impl Drop for Receiving {
    fn drop(&mut self) {
        // Given up: to remove its file may take a while.
        let Some(sink) = self.sink.take() else { return };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(sink))),
            Err(_) => drop(sink),
        }
    }
}

#[tonic::async_trait]
impl ImageSink for Receiving {
    async fn write(&mut self, data: Bytes) -> Result<(), String> {
        let mut sink = self.sink.take().ok_or("the snapshot was given up")?;
        let writing = tokio::task::spawn_blocking(move || sink.push(&data).map(|()| sink));
        self.sink = Some(writing.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?);
        Ok(())
    }

    async fn overtaken(&mut self) -> String {
        self.place.overtaken().await;
        OVERTAKEN.into()
    }

    async fn finish(mut self: Box<Self>) -> Result<LogIndex, String> {
        let sink = self.sink.take().ok_or("the snapshot was given up")?;
        let verifying = tokio::task::spawn_blocking(move || sink.finish());
        let image = verifying.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let meta = image.meta();
        let index = meta.index;
        tracing::info!(peer = %self.from, index = index.0, "snapshot received");
        self.engine.state_jobs.send(StateJob::Keep { image: Box::new(image) }).map_err(|_| "the node stops")?;
        self.engine.tell(Input::SnapshotReceived { from: self.from, term: self.term, meta });
        Ok(index)
    }
}
