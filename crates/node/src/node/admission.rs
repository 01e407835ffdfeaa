//! What is let in: limits, full disks, barred and stopping nodes. Everything refused here did not happen.

use quorate_kv::{Command, needs_space};
use quorate_raft::{NodeId, Term};
use quorate_wire::entry::MAX_COMMAND_BYTES;
use quorate_wire::peer::NodeState;

use super::Node;
use crate::error::NodeError;
use crate::forward::{Room, is_renewal};

impl Node {
    /// Entries committed and not applied yet.
    pub(super) fn apply_backlog(&self) -> u64 {
        self.raft.commit().0.saturating_sub(self.applied.index.0)
    }

    /// Whether so many wait to be applied that this node, as a leader, takes no further ones.
    pub(super) fn is_behind(&self) -> bool {
        self.apply_backlog() > self.config.limits.max_apply_backlog_entries
    }

    /// Whether this node may serve anything at all.
    pub(super) fn admit(&self) -> Result<(), NodeError> {
        if self.stopping.is_some() {
            return Err(NodeError::Stopping);
        }
        match &self.barred {
            Some(barred) if barred.state == NodeState::Removed => Err(NodeError::NodeRemoved),
            Some(barred) => Err(NodeError::Fenced(barred.reason.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn admit_write(&mut self, command: &Command) -> Result<(), NodeError> {
        match self.admit() {
            // A node that left passes on what its clients still send, as long as it knows to whom.
            Err(NodeError::NodeRemoved) if self.forward_to().is_some() => {}
            other => other?,
        }
        let limits = &self.config.limits;
        // The pace is for those who are better refused than kept waiting, which a lease is not.
        let paced =
            if is_renewal(command) { usize::MAX } else { self.pace.most_waiting(self.now, limits.unpaced_writes) };
        let (spare, _) = limits.spare_for(command);
        let most = limits.max_pending_writes.min(paced) + spare;
        if self.proposals.len() >= most && !mutant!(QueueWithoutLimit) {
            return Err(NodeError::TooManyRequests);
        }
        if self.is_leader() {
            if self.disk_full && needs_space(command) {
                return Err(NodeError::NoSpace);
            }
            if self.is_behind() {
                return Err(NodeError::TooManyRequests);
            }
        }
        Ok(())
    }

    /// Whether there is room for a write of so many bytes, `spare_bytes` of which may be beyond the limit.
    pub(super) fn admit_size(&self, bytes: usize, spare_bytes: usize) -> Result<(), NodeError> {
        if bytes > MAX_COMMAND_BYTES {
            return Err(NodeError::TooLarge);
        }
        // One write always fits, whatever the limit.
        let most = self.config.limits.max_pending_write_bytes + spare_bytes;
        if self.proposals.len() > 0 && self.proposals.bytes() + bytes > most {
            return Err(NodeError::TooManyRequests);
        }
        Ok(())
    }

    pub(super) fn admit_read(&self) -> Result<(), NodeError> {
        if !(mutant!(FencedServesReads) && self.stopping.is_none()) {
            self.admit()?;
        }
        if self.reads.len() >= self.config.limits.max_waiting_reads {
            return Err(NodeError::TooManyRequests);
        }
        Ok(())
    }

    /// What this leader can take from others at the moment.
    pub(super) fn room(&self) -> Room {
        let limits = &self.config.limits;
        Room {
            writes: limits.max_unapplied_proposals.saturating_sub(self.unapplied_writes),
            bytes: limits.max_unapplied_proposal_bytes.saturating_sub(self.unapplied_bytes),
            is_behind: self.is_behind(),
            disk_full: self.disk_full,
        }
    }

    /// The leader to forward to.
    pub(super) fn forward_to(&self) -> Option<(NodeId, Term)> {
        match &self.barred {
            Some(barred) if barred.state != NodeState::Removed => None,
            _ => self.leader.filter(|leader| *leader != self.id).map(|leader| (leader, self.term)),
        }
    }
}
