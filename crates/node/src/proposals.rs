//! Writes this node took from clients, from arrival to answer.
//!
//! A write is queued, or in flight in exactly one term: appended to this node's own log as a leader, or forwarded to the
//! leader of that term, which appends it in that term or never. Hence it takes effect at most once: it is queued again only
//! when this node has applied an entry of a later term without having seen it, because terms never go down along the log.
//!
//! Invariants, checked by [`Proposals::check`]:
//! 1. every pending write is either in `queued` or in flight;
//! 2. sequences rise with arrival, so deadlines do too;
//! 3. no write in flight has a term below the last applied entry's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use quorate_raft::{Incarnation, RequestId, Term, Time};
use quorate_wire::peer::Forward;

use crate::config::Limits;
use crate::forward::Taken;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Proposals {
    session: Incarnation,
    next_sequence: u64,
    pending: BTreeMap<u64, Pending>,
    by_request: BTreeMap<RequestId, u64>,
    queued: BTreeSet<u64>,
    /// Forwarded ones that may be lost: sent again in their own term.
    resend: BTreeSet<u64>,
    bytes: usize,
    /// When to look for forwarded writes to send again; set while any is in flight.
    resend_at: Option<Time>,
}

#[derive(Debug)]
struct Pending {
    request: RequestId,
    write: Taken,
    started: Time,
    deadline: Time,
    flight: Flight,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flight {
    Queued,
    /// In this node's own log, as the leader of the term. Never appended again in it.
    Appended {
        term: Term,
    },
    /// Sent to the leader of the term; may be sent again in it, the leader drops what it has.
    Forwarded {
        term: Term,
        sent: Time,
    },
}

/// A write that was given up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GivenUp {
    pub(crate) request: RequestId,
    pub(crate) started: Time,
    /// It may have taken effect or may yet.
    pub(crate) in_flight: bool,
}

impl Proposals {
    pub(crate) fn new(session: Incarnation) -> Proposals {
        Proposals {
            session,
            next_sequence: 1,
            pending: BTreeMap::new(),
            by_request: BTreeMap::new(),
            queued: BTreeSet::new(),
            resend: BTreeSet::new(),
            bytes: 0,
            resend_at: None,
        }
    }

    pub(crate) fn session(&self) -> Incarnation {
        self.session
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The sequence the next write must be enveloped with.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Takes a write, already encoded with [`Proposals::next_sequence`].
    pub(crate) fn push(&mut self, request: RequestId, envelope: Bytes, timed: bool, now: Time, deadline: Time) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.bytes += envelope.len();
        let twice = self.by_request.insert(request, sequence);
        assert!(twice.is_none(), "request {request} is already pending");
        let flight = Flight::Queued;
        let write = Taken { envelope, timed };
        self.pending.insert(sequence, Pending { request, write, started: now, deadline, flight });
        self.queued.insert(sequence);
    }

    /// Queued writes in order.
    pub(crate) fn queued(&self) -> impl Iterator<Item = (u64, &Taken)> {
        self.queued.iter().map(|sequence| (*sequence, &self.pending[sequence].write))
    }

    pub(crate) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// The first of the queued writes are in this leader's own log.
    pub(crate) fn appended(&mut self, sequences: &[u64], term: Term) {
        for sequence in sequences {
            let was_queued = self.queued.remove(sequence);
            assert!(was_queued, "write {sequence} was appended without being queued");
            self.get(*sequence).flight = Flight::Appended { term };
        }
    }

    /// Messages that carry all queued writes, and those that are to be sent again, to the leader of `term`.
    pub(crate) fn forward(&mut self, term: Term, now: Time, resend_after: Duration, limits: &Limits) -> Vec<Forward> {
        if self.resend_at.is_some_and(|at| at <= now) {
            self.mark_overdue(now, resend_after);
        }
        let settled_below = self.settled_below();
        // The leader remembers no more than this span, so no more may be under way.
        let end = settled_below.saturating_add(limits.max_forward_span);
        let mut due: BTreeSet<u64> = self.queued.range(..end).copied().collect();
        due.extend(std::mem::take(&mut self.resend).into_iter().filter(|sequence| {
            // Only in its own term: the copy of an earlier one may still be committed by this very leader.
            self.pending.get(sequence).is_some_and(|pending| pending.flight.term() == Some(term))
        }));
        let mut out: Vec<Forward> = Vec::new();
        let mut bytes = usize::MAX;
        for sequence in due {
            self.queued.remove(&sequence);
            let pending = self.pending.get_mut(&sequence).expect("what is due is pending");
            pending.flight = Flight::Forwarded { term, sent: now };
            bytes = bytes.saturating_add(pending.write.envelope.len());
            if bytes > limits.max_forward_bytes {
                bytes = pending.write.envelope.len();
                out.push(Forward { term, session: self.session, settled_below, writes: Vec::new() });
            }
            let message = out.last_mut().expect("the first write always opens a message");
            message.writes.push((sequence, pending.write.envelope.clone()));
        }
        if !out.is_empty() && self.resend_at.is_none() {
            self.resend_at = Some(now + resend_after);
        }
        out
    }

    /// The stream to the leader broke: what was forwarded to it is sent again, while it leads the same term.
    pub(crate) fn leader_lost(&mut self) {
        let forwarded = self.pending.iter().filter(|(_, pending)| pending.flight.is_forwarded());
        self.resend = forwarded.map(|(sequence, _)| *sequence).collect();
    }

