//! What an administrator tells a replica and hears from it: the types of initialisation, membership, snapshots and reset.

use std::collections::BTreeMap;

use quorate_node::{InitRefused, ResetRefused};
use quorate_raft::{LogIndex, Member, NodeId, Term};

use super::status::FollowerView;
use crate::auth::TokenOptionError;
use crate::peer::IdentifyError;

/// One voter of a wanted configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoterSpec {
    /// A member of the current configuration.
    Id(NodeId),
    /// Whoever answers at this client or peer address now. Asked once.
    Address(String),
    /// An exact data folder, whatever its address leads to.
    New(Member),
}

/// How far a membership change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum VoterPhase {
    /// Addresses are being turned into nodes.
    Resolving,
    /// New voters are learners and copy the log.
    CatchingUp,
    /// Both halves must agree.
    Joint,
    /// The target is the committed configuration.
    Done,
}

/// One step of a membership change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoterProgress {
    /// How far it is.
    pub phase: VoterPhase,
    /// For people.
    pub text: String,
    /// Index of the newest configuration of this change.
    pub config_index: LogIndex,
    /// The nodes that are to become voters, as far as this node knows.
    pub learners: BTreeMap<NodeId, FollowerView>,
}

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Cluster it was taken from.
    pub cluster_id: u128,
    /// Last applied entry in it.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// Store revision.
    pub revision: i64,
    /// Format of the image.
    pub format_version: u32,
    /// About how many bytes it will have.
    pub expected_bytes: u64,
}

/// A replica could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used: not writable, locked by another process.
    #[error("data folder {path}: {problem}")]
    DataDir {
        /// The folder.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// Written by a newer release.
    #[error("{0}")]
    NewerFormat(String),
    /// The operating system refused a thread, a socket or randomness.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// Tokens cannot be given as asked.
    #[error(transparent)]
    Tokens(#[from] TokenOptionError),
}

/// A bootstrap configuration was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InitError {
    /// It contradicts itself.
    #[error("the bootstrap configuration is invalid: {0}")]
    Invalid(String),
    /// This node's state forbids it.
    #[error(transparent)]
    Refused(#[from] InitRefused),
    /// It could not be made durable, or the node stops.
    #[error("the bootstrap configuration was not stored: {0}")]
    Storage(String),
}

/// A membership change did not happen, or can no longer be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetVotersError {
    /// An address could not be turned into a node.
    #[error(transparent)]
    Identify(#[from] IdentifyError),
    /// The request contradicts itself or the cluster.
    #[error("{0}")]
    Invalid(String),
    /// The configuration changed since the caller looked.
    #[error("the configuration is now at index {current}, not at the expected one: look again")]
    StaleConfig {
        /// Index of the current configuration.
        current: LogIndex,
    },
    /// Another change took the place of this one.
    #[error("another membership change took the place of this one")]
    Superseded,
    /// No leader, no quorum, overload: the same call may succeed later.
    #[error("{0}")]
    Unavailable(String),
}

/// A node's data was not set aside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResetError {
    /// The cluster counts on it, or the caller means another node.
    #[error(transparent)]
    Refused(#[from] ResetRefused),
    /// The files could not be moved, or the node did not start again.
    #[error("the data could not be set aside: {0}")]
    Storage(String),
}
