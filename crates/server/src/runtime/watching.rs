//! The watch thread: the one that drives the node's [`Hub`].
//!
//! The state writer hands over what it applied; the thread tells watches of it, and in between reads back from the store,
//! part by part, what those that are behind have missed. A slow client costs neither the state writer nor other clients
//! anything.
//!
//! Invariants: jobs are carried out in the order they came, so a watch created after a write was answered begins after it;
//! changes that wait to be told are bounded by [`MAX_FEED_BYTES`]: what is more is read back from the store.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_kv::{KeyValue, Revision};
use quorate_node::watch::{Batch, Figures, Hub, Previous, Refusal, StreamId, WatchLimits};
use quorate_store::{ReadError, StateView};
use quorate_wire::etcd::WatchCreate;

use super::clock::{Clock, Jitter};
use super::mailbox::{Mailbox, Wake};
use super::published::Published;
use super::status::WatchView;
use super::watch_queue::{Queue, Queued, WatchStream};

/// Bytes of changes that wait for the watch thread.
const MAX_FEED_BYTES: usize = 32 << 20;
/// Bytes of history read back in one turn, between which live changes are told.
const CATCH_UP_BYTES: usize = 1 << 20;
/// Streams of a node; further ones are refused.
const MAX_STREAMS: usize = 20_000;
/// Reports of progress are spread over this part of their interval.
const PROGRESS_JITTER: u32 = 10;
/// A stream that needs a leader is ended after so many election timeouts without one.
const LEADERLESS_LOOKS: u32 = 3;

/// What the watch thread is asked to do.
#[derive(Debug)]
pub(crate) enum WatchJob {
    /// Begin a stream.
    Open { stream: StreamId, queue: Queue, needs_leader: bool },
    /// Begin a watch.
    Create { stream: StreamId, create: WatchCreate },
    /// Say that a watch is not begun.
    Refuse { stream: StreamId, reason: Refusal },
    /// End a watch.
    Cancel { stream: StreamId, id: i64 },
    /// Say how far a stream is.
    Progress { stream: StreamId },
    /// The client is gone.
    Close { stream: StreamId },
    /// Tell what changed; `bytes` of it were counted.
    Publish { batch: Batch, bytes: usize },
    /// A stream that had no room has some.
    Room,
    /// End all streams.
    EndAll,
}

/// What everybody else has of the watch thread.
#[derive(Debug)]
pub(crate) struct Watching {
    jobs: Mailbox<WatchJob>,
    /// Open streams: while there is none, nothing is published.
    streams: AtomicUsize,
    next_stream: AtomicU64,
    feed_bytes: AtomicUsize,
    queued: Arc<Queued>,
    stopping: AtomicBool,
    figures: Mutex<Figures>,
}

/// Why a stream is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotOpened {
    /// As many are open as may be.
    Full,
    /// The node stops.
    Stopping,
}

impl Watching {
    pub(crate) fn new() -> Watching {
        Watching {
            jobs: Mailbox::new(),
            streams: AtomicUsize::new(0),
            next_stream: AtomicU64::new(0),
            feed_bytes: AtomicUsize::new(0),
            queued: Arc::default(),
            stopping: AtomicBool::new(false),
            figures: Mutex::default(),
        }
    }

