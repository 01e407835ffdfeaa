//! The log as this node knows it: terms, configurations, the newest entries, and how far each stage has come.
//!
//! Owns which entries exist and what is committed and handed out for applying. Does no IO: entries that fell out of the
//! cache are read back by the caller, and what is on disk is `writes`' knowledge.
//!
//! Invariants, checked by [`Log::check`]:
//! 1. `base <= handed <= commit <= last`; nothing at or below `commit` is ever truncated;
//! 2. terms never decrease along the log;
//! 3. the cache is a suffix of the log and holds everything not yet handed out;
//! 4. the configuration in force is the newest one in the log, or the base's.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::entry::{Entry, Payload};
use crate::ids::{LogIndex, NodeId, Term};
use crate::input::{Restored, SnapshotMeta};
use crate::membership::Membership;

/// A configuration and the entry that set it.
pub(crate) type Placed = (LogIndex, Arc<Membership>);

#[derive(Debug)]
pub(crate) struct Log {
    /// The entry before the first one held, and its term.
    base: (LogIndex, Term),
    last: LogIndex,
    /// First index of each term after the base, ascending: a log has few terms and many entries.
    terms: Vec<(LogIndex, Term)>,
    /// The base's configuration, then every later one in the log. Never empty.
    memberships: Vec<Placed>,
    /// The entries `last - cache.len() + 1 ..= last`.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    /// Bytes of the entries after `commit`.
    uncommitted_bytes: usize,
    commit: LogIndex,
    /// Entries up to here were handed out for applying.
    handed: LogIndex,
}

impl Log {
    pub(crate) fn restore(restored: Restored) -> Log {
        let (base_index, _) = restored.base;
        let commit = restored.hard_state.commit.max(restored.applied).max(base_index);
        assert!(commit <= restored.last, "commit {commit} is past the last entry {}", restored.last);
        assert!(restored.applied >= base_index, "the log starts after what was applied");
        let mut memberships = vec![restored.base_membership];
        memberships.extend(restored.memberships);
        if mutant!(RestartForgetsOutgoing) {
            for (_, membership) in &mut memberships {
                let mut known = Membership { outgoing: Default::default(), ..Membership::clone(membership) };
                known.members.retain(|id, _| known.voters.contains(id) || known.learners.contains(id));
                *membership = Arc::new(known);
            }
        }
        let cache: VecDeque<Entry> = restored.tail.into();
        let uncommitted_bytes = cache.iter().filter(|entry| entry.index > commit).map(Entry::size).sum();
        let cache_bytes = cache.iter().map(Entry::size).sum();
        let log = Log {
            base: restored.base,
            last: restored.last,
            terms: restored.terms,
            memberships,
            cache,
            cache_bytes,
            uncommitted_bytes,
            commit,
            handed: restored.applied,
        };
        log.check();
        check_placed(&log.membership().1);
        log
    }

    pub(crate) fn first(&self) -> LogIndex {
        self.base.0.next()
    }

    pub(crate) fn base(&self) -> (LogIndex, Term) {
        self.base
    }

    pub(crate) fn last(&self) -> LogIndex {
        self.last
    }

    pub(crate) fn last_term(&self) -> Term {
        self.terms.last().map_or(self.base.1, |(_, term)| *term)
    }

    pub(crate) fn commit(&self) -> LogIndex {
        self.commit
    }

    pub(crate) fn handed(&self) -> LogIndex {
        self.handed
    }

    pub(crate) fn uncommitted_bytes(&self) -> usize {
        self.uncommitted_bytes
    }

