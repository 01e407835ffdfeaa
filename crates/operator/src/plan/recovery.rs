//! Recovery after the quorum is gone for good, on a human's word.
//!
//! Never begins by itself, never while a quorum may run, and never takes anything away: what the other volumes hold is set
//! aside on them by the nodes themselves, when they start. The order is what makes it safe:
//! 1. the survivor and the new cluster's id are latched, so that whoever carries on does the same;
//! 2. every pod goes, and is known to be gone: from here no quorum can come back behind the operator's back;
//! 3. one job turns the survivor's data into a cluster of one, under the latched id;
//! 4. the new id takes the old one's place, and the old one is retired: nodes are told of it before any of them starts;
//! 5. the job goes, whose pod would keep the volume from being deleted one day, and then the latch. Until here the job stays, or an
//!    operator that was away would not know that it has done its work.
//!
//! From there on it is a cluster that is too small, which a resize mends like any other.

use std::cmp::Reverse;

use super::observed::{
    ClusterId, JobState, NodeReport, NodeState, Observed, Ordinal, Recovery, RecoveryRequest, Survivor,
};
use super::step::{Finding, Plan, Refusal, Step, Work};

/// The next step of a recovery that is asked for or under way.
pub(super) fn recover(observed: &Observed) -> Option<Plan> {
    match observed.latched.recovery {
        Some(recovery) if observed.latched.cluster_id == Some(recovery.cluster_id) => Some(clear_away(observed)),
        Some(recovery) => Some(proceed(observed, recovery)),
        None => choose(observed).ok().map(|survivor| act(Step::LatchRecovery { survivor })),
    }
}

/// What is found while the quorum is away and nothing can be done about it.
pub(super) fn without_remedy(observed: &Observed) -> Finding {
    match choose(observed) {
        Err(Refusal::NotAsked) if observed.quorum_may_run => Finding::NoLeader,
        Err(Refusal::NotAsked) => Finding::QuorumLost,
        Err(refusal) => Finding::RecoveryRefused(refusal),
        Ok(_) => unreachable!("a recovery that can begin does"),
    }
}

/// Whose data to begin with.
fn choose(observed: &Observed) -> Result<Ordinal, Refusal> {
    let (cluster_id, survivor) = match observed.wanted.recovery {
        None => return Err(Refusal::NotAsked),
        Some(RecoveryRequest::Unreadable) => return Err(Refusal::Unreadable),
        Some(RecoveryRequest::Of { cluster_id, survivor }) => (cluster_id, survivor),
    };
    if observed.latched.cluster_id != Some(cluster_id) {
        return Err(Refusal::OtherCluster);
    }
    if observed.cluster.is_some() || observed.quorum_may_run {
        return Err(Refusal::QuorumMayRun);
    }
    let survives = |report: &NodeReport| report.state == NodeState::Member && report.cluster_id == Some(cluster_id);
    match survivor {
        Survivor::Best => most_advanced(observed, survives).ok_or(Refusal::NobodyAnswers),
        Survivor::Pod(ordinal) => {
            let answers_otherwise = observed.nodes.get(&ordinal).is_some_and(|report| !survives(report));
            let volume = observed.volumes.get(&ordinal).is_some_and(|volume| !volume.terminating);
            if volume && !answers_otherwise { Ok(ordinal) } else { Err(Refusal::NoSuchSurvivor) }
        }
    }
}

/// By the rule of elections: the log that ends in the later term, then the longer one.
fn most_advanced(observed: &Observed, survives: impl Fn(&NodeReport) -> bool) -> Option<Ordinal> {
    let survivors = observed.nodes.iter().filter(|(_, report)| survives(report));
    survivors.max_by_key(|(ordinal, report)| (report.log_end, Reverse(**ordinal))).map(|(ordinal, _)| *ordinal)
}

/// The recovered cluster is latched.
fn clear_away(observed: &Observed) -> Plan {
    act(match observed.recovery_job {
        JobState::Absent => Step::EndRecovery,
        _ => Step::DeleteRecoveryJob,
    })
}

fn proceed(observed: &Observed, recovery: Recovery) -> Plan {
    let waiting = Plan::wait(Finding::Working(Work::Recovering));
    // Until a job runs a human may think again: the pods come back, and maybe the lost ones with them. A job that has not begun goes
    // first, or it would begin one day, on a volume that is a member's again. One that has begun is never stopped: it writes. One that
    // has begun and is gone may have done its work: given up now, the survivor would come back as a cluster of its own.
    let undecided = match observed.recovery_job {
        JobState::Absent => !recovery.begun,
        JobState::NotBegun | JobState::Failed => true,
        JobState::Running | JobState::Succeeded => false,
    };
    if let Some(step) = second_thought(observed, recovery.survivor).filter(|_| undecided) {
        let absent = observed.recovery_job == JobState::Absent;
        return act(if absent { step } else { Step::DeleteRecoveryJob });
    }
    match &observed.set {
        None => return act(Step::ApplyObjects { replicas: 0 }),
        Some(set) if set.replicas > 0 => return act(Step::ScaleSet { replicas: 0 }),
        Some(set) if !set.settled => return waiting,
        Some(_) => {}
    }
    if let Some((ordinal, _)) = observed.pods.iter().find(|(_, pod)| pod.node_lost) {
        return act(Step::RestartPod(*ordinal));
    }
    if !observed.pods.is_empty() {
        return waiting;
    }
    match observed.recovery_job {
        JobState::Absent => act(Step::StartRecovery),
        JobState::NotBegun | JobState::Running => waiting,
        JobState::Failed => Plan::wait(Finding::RecoveryFailed),
        JobState::Succeeded => act(Step::LatchRecovered),
    }
}

/// The annotation is gone, or names another survivor now; or the quorum is back, because the pods went too slowly or somebody had
/// them back.
fn second_thought(observed: &Observed, survivor: Ordinal) -> Option<Step> {
    if observed.cluster.is_some() {
        return Some(Step::EndRecovery);
    }
    let of_this = |wanted: ClusterId| observed.latched.cluster_id == Some(wanted);
    match observed.wanted.recovery {
        Some(RecoveryRequest::Of { cluster_id, survivor: wanted }) if of_this(cluster_id) => match wanted {
            Survivor::Pod(other)
                if other != survivor && observed.volumes.contains_key(&other) && !observed.quorum_may_run =>
            {
                Some(Step::LatchRecovery { survivor: other })
            }
            Survivor::Pod(_) | Survivor::Best => None,
        },
        _ => Some(Step::EndRecovery),
    }
}

fn act(step: Step) -> Plan {
    Plan::act(Work::Recovering, step)
}
