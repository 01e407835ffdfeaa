//! What a step does to the world, at once or late.

use std::collections::BTreeMap;

use super::{
    Changing, ClusterId, Incarnation, JobState, Latched, MemberView, NodeId, Ordinal, Recovery, Step, Voter, World,
};

impl World {
    /// The status is written under the version that was read, then the step is taken. `then` is the world that was looked at, which
    /// may have moved on: whoever acted since has written a status, too.
    pub(super) fn take(&mut self, step: Step, then: &World) {
        if then.version != self.version || then.resource != self.resource {
            return;
        }
        self.version += 1;
        self.act_late(step, then);
    }

    /// What an operator that was held up does to a world that went on: each step names what it was decided on, so it has its
    /// effect only where that is still there. `then` is the world in which it was decided.
    pub(super) fn act_late(&mut self, step: Step, then: &World) {
        let same_pod = |ordinal: &Ordinal| {
            let born = |world: &World| world.pods.get(ordinal).map(|pod| pod.born);
            born(self).is_some() && born(self) == born(then)
        };
        let same_data = |ordinal: &Ordinal| {
            let data = |world: &World| world.volumes.get(ordinal).map(|volume| (volume.incarnation, volume.identity));
            data(self).is_some() && data(self) == data(then)
        };
        let same_latches = self.version == then.version + 1 && self.latched == then.latched;
        let takes = match &step {
            // The status is written under the version that was read.
            Step::LatchTarget { .. }
            | Step::LatchNewClusterId
            | Step::AdoptClusterId(_)
            | Step::LatchRecovery { .. }
            | Step::LatchRecovered
            | Step::EndRecovery => same_latches,
            Step::ReleaseFinalizer => self.resource == then.resource,
            Step::GrowVolumes | Step::ApplyMonitor => true,
            Step::RestartPod(ordinal) | Step::SetServing { ordinal, .. } => same_pod(ordinal),
            Step::ResetNode(ordinal) => same_data(ordinal) && self.is_reachable(*ordinal),
            Step::DeleteVolume(ordinal) | Step::MarkVolume(ordinal) => {
                let data = |world: &World| world.volumes.get(ordinal).map(|volume| volume.incarnation);
                data(self).is_some() && data(self) == data(then)
            }
            // A set is applied under the version that was seen, and made only if there is none.
            Step::ApplyObjects { .. } | Step::ScaleSet { .. } => match then.set {
                Some(_) => self.set.is_some() && self.set_version == then.set_version,
                None => self.set.is_none(),
            },
            Step::StartRecovery => self.latched.recovery == then.latched.recovery && !self.has_job_of_recovery(),
            // How far it is is looked at again.
            Step::DeleteRecoveryJob => self.job.is_some() && self.job == then.job,
            Step::TransferLeader { to, expected_config_index } => {
                self.leader == then.leader && self.is_up(*to) && self.config_index == *expected_config_index
            }
            // Nodes that have accepted a configuration refuse any other, and a leader any but the newest index.
            Step::Init { members, .. } => members.iter().all(|(ordinal, incarnation)| {
                self.volumes.get(ordinal).is_some_and(|v| v.incarnation == *incarnation) && self.is_reachable(*ordinal)
            }),
            Step::SetVoters { expected_config_index, .. } => {
                self.config_index == *expected_config_index && self.leader.is_some_and(|id| self.is_up(id))
            }
        };
        if takes {
            self.act(step, then);
        }
    }

    fn act(&mut self, step: Step, then: &World) {
        let observed = then.observe();
        self.check(&step, then, &observed);
        if !matches!(step, Step::TransferLeader { .. }) {
            self.transfers_tried = 0;
        }
        match step {
            Step::ApplyObjects { replicas } => {
                self.told_retired = self.retired.clone();
                self.secret = true;
                self.applied_of_late = true;
                if !self.refused_templates.contains(&self.template) {
                    self.scale(replicas);
                    self.applied_template = self.template;
                }
            }
            Step::ScaleSet { replicas } => self.scale(replicas),
            Step::SetServing { ordinal, serving } => {
                self.pods.get_mut(&ordinal).expect("a pod that is labelled exists").serving = serving;
            }
            Step::LatchTarget { replicas } => self.latched.target_replicas = Some(replicas),
            Step::LatchNewClusterId => self.latched.cluster_id = Some(ClusterId(u128::from(self.fresh()))),
            Step::AdoptClusterId(id) => self.latched.cluster_id = Some(id),
            Step::Init { cluster_id, members } => self.init(cluster_id, &members),
            Step::SetVoters { voters, .. } => self.begin_change(voters),
            Step::TransferLeader { .. } if self.stubborn => self.transfers_tried += 1,
            Step::TransferLeader { to, .. } => {
                self.leader = Some(to);
                self.transfers_tried = 0;
            }
            Step::RestartPod(ordinal) => self.delete_pod(ordinal),
            Step::ResetNode(ordinal) => self.empty(ordinal),
            Step::DeleteVolume(ordinal) => {
                self.volumes.get_mut(&ordinal).expect("a volume that is deleted exists").terminating = true;
            }
            Step::MarkVolume(ordinal) => {
                self.volumes.get_mut(&ordinal).expect("a volume that is marked exists").owner = self.resource;
            }
            Step::LatchRecovery { survivor } => {
                let cluster_id = ClusterId(u128::from(self.fresh()));
                self.latched.recovery = Some(Recovery { survivor, cluster_id, begun: false });
            }
            Step::StartRecovery => {
                self.job = Some((self.latched.recovery.expect("a job is for a latched recovery"), JobState::NotBegun));
            }
            Step::DeleteRecoveryJob => {
                self.job = None;
                self.latched.recovery.as_mut().expect("a job is for a latched recovery").begun = false;
            }
            Step::LatchRecovered => {
                let recovery = self.latched.recovery.expect("a job is for a latched recovery");
                self.retired.extend(self.latched.cluster_id.replace(recovery.cluster_id));
            }
            Step::EndRecovery => self.latched.recovery = None,
            // The set is made again around its pods.
            Step::GrowVolumes if !self.refuses_growth => {
                self.small = false;
                self.write_set(None);
            }
            Step::ReleaseFinalizer => self.create_again(),
            Step::GrowVolumes => self.growth_refused = true,
            Step::ApplyMonitor => {}
        }
    }

    fn scale(&mut self, replicas: u32) {
        self.write_set(Some(replicas));
        self.unsettled = true;
    }

    /// By force from a node that is gone, and politely anywhere else.
    fn delete_pod(&mut self, ordinal: Ordinal) {
        let pod = self.pods.get_mut(&ordinal).expect("a pod that is deleted exists");
        pod.terminating = true;
        if pod.node_lost {
            self.pods.remove(&ordinal);
        }
    }

    /// The set and its pods go with the resource, the volumes stay, and somebody makes a resource of the same name.
    fn create_again(&mut self) {
        self.resource += 1;
        self.latched = Latched::default();
        self.wanted.deleted = false;
        self.write_set(None);
        self.pods.clear();
        self.told_retired.clear();
        self.retired.clear();
        self.job = None;
        self.transfers_tried = 0;
        self.leader = None;
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
                    self.lagging.insert(id);
                    target.push(id);
                }
            }
        }
        self.change = Some(Changing { target, joint: None });
        self.config_index += 1;
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
