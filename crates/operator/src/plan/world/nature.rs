//! What happens without the operator.

use std::collections::BTreeSet;

use super::{Changing, ClusterId, JobState, MemberView, NodeId, Ordinal, Pod, World};

impl World {
    /// One moment passes.
    pub(super) fn live(&mut self) {
        if self.unsettled && !self.random.one_in(2) {
            self.unsettled = false;
            self.set_version += 1;
        }
        self.applied_of_late = self.applied_of_late && !(self.overridden && self.random.one_in(10));
        self.end_pods();
        self.start_pods();
        self.list_endpoints();
        self.run_job();
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            if self.is_up(id) && self.random.one_in(3) {
                self.lagging.remove(&id);
            }
        }
        if !self.can_elect() {
            self.leader = None;
        }
        if self.can_elect() {
            self.go_on_with_change();
            if !self.leader.is_some_and(|leader| self.is_up(leader)) {
                self.leader = self.voters().into_iter().find(|id| self.takes_part(*id));
            }
        }
        let observed = self.observe();
        let leaderless = observed.cluster.is_none() && observed.quorum_answers();
        self.leaderless_for = if leaderless { self.leaderless_for + 1 } else { 0 };
    }

    /// A pod that is deleted, or surplus, ends after a while; one that nobody reaches does not. Pods outlive a set that is made
    /// again.
    fn end_pods(&mut self) {
        let replicas = self.set.unwrap_or(0);
        for ordinal in self.pods.keys().copied().collect::<Vec<_>>() {
            let ends = self.random.one_in(2);
            let returns = self.random.one_in(4);
            let surplus = self.set.is_some() && !self.unsettled && ordinal.0 >= replicas;
            let pod = self.pods.get_mut(&ordinal).expect("its key was just read");
            pod.terminating |= surplus;
            pod.cut_off = pod.cut_off && !returns;
            if pod.terminating && ends && !pod.cut_off && !pod.node_lost && !pod.held_up {
                self.pods.remove(&ordinal);
            }
        }
        let pods = &self.pods;
        self.volumes.retain(|ordinal, volume| !volume.terminating || pods.contains_key(ordinal));
    }

    fn start_pods(&mut self) {
        let replicas = if self.unsettled { 0 } else { self.set.unwrap_or(0) };
        for ordinal in (0..replicas).map(Ordinal) {
            if !self.volumes.contains_key(&ordinal) {
                let volume = self.empty_volume();
                self.volumes.insert(ordinal, volume);
            }
            let (template, born) = (self.applied_template, self.fresh());
            let fresh = Pod {
                born,
                running: false,
                template,
                serving: true,
                listed: false,
                node_lost: false,
                terminating: false,
                cut_off: false,
                held_up: false,
            };
            let pod = self.pods.entry(ordinal).or_insert(fresh);
            let can_start =
                self.secret && !pod.node_lost && !pod.terminating && !self.bad_templates.contains(&pod.template);
            let volume = &self.volumes[&ordinal];
            if !pod.running && can_start && !volume.stranded && !volume.terminating {
                self.start_node(ordinal);
            }
        }
    }

    /// The endpoints of the client Service follow the labels of the pods after a while.
    fn list_endpoints(&mut self) {
        for pod in self.pods.values_mut() {
            if self.random.one_in(2) {
                pod.listed = pod.serving && pod.running;
            }
        }
    }

    /// A node that is told of its cluster's retirement sets its data aside.
    fn start_node(&mut self, ordinal: Ordinal) {
        let identity = self.volumes[&ordinal].identity;
        if identity.is_some_and(|(cluster_id, _)| self.told_retired.contains(&cluster_id)) {
            self.empty(ordinal);
        }
        self.pods.get_mut(&ordinal).expect("it was just made").running = true;
    }

    /// The data is set aside: the same volume, and a node without a name.
    pub(super) fn empty(&mut self, ordinal: Ordinal) {
        let fresh = self.empty_volume();
        let volume = self.volumes.get_mut(&ordinal).expect("a node has a volume");
        (volume.incarnation, volume.identity) = (fresh.incarnation, None);
        (volume.barred, volume.nameless) = (None, false);
    }

    /// The job does its work, is tried again, or gives up; it never works beside a node on the same volume.
    fn run_job(&mut self) {
        if let Some((recovery, JobState::NotBegun)) = self.job
            && !self.job_is_stuck
            && self.random.one_in(2)
        {
            self.job = Some((recovery, JobState::Running));
        }
        let Some((recovery, JobState::Running)) = self.job else { return };
        if self.pods.contains_key(&recovery.survivor) || self.random.one_in(2) {
            return;
        }
        let usable = |v: &super::Volume| v.identity.is_some() && v.barred.is_none() && !v.stranded;
        if !self.volumes.get(&recovery.survivor).is_some_and(usable) {
            self.job = Some((recovery, JobState::Failed));
            return;
        }
        let id = NodeId(self.fresh());
        let volume = self.volumes.get_mut(&recovery.survivor).expect("it was just looked at");
        volume.identity = Some((recovery.cluster_id, id));
        let member = MemberView { ordinal: recovery.survivor, incarnation: volume.incarnation, voter: true };
        self.members = [(id, member)].into();
        self.lagging.clear();
        self.change = None;
        self.leader = None;
        self.config_index += 1;
        self.running = Some(recovery.cluster_id);
        self.job = Some((recovery, JobState::Succeeded));
    }

    /// A change becomes joint when every new voter runs on the data it was named by and has caught up, and ends when both halves
    /// agree.
    fn go_on_with_change(&mut self) {
        let Some(Changing { target, joint }) = self.change.clone() else { return };
        let voters = self.voters();
        if joint.is_some() {
            if self.random.one_in(2) {
                return;
            }
            self.members.retain(|id, _| target.contains(id));
            self.change = None;
        } else if target.iter().all(|id| voters.contains(id) || self.is_up(*id) && !self.lagging.contains(id)) {
            for id in &target {
                self.members.get_mut(id).expect("a target is a member").voter = true;
            }
            self.change = Some(Changing { target, joint: Some(voters) });
        } else {
            return;
        }
        self.config_index += 1;
    }

    /// Ids on the volumes.
    pub(super) fn clusters_on_volumes(&self) -> BTreeSet<ClusterId> {
        self.volumes.values().filter_map(|volume| Some(volume.identity?.0)).collect()
    }
}
