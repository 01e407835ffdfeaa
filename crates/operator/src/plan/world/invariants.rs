//! What must hold in every world: at each step, at each moment, and at the end.

use std::collections::BTreeSet;

use super::World;
use crate::plan::{ClusterId, JobState, NodeId, Observed, Ordinal, RecoveryRequest, Step, Survivor, Voter};

impl World {
    /// Whoever may go: no member, one that is down anyway, or one without which those that take part are a quorum.
    fn spares(&self, ordinal: Ordinal) -> bool {
        let member = self.members.iter().find(|(_, m)| m.ordinal == ordinal);
        member.is_none_or(|(id, _)| !self.is_up(*id) || self.is_quorum(|other| other != *id && self.takes_part(other)))
    }

    /// The voters asked for are a quorum of their own as it is now.
    fn is_live(&self, voters: &[Voter]) -> bool {
        let up = |voter: &&Voter| match voter {
            Voter::Existing(id) => self.is_up(*id),
            Voter::New(ordinal, incarnation) => {
                self.is_reachable(*ordinal) && self.volumes.get(ordinal).is_some_and(|v| v.incarnation == *incarnation)
            }
        };
        voters.iter().filter(up).count() > voters.len() / 2
    }

    /// The invariants of the module, at the moment of each step. What a step costs is judged by the world that was looked at, `then`:
    /// nobody can know what breaks a moment later. If nothing did, it is judged by the world as it is: whatever changed since is the
    /// work of operators.
    pub(super) fn check(&self, step: &Step, then: &World, observed: &Observed) {
        let spares = |ordinal| then.spares(ordinal) && (self.disturbed != then.disturbed || self.spares(ordinal));
        match step {
            Step::SetVoters { voters, .. } => {
                let gives_up = voters.iter().all(|voter| matches!(voter, Voter::Existing(_)));
                let joint = self.change.as_ref().is_some_and(|change| change.joint.is_some());
                assert!(self.change.is_none() || gives_up && !joint, "a second change is asked for in {observed:?}");
                assert!(then.no_client_is_sent_off(voters), "{step:?} drops who still gets clients in {observed:?}");
                assert!(then.is_live(voters), "{step:?} names voters that are no quorum in {observed:?}");
            }
            Step::RestartPod(ordinal) if observed.cluster.is_none() && observed.long_leaderless => {
                let stranded = |o: &Ordinal| then.volumes.get(o).is_some_and(|volume| volume.stranded);
                let one_before = then.pods.iter().find(|(other, pod)| {
                    *other != ordinal
                        && then.is_up_to_date(**other)
                        && !then.is_reachable(**other)
                        && !pod.node_lost
                        && !stranded(other)
                });
                let silent = !then.is_reachable(*ordinal);
                assert!(silent || one_before.is_none(), "{step:?}: {one_before:?} is not back in {observed:?}");
            }
            Step::RestartPod(ordinal) => assert!(spares(*ordinal), "{step:?} costs the quorum in {observed:?}"),
            Step::ResetNode(ordinal) => {
                let volume = &self.volumes[ordinal];
                let lives_there = self.members.values().any(|m| m.ordinal == *ordinal);
                let said = volume.identity.filter(|_| !volume.nameless).map(|(id, _)| id);
                let known = match said {
                    Some(id) => observed.latched.cluster_id == Some(id),
                    None => lives_there || volume.owner == self.resource,
                };
                assert!(known, "{step:?}: whose is it in {observed:?}");
                assert!(spares(*ordinal), "{step:?} costs the quorum in {observed:?}");
            }
            Step::DeleteVolume(ordinal) if observed.wanted.deleted => {
                assert!(observed.wanted.delete_volumes, "{step:?} was not asked for");
                assert_eq!(self.volumes[ordinal].owner, self.resource, "{step:?}: whose is it in {observed:?}");
            }
            Step::DeleteVolume(ordinal) => {
                let lives_there = self.members.values().any(|m| m.ordinal == *ordinal);
                let volume = &self.volumes[ordinal];
                assert!(!lives_there || volume.stranded, "{step:?}: a member lives there in {observed:?}");
                assert!(lives_there || volume.owner == self.resource, "{step:?}: whose is it in {observed:?}");
                assert!(spares(*ordinal), "{step:?} costs the quorum in {observed:?}");
            }
            Step::ApplyObjects { replicas } | Step::ScaleSet { replicas } if self.latched.recovery.is_none() => {
                let goes = |ordinal: Ordinal| ordinal.0 >= *replicas && self.set.is_some_and(|now| ordinal.0 < now);
                let voter = self.members.values().find(|member| member.voter && goes(member.ordinal));
                assert!(voter.is_none(), "{step:?} takes the pod of {voter:?} away in {observed:?}");
            }
            Step::MarkVolume(ordinal) => {
                let identity = self.volumes[ordinal].identity;
                assert_eq!(identity.map(|(cluster, _)| cluster), observed.latched.cluster_id, "{step:?}");
            }
            Step::LatchRecovery { survivor } => {
                let asked = observed.wanted.recovery.expect("a recovery begins on a human's word alone");
                let RecoveryRequest::Of { cluster_id, survivor: wanted } = asked else { panic!("an unreadable word") };
                assert_eq!(Some(cluster_id), observed.latched.cluster_id, "a word for another cluster");
                assert!(!then.has_quorum(), "{step:?} with a quorum in {observed:?}");
                let may_begin = matches!(self.job, Some((_, JobState::NotBegun | JobState::Running)));
                assert!(!may_begin, "two recoveries at once in {observed:?}");
                assert!(wanted == Survivor::Best || wanted == Survivor::Pod(*survivor));
            }
            Step::StartRecovery => {
                assert!(then.pods.is_empty(), "a pod may run beside the job in {observed:?}");
                let at_work = matches!(self.job, Some((_, JobState::NotBegun | JobState::Running)));
                assert!(!at_work, "two jobs at once");
                assert!(!self.has_job_of_recovery(), "a job is made twice");
            }
            Step::DeleteRecoveryJob => match self.job {
                Some((of, JobState::Succeeded)) => assert_eq!(self.latched.cluster_id, Some(of.cluster_id)),
                job => assert!(matches!(job, Some((_, JobState::NotBegun | JobState::Failed)))),
            },
            Step::EndRecovery => assert!(!self.has_job_of_recovery(), "a job outlives its recovery"),
            Step::LatchRecovered => assert!(matches!(self.job, Some((_, JobState::Succeeded)))),
            Step::LatchNewClusterId => assert_eq!(self.initialised, 0, "a second cluster would be made"),
            _ => {}
        }
    }

