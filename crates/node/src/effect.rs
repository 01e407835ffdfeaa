//! What the caller of [`Node::step`](crate::Node::step) must do.

use std::sync::Arc;
use std::time::Duration;

use quorate_kv::{ClusterTime, Outcome};
use quorate_raft::{
    Entry, HardState, LogIndex, Membership, NodeId, RequestId, RoleKind, SnapshotMeta, Term, Time, WriteSeq,
};
use quorate_wire::PeerMessage;
use quorate_wire::peer::NodeState;

use crate::error::NodeError;
use crate::input::Consistency;

/// What the caller must do after a step, in this order.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "an effect that is dropped is a lost write, a lost message or a client without an answer"]
pub enum Effect {
    /// Write in one transaction, sync, then tell [`Input::LogWritten`](crate::Input::LogWritten). Several of them may share
    /// a transaction. The entries replace everything in the log from `entries[0].index` on.
    WriteLog {
        /// Rises by one with each `WriteLog` and `InstallSnapshot`.
        seq: WriteSeq,
        /// Replaces the one in the log file.
        hard_state: HardState,
        /// Empty = only the hard state.
        entries: Vec<Entry>,
    },
    /// Send now. Whatever had to be durable first is durable.
    Send {
        /// Receiver.
        to: NodeId,
        /// The message.
        message: PeerMessage,
    },
    /// Apply these committed entries, in order, once; then tell [`Input::Applied`](crate::Input::Applied).
    Apply {
        /// Consecutive entries.
        entries: Vec<Entry>,
    },
    /// Answer a client.
    Answer {
        /// As in [`Input::Client`](crate::Input::Client).
        request: RequestId,
        /// The answer.
        answer: Answer,
    },
    /// Read from the log file, then tell [`Input::EntriesRead`](crate::Input::EntriesRead).
    ReadEntries {
        /// For whom; give it back.
        to: NodeId,
        /// First entry wanted.
        from: LogIndex,
        /// Stop after this many bytes, but not before one entry.
        max_bytes: usize,
    },
    /// Look which leases have their deadline at or before `until`, as the state is, then tell
    /// [`Input::LeasesDue`](crate::Input::LeasesDue).
    FindDueLeases {
        /// On the cluster clock.
        until: ClusterTime,
        /// Stop after this many.
        max: usize,
    },
    /// Stream an image of the state, then tell [`Input::SnapshotSent`](crate::Input::SnapshotSent).
    SendSnapshot {
        /// Receiver.
        to: NodeId,
        /// This node's term, for the start of the stream.
        term: Term,
    },
    /// Switch to the received image and reset the log to it, durably; then tell
    /// [`Input::SnapshotInstalled`](crate::Input::SnapshotInstalled).
    InstallSnapshot {
        /// Counts with `WriteLog`.
        seq: WriteSeq,
        /// What the image holds.
        meta: SnapshotMeta,
    },
    /// The log up to and including this index may go, whenever it suits.
    TruncateLog {
        /// Last entry to go.
        up_to: LogIndex,
    },
    /// A configuration came into force, was rolled back, or was committed: connect to its members.
    MembershipChanged {
        /// Where it stands in the log.
        index: LogIndex,
        /// The whole configuration.
        membership: Arc<Membership>,
        /// Committed, or only in this node's log.
        committed: bool,
        /// The newest in this node's log, which counts: `membership` may be an older one that was just committed.
        in_force: Arc<Membership>,
    },
    /// The role, the term or the known leader changed.
    RoleChanged {
        /// This node's role.
        role: RoleKind,
        /// Its term.
        term: Term,
        /// Who leads.
        leader: Option<NodeId>,
    },
    /// Make this state durable: a removed or fenced node must not forget it. What the node does no longer depends on it.
    StateChanged {
        /// The new state.
        state: NodeState,
        /// Why, for people.
        reason: String,
    },
    /// [`Input::Stop`](crate::Input::Stop) is done: nothing is pending, and somebody else leads if anybody can.
    Stopped,
}

/// The answer to a client's request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The write took effect, or was refused by the state machine.
    Written(Outcome),
    /// Read now.
    ReadAt(ReadGrant),
    /// The configuration at this index holds the change or already fits it.
    Accepted {
        /// Its log index.
        config_index: LogIndex,
    },
    /// Somebody else leads now.
    Transferred,
    /// Nothing of this kind happened; see the error for what the client may assume.
    Refused(NodeError),
}

/// Permission to read the state at once, and what to tell the client about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadGrant {
    /// The state has this index, or a later one.
    pub index: LogIndex,
    /// The mode that really ran.
    pub effective: Consistency,
    /// Whether the node knows a leader.
    pub known_leader: bool,
    /// How old the state may be; None = not known. Zero for linearizable reads.
    pub staleness: Option<Duration>,
    /// Committed entries, as far as this node knows, that are not applied yet.
    pub lag_entries: u64,
    /// Present on a read under the lease: check [`LeaseFence::holds`] after the read and before the answer; if it does not,
    /// ask again as `Consistent`.
    pub fence: Option<LeaseFence>,
}

/// A lease at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Term of the leader that holds it.
    pub term: Term,
    /// No other leader can exist before this moment on this node's own clock.
    pub until: Time,
}

/// The lease a read was granted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseFence {
    /// Term of the leader that granted it.
    pub term: Term,
}

impl LeaseFence {
    /// Whether state read between the grant and `now` is still the newest. `lease` is [`Node::lease`](crate::Node::lease)
    /// as of the last step: a runtime that checks from another thread publishes it after each step and before it carries out
    /// the step's effects, because the effect may be the message that ends the lease.
    pub fn holds(self, lease: Option<Lease>, now: Time) -> bool {
        lease.is_some_and(|lease| lease.term == self.term && now < lease.until)
    }
}
