//! What a reconcile saw, read live before anything is decided.

use std::collections::{BTreeMap, BTreeSet};

/// Position of a pod in its StatefulSet; pod, volume and member are found by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ordinal(pub u32);

/// Id of a member, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// Id of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

/// Random name of a data directory: another one means that the data before is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u128);

/// What the user asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Number of voters: 3 or 5.
    pub replicas: u32,
    /// Do nothing.
    pub paused: bool,
    /// The resource is being deleted.
    pub deleted: bool,
    /// Delete the volumes with the cluster.
    pub delete_volumes: bool,
    /// New pod templates are rolled out without asking.
    pub roll_unsupervised: bool,
    /// The annotation that asks for a recovery, if it is set.
    pub recovery: Option<RecoveryRequest>,
}

/// A human's word that the quorum of a cluster is gone for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveryRequest {
    /// Of this cluster, from this survivor.
    Of {
        /// The cluster that is lost. It names what the human looked at: a word for another one is void.
        cluster_id: ClusterId,
        /// Whose data to begin with.
        survivor: Survivor,
    },
    /// It cannot be understood.
    Unreadable,
}

/// Whose data a recovery begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survivor {
    /// The most advanced of those that answer.
    Best,
    /// This one.
    Pod(Ordinal),
}

/// What the operator must not forget, kept in the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latched {
    /// The cluster's id, chosen before the cluster was made.
    pub cluster_id: Option<ClusterId>,
    /// The number of voters that is being worked towards.
    pub target_replicas: Option<u32>,
    /// The cluster was seen to run: empty nodes have lost their data since, and are no reason to make it again.
    pub formed: bool,
    /// The recovery under way.
    pub recovery: Option<Recovery>,
}

/// A recovery that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// The pod whose volume it begins with.
    pub survivor: Ordinal,
    /// Id of the cluster that its data becomes.
    pub cluster_id: ClusterId,
    /// Its job was seen to have begun, and may have written: it is brought to its end also if somebody removes the job.
    pub begun: bool,
}

/// The job that turns a survivor's data into a cluster of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JobState {
    /// There is none.
    #[default]
    Absent,
    /// It is there, and no container of it was ever started: there is no room, no image, no volume.
    NotBegun,
    /// It, or a pod of it, may be at work.
    Running,
    /// It has done its work, once or more often.
    Succeeded,
    /// It has given up, and no pod of it is left running.
    Failed,
}

impl JobState {
    /// A container of it was started.
    pub fn has_begun(self) -> bool {
        matches!(self, JobState::Running | JobState::Succeeded | JobState::Failed)
    }
}

/// The StatefulSet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetState {
    /// Pods it is told to run.
    pub replicas: u32,
    /// The controller has seen its newest specification.
    pub settled: bool,
    /// It, or an object beside it that the cluster needs, differs from what the resource says, and an apply may mend that.
    pub outdated: bool,
    /// Something differs that an apply has just left as it is: somebody else writes it. It is tried again, after a pause.
    pub overridden: bool,
    /// A volume, or what it makes for new ones, is smaller than the resource says.
    pub small: bool,
    /// The last attempt to make them larger was refused.
    pub growth_refused: bool,
    /// The PodMonitor differs from what the resource says.
    pub monitor_outdated: bool,
    /// The last attempt to mend that was refused.
    pub monitor_refused: bool,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodState {
    /// It is ready by its probe.
    pub ready: bool,
    /// Its container runs, by the last word of its kubelet.
    pub runs: bool,
    /// It runs an older template than the StatefulSet's.
    pub outdated: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// It is labelled as one that the client Service sends clients to.
    pub serving: bool,
    /// It is not labelled so, and yet among the endpoints of the client Service.
    pub leaves_service: bool,
    /// Its Kubernetes node is gone for good: a human deleted the Node object or tainted it as out of service.
    pub node_lost: bool,
    /// Its Kubernetes node takes no new pods: it is about to be emptied.
    pub cordoned: bool,
}