    fn is_up_to_date(&self, ordinal: Ordinal) -> bool {
        self.pods.get(&ordinal).is_some_and(|pod| pod.template == self.applied_template)
    }

    /// Of the voters that a smaller configuration drops, none is among the endpoints of the client Service.
    fn no_client_is_sent_off(&self, voters: &[Voter]) -> bool {
        let mut dropped = self.voters();
        let shrinks = voters.len() < dropped.len();
        dropped.retain(|id| !voters.contains(&Voter::Existing(*id)));
        let listed = |id: &NodeId| self.pods.get(&self.members[id].ordinal).is_some_and(|pod| pod.listed);
        !shrinks || !dropped.iter().any(listed)
    }

    pub(super) fn is_as_wanted(&self) -> bool {
        let ordinals: BTreeSet<u32> = self.members.values().map(|m| m.ordinal.0).collect();
        let expected: BTreeSet<u32> = (0..self.wanted.replicas).collect();
        // A volume of an earlier life on which nobody has seen this cluster's data stays.
        let surplus = |(ordinal, volume): (&Ordinal, &super::Volume)| {
            ordinal.0 >= self.wanted.replicas && volume.owner == self.resource
        };
        ordinals == expected
            && self.change.is_none()
            && self.set == Some(self.wanted.replicas)
            && !self.volumes.iter().any(surplus)
            && self.members.keys().all(|id: &NodeId| self.takes_part(*id))
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
