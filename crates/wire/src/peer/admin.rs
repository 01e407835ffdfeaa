//! An administrator's request on its way from the node that took it to the leader, and the answer.
//!
//! Every operation may be repeated without harm, so the origin simply asks again until it hears an answer.

use quorate_proto::quorate::peer::v1 as pb;
use quorate_raft::{Incarnation, LogIndex, Member, MemberChange, NodeId, VoterTarget};

use super::split_session;
use crate::DecodeError;
use crate::entry::to_node;
use crate::envelope::join_session;
use crate::membership::{MAX_MEMBERSHIP_IDS, from_member, to_member};

const WHAT: &str = "admin request";

/// A request for the leader.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// The origin's run; with `request` it names the answer's receiver.
    pub session: Incarnation,
    /// The origin's own number.
    pub request: u64,
    /// What is asked.
    pub operation: AdminOperation,
}

/// What an administrator can ask of a leader.
#[derive(Debug, Clone, PartialEq)]
pub enum AdminOperation {
    /// These shall be the voters.
    SetVoters {
        /// Old members by id, new ones by their member record.
        target: Vec<VoterTarget>,
        /// Index of the configuration the caller looked at.
        expected: Option<LogIndex>,
    },
    /// One member is added, promoted or removed.
    ChangeMember(MemberChange),
    /// A member has new addresses, a new name or another newest version.
    UpdateMember {
        /// Whom it concerns.
        id: NodeId,
        /// The whole record.
        member: Member,
    },
    /// Raise the cluster version.
    RaiseVersion {
        /// To this one.
        version: u32,
    },
    /// Hand leadership over.
    TransferLeader {
        /// To this voter; None = the one whose log is furthest.
        to: Option<NodeId>,
    },
}

/// The leader's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminReply {
    /// As in the request.
    pub session: Incarnation,
    /// As in the request.
    pub request: u64,
    /// What came of it.
    pub result: Result<AdminSuccess, AdminRefused>,
}

/// What came of an accepted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminSuccess {
    /// The configuration at this index holds the change, or the state asked for was already reached or in flight.
    Accepted {
        /// Its log index.
        config_index: LogIndex,
    },
    /// Somebody else leads.
    Transferred,
}

/// Why a leader refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminRefused {
    /// Ask the leader.
    #[error("not the leader")]
    NotLeader,
    /// Another change is past the point where it could be superseded.
    #[error("the change of configuration at index {} is not finished", index.0)]
    Busy {
        /// Where it stands.
        index: LogIndex,
    },
    /// The configuration changed since the caller looked.
    #[error("the configuration is now the one at index {}", current.0)]
    StaleConfig {
        /// Where it stands.
        current: LogIndex,
    },
    /// No such member.
    #[error("node {0} is not a member")]
    UnknownMember(NodeId),
    /// It left, and an id never comes back.
    #[error("node {0} was removed for ever")]
    Removed(NodeId),
    /// Only a voter can lead.
    #[error("node {0} is not a voter")]
    NotVoter(NodeId),
    /// The learner lags too far behind to vote.
    #[error("node {0} has not caught up")]
    NotCaughtUp(NodeId),
    /// Too few of the voters that would remain are there.
    #[error("too few of the voters that would remain are there")]
    Unhealthy,
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Leadership did not move in time.
    #[error("leadership was not transferred: {0}")]
    TransferFailed(String),
    /// The leader has as much waiting as it may.
    #[error("too many requests")]
    TooManyRequests,
}