/// One volume claim.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeState {
    /// It is being deleted.
    pub terminating: bool,
    /// It was made for this resource, or marked as its own when its data was seen to be of this cluster. Any other may hold data
    /// that somebody wants back.
    pub ours: bool,
    /// It can be used only on Kubernetes nodes that are gone for good, or is gone itself from under its claim.
    pub stranded: bool,
}

/// State that a node reports of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// Empty; waits to be taken in.
    Uninitialised,
    /// Has an id, is not in the configuration it knows.
    Joining,
    /// In the configuration.
    Member,
    /// Was taken out of it.
    Removed,
    /// Differs from the majority.
    Fenced,
    /// Its data is damaged.
    Damaged,
}

impl NodeState {
    /// It can be a voter that counts.
    pub fn is_sound(self) -> bool {
        matches!(self, NodeState::Joining | NodeState::Member)
    }
}

/// The answer of one node about itself. A node that did not answer has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// See [`NodeState`].
    pub state: NodeState,
    /// Of its data directory.
    pub incarnation: Incarnation,
    /// Cluster it belongs or belonged to.
    pub cluster_id: Option<ClusterId>,
    /// Its id there.
    pub node_id: Option<NodeId>,
    /// Where its log ends.
    pub log_end: LogEnd,
    /// The last configuration it knows to be committed.
    pub configuration: Option<Configuration>,
}

/// Who votes, as one node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configuration {
    /// Its log index: of two, the greater is the newer.
    pub index: u64,
    /// Ids of the voters.
    pub voters: BTreeSet<NodeId>,
}

/// The end of a log. Of two, the greater is the more advanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogEnd {
    /// Term of the last entry.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// One member of the committed configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// The pod that is, or was, this member.
    pub ordinal: Ordinal,
    /// The data it was admitted with.
    pub incarnation: Incarnation,
    /// Votes in the configuration.
    pub voter: bool,
}

/// How far a change of the configuration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// None is under way.
    None,
    /// New members catch up; another target may still take this one's place.
    CatchingUp,
    /// Both halves must agree; it ends by itself.
    Joint,
}

/// What the leader says of the cluster, confirmed with a quorum. Absent while there is no quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterView {
    /// Log index of the configuration.
    pub config_index: u64,
    /// The change under way.
    pub change: Change,
    /// The members.
    pub members: BTreeMap<NodeId, MemberView>,
    /// Who leads.
    pub leader: NodeId,
    /// Members that answer the leader; it is one of them.
    pub active: BTreeSet<NodeId>,
    /// Those of them that have what it has committed, but for a few entries.
    pub caught_up: BTreeSet<NodeId>,
}

impl ClusterView {
    /// The member that lives, or should live, in the pod `ordinal`.
    pub fn member_at(&self, ordinal: Ordinal) -> Option<(NodeId, &MemberView)> {
        self.members.iter().find(|(_, member)| member.ordinal == ordinal).map(|(id, member)| (*id, member))
    }

    /// Whether the voters are exactly the pods below `count`.
    pub fn has_voters_below(&self, count: u32) -> bool {
        let ordinals: BTreeSet<Ordinal> = self.members.values().filter(|m| m.voter).map(|m| m.ordinal).collect();
        ordinals == (0..count).map(Ordinal).collect()
    }

    /// Ids of the voters.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.members.iter().filter(|(_, member)| member.voter).map(|(id, _)| *id).collect()
    }

    /// How many pods may be taken away at once, on the way to `target` voters: not more than the smaller configuration of the two
    /// can spare, and one while a change is under way, when both must agree.
    pub fn spare(&self, target: u32) -> u32 {
        let voters = u32::try_from(self.voters().len()).unwrap_or(u32::MAX);
        if self.change == Change::None { voters.min(target).saturating_sub(1) / 2 } else { 1 }
    }
}

