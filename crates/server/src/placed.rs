//! A stream of answers that has a place among a limited number of its kind, and a client that must take it in time.
//!
//! Never reads what is streamed.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::Stream;
use tonic::Status;

use crate::answers::{ConnectionEnd, SendTime};

/// Messages of one stream that wait for their client. The next is read only when there is room.
const AHEAD: usize = 1;

/// What the client receives. The place is free again when the last message has left, or the client.
#[derive(Debug)]
pub(crate) struct Placed<T> {
    messages: mpsc::Receiver<Result<T, Status>>,
    _place: OwnedSemaphorePermit,
}

/// Where the messages come from.
#[derive(Debug)]
pub(crate) struct PlacedSender<T> {
    messages: mpsc::Sender<Result<T, Status>>,
    send_time: SendTime,
}

/// A stream in `place`. A client that takes longer than `time` for one message loses its connection.
pub(crate) fn placed<T>(
    place: OwnedSemaphorePermit,
    time: Duration,
    connection: ConnectionEnd,
) -> (PlacedSender<T>, Placed<T>) {
    let (sender, receiver) = mpsc::channel(AHEAD);
    (
        PlacedSender { messages: sender, send_time: SendTime { time, connection } },
        Placed { messages: receiver, _place: place },
    )
}

impl<T> PlacedSender<T> {
    /// Waits until there is room; whether there may be another.
    pub(crate) async fn send(&self, message: Result<T, Status>) -> bool {
        let is_last = message.is_err();
        self.send_time.send(&self.messages, message).await && !is_last
    }
}

impl<T> Stream for Placed<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.messages.poll_recv(cx)
    }
}
