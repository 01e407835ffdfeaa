//! A small model of Kubernetes and of a Quorate cluster, in which plans are carried out while things go wrong.
//!
//! What the model does by itself is what the real parts do by themselves: the StatefulSet makes pods and volumes, a pod on
//! an empty volume is an uninitialised node, a change of the configuration ends when its new members can be reached. The
//! operator may crash before any step (nothing happens) or after it (the next observation tells), or look at a world that has
//! moved on when it acts.

mod acts;
mod disturb;
mod invariants;
mod nature;
mod runs;
mod scenes;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Change, ClusterId, ClusterView, Configuration, Incarnation, JobState, Latched, LogEnd, MemberView, NodeId,
    NodeReport, NodeState, Observed, Ordinal, PodState, Recovery, SetState, Step, VolumeState, Voter, Wanted,
};

/// xorshift64*: the same seed gives the same world.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 33) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Debug, Clone)]
struct Volume {
    incarnation: Incarnation,
    /// Cluster and id, once taken in.
    identity: Option<(ClusterId, NodeId)>,
    /// What its node says of itself once it takes part in nothing any more: fenced, or damaged.
    barred: Option<NodeState>,
    /// Its files are so damaged that they do not say whose they are.
    nameless: bool,
    terminating: bool,
    /// The resource that it was made for, or marked as one of.
    owner: u64,
    /// It can be used on one Kubernetes node alone.
    local: bool,
    /// That node is gone for good.
    stranded: bool,
}

#[derive(Debug, Clone)]
struct Pod {
    /// Its uid.
    born: u64,
    running: bool,
    template: u32,
    serving: bool,
    /// It is among the endpoints of the client Service.
    listed: bool,
    node_lost: bool,
    terminating: bool,
    /// It runs, and neither the operator nor its kubelet's master reaches it.
    cut_off: bool,
    /// Nobody can end it: its kubelet is away, and may come back.
    held_up: bool,
}

/// How far a change of the configuration is.
#[derive(Debug, Clone)]
struct Changing {
    /// The voters asked for.
    target: Vec<NodeId>,
    /// The voters before, once both halves must agree.
    joint: Option<BTreeSet<NodeId>>,
}

