//! The decision, one duty a function, in the order in which duties take precedence.
//!
//! A function gives a plan when its duty claims the moment, and none when the next duty may look. This file holds the order,
//! and what is done while nobody leads; `resize` and `upkeep` hold the duties towards a cluster that runs.

use std::collections::{BTreeMap, BTreeSet};

use super::observed::{Change, ClusterId, ClusterView, NodeId, NodeReport, NodeState, Observed, Ordinal, PodState};
use super::step::{Finding, Plan, Step, Voter, Work};
use super::{recovery, resize, upkeep};

/// A duty towards a cluster that runs, on the way to so many voters.
type Duty = fn(&Observed, &ClusterView, u32) -> Option<Plan>;

/// The next step for the cluster that was observed.
pub fn plan(observed: &Observed) -> Plan {
    if observed.wanted.deleted {
        return delete(observed);
    }
    if observed.wanted.paused {
        return Plan::wait(Finding::Paused);
    }
    let Some(target) = observed.latched.target_replicas else {
        return latch_target(observed.wanted.replicas);
    };
    if let Some(plan) = recovery::recover(observed) {
        return plan;
    }
    let Some(set) = &observed.set else {
        // Pods that outlived their set are kept, surplus or not: a voter may live in each.
        let running = observed.pods.last_key_value().map_or(0, |(ordinal, _)| ordinal.0 + 1);
        return Plan::act(Work::CreatingPods, Step::ApplyObjects { replicas: target.max(running) });
    };
    if set.outdated {
        let apply = || Plan::act(Work::UpdatingObjects, Step::ApplyObjects { replicas: set.replicas });
        return heal_before_applying(observed, set.settled, target).unwrap_or_else(apply);
    }
    if !set.settled {
        return Plan::wait(Finding::WaitingForPods);
    }
    if let Some(plan) = retire(observed) {
        return plan;
    }
    if observed.cluster.is_none()
        && let Some(plan) = restart_silent(observed, set.replicas, target)
    {
        return plan;
    }
    let Some(cluster_id) = observed.latched.cluster_id else { return latch_cluster_id(observed, target) };
    let Some(cluster) = &observed.cluster else {
        let plan = without_quorum(observed, cluster_id, target);
        // A volume that is full may be what keeps the quorum away.
        return if plan.step.is_none() && set.small && !set.growth_refused { upkeep::grow_volumes() } else { plan };
    };
    let duties: [Duty; 22] = [
        resize::take_back,
        upkeep::restart_broken,
        resize::add_pods,
        resize::give_up_lost_newcomer,
        upkeep::leave_lost_node,
        resize::await_change,
        upkeep::mark_volumes,
        upkeep::replace_lost,
        resize::scale_up,
        resize::scale_down,
        resize::drop_surplus,
        resize::serve_again,
        resize::follow_edit,
        upkeep::restart_lagging,
        upkeep::roll,
        upkeep::leave_cordoned_node,
        upkeep::grow,
        upkeep::monitor,
        upkeep::await_approval,
        upkeep::grow_again,
        upkeep::monitor_again,
        resize::await_surplus,
    ];
    duties
        .iter()
        .find_map(|duty| duty(observed, cluster, target))
        .unwrap_or_else(|| Plan::wait(rest(observed, cluster)))
}

/// What cannot wait for objects that the API server may refuse for ever, such as a template that asks for more than its limits: whatever
/// brings the cluster back to its strength without them. What is started again has the template that is applied now.
///
/// Only steps: what is awaited here may come with the new template alone. Pods that are outdated or broken wait for it, too, as do
/// those with data of a retired cluster, of which nodes are told with the objects.
fn heal_before_applying(observed: &Observed, settled: bool, target: u32) -> Option<Plan> {
    if !settled {
        return None;
    }
    let Some(cluster) = &observed.cluster else { return leave_lost_nodes_silently(observed) };
    let mut duties: Vec<Duty> = vec![resize::take_back, resize::give_up_lost_newcomer, upkeep::leave_lost_node];
    if cluster.change == Change::None {
        duties.extend([upkeep::mark_volumes as Duty, upkeep::replace_lost]);
    }
    duties.iter().filter_map(|duty| duty(observed, cluster, target)).find(|plan| plan.step.is_some())
}

