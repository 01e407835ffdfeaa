//! What must hold in every world: at each step, at each moment, and at the end.

use std::collections::BTreeSet;

use super::World;
use crate::plan::{ClusterId, JobState, NodeId, Observed, Ordinal, RecoveryRequest, Step, Survivor, Voter};

impl World {
    /// The invariants of the module, at the moment of each step.
    pub(super) fn check(&self, step: &Step, observed: &Observed) {
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
            Step::LatchRecovery { survivor } => {
                let asked = observed.wanted.recovery.expect("a recovery begins on a human's word alone");
                let RecoveryRequest::Of { cluster_id, survivor: wanted } = asked else { panic!("an unreadable word") };
                assert_eq!(Some(cluster_id), observed.latched.cluster_id, "a word for another cluster");
                assert!(!self.has_quorum(), "{step:?} with a quorum in {observed:?}");
                assert!(wanted == Survivor::Best || wanted == Survivor::Pod(*survivor));
            }
            Step::StartRecovery => {
                assert!(self.pods.is_empty(), "a pod may run beside the job in {observed:?}");
                assert!(!matches!(self.job, Some((_, JobState::Running))), "two jobs at once");
                assert!(self.job.is_none_or(|(of, _)| Some(of) != self.latched.recovery), "a job is made twice");
            }
            Step::LatchRecovered => assert!(matches!(self.job, Some((_, JobState::Succeeded)))),
            Step::LatchNewClusterId => assert_eq!(self.initialised, 0, "a second cluster would be made"),
            _ => {}
        }
    }

    pub(super) fn is_as_wanted(&self) -> bool {
        let ordinals: BTreeSet<u32> = self.members.values().map(|m| m.ordinal.0).collect();
        let expected: BTreeSet<u32> = (0..self.wanted.replicas).collect();
        ordinals == expected
            && self.set == Some(self.wanted.replicas)
            && self.volumes.len() == expected.len()
            && self.members.keys().all(|id| self.is_up(*id))
            && self.pods.values().all(|pod| pod.template == self.template && pod.serving)
            && self.small <= self.refuses_growth
            && self.latched.recovery.is_none()
            && self.latched.cluster_id == self.running
    }

    /// Nodes of a cluster that was replaced never run beside the new one.
    pub(super) fn check_one_cluster(&self) {
        let runs = |ordinal: &Ordinal| self.report(*ordinal).and_then(|report| report.cluster_id);
        let ids: BTreeSet<ClusterId> = self.pods.keys().filter_map(runs).collect();
        assert!(self.meddled || ids.len() <= 1, "two clusters run: {ids:?} in {:#?}", self.observe());
    }
}