#[derive(Clone)]
struct World {
    random: Random,
    /// The resource of this name, counted from the first; its version, and the number of looks at it.
    resource: u64,
    version: u64,
    wanted: Wanted,
    latched: Latched,
    /// What the resource says, and what the StatefulSet says.
    template: u32,
    applied_template: u32,
    /// Templates with which no pod can start.
    bad_templates: BTreeSet<u32>,
    /// Templates that the API server refuses.
    refused_templates: BTreeSet<u32>,
    /// Templates with which a node disturbs every election.
    quarrelsome_templates: BTreeSet<u32>,
    set: Option<u32>,
    /// Changes with the set, its status included.
    set_version: u64,
    /// The controller of the set has not seen its newest specification.
    unsettled: bool,
    pods: BTreeMap<Ordinal, Pod>,
    volumes: BTreeMap<Ordinal, Volume>,
    members: BTreeMap<NodeId, MemberView>,
    /// Members that run and are behind.
    lagging: BTreeSet<NodeId>,
    change: Option<Changing>,
    config_index: u64,
    leader: Option<NodeId>,
    /// Moments that a quorum has answered, and none led.
    leaderless_for: u32,
    /// Leadership does not move when it is asked to; how often it was asked.
    stubborn: bool,
    transfers_tried: u32,
    initialised: usize,
    next_id: u64,
    /// The cluster that the members are of.
    running: Option<ClusterId>,
    /// Retired in the status, and as the nodes are told.
    retired: BTreeSet<ClusterId>,
    told_retired: BTreeSet<ClusterId>,
    /// The admin token is there: without it nobody can be asked, and no pod starts.
    secret: bool,
    /// The job of a recovery, and how it stands.
    job: Option<(Recovery, JobState)>,
    /// A job finds no room, no image, no volume.
    job_is_stuck: bool,
    /// The volumes are smaller than what is asked for, and cannot grow.
    small: bool,
    refuses_growth: bool,
    /// The operator knows that they cannot.
    growth_refused: bool,
    /// Somebody writes over what is applied, and it is too soon for another apply.
    overridden: bool,
    applied_of_late: bool,
    /// Times that something went wrong, or somebody did something.
    disturbed: usize,
    /// Somebody scaled the set by hand while data of a retired cluster could start.
    meddled: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let wanted = Wanted { replicas: 3, roll_unsupervised: true, ..Wanted::default() };
        World {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            resource: 1,
            version: 0,
            wanted,
            latched: Latched::default(),
            template: 1,
            applied_template: 1,
            bad_templates: BTreeSet::new(),
            refused_templates: BTreeSet::new(),
            quarrelsome_templates: BTreeSet::new(),
            set: None,
            set_version: 0,
            unsettled: false,
            pods: BTreeMap::new(),
            volumes: BTreeMap::new(),
            members: BTreeMap::new(),
            lagging: BTreeSet::new(),
            change: None,
            config_index: 0,
            leader: None,
            leaderless_for: 0,
            stubborn: false,
            transfers_tried: 0,
            initialised: 0,
            next_id: 1,
            running: None,
            retired: BTreeSet::new(),
            told_retired: BTreeSet::new(),
            secret: true,
            job: None,
            job_is_stuck: false,
            small: false,
            refuses_growth: seed.is_multiple_of(2),
            growth_refused: false,
            overridden: false,
            applied_of_late: false,
            disturbed: 0,
            meddled: false,
        }
    }

    fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn write_set(&mut self, replicas: Option<u32>) {
        self.set = replicas;
        self.set_version += 1;
    }

    fn empty_volume(&mut self) -> Volume {
        Volume {
            incarnation: Incarnation(u128::from(self.fresh())),
            identity: None,
            barred: None,
            nameless: false,
            terminating: false,
            owner: self.resource,
            local: self.resource.is_multiple_of(2) || self.next_id.is_multiple_of(2),
            stranded: false,
        }
    }

    /// The member's own data is in a running pod.
    fn is_up(&self, id: NodeId) -> bool {
        let Some(member) = self.members.get(&id) else { return false };
        let pod = self.pods.get(&member.ordinal).is_some_and(|pod| pod.running && !pod.node_lost);
        let usable = |v: &Volume| v.incarnation == member.incarnation && v.barred.is_none();
        let data = self.volumes.get(&member.ordinal).is_some_and(usable);
        pod && data
    }

    /// It is up, has what is committed, and is not about to go.
    fn takes_part(&self, id: NodeId) -> bool {
        let stays = |member: &MemberView| self.pods.get(&member.ordinal).is_some_and(|pod| !pod.terminating);
        self.is_up(id) && !self.lagging.contains(&id) && self.members.get(&id).is_some_and(stays)
    }

    fn voters(&self) -> BTreeSet<NodeId> {
        self.members.iter().filter(|(_, m)| m.voter).map(|(id, _)| *id).collect()
    }

    /// The sets of voters that must each agree.
    fn halves(&self) -> Vec<BTreeSet<NodeId>> {
        match &self.change {
            Some(Changing { target, joint: Some(old) }) => vec![old.clone(), target.iter().copied().collect()],
            _ => vec![self.voters()],
        }
    }

    /// Whether those that are `there` are a quorum.
    fn is_quorum(&self, there: impl Fn(NodeId) -> bool) -> bool {
        let agrees = |half: &BTreeSet<NodeId>| half.iter().filter(|id| there(**id)).count() > half.len() / 2;
        self.halves().iter().all(agrees)
    }

    fn has_quorum(&self) -> bool {
        !self.members.is_empty() && self.is_quorum(|id| self.is_up(id))
    }

    /// So many run that let each other lead that one can.
    fn can_elect(&self) -> bool {
        let lets_lead = |id: NodeId| {
            let pod = self.members.get(&id).and_then(|member| self.pods.get(&member.ordinal));
            self.is_up(id) && pod.is_some_and(|pod| !self.quarrelsome_templates.contains(&pod.template))
        };
        self.has_quorum() && self.is_quorum(lets_lead)
    }

    /// The job is that of the latched recovery.
    fn has_job_of_recovery(&self) -> bool {
        self.job.zip(self.latched.recovery).is_some_and(|((of, _), latched)| of.cluster_id == latched.cluster_id)
    }

    /// The operator can ask the node in this pod.
    fn is_reachable(&self, ordinal: Ordinal) -> bool {
        let reachable = |pod: &Pod| pod.running && !pod.node_lost && !pod.cut_off && !pod.terminating;
        self.secret && self.pods.get(&ordinal).is_some_and(reachable)
    }

    fn report(&self, ordinal: Ordinal) -> Option<NodeReport> {
        if !self.is_reachable(ordinal) {
            return None;
        }
        let volume = self.volumes.get(&ordinal)?;
        let state = match (volume.barred, volume.identity) {
            (Some(barred), _) => barred,
            (None, None) => NodeState::Uninitialised,
            (None, Some((_, id))) if self.members.contains_key(&id) => NodeState::Member,
            (None, Some(_)) if self.members.is_empty() => NodeState::Joining,
            (None, Some(_)) => NodeState::Removed,
        };
        let (cluster_id, node_id) = volume.identity.filter(|_| !volume.nameless).unzip();
        let log_end = LogEnd { term: 1, index: u64::from(ordinal.0) };
        let configuration =
            (state == NodeState::Member).then(|| Configuration { index: self.config_index, voters: self.voters() });
        Some(NodeReport { state, incarnation: volume.incarnation, cluster_id, node_id, log_end, configuration })
    }

    /// What the leader says, if it leads, can be asked, and is of the cluster that was latched.
    fn view(&self) -> Option<ClusterView> {
        let leader = self.leader.filter(|_| self.has_quorum() && self.latched.cluster_id == self.running)?;
        if !self.members.get(&leader).is_some_and(|member| self.is_reachable(member.ordinal)) {
            return None;
        }
        let active: BTreeSet<NodeId> = self.members.keys().copied().filter(|id| self.is_up(*id)).collect();
        Some(ClusterView {
            config_index: self.config_index,
            change: match &self.change {
                None => Change::None,
                Some(Changing { joint: None, .. }) => Change::CatchingUp,
                Some(Changing { joint: Some(_), .. }) => Change::Joint,
            },
            members: self.members.clone(),
            leader,
            caught_up: active.difference(&self.lagging).copied().collect(),
            active,
        })
    }

    fn observe(&self) -> Observed {
        let pod_state = |pod: &Pod| PodState {
            ready: pod.running && !pod.cut_off && !pod.node_lost,
            runs: pod.running,
            outdated: pod.template != self.applied_template,
            terminating: pod.terminating,
            serving: pod.serving,
            leaves_service: pod.listed && !pod.serving,
            node_lost: pod.node_lost,
            cordoned: false,
        };
        let volume_state = |volume: &Volume| VolumeState {
            terminating: volume.terminating,
            ours: volume.owner == self.resource,
            stranded: volume.stranded,
        };
        Observed {
            wanted: self.wanted.clone(),
            latched: self.latched,
            set: self.set.map(|replicas| SetState {
                replicas,
                settled: !self.unsettled,
                outdated: self.applied_template != self.template
                    || self.told_retired != self.retired
                    || !self.secret
                    || self.overridden && !self.applied_of_late,
                overridden: self.overridden && self.applied_of_late,
                small: self.small,
                growth_refused: self.growth_refused,
                monitor_outdated: false,
                monitor_refused: false,
            }),
            pods: self.pods.iter().map(|(o, pod)| (*o, pod_state(pod))).collect(),
            volumes: self.volumes.iter().map(|(o, v)| (*o, volume_state(v))).collect(),
            nodes: self.volumes.keys().filter_map(|o| Some((*o, self.report(*o)?))).collect(),
            cluster: self.view(),
            quorum_may_run: {
                let voters = self.voters();
                let up = voters.iter().filter(|id| self.is_up(**id)).count();
                up > 0 && 2 * up >= voters.len()
            },
            long_leaderless: self.leaderless_for >= 10,
            retired: self.retired.clone(),
            recovery_job: match (self.job, self.latched.recovery) {
                (Some((_, JobState::Running)), Some(_)) => JobState::Running,
                (Some((of, state)), Some(latched)) if of.cluster_id == latched.cluster_id => state,
                _ => JobState::Absent,
            },
            transfers_tried: self.transfers_tried,
        }
    }
}
