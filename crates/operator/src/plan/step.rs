//! The steps a plan can consist of, and what is found when there is nothing to do.

use super::observed::{ClusterId, Incarnation, NodeId, Ordinal};

/// A voter named in a change of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Voter {
    /// A member, by id.
    Existing(NodeId),
    /// An empty node, by the data directory it reported.
    New(Ordinal, Incarnation),
}

/// One idempotent action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the StatefulSet with this many pods, and everything beside it.
    CreateSet {
        /// Number of pods.
        replicas: u32,
    },
    /// Write this number of voters into the status as the one to work towards.
    LatchTarget {
        /// Number of voters.
        replicas: u32,
    },
    /// Draw a random cluster id and write it into the status. Must be durable before `Init`.
    LatchNewClusterId,
    /// Write the id that the volumes carry into the status.
    AdoptClusterId(ClusterId),
    /// Tell each of these empty nodes to form the cluster.
    Init {
        /// The latched id.
        cluster_id: ClusterId,
        /// The first voters, by the data directories they reported.
        members: Vec<(Ordinal, Incarnation)>,
    },
    /// Set the number of pods.
    ScaleSet {
        /// Number of pods.
        replicas: u32,
    },
    /// Ask for this set of voters, based on this configuration.
    SetVoters {
        /// The voters wanted.
        voters: Vec<Voter>,
        /// Index of the configuration that was observed.
        expected_config_index: u64,
    },
    /// Hand leadership to a voter that stays.
    TransferLeader {
        /// To whom.
        to: NodeId,
    },
    /// Delete a pod so that it starts again: with the newest template, or on a new volume.
    RestartPod(Ordinal),
    /// Have a node set its data aside and start empty: it is of this cluster no more.
    ResetNode(Ordinal),
    /// Delete a volume that no member lives on.
    DeleteVolume(Ordinal),
    /// Remove the finalizer: nothing is left to do for a deleted cluster.
    ReleaseFinalizer,
}

/// The state of affairs, for conditions and events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Everything is as wanted.
    Reconciled,
    /// A quorum serves, but not every member does; a pod that is started again comes back by itself.
    MembersDown,
    /// A step is being taken, or its effect awaited.
    Working(&'static str),
    /// Pods are to come up before anything can be decided.
    WaitingForPods,
    /// The user has paused the operator.
    Paused,
    /// A quorum of the voters does not answer. Nothing is touched: if they come back, so does the cluster.
    QuorumLost,
    /// The volumes belong to another cluster, or to several, or too few of them are there. Nothing is wiped.
    ClusterIdMismatch,
    /// Outdated pods wait for a human's word.
    RollAwaitsApproval,
    /// The resource is being deleted.
    Deleting,
}

/// One step at most, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What to do now.
    pub step: Option<Step>,
    /// What to tell the user.
    pub finding: Finding,
}

impl Plan {
    /// Do `step`, which serves `purpose`.
    pub(super) fn act(purpose: &'static str, step: Step) -> Plan {
        Plan { step: Some(step), finding: Finding::Working(purpose) }
    }

    /// Do nothing, because of `finding`.
    pub(super) fn wait(finding: Finding) -> Plan {
        Plan { step: None, finding }
    }
}
