//! Scenes of a recovery: begun, taken back, and at work.

use super::World;
use crate::plan::{ClusterId, Finding, JobState, Ordinal, Plan, Recovery, RecoveryRequest, Step, Survivor, Work, plan};

#[test]
fn a_recovery_is_given_up_when_the_quorum_is_back_before_its_job_runs() {
    let world = World::of(3);
    let mut observed = world.observe();
    observed.latched.recovery = Some(Recovery { survivor: Ordinal(1), cluster_id: ClusterId(77), begun: false });
    let cluster_id = observed.latched.cluster_id.expect("it runs");
    observed.wanted.recovery = Some(RecoveryRequest::Of { cluster_id, survivor: Survivor::Pod(Ordinal(1)) });
    assert_eq!(plan(&observed).step, Some(Step::EndRecovery));
    observed.cluster = None;
    assert_eq!(plan(&observed).step, Some(Step::ScaleSet { replicas: 0 }));
}

/// A recovery of a cluster of three whose quorum is lost, up to its job, which has not begun.
fn recovering() -> World {
    let mut world = World::of(3);
    world.latched.formed = true;
    for ordinal in [1, 2] {
        world.pods.remove(&Ordinal(ordinal));
        world.volumes.remove(&Ordinal(ordinal));
    }
    let cluster_id = world.latched.cluster_id.expect("it ran");
    world.wanted.recovery = Some(RecoveryRequest::Of { cluster_id, survivor: Survivor::Pod(Ordinal(0)) });
    world.job_is_stuck = true;
    world.goes_on_until(|world| world.job.is_some());
    world
}

#[test]
fn a_recovery_whose_job_has_not_begun_can_be_taken_back() {
    let mut world = recovering();
    world.wait();
    assert_eq!(plan(&world.observe()), Plan { step: None, finding: Finding::Working(Work::Recovering) });
    world.wanted.recovery = None;
    world.goes_on(|plan| plan.step == Some(Step::DeleteRecoveryJob));
    world.goes_on_until(|world| world.latched.recovery.is_none());
    assert_eq!(world.job, None);
}

#[test]
fn a_recovery_whose_job_has_begun_goes_on_whatever_is_said() {
    let mut world = recovering();
    let decided = {
        world.wanted.recovery = None;
        plan(&world.observe())
    };
    assert_eq!(decided.step, Some(Step::DeleteRecoveryJob));
    let then = world.clone();
    world.job = world.job.map(|(of, _)| (of, JobState::Running));
    assert_eq!(plan(&world.observe()).step, None);
    world.act_late(Step::DeleteRecoveryJob, &then);
    assert!(world.job.is_some(), "it began in between");
    world.goes_on_until(|world| !world.retired.is_empty());
}

#[test]
fn a_recovery_whose_job_is_done_goes_on_also_if_somebody_removes_the_job() {
    let mut world = recovering();
    world.job_is_stuck = false;
    world.wanted.paused = true;
    world.goes_on_until(|world| world.job.is_some_and(|(_, state)| state == JobState::Succeeded));
    let ended = world.observe();
    world.note(&ended);
    world.job = None;
    (world.wanted.recovery, world.wanted.paused) = (None, false);
    world.goes_on_until(|world| world.latched.recovery.is_none());
    assert_eq!((world.latched.cluster_id, world.job), (world.running, None));
}

#[test]
fn a_job_that_failed_stays_until_a_human_has_decided() {
    let mut world = recovering();
    world.job = world.job.map(|(of, _)| (of, JobState::Failed));
    assert_eq!(world.goes_on(|plan| plan.step.is_none()).finding, Finding::RecoveryFailed);
    world.wanted.recovery = None;
    world.goes_on(|plan| plan.step == Some(Step::DeleteRecoveryJob));
    world.goes_on_until(|world| world.latched.recovery.is_none());
    assert_eq!((world.job, world.retired.len()), (None, 0));
}
