//! Who speaks: the first frame of a stream, and the answer to "who is at this address".

use quorate_proto::quorate::peer::v1 as pb;
use quorate_raft::{Incarnation, Member, NodeId};

use crate::DecodeError;
use crate::entry::to_node;
use crate::identity::{Identity, from_id_bytes, to_id_bytes};

const WHAT: &str = "hello";

/// The first frame of a stream, from both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The cluster the sender belongs to.
    pub cluster_id: u128,
    /// The sender.
    pub from: NodeId,
    /// Names, addresses and newest version of the sender, and the incarnation of its data.
    pub member: Member,
    /// Whom it means to reach.
    pub to: NodeId,
    /// The data it means to reach: an address may have passed to another node, or a disk been emptied.
    pub to_incarnation: Incarnation,
    /// Version of the messages on this stream.
    pub format_version: u32,
    /// In the callee's answer: why it will not listen.
    pub refused: Option<HelloRefused>,
}

/// Why a node will not listen to a caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelloRefused {
    /// The callee belongs to another cluster.
    #[error("wrong cluster: {0}")]
    WrongCluster(String),
    /// The callee is not the node the caller means.
    #[error("wrong node: {0}")]
    WrongNode(String),
    /// The caller's id belongs to another data directory.
    #[error("wrong incarnation: {0}")]
    WrongIncarnation(String),
    /// The caller has left the cluster.
    #[error("removed: {0}")]
    Removed(String),
    /// The callee cannot read the caller's messages.
    #[error("unknown version: {0}")]
    UnknownVersion(String),
    /// The callee is fenced, damaged or removed.
    #[error("not serving: {0}")]
    NotServing(String),
    /// The hello makes no sense.
    #[error("malformed: {0}")]
    Malformed(String),
}

/// What a node is to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeState {
    /// Empty: waits for Init, or for a leader that admits it.
    Uninitialised,
    /// Has an id, has not yet seen itself in a committed configuration.
    Joining,
    /// In the configuration.
    Member,
    /// Left the configuration for ever.
    Removed,
    /// Its state diverged from the quorum's: neither votes nor serves.
    Fenced,
    /// Its files are damaged: neither votes nor serves until it is seeded again.
    Damaged,
}

/// Who is at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Cluster and id, once it has them.
    pub identity: Option<Identity>,
    /// Name, addresses, newest version, incarnation.
    pub member: Member,
    /// What it is to its cluster.
    pub state: NodeState,
    /// Version of its software.
    pub version: String,
}

impl Hello {
    /// For a frame or the start of a snapshot.
    pub fn to_wire(&self) -> pb::Hello {
        let (refused, refusal_text) = to_refusal(self.refused.as_ref());
        pb::Hello {
            cluster_id: to_id_bytes(self.cluster_id),
            from: self.from.0,
            from_incarnation: to_id_bytes(self.member.incarnation.0),
            to: self.to.0,
            to_incarnation: to_id_bytes(self.to_incarnation.0),
            format_version: self.format_version,
            max_version: self.member.max_version,
            name: self.member.name.clone(),
            peer_address: self.member.peer_address.clone(),
            client_addresses: self.member.client_addresses.clone(),
            refused: refused.into(),
            refusal_text,
        }
    }

    /// The inverse of [`Hello::to_wire`].
    ///
    /// # Errors
    /// [`DecodeError::Malformed`]. The version is not judged here: the answer to an unknown one is a hello too.
    pub fn from_wire(hello: pb::Hello) -> Result<Hello, DecodeError> {
        if hello.from == 0 || hello.to == 0 {
            return Err(DecodeError::malformed(WHAT, "a node id is 0"));
        }
        let refused = from_refusal(&hello);
        Ok(Hello {
            cluster_id: from_id_bytes(WHAT, &hello.cluster_id)?,
            from: NodeId(hello.from),
            member: Member {
                incarnation: Incarnation(from_id_bytes(WHAT, &hello.from_incarnation)?),
                name: hello.name,
                peer_address: hello.peer_address,
                client_addresses: hello.client_addresses,
                max_version: hello.max_version,
            },
            to: NodeId(hello.to),
            to_incarnation: Incarnation(from_id_bytes(WHAT, &hello.to_incarnation)?),
            format_version: hello.format_version,
            refused,
        })
    }
}

