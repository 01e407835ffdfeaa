//! Configurations and members as protobuf, and as records of the log file.
//!
//! Decoding checks shape only (ids that are not 0, no id twice, every id with its member). Whether a configuration may follow
//! another is consensus' own question.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use quorate_proto::quorate::log::v1 as pb;
use quorate_raft::{Incarnation, LogIndex, Member, Membership, NodeId};

use crate::identity::{from_id_bytes, to_id_bytes};
use crate::record::{Place, seal, unseal};
use crate::{DecodeError, FORMAT_VERSION};

const WHAT: &str = "membership";

/// A configuration names at most this many nodes, removed ones included.
pub const MAX_MEMBERSHIP_IDS: usize = 4096;

/// A record that holds the configuration effective from log index `at` on.
pub fn encode_membership(at: LogIndex, membership: &Membership) -> Vec<u8> {
    let mut out = Vec::new();
    seal(Place::Membership(at.0), &mut out, |body| {
        to_membership(membership).encode(body).expect("a vector grows");
    });
    out
}

/// The inverse of [`encode_membership`].
///
/// # Errors
/// Any [`DecodeError`].
pub fn decode_membership(at: LogIndex, record: Bytes) -> Result<Membership, DecodeError> {
    let body = unseal(Place::Membership(at.0), record)?;
    from_membership(pb::Membership::decode(body).map_err(|error| DecodeError::malformed(WHAT, error))?)
}

pub(crate) fn to_membership(membership: &Membership) -> pb::Membership {
    pb::Membership {
        voters: to_ids(&membership.voters),
        outgoing: to_ids(&membership.outgoing),
        learners: to_ids(&membership.learners),
        target: membership.target.as_ref().map(|target| pb::Target { voters: to_ids(target) }),
        members: membership.members.iter().map(|(id, member)| to_member(*id, member)).collect(),
        removed: membership.removed.iter().map(|id| id.0).collect(),
        cluster_version: membership.cluster_version,
        standing: to_ids(&membership.standing),
        rising: to_ids(&membership.rising),
    }
}

pub(crate) fn from_membership(membership: pb::Membership) -> Result<Membership, DecodeError> {
    if membership.members.len() > MAX_MEMBERSHIP_IDS {
        return Err(DecodeError::TooLarge { what: WHAT, size: membership.members.len(), limit: MAX_MEMBERSHIP_IDS });
    }
    if membership.cluster_version > FORMAT_VERSION {
        let (what, found) = ("the cluster's configuration", membership.cluster_version);
        return Err(DecodeError::UnknownVersion { what, found, supported: FORMAT_VERSION });
    }
    let mut members = BTreeMap::new();
    for member in membership.members {
        let (id, member) = from_member(WHAT, member)?;
        if members.insert(id, member).is_some() {
            return Err(DecodeError::malformed(WHAT, format_args!("node {id} stands in it twice")));
        }
    }
    // Their order says who left first.
    from_ids(&membership.removed)?;
    let removed = membership.removed.iter().map(|id| NodeId(*id)).collect();
    let membership = Membership {
        voters: from_ids(&membership.voters)?,
        outgoing: from_ids(&membership.outgoing)?,
        learners: from_ids(&membership.learners)?,
        standing: from_ids(&membership.standing)?,
        rising: from_ids(&membership.rising)?,
        target: membership.target.map(|target| from_ids(&target.voters)).transpose()?,
        members,
        removed,
        cluster_version: membership.cluster_version,
    };
    match contradiction(&membership) {
        Some(problem) => Err(DecodeError::malformed(WHAT, problem)),
        None => Ok(membership),
    }
}

/// What consensus would panic about, because there only a bug can bring it forth; here a peer or a disk can.
fn contradiction(membership: &Membership) -> Option<&'static str> {
    let voters: BTreeSet<NodeId> = membership.all_voters().collect();
    let described: BTreeSet<NodeId> = voters.union(&membership.learners).copied().collect();
    let joint_elsewhere = membership.is_joint() && membership.target.as_ref() != Some(&membership.voters);
    let target = membership.target.as_ref();
    let unbound = membership.members.iter().filter(|(_, member)| !member.is_bound());
    let rules = [
        (membership.learners.is_disjoint(&voters), "a learner votes"),
        (described.iter().eq(membership.members.keys()), "members are not voters and learners"),
        (membership.standing.is_subset(&membership.learners), "a standing learner is no learner"),
        (membership.rising.is_subset(&membership.standing), "who rises by itself is no standing learner"),
        (unbound.map(|(id, _)| id).all(|id| membership.standing.contains(id)), "a member has no data directory"),
        (membership.removed.iter().all(|id| !described.contains(id)), "a removed node is a member"),
        (!membership.voters.is_empty() || membership.members.is_empty(), "there are members but no voters"),
        (!joint_elsewhere, "a joint phase leads elsewhere than its target"),
        (target.is_none_or(|target| !target.is_empty() && target.is_subset(&described)), "the target is no member"),
    ];
    rules.into_iter().find(|(holds, _)| !holds).map(|(_, problem)| problem)
}

pub(crate) fn to_member(id: NodeId, member: &Member) -> pb::Member {
    pb::Member {
        node_id: id.0,
        incarnation: to_id_bytes(member.incarnation.0),
        name: member.name.clone(),
        peer_address: member.peer_address.clone(),
        client_addresses: member.client_addresses.clone(),
        max_version: member.max_version,
    }
}

pub(crate) fn from_member(what: &'static str, member: pb::Member) -> Result<(NodeId, Member), DecodeError> {
    if member.node_id == 0 {
        return Err(DecodeError::malformed(what, "a node id is 0"));
    }
    let id = NodeId(member.node_id);
    let member = Member {
        incarnation: Incarnation(from_id_bytes(what, &member.incarnation)?),
        name: member.name,
        peer_address: member.peer_address,
        client_addresses: member.client_addresses,
        max_version: member.max_version,
    };
    Ok((id, member))
}

fn to_ids(ids: &BTreeSet<NodeId>) -> Vec<u64> {
    ids.iter().map(|id| id.0).collect()
}

fn from_ids(ids: &[u64]) -> Result<BTreeSet<NodeId>, DecodeError> {
    if ids.len() > MAX_MEMBERSHIP_IDS {
        return Err(DecodeError::TooLarge { what: WHAT, size: ids.len(), limit: MAX_MEMBERSHIP_IDS });
    }
    let set: BTreeSet<NodeId> = ids.iter().map(|id| NodeId(*id)).collect();
    if set.len() != ids.len() || set.contains(&NodeId(0)) {
        return Err(DecodeError::malformed(WHAT, "an id is 0 or stands in one set twice"));
    }
    Ok(set)
}