/// Nothing is to be done; that is not to say that all is well.
fn rest(observed: &Observed, cluster: &ClusterView) -> Finding {
    let complete = cluster.members.keys().all(|id| cluster.caught_up.contains(id));
    // Until its probe has said so, a pod gets no clients, and one that is being deleted soon gets none.
    let serves = |pod: &PodState| pod.ready && !pod.terminating;
    let ready = cluster.members.values().all(|member| observed.pods.get(&member.ordinal).is_some_and(serves));
    let overridden = observed.set.as_ref().is_some_and(|set| set.overridden);
    match (complete, ready) {
        (true, true) if overridden => Finding::Working(Work::UpdatingObjects),
        (true, true) => Finding::Reconciled,
        (true, false) => Finding::WaitingForPods,
        (false, _) => Finding::MembersDown,
    }
}

/// Deletion never waits for the cluster, which may be dead: the pods go with their owner, the volumes by the user's choice, but
/// for those that may hold the data of another cluster.
fn delete(observed: &Observed) -> Plan {
    let doomed = observed.volumes.iter().find(|(_, volume)| volume.ours && !volume.terminating);
    let step = match doomed.filter(|_| observed.wanted.delete_volumes) {
        Some((ordinal, _)) => Step::DeleteVolume(*ordinal),
        None => Step::ReleaseFinalizer,
    };
    Plan { step: Some(step), finding: Finding::Deleting }
}

/// Before the first Init: the id is chosen only when every node that will be a member, and every other one that has a volume,
/// reports to be empty. Volumes that hold a cluster are taken up again if they agree on one and a quorum of its voters is there.
fn latch_cluster_id(observed: &Observed, target: u32) -> Plan {
    let expected = target.max(observed.ordinals_kept());
    if (0..expected).any(|ordinal| !observed.nodes.contains_key(&Ordinal(ordinal))) {
        return Plan::wait(Finding::WaitingForPods);
    }
    let ids: BTreeSet<ClusterId> = observed.nodes.values().filter_map(|report| report.cluster_id).collect();
    match (ids.first(), ids.len()) {
        (None, _) => Plan::act(Work::ChoosingClusterId, Step::LatchNewClusterId),
        (Some(id), 1) if observed.quorum_answers() => Plan::act(Work::AdoptingCluster, Step::AdoptClusterId(*id)),
        _ => Plan::wait(Finding::ClusterIdMismatch),
    }
}

/// A node that was started before it could know that its cluster is retired (somebody scaled the set): it sets the data aside
/// when it starts again. Its vote counts in no cluster that should be.
fn retire(observed: &Observed) -> Option<Plan> {
    let retired = |report: &NodeReport| report.cluster_id.is_some_and(|id| observed.retired.contains(&id));
    let (ordinal, _) = observed.nodes.iter().find(|(_, report)| retired(report))?;
    Some(Plan::act(Work::RetiringNode, Step::RestartPod(*ordinal)))
}

/// Without a cluster to look after, pods may be missing (somebody scaled the set) or run a template that can never start (a
/// wrong image that is mended now). Neither takes a vote away: what does not answer has none to give. A volume above the target
/// may be a voter's, whose pod was taken away before the configuration had shrunk. A pod on a node that a human declared gone may be
/// the one that the quorum needs, elsewhere, if its volume can follow.
///
/// A pod whose container runs, by the last word of its kubelet, is left alone: it may only be cut off from here, its kubelet with
/// it, and lead others.
fn restart_silent(observed: &Observed, replicas: u32, target: u32) -> Option<Plan> {
    let wanted = target.max(observed.ordinals_kept());
    if replicas < wanted {
        return Some(Plan::act(Work::CreatingPods, Step::ScaleSet { replicas: wanted }));
    }
    if let Some(plan) = leave_lost_nodes_silently(observed) {
        return Some(plan);
    }
    let dead = |pod: &PodState| !pod.ready && !pod.runs && !pod.terminating;
    let silent = |ordinal: &Ordinal| !observed.nodes.contains_key(ordinal);
    let (ordinal, _) = observed.pods.iter().find(|(ordinal, pod)| pod.outdated && dead(pod) && silent(ordinal))?;
    Some(Plan::act(Work::RestartingBrokenPod, Step::RestartPod(*ordinal)))
}

fn leave_lost_nodes_silently(observed: &Observed) -> Option<Plan> {
    let can_follow = |ordinal: &Ordinal| observed.volumes.get(ordinal).is_some_and(|volume| !volume.stranded);
    let (ordinal, _) = observed.pods.iter().find(|(ordinal, pod)| pod.node_lost && can_follow(ordinal))?;
    Some(Plan::act(Work::LeavingLostNode, Step::RestartPod(*ordinal)))
}