impl Admin {
    pub(super) fn to_wire(&self) -> pb::Admin {
        use pb::admin::Operation;
        let operation = match &self.operation {
            AdminOperation::SetVoters { target, expected } => Operation::SetVoters(pb::SetVoters {
                target: target.iter().map(to_target).collect(),
                expected_index: expected.map(|index| index.0),
            }),
            AdminOperation::ChangeMember(change) => to_change(change),
            AdminOperation::UpdateMember { id, member } => {
                Operation::UpdateMember(pb::UpdateMember { member: Some(to_member(*id, member)) })
            }
            AdminOperation::RaiseVersion { version } => Operation::RaiseVersion(pb::RaiseVersion { version: *version }),
            AdminOperation::TransferLeader { to } => {
                Operation::TransferLeader(pb::TransferLeader { to: to.map_or(0, |id| id.0) })
            }
        };
        let (session_high, session_low) = split_session(self.session);
        pb::Admin { request: self.request, session_high, session_low, operation: Some(operation) }
    }

    pub(super) fn from_wire(admin: pb::Admin) -> Result<Admin, DecodeError> {
        use pb::admin::Operation;
        let operation = match admin.operation.ok_or_else(|| DecodeError::missing(WHAT, "the operation"))? {
            Operation::SetVoters(set) => AdminOperation::SetVoters {
                target: from_targets(set.target)?,
                expected: set.expected_index.map(LogIndex),
            },
            Operation::AddMember(add) => AdminOperation::ChangeMember(MemberChange::Add {
                id: to_named(add.node_id)?,
                peer_address: add.peer_address,
                rises: add.rises,
            }),
            Operation::PromoteMember(promote) => {
                AdminOperation::ChangeMember(MemberChange::Promote { id: to_named(promote.node_id)? })
            }
            Operation::RemoveMember(remove) => {
                AdminOperation::ChangeMember(MemberChange::Remove { id: to_named(remove.node_id)? })
            }
            Operation::UpdateMember(update) => {
                let member = update.member.ok_or_else(|| DecodeError::missing(WHAT, "the member"))?;
                let (id, member) = from_member(WHAT, member)?;
                AdminOperation::UpdateMember { id, member }
            }
            Operation::RaiseVersion(raise) => AdminOperation::RaiseVersion { version: raise.version },
            Operation::TransferLeader(transfer) => AdminOperation::TransferLeader { to: to_node(transfer.to) },
        };
        let session = join_session(admin.session_high, admin.session_low);
        Ok(Admin { session, request: admin.request, operation })
    }
}

fn to_change(change: &MemberChange) -> pb::admin::Operation {
    use pb::admin::Operation;
    match change {
        MemberChange::Add { id, peer_address, rises } => {
            Operation::AddMember(pb::AddMember { node_id: id.0, peer_address: peer_address.clone(), rises: *rises })
        }
        MemberChange::Promote { id } => Operation::PromoteMember(pb::PromoteMember { node_id: id.0 }),
        MemberChange::Remove { id } => Operation::RemoveMember(pb::RemoveMember { node_id: id.0 }),
    }
}

fn to_named(id: u64) -> Result<NodeId, DecodeError> {
    to_node(id).ok_or_else(|| DecodeError::malformed(WHAT, "a node id is 0"))
}

fn to_target(target: &VoterTarget) -> pb::VoterTarget {
    let voter = match target {
        VoterTarget::Existing(id) => pb::voter_target::Voter::Existing(id.0),
        VoterTarget::New { id, member } => pb::voter_target::Voter::NewMember(to_member(*id, member)),
    };
    pb::VoterTarget { voter: Some(voter) }
}

fn from_targets(targets: Vec<pb::VoterTarget>) -> Result<Vec<VoterTarget>, DecodeError> {
    if targets.len() > MAX_MEMBERSHIP_IDS {
        return Err(DecodeError::TooLarge { what: WHAT, size: targets.len(), limit: MAX_MEMBERSHIP_IDS });
    }
    let mut out = Vec::with_capacity(targets.len());
    for target in targets {
        out.push(match target.voter.ok_or_else(|| DecodeError::missing(WHAT, "a voter"))? {
            pb::voter_target::Voter::Existing(id) => VoterTarget::Existing(to_named(id)?),
            pb::voter_target::Voter::NewMember(member) => {
                let (id, member) = from_member(WHAT, member)?;
                VoterTarget::New { id, member }
            }
        });
    }
    Ok(out)
}

