//! The watch thread of a process: the real [`Hub`], driven turn by turn in virtual time as the server's thread drives it.
//!
//! Owns the jobs that wait for the next turn, and the limits of a seed, which are often so small that outlets fill up, answers
//! are split and history is read back in crumbs. What was published may be lost on the way, as under overload: then the
//! revision alone is told, and the hub reads back.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use quorate_kv::{KeyValue, Revision};
use quorate_node::watch::{Answer, Batch, Ended, Hub, Outlet, Previous, StreamId, WatchLimits};
use quorate_raft::Time;
use quorate_store::{ReadError, StateView};
use quorate_wire::etcd::WatchCreate;

use super::{Event, FullTier, Process};
use crate::context::Context;
use crate::coverage::{Handler, Reached};
use crate::plan::Plan;
use crate::random::Random;
use crate::tier::Killed;

/// What was told to a client and not read yet.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) answers: VecDeque<Answer>,
    pub(super) ended: Option<Ended>,
    /// Answers that may wait.
    room: usize,
    /// The hub found no room.
    pub(super) was_full: bool,
}

/// A stream between the hub and its client; each has an end.
#[derive(Debug, Clone)]
pub(super) struct Line(pub(super) Rc<RefCell<Told>>);

impl Line {
    pub(super) fn new(room: usize) -> Line {
        Line(Rc::new(RefCell::new(Told { room, ..Told::default() })))
    }
}

impl Outlet for Line {
    fn has_room(&mut self) -> bool {
        let mut told = self.0.borrow_mut();
        let has_room = told.answers.len() < told.room;
        told.was_full |= !has_room;
        has_room
    }

    fn put(&mut self, answer: Answer) {
        self.0.borrow_mut().answers.push_back(answer);
    }

    fn end(self, why: Ended) {
        self.0.borrow_mut().ended = Some(why);
    }
}

/// What the next turn does first.
#[derive(Debug)]
pub(super) enum WatchJob {
    Open { stream: StreamId, line: Line },
    Create { stream: StreamId, create: WatchCreate },
    Cancel { stream: StreamId, id: i64 },
    Progress { stream: StreamId },
    Close { stream: StreamId },
    Publish(Batch),
}

/// See the module documentation.
pub(super) struct Watching {
    hub: Hub<Line>,
    jobs: VecDeque<WatchJob>,
    /// A turn is on its way.
    turning: bool,
    /// Streams that were opened and not closed: while there is none, nothing is published.
    streams: BTreeSet<StreamId>,
    catch_up_bytes: usize,
    /// Chance per million that what was published is lost.
    loses: u32,
}

struct Records<'a>(&'a StateView);

impl Previous for Records<'_> {
    type Error = ReadError;

    fn previous(&self, wanted: &[(Bytes, Revision)], max_bytes: usize) -> Result<Vec<Option<KeyValue>>, ReadError> {
        self.0.versions(wanted, max_bytes)
    }
}

impl Watching {
    pub(super) fn new(plan: &Plan) -> Watching {
        let mut random = Random::new(plan.seed ^ 0x5741_5443_4845_5253);
        let mut limits = WatchLimits {
            response_bytes: *random.pick(&[1, 200, 512 << 10]).expect("choices"),
            fragment_bytes: *random.pick(&[60, 200, 2 << 20]).expect("choices"),
            progress_interval: Duration::from_micros(plan.timeout_us() * random.between(1, 10)),
            ..WatchLimits::default()
        };
        let catch_up_bytes = *random.pick(&[1, 300, 1 << 20]).expect("choices");
        let loses = *random.pick(&[0, 0, 100_000]).expect("choices");
        limits.part_bytes = *random.pick(&[1, 300, 1 << 20]).expect("choices");
        Watching {
            hub: Hub::new(limits),
            jobs: VecDeque::new(),
            turning: false,
            streams: BTreeSet::new(),
            catch_up_bytes,
            loses,
        }
    }

    /// When progress is due.
    pub(super) fn deadline(&self) -> Time {
        self.hub.next_deadline().unwrap_or(Time::NEVER)
    }
}

impl Process {
    /// Queues a job for the watch thread.
    pub(super) fn watch(&mut self, context: &mut Context<FullTier>, job: WatchJob) {
        match job {
            WatchJob::Open { stream, .. } => drop(self.watching.streams.insert(stream)),
            // One that the node itself ended is gone already.
            WatchJob::Close { stream } => drop(self.watching.streams.remove(&stream)),
            _ => {}
        }
        self.watching.jobs.push_back(job);
        self.wake_watching(context);
    }

