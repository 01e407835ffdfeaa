//! Reads that wait: for an index, until it is applied, for a revision, or for the state to be fresh enough.
//!
//! Grants permission to read, never reads. A read joins a ReadIndex round only before the round is asked for, and a round
//! that is asked again has a new id: an answer that was on its way across a change of leaders confirms nothing newer
//! (etcd-io/etcd#20418).
//!
//! Invariant, checked by [`Reads::check`]: every waiting read is in exactly one place.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use quorate_raft::{LogIndex, ReadId, RequestId, Term, Time};

use crate::input::{Consistency, ReadOptions};

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Reads {
    waiting: BTreeMap<RequestId, Waiting>,
    /// In order of arrival, so of deadlines; answered ones are skipped.
    deadlines: VecDeque<(Time, RequestId)>,
    collecting: BTreeSet<RequestId>,
    rounds: BTreeMap<ReadId, Round>,
    applying: BTreeSet<(LogIndex, RequestId)>,
    revision: BTreeSet<(i64, RequestId)>,
    bound: BTreeSet<RequestId>,
    next_read: u64,
    /// No round is asked for before this moment, after one failed.
    paused_until: Option<Time>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    options: ReadOptions,
    started: Time,
    deadline: Time,
    /// A quorum confirmed an index for this read, and it was applied or is waited for.
    confirmed: bool,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Collecting,
    Round(ReadId),
    /// With the term under whose lease the index was taken, if it was not confirmed by a round.
    Applying(LogIndex, Option<Term>),
    Revision(i64),
    Bound,
}

#[derive(Debug)]
struct Round {
    requests: Vec<RequestId>,
    asked: Time,
}

/// Deadlines of answered reads are swept out when this many more than twice the waiting ones are kept.
const DEADLINES_SLACK: usize = 1024;

/// Where a read is to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitFor {
    /// The next ReadIndex round.
    Round,
    /// The state machine, for an index taken under the lease of this term.
    Applied(LogIndex, Term),
    /// A revision.
    Revision(i64),
    /// A fresher state.
    Bound,
}

/// A read that need not wait any longer for what it waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) request: RequestId,
    pub(crate) options: ReadOptions,
    /// The index it waited for, if it was one.
    pub(crate) index: Option<LogIndex>,
    /// The term under whose lease that index was taken.
    pub(crate) leased: Option<Term>,
    /// A quorum confirmed an index for it that is applied.
    pub(crate) confirmed: bool,
}

/// A read that was given up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GivenUp {
    pub(crate) request: RequestId,
    pub(crate) started: Time,
    /// It waited for a leader's word.
    pub(crate) for_leader: bool,
}