impl AdminReply {
    pub(super) fn to_wire(&self) -> pb::AdminReply {
        use pb::admin_reply::Result as Wire;
        let result = match &self.result {
            Ok(AdminSuccess::Accepted { config_index }) => Wire::ConfigIndex(config_index.0),
            Ok(AdminSuccess::Transferred) => Wire::Transferred(pb::Transferred {}),
            Err(refused) => Wire::Refused(to_refusal(refused)),
        };
        let (session_high, session_low) = split_session(self.session);
        pb::AdminReply { request: self.request, session_high, session_low, result: Some(result) }
    }

    pub(super) fn from_wire(reply: pb::AdminReply) -> Result<AdminReply, DecodeError> {
        use pb::admin_reply::Result as Wire;
        let result = match reply.result.ok_or_else(|| DecodeError::missing("admin reply", "the result"))? {
            Wire::ConfigIndex(index) => Ok(AdminSuccess::Accepted { config_index: LogIndex(index) }),
            Wire::Transferred(_) => Ok(AdminSuccess::Transferred),
            Wire::Refused(refusal) => Err(from_refusal(refusal)),
        };
        let session = join_session(reply.session_high, reply.session_low);
        Ok(AdminReply { session, request: reply.request, result })
    }
}

fn to_refusal(refused: &AdminRefused) -> pb::AdminRefusal {
    use pb::AdminRefusalReason as Reason;
    let (reason, index, node_id, text) = match refused {
        AdminRefused::NotLeader => (Reason::NotLeader, 0, 0, ""),
        AdminRefused::Busy { index } => (Reason::Busy, index.0, 0, ""),
        AdminRefused::StaleConfig { current } => (Reason::StaleConfig, current.0, 0, ""),
        AdminRefused::UnknownMember(id) => (Reason::UnknownMember, 0, id.0, ""),
        AdminRefused::Removed(id) => (Reason::Removed, 0, id.0, ""),
        AdminRefused::NotVoter(id) => (Reason::NotVoter, 0, id.0, ""),
        AdminRefused::NotCaughtUp(id) => (Reason::NotCaughtUp, 0, id.0, ""),
        AdminRefused::Unhealthy => (Reason::Unhealthy, 0, 0, ""),
        AdminRefused::Invalid(text) => (Reason::Invalid, 0, 0, text.as_str()),
        AdminRefused::TransferFailed(text) => (Reason::TransferFailed, 0, 0, text.as_str()),
        AdminRefused::TooManyRequests => (Reason::TooManyRequests, 0, 0, ""),
    };
    pb::AdminRefusal { reason: reason.into(), index, node_id, text: text.to_owned() }
}

fn from_refusal(refusal: pb::AdminRefusal) -> AdminRefused {
    use pb::AdminRefusalReason as Reason;
    let index = LogIndex(refusal.index);
    let id = NodeId(refusal.node_id);
    match refusal.reason() {
        Reason::NotLeader => AdminRefused::NotLeader,
        Reason::Busy => AdminRefused::Busy { index },
        Reason::StaleConfig => AdminRefused::StaleConfig { current: index },
        Reason::UnknownMember => AdminRefused::UnknownMember(id),
        Reason::Removed => AdminRefused::Removed(id),
        Reason::NotVoter => AdminRefused::NotVoter(id),
        Reason::Unhealthy => AdminRefused::Unhealthy,
        Reason::NotCaughtUp => AdminRefused::NotCaughtUp(id),
        Reason::TransferFailed => AdminRefused::TransferFailed(refusal.text),
        Reason::TooManyRequests => AdminRefused::TooManyRequests,
        // A reason of a newer build comes with its text.
        Reason::Invalid | Reason::Unspecified => AdminRefused::Invalid(refusal.text),
    }
}
