//! The answers of one watch stream on their way from the watch thread to the client's connection.
//!
//! Invariant: what waits is bounded by [`MAX_QUEUED_BYTES`] and [`MAX_QUEUED_ANSWERS`] a stream and
//! [`MAX_QUEUED_BYTES_OF_ALL`] a node, each exceeded by at most one part: the hub asks for room before each. Past them an
//! outlet has no room, and its watches fall behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use quorate_node::watch::{Answer, Ended, Outlet, Refusal, StreamId};
use quorate_wire::etcd::WatchRequest;
use tokio::sync::mpsc;

use super::watching::{WatchJob, Watching};

/// Bytes that wait for one client.
const MAX_QUEUED_BYTES: usize = 1 << 20;
/// Answers that wait for one client.
const MAX_QUEUED_ANSWERS: usize = 4096;
/// Bytes that wait for all clients of a node; past it a client has room only while nothing waits for it.
const MAX_QUEUED_BYTES_OF_ALL: usize = 256 << 20;
/// Requests of one stream that wait for their answers.
const MAX_UNANSWERED: usize = 256;

/// How much waits.
#[derive(Debug, Default)]
pub(crate) struct Queued {
    bytes: AtomicUsize,
    answers: AtomicUsize,
}

/// How much waits for one client, and for all.
#[derive(Debug)]
struct Gauge {
    own: Queued,
    of_all: Arc<Queued>,
    /// The hub waits for room.
    awaited: AtomicBool,
}

impl Queued {
    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        self.answers.fetch_add(1, Ordering::SeqCst);
    }

    fn subtract(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.answers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Answers, and bytes.
    pub(crate) fn figures(&self) -> (usize, usize) {
        (self.answers.load(Ordering::SeqCst), self.bytes.load(Ordering::SeqCst))
    }
}

impl Gauge {
    fn add(&self, bytes: usize) {
        self.own.add(bytes);
        self.of_all.add(bytes);
    }

    fn subtract(&self, bytes: usize) {
        self.own.subtract(bytes);
        self.of_all.subtract(bytes);
    }

    /// Whether less than a `part`th of what may wait does.
    fn is_below(&self, part: usize) -> bool {
        let (answers, bytes) = self.own.figures();
        let fits = answers < MAX_QUEUED_ANSWERS / part && bytes < MAX_QUEUED_BYTES / part;
        answers == 0 || (fits && self.of_all.figures().1 < MAX_QUEUED_BYTES_OF_ALL)
    }
}

/// The hub's end.
#[derive(Debug)]
pub(crate) struct Queue {
    answers: mpsc::UnboundedSender<Result<Answer, Ended>>,
    gauge: Arc<Gauge>,
}

impl Outlet for Queue {
    fn has_room(&mut self) -> bool {
        if self.gauge.is_below(1) {
            return true;
        }
        // The client's end looks at this after it has taken something: if it did so just now, the second look sees it.
        self.gauge.awaited.store(true, Ordering::SeqCst);
        self.gauge.is_below(2)
    }

    fn put(&mut self, answer: Answer) {
        let bytes = answer.size();
        self.gauge.add(bytes);
        if self.answers.send(Ok(answer)).is_err() {
            self.gauge.subtract(bytes);
        }
    }

    fn end(self, why: Ended) {
        // A client that is gone needs no word.
        let _ = self.answers.send(Err(why));
    }
}

/// The client's end: requests go in, answers come out. Dropping it ends its watches.
#[derive(Debug)]
pub(crate) struct WatchStream {
    id: StreamId,
    watching: Arc<Watching>,
    answers: mpsc::UnboundedReceiver<Result<Answer, Ended>>,
    gauge: Arc<Gauge>,
    unanswered: usize,
    /// Watches whose beginning was told, and whose end was not.
    begun: usize,
}

impl WatchStream {
    /// Both ends of a new stream.
    pub(super) fn new(id: StreamId, watching: Arc<Watching>, of_all: Arc<Queued>) -> (Queue, WatchStream) {
        let (sender, answers) = mpsc::unbounded_channel();
        let gauge = Gauge { own: Queued::default(), of_all, awaited: AtomicBool::new(false) };
        let gauge = Arc::new(gauge);
        let queue = Queue { answers: sender, gauge: Arc::clone(&gauge) };
        (queue, WatchStream { id, watching, answers, gauge, unanswered: 0, begun: 0 })
    }

    /// Whether a further request may be made now; if not, it may after the next answer.
    pub(crate) fn takes_requests(&self) -> bool {
        self.unanswered < MAX_UNANSWERED
    }

    /// Whether nothing is to come unless something is asked: no watch is there, and none waits for its answer.
    pub(crate) fn is_idle(&self) -> bool {
        self.unanswered == 0 && self.begun == 0
    }

    /// Makes a request; the answer comes in its turn.
    pub(crate) fn request(&mut self, request: WatchRequest) {
        let stream = self.id;
        let job = match request {
            WatchRequest::Create(create) => {
                self.unanswered += 1;
                WatchJob::Create { stream, create }
            }
            WatchRequest::Cancel { id } => WatchJob::Cancel { stream, id },
            WatchRequest::Progress => WatchJob::Progress { stream },
        };
        self.watching.send(job);
    }

    /// Answers a request that somebody else refused, in its turn.
    pub(crate) fn refuse(&mut self, reason: Refusal) {
        self.unanswered += 1;
        self.watching.send(WatchJob::Refuse { stream: self.id, reason });
    }

    /// The next answer; `None` if the node is gone.
    pub(crate) fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Answer, Ended>>> {
        let Poll::Ready(answer) = self.answers.poll_recv(context) else { return Poll::Pending };
        if let Some(Ok(answer)) = &answer {
            self.taken(answer);
        }
        Poll::Ready(answer)
    }

    fn taken(&mut self, answer: &Answer) {
        self.gauge.subtract(answer.size());
        if matches!(answer, Answer::Created { .. } | Answer::Refused { .. }) {
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        match answer {
            Answer::Created { .. } => self.begun += 1,
            Answer::Canceled { .. } | Answer::Compacted { .. } => self.begun = self.begun.saturating_sub(1),
            Answer::Refused { .. } | Answer::Progress { .. } | Answer::Events { .. } => {}
        }
        let awaited = &self.gauge.awaited;
        if awaited.load(Ordering::SeqCst) && self.gauge.is_below(2) && awaited.swap(false, Ordering::SeqCst) {
            self.watching.send(WatchJob::Room);
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.answers.close();
        while let Ok(answer) = self.answers.try_recv() {
            if let Ok(answer) = answer {
                self.gauge.subtract(answer.size());
            }
        }
        self.watching.closed(self.id);
    }
}
