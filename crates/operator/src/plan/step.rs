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
    /// Make the StatefulSet with this many pods and everything beside it, or bring them to what the resource now says.
    ApplyObjects {
        /// Number of pods.
        replicas: u32,
    },
    /// Ask for larger volumes, and make the StatefulSet again so that it makes larger ones too.
    GrowVolumes,
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
    /// Take a pod out of the client Service, or put it back.
    SetServing {
        /// Which pod.
        ordinal: Ordinal,
        /// Whether clients are sent to it.
        serving: bool,
    },
    /// Hand leadership to a voter that stays.
    TransferLeader {
        /// To whom.
        to: NodeId,
        /// Index of the configuration that was observed.
        expected_config_index: u64,
    },
    /// Delete a pod so that it starts again: with the newest template, or on a new volume.
    RestartPod(Ordinal),
    /// Have a node set its data aside and start empty: it is of this cluster no more.
    ResetNode(Ordinal),
    /// Delete a volume that no member lives on.
    DeleteVolume(Ordinal),
    /// Note on a volume of an earlier life that it is of this cluster, whose data was seen there.
    MarkVolume(Ordinal),
    /// Make, change or remove the PodMonitor.
    ApplyMonitor,
    /// Write into the status that a recovery begins, from which volume, and under which new random id.
    LatchRecovery {
        /// The pod whose volume holds the data.
        survivor: Ordinal,
    },
    /// Start the job of the latched recovery. Every pod is gone.
    StartRecovery,
    /// Delete the job of the latched recovery: no container of it was ever started, it has failed, or its work is latched.
    DeleteRecoveryJob,
    /// The job is done: write the new id into the status in place of the old one, which is retired.
    LatchRecovered,
    /// Take the latched recovery, of which there is no job any more, out of the status: it is done, or given up.
    EndRecovery,
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
    Working(Work),
    /// Pods are to come up before anything can be decided.
    WaitingForPods,
    /// The user has paused the operator.
    Paused,
    /// A step would leave fewer than a quorum of the voters, or must not begin while members are missing. It waits for them.
    TooFewTakePart,
    /// A quorum of the voters does not answer. Nothing is touched: if they come back, so does the cluster.
    QuorumLost,
    /// So many members answer, or are ready, that they may be a quorum, and none leads. They can elect one by themselves, or something is
    /// between them; to give their data up would be wrong.
    NoLeader,
    /// A quorum does not answer; a recovery is asked for and cannot be begun.
    RecoveryRefused(Refusal),
    /// The job of a recovery has given up. The pods stay away until a human names another survivor, or takes the word back.
    RecoveryFailed,
    /// The volumes belong to another cluster, or to several, or too few of them are there. Nothing is wiped.
    ClusterIdMismatch,
    /// Outdated pods wait for a human's word.
    RollAwaitsApproval,
    /// The resource is being deleted.
    Deleting,
}

impl Finding {
    /// In CamelCase, as conditions and events want it.
    pub fn reason(&self) -> &'static str {
        match self {
            Finding::Working(work) => work.reason(),
            Finding::Reconciled => "Reconciled",
            Finding::MembersDown => "MembersDown",
            Finding::WaitingForPods => "WaitingForPods",
            Finding::Paused => "Paused",
            Finding::TooFewTakePart => "TooFewTakePart",
            Finding::QuorumLost => "QuorumLost",
            Finding::NoLeader => "NoLeader",
            Finding::RecoveryRefused(_) => "RecoveryRefused",
            Finding::RecoveryFailed => "RecoveryFailed",
            Finding::ClusterIdMismatch => "ClusterIDMismatch",
            Finding::RollAwaitsApproval => "RollAwaitsApproval",
            Finding::Deleting => "Deleting",
        }
    }
}

/// Why a recovery does not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody asked for one.
    NotAsked,
    /// The annotation cannot be understood.
    Unreadable,
    /// It names another cluster than this one, maybe the one before an earlier recovery.
    OtherCluster,
    /// A quorum may run.
    QuorumMayRun,
    /// The most advanced member is wanted, and none answers.
    NobodyAnswers,
    /// The pod that is named has no volume, or its node holds no data of the cluster.
    NoSuchSurvivor,
}

impl Refusal {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Refusal::NotAsked => "it was not asked for",
            Refusal::Unreadable => "the annotation must be CLUSTER-ID/best or CLUSTER-ID/POD",
            Refusal::OtherCluster => "the annotation names another cluster id than status.clusterID",
            Refusal::QuorumMayRun => "so many members answer or are ready that they may be a quorum",
            Refusal::NobodyAnswers => "no member answers, so the most advanced one is not known; name a pod instead",
            Refusal::NoSuchSurvivor => "the pod that is named has no volume, or no data of this cluster",
        }
    }
}

