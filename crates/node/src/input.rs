//! Everything that can happen to a replica.

use std::time::Duration;

use quorate_kv::{Actor, Command, Digest, DueLease, LeaseSummary, Outcome, Revision};
use quorate_raft::{Entry, Incarnation, LogIndex, NodeId, RequestId, SnapshotMeta, Term, WriteSeq};
use quorate_wire::PeerMessage;
use quorate_wire::peer::AdminOperation;

/// Something that happened, told to [`Node::step`](crate::Node::step).
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Time passed. Due at [`Node::next_deadline`](crate::Node::next_deadline), welcome at any time.
    Tick {
        /// Drawn by the caller from `0..election_timeout`; spreads elections.
        jitter: Duration,
    },
    /// A message arrived from a node whose hello was accepted.
    Peer {
        /// Who sent it, as its hello said: not taken from the message.
        from: NodeId,
        /// The message.
        message: PeerMessage,
    },
    /// The stream to a node broke: what was sent last may be lost.
    PeerLost {
        /// The node.
        id: NodeId,
    },
    /// Messages to a node were dropped because too many wait for it. What was asked of it is asked again in its time, not now:
    /// that would be dropped, too, and asked again, without a pause.
    PeerOverrun {
        /// The node.
        id: NodeId,
    },
    /// A majority of the voters known here refused this node's streams because it left the cluster.
    Refused {
        /// What they say, for people.
        reason: String,
    },
    /// A client asks for something; exactly one [`Effect::Answer`](crate::Effect::Answer) follows unless it is cancelled.
    Client {
        /// The caller's handle, unique among unanswered requests.
        request: RequestId,
        /// What is asked.
        op: ClientOp,
    },
    /// The client went away. A write may still take effect; nothing is answered any more.
    Cancel {
        /// As in [`Input::Client`].
        request: RequestId,
    },
    /// [`Effect::WriteLog`](crate::Effect::WriteLog) is durable. May come late and in any order.
    LogWritten {
        /// As in the effect.
        seq: WriteSeq,
    },
    /// [`Effect::InstallSnapshot`](crate::Effect::InstallSnapshot) is durable: state and log are the image's.
    SnapshotInstalled {
        /// As in the effect.
        seq: WriteSeq,
        /// Where the state machine stands now.
        state: AppliedState,
    },
    /// The state machine carried out [`Effect::Apply`](crate::Effect::Apply).
    Applied(AppliedSummary),
    /// Answer to [`Effect::ReadEntries`](crate::Effect::ReadEntries).
    EntriesRead {
        /// As in the effect.
        to: NodeId,
        /// As in the effect.
        from: LogIndex,
        /// Consecutive entries from there on; empty = compacted meanwhile.
        entries: Vec<Entry>,
    },
    /// A whole, verified image lies beside the state.
    SnapshotReceived {
        /// Who sent it.
        from: NodeId,
        /// The sender's term.
        term: Term,
        /// What the image holds.
        meta: SnapshotMeta,
    },
    /// [`Effect::SendSnapshot`](crate::Effect::SendSnapshot) ended.
    SnapshotSent {
        /// As in the effect.
        to: NodeId,
        /// Index of the image the receiver acknowledged.
        result: Result<LogIndex, ()>,
    },
    /// The state file is durable up to here.
    CheckpointDone {
        /// Applied index of the durable state.
        durable_applied: LogIndex,
    },
    /// Answer to [`Effect::FindDueLeases`](crate::Effect::FindDueLeases).
    LeasesDue {
        /// At most as many as were asked for, the oldest deadline first.
        due: Vec<DueLease>,
    },
    /// The disk or the quota is full, or no longer.
    DiskFull {
        /// Which of the two.
        yes: bool,
    },
    /// Hand leadership over and finish what is pending; [`Effect::Stopped`](crate::Effect::Stopped) says when.
    Stop,
}

/// What a client can ask of a replica.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientOp {
    /// Replicate and apply. The command was validated by its taker.
    Write {
        /// Who asks.
        actor: Actor,
        /// The command.
        command: Command,
    },
    /// Permission to read this node's state.
    Read(ReadOptions),
    /// A change of the cluster itself.
    Admin(AdminOperation),
}

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Consistency {
    /// Linearizable under the leader's lease; where the lease does not hold, as `Consistent`.
    #[default]
    Default,
    /// Linearizable, confirmed by a quorum for this very read.
    Consistent,
    /// What this node has, also without a leader.
    Stale,
}

/// What to do with a stale read whose bound this node cannot keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum OnStale {
    /// Refuse it, saying how stale the node is.
    #[default]
    Refuse,
    /// Wait until the bound holds, at most the request timeout.
    Wait,
    /// Ask the leader, as a `Default` read does.
    Forward,
}

/// How a client wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// How fresh.
    pub consistency: Consistency,
    /// Bound on the staleness of a `Stale` read.
    pub max_staleness: Option<Duration>,
    /// What happens past the bound.
    pub on_stale: OnStale,
    /// Wait until this revision is applied here: reading one's own writes from any node.
    pub min_revision: Option<i64>,
}

/// Where the state machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppliedState {
    /// Last applied entry.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// The store's revision.
    pub revision: Revision,
    /// The state hash.
    pub digest: Digest,
    /// The cluster clock, and when a lease runs out.
    pub leases: LeaseSummary,
}

/// What applying one [`Effect::Apply`](crate::Effect::Apply) came to. Effects are applied one by one, not merged: the
/// state hash is compared at the ends of batches that every node cuts at the same indexes.
#[derive(Debug, Clone, PartialEq)]
pub struct AppliedSummary {
    /// Where the state machine stands after the batch.
    pub state: AppliedState,
    /// One for each command entry, in log order.
    pub results: Vec<AppliedResult>,
}

/// What one command entry came to.
#[derive(Debug, Clone, PartialEq)]
pub struct AppliedResult {
    /// The entry.
    pub index: LogIndex,
    /// The node that took the request.
    pub origin: NodeId,
    /// That node's run.
    pub session: Incarnation,
    /// Number of the request in that run.
    pub sequence: u64,
    /// Its answer.
    pub outcome: Outcome,
}
