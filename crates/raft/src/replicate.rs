//! The leader's side of replication: what is sent to whom, what the answers mean, and when an entry is committed.
//!
//! Owns the appends, entries and heartbeats alike. An entry commits only when it is of this leader's term and durable on a
//! majority of each half of the configuration in force (thesis 3.6.2, 4.3); the leader's own copy counts from the moment
//! its disk has it, in parallel with the followers' (thesis 10.2.1).

use std::time::Duration;

use crate::config::Config;
use crate::effect::Effect;
use crate::entry::Entry;
use crate::ids::{LogIndex, NodeId, Round, Term, Time};
use crate::log::Log;
use crate::message::{AppendResult, Body, Echo, Message};
use crate::progress::{Feed, Progress};
use crate::raft::Raft;
use crate::role::Role;

impl Raft {
    /// Raises the commit index to what a majority of each half holds durably, if that entry is of this term.
    pub(crate) fn advance_commit(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let durable = if mutant!(LeaderCountsUnsynced) { self.log.last() } else { self.durable() };
        let quorum = self.log.membership().1.committed_index(|id| {
            if id == self.id {
                durable
            } else {
                leader.progress.get(&id).map_or(LogIndex(0), |progress| progress.matched)
            }
        });
        // Counting copies of an older term's entry proves nothing: a later leader may still replace it (thesis 3.6.2).
        let own_term = self.log.term_at(quorum) == Some(self.term) || mutant!(CommitsOlderTerm);
        if quorum > self.log.commit() && own_term {
            self.commit_to(quorum);
        }
    }

    /// Sends every follower what it lacks and has room for, and the commit index to those that wait for nothing else.
    ///
    /// Whoever does not vote gets nothing of a term before a quorum holds something of it. If this leader were gone before,
    /// one that holds a configuration with that vote, which is not committed, could neither win it nor be outvoted.
    pub(crate) fn replicate(&mut self) {
        let leased = self.lease_valid(self.now);
        let settled = self.own_term_committed();
        let membership = &self.log.membership().1;
        let Role::Leader(leader) = &mut self.role else { return };
        let round = leader.rounds.current;
        let fed = leader.progress.iter_mut().filter(|(id, _)| settled || membership.is_voter(**id));
        for (to, progress) in fed {
            let sender =
                Sender { from: self.id, to: *to, term: self.term, round, leased, config: &self.config, log: &self.log };
            sender.feed(progress, self.now, &mut self.effects);
        }
    }

    /// Sends an empty append to everybody: the heartbeat, numbered so that its answers prove who led when it was sent.
    pub(crate) fn broadcast_heartbeat(&mut self) {
        let leased = self.lease_valid(self.now);
        let Role::Leader(leader) = &mut self.role else { return };
        let round = leader.rounds.current;
        for (to, progress) in &mut leader.progress {
            let sender =
                Sender { from: self.id, to: *to, term: self.term, round, leased, config: &self.config, log: &self.log };
            progress.presume_probe_lost();
            sender.heartbeat(progress, &mut self.effects);
        }
    }

    pub(crate) fn append_replied(
        &mut self,
        from: NodeId,
        round: Round,
        result: AppendResult,
        probe: Time,
        promise: Duration,
    ) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        if round > leader.rounds.current {
            return;
        }
        progress.heard_at = Some(self.now);
        progress.answer_round(round, promise);
        progress.probe = Some(probe);
        match result {
            AppendResult::Matched { up_to } if up_to <= self.log.last() => {
                note_match(progress, up_to, self.log.base().0)
            }
            AppendResult::Matched { .. } => {}
            AppendResult::Conflict { hint_index, hint_term, .. } => {
                let base = self.log.base();
                let mut next = self.log.last_at_or_below(hint_index, hint_term).next();
                if hint_index == base.0 && hint_term < base.1 {
                    // The follower differs in the base itself: nothing this log holds can follow on its log.
                    next = base.0;
                }
                note_conflict(progress, hint_index, next);
            }
        }
    }

    /// The transport lost something: what was under way may never arrive, so streaming ends until the follower answers.
    pub(crate) fn peer_unreachable(&mut self, id: NodeId) {
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(progress) = leader.progress.get_mut(&id).filter(|progress| progress.is_replicating()) {
            progress.pause();
        }
    }

    /// Entries that had left the cache came back from the log store.
    pub(crate) fn entries_read(&mut self, to: NodeId, from: LogIndex, mut entries: Vec<Entry>) {
        let leased = self.lease_valid(self.now);
        let Role::Leader(leader) = &mut self.role else { return };
        let round = leader.rounds.current;
        let Some(progress) = leader.progress.get_mut(&to).filter(|progress| progress.reading == Some(from)) else {
            return;
        };
        progress.reading = None;
        if self.log.term_at(from.previous()).is_none() {
            // The log begins after it by now.
            return;
        }
        let mut expected = from;
        // They may have been read for an earlier reign, or before the log was reset: only what is in this log may be sent.
        let usable = entries.iter().take_while(|entry| {
            let fits = entry.index == expected && self.log.term_at(entry.index) == Some(entry.term);
            expected = expected.next();
            fits
        });
        let usable = usable.count().min(self.config.max_append_entries);
        entries.truncate(usable);
        if entries.is_empty() || progress.next != from || progress.room(&self.config).is_none() {
            return;
        }
        let sender = Sender { from: self.id, to, term: self.term, round, leased, config: &self.config, log: &self.log };
        sender.append(progress, entries, &mut self.effects);
    }
}

