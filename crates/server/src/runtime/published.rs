//! What everybody may see of the node without asking it: the lease, the commit index, a status.
//!
//! Invariant: all of it is published after a step and before the step's effects leave. A message that ends the lease, or an
//! answer that promises a commit, is therefore never ahead of what readers see.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use quorate_kv::ClusterTime;
use quorate_node::{Lease, NodeStatus};
use quorate_raft::{LogIndex, Term, Time};

/// Shared by whoever steps the node, who writes it, and all readers.
#[derive(Debug)]
pub(crate) struct Published {
    lease_term: AtomicU64,
    /// End of the lease of `lease_term` in microseconds; 0 = none.
    lease_until: AtomicU64,
    commit: AtomicU64,
    term: AtomicU64,
    /// The cluster clock less the node's own, in microseconds: one number, so that readers never see half a pair.
    clock_ahead: AtomicI64,
    /// The log writer waits for room.
    log_full: AtomicBool,
    status: RwLock<Arc<Seen>>,
}

/// A status and when it was true.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) status: NodeStatus,
    pub(crate) at: Time,
}

impl Published {
    pub(crate) fn new(seen: Seen) -> Published {
        Published {
            lease_term: AtomicU64::new(0),
            lease_until: AtomicU64::new(0),
            commit: AtomicU64::new(0),
            term: AtomicU64::new(seen.status.raft.term.0),
            clock_ahead: AtomicI64::new(0),
            log_full: AtomicBool::new(false),
            status: RwLock::new(Arc::new(seen)),
        }
    }

    /// Called by whoever steps the node alone. Terms of leases rise, which is what lets readers notice a change under them.
    pub(crate) fn set(&self, lease: Option<Lease>, commit: LogIndex) {
        let (term, until) = lease.map_or((None, 0), |lease| (Some(lease.term.0), lease.until.0));
        if let Some(term) = term
            && term != self.lease_term.load(Ordering::Relaxed)
        {
            self.lease_until.store(0, Ordering::Release);
            self.lease_term.store(term, Ordering::Release);
        }
        self.commit.store(commit.0, Ordering::Release);
        self.lease_until.store(until, Ordering::Release);
    }

    /// The lease as of the last step.
    pub(crate) fn lease(&self) -> Option<Lease> {
        let term = self.lease_term.load(Ordering::Acquire);
        let until = self.lease_until.load(Ordering::Acquire);
        // An end that belongs to a newer term is visible only after that term is.
        let same = self.lease_term.load(Ordering::Acquire) == term;
        (same && until > 0).then_some(Lease { term: Term(term), until: Time(until) })
    }

    /// The commit index as of the last step.
    pub(crate) fn commit(&self) -> LogIndex {
        LogIndex(self.commit.load(Ordering::Acquire))
    }

    /// What the cluster clock showed at a moment of the node's own clock.
    pub(crate) fn set_clock(&self, (clock, at): (ClusterTime, Time)) {
        let ahead = clock.0.saturating_mul(1000).wrapping_sub(at.0).cast_signed();
        self.clock_ahead.store(ahead, Ordering::Relaxed);
    }

    /// What the cluster clock shows at `now`, as this node counts it.
    pub(crate) fn cluster_clock(&self, now: Time) -> ClusterTime {
        ClusterTime(now.0.wrapping_add_signed(self.clock_ahead.load(Ordering::Relaxed)) / 1000)
    }

    pub(crate) fn set_log_full(&self, full: bool) {
        self.log_full.store(full, Ordering::Relaxed);
    }

    pub(crate) fn log_full(&self) -> bool {
        self.log_full.load(Ordering::Relaxed)
    }

    /// The term as of the last published status; changes of the term are published at once.
    pub(crate) fn term(&self) -> Term {
        Term(self.term.load(Ordering::Relaxed))
    }

    pub(crate) fn set_status(&self, seen: Seen) {
        self.term.store(seen.status.raft.term.0, Ordering::Relaxed);
        *self.status.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(seen);
    }

    pub(crate) fn status(&self) -> Arc<Seen> {
        Arc::clone(&self.status.read().unwrap_or_else(PoisonError::into_inner))
    }
}