/// What a step is part of, as the user is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// The wish becomes the target.
    LatchingSize,
    /// The first pods.
    CreatingPods,
    /// Objects differ from what the resource says.
    UpdatingObjects,
    /// Before the first Init.
    ChoosingClusterId,
    /// Volumes of an earlier life hold the cluster.
    AdoptingCluster,
    /// Init.
    FormingCluster,
    /// An edit was taken back.
    GivingUpResize,
    /// A change cannot end as it was asked for.
    RestartingChange,
    /// A change runs on its own.
    ChangingConfiguration,
    /// Its pod is to run elsewhere.
    LeavingLostNode,
    /// Data that is of no use is set aside.
    EmptyingNode,
    /// New data for a voter that lost its own.
    ReplacingMember,
    /// More voters.
    ScalingUp,
    /// Fewer voters.
    ScalingDown,
    /// A pod with a newer template takes the place of one that takes no part.
    RestartingBrokenPod,
    /// Pods get the newest template.
    RollingUpdate,
    /// Pods get the newest template where none leads.
    RestoringLeader,
    /// A survivor's data becomes a new cluster, on a human's word.
    Recovering,
    /// The resource asks for larger ones.
    GrowingVolumes,
    /// A node runs data of a cluster that was replaced by a recovered one.
    RetiringNode,
    /// Its Kubernetes node is about to be emptied.
    MovingLeader,
    /// A volume of an earlier life is of this cluster.
    MarkingVolume,
    /// The PodMonitor differs from what the resource says.
    UpdatingMonitor,
}

impl Work {
    /// In CamelCase, as conditions and events want it.
    pub fn reason(self) -> &'static str {
        match self {
            Work::LatchingSize => "SpecChanged",
            Work::CreatingPods => "CreatingPods",
            Work::UpdatingObjects => "UpdatingObjects",
            Work::ChoosingClusterId => "ChoosingClusterID",
            Work::AdoptingCluster => "AdoptingCluster",
            Work::FormingCluster => "FormingCluster",
            Work::GivingUpResize => "GivingUpResize",
            Work::RestartingChange => "RestartingChange",
            Work::ChangingConfiguration => "ChangingConfiguration",
            Work::LeavingLostNode => "LeavingLostNode",
            Work::EmptyingNode => "EmptyingNode",
            Work::ReplacingMember => "ReplacingMember",
            Work::ScalingUp => "ScalingUp",
            Work::ScalingDown => "ScalingDown",
            Work::RestartingBrokenPod => "RestartingBrokenPod",
            Work::RollingUpdate => "RollingUpdate",
            Work::RestoringLeader => "RestoringLeader",
            Work::GrowingVolumes => "GrowingVolumes",
            Work::Recovering => "Recovering",
            Work::RetiringNode => "RetiringNode",
            Work::MovingLeader => "MovingLeader",
            Work::MarkingVolume => "MarkingVolume",
            Work::UpdatingMonitor => "UpdatingMonitor",
        }
    }

    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Work::LatchingSize => "the wanted size is noted",
            Work::CreatingPods => "the pods are being created",
            Work::UpdatingObjects => "the objects of the cluster are being brought to the specification",
            Work::ChoosingClusterId => "a cluster id is being chosen",
            Work::AdoptingCluster => "the cluster on the volumes is being taken up again",
            Work::FormingCluster => "the cluster is being formed",
            Work::GivingUpResize => "a resize is being given up, as the specification changed",
            Work::RestartingChange => "a change is being taken back, as a new member lost its data while it caught up",
            Work::ChangingConfiguration => "the change of the members is under way",
            Work::LeavingLostNode => "a pod is leaving a Kubernetes node that is gone",
            Work::EmptyingNode => "a node whose data is of no use is being emptied",
            Work::ReplacingMember => "a member that lost its data is being replaced",
            Work::ScalingUp => "members are being added",
            Work::ScalingDown => "members are being removed",
            Work::RestartingBrokenPod => "a broken pod is being started again with the new template",
            Work::RollingUpdate => "the new template is being rolled out",
            Work::RestoringLeader => {
                "enough members for a quorum answer and none has led for long; pods of an older template, which may be what keeps them from \
                 it, are being started again, one at a time"
            }
            Work::GrowingVolumes => "larger volumes are being asked for",
            Work::Recovering => "the cluster is being recovered from one survivor, as a human asked",
            Work::RetiringNode => "a node with data of a retired cluster is being started again, to set it aside",
            Work::MovingLeader => "leadership is leaving a Kubernetes node that takes no new pods",
            Work::MarkingVolume => "a volume of an earlier life is being noted as one of this cluster",
            Work::UpdatingMonitor => "the PodMonitor is being brought to the specification",
        }
    }
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
    /// Do `step`, which is part of `work`.
    pub(super) fn act(work: Work, step: Step) -> Plan {
        Plan { step: Some(step), finding: Finding::Working(work) }
    }

    /// Do nothing, because of `finding`.
    pub(super) fn wait(finding: Finding) -> Plan {
        Plan { step: None, finding }
    }
}
