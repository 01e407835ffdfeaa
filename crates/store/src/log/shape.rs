//! What the log holds, in memory: bounds, terms as runs, and every configuration in it.
//!
//! Owns [`LogShape`]; the entries themselves stay in the file.
//!
//! Invariants, in [`LogShape::check`]: indexes are contiguous from `base + 1` to `last`; terms never fall; the
//! configurations lie within the log, the base's at or before the base.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_raft::{Entry, LogIndex, Membership, Payload, Term};

/// Bounds, terms and configurations of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogShape {
    /// The last index that is not in the log any more, and its term.
    pub(crate) base: (LogIndex, Term),
    /// The configuration in force at the base, and the index it was logged at.
    pub(crate) base_membership: (LogIndex, Arc<Membership>),
    pub(crate) last: LogIndex,
    /// First index of each run of equal terms after the base.
    terms: BTreeMap<LogIndex, Term>,
    memberships: BTreeMap<LogIndex, Arc<Membership>>,
}

impl LogShape {
    /// A log without entries.
    pub(crate) fn empty(base: (LogIndex, Term), base_membership: (LogIndex, Arc<Membership>)) -> Self {
        Self { base, base_membership, last: base.0, terms: BTreeMap::new(), memberships: BTreeMap::new() }
    }

    /// Adds the entry after the last.
    ///
    /// # Errors
    /// What is wrong with it: a gap, or a term below the one before.
    pub(crate) fn push(&mut self, entry: &Entry) -> Result<(), String> {
        let expected = LogIndex(self.last.0 + 1);
        if entry.index != expected {
            return Err(format!("entry {} follows entry {}: entry {expected} is missing", entry.index, self.last));
        }
        let before = self.last_term();
        if entry.term < before {
            return Err(format!("entry {} has term {}, the one before has term {before}", entry.index, entry.term));
        }
        if entry.term > before || self.terms.is_empty() {
            self.terms.insert(entry.index, entry.term);
        }
        if let Payload::Membership(membership) = &entry.payload {
            self.memberships.insert(entry.index, membership.clone());
        }
        self.last = entry.index;
        Ok(())
    }

    /// Forgets the entries from `first` on.
    pub(crate) fn cut_from(&mut self, first: LogIndex) {
        assert!(first > self.base.0, "cut at {first}, base {}", self.base.0);
        if first > self.last {
            return;
        }
        self.terms.split_off(&first);
        self.memberships.split_off(&first);
        self.last = LogIndex(first.0 - 1);
    }

    /// Forgets the entries up to and including `up_to`, which must be in the log.
    pub(crate) fn cut_through(&mut self, up_to: LogIndex) {
        let term = self.term_at(up_to).expect("the new base is in the log");
        let rest = self.terms.split_off(&LogIndex(up_to.0 + 1));
        self.terms = rest;
        let first = LogIndex(up_to.0 + 1);
        if first <= self.last {
            self.terms.entry(first).or_insert(term);
        }
        let rest = self.memberships.split_off(&first);
        if let Some((index, membership)) = self.memberships.pop_last() {
            self.base_membership = (index, membership);
        }
        self.memberships = rest;
        self.base = (up_to, term);
    }

    /// Term of the base or of an entry; `None` outside.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        if index < self.base.0 || index > self.last {
            return None;
        }
        self.terms.range(..=index).next_back().map(|(_, term)| *term)
    }

    pub(crate) fn last_term(&self) -> Term {
        self.terms.last_key_value().map_or(self.base.1, |(_, term)| *term)
    }

    pub(crate) fn terms(&self) -> Vec<(LogIndex, Term)> {
        self.terms.iter().map(|(index, term)| (*index, *term)).collect()
    }

    pub(crate) fn memberships(&self) -> Vec<(LogIndex, Arc<Membership>)> {
        self.memberships.iter().map(|(index, membership)| (*index, membership.clone())).collect()
    }

    /// Panics if an invariant is broken.
    pub(crate) fn check(&self) {
        assert!(self.base.0 <= self.last, "{self:?}");
        assert!(self.base_membership.0 <= self.base.0, "{self:?}");
        assert_eq!(self.terms.is_empty(), self.base.0 == self.last, "{self:?}");
        let mut before = (self.base.0, self.base.1);
        for (index, term) in &self.terms {
            assert!(*index > before.0 && *index <= self.last && *term >= before.1, "{self:?}");
            before = (*index, *term);
        }
        assert!(self.memberships.keys().all(|index| *index > self.base.0 && *index <= self.last), "{self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noop(index: u64, term: u64) -> Entry {
        Entry { term: Term(term), index: LogIndex(index), payload: Payload::Noop }
    }

    fn shape(entries: &[(u64, u64)]) -> LogShape {
        let mut shape = LogShape::empty((LogIndex(0), Term(0)), (LogIndex(0), Arc::default()));
        for (index, term) in entries {
            shape.push(&noop(*index, *term)).expect("contiguous and rising");
        }
        shape.check();
        shape
    }

    #[test]
    fn a_gap_and_a_falling_term_are_named() {
        let mut shape = shape(&[(1, 3)]);
        assert!(shape.push(&noop(3, 3)).unwrap_err().contains("entry 2 is missing"));
        assert!(shape.push(&noop(2, 2)).unwrap_err().contains("term 2"));
    }

    #[test]
    fn cutting_a_prefix_keeps_the_terms_of_the_rest() {
        let mut shape = shape(&[(1, 1), (2, 1), (3, 1), (4, 2)]);
        shape.cut_through(LogIndex(2));
        shape.check();
        assert_eq!(shape.base, (LogIndex(2), Term(1)));
        assert_eq!(shape.terms(), [(LogIndex(3), Term(1)), (LogIndex(4), Term(2))]);
        shape.cut_through(LogIndex(4));
        shape.check();
        assert_eq!((shape.base, shape.last), ((LogIndex(4), Term(2)), LogIndex(4)));
    }

    #[test]
    fn cutting_a_tail_brings_the_older_configuration_back() {
        let mut shape = shape(&[(1, 1)]);
        let membership = Arc::new(Membership { cluster_version: 7, ..Membership::default() });
        let entry = Entry { term: Term(1), index: LogIndex(2), payload: Payload::Membership(membership.clone()) };
        shape.push(&entry).expect("contiguous");
        assert_eq!(shape.memberships(), [(LogIndex(2), membership)]);
        shape.cut_from(LogIndex(2));
        shape.check();
        assert_eq!((shape.memberships(), shape.base_membership.0), (Vec::new(), LogIndex(0)));
    }
}