    /// This node applied its own write; gives the client's handle, if it is still pending.
    pub(crate) fn applied(&mut self, sequence: u64) -> Option<RequestId> {
        self.settle(sequence).map(|pending| pending.request)
    }

    /// This node applied everything up to an entry of `term`: what is in flight in an earlier one never happened.
    pub(crate) fn term_applied(&mut self, term: Term) {
        for (sequence, pending) in &mut self.pending {
            if pending.flight.term().is_some_and(|of| of < term) {
                pending.flight = Flight::Queued;
                self.queued.insert(*sequence);
                self.resend.remove(sequence);
            }
        }
    }

    /// An image was installed whose last entry is of `term`: what was in flight in it or before may be inside.
    pub(crate) fn snapshot_installed(&mut self, term: Term) -> Vec<RequestId> {
        let hidden: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.flight.term().is_some_and(|of| of <= term))
            .map(|(sequence, _)| *sequence)
            .collect();
        hidden.into_iter().filter_map(|sequence| self.applied(sequence)).collect()
    }

    /// The leader of `term` will never append this one; gives the client's handle, if it is in flight there.
    pub(crate) fn refused(&mut self, sequence: u64, term: Term) -> Option<RequestId> {
        match self.pending.get(&sequence)?.flight {
            Flight::Forwarded { term: of, .. } if of == term => self.applied(sequence),
            // Of an earlier term: this copy never happened, which is known already or says nothing about the newer one.
            _ => None,
        }
    }

    /// The client went away.
    pub(crate) fn cancel(&mut self, request: RequestId) -> bool {
        match self.by_request.get(&request).copied() {
            Some(sequence) => self.settle(sequence).is_some(),
            None => false,
        }
    }

    /// Gives up writes whose time is over.
    pub(crate) fn expire(&mut self, now: Time) -> Vec<GivenUp> {
        let mut out = Vec::new();
        while let Some(first) = self.pending.first_entry().filter(|first| first.get().deadline <= now) {
            let sequence = *first.key();
            out.extend(self.give_up(sequence));
        }
        out
    }

    /// Gives up everything.
    pub(crate) fn drain(&mut self) -> Vec<GivenUp> {
        let sequences: Vec<u64> = self.pending.keys().copied().collect();
        sequences.into_iter().filter_map(|sequence| self.give_up(sequence)).collect()
    }

    /// The next moment after `now` at which time alone changes something. What is due to be sent again and was not, at
    /// `now`, waits for a leader.
    pub(crate) fn next_deadline(&self, now: Time) -> Time {
        let first = self.pending.first_key_value().map_or(Time::NEVER, |(_, pending)| pending.deadline);
        first.min(self.resend_at.filter(|at| *at > now).unwrap_or(Time::NEVER))
    }

    fn give_up(&mut self, sequence: u64) -> Option<GivenUp> {
        self.settle(sequence).map(|pending| GivenUp {
            request: pending.request,
            started: pending.started,
            in_flight: pending.flight != Flight::Queued,
        })
    }

    fn settle(&mut self, sequence: u64) -> Option<Pending> {
        let pending = self.pending.remove(&sequence)?;
        self.by_request.remove(&pending.request);
        self.queued.remove(&sequence);
        self.resend.remove(&sequence);
        self.bytes -= pending.write.envelope.len();
        if self.pending.is_empty() {
            self.resend_at = None;
        }
        Some(pending)
    }

    fn settled_below(&self) -> u64 {
        self.pending.first_key_value().map_or(self.next_sequence, |(sequence, _)| *sequence)
    }

    fn mark_overdue(&mut self, now: Time, resend_after: Duration) {
        self.resend_at = None;
        for (sequence, pending) in &self.pending {
            if let Flight::Forwarded { sent, .. } = pending.flight {
                if sent + resend_after <= now {
                    self.resend.insert(*sequence);
                }
                self.resend_at = Some(now + resend_after);
            }
        }
    }

    fn get(&mut self, sequence: u64) -> &mut Pending {
        self.pending.get_mut(&sequence).expect("a queued write is pending")
    }

    pub(crate) fn check(&self, applied_term: Term) {
        assert_eq!(self.pending.len(), self.by_request.len(), "every write has one client");
        assert_eq!(self.bytes, self.pending.values().map(|pending| pending.write.envelope.len()).sum::<usize>());
        let forwarded = |sequence| self.pending.get(sequence).is_some_and(|pending| pending.flight.is_forwarded());
        assert!(self.resend.iter().all(forwarded), "a write is sent again that was not forwarded");
        let mut deadline = Time(0);
        for (sequence, pending) in &self.pending {
            assert_eq!(self.queued.contains(sequence), pending.flight == Flight::Queued, "write {sequence} is lost");
            assert!(pending.deadline >= deadline, "deadlines go down at write {sequence}");
            deadline = pending.deadline;
            assert!(
                pending.flight.term().is_none_or(|term| term >= applied_term),
                "write {sequence} is in flight in a term that is over"
            );
        }
    }
}

impl Flight {
    fn is_forwarded(self) -> bool {
        matches!(self, Flight::Forwarded { .. })
    }

    fn term(self) -> Option<Term> {
        match self {
            Flight::Queued => None,
            Flight::Appended { term } | Flight::Forwarded { term, .. } => Some(term),
        }
    }
}