    /// Begins a stream.
    pub(crate) fn open(self: &Arc<Self>, needs_leader: bool) -> Result<WatchStream, NotOpened> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(NotOpened::Stopping);
        }
        if self.streams.fetch_add(1, Ordering::SeqCst) >= MAX_STREAMS {
            self.streams.fetch_sub(1, Ordering::SeqCst);
            return Err(NotOpened::Full);
        }
        let id = StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed));
        let (queue, stream) = WatchStream::new(id, Arc::clone(self), Arc::clone(&self.queued));
        self.send(WatchJob::Open { stream: id, queue, needs_leader });
        Ok(stream)
    }

    /// Counts a stream out; its client is gone.
    ///
    /// The thread is told before: once the count says that nobody watches, changes pass it by, and a later stream takes the
    /// revision from the store only if the watches of this one are gone by then. Counted first, the close could come in
    /// behind that stream's first watch, which would be told of a change that was answered before it was asked for.
    pub(super) fn closed(&self, stream: StreamId) {
        self.send(WatchJob::Close { stream });
        self.streams.fetch_sub(1, Ordering::SeqCst);
    }

    /// Queues a job; after the node's end nobody carries it out.
    pub(super) fn send(&self, job: WatchJob) {
        let _ = self.jobs.send(job);
    }

    /// Whether changes have to be published. To be asked after they are visible to readers: whoever opens a stream looks for
    /// them there.
    pub(crate) fn is_on(&self) -> bool {
        fence(Ordering::SeqCst);
        self.streams.load(Ordering::SeqCst) > 0
    }

    /// Hands over changes. Past the limit only their revision is, and they are read back.
    pub(crate) fn publish(&self, mut batch: Batch) {
        let mut bytes = batch.changes.iter().map(|change| change.record.encoded_len()).sum();
        if self.feed_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_FEED_BYTES {
            self.feed_bytes.fetch_sub(bytes, Ordering::Relaxed);
            bytes = 0;
            batch = Batch { before: batch.through, changes: Vec::new(), ..batch };
        }
        self.send(WatchJob::Publish { batch, bytes });
    }

    /// Ends all streams that are open now.
    pub(crate) fn end_all(&self) {
        self.send(WatchJob::EndAll);
    }

    /// Ends all streams and refuses further ones.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.end_all();
    }

    /// Lets the thread end, after what was queued.
    pub(crate) fn close(&self) {
        self.stop();
        self.jobs.close();
    }

    /// Numbers as of the last turn.
    pub(crate) fn view(&self) -> WatchView {
        let Figures { streams, watches, behind, events_told } =
            *self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        let (queued_answers, queued_bytes) = self.queued.figures();
        WatchView { streams, watches, behind, events_told, queued_answers, queued_bytes }
    }
}

impl Previous for Records<'_> {
    type Error = ReadError;

    fn previous(&self, wanted: &[(Bytes, Revision)], max_bytes: usize) -> Result<Vec<Option<KeyValue>>, ReadError> {
        self.0.versions(wanted, max_bytes)
    }
}

/// Former versions come from what readers see.
struct Records<'a>(&'a StateView);

/// What the thread works with.
pub(crate) struct WatchThread {
    pub(crate) watching: Arc<Watching>,
    pub(crate) view: StateView,
    pub(crate) published: Arc<Published>,
    pub(crate) clock: Clock,
    pub(crate) jitter: Jitter,
    pub(crate) limits: WatchLimits,
    pub(crate) election_timeout: Duration,
}

impl WatchThread {
    /// Runs until the mailbox is closed, and ends all streams.
    ///
    /// # Errors
    /// The storage's: the node must stop.
    pub(crate) fn run(mut self) -> Result<(), ReadError> {
        let mut hub = Hub::new(self.limits);
        let mut leader = LeaderLooks { missing: 0, next: Instant::now() };
        let mut taken = Vec::new();
        let mut behind = false;
        let done = loop {
            let deadline = if behind { Some(Instant::now()) } else { self.deadline(&hub, &leader) };
            if self.watching.jobs.take(deadline, &mut taken) == Wake::Closed {
                break Ok(());
            }
            if let Err(error) = self.turn(&mut hub, &mut taken, &mut leader) {
                break Err(error);
            }
            behind = match self.catch_up(&mut hub) {
                Ok(behind) => behind,
                Err(error) => break Err(error),
            };
            *self.watching.figures.lock().unwrap_or_else(PoisonError::into_inner) = hub.figures();
        };
        self.watching.stopping.store(true, Ordering::SeqCst);
        hub.end_all();
        done
    }

    fn deadline(&self, hub: &Hub<Queue>, leader: &LeaderLooks) -> Option<Instant> {
        let progress = hub.next_deadline().map(|due| self.clock.instant(due));
        let look = hub.needs_leader().then_some(leader.next);
        [progress, look].into_iter().flatten().min()
    }

