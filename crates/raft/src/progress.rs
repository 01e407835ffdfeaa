//! How far one follower has come, and how much a leader may have under way to it.
//!
//! Owns the states probe, replicate and snapshot, and the window of unanswered appends. Never builds a message: that is
//! `replicate`.
//!
//! Invariants, checked by [`Progress::check`]: `matched < next`; `matched` never falls within a term; the window is
//! empty outside `Replicate`.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Config;
use crate::ids::{LogIndex, Round, Time};
use crate::status::{PeerStatus, ReplicationState};

/// How a follower is fed.
#[derive(Debug)]
pub(crate) enum Feed {
    /// The place where the logs agree is unknown: one append with entries, then wait for an answer or a heartbeat's.
    /// `sent`: last index and bytes of that append, while it may still arrive.
    Probe { paused: bool, sent: Option<(LogIndex, usize)> },
    /// Entries stream ahead of the answers, as far as the window allows.
    Replicate { window: Window },
    /// The follower is behind the log. `retry_at`: the last image failed, the next one starts then.
    Snapshot { retry_at: Option<Time> },
}

/// Appends with entries that were sent and not answered.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Last index and entry bytes of each, in the order sent.
    appends: VecDeque<(LogIndex, usize)>,
    bytes: usize,
}

impl Window {
    fn add(&mut self, last: LogIndex, bytes: usize) {
        self.appends.push_back((last, bytes));
        self.bytes += bytes;
    }

    fn free_up_to(&mut self, matched: LogIndex) {
        while let Some((_, bytes)) = self.appends.pop_front_if(|(last, _)| *last <= matched) {
            self.bytes -= if mutant!(WindowLeaksBytes) { 0 } else { bytes };
        }
    }

    /// Entry bytes the next append may carry; None if it must wait. An empty window takes an entry of any size.
    fn room(&self, config: &Config) -> Option<usize> {
        if self.appends.is_empty() {
            return Some(config.max_append_bytes);
        }
        let free = config.max_inflight_bytes.saturating_sub(self.bytes);
        (self.appends.len() < config.max_inflight_appends && free > 0).then(|| free.min(config.max_append_bytes))
    }
}

/// A leader's knowledge of one follower.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The follower's disk agrees with the log up to here.
    pub(crate) matched: LogIndex,
    /// The next index to send. Ahead of the answers in `Replicate`.
    pub(crate) next: LogIndex,
    pub(crate) feed: Feed,
    /// The commit index the follower was last told.
    pub(crate) commit_sent: LogIndex,
    /// The newest round it answered.
    pub(crate) round_acked: Round,
    /// How long it promised, when it answered that round, to vote for nobody.
    pub(crate) promise: Duration,
    /// When it was last heard in this term.
    pub(crate) heard_at: Option<Time>,
    /// Its newest probe, to be echoed.
    pub(crate) probe: Option<Time>,
    /// First index of the entries being read back from the log store.
    pub(crate) reading: Option<LogIndex>,
    /// Set on a node that has left: it is fed until then, so that it learns of its removal, and counts for nothing.
    pub(crate) departs_at: Option<Time>,
}

impl Progress {
    pub(crate) fn new(next: LogIndex) -> Progress {
        Progress {
            matched: LogIndex(0),
            next,
            feed: Feed::Probe { paused: false, sent: None },
            commit_sent: LogIndex(0),
            round_acked: Round(0),
            promise: Duration::ZERO,
            heard_at: None,
            probe: None,
            reading: None,
            departs_at: None,
        }
    }

    /// Takes note of an answer. One that comes late says nothing of newer rounds: the follower may have been started anew since, with
    /// another promise.
    pub(crate) fn answer_round(&mut self, round: Round, promise: Duration) {
        if round > self.round_acked {
            (self.round_acked, self.promise) = (round, promise);
        }
    }

    /// Takes note that the follower's disk agrees up to `up_to`. True if that is news.
    pub(crate) fn match_to(&mut self, up_to: LogIndex) -> bool {
        let news = up_to > self.matched;
        self.matched = if mutant!(MatchFalls) { up_to } else { self.matched.max(up_to) };
        self.next = self.next.max(self.matched.next());
        if let Feed::Replicate { window } = &mut self.feed {
            window.free_up_to(self.matched);
        }
        news
    }

    /// Goes on from what is known to match, one append at a time.
    pub(crate) fn probe_from(&mut self, next: LogIndex) {
        self.next = next.max(self.matched.next());
        self.feed = Feed::Probe { paused: false, sent: None };
    }

    /// Forgets what was streamed and waits for an answer before anything else is sent.
    pub(crate) fn pause(&mut self) {
        self.next = self.matched.next();
        self.feed = Feed::Probe { paused: true, sent: None };
    }

    /// Streams from here on, behind the probe's entries if they may still arrive. If not, the next heartbeat meets a hole.
    pub(crate) fn replicate(&mut self) {
        let mut window = Window::default();
        self.next = self.matched.next();
        if let Feed::Probe { sent: Some((last, bytes)), .. } = self.feed
            && last > self.matched
        {
            window.add(last, bytes);
            self.next = last.next();
        }
        self.feed = Feed::Replicate { window };
    }

    /// A probe that was not answered for a heartbeat interval is sent again as soon as the follower is heard.
    pub(crate) fn presume_probe_lost(&mut self) {
        if let Feed::Probe { sent, .. } = &mut self.feed {
            *sent = None;
        }
    }

