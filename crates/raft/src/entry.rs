//! What the log holds, and what of a node must survive a crash beside it.
//!
//! Owns the shapes only; which entries are kept is decided in `log`, which terms and votes in `election`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::ids::{LogIndex, NodeId, Term};
use crate::membership::Membership;

/// Bytes counted for an entry beside its payload, so that many empty entries still reach a limit.
const ENTRY_OVERHEAD_BYTES: usize = 24;

/// One place of the replicated log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Term of the leader that appended it.
    pub term: Term,
    /// Its place; entries are consecutive.
    pub index: LogIndex,
    /// What it says.
    pub payload: Payload,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a new leader's first entry, whose commit brings everything before it under its term (thesis 3.6.2).
    Noop,
    /// A command of the state machine, opaque to consensus.
    Command(Bytes),
    /// The whole configuration from here on, in force as soon as it is appended (thesis 4.1).
    Membership(Arc<Membership>),
}

impl Entry {
    /// Bytes this entry counts for in every limit. An estimate of its encoded size, the same on all nodes.
    pub fn size(&self) -> usize {
        ENTRY_OVERHEAD_BYTES
            + match &self.payload {
                Payload::Noop => 0,
                Payload::Command(command) => command.len(),
                Payload::Membership(membership) => membership.size(),
            }
    }
}

/// What a node must not forget: its term, its vote in that term, a commit index it may rely on after a restart, and how long it
/// promised leaders to vote for nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    /// Newest term this node has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// A lower bound of the commit index; never above the last entry of the same write.
    pub commit: LogIndex,
    /// The longest promise to a leader that may not have run out. It is what the node was configured with, and that may have changed.
    pub promise: Duration,
}
