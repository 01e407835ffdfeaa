//! How much memory large answers may take, all of them together, from reading their records to the last byte sent.
//!
//! Owns the budget and the claims on it. A small answer claims nothing; it is bounded by the streams of a connection. A
//! larger one claims as it reads. When nothing is left it gives back what it has, waits for its turn with nothing in
//! hand (so that no two readers wait for each other), and reads again with twice as much. The claim travels with the
//! answer's bytes and ends with them; a client that does not take them in time loses its connection, because there is no
//! other way to get the memory back.
//!
//! Never knows what is read.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

/// Answers up to this size are not counted.
pub(crate) const UNCOUNTED_BYTES: usize = 16 * 1024;
/// The budget is counted in pieces of this size.
const PIECE_BYTES: usize = 1024;

/// Limits of answers.
#[derive(Debug, Clone)]
pub struct AnswerLimits {
    /// Memory that the records of all large answers of this node may take at one time. Encoding takes as much again for
    /// values below 16 KiB; larger ones are sent as they were read.
    pub max_bytes: usize,
    /// How long a read waits for others to end before it is refused.
    pub wait: Duration,
    /// How long a client may take to receive a large answer, or one chunk of a stream.
    pub send_time: Duration,
    /// Streamed ranges under way.
    pub max_streams: usize,
    /// Images of the state that clients download at one time.
    pub max_downloads: usize,
}

impl Default for AnswerLimits {
    fn default() -> Self {
        AnswerLimits {
            max_bytes: 256 << 20,
            wait: Duration::from_secs(5),
            send_time: Duration::from_secs(120),
            max_streams: 256,
            max_downloads: 4,
        }
    }
}

/// Why there is no room for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoRoom {
    /// It is larger than everything there is.
    #[error(
        "the answer is larger than the {0} bytes that answers may take on this node: ask for a part of it with limit, or \
         for all of it with RangeStream"
    )]
    TooLarge(usize),
    /// As many are streamed as may be.
    #[error("{0} ranges are being streamed already: try again later")]
    TooManyStreams(usize),
    /// As many images are on their way as may be.
    #[error("{0} snapshots are being downloaded already: try again later")]
    TooManyDownloads(usize),
    /// Others did not end in time.
    #[error("too many large answers are under way: try again, or ask for less with limit or with RangeStream")]
    Busy,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct AnswerBudget {
    pieces: Arc<Semaphore>,
    total: usize,
    wait: Duration,
}

impl AnswerBudget {
    pub(crate) fn new(limits: &AnswerLimits) -> Arc<AnswerBudget> {
        // A semaphore gives out claims by 32-bit numbers.
        let total = pieces(limits.max_bytes).min(u32::MAX as usize >> 1);
        Arc::new(AnswerBudget { pieces: Arc::new(Semaphore::new(total)), total, wait: limits.wait })
    }

    /// A claim for an answer of unknown size: it grows while there is room.
    pub(crate) fn open(self: &Arc<Self>) -> Claim {
        Claim { budget: Arc::clone(self), bytes: Cell::new(0), pieces: RefCell::new(None) }
    }

    /// A claim for an answer that was found to have more than `bytes`, once there is room for twice as many.
    pub(crate) async fn wait_for(self: &Arc<Self>, bytes: usize) -> Result<Claim, NoRoom> {
        if pieces(bytes) > self.total {
            return Err(NoRoom::TooLarge(self.total * PIECE_BYTES));
        }
        let wanted = pieces(2 * bytes).min(self.total);
        let turn = Arc::clone(&self.pieces).acquire_many_owned(as_permits(wanted));
        let claimed = tokio::time::timeout(self.wait, turn).await.map_err(|_| NoRoom::Busy)?;
        let claimed = claimed.expect("the budget is never closed");
        Ok(Claim { budget: Arc::clone(self), bytes: Cell::new(0), pieces: RefCell::new(Some(claimed)) })
    }

    /// Bytes that nobody has claimed.
    #[cfg(test)]
    fn free(&self) -> usize {
        self.pieces.available_permits() * PIECE_BYTES
    }
}

/// What one answer holds of the budget while it is read.
#[derive(Debug)]
pub(crate) struct Claim {
    budget: Arc<AnswerBudget>,
    bytes: Cell<usize>,
    pieces: RefCell<Option<OwnedSemaphorePermit>>,
}

impl Claim {
    /// Whether the answer may have `more` bytes.
    pub(crate) fn take(&self, more: usize) -> bool {
        let bytes = self.bytes.get() + more;
        self.bytes.set(bytes);
        let mut claimed = self.pieces.borrow_mut();
        let have = claimed.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let needed = pieces(bytes);
        if bytes <= UNCOUNTED_BYTES || needed <= have {
            return true;
        }
        let grown = needed.max(2 * have).min(self.budget.total.max(needed));
        let more = [grown, needed]
            .into_iter()
            .find_map(|goal| Arc::clone(&self.budget.pieces).try_acquire_many_owned(as_permits(goal - have)).ok());
        match (more, claimed.as_mut()) {
            (None, _) => return false,
            (Some(more), Some(claimed)) => claimed.merge(more),
            (Some(more), None) => *claimed = Some(more),
        }
        true
    }

    /// Bytes asked for so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// The answer is made: what was claimed in advance goes back, the rest stays until the answer is sent.
    pub(crate) fn keep(self) -> Option<HeldAnswer> {
        let mut claimed = self.pieces.into_inner()?;
        if self.bytes.get() <= UNCOUNTED_BYTES {
            return None;
        }
        let surplus = claimed.num_permits() - pieces(self.bytes.get());
        drop(claimed.split(surplus));
        Some(HeldAnswer { _pieces: Arc::new(claimed) })
    }
}

