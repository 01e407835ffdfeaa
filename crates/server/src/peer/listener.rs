//! The accept loop of the peer port.
//!
//! A connection is looked at before HTTP/2 sees it: whoever does not begin with its preface is closed with one line in the
//! log and a count. That happens in a task of its own, and accepting waits for none of them: how many there are is a matter
//! of [`Guests`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::quorate::peer::v1::peer_server::PeerServer;
use quorate_wire::peer::MAX_FRAME_BYTES;
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_user_timeout};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use super::greeting::Guarded;
use super::guests::{Guest, Guests, Place};
use super::service::PeerService;
use super::{
    CONNECTION_WINDOW_BYTES, Host, PING_INTERVAL, PING_TIMEOUT, PROBE_INTERVAL, SILENCE_TIMEOUT, STREAM_WINDOW_BYTES,
};
use crate::metrics::Metrics;
use crate::preface::{Beginning, begin};

/// The preface must arrive in this time.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that wait for HTTP/2 to take them.
const MAX_READY: usize = 16;
/// HTTP/2 streams a connection: a stream of messages, and snapshots and questions beside it.
const MAX_STREAMS: u32 = 16;

/// Serves the peer port, with room for `guests`, until `stop` becomes true; returns when every connection is closed.
pub(crate) async fn serve(
    listener: TcpListener,
    guests: Guests,
    host: Arc<dyn Host>,
    metrics: Arc<Metrics>,
    stop: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let (checked, incoming) = mpsc::channel(MAX_READY);
    // In this task and no other: when it ends, or is ended, the port is free at once.
    let accepting = async {
        tokio::select! {
            () = accept(listener, guests, checked, Arc::clone(&metrics)) => {}
            () = stopped(stop.clone()) => {}
        }
    };
    let service = PeerServer::new(PeerService::new(host, Arc::clone(&metrics), stop.clone()))
        .max_decoding_message_size(MAX_FRAME_BYTES)
        .max_encoding_message_size(MAX_FRAME_BYTES);
    let serving = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .http2_max_pending_accept_reset_streams(Some(20))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(Guarded(service))
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopped(stop.clone()));
    tokio::join!(serving, accepting).0
}

/// Resolves when `stop` becomes true or nobody is left to say so.
pub(super) async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn accept(
    listener: TcpListener,
    guests: Guests,
    checked: mpsc::Sender<io::Result<Guest>>,
    metrics: Arc<Metrics>,
) {
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: the port must come back when some are free again.
                tracing::warn!("peer port cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Err(error) = notice_silence(&stream) {
            tracing::warn!(%from, "peer port: a peer that vanishes will be noticed late: {error}");
        }
        let (place, leave) = guests.enter(from);
        let checked = checked.clone();
        let metrics = Arc::clone(&metrics);
        tokio::spawn(async move {
            match look_at(stream, from, place, leave).await {
                // A closed channel is a stopped server: the connection is dropped like all others.
                Ok(guest) => drop(checked.send(Ok(guest)).await),
                Err(reason) => metrics.network.peer_refused_total.with_label_values(&[reason]).inc(),
            }
        });
    }
}

/// Lets TCP end a connection whose other end vanished, and hold no answer back.
fn notice_silence(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    set_socket_keepalive(stream, true)?;
    set_tcp_keepidle(stream, PROBE_INTERVAL)?;
    set_tcp_keepintvl(stream, PROBE_INTERVAL)?;
    set_tcp_user_timeout(stream, u32::try_from(SILENCE_TIMEOUT.as_millis()).expect("a few seconds"))?;
    Ok(())
}

/// Waits for the first bytes; an error is the metric's label `reason`.
async fn look_at(
    stream: TcpStream,
    from: SocketAddr,
    place: Place,
    mut leave: oneshot::Receiver<()>,
) -> Result<Guest, &'static str> {
    let begun = tokio::select! {
        begun = tokio::time::timeout(PREFACE_TIMEOUT, begin(stream)) => begun,
        // No line in the log for each: they come by the thousand.
        _ = &mut leave => return Err("crowded"),
    };
    match begun {
        Ok(Ok((Beginning::Http2, stream))) => {
            place.badge().spoke();
            return Ok(Guest { stream, place, leave });
        }
        Ok(Ok((Beginning::Other, _))) => {
            tracing::warn!(%from, "peer port: refused a connection that does not speak HTTP/2");
        }
        Ok(Err(error)) => tracing::debug!(%from, "peer port: connection lost before its first bytes: {error}"),
        Err(_) => tracing::warn!(%from, "peer port: closed a connection that said nothing"),
    }
    Err("garbage")
}
