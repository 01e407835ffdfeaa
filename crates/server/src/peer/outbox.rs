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

#[cfg(test)]
mod tests {
    use quorate_raft::{Entry, Incarnation, LogIndex, Member, Message, NodeId, Payload, Round, Term};
    use quorate_wire::peer::from_frame;
    use tokio_stream::StreamExt as _;

    use super::*;

    const MEBIBYTE: usize = 1024 * 1024;

    /// An append of one entry of so many bytes, told from others by its term.
    fn message(term: u64, bytes: usize) -> PeerMessage {
        let payload = Payload::Command(vec![0; bytes].into());
        PeerMessage::Raft(Message {
            from: NodeId(1),
            to: NodeId(2),
            term: Term(term),
            body: Body::Append {
                round: Round(1),
                prev_index: LogIndex(0),
                prev_term: Term(0),
                entries: vec![Entry { term: Term(1), index: LogIndex(1), payload }],
                commit: LogIndex(0),
                echo: None,
            },
        })
    }

    fn term(message: &PeerMessage) -> u64 {
        match message {
            PeerMessage::Raft(message) => message.term.0,
            other => panic!("nobody queued {other:?}"),
        }
    }

    /// The terms of what waits.
    fn waiting(outbox: &Outbox) -> Vec<u64> {
        let queue = outbox.lock();
        assert_eq!(queue.bytes, queue.messages.iter().map(weight).sum::<usize>(), "the bytes are those of what waits");
        queue.messages.iter().map(term).collect()
    }

    fn open(outbox: &Arc<Outbox>) -> Frames {
        let hello = Hello {
            cluster_id: 1,
            from: NodeId(1),
            member: Member::default(),
            to: NodeId(2),
            to_incarnation: Incarnation(2),
            format_version: 1,
            refused: None,
        };
        outbox.open(&hello, IntCounter::new("sent", "sent").expect("a sound name"))
    }

    #[test]
    fn without_a_stream_the_newest_few_wait() {
        let outbox = Outbox::default();
        let limit = MAX_UNCONNECTED_MESSAGES as u64;
        assert_eq!(outbox.push((1..=limit).map(|term| message(term, 0))), Pushed::Queued);
        assert_eq!(outbox.push([message(limit + 1, 0)]), Pushed::DroppedOlder);
        assert_eq!(waiting(&outbox), (2..=limit + 1).collect::<Vec<_>>());
    }

    #[test]
    fn with_a_stream_more_wait_up_to_a_count() {
        let outbox = Arc::default();
        let _frames = open(&outbox);
        let limit = MAX_QUEUED_MESSAGES as u64;
        assert_eq!(outbox.push((1..=limit).map(|term| message(term, 0))), Pushed::Queued);
        assert_eq!(outbox.push([message(limit + 1, 0)]), Pushed::DroppedOlder);
        assert_eq!(waiting(&outbox), (2..=limit + 1).collect::<Vec<_>>());
        outbox.close();
        assert_eq!(waiting(&outbox), [0; 0], "what was for a lost connection is not for the next one");
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_but_for_one_message() {
        let outbox = Arc::default();
        let _frames = open(&outbox);
        let third = MAX_QUEUED_BYTES / 3 - MEBIBYTE;
        assert_eq!(outbox.push((1..=3).map(|term| message(term, third))), Pushed::Queued);
        assert_eq!(outbox.push([message(4, third)]), Pushed::DroppedOlder);
        assert_eq!(waiting(&outbox), [2, 3, 4]);
        assert_eq!(outbox.push([message(5, MAX_QUEUED_BYTES)]), Pushed::DroppedOlder);
        assert_eq!(waiting(&outbox), [5], "one that is larger than everything else may be is still sent");
    }

    #[tokio::test]
    async fn a_frame_ends_at_its_size_and_an_echo_comes_with_the_last() {
        let outbox = Arc::default();
        let mut frames = open(&outbox);
        assert!(frames.next().await.expect("a greeting").hello.is_some());
        outbox.push((1..=3).map(|term| message(term, FRAME_TARGET_BYTES / 2)));
        outbox.ask_echo(7);
        let mut seen = Vec::new();
        for _ in 0..2 {
            let frame = frames.next().await.expect("open");
            let echo = frame.echo;
            let terms = from_frame(frame).expect("sound").iter().map(term).collect::<Vec<_>>();
            seen.push((terms, echo));
        }
        assert_eq!(seen, [(vec![1, 2], 0), (vec![3], 7)]);
        assert_eq!(waiting(&outbox), [0; 0]);
    }

    #[tokio::test]
    async fn a_new_stream_takes_over_what_waits() {
        let outbox = Arc::default();
        let mut old = open(&outbox);
        assert!(old.next().await.expect("a greeting").hello.is_some());
        let mut new = open(&outbox);
        outbox.push([message(1, 0)]);
        assert!(old.next().await.is_none(), "two streams would send out of order");
        assert!(new.next().await.expect("a greeting").hello.is_some());
        assert_eq!(new.next().await.expect("open").messages.len(), 1);
    }
}
