//! A small model of Kubernetes and of a Quorate cluster, in which plans are carried out while things go wrong.
//!
//! What the model does by itself is what the real parts do by themselves: the StatefulSet makes pods and volumes, a pod on
//! an empty volume is an uninitialised node, a change of the configuration ends when its new members can be reached. The
//! operator may crash before any step (nothing happens) or after it (the next observation tells).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Change, ClusterId, ClusterView, Finding, Incarnation, Latched, MemberView, NodeId, NodeReport, NodeState, Observed,
    Ordinal, PodState, SetState, Step, VolumeState, Voter, Wanted, plan,
};

/// Steps after which a world without further faults must be as wanted.
const CONVERGED_WITHIN: usize = 400;

/// xorshift64*: the same seed gives the same world.
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
    running: bool,
    template: u32,
    serving: bool,
    node_lost: bool,
}

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
}

impl World {
    fn new(seed: u64) -> Self {
        let wanted =
            Wanted { replicas: 3, paused: false, deleted: false, delete_volumes: false, roll_unsupervised: true };
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

    fn has_quorum(&self) -> bool {
        let voters: Vec<NodeId> = self.members.iter().filter(|(_, m)| m.voter).map(|(id, _)| *id).collect();
        let up = voters.iter().filter(|id| self.is_up(**id)).count();
        !voters.is_empty() && up > voters.len() / 2
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
        Some(NodeReport { state, incarnation: volume.incarnation, cluster_id, node_id })
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
                outdated: self.applied_template != self.template,
            }),
            pods: self.pods.iter().map(|(o, pod)| (*o, pod_state(pod))).collect(),
            volumes: self.volumes.iter().map(|(o, v)| (*o, VolumeState { terminating: v.terminating })).collect(),
            nodes: self.volumes.keys().filter_map(|o| Some((*o, self.report(*o)?))).collect(),
            cluster,
        }
    }

    /// What happens without the operator.
    fn live(&mut self) {
        let replicas = self.set.unwrap_or(0);
        self.pods.retain(|ordinal, _| ordinal.0 < replicas);
        let pods = &self.pods;
        self.volumes.retain(|ordinal, volume| !volume.terminating || pods.contains_key(ordinal));
        for ordinal in (0..replicas).map(Ordinal) {
            if !self.volumes.contains_key(&ordinal) {
                let incarnation = Incarnation(u128::from(self.fresh()));
                let volume = Volume { incarnation, identity: None, damaged: false, terminating: false };
                self.volumes.insert(ordinal, volume);
            }
            let template = self.applied_template;
            let pod =
                self.pods.entry(ordinal).or_insert(Pod { running: false, template, serving: true, node_lost: false });
            pod.running = true;
        }
        if self.has_quorum() {
            self.finish_change();
            if !self.leader.is_some_and(|leader| self.is_up(leader)) {
                self.leader = self.members.keys().copied().find(|id| self.members[id].voter && self.is_up(*id));
            }
        }
    }

    /// New voters are learners at once, and know it.
    fn begin_change(&mut self, voters: Vec<Voter>) {
        self.members.retain(|_, member| member.voter);
        let cluster_id = self.latched.cluster_id.expect("a running cluster has a latched id");
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

    /// One thing goes wrong, or a user changes something. Never so much that the data of a quorum is lost.
    fn disturb(&mut self) {
        let ordinal = Ordinal(u32::try_from(self.random.below(5)).expect("below five"));
        let id = self.members.iter().find(|(_, m)| m.ordinal == ordinal).map(|(id, _)| *id);
        let all_others_up = self.members.keys().all(|other| Some(*other) == id || self.is_up(*other));
        let newcomer = id.is_some_and(|id| !self.members[&id].voter);
        let losable = newcomer || self.target.is_none() && all_others_up;
        match self.random.below(9) {
            0 => self.wanted.replicas = if self.random.one_in(2) { 3 } else { 5 },
            1 => drop(self.pods.remove(&ordinal)),
            2 if losable => {
                self.pods.remove(&ordinal);
                self.volumes.remove(&ordinal);
            }
            // Before the first Init nobody can tell a node without data from one that lost it: a human decides there.
            3 if losable && self.initialised > 0 => {
                if let Some(volume) = self.volumes.get_mut(&ordinal) {
                    volume.damaged = volume.identity.is_some();
                }
            }
            4 if losable && self.initialised > 0 => {
                if let Some(pod) = self.pods.get_mut(&ordinal) {
                    pod.node_lost = true;
                }
            }
            5 => self.template += 1,
            // Somebody scales the StatefulSet by hand.
            7 if self.set.is_some() => self.set = Some(u32::try_from(self.random.below(6)).expect("below six")),
            6 => self.wanted.paused = !self.wanted.paused,
            _ => self.leader = None,
        }
    }

    fn act(&mut self, step: Step, observed: &Observed) {
        self.check(&step, observed);
        match step {
            Step::ApplyObjects { replicas } => {
                self.set = Some(replicas);
                self.applied_template = self.template;
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
            Step::ReleaseFinalizer => {}
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
            self.members = accepted;
            self.config_index = 1;
        }
    }

    /// The invariants of the module, at the moment of each step.
    fn check(&self, step: &Step, observed: &Observed) {
        let spared = |ordinal: Ordinal| {
            let member = self.members.iter().find(|(_, m)| m.ordinal == ordinal);
            let voters: BTreeSet<NodeId> = self.members.iter().filter(|(_, m)| m.voter).map(|(id, _)| *id).collect();
            member.is_none_or(|(id, _)| {
                voters.iter().filter(|other| *other != id && self.is_up(**other)).count() > voters.len() / 2
                    || !self.is_up(*id)
            })
        };
        match step {
            Step::SetVoters { voters, .. } => {
                let gives_up = voters.iter().all(|voter| matches!(voter, Voter::Existing(_)));
                assert!(self.target.is_none() || gives_up, "a second change is asked for");
            }
            Step::RestartPod(ordinal) | Step::ResetNode(ordinal) => {
                assert!(spared(*ordinal), "{step:?} costs the quorum in {observed:?}");
            }
            Step::DeleteVolume(ordinal) => {
                let lives_there = self.members.values().any(|m| m.ordinal == *ordinal);
                let lost = self.pods.get(ordinal).is_some_and(|pod| pod.node_lost);
                assert!(!lives_there || lost, "{step:?}: a member lives there in {observed:?}");
                assert!(spared(*ordinal));
            }
            Step::LatchNewClusterId => assert_eq!(self.initialised, 0, "a second cluster would be made"),
            _ => {}
        }
    }

    fn is_as_wanted(&self) -> bool {
        let ordinals: BTreeSet<u32> = self.members.values().map(|m| m.ordinal.0).collect();
        let expected: BTreeSet<u32> = (0..self.wanted.replicas).collect();
        ordinals == expected
            && self.set == Some(self.wanted.replicas)
            && self.volumes.len() == expected.len()
            && self.members.keys().all(|id| self.is_up(*id))
            && self.pods.values().all(|pod| pod.template == self.template && pod.serving)
    }
}

/// Runs one world: `faults` disturbances among the steps, then quiet until everything is as wanted.
fn run(seed: u64, faults: usize) {
    let mut world = World::new(seed);
    let mut left = faults;
    let mut quiet = 0;
    while quiet < CONVERGED_WITHIN {
        world.live();
        if left > 0 && world.random.one_in(5) {
            world.disturb();
            left -= 1;
        }
        if left == 0 {
            world.wanted.paused = false;
            quiet += 1;
        }
        let observed = world.observe();
        let decided = plan(&observed);
        assert!(!observed.wanted.paused || decided.step.is_none(), "seed {seed}: a paused cluster is touched");
        let crashed_before_it = world.random.one_in(8);
        if let Some(step) = decided.step.filter(|_| !crashed_before_it) {
            world.act(step, &observed);
        } else if left == 0 && decided.finding == Finding::Reconciled {
            break;
        }
    }
    assert!(world.is_as_wanted(), "seed {seed}: not as wanted: {:#?}\n{:?}", world.observe(), plan(&world.observe()));
    assert_eq!(world.initialised, 1, "seed {seed}");
}

#[test]
fn every_world_ends_as_wanted_whatever_goes_wrong_on_the_way() {
    for seed in 0..3_000 {
        run(seed, 12);
    }
}

#[test]
fn a_world_without_faults_comes_up() {
    run(1, 0);
}
