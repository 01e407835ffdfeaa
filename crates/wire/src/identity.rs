//! Who a node is: cluster id, incarnation, and the node id.
//!
//! A node that is admitted while it runs gets an id that is a function of the cluster and of the random name of its data
//! directory: admitting the same directory twice gives the same id, and a wiped one gives another. A member that is added
//! before it is started gets a random id, and the configuration then ties it to one data directory. Either way no id is
//! ever used for two histories.

use bytes::Bytes;
use prost::Message;
use quorate_proto::quorate::log::v1 as pb;
use quorate_raft::{Incarnation, LogIndex, Member, Membership, NodeId};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_128;

use crate::membership::{from_member, to_member};
use crate::record::{Place, seal, unseal};
use crate::{DecodeError, FORMAT_VERSION};

/// A bootstrap configuration has at most this many members.
pub const MAX_BOOTSTRAP_MEMBERS: usize = 64;

/// Whom a data directory belongs to. Adopted once, durably, before the first promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster: a random name chosen by whoever initialised it, never 0.
    pub cluster_id: u128,
    /// This node in it.
    pub node_id: NodeId,
}

/// The id of the node with this data directory in this cluster. Never 0.
pub fn derive_node_id(cluster_id: u128, incarnation: Incarnation) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&cluster_id.to_be_bytes());
    bytes[16..].copy_from_slice(&incarnation.0.to_be_bytes());
    let hash = (xxh3_128(&bytes) >> 64) as u64;
    NodeId(hash.max(1))
}

/// The first configuration of a cluster, as every one of its first nodes accepts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// The cluster: a random name chosen by whoever initialised it, never 0.
    pub cluster_id: u128,
    /// The first voters; each key is derived from the cluster id and the member's incarnation.
    pub members: BTreeMap<NodeId, Member>,
}

impl Bootstrap {
    /// The configuration that makes `members` the voters of `cluster_id`, whatever their order.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] if there is no member, too many, or one twice.
    pub fn new(cluster_id: u128, members: impl IntoIterator<Item = Member>) -> Result<Bootstrap, DecodeError> {
        const WHAT: &str = "bootstrap configuration";
        let mut by_id = BTreeMap::new();
        for member in members {
            let id = derive_node_id(cluster_id, member.incarnation);
            let address = member.peer_address.clone();
            if by_id.insert(id, member).is_some() {
                return Err(DecodeError::malformed(WHAT, format_args!("the node at {address} is listed twice")));
            }
            if by_id.len() > MAX_BOOTSTRAP_MEMBERS {
                return Err(DecodeError::malformed(WHAT, format_args!("more than {MAX_BOOTSTRAP_MEMBERS} members")));
            }
        }
        if by_id.is_empty() {
            return Err(DecodeError::malformed(WHAT, "no member is listed"));
        }
        if cluster_id == 0 {
            return Err(DecodeError::malformed(WHAT, "the cluster id is 0"));
        }
        Ok(Bootstrap { cluster_id, members: by_id })
    }

    /// The configuration in force at log index 0.
    pub fn membership(&self) -> (LogIndex, Membership) {
        let membership = Membership {
            voters: self.members.keys().copied().collect(),
            members: self.members.clone(),
            cluster_version: 1,
            ..Membership::default()
        };
        (LogIndex(0), membership)
    }
}

/// A record for the log file.
pub fn encode_bootstrap(bootstrap: &Bootstrap) -> Vec<u8> {
    let mut out = Vec::new();
    seal(Place::Bootstrap, &mut out, |body| {
        to_bootstrap(bootstrap).encode(body).expect("a vector grows");
    });
    out
}

/// The inverse of [`encode_bootstrap`].
///
/// # Errors
/// Any [`DecodeError`].
pub fn decode_bootstrap(record: Bytes) -> Result<Bootstrap, DecodeError> {
    let body = unseal(Place::Bootstrap, record)?;
    let bootstrap =
        pb::Bootstrap::decode(body).map_err(|error| DecodeError::malformed(Place::Bootstrap.name(), error))?;
    from_bootstrap(bootstrap)
}

/// A record for the log file.
pub fn encode_identity(identity: &Identity) -> Vec<u8> {
    let mut out = Vec::new();
    seal(Place::Identity, &mut out, |body| {
        let identity = pb::Identity { cluster_id: to_id_bytes(identity.cluster_id), node_id: identity.node_id.0 };
        identity.encode(body).expect("a vector grows");
    });
    out
}

/// The inverse of [`encode_identity`].
///
/// # Errors
/// Any [`DecodeError`].
pub fn decode_identity(record: Bytes) -> Result<Identity, DecodeError> {
    let what = Place::Identity.name();
    let identity =
        pb::Identity::decode(unseal(Place::Identity, record)?).map_err(|error| DecodeError::malformed(what, error))?;
    if identity.node_id == 0 {
        return Err(DecodeError::malformed(what, "the node id is 0"));
    }
    Ok(Identity { cluster_id: from_id_bytes(what, &identity.cluster_id)?, node_id: NodeId(identity.node_id) })
}

/// The message for the peer service's Bootstrap call.
pub fn to_bootstrap(bootstrap: &Bootstrap) -> pb::Bootstrap {
    pb::Bootstrap {
        cluster_id: to_id_bytes(bootstrap.cluster_id),
        members: bootstrap.members.iter().map(|(id, member)| to_member(*id, member)).collect(),
    }
}

/// The inverse of [`to_bootstrap`].
///
/// # Errors
/// [`DecodeError::Malformed`], also if a member's id is not the one derived from its incarnation.
pub fn from_bootstrap(bootstrap: pb::Bootstrap) -> Result<Bootstrap, DecodeError> {
    let what = Place::Bootstrap.name();
    let cluster_id = from_id_bytes(what, &bootstrap.cluster_id)?;
    let mut members = Vec::new();
    for member in bootstrap.members.into_iter().take(MAX_BOOTSTRAP_MEMBERS + 1) {
        let (id, member) = from_member(what, member)?;
        if id != derive_node_id(cluster_id, member.incarnation) {
            return Err(DecodeError::malformed(
                what,
                format_args!("node id {id} does not follow from its incarnation"),
            ));
        }
        members.push(member);
    }
    Bootstrap::new(cluster_id, members)
}

/// The 16 bytes, big endian, that stand for a cluster id or an incarnation in every message.
pub fn to_id_bytes(id: u128) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

/// The inverse of [`to_id_bytes`].
///
/// # Errors
/// [`DecodeError::Malformed`] if it is not 16 bytes long.
pub fn from_id_bytes(what: &'static str, bytes: &[u8]) -> Result<u128, DecodeError> {
    let bytes: [u8; 16] = bytes
        .try_into()
        .map_err(|_| DecodeError::malformed(what, format_args!("an id of {} bytes, not 16", bytes.len())))?;
    Ok(u128::from_be_bytes(bytes))
}

/// Refuses a format version this build cannot read.
///
/// # Errors
/// [`DecodeError::UnknownVersion`], or [`DecodeError::Malformed`] for 0.
pub fn check_version(what: &'static str, found: u32) -> Result<(), DecodeError> {
    match found {
        0 => Err(DecodeError::malformed(what, "version 0")),
        1..=FORMAT_VERSION => Ok(()),
        _ => Err(DecodeError::UnknownVersion { what, found, supported: FORMAT_VERSION }),
    }
}
