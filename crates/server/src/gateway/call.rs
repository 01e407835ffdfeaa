//! One gRPC call by bytes: frames out, frames in, the status at the end.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hyper::body::Body as _;
use prost_reflect::MethodDescriptor;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::codegen::http::{HeaderMap, HeaderName, Request, header, request};
use tonic::{Code, Status};

use super::requests::Requests;
use crate::answers::{ConnectionEnd, HeldAnswer};
use crate::gate::Gate;
use crate::inside::Inside;
use crate::metrics::MethodKind;

/// Flag byte and length of a frame.
const FRAME_HEADER: usize = 5;
/// Headers of this form are metadata of the call, as for etcd's gateway.
const METADATA: &str = "grpc-metadata-";

/// Sends `requests` to `method`, as whoever sent `head` and on the connection it came by.
///
/// # Errors
/// The status of a call that is refused at once.
pub(super) async fn call(
    mut inside: Inside,
    gate: &Gate,
    method: &MethodDescriptor,
    requests: Requests,
    head: &request::Parts,
) -> Result<Answers, Status> {
    let metadata = metadata(&head.headers);
    let is_stream = method.is_client_streaming() || method.is_server_streaming();
    gate.admit(&metadata, if is_stream { MethodKind::Stream } else { MethodKind::Unary })?;
    let frames = ReceiverStream::new(requests).map(|message| message.map(|message| frame(&message)));
    let body = Body::new(axum::body::Body::from_stream(frames));
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let mut request = Request::post(path).body(body).expect("a name of a method is a path");
    *request.headers_mut() = metadata;
    if let Some(connection) = head.extensions.get::<ConnectionEnd>() {
        request.extensions_mut().insert(connection.clone());
    }
    let mut response = inside.call(request).await.unwrap_or_else(|never| match never {});
    if let Some(status) = Status::from_header_map(response.headers())
        && status.code() != Code::Ok
    {
        return Err(status);
    }
    let held = response.extensions_mut().remove();
    Ok(Answers { body: response.into_body(), buffer: BytesMut::new(), held })
}

fn frame(message: &Bytes) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME_HEADER + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a body is far smaller"));
    frame.put_slice(message);
    frame.freeze()
}

/// What of an HTTP request's headers is metadata: who asks, and how a read is to be made.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let text = name.as_str();
        let bare = text.strip_prefix(METADATA).unwrap_or(text);
        let passes = bare.len() < text.len() || *name == header::AUTHORIZATION || text.starts_with("quorate-");
        if let (true, Ok(name)) = (passes, HeaderName::try_from(bare)) {
            metadata.append(name, value.clone());
        }
    }
    metadata.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
    metadata.insert(header::TE, header::HeaderValue::from_static("trailers"));
    metadata
}

/// The messages that come back.
#[derive(Debug)]
pub(super) struct Answers {
    body: Body,
    buffer: BytesMut,
    /// The memory that a large answer takes: to be kept until what is made of it is sent.
    pub(super) held: Option<HeldAnswer>,
}

impl Answers {
    /// The next one; `None` after the last of a call that succeeded.
    ///
    /// # Errors
    /// The status of a call that did not.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.whole_message() {
                return Ok(Some(message));
            }
            let Some(frame) = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await else { return Ok(None) };
            match frame?.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    let status = frame.trailers_ref().and_then(Status::from_header_map);
                    return match status.filter(|status| status.code() != Code::Ok) {
                        Some(status) => Err(status),
                        None => Ok(None),
                    };
                }
            }
        }
    }

    fn whole_message(&mut self) -> Option<Bytes> {
        let length = self.buffer.get(1..FRAME_HEADER)?;
        let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
        if self.buffer.len() < FRAME_HEADER + length {
            return None;
        }
        self.buffer.advance(FRAME_HEADER);
        Some(self.buffer.split_to(length).freeze())
    }
}
