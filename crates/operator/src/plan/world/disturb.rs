//! What goes wrong, and what people do.

use std::collections::BTreeSet;

use super::World;
use crate::plan::{ClusterId, JobState, NodeId, NodeState, Ordinal, RecoveryRequest, Survivor};

impl World {
    /// The member's own data is on its volume, and can be used again.
    fn is_intact(&self, id: NodeId) -> bool {
        let Some(member) = self.members.get(&id) else { return false };
        self.volumes.get(&member.ordinal).is_some_and(|volume| {
            volume.incarnation == member.incarnation
                && volume.barred.is_none()
                && !volume.terminating
                && !volume.stranded
        })
    }

    /// The data of a quorum is gone, whichever pods run.
    pub(super) fn is_lost_for_good(&self) -> bool {
        !self.members.is_empty() && !self.is_quorum(|id| self.is_intact(id))
    }

    /// The data of all but a minority goes.
    pub(super) fn lose_quorum(&mut self) {
        let keep = usize::from(self.random.one_in(2)) + 1;
        let intact = self.members.iter().filter(|(id, _)| self.is_intact(**id)).map(|(_, member)| member.ordinal);
        let kept: BTreeSet<Ordinal> = intact.take(keep.min(self.members.len() / 2)).collect();
        if kept.is_empty() {
            return;
        }
        for member in self.members.values().filter(|member| !kept.contains(&member.ordinal)) {
            self.pods.remove(&member.ordinal);
            self.volumes.remove(&member.ordinal);
        }
    }

    /// What a human says who sees that the quorum is gone: the right word most of the time.
    pub(super) fn ask_for_recovery(&mut self) {
        let Some(cluster_id) = self.latched.cluster_id else { return };
        let usable = |v: &super::Volume| v.identity.is_some() && !v.terminating && v.barred.is_none() && !v.stranded;
        let left: Vec<Ordinal> = self.volumes.iter().filter(|(_, v)| usable(v)).map(|(o, _)| *o).collect();
        let pick = usize::try_from(self.random.below(8)).expect("below eight");
        let survivor = left.get(pick).map_or(Survivor::Best, |ordinal| Survivor::Pod(*ordinal));
        self.wanted.recovery = Some(RecoveryRequest::Of { cluster_id, survivor });
    }

    /// The cluster is looked after as the one that it is: nobody has just made its resource again.
    fn is_known(&self) -> bool {
        let known = self.running.is_some() && self.latched.cluster_id == self.running;
        known && self.latched.recovery.is_none() && !self.wanted.deleted
    }

    /// The resource can be deleted and made again without a human who decides about the volumes: they hold one cluster and
    /// enough of it, and every node will answer.
    fn can_be_made_again(&self) -> bool {
        let one = self.clusters_on_volumes().into_iter().all(|id| Some(id) == self.running);
        self.is_known() && one && !self.is_lost_for_good() && self.volumes.values().all(|volume| !volume.stranded)
    }

