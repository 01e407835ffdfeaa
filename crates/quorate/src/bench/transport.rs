//! gRPC calls straight on HTTP/2 connections.
//!
//! Owns connections and re-dials them. Not tonic's channel: its buffer and dispatcher cost two task switches a call, which on a
//! machine shared with the servers is load the benchmark would put on what it measures. Plain TCP only.
//!
//! Invariant: a connection is dialled again by one of its callers only, however many saw it break (the generation tells).

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::SendStream;
use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tonic::{Code, Status};

use super::messages::Answers;

/// Compression flag and length before each message.
pub(super) const PREFIX: usize = 5;
/// Large enough that a stream never waits for the window in a benchmark of single keys.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// The calls a benchmark makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rpc {
    Range,
    Put,
    Txn,
    RangeStream,
    Watch,
    LeaseGrant,
    LeaseKeepAlive,
}

/// Methods in the order of [`Rpc`].
const METHODS: [&str; 7] =
    ["KV/Range", "KV/Put", "KV/Txn", "KV/RangeStream", "Watch/Watch", "Lease/LeaseGrant", "Lease/LeaseKeepAlive"];

/// One HTTP/2 connection, shared by its callers.
#[derive(Debug)]
pub(super) struct Connection {
    /// The one to prefer first.
    addresses: Vec<String>,
    /// In the order of [`Rpc`].
    methods: Vec<Uri>,
    headers: HeaderMap,
    live: Mutex<Live>,
}

#[derive(Debug, Clone)]
struct Live {
    generation: u64,
    send: SendRequest<Bytes>,
}

/// One client's hold on a connection.
#[derive(Debug)]
pub(super) struct Caller {
    connection: Arc<Connection>,
    live: Live,
}

/// How a call ended without an answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// The server said so.
    Refused(Status),
    /// The connection broke: [`Caller::reconnect`] before the next call.
    Broken(String),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CallError::Refused(status) => write!(f, "{:?}: {}", status.code(), status.message()),
            CallError::Broken(text) => write!(f, "connection lost: {text}"),
        }
    }
}

impl Connection {
    /// Dials the first of `endpoints` (HOST:PORT, an `http://` before it is allowed); the others only take its place when it
    /// is gone later. `extra` goes with every call.
    ///
    /// # Panics
    /// If there is no endpoint.
    pub(super) async fn open(
        endpoints: &[String],
        extra: Option<(&'static str, &'static str)>,
    ) -> io::Result<Arc<Connection>> {
        let addresses: Vec<String> = endpoints.iter().map(|endpoint| plain(endpoint)).collect();
        let address = &addresses[0];
        let uri = |method: &&str| {
            Uri::try_from(format!("http://{address}/etcdserverpb.{method}"))
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
        };
        let methods = METHODS.iter().map(uri).collect::<io::Result<_>>()?;
        let mut headers = call_headers();
        if let Some((name, value)) = extra {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let live = Mutex::new(Live { generation: 0, send: dial(address).await? });
        Ok(Arc::new(Connection { addresses, methods, headers, live }))
    }

    /// A hold for one more client.
    pub(super) async fn caller(self: &Arc<Self>) -> Caller {
        Caller { connection: Arc::clone(self), live: self.live.lock().await.clone() }
    }
}

impl Caller {
    /// Sends `request` and waits for the whole answer.
    pub(super) async fn call<Q: Message, A: Message + Default>(
        &self,
        method: Rpc,
        request: &Q,
    ) -> Result<A, CallError> {
        let mut send = self.live.send.clone().ready().await.map_err(broken)?;
        let (response, mut body) = send.send_request(self.head(method), false).map_err(broken)?;
        body.send_data(frame(request), true).map_err(broken)?;
        let (head, mut body) = response.await.map_err(broken)?.into_parts();
        if head.status != StatusCode::OK {
            let text = format!("HTTP status {} instead of a gRPC answer", head.status);
            return Err(CallError::Refused(Status::new(Code::Unknown, text)));
        }
        let mut message = Bytes::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(broken)?;
            let _ = body.flow_control().release_capacity(chunk.len());
            message = if message.is_empty() {
                chunk
            } else {
                let mut joined = BytesMut::from(message);
                joined.extend_from_slice(&chunk);
                joined.freeze()
            };
        }
        let trailers = body.trailers().await.map_err(broken)?;
        // An answer without a message carries its status in the headers.
        let status = trailers.as_ref().and_then(Status::from_header_map);
        match status.or_else(|| Status::from_header_map(&head.headers)) {
            Some(status) if status.code() == Code::Ok => decode(&message),
            Some(status) => Err(CallError::Refused(status)),
            None => Err(CallError::Broken("answer without a gRPC status".to_owned())),
        }
    }

