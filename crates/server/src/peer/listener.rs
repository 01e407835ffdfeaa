//! The accept loop of the peer port.
//!
//! A connection is looked at before HTTP/2 sees it: whoever does not begin with its preface is closed with one line in the
//! log and a count. Reading the preface happens in a task of its own, so a silent connection delays nobody.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::quorate::peer::v1::peer_server::PeerServer;
use quorate_wire::peer::MAX_FRAME_BYTES;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use super::service::PeerService;
use super::{Host, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};
use crate::metrics::Metrics;

/// What every HTTP/2 connection with prior knowledge begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The preface must arrive in this time.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections whose preface is awaited at once; more wait in the kernel's queue.
const MAX_PENDING: usize = 64;
/// HTTP/2 streams a connection: a stream of messages, and snapshots and questions beside it.
const MAX_STREAMS: u32 = 16;
const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// Serves the peer port until `stop` becomes true; returns when every connection is closed.
pub(crate) async fn serve(
    listener: TcpListener,
    host: Arc<dyn Host>,
    metrics: Arc<Metrics>,
    stop: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let (checked, incoming) = mpsc::channel(MAX_PENDING);
    // In this task and no other: when it ends, or is ended, the port is free at once.
    let accepting = async {
        tokio::select! {
            () = accept(listener, checked, Arc::clone(&metrics)) => {}
            () = stopped(stop.clone()) => {}
        }
    };
    let service = PeerServer::new(PeerService::new(host, Arc::clone(&metrics), stop.clone()))
        .max_decoding_message_size(MAX_FRAME_BYTES)
        .max_encoding_message_size(MAX_FRAME_BYTES);
    let serving = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_pending_accept_reset_streams(Some(20))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(service)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopped(stop.clone()));
    tokio::join!(serving, accepting).0
}

/// Resolves when `stop` becomes true or nobody is left to say so.
pub(super) async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn accept(listener: TcpListener, checked: mpsc::Sender<io::Result<TcpStream>>, metrics: Arc<Metrics>) {
    let pending = Arc::new(Semaphore::new(MAX_PENDING));
    loop {
        let permit = Arc::clone(&pending).acquire_owned().await;
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: the port must come back when some are free again.
                tracing::warn!("peer port cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let checked = checked.clone();
        let metrics = Arc::clone(&metrics);
        tokio::spawn(async move {
            let _permit = permit;
            let verdict = tokio::time::timeout(PREFACE_TIMEOUT, speaks_http2(&stream)).await;
            match verdict {
                Ok(Ok(true)) => {
                    if stream.set_nodelay(true).is_ok() {
                        // A closed channel is a stopped server: the connection is dropped like all others.
                        let _ = checked.send(Ok(stream)).await;
                    }
                    return;
                }
                Ok(Ok(false)) => tracing::warn!(%from, "peer port: refused a connection that does not speak HTTP/2"),
                Ok(Err(error)) => tracing::debug!(%from, "peer port: connection lost before its first bytes: {error}"),
                Err(_) => tracing::warn!(%from, "peer port: closed a connection that said nothing"),
            }
            metrics.network.peer_refused_total.with_label_values(&["garbage"]).inc();
        });
    }
}

/// Looks at the first bytes without taking them.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut seen = [0; PREFACE.len()];
    loop {
        let length = stream.peek(&mut seen).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if seen[..length] != PREFACE[..length] {
            return Ok(false);
        }
        if length == PREFACE.len() {
            return Ok(true);
        }
        // `peek` returns at once while a part of the preface is there: wait for the rest without spinning.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
