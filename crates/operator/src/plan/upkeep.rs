//! Duties towards the members that there are: mend, replace, restart, move the leader, grow.

use super::decide::{existing, set_voters, transfer};
use super::observed::{Change, ClusterView, NodeId, NodeState, Observed, Ordinal, PodState};
use super::step::{Finding, Plan, Step, Voter, Work};

/// Outdated pods in which nothing runs are restarted first, whatever else is under way: a bad template could not be mended
/// otherwise, and a resize would wait for ever for pods that cannot start. What neither answers here nor the leader, and is not
/// ready, has no vote to give. A pod that has no vote yet needs nobody's approval.
pub(super) fn restart_broken(observed: &Observed, cluster: &ClusterView, _: u32) -> Option<Plan> {
    let broken = |(ordinal, pod): &(&Ordinal, &PodState)| {
        let member = cluster.member_at(**ordinal);
        let answers =
            observed.nodes.contains_key(ordinal) || member.is_some_and(|(id, _)| cluster.active.contains(&id));
        let approved = observed.wanted.roll_unsupervised || member.is_none_or(|(_, member)| !member.voter);
        pod.outdated && !pod.terminating && !pod.ready && !answers && approved
    };
    let (ordinal, _) = observed.pods.iter().find(broken)?;
    Some(Plan::act(Work::RestartingBrokenPod, Step::RestartPod(*ordinal)))
}

/// Outdated pods whose member is behind, or receives a snapshot: they vote and may be needed, so they wait until the others are a
/// quorum without them. The roll itself would wait for them, who may be behind because of their template.
pub(super) fn restart_lagging(observed: &Observed, cluster: &ClusterView, _: u32) -> Option<Plan> {
    let lagging = |(ordinal, pod): &(&Ordinal, &PodState)| {
        let spared = match cluster.member_at(**ordinal) {
            Some((id, _)) => !cluster.caught_up.contains(&id) && observed.can_spare(cluster, id),
            None => true,
        };
        pod.outdated && !pod.terminating && spared
    };
    let (ordinal, _) = observed.pods.iter().find(lagging)?;
    observed.wanted.roll_unsupervised.then(|| Plan::act(Work::RestartingBrokenPod, Step::RestartPod(*ordinal)))
}

/// Data of an earlier life that is this cluster's: its volume is one that the operator may delete when its member is removed.
pub(super) fn mark_volumes(observed: &Observed, _: &ClusterView, _: u32) -> Option<Plan> {
    let of_this = |ordinal: &Ordinal| {
        let report = observed.nodes.get(ordinal);
        report.is_some_and(|report| report.cluster_id.is_some() && report.cluster_id == observed.latched.cluster_id)
    };
    let unmarked =
        observed.volumes.iter().find(|(ordinal, volume)| !volume.ours && !volume.terminating && of_this(ordinal));
    unmarked.map(|(ordinal, _)| Plan::act(Work::MarkingVolume, Step::MarkVolume(*ordinal)))
}

/// A pod that can never run again where it is. If its volume can be used on no other node, it is given up, so that the pod can run
/// elsewhere on an empty one; the claim is marked first: it goes when the pod does. If the volume can follow, only the pod goes.
/// Whoever collects lost pods may have been faster: the pod that took its place waits for a node that will never be.
///
/// A change that has not become joint may wait for just this pod; a joint one ends without it, and counts by two halves till then.
pub(super) fn leave_lost_node(observed: &Observed, cluster: &ClusterView, _: u32) -> Option<Plan> {
    if cluster.change == Change::Joint {
        return None;
    }
    let stranded = |ordinal: &Ordinal| observed.volumes.get(ordinal).is_some_and(|volume| volume.stranded);
    let lost = |(ordinal, pod): &(&Ordinal, &PodState)| pod.node_lost || !pod.ready && stranded(ordinal);
    let (ordinal, pod) = observed.pods.iter().find(lost)?;
    if cluster.member_at(*ordinal).is_some_and(|(id, _)| !observed.can_spare(cluster, id)) {
        return Some(Plan::wait(Finding::TooFewTakePart));
    }
    let step = match observed.volumes.get(ordinal) {
        Some(volume) if volume.stranded && !volume.terminating => {
            let known = volume.ours || cluster.member_at(*ordinal).is_some();
            if !known {
                return Some(Plan::wait(Finding::ClusterIdMismatch));
            }
            Step::DeleteVolume(*ordinal)
        }
        // The claim goes with the pod, which is on its way.
        _ if pod.terminating && !pod.node_lost => return Some(Plan::wait(Finding::Working(Work::LeavingLostNode))),
        _ => Step::RestartPod(*ordinal),
    };
    Some(Plan::act(Work::LeavingLostNode, step))
}