fn note_match(progress: &mut Progress, up_to: LogIndex, base: LogIndex) {
    let probed = up_to.next() >= progress.next;
    let news = progress.match_to(up_to);
    match &progress.feed {
        // News may come late from an earlier append; it is true all the same, for it speaks of a disk.
        Feed::Probe { .. } if news || probed => progress.replicate(),
        Feed::Probe { .. } if mutant!(ProbeNeverAgain) => {}
        // Answers to what was streamed before come by the window. Each that brought another probe would be followed by the
        // answer to that, so as many as there once were would go round for ever, and each copy the network makes with them.
        Feed::Probe { sent: Some(_), .. } => {}
        Feed::Probe { sent: None, .. } => progress.probe_again(),
        Feed::Snapshot { .. } if up_to >= base && news => progress.replicate(),
        Feed::Snapshot { .. } | Feed::Replicate { .. } => {}
    }
}

/// Every true hint lies at or above what matched, and below what was probed: anything else is a late answer.
fn note_conflict(progress: &mut Progress, hint_index: LogIndex, next: LogIndex) {
    if hint_index < progress.matched || next >= progress.next {
        return;
    }
    match progress.feed {
        Feed::Probe { .. } | Feed::Replicate { .. } => progress.probe_from(next),
        Feed::Snapshot { .. } => {}
    }
}

/// Everything an append to one follower is made of.
struct Sender<'a> {
    from: NodeId,
    to: NodeId,
    term: Term,
    round: Round,
    leased: bool,
    config: &'a Config,
    log: &'a Log,
}

impl Sender<'_> {
    /// Sends entries while there are any and the follower has room; else the commit index, if that is news.
    fn feed(&self, progress: &mut Progress, now: Time, effects: &mut Vec<Effect>) {
        progress.retry_snapshot_if_due(now);
        while let Some(room) = progress.room(self.config)
            && progress.next <= self.log.last()
        {
            if progress.next <= self.log.base().0 {
                self.send_snapshot(progress, now, effects);
                return;
            }
            if !self.log.is_cached(progress.next) {
                if progress.reading.is_none() {
                    progress.reading = Some(progress.next);
                    effects.push(Effect::ReadEntries { to: self.to, from: progress.next, max_bytes: room });
                }
                return;
            }
            let entries = self.log.cached_batch(progress.next, self.config.max_append_entries, room);
            if mutant!(LargeEntryNeverSent) && entries.is_empty() {
                return;
            }
            let first_size = entries.first().map_or(0, Entry::size);
            if first_size > room && progress.is_replicating() && !progress.is_idle() {
                return;
            }
            self.append(progress, entries, effects);
        }
        if progress.is_idle() && progress.commit_sent < self.log.commit().min(progress.next.previous()) {
            self.heartbeat(progress, effects);
        }
    }

    /// Asks for an image, but only for a node that is there and stays.
    fn send_snapshot(&self, progress: &mut Progress, now: Time, effects: &mut Vec<Effect>) {
        if mutant!(UnknownFollowerGetsNothing) && progress.matched == LogIndex(0) {
            return;
        }
        if progress.departs_at.is_none() && progress.is_active(now, self.config) {
            progress.await_snapshot();
            effects.push(Effect::SendSnapshot { to: self.to });
        }
    }

    fn append(&self, progress: &mut Progress, entries: Vec<Entry>, effects: &mut Vec<Effect>) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        let (prev_index, last) = (first.index.previous(), last.index);
        let bytes = entries.iter().map(Entry::size).sum();
        let prev_term = self.log.term_at(prev_index).expect("the entry before a sent one is in the log or its base");
        self.send(progress, (prev_index, prev_term), entries, last, effects);
        progress.sent(last, bytes);
    }

    /// An empty append right before the next entry, so that a hole in what was streamed shows at once. A follower behind
    /// the log is only told who leads.
    fn heartbeat(&self, progress: &mut Progress, effects: &mut Vec<Effect>) {
        let start = (LogIndex(0), Term(0));
        let prev_index = if mutant!(HeartbeatAtMatched) { progress.matched } else { progress.next.previous() };
        let prev = match (&progress.feed, self.log.term_at(prev_index)) {
            (Feed::Probe { .. } | Feed::Replicate { .. }, Some(prev_term)) => (prev_index, prev_term),
            (Feed::Replicate { .. }, None) => {
                // The log was compacted past what was streamed: a hole in the stream would no longer show.
                progress.pause();
                start
            }
            (Feed::Probe { .. } | Feed::Snapshot { .. }, _) => start,
        };
        self.send(progress, prev, Vec::new(), prev.0, effects);
    }

    fn send(
        &self,
        progress: &mut Progress,
        (prev_index, prev_term): (LogIndex, Term),
        entries: Vec<Entry>,
        last: LogIndex,
        effects: &mut Vec<Effect>,
    ) {
        // What lies past this append the follower cannot know to match.
        let commit = self.log.commit().min(last);
        progress.commit_sent = progress.commit_sent.max(commit);
        // A commit index that was cut short is not the newest, and must not make the follower believe it is fresh.
        let leased = self.leased && commit == self.log.commit();
        let echo = progress.probe.map(|probe| Echo { probe, leased });
        let body = Body::Append { round: self.round, prev_index, prev_term, entries, commit, echo };
        effects.push(Effect::Send(Message { from: self.from, to: self.to, term: self.term, body }));
    }
}
