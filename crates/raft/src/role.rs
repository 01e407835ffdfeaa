//! What a node is at the moment. A fact that holds in one role only lives in that role's variant and ends with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::ids::{LogIndex, NodeId, ReadId, RequestId, Round, Time};
use crate::progress::Progress;
use crate::read_index::LeaderReads;
use crate::status::RoleKind;

#[derive(Debug)]
pub(crate) enum Role {
    Follower(Follower),
    /// Asks whether it would be elected, without raising its term (thesis 9.6).
    PreCandidate(Ballot),
    Candidate(Ballot),
    Leader(Box<Leader>),
}

#[derive(Debug, Default)]
pub(crate) struct Follower {
    /// The leader of this term, once heard.
    pub(crate) leader: Option<NodeId>,
    /// This node's log agrees with that leader's up to here, on disk or not.
    pub(crate) verified: LogIndex,
    /// The last append that was answered, and what the answer said: the same question needs no second answer.
    pub(crate) answered: Option<(Round, LogIndex)>,
    /// Reads the leader was asked about, oldest first.
    pub(crate) reads: VecDeque<ReadId>,
}

#[derive(Debug)]
pub(crate) struct Ballot {
    /// Who answered what. The own vote of a candidate stands here once it is durable.
    pub(crate) votes: BTreeMap<NodeId, bool>,
    /// Whether the leader asked for this campaign.
    pub(crate) transfer: bool,
    /// When those that have not answered are asked again.
    pub(crate) ask_again_at: Time,
}

#[derive(Debug)]
pub(crate) struct Leader {
    /// When this node became leader.
    pub(crate) since: Time,
    /// Its voters are those they are since; each may have been silent for long before.
    pub(crate) voters_since: Time,
    /// Its first entry: reads and configuration changes wait for its commit.
    pub(crate) term_start: LogIndex,
    /// Everybody but this node: members, and nodes that have just left.
    pub(crate) progress: BTreeMap<NodeId, Progress>,
    pub(crate) rounds: Rounds,
    pub(crate) reads: LeaderReads,
    pub(crate) transfer: Option<Transfer>,
    /// A target was told to campaign in this term: from then on no lease holds in it.
    pub(crate) gave_up_lease: bool,
    /// Voters that were offered leadership because this node is leaving, and did not take it.
    pub(crate) handover_tried: BTreeSet<NodeId>,
}

/// A leader's numbered broadcasts.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// The newest one, and when it was sent.
    pub(crate) current: Round,
    pub(crate) sent_at: Time,
    /// Rounds a quorum has not answered: number, time sent, commit index at that time. Oldest first.
    pub(crate) open: VecDeque<(Round, Time, LogIndex)>,
    /// The newest round a quorum has answered.
    pub(crate) confirmed: Option<ConfirmedRound>,
}

/// A round that a quorum has answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConfirmedRound {
    pub(crate) round: Round,
    pub(crate) sent_at: Time,
    /// How long a quorum of those who answered it votes for nobody else.
    pub(crate) promise: Duration,
}

/// A handover of leadership under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transfer {
    pub(crate) to: NodeId,
    /// None if this node hands over because it is leaving.
    pub(crate) request: Option<RequestId>,
    pub(crate) deadline: Time,
    /// The target has everything and was told to campaign.
    pub(crate) told: bool,
}

impl Role {
    pub(crate) fn kind(&self) -> RoleKind {
        match self {
            Role::Follower(_) => RoleKind::Follower,
            Role::PreCandidate(_) => RoleKind::PreCandidate,
            Role::Candidate(_) => RoleKind::Candidate,
            Role::Leader(_) => RoleKind::Leader,
        }
    }

    pub(crate) fn leader(&self) -> Option<&Leader> {
        if let Role::Leader(leader) = self { Some(leader) } else { None }
    }

    pub(crate) fn leader_mut(&mut self) -> Option<&mut Leader> {
        if let Role::Leader(leader) = self { Some(leader) } else { None }
    }

    pub(crate) fn follower_mut(&mut self) -> Option<&mut Follower> {
        if let Role::Follower(follower) = self { Some(follower) } else { None }
    }
}
