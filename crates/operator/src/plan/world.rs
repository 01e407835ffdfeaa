//! A small model of Kubernetes and of a Quorate cluster, in which plans are carried out while things go wrong.
//!
//! What the model does by itself is what the real parts do by themselves: the StatefulSet makes pods and volumes, a pod on
//! an empty volume is an uninitialised node, a change of the configuration ends when its new members can be reached. The
//! operator may crash before any step (nothing happens) or after it (the next observation tells).

mod disturb;
mod invariants;
mod runs;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Change, ClusterId, ClusterView, Incarnation, JobState, Latched, LogEnd, MemberView, NodeId, NodeReport, NodeState,
    Observed, Ordinal, PodState, Recovery, SetState, Step, VolumeState, Voter, Wanted,
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
    damaged: bool,
    terminating: bool,
}

#[derive(Debug, Clone)]
struct Pod {
    /// Its uid.
    born: u64,
    running: bool,
    template: u32,
    serving: bool,
    node_lost: bool,
}

#[derive(Clone)]
struct World {
    random: Random,
    wanted: Wanted,
    latched: Latched,
    /// What the resource says, and what the StatefulSet says.
    template: u32,
    applied_template: u32,
    set: Option<u32>,
    pods: BTreeMap<Ordinal, Pod>,
    volumes: BTreeMap<Ordinal, Volume>,
    members: BTreeMap<NodeId, MemberView>,
    /// The voters asked for, while a change is under way.
    target: Option<Vec<NodeId>>,
    config_index: u64,
    leader: Option<NodeId>,
    initialised: usize,
    next_id: u64,
    /// The cluster that the members are of.
    running: Option<ClusterId>,
    /// Retired in the status, and as the nodes are told.
    retired: BTreeSet<ClusterId>,
    told_retired: BTreeSet<ClusterId>,
    /// The job of a recovery, and how it stands.
    job: Option<(Recovery, JobState)>,
    /// The volumes are smaller than what is asked for, and cannot grow.
    small: bool,
    refuses_growth: bool,
    /// Somebody scaled the set by hand while data of a retired cluster could start.
    meddled: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let wanted = Wanted { replicas: 3, roll_unsupervised: true, ..Wanted::default() };
        World {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            wanted,
            latched: Latched::default(),
            template: 1,
            applied_template: 1,
            set: None,
            pods: BTreeMap::new(),
            volumes: BTreeMap::new(),
            members: BTreeMap::new(),
            target: None,
            config_index: 0,
            leader: None,
            initialised: 0,
            next_id: 1,
            running: None,
            retired: BTreeSet::new(),
            told_retired: BTreeSet::new(),
            job: None,
            small: false,
            refuses_growth: seed.is_multiple_of(2),
            meddled: false,
        }
    }

    fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The member's own data is in a running pod.
    fn is_up(&self, id: NodeId) -> bool {
        let Some(member) = self.members.get(&id) else { return false };
        let pod = self.pods.get(&member.ordinal).is_some_and(|pod| pod.running && !pod.node_lost);
        let data = self.volumes.get(&member.ordinal).is_some_and(|v| v.incarnation == member.incarnation && !v.damaged);
        pod && data
    }

    /// Voters, and how many of them are up.
    fn voters_up(&self) -> (usize, usize) {
        let voters: Vec<NodeId> = self.members.iter().filter(|(_, m)| m.voter).map(|(id, _)| *id).collect();
        (voters.len(), voters.iter().filter(|id| self.is_up(**id)).count())
    }

    fn has_quorum(&self) -> bool {
        let (voters, up) = self.voters_up();
        voters > 0 && up > voters / 2
    }

    fn report(&self, ordinal: Ordinal) -> Option<NodeReport> {
        let pod = self.pods.get(&ordinal).filter(|pod| pod.running && !pod.node_lost);
        let volume = self.volumes.get(&ordinal)?;
        pod?;
        let state = match volume.identity {
            _ if volume.damaged => NodeState::Damaged,
            None => NodeState::Uninitialised,
            Some((_, id)) if self.members.contains_key(&id) => NodeState::Member,
            Some(_) if self.members.is_empty() => NodeState::Joining,
            Some(_) => NodeState::Removed,
        };
        let (cluster_id, node_id) = volume.identity.unzip();
        let log_end = LogEnd { term: 1, index: u64::from(ordinal.0) };
        Some(NodeReport { state, incarnation: volume.incarnation, cluster_id, node_id, log_end })
    }

    fn observe(&self) -> Observed {
        let cluster = self.leader.filter(|_| self.has_quorum()).map(|leader| ClusterView {
            config_index: self.config_index,
            change: if self.target.is_some() { Change::CatchingUp } else { Change::None },
            members: self.members.clone(),
            leader,
            caught_up: self.members.keys().copied().filter(|id| self.is_up(*id)).collect(),
        });
        let pod_state = |pod: &Pod| PodState {
            ready: pod.running,
            outdated: pod.template != self.applied_template,
            terminating: false,
            serving: pod.serving,
            node_lost: pod.node_lost,
        };
        Observed {
            wanted: self.wanted.clone(),
            latched: self.latched,
            set: self.set.map(|replicas| SetState {
                replicas,
                settled: true,
                outdated: self.applied_template != self.template || self.told_retired != self.retired,
                small: self.small,
            }),
            pods: self.pods.iter().map(|(o, pod)| (*o, pod_state(pod))).collect(),
            volumes: self.volumes.iter().map(|(o, v)| (*o, VolumeState { terminating: v.terminating })).collect(),
            nodes: self.volumes.keys().filter_map(|o| Some((*o, self.report(*o)?))).collect(),
            cluster,
            quorum_may_run: {
                let (voters, up) = self.voters_up();
                up > 0 && 2 * up >= voters
            },
            retired: self.retired.clone(),
            recovery_job: match (self.job, self.latched.recovery) {
                (Some((of, state)), Some(latched)) if of == latched || state == JobState::Running => state,
                _ => JobState::Absent,
            },
        }
    }

    /// What happens without the operator.
    fn live(&mut self) {
        let replicas = self.set.unwrap_or(0);
        // Pods outlive a set that is made again.
        self.pods.retain(|ordinal, _| self.set.is_none() || ordinal.0 < replicas);
        let pods = &self.pods;
        self.volumes.retain(|ordinal, volume| !volume.terminating || pods.contains_key(ordinal));
        for ordinal in (0..replicas).map(Ordinal) {
            if !self.volumes.contains_key(&ordinal) {
                let incarnation = Incarnation(u128::from(self.fresh()));
                let volume = Volume { incarnation, identity: None, damaged: false, terminating: false };
                self.volumes.insert(ordinal, volume);
            }
            let (template, born) = (self.applied_template, self.fresh());
            let fresh = Pod { born, running: false, template, serving: true, node_lost: false };
            let pod = self.pods.entry(ordinal).or_insert(fresh);
            if !pod.running && !pod.node_lost {
                self.start_node(ordinal);
            }
        }
        self.run_job();
        if self.has_quorum() {
            self.finish_change();
            if !self.leader.is_some_and(|leader| self.is_up(leader)) {
                self.leader = self.members.keys().copied().find(|id| self.members[id].voter && self.is_up(*id));
            }
        }
    }

    /// A node that is told of its cluster's retirement sets its data aside.
    fn start_node(&mut self, ordinal: Ordinal) {
        let incarnation = Incarnation(u128::from(self.fresh()));
        let volume = self.volumes.get_mut(&ordinal).expect("a pod has a volume");
        if volume.identity.is_some_and(|(cluster_id, _)| self.told_retired.contains(&cluster_id)) {
            *volume = Volume { incarnation, identity: None, damaged: false, terminating: false };
        }
        self.pods.get_mut(&ordinal).expect("it was just made").running = true;
    }

    /// The job does its work, is tried again, or gives up; it never works beside a node on the same volume.
    fn run_job(&mut self) {
        let Some((recovery, JobState::Running)) = self.job else { return };
        if self.pods.contains_key(&recovery.survivor) || self.random.one_in(2) {
            return;
        }
        let usable = self.volumes.get(&recovery.survivor).is_some_and(|v| v.identity.is_some() && !v.damaged);
        if !usable {
            self.job = Some((recovery, JobState::Failed));
            return;
        }
        let id = NodeId(self.fresh());
        let volume = self.volumes.get_mut(&recovery.survivor).expect("it was just looked at");
        volume.identity = Some((recovery.cluster_id, id));
        let member = MemberView { ordinal: recovery.survivor, incarnation: volume.incarnation, voter: true };
        self.members = [(id, member)].into();
        self.target = None;
        self.leader = None;
        self.config_index += 1;
        self.running = Some(recovery.cluster_id);
        self.job = Some((recovery, JobState::Succeeded));
    }

    /// New voters are learners at once, and know it.
    fn begin_change(&mut self, voters: Vec<Voter>) {
        self.members.retain(|_, member| member.voter);
        let cluster_id = self.running.expect("who asks for a change was answered by a cluster");
        let mut target = Vec::new();
        for voter in voters {
            match voter {
                Voter::Existing(id) => target.push(id),
                Voter::New(ordinal, incarnation) => {
                    let id = NodeId(self.fresh());
                    self.members.insert(id, MemberView { ordinal, incarnation, voter: false });
                    if let Some(volume) = self.volumes.get_mut(&ordinal).filter(|v| v.incarnation == incarnation) {
                        volume.identity = Some((cluster_id, id));
                    }
                    target.push(id);
                }
            }
        }
        self.target = Some(target);
        self.config_index += 1;
    }

    /// A change ends when every new voter runs on the data it was named by.
    fn finish_change(&mut self) {
        let Some(target) = &self.target else { return };
        let voter = |id: &NodeId| self.members.get(id).is_some_and(|member| member.voter);
        if !target.iter().all(|id| voter(id) || self.is_up(*id)) {
            return;
        }
        self.members.retain(|id, _| target.contains(id));
        self.members.values_mut().for_each(|member| member.voter = true);
        self.target = None;
        self.config_index += 1;
    }

    fn act(&mut self, step: Step, observed: &Observed) {
        self.check(&step, observed);
        match step {
            Step::ApplyObjects { replicas } => {
                self.set = Some(replicas);
                self.applied_template = self.template;
                self.told_retired = self.retired.clone();
            }
            Step::ScaleSet { replicas } => self.set = Some(replicas),
            Step::SetServing { ordinal, serving } => {
                self.pods.get_mut(&ordinal).expect("a pod that is labelled exists").serving = serving;
            }
            Step::LatchTarget { replicas } => self.latched.target_replicas = Some(replicas),
            Step::LatchNewClusterId => self.latched.cluster_id = Some(ClusterId(u128::from(self.fresh()))),
            Step::AdoptClusterId(id) => self.latched.cluster_id = Some(id),
            Step::Init { cluster_id, members } => self.init(cluster_id, &members),
            Step::SetVoters { voters, expected_config_index } => {
                if expected_config_index == self.config_index {
                    self.begin_change(voters);
                }
            }
            Step::TransferLeader { to } => self.leader = Some(to),
            Step::RestartPod(ordinal) => drop(self.pods.remove(&ordinal)),
            Step::ResetNode(ordinal) => {
                let incarnation = Incarnation(u128::from(self.fresh()));
                let volume = Volume { incarnation, identity: None, damaged: false, terminating: false };
                self.volumes.insert(ordinal, volume);
            }
            Step::DeleteVolume(ordinal) => {
                self.volumes.get_mut(&ordinal).expect("a volume that is deleted exists").terminating = true;
            }
            Step::LatchRecovery { survivor } => {
                let cluster_id = ClusterId(u128::from(self.fresh()));
                self.latched.recovery = Some(Recovery { survivor, cluster_id });
            }
            Step::StartRecovery => {
                self.job = Some((self.latched.recovery.expect("a job is for a latched recovery"), JobState::Running));
            }
            Step::LatchRecovered => {
                let recovery = self.latched.recovery.take().expect("a job is for a latched recovery");
                self.retired.extend(self.latched.cluster_id.replace(recovery.cluster_id));
            }
            Step::AbandonRecovery => self.latched.recovery = None,
            // The set is made again around its pods.
            Step::GrowVolumes if !self.refuses_growth => {
                self.small = false;
                self.set = None;
            }
            Step::GrowVolumes | Step::ReleaseFinalizer => {}
        }
    }

    /// What an operator that was held up does to a world that went on: each step names what it was decided on, so it has its
    /// effect only where that is still there. `then` is the world in which it was decided.
    fn act_late(&mut self, step: Step, then: &World) {
        let same_pod = |ordinal: &Ordinal| {
            let born = |world: &World| world.pods.get(ordinal).map(|pod| pod.born);
            born(self).is_some() && born(self) == born(then)
        };
        let same_data = |ordinal: &Ordinal| {
            let identity = |world: &World| world.volumes.get(ordinal).and_then(|volume| volume.identity);
            identity(self).is_some() && identity(self) == identity(then)
        };
        let takes = match &step {
            // The status is written under the version that was read.
            Step::LatchTarget { .. }
            | Step::LatchNewClusterId
            | Step::AdoptClusterId(_)
            | Step::LatchRecovery { .. } => false,
            Step::LatchRecovered | Step::AbandonRecovery | Step::ReleaseFinalizer | Step::GrowVolumes => false,
            Step::RestartPod(ordinal) | Step::SetServing { ordinal, .. } => same_pod(ordinal),
            Step::ResetNode(ordinal) => same_data(ordinal),
            Step::DeleteVolume(ordinal) => {
                let data = |world: &World| world.volumes.get(ordinal).map(|volume| volume.incarnation);
                data(self).is_some() && data(self) == data(then)
            }
            // A smaller set is asked for under the version that was seen.
            Step::ApplyObjects { replicas } | Step::ScaleSet { replicas } => {
                self.set == then.set || self.set.is_some_and(|now| now <= *replicas)
            }
            Step::StartRecovery => {
                self.latched.recovery == then.latched.recovery && self.job.map(|(of, _)| of) != self.latched.recovery
            }
            Step::TransferLeader { to } => self.leader == then.leader && self.is_up(*to),
            // Nodes that have accepted a configuration refuse any other, and a leader any but the newest index.
            Step::Init { members, .. } => {
                members.iter().all(|(ordinal, _)| !self.volumes.contains_key(ordinal) || same_data(ordinal))
            }
            Step::SetVoters { .. } => true,
        };
        if takes {
            self.act(step, &then.observe());
        }
    }

    /// An Init that may be cut short: some nodes accept, and the cluster forms when all have.
    fn init(&mut self, cluster_id: ClusterId, members: &[(Ordinal, Incarnation)]) {
        let mut accepted = BTreeMap::new();
        for (ordinal, incarnation) in members {
            if self.random.one_in(6) {
                return;
            }
            let id = NodeId(u64::try_from(incarnation.0).expect("small numbers in this model"));
            let volume = self.volumes.get_mut(ordinal).expect("a node that answered has a volume");
            if volume.incarnation != *incarnation {
                return;
            }
            volume.identity = Some((cluster_id, id));
            accepted.insert(id, MemberView { ordinal: *ordinal, incarnation: *incarnation, voter: true });
        }
        if self.members.is_empty() {
            self.initialised += 1;
            self.running = Some(cluster_id);
            self.members = accepted;
            self.config_index = 1;
        }
    }
}