/// Everything a decision rests on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// The user's wish.
    pub wanted: Wanted,
    /// The operator's memory.
    pub latched: Latched,
    /// The StatefulSet, if there is one.
    pub set: Option<SetState>,
    /// Its pods.
    pub pods: BTreeMap<Ordinal, PodState>,
    /// Its volume claims.
    pub volumes: BTreeMap<Ordinal, VolumeState>,
    /// What the nodes say of themselves.
    pub nodes: BTreeMap<Ordinal, NodeReport>,
    /// What the cluster says of itself.
    pub cluster: Option<ClusterView>,
    /// So many members answer, or are ready and cannot be asked, that they may be a quorum, with or without a leader.
    pub quorum_may_run: bool,
    /// For longer than elections take a quorum has answered, and none led.
    pub long_leaderless: bool,
    /// Clusters whose place was taken by a recovered one; the nodes are told.
    pub retired: BTreeSet<ClusterId>,
    /// The job of the recovery under way.
    pub recovery_job: JobState,
    /// Times in a row that leadership was asked to move, and did not.
    pub transfers_tried: u32,
}

impl Observed {
    /// Whether those that answer, carry the cluster's data and can vote are a quorum of the newest configuration that any of them knows.
    /// In a joint configuration they are counted among the voters of both halves; whether both agree shows when they run.
    pub fn quorum_answers(&self) -> bool {
        let sound = || self.nodes.values().filter(|report| report.state.is_sound());
        let newest = sound().filter_map(|report| report.configuration.as_ref()).max_by_key(|known| known.index);
        newest.is_some_and(|known| {
            let there: BTreeSet<NodeId> = sound().filter_map(|report| report.node_id).collect();
            there.intersection(&known.voters).count() > known.voters.len() / 2
        })
    }

    /// Members that are going to be there: caught up, and in a pod that is not about to go.
    pub fn takes_part(&self, cluster: &ClusterView, id: NodeId) -> bool {
        let pod = cluster.members.get(&id).and_then(|member| self.pods.get(&member.ordinal));
        cluster.caught_up.contains(&id) && pod.is_none_or(|pod| !pod.terminating && !pod.node_lost)
    }

    /// Whether a quorum of the voters takes part without counting `victim`: then its pod may be taken down.
    pub fn can_spare(&self, cluster: &ClusterView, victim: NodeId) -> bool {
        let voters = cluster.voters();
        let others = voters.iter().filter(|id| **id != victim && self.takes_part(cluster, **id)).count();
        others > voters.len() / 2
    }

    /// Ordinals below this have, or had, a pod or a volume that stays.
    pub fn ordinals_kept(&self) -> u32 {
        self.volumes.iter().rfind(|(_, volume)| !volume.terminating).map_or(0, |(ordinal, _)| ordinal.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::{BTreeMap, BTreeSet, Change, ClusterView, Incarnation, MemberView, NodeId, Ordinal};

    fn view(voters: u32, learners: u32, change: Change) -> ClusterView {
        let member = |ordinal: u32| {
            let view = MemberView { ordinal: Ordinal(ordinal), incarnation: Incarnation(0), voter: ordinal < voters };
            (NodeId(u64::from(ordinal) + 1), view)
        };
        let members: BTreeMap<NodeId, MemberView> = (0..voters + learners).map(member).collect();
        ClusterView {
            config_index: 1,
            change,
            members,
            leader: NodeId(1),
            active: BTreeSet::new(),
            caught_up: BTreeSet::new(),
        }
    }

    #[test]
    fn a_drain_takes_no_more_than_the_smaller_configuration_can_spare() {
        assert_eq!(view(3, 0, Change::None).spare(3), 1);
        assert_eq!(view(5, 0, Change::None).spare(5), 2);
        assert_eq!(view(3, 2, Change::CatchingUp).spare(5), 1);
        assert_eq!(view(5, 0, Change::Joint).spare(5), 1);
        assert_eq!(view(5, 0, Change::None).spare(3), 1, "two of the three that stay would be too many");
    }
}
