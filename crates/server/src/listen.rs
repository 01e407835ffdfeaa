//! One accept loop for a port that speaks HTTP/1.1 and HTTP/2 (with prior knowledge, as gRPC clients do).
//!
//! Owns connections: how many there are, how long a silent one may stay, how they end. Never looks at a request.
//! Everything past the accepted socket is generic over the stream, which is where TLS goes: a handshake between
//! `accept` and `serve_stream`, chosen by configuration, on the same port.
//!
//! etcd's clients ping each 30 s and may ping each 5 s; pings are answered at any rate, so no client is ever sent away
//! for `too_many_pings`.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tonic::codegen::{Service, http};

use crate::answers::ConnectionEnd;
use crate::counted_stream::CountedStream;
use crate::metrics::Metrics;
use crate::preface::begin;

/// Streams that a client opened and reset before they were served; with one more the connection ends (rapid reset). Far above what
/// hyper has by itself: after a pause of this process the calls that their callers gave up meanwhile come all at once.
const MAX_PENDING_RESETS: usize = 1024;
/// Streams that this end reset because of a client's errors; with one more the connection ends.
const MAX_ERROR_RESETS: usize = 1024;
/// Bytes of answers that one HTTP/2 stream may buffer while its client does not read.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Limits of one port. Each has a defined answer past it.
#[derive(Debug, Clone)]
pub struct PortLimits {
    /// Open connections; further ones are closed at once.
    pub max_connections: usize,
    /// Requests in flight on one HTTP/2 connection; the client waits before it begins another.
    pub max_streams: u32,
    /// Bytes of all headers of one HTTP/2 request; more is refused.
    pub max_header_bytes: u32,
    /// Bytes a client may send on one HTTP/2 stream, or connection, before the server has read them.
    pub window_bytes: u32,
    /// Bytes of requests that have not arrived in full, over all connections; more are refused.
    pub max_arriving_bytes: usize,
    /// How long one request may take to arrive.
    pub request_time: Duration,
    /// How long a new connection may take to show what it speaks, and an HTTP/1.1 one for the headers of a request.
    pub silence: Duration,
    /// A quiet HTTP/2 connection is pinged this often,
    pub ping_interval: Duration,
    /// and closed if no answer came within this time.
    pub ping_timeout: Duration,
    /// Requests in flight have this long to end once the port is told to stop.
    pub drain: Duration,
}

impl Default for PortLimits {
    fn default() -> Self {
        PortLimits {
            max_connections: 20_000,
            max_streams: 8192,
            max_header_bytes: 64 * 1024,
            window_bytes: 1024 * 1024,
            max_arriving_bytes: 256 << 20,
            request_time: Duration::from_secs(30),
            silence: Duration::from_secs(30),
            ping_interval: Duration::from_secs(60),
            ping_timeout: Duration::from_secs(20),
            drain: Duration::from_secs(5),
        }
    }
}

/// What a port is told while it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortOrder {
    /// Serve.
    Serve,
    /// Serve on, but ask everybody who is connected now to connect again, perhaps to another node. Each order with
    /// another number is obeyed once.
    Reconnect(u64),
    /// Take no new connections, and end when the requests in flight have ended, or after [`PortLimits::drain`].
    Stop,
}

/// Accepts connections and serves each with what `service_of` makes for it, as `orders` say.
pub async fn serve<S, B>(
    listener: TcpListener,
    service_of: impl Fn(ConnectionEnd) -> S,
    limits: PortLimits,
    metrics: Arc<Metrics>,
    mut orders: watch::Receiver<PortOrder>,
) where
    S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let builder = Arc::new(connection_builder(&limits));
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let mut connected = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            changed = orders.changed() => match (changed, *orders.borrow_and_update()) {
                // Whoever gave orders is gone, and with it the node.
                (Err(_), _) | (Ok(()), PortOrder::Stop) => break,
                (Ok(()), PortOrder::Serve) => continue,
                (Ok(()), PortOrder::Reconnect(_)) => {
                    tokio::spawn(std::mem::take(&mut connected).shutdown());
                    continue;
                }
            },
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause_after_accept_error(&error).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            metrics.network.client_connections_refused_total.inc();
            continue;
        };
        // Answers are small and latency is the product: never wait for a fuller packet. An error means that the client
        // is gone already, which serving finds out by itself.
        let _ = stream.set_nodelay(true);
        let end = ConnectionEnd::default();
        let (builder, service, watcher) = (Arc::clone(&builder), service_of(end.clone()), connected.watcher());
        let (metrics, silence) = (Arc::clone(&metrics), limits.silence);
        tokio::spawn(async move {
            metrics.network.client_connections.inc();
            // Without this a connection that never speaks, or stops in the middle of its preface, would hold its slot for
            // ever: no other timer runs before the protocol is known.
            if let Ok(Ok((_, stream))) = tokio::time::timeout(silence, begin(stream)).await {
                let stream = CountedStream::new(stream, Arc::clone(&metrics));
                tokio::select! {
                    () = serve_stream(stream, service, &builder, watcher) => {}
                    () = end.ended() => metrics.network.client_connections_ended_total.inc(),
                }
            }
            metrics.network.client_connections.dec();
            drop(slot);
        });
    }
    drop(listener);
    // Past the deadline the runtime's end closes what is left.
    let _ = tokio::time::timeout(limits.drain, connected.shutdown()).await;
}