fn to_refusal(refused: Option<&HelloRefused>) -> (pb::Refusal, String) {
    match refused {
        None => (pb::Refusal::Unspecified, String::new()),
        Some(HelloRefused::WrongCluster(text)) => (pb::Refusal::WrongCluster, text.clone()),
        Some(HelloRefused::WrongNode(text)) => (pb::Refusal::WrongNode, text.clone()),
        Some(HelloRefused::WrongIncarnation(text)) => (pb::Refusal::WrongIncarnation, text.clone()),
        Some(HelloRefused::Removed(text)) => (pb::Refusal::Removed, text.clone()),
        Some(HelloRefused::UnknownVersion(text)) => (pb::Refusal::UnknownVersion, text.clone()),
        Some(HelloRefused::NotServing(text)) => (pb::Refusal::NotServing, text.clone()),
        Some(HelloRefused::Malformed(text)) => (pb::Refusal::Malformed, text.clone()),
    }
}

fn from_refusal(hello: &pb::Hello) -> Option<HelloRefused> {
    let text = hello.refusal_text.clone();
    // A number of a newer build is still a refusal.
    let Ok(refusal) = pb::Refusal::try_from(hello.refused) else {
        return Some(HelloRefused::NotServing(text));
    };
    match refusal {
        pb::Refusal::Unspecified => None,
        pb::Refusal::WrongCluster => Some(HelloRefused::WrongCluster(text)),
        pb::Refusal::WrongNode => Some(HelloRefused::WrongNode(text)),
        pb::Refusal::WrongIncarnation => Some(HelloRefused::WrongIncarnation(text)),
        pb::Refusal::Removed => Some(HelloRefused::Removed(text)),
        pb::Refusal::UnknownVersion => Some(HelloRefused::UnknownVersion(text)),
        pb::Refusal::NotServing => Some(HelloRefused::NotServing(text)),
        pb::Refusal::Malformed => Some(HelloRefused::Malformed(text)),
    }
}

impl PeerIdentity {
    /// For the answer to Identify.
    pub fn to_wire(&self) -> pb::IdentifyResponse {
        pb::IdentifyResponse {
            incarnation: to_id_bytes(self.member.incarnation.0),
            cluster_id: self.identity.map(|id| to_id_bytes(id.cluster_id)).unwrap_or_default(),
            node_id: self.identity.map_or(0, |id| id.node_id.0),
            name: self.member.name.clone(),
            peer_address: self.member.peer_address.clone(),
            client_addresses: self.member.client_addresses.clone(),
            max_version: self.member.max_version,
            state: to_state(self.state).into(),
            version: self.version.clone(),
        }
    }

    /// The inverse of [`PeerIdentity::to_wire`].
    ///
    /// # Errors
    /// [`DecodeError::Malformed`], also for a state this build does not know.
    pub fn from_wire(response: pb::IdentifyResponse) -> Result<PeerIdentity, DecodeError> {
        const WHAT: &str = "answer to identify";
        let state = from_state(response.state()).ok_or_else(|| DecodeError::malformed(WHAT, "an unknown state"))?;
        let identity = match to_node(response.node_id) {
            Some(node_id) => Some(Identity { cluster_id: from_id_bytes(WHAT, &response.cluster_id)?, node_id }),
            None => None,
        };
        Ok(PeerIdentity {
            identity,
            member: Member {
                incarnation: Incarnation(from_id_bytes(WHAT, &response.incarnation)?),
                name: response.name,
                peer_address: response.peer_address,
                client_addresses: response.client_addresses,
                max_version: response.max_version,
            },
            state,
            version: response.version,
        })
    }
}

fn to_state(state: NodeState) -> pb::NodeState {
    match state {
        NodeState::Uninitialised => pb::NodeState::Uninitialised,
        NodeState::Joining => pb::NodeState::Joining,
        NodeState::Member => pb::NodeState::Member,
        NodeState::Removed => pb::NodeState::Removed,
        NodeState::Fenced => pb::NodeState::Fenced,
        NodeState::Damaged => pb::NodeState::Damaged,
    }
}

fn from_state(state: pb::NodeState) -> Option<NodeState> {
    Some(match state {
        pb::NodeState::Unspecified => return None,
        pb::NodeState::Uninitialised => NodeState::Uninitialised,
        pb::NodeState::Joining => NodeState::Joining,
        pb::NodeState::Member => NodeState::Member,
        pb::NodeState::Removed => NodeState::Removed,
        pb::NodeState::Fenced => NodeState::Fenced,
        pb::NodeState::Damaged => NodeState::Damaged,
    })
}