    /// Term of the entry at `index`; None if it was compacted or does not exist.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index < self.base.0 || index > self.last {
            return None;
        }
        let run = self.terms.partition_point(|(first, _)| *first <= index);
        Some(run.checked_sub(1).map_or(self.base.1, |run| self.terms[run].1))
    }

    /// Largest index at or below `index` whose term is at or below `term`; the base's index if none is above it.
    ///
    /// Two logs that conflict agree at most up to there, so each exchange of hints skips a whole term.
    pub(crate) fn last_at_or_below(&self, index: LogIndex, term: Term) -> LogIndex {
        let mut index = index.min(self.last);
        for (first, run_term) in self.terms.iter().rev() {
            if *first > index {
                continue;
            }
            if *run_term <= term {
                return index;
            }
            index = first.previous();
        }
        // What is left between the base and the first run has the base's term.
        if self.base.1 <= term { index } else { index.min(self.base.0) }
    }

    /// The configuration in force: effective as soon as it is appended (thesis 4.1).
    pub(crate) fn membership(&self) -> &Placed {
        if mutant!(MembershipOnCommit) {
            return self.membership_at(self.commit);
        }
        self.memberships.last().expect("the base has a configuration")
    }

    /// The newest configuration at or below `index`.
    pub(crate) fn membership_at(&self, index: LogIndex) -> &Placed {
        self.memberships.iter().rev().find(|(at, _)| *at <= index).unwrap_or(&self.memberships[0])
    }

    /// Whether `id` votes in the configuration in force, or in one that may yet come back into force because nothing
    /// newer is committed.
    pub(crate) fn may_lead(&self, id: NodeId) -> bool {
        let committed = self.membership_at(self.commit).0;
        self.memberships.iter().any(|(at, membership)| *at >= committed && membership.is_voter(id))
    }

    /// The configuration before the one in force, if the log still knows it.
    pub(crate) fn previous_membership(&self) -> Option<&Placed> {
        self.memberships.len().checked_sub(2).map(|at| &self.memberships[at])
    }

    /// Whether any configuration was appended after the base.
    pub(crate) fn holds_membership_entry(&self) -> bool {
        self.memberships.len() > 1
    }

    pub(crate) fn append(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last.next(), "entries are consecutive");
        assert!(entry.term >= self.last_term(), "terms never decrease along the log");
        if entry.term > self.last_term() {
            self.terms.push((entry.index, entry.term));
        }
        if let Payload::Membership(membership) = &entry.payload {
            check_placed(membership);
            self.memberships.push((entry.index, Arc::clone(membership)));
        }
        self.last = entry.index;
        self.cache_bytes += entry.size();
        self.uncommitted_bytes += entry.size();
        self.cache.push_back(entry);
    }

    /// Drops the entries from `from` on, and the configurations among them.
    ///
    /// # Panics
    /// If one of them is committed: a leader that asks for this broke leader completeness.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        assert!(from > self.commit, "truncation at {from} would drop committed entries up to {}", self.commit);
        while self.cache.back().is_some_and(|entry| entry.index >= from) {
            let size = self.cache.pop_back().map_or(0, |entry| entry.size());
            self.cache_bytes -= size;
            self.uncommitted_bytes -= size;
        }
        self.terms.retain(|(first, _)| *first < from);
        self.memberships.retain(|(at, _)| *at < from);
        self.last = from.previous();
    }

    /// Raises the commit index to `to` and returns the configurations that became committed.
    pub(crate) fn commit_to(&mut self, to: LogIndex) -> Vec<Placed> {
        assert!(to <= self.last, "commit {to} is past the last entry {}", self.last);
        if to <= self.commit {
            return Vec::new();
        }
        let committed: usize = self.cached(self.commit.next(), to).map(Entry::size).sum();
        self.uncommitted_bytes -= committed;
        let from = self.commit;
        self.commit = to;
        self.memberships.iter().filter(|(at, _)| *at > from && *at <= to).cloned().collect()
    }

    /// Committed entries up to `durable` that were not handed out yet; they count as handed out from now on.
    pub(crate) fn take_applicable(&mut self, durable: LogIndex) -> Vec<Entry> {
        let to = self.commit.min(durable);
        if to <= self.handed {
            return Vec::new();
        }
        let mut entries: Vec<Entry> = self.cached(self.handed.next(), to).cloned().collect();
        if mutant!(AppliesPastPage) && entries.len() > 4 {
            entries.truncate(4);
            self.handed = to;
            return entries;
        }
        assert_eq!(entries.len() as u64, to.0 - self.handed.0, "the cache lost entries that were not handed out");
        self.handed = to;
        entries
    }

    /// Whether the entry at `index` is in memory.
    pub(crate) fn is_cached(&self, index: LogIndex) -> bool {
        self.cache.front().is_some_and(|front| front.index <= index) && index <= self.last
    }

    /// Entries in memory from `from` on, up to the limits but at least one. Empty if `from` is not in memory.
    pub(crate) fn cached_batch(&self, from: LogIndex, max_entries: usize, max_bytes: usize) -> Vec<Entry> {
        if !self.is_cached(from) {
            return Vec::new();
        }
        let mut bytes = 0;
        self.cached(from, self.last)
            .take(max_entries)
            .enumerate()
            .take_while(|(position, entry)| {
                bytes += entry.size();
                (*position == 0 && !mutant!(LargeEntryNeverSent)) || bytes <= max_bytes
            })
            .map(|(_, entry)| entry.clone())
            .collect()
    }

    /// Entries `from..=to` that are in memory.
    pub(crate) fn cached(&self, from: LogIndex, to: LogIndex) -> impl Iterator<Item = &Entry> {
        let front = self.cache.front().map_or(self.last.next(), |entry| entry.index);
        let skip = usize::try_from(from.0.saturating_sub(front.0)).unwrap_or(usize::MAX);
        let end = usize::try_from((to.0 + 1).saturating_sub(front.0)).unwrap_or(usize::MAX);
        let end = end.min(self.cache.len());
        self.cache.range(skip.min(end)..end)
    }

    /// Forgets the oldest entries beyond `max_bytes`. Those not handed out or not on disk stay: nobody could read them.
    pub(crate) fn evict(&mut self, max_bytes: usize, durable: LogIndex) {
        let keep_after = self.handed.min(durable);
        while self.cache_bytes > max_bytes && self.cache.front().is_some_and(|entry| entry.index <= keep_after) {
            self.pop_oldest();
        }
    }

    /// Moves the base up to `up_to`.
    ///
    /// # Panics
    /// If that was not handed out for applying yet.
    pub(crate) fn compact(&mut self, up_to: LogIndex) {
        assert!(up_to <= self.handed, "compaction up to {up_to} is past what was applied, {}", self.handed);
        let Some(term) = self.term_at(up_to).filter(|_| up_to > self.base.0) else { return };
        while self.cache.front().is_some_and(|entry| entry.index <= up_to) {
            self.pop_oldest();
        }
        self.terms.retain(|(first, run_term)| *first > up_to || *run_term > term);
        self.base = (up_to, term);
        let obsolete = self.memberships.iter().filter(|(at, _)| *at <= up_to).count().saturating_sub(1);
        if mutant!(CompactionKeepsOldMembership) {
            self.memberships.drain(1..=obsolete);
            return;
        }
        self.memberships.drain(..obsolete);
    }

    /// Starts over behind an image of the state.
    pub(crate) fn reset(&mut self, meta: &SnapshotMeta) {
        assert!(meta.index > self.commit, "an image at {} would undo commit {}", meta.index, self.commit);
        self.base = (meta.index, meta.term);
        self.last = meta.index;
        self.commit = meta.index;
        self.handed = meta.index;
        self.terms.clear();
        self.cache.clear();
        self.cache_bytes = 0;
        self.uncommitted_bytes = 0;
        if mutant!(ImageKeepsOldMembership) && !self.membership().1.is_empty() {
            self.memberships.drain(..self.memberships.len() - 1);
            return;
        }
        check_placed(&meta.membership);
        self.memberships = vec![(meta.membership_index, Arc::clone(&meta.membership))];
    }

    fn pop_oldest(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= entry.size();
        }
    }

    /// Panics if an invariant is broken.
    pub(crate) fn check(&self) {
        assert!(self.base.0 <= self.handed, "handed {} is before the base {}", self.handed, self.base.0);
        assert!(self.handed <= self.commit, "handed {} is past commit {}", self.handed, self.commit);
        assert!(self.commit <= self.last, "commit {} is past last {}", self.commit, self.last);
        for pair in self.terms.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].1 < pair[1].1, "terms decrease: {:?}", self.terms);
        }
        if let Some((first, term)) = self.terms.first() {
            assert!(*first > self.base.0 && *term >= self.base.1, "terms start before the base: {:?}", self.terms);
        }
        assert!(self.terms.last().is_none_or(|(first, _)| *first <= self.last), "a term starts after the last entry");
        match (self.cache.front(), self.cache.back()) {
            (Some(front), Some(back)) => {
                assert_eq!(back.index, self.last, "the cache is no suffix");
                assert_eq!(back.index.0 - front.index.0 + 1, self.cache.len() as u64, "the cache has gaps");
                assert!(front.index <= self.handed.next(), "the cache lost entries that were not handed out");
            }
            _ => assert_eq!(self.handed, self.last, "the cache lost entries that were not handed out"),
        }
        for pair in self.memberships.windows(2) {
            assert!(pair[0].0 < pair[1].0, "configurations are out of order");
        }
        let (first, _) = &self.memberships[0];
        assert!(*first <= self.base.0, "the base's configuration was set after it");
        assert!(self.memberships.iter().skip(1).all(|(at, _)| *at > self.base.0 && *at <= self.last));
    }
}

