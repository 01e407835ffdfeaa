//! Writes that other nodes forwarded to this one as the leader: each is appended once in its term, or never.
//!
//! The leader remembers which sequences of which run it has seen in its term and drops further copies. What it refuses it
//! also remembers, so a refusal is final: a late copy is not appended behind the origin's back.
//!
//! Renewals of leases have places of their own beyond what the leader can take, unless its state machine is behind.
//!
//! Invariant: a window never holds more than the origin's span, and everything below its floor was seen or is settled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use quorate_kv::{Command, needs_space};
use quorate_raft::{Incarnation, NodeId, Term};
use quorate_wire::decode_envelope;
use quorate_wire::peer::{Forward, ForwardRefused, ForwardReply};

use crate::config::Limits;

/// Runs of one origin that are remembered within a term. The stream of a run that many restarts ago is long gone, and no
/// copy of its writes with it.
const MAX_RUNS_OF_AN_ORIGIN: usize = 16;

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    term: Term,
    windows: BTreeMap<NodeId, VecDeque<(Incarnation, Window)>>,
    queue: VecDeque<Taken>,
    bytes: usize,
}

/// A write taken for another node.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) envelope: Bytes,
    /// [`is_timed`].
    pub(crate) timed: bool,
}

#[derive(Debug, Default)]
struct Window {
    /// Every sequence below was seen, or is settled at the origin.
    floor: u64,
    /// Those from `floor` on that were seen.
    seen: BTreeSet<u64>,
}

/// What the leader can take at the moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) writes: usize,
    pub(crate) bytes: usize,
    /// Nothing at all: the state machine is too far behind.
    pub(crate) is_behind: bool,
    /// Only deletes and compactions.
    pub(crate) disk_full: bool,
}

impl Intake {
    /// This node leads `term`, or no longer leads: what was taken for an earlier term is void.
    pub(crate) fn begin(&mut self, term: Term) {
        if self.term != term {
            *self = Intake { term, ..Intake::default() };
        }
    }

    /// Queues what is new. Gives the refusals to send back to `from`.
    pub(crate) fn take(&mut self, from: NodeId, forward: Forward, room: Room, limits: &Limits) -> Vec<ForwardReply> {
        assert_eq!(forward.term, self.term, "a forward of another term was let in");
        let (term, session) = (forward.term, forward.session);
        let mut too_many = Vec::new();
        let mut no_space = Vec::new();
        let window = self.windows.entry(from).or_default();
        let window = open_window(window, session);
        if mutant!(ForwardTakenTwice) {
            *window = Window::default();
        }
        window.settle(forward.settled_below);
        for (sequence, envelope) in forward.writes {
            // A write beyond the span, a copy, or one whose envelope tells another story than the message: nothing a sound
            // origin sends, so nothing to answer.
            if !window.is_new(sequence, limits.max_forward_span) {
                continue;
            }
            let Some(command) = open_envelope(from, session, sequence, &envelope) else { continue };
            let lacks_space = room.disk_full && needs_space(&command);
            let (spare_writes, spare_bytes) = limits.spare_for(&command);
            let is_full = room.is_behind
                || self.queue.len() >= room.writes + spare_writes
                || self.bytes + envelope.len() > room.bytes + spare_bytes;
            if !(mutant!(RefusedForgotten) && (lacks_space || is_full)) {
                window.mark(sequence);
            }
            if lacks_space {
                no_space.push(sequence);
            } else if is_full {
                too_many.push(sequence);
            } else {
                self.bytes += envelope.len();
                self.queue.push_back(Taken { envelope, timed: is_timed(&command) });
            }
        }
        let refusals = [(too_many, ForwardRefused::TooManyRequests), (no_space, ForwardRefused::NoSpace)];
        refusals
            .into_iter()
            .filter(|(sequences, _)| !sequences.is_empty())
            .map(|(sequences, reason)| ForwardReply { term, session, sequences, reason })
            .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Writes to propose next, in order of arrival, at most `count` of them.
    pub(crate) fn pop(&mut self, count: usize) -> Vec<Taken> {
        let count = count.min(self.queue.len());
        let out: Vec<Taken> = self.queue.drain(..count).collect();
        self.bytes -= out.iter().map(|write| write.envelope.len()).sum::<usize>();
        out
    }

    /// Puts back what could not be proposed yet.
    pub(crate) fn push_front(&mut self, writes: Vec<Taken>) {
        for write in writes.into_iter().rev() {
            self.bytes += write.envelope.len();
            self.queue.push_front(write);
        }
    }

    pub(crate) fn check(&self, limits: &Limits) {
        let max_span = limits.max_forward_span;
        let bytes = self.queue.iter().map(|write| write.envelope.len()).sum::<usize>();
        assert_eq!(self.bytes, bytes, "the byte count is off");
        assert!(
            self.queue.len() <= limits.max_unapplied_proposals + limits.spare_renewals,
            "too many writes are taken"
        );
        assert!(bytes <= limits.max_unapplied_proposal_bytes + limits.spare_renewal_bytes, "too many bytes are taken");
        for (_, window) in self.windows.values().flatten() {
            assert!(window.seen.len() as u64 <= max_span, "a window holds {} sequences", window.seen.len());
            assert!(window.seen.iter().all(|sequence| *sequence > window.floor), "a window was not drawn up");
        }
    }
}

fn open_window(windows: &mut VecDeque<(Incarnation, Window)>, session: Incarnation) -> &mut Window {
    let known = windows.iter().position(|(of, _)| *of == session);
    let position = known.unwrap_or_else(|| {
        if windows.len() >= MAX_RUNS_OF_AN_ORIGIN {
            windows.pop_front();
        }
        windows.push_back((session, Window::default()));
        windows.len() - 1
    });
    &mut windows[position].1
}

impl Window {
    fn settle(&mut self, below: u64) {
        if below > self.floor {
            self.floor = below;
            self.seen = self.seen.split_off(&below);
        }
        self.draw_up();
    }

    fn is_new(&self, sequence: u64, max_span: u64) -> bool {
        sequence >= self.floor && sequence - self.floor < max_span && !self.seen.contains(&sequence)
    }

    fn mark(&mut self, sequence: u64) {
        self.seen.insert(sequence);
        self.draw_up();
    }

    fn draw_up(&mut self) {
        while self.seen.remove(&self.floor) {
            self.floor += 1;
        }
    }
}

/// The command, if the envelope is readable and says what the message says.
fn open_envelope(from: NodeId, session: Incarnation, sequence: u64, envelope: &Bytes) -> Option<Command> {
    let envelope = decode_envelope(envelope).ok()?;
    let fits = envelope.origin == from && envelope.incarnation == session && envelope.sequence == sequence;
    fits.then_some(envelope.command)
}

/// Whether what a command does depends on the cluster clock: the leader says what that shows in front of it.
pub(crate) fn is_timed(command: &Command) -> bool {
    matches!(command, Command::LeaseGrant(_)) || is_renewal(command)
}

/// Whether a command keeps leases alive.
pub(crate) fn is_renewal(command: &Command) -> bool {
    matches!(command, Command::LeaseRenew { .. })
}
