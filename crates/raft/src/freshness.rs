//! How stale what a node has applied may be, measured on its own clock.
//!
//! Owns the pairs "at this time of mine, the newest commit index was at most this". When the node has applied that index,
//! what it serves is no older than that time. A follower learns them by probes that a leader with a lease sends back, a
//! leader by its confirmed rounds. The last contact alone proves nothing: a node in contact may be far behind.

use std::collections::VecDeque;

use crate::ids::{LogIndex, Time};
use crate::message::Echo;
use crate::raft::Raft;

/// Pairs that wait for applying. Past it the newest ones are dropped, which only delays the measure.
const MAX_PENDING: usize = 64;
/// Probes that may come back. An echo of anything else is of an earlier run of this node, on another clock.
const MAX_PROBES: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Freshness {
    /// What is applied is no older than this.
    at: Option<Time>,
    /// Times, ascending, and the commit index to apply for each. A late echo may name a lower one than that before it, and
    /// waits behind it.
    pending: VecDeque<(Time, LogIndex)>,
    /// Probes sent in this run, ascending.
    probes: VecDeque<Time>,
}

impl Freshness {
    pub(crate) fn at(&self) -> Option<Time> {
        self.at
    }

    /// Panics if an invariant is broken.
    pub(crate) fn check(&self) {
        assert!(self.pending.len() <= MAX_PENDING && self.probes.len() <= MAX_PROBES, "more is kept than may be");
        assert!(self.probes.iter().is_sorted_by(|a, b| a < b), "probes are out of order");
        assert!(self.pending.iter().is_sorted_by(|a, b| a.0 < b.0), "pending pairs are out of order");
    }

    /// Takes note of a probe that leaves now. Many in one moment are one.
    fn sent(&mut self, now: Time) {
        if self.probes.back().is_none_or(|newest| *newest < now) {
            self.probes.push_back(now);
            if self.probes.len() > MAX_PROBES {
                self.probes.pop_front();
            }
        }
    }

    /// At `time` on this node's clock, the newest commit index anywhere was at most `commit`.
    pub(crate) fn note(&mut self, time: Time, commit: LogIndex, applied: LogIndex) {
        if commit <= applied {
            self.at = self.at.max(Some(time));
        } else if self.pending.back().is_none_or(|(newest, _)| *newest < time) && self.pending.len() < MAX_PENDING {
            self.pending.push_back((time, commit));
        }
    }

    pub(crate) fn applied(&mut self, applied: LogIndex) {
        while let Some((time, _)) = self.pending.pop_front_if(|(_, commit)| *commit <= applied) {
            self.at = self.at.max(Some(time));
        }
    }
}

impl Raft {
    /// The probe of an answer that leaves now.
    pub(crate) fn send_probe(&mut self) -> Time {
        self.freshness.sent(self.now);
        self.now
    }

    /// A leader sent this node's probe back, with its commit index.
    pub(crate) fn note_echo(&mut self, echo: Option<Echo>, commit: LogIndex) {
        let Some(Echo { probe, leased: true }) = echo else { return };
        if self.freshness.probes.binary_search(&probe).is_ok() {
            self.freshness.note(probe, commit, self.applied);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_probe_is_forgotten_once_there_are_too_many() {
        let mut freshness = Freshness::default();
        let mut send = |at: usize| {
            freshness.sent(Time(at as u64));
            freshness.sent(Time(at as u64));
            freshness.check();
            (freshness.probes.len(), freshness.probes.front().copied())
        };
        for at in 1..MAX_PROBES - 1 {
            send(at);
        }
        assert_eq!(send(MAX_PROBES - 1), (MAX_PROBES - 1, Some(Time(1))));
        assert_eq!(send(MAX_PROBES), (MAX_PROBES, Some(Time(1))));
        assert_eq!(send(MAX_PROBES + 1), (MAX_PROBES, Some(Time(2))));
    }
}