fn pieces(bytes: usize) -> usize {
    bytes.div_ceil(PIECE_BYTES)
}

fn as_permits(pieces: usize) -> u32 {
    u32::try_from(pieces).unwrap_or(u32::MAX >> 1)
}

/// The claim of an answer on its way; travels in the extensions of a response.
#[derive(Debug, Clone)]
pub(crate) struct HeldAnswer {
    _pieces: Arc<OwnedSemaphorePermit>,
}

/// Ends one connection, from within a request of it.
#[derive(Debug, Clone, Default)]
pub struct ConnectionEnd(Arc<Notify>);

impl ConnectionEnd {
    /// The connection is closed, whatever is under way on it.
    pub fn end(&self) {
        self.0.notify_one();
    }

    pub(crate) async fn ended(&self) {
        self.0.notified().await;
    }
}

/// How long a client may take for the next part of a stream, and the connection that it loses past that.
#[derive(Debug, Clone)]
pub(crate) struct SendTime {
    pub(crate) time: Duration,
    pub(crate) connection: ConnectionEnd,
}

impl SendTime {
    /// Waits until `parts` has room for `part`; whether there may be another.
    pub(crate) async fn send<T>(&self, parts: &mpsc::Sender<T>, part: T) -> bool {
        match tokio::time::timeout(self.time, parts.send(part)).await {
            Ok(sent) => sent.is_ok(),
            Err(_) => {
                tracing::info!(
                    "a client did not take the next part of a stream in {:?}: its connection is closed",
                    self.time
                );
                self.connection.end();
                false
            }
        }
    }
}

/// The body of a large answer. Its claim, and the time that its client has, last as long as any of its bytes.
pub(crate) struct HeldBody {
    body: tonic::body::Body,
    sending: Arc<Sending>,
}

struct Sending {
    _answer: HeldAnswer,
    too_late: JoinHandle<()>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.too_late.abort();
    }
}

impl HeldBody {
    /// `connection` is ended unless all bytes are on their way after `time`.
    pub(crate) fn new(body: tonic::body::Body, answer: HeldAnswer, time: Duration, connection: ConnectionEnd) -> Self {
        let too_late = tokio::spawn(async move {
            tokio::time::sleep(time).await;
            tracing::info!("a client did not take its answer in {time:?}: its connection is closed");
            connection.end();
        });
        HeldBody { body, sending: Arc::new(Sending { _answer: answer, too_late }) }
    }
}

/// A part of an answer that keeps the claim alive until the transport lets go of it.
struct Part {
    bytes: Bytes,
    _sending: Arc<Sending>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Body for HeldBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let held = |bytes| Bytes::from_owner(Part { bytes, _sending: Arc::clone(&self.sending) });
        frame.map_ok(|frame| frame.map_data(held))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(max_bytes: usize) -> Arc<AnswerBudget> {
        AnswerBudget::new(&AnswerLimits { max_bytes, wait: Duration::from_millis(1), ..AnswerLimits::default() })
    }

    #[tokio::test]
    async fn one_byte_past_the_budget_is_refused_and_the_last_byte_in_it_is_not() {
        let budget = budget(64 * 1024);
        for (bytes, fits) in [(64 * 1024 - 1, true), (64 * 1024, true), (64 * 1024 + 1, false)] {
            assert_eq!(budget.open().take(bytes), fits, "{bytes}");
        }
        assert_eq!(budget.wait_for(64 * 1024 + 1).await.map(drop), Err(NoRoom::TooLarge(64 * 1024)));
        assert!(budget.wait_for(64 * 1024).await.is_ok());
    }

    #[tokio::test]
    async fn small_answers_are_not_counted_and_the_first_that_is_has_one_byte_more() {
        let budget = budget(64 * 1024);
        for (bytes, counted) in [(UNCOUNTED_BYTES - 1, false), (UNCOUNTED_BYTES, false), (UNCOUNTED_BYTES + 1, true)] {
            let claim = budget.open();
            assert!(claim.take(bytes));
            assert_eq!(claim.keep().is_some(), counted, "{bytes}");
        }
        assert_eq!(budget.free(), 64 * 1024);
    }

    #[tokio::test]
    async fn an_answer_holds_what_it_has_until_its_last_byte_is_gone() {
        let budget = budget(64 * 1024);
        let claim = budget.open();
        assert!(claim.take(20 * 1024) && claim.take(21 * 1024));
        let answer = claim.keep().expect("counted");
        assert_eq!(budget.free(), 23 * 1024);
        assert_eq!(budget.wait_for(20 * 1024).await.map(drop), Err(NoRoom::Busy));

        let inner = tonic::body::Body::new(axum::body::Body::from("rows"));
        let mut body = HeldBody::new(inner, answer, Duration::from_secs(60), ConnectionEnd::default());
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.expect("data").expect("sound");
        drop(body);
        assert_eq!(budget.free(), 23 * 1024);
        drop(frame);
        assert_eq!(budget.free(), 64 * 1024);
    }

    #[tokio::test]
    async fn an_answer_that_is_not_taken_ends_its_connection() {
        let budget = budget(64 * 1024);
        let claim = budget.open();
        assert!(claim.take(20 * 1024));
        let end = ConnectionEnd::default();
        let inner = tonic::body::Body::new(axum::body::Body::from("rows"));
        let answer = claim.keep().expect("counted");
        let _unread = HeldBody::new(inner, answer, Duration::from_millis(1), end.clone());
        end.ended().await;
    }
}
