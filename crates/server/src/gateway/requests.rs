//! The messages of a call on their way from an HTTP body: all at once where the body's length is told, and otherwise, for
//! methods that take a stream of them, each as soon as it has come.
//!
//! A body of known length is judged as a whole: of one that cannot be read nothing is done. A client that sends its requests
//! as they come to its mind gets answers meanwhile; it learns of a bad one by the end of its call.

use axum::body::{Body, BodyDataStream, HttpBody};
use bytes::{Bytes, BytesMut};
use prost_reflect::MethodDescriptor;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tonic::Status;

use super::json;
use crate::json_framing::JsonFraming;

/// Messages that wait for the method to take them.
const AHEAD: usize = 16;

/// Messages, or what is wrong with the one that would be next.
pub(super) type Requests = mpsc::Receiver<Result<Bytes, Status>>;

/// The messages for `method` in `body`, none of which may take more than `max_bytes`.
///
/// # Errors
/// What is wrong with a body that is judged as a whole.
pub(super) async fn requests(method: &MethodDescriptor, body: Body, max_bytes: usize) -> Result<Requests, Status> {
    if come_one_by_one(method.is_client_streaming(), &body) {
        let (messages, requests) = mpsc::channel(AHEAD);
        let arriving = Arriving { method: method.clone(), body: body.into_data_stream(), messages, max_bytes };
        tokio::spawn(arriving.pass_on());
        return Ok(requests);
    }
    let body = axum::body::to_bytes(body, max_bytes).await.map_err(|error| unreadable(&error))?;
    let whole = json::decode(method, &body).map_err(Status::invalid_argument)?;
    let (messages, requests) = mpsc::channel(whole.len().max(1));
    for message in whole {
        messages.try_send(Ok(message)).expect("there is room for every message");
    }
    Ok(requests)
}

/// Whether the messages of a body are taken as they come, by whether its method takes a stream of them.
pub(super) fn come_one_by_one(to_stream: bool, body: &impl HttpBody) -> bool {
    to_stream && body.size_hint().exact().is_none()
}

struct Arriving {
    method: MethodDescriptor,
    body: BodyDataStream,
    messages: mpsc::Sender<Result<Bytes, Status>>,
    max_bytes: usize,
}

impl Arriving {
    /// Until the client has asked for all that it wants, or the call is over.
    async fn pass_on(mut self) {
        if let Err(status) = self.pass_on_all().await {
            // Nobody may be left to be told.
            let _ = self.messages.send(Err(status)).await;
        }
    }

    async fn pass_on_all(&mut self) -> Result<(), Status> {
        let (mut framing, mut value) = (JsonFraming::default(), BytesMut::new());
        loop {
            let part = tokio::select! {
                part = self.body.next() => part,
                () = self.messages.closed() => return Ok(()),
            };
            let Some(part) = part else { break };
            let mut part = part.map_err(|error| unreadable(&error))?;
            while let Some(end) = framing.next_end(&part) {
                value.extend_from_slice(&part.split_to(end));
                self.send(&value).await?;
                value.clear();
            }
            value.extend_from_slice(&part);
            if framing.unfinished() == 0 {
                value.clear();
            }
            if value.len() > self.max_bytes {
                return Err(unreadable(&format_args!("a message is larger than {} bytes", self.max_bytes)));
            }
        }
        if framing.unfinished() > 0 { self.send(&value).await } else { Ok(()) }
    }

    async fn send(&mut self, value: &[u8]) -> Result<(), Status> {
        for message in json::decode(&self.method, value).map_err(Status::invalid_argument)? {
            // The call is over: the next look at the body ends this.
            let _ = self.messages.send(Ok(message)).await;
        }
        Ok(())
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Status {
    Status::invalid_argument(format!("the request cannot be read: {error}"))
}