/// Members that could elect a leader and have not for long, on a template that is not the newest: it may be what keeps them from it, such
/// as timeouts that are too short, and a roll needs a leader. One pod at a time, each of which answers before the next. That a quorum is
/// left meanwhile is not asked for: it serves nobody as it is.
fn restart_leaderless(observed: &Observed) -> Option<Plan> {
    if !observed.long_leaderless || !observed.wanted.roll_unsupervised || !observed.quorum_answers() {
        return None;
    }
    let answers = |ordinal: &Ordinal| observed.nodes.contains_key(ordinal);
    let (ordinal, _) = observed.pods.iter().find(|(o, pod)| pod.outdated && !pod.terminating && answers(o))?;
    // What cannot come back before there is a leader is not waited for.
    let is_back = |ordinal: Ordinal| {
        let stranded = observed.volumes.get(&ordinal).is_some_and(|volume| volume.stranded);
        let pod = observed.pods.get(&ordinal);
        stranded || pod.is_some_and(|pod| pod.node_lost || !pod.terminating && (pod.outdated || answers(&ordinal)))
    };
    let replicas = observed.set.as_ref().map_or(0, |set| set.replicas);
    Some(match (0..replicas).map(Ordinal).all(is_back) {
        true => Plan::act(Work::RestoringLeader, Step::RestartPod(*ordinal)),
        false => Plan::wait(Finding::Working(Work::RestoringLeader)),
    })
}

/// No leader is confirmed: either the cluster was never made, or its quorum is away.
fn without_quorum(observed: &Observed, cluster_id: ClusterId, target: u32) -> Plan {
    if observed.nodes.values().any(|report| report.cluster_id.is_some_and(|id| id != cluster_id)) {
        return Plan::wait(Finding::ClusterIdMismatch);
    }
    if let Some(plan) = restart_leaderless(observed) {
        return plan;
    }
    let reports: BTreeMap<Ordinal, _> =
        observed.nodes.iter().filter(|(ordinal, _)| ordinal.0 < target).map(|(o, r)| (*o, r)).collect();
    // A first Init may have reached some nodes only. Nodes that accepted it say which cluster they are of; repeating it is
    // success there. A node that is a member of a running cluster never reports to be empty and known at once.
    let never_ran = reports.values().all(|r| matches!(r.state, NodeState::Uninitialised | NodeState::Joining));
    if !observed.latched.formed && !never_ran && observed.quorum_may_run && observed.wanted.recovery.is_none() {
        // Its first leader is about to be elected, which is nothing to warn of.
        return Plan::wait(Finding::Working(Work::FormingCluster));
    }
    if observed.latched.formed || !never_ran {
        return Plan::wait(recovery::without_remedy(observed));
    }
    if reports.len() < target as usize {
        // Nothing is lost that never was.
        return Plan::wait(Finding::WaitingForPods);
    }
    let members = reports.iter().map(|(ordinal, report)| (*ordinal, report.incarnation)).collect();
    Plan::act(Work::FormingCluster, Step::Init { cluster_id, members })
}

pub(super) fn latch_target(replicas: u32) -> Plan {
    Plan::act(Work::LatchingSize, Step::LatchTarget { replicas })
}

pub(super) fn existing(ids: impl IntoIterator<Item = NodeId>) -> Vec<Voter> {
    ids.into_iter().map(Voter::Existing).collect()
}

pub(super) fn set_voters(work: Work, cluster: &ClusterView, voters: Vec<Voter>) -> Plan {
    Plan::act(work, Step::SetVoters { voters, expected_config_index: cluster.config_index })
}

/// Times that leadership is asked to move before what it should have moved for goes ahead without. The node that leads hands
/// over by itself when it is stopped or taken out; asking first only makes the pause shorter.
pub(super) const TRANSFERS: u32 = 5;

/// Ask leadership to move to the first of `candidates` that takes part; none if there is nobody, or it was asked too often.
pub(super) fn transfer(
    observed: &Observed,
    cluster: &ClusterView,
    mut candidates: impl Iterator<Item = NodeId>,
) -> Option<Step> {
    if observed.transfers_tried >= TRANSFERS {
        return None;
    }
    let fit = |id: &NodeId| *id != cluster.leader && cluster.members[id].voter && observed.takes_part(cluster, *id);
    candidates.find(fit).map(|to| Step::TransferLeader { to, expected_config_index: cluster.config_index })
}
