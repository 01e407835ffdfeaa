//! Messages waiting for one peer, and the request stream that empties the queue into frames.
//!
//! The stream is polled by HTTP/2 flow control, so a slow peer leaves its messages in the queue, where they are bounded;
//! nothing waits for it.
//!
//! Invariants: messages leave in the order they came; past a bound the oldest go first, because newer ones of consensus
//! replace them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use prometheus::IntCounter;
use quorate_proto::quorate::peer::v1 as proto;
use quorate_raft::Body;
use quorate_wire::PeerMessage;
use quorate_wire::peer::{Hello, MAX_FRAME_MESSAGES};
use tokio_stream::Stream;

use super::{FRAME_TARGET_BYTES, MAX_QUEUED_BYTES, MAX_QUEUED_MESSAGES, MAX_UNCONNECTED_MESSAGES};

/// Bytes any message costs besides its payload.
const MESSAGE_BASE_BYTES: usize = 64;

/// The queue of one peer.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<PeerMessage>,
    bytes: usize,
    /// The stream that may empty the queue; a new one replaces it. 0 = none is open.
    stream: u64,
    /// Numbers streams.
    opened: u64,
    waker: Option<Waker>,
    /// Number for the peer to send back with the next frame; 0 = none.
    echo: u64,
}

/// What became of a pushed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits for the stream.
    Queued,
    /// It waits, and older ones were dropped for it.
    DroppedOlder,
}

impl Outbox {
    /// Queues messages in order.
    pub(crate) fn push(&self, messages: impl IntoIterator<Item = PeerMessage>) -> Pushed {
        let mut queue = self.lock();
        for message in messages {
            queue.bytes += weight(&message);
            queue.messages.push_back(message);
        }
        let limit = if queue.stream == 0 { MAX_UNCONNECTED_MESSAGES } else { MAX_QUEUED_MESSAGES };
        let mut pushed = Pushed::Queued;
        while queue.messages.len() > limit || (queue.bytes > MAX_QUEUED_BYTES && queue.messages.len() > 1) {
            let oldest = queue.messages.pop_front().expect("the queue is longer than its limit");
            queue.bytes -= weight(&oldest);
            pushed = Pushed::DroppedOlder;
        }
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
        pushed
    }

    /// Asks the peer to send `number` back as soon as it has read what is queued before.
    pub(crate) fn ask_echo(&self, number: u64) {
        let mut queue = self.lock();
        queue.echo = number;
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Opens the stream of a new connection, which greets first. A stream opened before ends.
    pub(crate) fn open(self: &Arc<Self>, hello: &Hello, sent_bytes: IntCounter) -> Frames {
        let mut queue = self.lock();
        queue.opened += 1;
        queue.stream = queue.opened;
        let stream = queue.stream;
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
        Frames { outbox: Arc::clone(self), stream, hello: Some(quorate_wire::peer::hello_frame(hello)), sent_bytes }
    }

    /// Ends whichever stream is open and forgets what it would have sent.
    pub(crate) fn close(&self) {
        let mut queue = self.lock();
        queue.stream = 0;
        queue.messages.clear();
        queue.bytes = 0;
        queue.echo = 0;
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Every change of the queue leaves it whole, so a panic elsewhere cannot have broken it.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn take_frame(&mut self) -> (Vec<PeerMessage>, usize) {
        let mut bytes = 0;
        let mut count = 0;
        for message in self.messages.iter().take(MAX_FRAME_MESSAGES) {
            if bytes >= FRAME_TARGET_BYTES {
                break;
            }
            bytes += weight(message);
            count += 1;
        }
        self.bytes -= bytes;
        (self.messages.drain(..count).collect(), bytes)
    }
}

/// The frames of one stream: first the greeting, then whatever is queued whenever the connection has room.
#[derive(Debug)]
pub(crate) struct Frames {
    outbox: Arc<Outbox>,
    stream: u64,
    hello: Option<proto::Frame>,
    sent_bytes: IntCounter,
}

impl Stream for Frames {
    type Item = proto::Frame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<proto::Frame>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(hello));
        }
        let mut queue = self.outbox.lock();
        if queue.stream != self.stream {
            return Poll::Ready(None);
        }
        if queue.messages.is_empty() && queue.echo == 0 {
            queue.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let (messages, bytes) = queue.take_frame();
        // With what was queued before it, so only with the last of it.
        let echo = if queue.messages.is_empty() { std::mem::take(&mut queue.echo) } else { 0 };
        drop(queue);
        self.sent_bytes.inc_by(bytes as u64);
        Poll::Ready(Some(proto::Frame { echo, ..quorate_wire::peer::to_frame(&messages) }))
    }
}

/// What a message counts against the limits, in bytes; close to its encoded size, and cheap to know.
pub(crate) fn weight(message: &PeerMessage) -> usize {
    MESSAGE_BASE_BYTES
        + match message {
            PeerMessage::Raft(message) => match &message.body {
                Body::Append { entries, .. } => entries.iter().map(quorate_raft::Entry::size).sum(),
                _ => 0,
            },
            PeerMessage::Forward(forward) => forward.writes.iter().map(|(_, envelope)| envelope.len()).sum(),
            _ => 0,
        }
}
