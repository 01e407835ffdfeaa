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
    /// Times and the commit index to apply for them; both ascending.
    pending: VecDeque<(Time, LogIndex)>,
    /// Probes sent in this run, ascending.
    probes: VecDeque<Time>,
}

impl Freshness {
    pub(crate) fn at(&self) -> Option<Time> {
        self.at
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
        let probes = &mut self.freshness.probes;
        if probes.back().is_none_or(|newest| *newest < self.now) {
            probes.push_back(self.now);
            if probes.len() > MAX_PROBES {
                probes.pop_front();
            }
        }
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