    /// The probe was answered without deciding anything: the next one may go.
    pub(crate) fn probe_again(&mut self) {
        self.feed = Feed::Probe { paused: false, sent: None };
    }

    pub(crate) fn await_snapshot(&mut self) {
        self.feed = Feed::Snapshot { retry_at: None };
    }

    /// When the next image is due after a failed one.
    pub(crate) fn snapshot_retry_at(&self) -> Option<Time> {
        if let Feed::Snapshot { retry_at } = self.feed { retry_at } else { None }
    }

    /// Looks anew, after a failed image, what the follower needs.
    pub(crate) fn retry_snapshot_if_due(&mut self, now: Time) {
        if self.snapshot_retry_at().is_some_and(|at| now >= at) {
            self.feed = Feed::Probe { paused: false, sent: None };
        }
    }

    /// Entry bytes the next append may carry; None if nothing may be sent now.
    pub(crate) fn room(&self, config: &Config) -> Option<usize> {
        match &self.feed {
            Feed::Probe { paused, .. } => (!paused).then_some(config.max_append_bytes),
            Feed::Replicate { window } => window.room(config),
            Feed::Snapshot { .. } => None,
        }
    }

    /// Takes note of an append with entries up to `last`.
    pub(crate) fn sent(&mut self, last: LogIndex, bytes: usize) {
        match &mut self.feed {
            Feed::Probe { paused, sent } => {
                *paused = true;
                *sent = Some((last, bytes));
            }
            Feed::Replicate { window } => {
                window.add(last, bytes);
                self.next = last.next();
            }
            Feed::Snapshot { .. } => unreachable!("no entries are sent to a follower that waits for an image"),
        }
    }

    /// Whether every append with entries was answered.
    pub(crate) fn is_idle(&self) -> bool {
        match &self.feed {
            Feed::Replicate { window } => window.appends.is_empty(),
            Feed::Probe { .. } | Feed::Snapshot { .. } => false,
        }
    }

    pub(crate) fn is_replicating(&self) -> bool {
        matches!(self.feed, Feed::Replicate { .. })
    }

    pub(crate) fn is_active(&self, now: Time, config: &Config) -> bool {
        self.heard_at.is_some_and(|at| now.since(at) < config.election_timeout)
    }

    pub(crate) fn status(&self, now: Time, config: &Config) -> PeerStatus {
        let (state, inflight_bytes) = match &self.feed {
            Feed::Probe { .. } => (ReplicationState::Probe, 0),
            Feed::Replicate { window } => (ReplicationState::Replicate, window.bytes),
            Feed::Snapshot { .. } => (ReplicationState::Snapshot, 0),
        };
        PeerStatus {
            matched: self.matched,
            next: self.next,
            state,
            recently_active: self.is_active(now, config),
            inflight_bytes,
        }
    }

    /// Panics if an invariant is broken.
    pub(crate) fn check(&self, last: LogIndex, config: &Config) {
        assert!(self.matched < self.next, "matched {} is not before next {}", self.matched, self.next);
        assert!(self.matched <= last, "matched {} is past the last entry {last}", self.matched);
        assert!(self.next <= last.next(), "next {} skips entries after {last}", self.next);
        if let Feed::Replicate { window } = &self.feed {
            assert_eq!(
                window.bytes,
                window.appends.iter().map(|(_, bytes)| bytes).sum::<usize>(),
                "window leaks bytes"
            );
            assert!(window.appends.len() <= config.max_inflight_appends, "window is over its limit");
            assert!(
                window.appends.front().is_none_or(|(first, _)| *first > self.matched),
                "window holds answered appends"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config { max_inflight_appends: 2, max_inflight_bytes: 100, max_append_bytes: 60, ..Config::default() }
    }

    #[test]
    fn a_full_window_waits_for_an_answer() {
        let mut progress = Progress::new(LogIndex(1));
        progress.replicate();
        progress.sent(LogIndex(1), 60);
        assert_eq!(progress.room(&config()), Some(40));
        progress.sent(LogIndex(2), 10);
        assert_eq!(progress.room(&config()), None);
        assert!(progress.match_to(LogIndex(1)));
        assert_eq!(progress.room(&config()), Some(60));
        progress.check(LogIndex(2), &config());
    }

    #[test]
    fn an_entry_over_the_limit_travels_alone() {
        let mut progress = Progress::new(LogIndex(1));
        progress.replicate();
        progress.sent(LogIndex(1), 1000);
        assert_eq!(progress.room(&config()), None);
        progress.match_to(LogIndex(1));
        assert_eq!(progress.room(&config()), Some(60));
    }

    #[test]
    fn a_probe_sends_one_append_and_waits() {
        let mut progress = Progress::new(LogIndex(5));
        assert!(progress.room(&config()).is_some());
        progress.sent(LogIndex(7), 10);
        assert_eq!(progress.room(&config()), None);
        assert_eq!(progress.next, LogIndex(5));
    }

    #[test]
    fn going_back_never_passes_what_matched() {
        let mut progress = Progress::new(LogIndex(9));
        progress.match_to(LogIndex(6));
        progress.probe_from(LogIndex(2));
        assert_eq!((progress.matched, progress.next), (LogIndex(6), LogIndex(7)));
    }
}
