//! Everything a node wants done. Owns the shapes; doing them, in order, is the caller's.

use std::sync::Arc;

use thiserror::Error;

use crate::entry::{Entry, HardState};
use crate::ids::{LogIndex, NodeId, ReadId, RequestId, Term, WriteSeq};
use crate::input::SnapshotMeta;
use crate::membership::Membership;
use crate::message::Message;
use crate::status::RoleKind;

/// What the caller must do after `Raft::step`, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an effect that is dropped is a lost write or a lost message"]
pub enum Effect {
    /// Write both in one transaction, sync it, then say `Input::Persisted`. Writes are carried out in order of `seq`.
    Persist {
        /// Number of this write.
        seq: WriteSeq,
        /// Replaces the one on disk.
        hard_state: HardState,
        /// Replace everything on disk from the first one's index on; none = only the hard state changes.
        entries: Vec<Entry>,
    },
    /// Send now: the message promises nothing about this node's disk that is not on it already.
    Send(Message),
    /// Send once every write up to and including `after` is durable: the message is a promise about the disk.
    SendAfter {
        /// The last write it rests on.
        after: WriteSeq,
        /// The message.
        message: Message,
    },
    /// Apply these committed entries, in order, exactly once. Includes no-ops and configurations.
    Apply {
        /// Consecutive entries.
        entries: Vec<Entry>,
    },
    /// Read entries back from the log store and answer with `Input::EntriesRead`. One per follower at a time.
    ReadEntries {
        /// The follower they are for.
        to: NodeId,
        /// First index wanted.
        from: LogIndex,
        /// Stop at this many bytes, but never before the first entry.
        max_bytes: usize,
    },
    /// Take an image of the state and stream it, then say `Input::SnapshotReport`.
    SendSnapshot {
        /// The follower that is behind the log.
        to: NodeId,
    },
    /// Switch to the received image and reset the log to its end, durably, then say `Input::Persisted`.
    InstallSnapshot {
        /// Number of this write.
        seq: WriteSeq,
        /// The image announced by `Input::SnapshotReceived`.
        meta: SnapshotMeta,
    },
    /// The log store may drop its entries up to here, whenever it suits.
    TruncatePrefix {
        /// The last index that may go.
        up_to: LogIndex,
    },
    /// The read is linearizable once the state machine has applied `index`.
    ReadReady {
        /// The caller's handle.
        read: ReadId,
        /// Serve at or after this.
        index: LogIndex,
    },
    /// The read could not be confirmed and must be asked again.
    ReadFailed {
        /// The caller's handle.
        read: ReadId,
        /// Why.
        reason: ReadRefused,
    },
    /// The commands are in the leader's log. Whether they commit, applying tells.
    Proposed {
        /// The caller's handle.
        request: RequestId,
        /// Index of the first command; the others follow it.
        first: LogIndex,
        /// Term they were appended in.
        term: Term,
    },
    /// The request was not taken up and has no effect.
    Refused {
        /// The caller's handle.
        request: RequestId,
        /// Why.
        reason: Refused,
    },
    /// The configuration asked for is in the log, in flight or reached.
    Accepted {
        /// The caller's handle.
        request: RequestId,
        /// The configuration entry that says so.
        config_index: LogIndex,
    },
    /// A transfer succeeded or ended without success. Leadership is with exactly one node either way.
    TransferEnded {
        /// The caller's handle.
        request: RequestId,
        /// How.
        result: Result<(), TransferFailed>,
    },
    /// The role, the term or the known leader changed.
    RoleChanged {
        /// Role now.
        role: RoleKind,
        /// Term now.
        term: Term,
        /// Leader now known.
        leader: Option<NodeId>,
    },
    /// The configuration in force changed (`committed` false), or one became committed (true).
    MembershipChanged {
        /// The entry that set it.
        index: LogIndex,
        /// The configuration.
        membership: Arc<Membership>,
        /// In force only, or final.
        committed: bool,
    },
}

/// Why a read was not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReadRefused {
    /// No leader is known.
    #[error("no leader is known")]
    NoLeader,
    /// Leadership changed before the read was confirmed.
    #[error("leadership changed before the read was confirmed")]
    LeaderChanged,
    /// Too many reads wait for confirmation.
    #[error("too many reads wait for confirmation")]
    TooManyReads,
}

/// Why a request was not taken up.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// This node does not lead; ask the leader.
    #[error("not the leader")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over; ask again shortly.
    #[error("leadership is being transferred")]
    Transferring,
    /// A configuration change is under way; ask again when it has ended.
    #[error("a configuration change is in progress at index {index}")]
    Busy {
        /// The configuration entry that is in the way.
        index: LogIndex,
    },
    /// The configuration is another one than the caller saw; look again.
    #[error("the configuration has changed, it is now at index {current}")]
    StaleConfig {
        /// Index of the configuration in force.
        current: LogIndex,
    },
    /// The node named is not a voter.
    #[error("node {id} is not a voter")]
    NotVoter {
        /// Which.
        id: NodeId,
    },
    /// The node named was removed for good; admit its replacement under a new id.
    #[error("node {id} was removed and cannot come back under this id")]
    Removed {
        /// Which.
        id: NodeId,
    },
    /// The learner lags too far behind to become a voter.
    #[error("node {id} has not caught up")]
    NotCaughtUp {
        /// Which.
        id: NodeId,
    },
    /// Too few of the voters that the change asks for were heard lately: it could not end. Ask again when they are back.
    #[error("too few of the voters that would remain are there")]
    Unhealthy,
    /// No member has this id.
    #[error("node {id} is not a member")]
    UnknownMember {
        /// Which.
        id: NodeId,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// Why a transfer ended without success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TransferFailed {
    /// The target did not take over within an election timeout.
    #[error("the target did not take over within an election timeout")]
    TimedOut,
    /// Somebody else leads now.
    #[error("another node became leader")]
    LostLeadership,
    /// The target is a voter no more.
    #[error("the target is no longer a voter")]
    TargetRemoved,
    /// Another transfer took its place.
    #[error("another transfer took its place")]
    Superseded,
}