/// A pod whose data is not the member's any more: lost with its volume, damaged, or fenced. The new data joins and the old id
/// leaves in one change, if the others are a quorum without it.
pub(super) fn replace_lost(observed: &Observed, cluster: &ClusterView, target: u32) -> Option<Plan> {
    let lost = |ordinal: &Ordinal| {
        let report = observed.nodes.get(ordinal)?;
        let (id, member) = cluster.member_at(*ordinal)?;
        let usable = report.incarnation == member.incarnation && report.state.is_sound();
        (!usable).then_some((*ordinal, id, report))
    };
    let (ordinal, old, report) = (0..target).map(Ordinal).find_map(|ordinal| lost(&ordinal))?;
    if !observed.can_spare(cluster, old) {
        return Some(Plan::wait(Finding::TooFewTakePart));
    }
    if report.cluster_id.is_some() && report.cluster_id != observed.latched.cluster_id {
        return Some(Plan::wait(Finding::ClusterIdMismatch));
    }
    if report.state != NodeState::Uninitialised {
        return Some(Plan::act(Work::EmptyingNode, Step::ResetNode(ordinal)));
    }
    let mut voters = existing(cluster.voters().into_iter().filter(|id| *id != old));
    voters.push(Voter::New(ordinal, report.incarnation));
    Some(set_voters(Work::ReplacingMember, cluster, voters))
}

/// Healthy outdated pods: one at a time, when all others take part; the leader last, after it handed over.
pub(super) fn roll(observed: &Observed, cluster: &ClusterView, _: u32) -> Option<Plan> {
    let outdated: Vec<(Ordinal, NodeId)> = observed
        .pods
        .iter()
        .filter(|(_, pod)| pod.outdated)
        .filter_map(|(ordinal, _)| cluster.member_at(*ordinal).map(|(id, _)| (*ordinal, id)))
        .collect();
    if outdated.is_empty() || !observed.wanted.roll_unsupervised {
        return None;
    }
    // A pod of somebody who is no member any more may be on its way out for ever.
    let everybody_takes_part = cluster.members.keys().all(|id| observed.takes_part(cluster, *id))
        && cluster.members.values().all(|member| observed.pods.get(&member.ordinal).is_some_and(|pod| pod.ready));
    if !everybody_takes_part {
        return Some(Plan::wait(Finding::Working(Work::RollingUpdate)));
    }
    let step = match outdated.iter().find(|(_, id)| *id != cluster.leader) {
        Some((ordinal, _)) => Step::RestartPod(*ordinal),
        None => transfer(observed, cluster, cluster.members.keys().copied()).unwrap_or(Step::RestartPod(outdated[0].0)),
    };
    Some(Plan::act(Work::RollingUpdate, step))
}

/// The node under the leader is about to be emptied: leadership moves before, to a member that may stay.
pub(super) fn leave_cordoned_node(observed: &Observed, cluster: &ClusterView, _: u32) -> Option<Plan> {
    let cordoned = |id: NodeId| observed.pods.get(&cluster.members[&id].ordinal).is_some_and(|pod| pod.cordoned);
    if !cluster.members.contains_key(&cluster.leader) || !cordoned(cluster.leader) {
        return None;
    }
    let staying = cluster.members.keys().copied().filter(|id| !cordoned(*id));
    transfer(observed, cluster, staying).map(|step| Plan::act(Work::MovingLeader, step))
}

/// Late, since a storage class may refuse it: that must not hold up what the cluster needs. The pods run on.
pub(super) fn grow(observed: &Observed, _: &ClusterView, _: u32) -> Option<Plan> {
    observed.set.as_ref().filter(|set| set.small && !set.growth_refused).map(|_| grow_volumes())
}

/// A growth that was refused is tried again when there is nothing else, and holds up nothing that is only waited for.
pub(super) fn grow_again(observed: &Observed, _: &ClusterView, _: u32) -> Option<Plan> {
    observed.set.as_ref().filter(|set| set.small).map(|_| grow_volumes())
}

pub(super) fn grow_volumes() -> Plan {
    Plan::act(Work::GrowingVolumes, Step::GrowVolumes)
}

/// Late, since it is of no use to the cluster and may be refused.
pub(super) fn monitor(observed: &Observed, _: &ClusterView, _: u32) -> Option<Plan> {
    observed.set.as_ref().filter(|set| set.monitor_outdated && !set.monitor_refused).map(|_| apply_monitor())
}

/// One that was refused is tried again when there is nothing else.
pub(super) fn monitor_again(observed: &Observed, _: &ClusterView, _: u32) -> Option<Plan> {
    observed.set.as_ref().filter(|set| set.monitor_outdated).map(|_| apply_monitor())
}

fn apply_monitor() -> Plan {
    Plan::act(Work::UpdatingMonitor, Step::ApplyMonitor)
}

/// Pods are outdated still, and nobody said that they may be restarted.
pub(super) fn await_approval(observed: &Observed, _: &ClusterView, _: u32) -> Option<Plan> {
    let outdated = observed.pods.values().any(|pod| pod.outdated);
    (outdated && !observed.wanted.roll_unsupervised).then(|| Plan::wait(Finding::RollAwaitsApproval))
}