    fn turn(
        &mut self,
        hub: &mut Hub<Queue>,
        taken: &mut Vec<WatchJob>,
        leader: &mut LeaderLooks,
    ) -> Result<(), ReadError> {
        let mut batch: Option<Batch> = None;
        for job in taken.drain(..) {
            match job {
                WatchJob::Publish { batch: next, bytes } => {
                    self.watching.feed_bytes.fetch_sub(bytes, Ordering::Relaxed);
                    batch = match batch.take() {
                        None => Some(next),
                        Some(mut first) => match first.extend(next) {
                            Ok(()) => Some(first),
                            Err(next) => {
                                hub.publish(first, &Records(&self.view))?;
                                Some(next)
                            }
                        },
                    };
                }
                // Asks for no order with what is published.
                WatchJob::Room => {}
                other => {
                    if let Some(batch) = batch.take() {
                        hub.publish(batch, &Records(&self.view))?;
                    }
                    self.carry_out(hub, other);
                }
            }
        }
        if let Some(batch) = batch {
            hub.publish(batch, &Records(&self.view))?;
        }
        let now = self.clock.now();
        if hub.next_deadline().is_some_and(|due| due <= now) {
            hub.tick(now, self.progress_jitter());
        }
        if hub.needs_leader() && leader.is_lost(&self.published, self.election_timeout) {
            hub.leader_is_lost();
        }
        Ok(())
    }

    fn carry_out(&mut self, hub: &mut Hub<Queue>, job: WatchJob) {
        match job {
            WatchJob::Open { stream, queue, needs_leader } => hub.open(stream, queue, needs_leader),
            WatchJob::Create { stream, create } => {
                self.begin(hub);
                let jitter = self.progress_jitter();
                hub.create(stream, create, self.clock.now(), jitter);
            }
            WatchJob::Refuse { stream, reason } => {
                self.begin(hub);
                hub.refuse(stream, reason);
            }
            WatchJob::Cancel { stream, id } => hub.cancel(stream, id),
            WatchJob::Progress { stream } => hub.progress(stream),
            WatchJob::Close { stream } => hub.close(stream),
            WatchJob::EndAll => hub.end_all(),
            WatchJob::Publish { .. } | WatchJob::Room => unreachable!("the turn sees to these itself"),
        }
    }

    /// Nothing was published while nobody watched.
    fn begin(&self, hub: &mut Hub<Queue>) {
        hub.begin_at(self.view.revision(), self.view.compact_revision());
    }

    fn progress_jitter(&mut self) -> Duration {
        self.jitter.draw(self.limits.progress_interval / PROGRESS_JITTER)
    }

    /// Reads one part of the history for those that are behind; whether there is more to do at once.
    fn catch_up(&self, hub: &mut Hub<Queue>) -> Result<bool, ReadError> {
        let Some(mut missed) = hub.behind() else { return Ok(false) };
        match self.view.history(missed.from, missed.to, CATCH_UP_BYTES)? {
            Ok(history) => {
                missed.to = history.through;
                hub.catch_up(missed, &history.changes, &Records(&self.view))?;
            }
            Err(forgotten) => hub.forget(forgotten.compact_revision),
        }
        Ok(true)
    }
}

/// Whether a leader is known, looked at once an election timeout while a stream needs one.
struct LeaderLooks {
    missing: u32,
    next: Instant,
}

impl LeaderLooks {
    fn is_lost(&mut self, published: &Published, election_timeout: Duration) -> bool {
        let now = Instant::now();
        if now < self.next {
            return false;
        }
        self.next = now + election_timeout;
        let known = published.status().status.raft.leader.is_some();
        self.missing = if known { 0 } else { self.missing + 1 };
        self.missing >= LEADERLESS_LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_stream_that_is_counted_out_has_its_close_in_the_mailbox() {
        let watching = Arc::new(Watching::new());
        let (to_close, closing) = mpsc::channel::<WatchStream>();
        let closer = std::thread::spawn(move || closing.iter().for_each(drop));
        let mut jobs = Vec::new();
        for round in 0..20_000 {
            let stream = watching.open(false).expect("there is room");
            to_close.send(stream).expect("it closes");
            while watching.is_on() {
                std::hint::spin_loop();
            }
            watching.jobs.take_queued(&mut jobs);
            assert!(matches!(jobs.last(), Some(WatchJob::Close { .. })), "round {round}: {jobs:?}");
            jobs.clear();
        }
        drop(to_close);
        closer.join().expect("no assertion failed");
    }
}
