//! Everything that can happen to a node. Owns the shapes; `Raft::step` owns what follows from them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::entry::{Entry, HardState};
use crate::ids::{LogIndex, NodeId, ReadId, RequestId, Term, WriteSeq};
use crate::membership::{Member, Membership};
use crate::message::Message;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Time passed. Wanted at `Raft::next_deadline`, harmless at any moment.
    Tick {
        /// Drawn by the caller from `0..election_timeout`; spreads the next elections.
        jitter: Duration,
    },
    /// Another node said something.
    Message(Message),
    /// Commands to append as consecutive entries.
    Propose {
        /// The caller's handle.
        request: RequestId,
        /// Opaque commands; at least one.
        commands: Vec<Bytes>,
    },
    /// The cluster shall have these voters and no other members.
    SetVoters {
        /// The caller's handle.
        request: RequestId,
        /// The voters wanted.
        target: Vec<VoterTarget>,
        /// Index of the configuration the caller saw; None = whatever it is now.
        expected: Option<LogIndex>,
    },
    /// One member is added, promoted or removed; the others stay as they are.
    ChangeMember {
        /// The caller's handle.
        request: RequestId,
        /// What is asked.
        change: MemberChange,
    },
    /// A member announces other addresses or another version; or the data directory behind a member that was added before
    /// it was started is known now.
    UpdateMember {
        /// The caller's handle.
        request: RequestId,
        /// The member.
        id: NodeId,
        /// What is known of it from now on; the incarnation must be the one admitted.
        member: Member,
    },
    /// The cluster may use a newer format version.
    RaiseVersion {
        /// The caller's handle.
        request: RequestId,
        /// The version every member must support.
        version: u32,
    },
    /// Hand leadership over.
    TransferLeader {
        /// The caller's handle.
        request: RequestId,
        /// To whom; None = the voter whose log is furthest.
        to: Option<NodeId>,
    },
    /// Asks for an index at which a read is linearizable, on a leader or through it.
    ReadIndex {
        /// The caller's handle. Never used before, not by an earlier run of this node either: a leader's late answer to
        /// that one would pass for an answer to this one.
        read: ReadId,
    },
    /// A write is durable. May come late and in any order.
    Persisted {
        /// Which.
        seq: WriteSeq,
    },
    /// Answer to `Effect::ReadEntries`.
    EntriesRead {
        /// The follower they are for.
        to: NodeId,
        /// The first index that was asked for.
        from: LogIndex,
        /// Consecutive from `from`; empty if they were compacted meanwhile.
        entries: Vec<Entry>,
    },
    /// How `Effect::SendSnapshot` ended.
    SnapshotReport {
        /// The follower.
        to: NodeId,
        /// Index of the image it acknowledged as received.
        sent: Result<LogIndex, ()>,
    },
    /// A whole verified image lies beside this node's state.
    SnapshotReceived {
        /// The leader that sent it.
        from: NodeId,
        /// Its term.
        term: Term,
        /// What the image holds.
        meta: SnapshotMeta,
    },
    /// The state machine has applied up to here.
    Applied {
        /// The last applied index.
        index: LogIndex,
    },
    /// The log may forget its entries up to here. Never past the last durable applied index.
    Compact {
        /// The last index that may go.
        up_to: LogIndex,
    },
    /// The transport lost messages to this node.
    PeerUnreachable {
        /// Which.
        id: NodeId,
    },
    /// The disk is damaged, fenced or stalled: no votes are asked or granted while set.
    StopCampaigning {
        /// Set or cleared.
        yes: bool,
    },
}

/// What can be asked of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// A learner that is not started yet, known by its address alone.
    Add {
        /// The id it is to have; random, so that it is never given out twice.
        id: NodeId,
        /// Where the node will be found.
        peer_address: String,
        /// It becomes a voter by itself once it has caught up.
        rises: bool,
    },
    /// A learner becomes a voter. Refused while it lags.
    Promote {
        /// Which.
        id: NodeId,
    },
    /// A member leaves for ever.
    Remove {
        /// Which.
        id: NodeId,
    },
}

/// A voter wanted by `Input::SetVoters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoterTarget {
    /// A member, by its id.
    Existing(NodeId),
    /// A node to admit. Naming one that is a member already under the same incarnation is the same as naming its id.
    New {
        /// The id it is admitted under.
        id: NodeId,
        /// Who and where it is.
        member: Member,
    },
}

impl VoterTarget {
    /// The id wanted.
    pub fn id(&self) -> NodeId {
        match self {
            VoterTarget::Existing(id) | VoterTarget::New { id, .. } => *id,
        }
    }
}

/// What an image of the state holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last entry applied in it.
    pub index: LogIndex,
    /// That entry's term.
    pub term: Term,
    /// The configuration in force at `index`.
    pub membership: Arc<Membership>,
    /// The entry that set it; at most `index`.
    pub membership_index: LogIndex,
}

/// What a node finds on its disk when it starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restored {
    /// Term, vote, commit.
    pub hard_state: HardState,
    /// The entry before the first one held, and its term.
    pub base: (LogIndex, Term),
    /// The configuration in force at the base, and the entry that set it. At base 0 the bootstrap configuration, or an
    /// empty one on a node that joins.
    pub base_membership: (LogIndex, Arc<Membership>),
    /// Where each term starts: ascending first indexes after the base, each with a term above the one before.
    pub terms: Vec<(LogIndex, Term)>,
    /// The last entry.
    pub last: LogIndex,
    /// Configurations after the base, ascending by index.
    pub memberships: Vec<(LogIndex, Arc<Membership>)>,
    /// Every entry after `applied`, or more; ends at `last`.
    pub tail: Vec<Entry>,
    /// Up to here the state machine has applied. May be above a commit index that was lost with an unsynced write.
    pub applied: LogIndex,
}
