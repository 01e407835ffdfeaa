//! The path of a read, in its three modes, up to the permission to read.

use quorate_raft::{LogIndex, RequestId};

use super::Node;
use crate::effect::{Answer, LeaseFence, ReadGrant};
use crate::error::NodeError;
use crate::input::{Consistency, OnStale, ReadOptions};
use crate::reads::{Due, WaitFor};

/// What a read can do next.
enum Next {
    Grant(ReadGrant),
    Wait(WaitFor),
    Refuse(NodeError),
}

impl Node {
    /// Takes a client's read.
    pub(super) fn read(&mut self, request: RequestId, options: ReadOptions) -> Result<(), NodeError> {
        self.admit_read()?;
        let next = match options.consistency {
            Consistency::Default => self.next_default(options),
            Consistency::Consistent => Next::Wait(WaitFor::Round),
            Consistency::Stale => self.next_stale(options),
        };
        match next {
            Next::Grant(grant) => self.answer(request, Answer::ReadAt(grant)),
            Next::Wait(wait) => {
                let deadline = self.deadline();
                self.reads.push(request, options, wait, self.now, deadline);
            }
            Next::Refuse(error) => return Err(error),
        }
        Ok(())
    }

    /// Starts rounds and grants what can be granted.
    pub(super) fn move_reads(&mut self) {
        let retry_after = self.resend_after() / 2;
        self.reads.retry_rounds(self.now, retry_after);
        // Before the rounds: a read whose lease is gone joins one.
        self.serve_due();
        while self.leader.is_some() && self.barred.is_none() {
            let max_rounds = self.config.limits.max_read_rounds;
            let Some(read) = self.reads.start_round(self.now, max_rounds) else { break };
            self.raft(quorate_raft::Input::ReadIndex { read });
        }
        self.serve_due();
        for due in self.reads.bounded() {
            let next = self.next_stale(due.options);
            // Waiting for the bound again is no news.
            if !matches!(next, Next::Wait(WaitFor::Bound)) {
                self.proceed(due.request, next);
            }
        }
    }

    fn serve_due(&mut self) {
        while let Some(due) = self.reads.due(self.applied.index, self.applied.revision.0) {
            let next = self.next_after_wait(due);
            self.proceed(due.request, next);
        }
    }

    fn proceed(&mut self, request: RequestId, next: Next) {
        match next {
            Next::Wait(wait) => self.reads.move_to(request, wait),
            Next::Grant(grant) => {
                self.reads.remove(request);
                self.answer(request, Answer::ReadAt(grant));
            }
            Next::Refuse(error) => {
                self.reads.remove(request);
                self.answer(request, Answer::Refused(error));
            }
        }
    }

    /// On a leader under its lease, the commit index of this moment; elsewhere the leader is asked.
    fn next_default(&self, options: ReadOptions) -> Next {
        if !self.lease_valid(self.now) {
            return Next::Wait(WaitFor::Round);
        }
        let commit = self.raft.commit();
        if self.applied.index < commit {
            // The lease is looked at again by then.
            return Next::Wait(WaitFor::Applied(commit, self.term));
        }
        self.under_lease(commit, options)
    }

    fn under_lease(&self, index: LogIndex, options: ReadOptions) -> Next {
        if let Some(wait) = self.revision_missing(options).filter(|_| !mutant!(MinRevisionForgotten)) {
            return Next::Wait(wait);
        }
        let fence = Some(LeaseFence { term: self.term });
        Next::Grant(self.grant(index, Consistency::Default, fence))
    }

    /// A read that waited for an index or a revision need not wait for it any longer.
    fn next_after_wait(&self, due: Due) -> Next {
        let options = due.options;
        if due.confirmed {
            let index = due.index.unwrap_or(self.applied.index);
            return match self.revision_missing(options) {
                Some(wait) => Next::Wait(wait),
                None => Next::Grant(self.grant(index, self.confirmed(options), None)),
            };
        }
        match (options.consistency, due.index) {
            (Consistency::Stale, _) => self.next_stale(options),
            // The same lease as when the index was taken: taking a newer index would let a busy log hold the read for ever.
            (Consistency::Default, Some(index)) if due.leased == Some(self.term) && self.lease_valid(self.now) => {
                self.under_lease(index, options)
            }
            (Consistency::Default, _) => self.next_default(options),
            (Consistency::Consistent, _) => Next::Wait(WaitFor::Round),
        }
    }

    /// The mode of a read whose index a leader confirmed.
    fn confirmed(&self, options: ReadOptions) -> Consistency {
        match options.consistency {
            Consistency::Consistent => Consistency::Consistent,
            // On the leader a round was asked because the lease did not hold.
            _ if self.is_leader() => Consistency::Consistent,
            _ => Consistency::Default,
        }
    }

    fn next_stale(&self, options: ReadOptions) -> Next {
        if !self.has_state() {
            return match options.on_stale {
                OnStale::Refuse => Next::Refuse(NodeError::NoState),
                OnStale::Wait => Next::Wait(WaitFor::Bound),
                OnStale::Forward => Next::Wait(WaitFor::Round),
            };
        }
        if let Some(wait) = self.revision_missing(options) {
            return Next::Wait(wait);
        }
        let staleness = self.raft.staleness(self.now);
        let too_stale = options.max_staleness.filter(|max| staleness.is_none_or(|staleness| staleness > *max));
        match (too_stale, options.on_stale) {
            (None, _) => Next::Grant(self.grant(self.applied.index, Consistency::Stale, None)),
            (Some(max), OnStale::Refuse) => Next::Refuse(NodeError::StaleRead { staleness, max }),
            (Some(_), OnStale::Wait) => Next::Wait(WaitFor::Bound),
            (Some(_), OnStale::Forward) => Next::Wait(WaitFor::Round),
        }
    }

    /// Whether the node has anything to show: a fresh joiner has not, and neither has one that restarted and has not yet
    /// replayed what it knew to be committed (Consul answered such reads with an empty body, hashicorp/consul#4554).
    fn has_state(&self) -> bool {
        self.applied.index.0 > 0 && (self.applied.index >= self.restored_commit || mutant!(ReadsBeforeReplay))
    }

    fn revision_missing(&self, options: ReadOptions) -> Option<WaitFor> {
        let wanted = options.min_revision.filter(|wanted| *wanted > self.applied.revision.0)?;
        Some(WaitFor::Revision(wanted))
    }

    fn grant(&self, index: LogIndex, effective: Consistency, fence: Option<LeaseFence>) -> ReadGrant {
        assert!(index <= self.applied.index, "a read at {index} is granted at {}", self.applied.index);
        let staleness = match effective {
            Consistency::Stale => self.raft.staleness(self.now),
            Consistency::Default | Consistency::Consistent => Some(std::time::Duration::ZERO),
        };
        ReadGrant {
            index,
            effective,
            known_leader: self.leader.is_some(),
            staleness,
            lag_entries: self.apply_backlog(),
            fence,
        }
    }
}