impl Reads {
    /// `first_read` must not have been used by an earlier run of this node: a leader may still answer one of those.
    pub(crate) fn new(first_read: u64) -> Reads {
        Reads {
            waiting: BTreeMap::new(),
            deadlines: VecDeque::new(),
            collecting: BTreeSet::new(),
            rounds: BTreeMap::new(),
            applying: BTreeSet::new(),
            revision: BTreeSet::new(),
            bound: BTreeSet::new(),
            next_read: first_read,
            paused_until: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Makes a new read wait.
    pub(crate) fn push(&mut self, request: RequestId, options: ReadOptions, wait: WaitFor, now: Time, deadline: Time) {
        let place = self.enter(request, wait);
        let twice = self.waiting.insert(request, Waiting { options, started: now, deadline, confirmed: false, place });
        assert!(twice.is_none(), "request {request} is already waiting");
        if self.deadlines.len() > 2 * self.waiting.len() + DEADLINES_SLACK {
            let waiting = &self.waiting;
            self.deadlines.retain(|(deadline, request)| is_current(waiting, *deadline, *request));
        }
        self.deadlines.push_back((deadline, request));
    }

    /// Moves a read that waits to another place.
    pub(crate) fn move_to(&mut self, request: RequestId, wait: WaitFor) {
        let place = self.waiting[&request].place;
        self.leave(request, place);
        let place = self.enter(request, wait);
        self.waiting.get_mut(&request).expect("the read waits").place = place;
    }

    /// Forgets a read; whether it waited.
    pub(crate) fn remove(&mut self, request: RequestId) -> bool {
        match self.waiting.remove(&request) {
            Some(waiting) => {
                self.leave(request, waiting.place);
                true
            }
            None => false,
        }
    }

    /// Starts a round for everything collected, unless enough are under way. The caller asks consensus for it at once.
    pub(crate) fn start_round(&mut self, now: Time, max_rounds: usize) -> Option<ReadId> {
        if self.collecting.is_empty() || self.rounds.len() >= max_rounds {
            return None;
        }
        if self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        self.paused_until = None;
        let read = ReadId(self.next_read);
        self.next_read = self.next_read.wrapping_add(1);
        let requests: Vec<RequestId> = std::mem::take(&mut self.collecting).into_iter().collect();
        for request in &requests {
            self.waiting.get_mut(request).expect("a collected read waits").place = Place::Round(read);
        }
        self.rounds.insert(read, Round { requests, asked: now });
        Some(read)
    }

    /// A round was confirmed at `index`.
    pub(crate) fn round_ready(&mut self, read: ReadId, index: LogIndex) {
        let Some(round) = self.rounds.remove(&read) else { return };
        for request in round.requests {
            if let Some(waiting) = self.waiting.get_mut(&request).filter(|waiting| waiting.place == Place::Round(read))
            {
                waiting.place = Place::Applying(index, None);
                waiting.confirmed = true;
                self.applying.insert((index, request));
            }
        }
    }

    /// A round failed: its reads join the next one, after a pause.
    pub(crate) fn round_failed(&mut self, read: ReadId, now: Time, pause: Duration) {
        if self.rounds.contains_key(&read) {
            self.collect_again(read);
            self.paused_until = Some(now + pause);
        }
    }

    /// The leader changed or the stream to it broke: rounds under way may never be answered.
    pub(crate) fn leader_changed(&mut self) {
        let rounds: Vec<ReadId> = self.rounds.keys().copied().collect();
        for read in rounds {
            self.collect_again(read);
        }
        self.paused_until = None;
    }

    /// Asks again for rounds that were asked for longer than `after` ago.
    pub(crate) fn retry_rounds(&mut self, now: Time, after: Duration) {
        let late: Vec<ReadId> =
            self.rounds.iter().filter(|(_, round)| round.asked + after <= now).map(|(read, _)| *read).collect();
        for read in late {
            self.collect_again(read);
        }
    }

    /// A read that waits for an index or a revision the state machine has reached. It stays where it is: the caller moves or
    /// removes it.
    pub(crate) fn due(&self, applied: LogIndex, revision: i64) -> Option<Due> {
        let by_index = self.applying.first().filter(|(index, _)| *index <= applied).map(|(_, request)| request);
        let by_revision =
            || self.revision.first().filter(|(wanted, _)| *wanted <= revision).map(|(_, request)| request);
        by_index.or_else(by_revision).map(|request| self.describe(*request))
    }

    /// Reads that wait for a fresher state.
    pub(crate) fn bounded(&self) -> Vec<Due> {
        self.bound.iter().map(|request| self.describe(*request)).collect()
    }

    fn describe(&self, request: RequestId) -> Due {
        let waiting = &self.waiting[&request];
        let (index, leased) = match waiting.place {
            Place::Applying(index, leased) => (Some(index), leased),
            _ => (None, None),
        };
        Due { request, options: waiting.options, index, leased, confirmed: waiting.confirmed }
    }

    /// Gives up reads whose time is over.
    pub(crate) fn expire(&mut self, now: Time) -> Vec<GivenUp> {
        let mut out = Vec::new();
        while let Some((_, request)) = self.deadlines.front().copied().filter(|(deadline, _)| *deadline <= now) {
            let (deadline, _) = self.deadlines.pop_front().expect("it was seen in front");
            if is_current(&self.waiting, deadline, request) {
                out.extend(self.give_up(request));
            }
        }
        // Answered reads leave their deadlines behind: drop those in front, so that they wake nobody.
        while let Some((deadline, request)) = self.deadlines.front() {
            if is_current(&self.waiting, *deadline, *request) {
                break;
            }
            self.deadlines.pop_front();
        }
        out
    }

    /// Gives up everything.
    pub(crate) fn drain(&mut self) -> Vec<GivenUp> {
        self.deadlines.clear();
        let requests: Vec<RequestId> = self.waiting.keys().copied().collect();
        requests.into_iter().filter_map(|request| self.give_up(request)).collect()
    }

    /// The next moment after `now` at which time alone changes something.
    pub(crate) fn next_deadline(&self, now: Time, retry_after: Duration) -> Time {
        let first = self.deadlines.front().map_or(Time::NEVER, |(deadline, _)| *deadline);
        let retry = self.rounds.first_key_value().map_or(Time::NEVER, |(_, round)| round.asked + retry_after);
        let resume = self.paused_until.filter(|until| *until > now && !self.collecting.is_empty());
        first.min(retry).min(resume.unwrap_or(Time::NEVER))
    }

    fn give_up(&mut self, request: RequestId) -> Option<GivenUp> {
        let waiting = self.waiting.remove(&request)?;
        self.leave(request, waiting.place);
        let for_leader = matches!(waiting.place, Place::Collecting | Place::Round(_));
        Some(GivenUp { request, started: waiting.started, for_leader })
    }

    fn collect_again(&mut self, read: ReadId) {
        let round = self.rounds.remove(&read).expect("the round is under way");
        if mutant!(ReadIdUsedAgain) {
            self.next_read = read.0;
        }
        for request in round.requests {
            if let Some(waiting) = self.waiting.get_mut(&request).filter(|waiting| waiting.place == Place::Round(read))
            {
                waiting.place = Place::Collecting;
                self.collecting.insert(request);
            }
        }
    }

    fn enter(&mut self, request: RequestId, wait: WaitFor) -> Place {
        match wait {
            WaitFor::Round => {
                self.collecting.insert(request);
                Place::Collecting
            }
            WaitFor::Applied(index, term) => {
                self.applying.insert((index, request));
                Place::Applying(index, Some(term))
            }
            WaitFor::Revision(revision) => {
                self.revision.insert((revision, request));
                Place::Revision(revision)
            }
            WaitFor::Bound => {
                self.bound.insert(request);
                Place::Bound
            }
        }
    }

    fn leave(&mut self, request: RequestId, place: Place) {
        let was_there = match place {
            Place::Collecting => self.collecting.remove(&request),
            // A round keeps the handles of reads that left it and skips them at its end.
            Place::Round(_) => true,
            Place::Applying(index, _) => self.applying.remove(&(index, request)),
            Place::Revision(revision) => self.revision.remove(&(revision, request)),
            Place::Bound => self.bound.remove(&request),
        };
        assert!(was_there, "read {request} was not where it should wait");
    }

    pub(crate) fn check(&self) {
        let in_rounds = self
            .rounds
            .iter()
            .map(|(read, round)| {
                let here = |request: &&RequestId| {
                    self.waiting.get(request).is_some_and(|waiting| waiting.place == Place::Round(*read))
                };
                round.requests.iter().filter(here).count()
            })
            .sum::<usize>();
        let elsewhere = self.collecting.len() + self.applying.len() + self.revision.len() + self.bound.len();
        assert_eq!(self.waiting.len(), in_rounds + elsewhere, "a read waits nowhere, or twice");
        assert!(
            self.bound.iter().all(|request| self.waiting[request].options.consistency == Consistency::Stale),
            "only stale reads wait for a bound"
        );
    }
}

/// Whether the deadline belongs to a read that still waits, not to an answered one whose handle was used again.
fn is_current(waiting: &BTreeMap<RequestId, Waiting>, deadline: Time, request: RequestId) -> bool {
    waiting.get(&request).is_some_and(|waiting| waiting.deadline == deadline)
}