    /// One thing goes wrong, or a user changes something. Data of a quorum is lost only where a human asks for a recovery.
    pub(super) fn disturb(&mut self) {
        self.disturbed += 1;
        let ordinal = Ordinal(u32::try_from(self.random.below(5)).expect("below five"));
        let id = self.members.iter().find(|(_, m)| m.ordinal == ordinal).map(|(id, _)| *id);
        let newcomer = id.is_some_and(|id| !self.members[&id].voter);
        let others_intact = self.is_quorum(|other| Some(other) != id && self.is_intact(other));
        let losable = newcomer || self.change.is_none() && self.members.len() > 2 && others_intact;
        match self.random.below(26) {
            0 => self.wanted.replicas = if self.random.one_in(2) { 3 } else { 5 },
            1 => drop(self.pods.remove(&ordinal)),
            2 if losable => {
                self.pods.remove(&ordinal);
                self.volumes.remove(&ordinal);
            }
            // Before the first Init nobody can tell a node without data from one that lost it: a human decides there.
            3 if losable && self.initialised > 0 => {
                if let Some(volume) = self.volumes.get_mut(&ordinal) {
                    let barred = if self.disturbed.is_multiple_of(2) { NodeState::Fenced } else { NodeState::Damaged };
                    volume.barred = volume.identity.map(|_| barred);
                    volume.nameless = volume.barred == Some(NodeState::Damaged) && self.disturbed % 4 == 1;
                }
            }
            4 if losable && self.is_known() => self.lose_node(ordinal),
            5 => self.template += 1,
            6 => self.wanted.paused = !self.wanted.paused,
            // Somebody scales the StatefulSet by hand.
            7 if self.set.is_some() => {
                let replicas = u32::try_from(self.random.below(6)).expect("below six");
                self.write_set(Some(replicas));
                self.meddled |= self.latched.recovery.is_some() || self.told_retired != self.retired;
            }
            8 => self.leader = None,
            9 if self.is_known() && self.change.is_none() => self.lose_quorum(),
            10 => self.ask_for_recovery(),
            11 => self.wanted.recovery = None,
            12 => {
                self.wanted.recovery = Some(RecoveryRequest::Of { cluster_id: ClusterId(1), survivor: Survivor::Best });
            }
            13 => self.small = true,
            14 => {
                self.template += 1;
                self.bad_templates.insert(self.template);
            }
            15 => self.lagging.extend(id),
            16 => {
                if let Some(pod) = self.pods.get_mut(&ordinal) {
                    pod.cut_off = pod.running;
                }
            }
            // A drain, or a user.
            17 => {
                if let Some(pod) = self.pods.get_mut(&ordinal) {
                    pod.terminating = true;
                }
            }
            18 => self.stubborn = !self.stubborn,
            19 if self.can_be_made_again() => self.wanted.deleted = true,
            20 if self.set.is_some() => self.secret = false,
            21 => {
                self.template += 1;
                self.refused_templates.insert(self.template);
            }
            22 => (self.overridden, self.applied_of_late) = (!self.overridden, false),
            23 => self.job_is_stuck = !self.job_is_stuck,
            24 => {
                self.template += 1;
                self.quarrelsome_templates.insert(self.template);
            }
            // Somebody tidies up what has ended.
            25 if self.latched.recovery.is_some_and(|recovery| recovery.begun) => {
                self.job = self.job.filter(|(_, state)| matches!(state, JobState::NotBegun | JobState::Running));
            }
            _ => self.wanted.roll_unsupervised = !self.wanted.roll_unsupervised,
        }
    }

    /// A human declares the node under a pod gone. A pod on it may be collected before anybody looks.
    fn lose_node(&mut self, ordinal: Ordinal) {
        let Some(volume) = self.volumes.get_mut(&ordinal) else { return };
        volume.stranded = volume.local;
        if self.random.one_in(2) {
            self.pods.remove(&ordinal);
        } else if let Some(pod) = self.pods.get_mut(&ordinal) {
            pod.node_lost = true;
        }
    }

    /// Whoever broke something has mended it: what is left is for the operator.
    pub(super) fn calm_down(&mut self) {
        self.wanted.paused = false;
        self.wanted.roll_unsupervised = true;
        (self.overridden, self.job_is_stuck) = (false, false);
        let of_no_use = [&self.bad_templates, &self.refused_templates, &self.quarrelsome_templates];
        if of_no_use.iter().any(|templates| templates.contains(&self.template)) {
            self.template += 1;
        }
        // Nobody knows what is on it: only a human can give it up, and does so with the pod that runs on it.
        let resource = self.resource;
        let unknown = |volume: &super::Volume| (volume.stranded || volume.nameless) && volume.owner != resource;
        self.pods.retain(|ordinal, _| !self.volumes.get(ordinal).is_some_and(|v| v.nameless && unknown(v)));
        self.volumes.retain(|_, volume| !unknown(volume));
        let failed = self.has_job_of_recovery() && matches!(self.job, Some((_, JobState::Failed)));
        if self.is_lost_for_good() && self.random.one_in(4) {
            self.ask_for_recovery();
        } else if failed {
            self.wanted.recovery = None;
        }
    }
}