    fn wake_watching(&mut self, context: &mut Context<FullTier>) {
        if !std::mem::replace(&mut self.watching.turning, true) {
            let latency = context.apply_latency_us();
            context.later(latency, Event::WatchTurn);
        }
    }

    /// Whether somebody wants to know what changes.
    pub(super) fn is_watched(&self) -> bool {
        !self.watching.streams.is_empty()
    }

    /// Something changed and readers see it. `changed` is empty for what is to be read back.
    pub(super) fn publish(&mut self, context: &mut Context<FullTier>, mut batch: Batch) {
        if !self.is_watched() {
            return;
        }
        if self.watching.loses > 0 && context.faulty && context.random.chance(self.watching.loses) {
            context.coverage.hit(Reached::WatchFeedLost);
            batch = Batch { before: batch.through, changes: Vec::new(), ..batch };
        }
        self.watch(context, WatchJob::Publish(batch));
    }

    /// The node is no member any more: its clients find another one.
    pub(super) fn end_watches(&mut self, context: &mut Context<FullTier>) {
        self.watching.hub.end_all();
        self.watching.jobs.clear();
        self.watching.streams.clear();
        self.wake_watching(context);
    }

    /// One turn: what came in, then one part of the history for those that are behind.
    pub(super) fn watch_turn(&mut self, context: &mut Context<FullTier>) -> Result<(), Killed> {
        self.watching.turning = false;
        let view = self.state.view();
        if !self.has_strayed() {
            let turned = self.turn(context, &view);
            self.healthy(context, Handler::ReadBack, turned)?;
        }
        self.watching.hub.check();
        context.clients.read_watches(context.node, &view, context.queue.now(), &mut context.coverage);
        if self.watching.hub.behind().is_some() {
            self.wake_watching(context);
        }
        Ok(())
    }

    fn turn(&mut self, context: &mut Context<FullTier>, view: &StateView) -> Result<(), ReadError> {
        let now = context.local();
        let jitter = Duration::from_micros(context.random.below(1_000));
        let hub = &mut self.watching.hub;
        let mut batch: Option<Batch> = None;
        for job in self.watching.jobs.drain(..) {
            if let WatchJob::Publish(next) = job {
                batch = match batch.take() {
                    None => Some(next),
                    Some(mut first) => match first.extend(next) {
                        Ok(()) => Some(first),
                        Err(next) => {
                            hub.publish(first, &Records(view))?;
                            Some(next)
                        }
                    },
                };
                continue;
            }
            if let Some(batch) = batch.take() {
                hub.publish(batch, &Records(view))?;
            }
            match job {
                WatchJob::Open { stream, line } => hub.open(stream, line, false),
                WatchJob::Create { stream, create } => {
                    // Nothing was published while nobody watched.
                    hub.begin_at(view.revision(), view.compact_revision());
                    hub.create(stream, create, now, jitter);
                }
                WatchJob::Cancel { stream, id } => hub.cancel(stream, id),
                WatchJob::Progress { stream } => hub.progress(stream),
                WatchJob::Close { stream } => hub.close(stream),
                WatchJob::Publish(_) => unreachable!("seen to above"),
            }
        }
        if let Some(batch) = batch {
            hub.publish(batch, &Records(view))?;
        }
        if hub.next_deadline().is_some_and(|due| due <= now) {
            hub.tick(now, jitter);
        }
        if let Some(mut missed) = hub.behind() {
            context.coverage.hit(Reached::WatchReadBack);
            match view.history(missed.from, missed.to, self.watching.catch_up_bytes)? {
                Ok(history) => {
                    missed.to = history.through;
                    hub.catch_up(missed, &history.changes, &Records(view))?;
                }
                Err(forgotten) => hub.forget(forgotten.compact_revision),
            }
        }
        Ok(())
    }

    /// Reports of progress that are due go out with the next turn.
    pub(super) fn tick_watches(&mut self, context: &mut Context<FullTier>) {
        if self.watching.deadline() <= context.local() {
            let jitter = Duration::from_micros(context.random.below(1_000));
            self.watching.hub.tick(context.local(), jitter);
            self.wake_watching(context);
        }
    }
}
