//! What goes wrong, and what people do.

use std::collections::BTreeSet;

use super::World;
use crate::plan::{ClusterId, Ordinal, RecoveryRequest, Survivor};

impl World {
    /// Members whose own data is on their volume.
    fn intact(&self) -> BTreeSet<Ordinal> {
        let intact = self.members.values().filter(|member| {
            let volume = self.volumes.get(&member.ordinal);
            volume.is_some_and(|v| v.incarnation == member.incarnation && !v.damaged && !v.terminating)
        });
        intact.map(|member| member.ordinal).collect()
    }

    /// The data of a quorum is gone, whichever pods run.
    pub(super) fn is_lost_for_good(&self) -> bool {
        !self.members.is_empty() && self.intact().len() <= self.members.len() / 2
    }

    /// The data of all but a minority goes.
    pub(super) fn lose_quorum(&mut self) {
        let keep = usize::from(self.random.one_in(2)) + 1;
        let kept: BTreeSet<Ordinal> = self.intact().into_iter().take(keep.min(self.members.len() / 2)).collect();
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
        let left =
            self.volumes.iter().filter(|(_, v)| v.identity.is_some() && !v.terminating && !v.damaged).map(|(o, _)| *o);
        let left: Vec<Ordinal> = left.collect();
        let pick = usize::try_from(self.random.below(8)).expect("below eight");
        let survivor = left.get(pick).map_or(Survivor::Best, |ordinal| Survivor::Pod(*ordinal));
        self.wanted.recovery = Some(RecoveryRequest::Of { cluster_id, survivor });
    }

    /// One thing goes wrong, or a user changes something. Data of a quorum is lost only where a human asks for a recovery.
    pub(super) fn disturb(&mut self) {
        let ordinal = Ordinal(u32::try_from(self.random.below(5)).expect("below five"));
        let id = self.members.iter().find(|(_, m)| m.ordinal == ordinal).map(|(id, _)| *id);
        let all_others_up = self.members.keys().all(|other| Some(*other) == id || self.is_up(*other));
        let newcomer = id.is_some_and(|id| !self.members[&id].voter);
        let losable = newcomer || self.target.is_none() && self.members.len() > 2 && all_others_up;
        match self.random.below(14) {
            13 => self.small = true,
            9 if self.running.is_some() && self.latched.recovery.is_none() && self.target.is_none() => {
                self.lose_quorum()
            }
            10 => self.ask_for_recovery(),
            11 => self.wanted.recovery = None,
            12 => {
                self.wanted.recovery = Some(RecoveryRequest::Of { cluster_id: ClusterId(1), survivor: Survivor::Best })
            }
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
            7 if self.set.is_some() => {
                self.set = Some(u32::try_from(self.random.below(6)).expect("below six"));
                self.meddled |= self.latched.recovery.is_some() || self.told_retired != self.retired;
            }
            6 => self.wanted.paused = !self.wanted.paused,
            _ => self.leader = None,
        }
    }
}