    /// Sends `first` and gives what further requests go into, and the answers. Returns once the server has taken the call up.
    pub(super) async fn stream(&self, method: Rpc, first: Bytes) -> Result<(SendStream<Bytes>, Answers), CallError> {
        self.begin(method, first, false).await
    }

    /// Sends the one request of a call that may have many answers.
    pub(super) async fn ask<Q: Message>(&self, method: Rpc, request: &Q) -> Result<Answers, CallError> {
        self.begin(method, frame(request), true).await.map(|(_, answers)| answers)
    }

    async fn begin(&self, method: Rpc, first: Bytes, last: bool) -> Result<(SendStream<Bytes>, Answers), CallError> {
        let mut send = self.live.send.clone().ready().await.map_err(broken)?;
        let (response, mut requests) = send.send_request(self.head(method), false).map_err(broken)?;
        requests.send_data(first, last).map_err(broken)?;
        let (head, body) = response.await.map_err(broken)?.into_parts();
        if head.status != StatusCode::OK {
            return Err(CallError::Broken(format!("HTTP status {} instead of a gRPC answer", head.status)));
        }
        Ok((requests, Answers::new(head.headers, body)))
    }

    /// Dials again, the next endpoint if one refuses, unless another caller of this connection did since. If none answers the
    /// old connection stays, and its error meets the next call.
    pub(super) async fn reconnect(&mut self) {
        let mut live = self.connection.live.lock().await;
        if live.generation == self.live.generation {
            for address in &self.connection.addresses {
                if let Ok(send) = dial(address).await {
                    *live = Live { generation: live.generation + 1, send };
                    break;
                }
            }
        }
        self.live = live.clone();
    }

    fn head(&self, method: Rpc) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.connection.methods[method as usize].clone();
        *request.headers_mut() = self.connection.headers.clone();
        request
    }
}

/// HOST:PORT of an endpoint.
fn plain(endpoint: &str) -> String {
    endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned()
}

fn call_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, HeaderValue::from_static("quorate-bench"));
    headers
}

async fn dial(address: &str) -> io::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (send, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(stream)
        .await
        .map_err(io::Error::other)?;
    // Its error reaches every caller through the stream it waits on.
    tokio::spawn(connection);
    Ok(send)
}

/// `message` as it goes on the wire.
pub(super) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.extend_from_slice(&[0]);
    frame.extend_from_slice(&u32::try_from(length).expect("a request below 4 GiB").to_be_bytes());
    message.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}

fn decode<A: Message + Default>(frame: &Bytes) -> Result<A, CallError> {
    let malformed = |why: &str| CallError::Broken(format!("malformed answer: {why}"));
    if frame.len() < PREFIX || frame[0] != 0 {
        return Err(malformed("no uncompressed message"));
    }
    let length = u32::from_be_bytes([frame[1], frame[2], frame[3], frame[4]]) as usize;
    if frame.len() != PREFIX + length {
        return Err(malformed("not one whole message"));
    }
    A::decode(frame.slice(PREFIX..)).map_err(|error| malformed(&error.to_string()))
}

pub(super) fn broken(error: h2::Error) -> CallError {
    CallError::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use quorate_proto::etcdserverpb::PutRequest;

    use super::*;

    #[test]
    fn framed_message_decodes_to_itself() {
        let put = PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
        let decoded: PutRequest = decode(&frame(&put)).expect("a whole frame");
        assert_eq!(decoded, put);
    }

    #[test]
    fn cut_or_compressed_frame_is_refused() {
        let whole = frame(&PutRequest { key: "key".into(), ..PutRequest::default() });
        for length in 0..whole.len() {
            assert!(decode::<PutRequest>(&whole.slice(..length)).is_err(), "{length} bytes");
        }
        let mut compressed = BytesMut::from(&whole[..]);
        compressed[0] = 1;
        assert!(decode::<PutRequest>(&compressed.freeze()).is_err());
    }
}
