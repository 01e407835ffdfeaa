//! The committed log as the oracle knows it: what was first committed at each index, and when.

use std::sync::Arc;

use quorate_raft::{LogIndex, Membership, Term};

use crate::clock::Instant;
use crate::log_model::Chain;

/// Everything ever committed.
#[derive(Debug, Default)]
pub(super) struct History {
    chains: Vec<(Term, Chain)>,
    /// Term of the leader that committed each index; an entry may be of an older one.
    committed_in: Vec<Term>,
    memberships: Vec<(LogIndex, Arc<Membership>)>,
    /// When the commit index rose, and how far.
    rises: Vec<(Instant, LogIndex)>,
}

impl History {
    pub(super) fn committed(&self) -> LogIndex {
        LogIndex(self.chains.len() as u64)
    }

    pub(super) fn at(&self, index: LogIndex) -> Option<(Term, Chain)> {
        if index.0 == 0 {
            return Some((Term(0), Chain::default()));
        }
        self.chains.get(index.0 as usize - 1).copied()
    }

    /// The last index that a leader of a term before `term` committed.
    pub(super) fn committed_before(&self, term: Term) -> LogIndex {
        LogIndex(self.committed_in.partition_point(|committed_in| *committed_in < term) as u64)
    }

    pub(super) fn membership(&self) -> (LogIndex, Option<Arc<Membership>>) {
        match self.memberships.last() {
            Some((index, membership)) => (*index, Some(Arc::clone(membership))),
            None => (LogIndex(0), None),
        }
    }

    /// The configuration in force at an index; `None` before the first in the log.
    pub(super) fn membership_at(&self, index: LogIndex) -> Option<&(LogIndex, Arc<Membership>)> {
        let behind = self.memberships.partition_point(|(at, _)| *at <= index);
        self.memberships[..behind].last()
    }

    /// The commit index at a time that has passed.
    pub(super) fn committed_when(&self, at: Instant) -> LogIndex {
        let rises = self.rises.partition_point(|(when, _)| *when <= at);
        rises.checked_sub(1).map_or(LogIndex(0), |last| self.rises[last].1)
    }

    /// The next index was committed by a leader of the term `committed_in`.
    pub(super) fn push(
        &mut self,
        now: Instant,
        committed_in: Term,
        (term, chain): (Term, Chain),
        membership: Option<&Arc<Membership>>,
    ) {
        self.chains.push((term, chain));
        self.committed_in.push(committed_in);
        let index = self.committed();
        if let Some(membership) = membership {
            self.memberships.push((index, Arc::clone(membership)));
        }
        self.rises.push((now, index));
    }
}