/// A configuration is checked where it enters the log and not after each step: it never changes there.
fn check_placed(membership: &Membership) {
    if cfg!(debug_assertions) {
        membership.check();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::entry::HardState;

    fn log(terms: &[u64]) -> Log {
        let mut log = Log::restore(Restored { hard_state: HardState::default(), ..Restored::default() });
        for (at, term) in terms.iter().enumerate() {
            let payload = Payload::Command(Bytes::from_static(b"0123456789"));
            log.append(Entry { term: Term(*term), index: LogIndex(at as u64 + 1), payload });
        }
        log.check();
        log
    }

    #[test]
    fn every_index_has_the_term_it_was_appended_with() {
        let terms = [1, 1, 2, 2, 5];
        let log = log(&terms);
        assert_eq!(log.term_at(LogIndex(0)), Some(Term(0)));
        for (at, term) in terms.iter().enumerate() {
            assert_eq!(log.term_at(LogIndex(at as u64 + 1)), Some(Term(*term)));
        }
        assert_eq!(log.term_at(LogIndex(6)), None);
    }

    #[test]
    fn a_hint_skips_a_whole_term() {
        let log = log(&[1, 1, 2, 2, 5]);
        assert_eq!(log.last_at_or_below(LogIndex(5), Term(4)), LogIndex(4));
        assert_eq!(log.last_at_or_below(LogIndex(9), Term(9)), LogIndex(5));
        assert_eq!(log.last_at_or_below(LogIndex(4), Term(1)), LogIndex(2));
        assert_eq!(log.last_at_or_below(LogIndex(3), Term(0)), LogIndex(0));
    }

    #[test]
    fn compaction_keeps_the_terms_of_what_remains() {
        let mut log = log(&[1, 1, 2, 2, 5]);
        let _ = log.commit_to(LogIndex(4));
        assert_eq!(log.take_applicable(LogIndex(5)).len(), 4);
        log.compact(LogIndex(3));
        log.check();
        assert_eq!(log.base(), (LogIndex(3), Term(2)));
        assert_eq!(log.term_at(LogIndex(2)), None);
        assert_eq!(log.term_at(LogIndex(4)), Some(Term(2)));
        assert_eq!(log.term_at(LogIndex(5)), Some(Term(5)));
        assert_eq!(log.last_at_or_below(LogIndex(5), Term(1)), LogIndex(3));
    }

    #[test]
    fn entries_that_are_not_on_disk_stay_in_memory() {
        let mut log = log(&[1, 1, 1]);
        let _ = log.commit_to(LogIndex(2));
        let _ = log.take_applicable(LogIndex(2));
        log.evict(0, LogIndex(1));
        assert!(!log.is_cached(LogIndex(1)) && log.is_cached(LogIndex(2)));
        log.check();
    }

    #[test]
    fn truncation_gives_back_its_bytes() {
        let mut log = log(&[1, 1, 2]);
        let full = log.uncommitted_bytes();
        log.truncate(LogIndex(2));
        log.check();
        assert_eq!(log.uncommitted_bytes() * 3, full);
        assert_eq!((log.last(), log.last_term()), (LogIndex(1), Term(1)));
    }

    #[test]
    #[should_panic(expected = "would drop committed entries")]
    fn a_committed_entry_is_never_truncated() {
        let mut log = log(&[1, 1]);
        let _ = log.commit_to(LogIndex(2));
        log.truncate(LogIndex(2));
    }
}