/// Serves one connection to its end, whatever carries it.
async fn serve_stream<I, S, B>(stream: I, service: S, builder: &Builder<TokioExecutor>, watcher: Watcher)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a client connection ended");
    }
}

fn connection_builder(limits: &PortLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.silence);
    builder
        .http2()
        .timer(TokioTimer::new())
        // gRPC has no use for a date, and a header that changes each second is encoded anew in every answer.
        .auto_date_header(false)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(limits.max_header_bytes)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .initial_stream_window_size(limits.window_bytes)
        .initial_connection_window_size(limits.window_bytes)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_timeout);
    builder
}

/// A client that is gone before it was accepted is no reason to wait; a lack of descriptors or memory is, or the loop
/// would spin.
async fn pause_after_accept_error(error: &io::Error) {
    let of_client = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    );
    if !of_client {
        tracing::warn!(%error, "cannot accept connections for the moment");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// A port that says hello.
    async fn port(limits: PortLimits) -> (SocketAddr, watch::Sender<PortOrder>, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (orders, receiver) = watch::channel(PortOrder::Serve);
        let service = Router::new().route("/", get(|| async { "hello" }));
        let port = tokio::spawn(serve(listener, move |_| service.clone(), limits, Arc::new(Metrics::new()), receiver));
        (address, orders, port)
    }

    /// One request on a connection that stays open.
    async fn ask(stream: &mut TcpStream) {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            let mut part = [0; 512];
            let read = stream.read(&mut part).await.expect("an answer");
            assert!(read > 0, "closed in the middle of an answer");
            answer.extend_from_slice(&part[..read]);
        }
    }

    async fn is_closed(stream: &mut TcpStream) -> bool {
        matches!(stream.read(&mut [0; 16]).await, Ok(0) | Err(_))
    }

    #[tokio::test]
    async fn connections_past_the_limit_are_closed_at_once_and_a_freed_slot_is_used_again() {
        let (address, _orders, _port) = port(PortLimits { max_connections: 1, ..PortLimits::default() }).await;
        let mut first = TcpStream::connect(address).await.expect("connected");
        ask(&mut first).await;
        assert!(is_closed(&mut TcpStream::connect(address).await.expect("connected")).await);
        drop(first);
        loop {
            let mut next = TcpStream::connect(address).await.expect("connected");
            if next.write_all(b"GET / HTTP/1.0\r\n\r\n").await.is_ok() && !is_closed(&mut next).await {
                break;
            }
        }
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_is_closed() {
        let silence = Duration::from_millis(10);
        let (address, _orders, _port) = port(PortLimits { silence, ..PortLimits::default() }).await;
        assert!(is_closed(&mut TcpStream::connect(address).await.expect("connected")).await);
    }

    #[tokio::test]
    async fn a_connection_that_stops_in_the_middle_of_its_first_words_is_closed() {
        let silence = Duration::from_millis(10);
        let (address, _orders, _port) = port(PortLimits { silence, ..PortLimits::default() }).await;
        for words in [&b"P"[..], b"PRI", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", b"GET / HT", b"POST / HTTP/1.1\r\nhost: t"]
        {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            stream.write_all(words).await.expect("sent");
            let closed = tokio::time::timeout(Duration::from_secs(30), is_closed(&mut stream)).await;
            assert_eq!(closed, Ok(true), "{}", String::from_utf8_lossy(words));
        }
    }

    #[tokio::test]
    async fn everybody_connected_is_asked_to_reconnect_and_may() {
        let (address, orders, _port) = port(PortLimits::default()).await;
        let mut before = TcpStream::connect(address).await.expect("connected");
        ask(&mut before).await;
        orders.send(PortOrder::Reconnect(1)).expect("serves");
        assert!(is_closed(&mut before).await);
        ask(&mut TcpStream::connect(address).await.expect("connected")).await;
    }

    #[tokio::test]
    async fn a_stopped_port_ends_with_its_connections() {
        let (address, orders, port) = port(PortLimits::default()).await;
        let mut idle = TcpStream::connect(address).await.expect("connected");
        ask(&mut idle).await;
        orders.send(PortOrder::Stop).expect("serves");
        assert!(is_closed(&mut idle).await);
        port.await.expect("ends");
        assert!(TcpStream::connect(address).await.is_err());
    }
}
