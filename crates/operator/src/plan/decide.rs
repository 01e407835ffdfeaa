//! The decision, one duty a function, in the order in which duties take precedence.
//!
//! A function gives a plan when its duty claims the moment, and none when the next duty may look.

use std::collections::{BTreeMap, BTreeSet};

use super::observed::{Change, ClusterId, ClusterView, MemberView, NodeId, NodeReport, NodeState, Observed, Ordinal};
use super::recovery;
use super::step::{Finding, Plan, Step, Voter, Work};

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
        return Plan::act(Work::UpdatingObjects, Step::ApplyObjects { replicas: set.replicas });
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
        return if plan.step.is_none() && set.small { grow_volumes() } else { plan };
    };
    let duties = [
        take_back,
        add_pods,
        give_up_lost_newcomer,
        await_change,
        leave_lost_node,
        replace_lost,
        scale_up,
        scale_down,
        drop_surplus,
        serve_again,
        follow_edit,
        restart_broken,
        roll,
        grow,
        await_approval,
    ];
    duties
        .iter()
        .find_map(|duty| duty(observed, cluster, target))
        .unwrap_or_else(|| Plan::wait(rest(observed, cluster)))
}

/// Nothing is to be done; that is not to say that all is well.
fn rest(observed: &Observed, cluster: &ClusterView) -> Finding {
    let complete = cluster.members.keys().all(|id| cluster.caught_up.contains(id));
    // Until its probe has said so, a pod gets no clients.
    let ready = cluster.members.values().all(|member| observed.pods.get(&member.ordinal).is_some_and(|pod| pod.ready));
    match (complete, ready) {
        (true, true) => Finding::Reconciled,
        (true, false) => Finding::WaitingForPods,
        (false, _) => Finding::MembersDown,
    }
}

/// Deletion never waits for the cluster, which may be dead: the pods go with their owner, the volumes by the user's choice.
fn delete(observed: &Observed) -> Plan {
    let volume = observed.volumes.iter().find(|(_, volume)| observed.wanted.delete_volumes && !volume.terminating);
    let step = match volume {
        Some((ordinal, _)) => Step::DeleteVolume(*ordinal),
        None => Step::ReleaseFinalizer,
    };
    Plan { step: Some(step), finding: Finding::Deleting }
}

/// Before the first Init: the id is chosen only when every node that will be a member reports to be empty. Volumes that hold a
/// cluster are taken up again if they agree on one and a quorum of them is there.
fn latch_cluster_id(observed: &Observed, target: u32) -> Plan {
    let reports: Vec<_> = (0..target).filter_map(|ordinal| observed.nodes.get(&Ordinal(ordinal))).collect();
    if reports.len() < target as usize {
        return Plan::wait(Finding::WaitingForPods);
    }
    let ids: BTreeSet<ClusterId> = reports.iter().filter_map(|report| report.cluster_id).collect();
    let carriers = reports.iter().filter(|report| report.cluster_id.is_some()).count();
    match (ids.first(), ids.len()) {
        (None, _) => Plan::act(Work::ChoosingClusterId, Step::LatchNewClusterId),
        (Some(id), 1) if carriers > target as usize / 2 => Plan::act(Work::AdoptingCluster, Step::AdoptClusterId(*id)),
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
/// may be a voter's, whose pod was taken away before the configuration had shrunk.
fn restart_silent(observed: &Observed, replicas: u32, target: u32) -> Option<Plan> {
    let kept = observed.volumes.iter().rfind(|(_, volume)| !volume.terminating).map_or(0, |(ordinal, _)| ordinal.0 + 1);
    if replicas < target.max(kept) {
        return Some(Plan::act(Work::CreatingPods, Step::ScaleSet { replicas: target.max(kept) }));
    }
    let (ordinal, _) = observed.pods.iter().find(|(ordinal, pod)| {
        pod.outdated && !pod.ready && !pod.terminating && !observed.nodes.contains_key(ordinal)
    })?;
    Some(Plan::act(Work::RestartingBrokenPod, Step::RestartPod(*ordinal)))
}

/// No leader is confirmed: either the cluster was never made, or its quorum is away.
fn without_quorum(observed: &Observed, cluster_id: ClusterId, target: u32) -> Plan {
    let reports: BTreeMap<Ordinal, _> =
        observed.nodes.iter().filter(|(ordinal, _)| ordinal.0 < target).map(|(o, r)| (*o, r)).collect();
    if reports.values().any(|report| report.cluster_id.is_some_and(|id| id != cluster_id)) {
        return Plan::wait(Finding::ClusterIdMismatch);
    }
    let lost = || Plan::wait(recovery::without_remedy(observed));
    if reports.len() < target as usize || observed.latched.formed {
        return lost();
    }
    // A first Init may have reached some nodes only. Nodes that accepted it say which cluster they are of; repeating it is
    // success there. A node that is a member of a running cluster never reports to be empty and known at once.
    let never_ran = reports.values().all(|r| matches!(r.state, NodeState::Uninitialised | NodeState::Joining));
    if never_ran {
        let members = reports.iter().map(|(ordinal, report)| (*ordinal, report.incarnation)).collect();
        return Plan::act(Work::FormingCluster, Step::Init { cluster_id, members });
    }
    lost()
}

/// The user changed their mind before the joint configuration: the voters are still the ones now wanted, so the change under
/// way, which may never end if its pods cannot run, is given up.
fn take_back(observed: &Observed, cluster: &ClusterView, target: u32) -> Option<Plan> {
    let wanted = observed.wanted.replicas;
    if wanted == target || !cluster.has_voters_below(wanted) {
        return None;
    }
    match cluster.change {
        Change::Joint => None,
        Change::CatchingUp => Some(set_voters(Work::GivingUpResize, cluster, existing(cluster.voters()))),
        Change::None => Some(latch_target(wanted)),
    }
}

/// Every voter-to-be needs its pod: before a change is asked for, and also if somebody took pods away in the middle of one.
fn add_pods(observed: &Observed, _: &ClusterView, target: u32) -> Option<Plan> {
    let set = observed.set.as_ref()?;
    (set.replicas < target).then(|| Plan::act(Work::ScalingUp, Step::ScaleSet { replicas: target }))
}

/// A new member that loses its data while it catches up never will: the change would have no end. It is taken back, and
/// whatever it was for is asked for again with the data that is there now.
fn give_up_lost_newcomer(observed: &Observed, cluster: &ClusterView, _: u32) -> Option<Plan> {
    let lost = |member: &MemberView| {
        let report = observed.nodes.get(&member.ordinal);
        !member.voter && report.is_some_and(|report| report.incarnation != member.incarnation)
    };
    let hopeless = cluster.change == Change::CatchingUp && cluster.members.values().any(lost);
    hopeless.then(|| set_voters(Work::RestartingChange, cluster, existing(cluster.voters())))
}

/// One change at a time.
fn await_change(_: &Observed, cluster: &ClusterView, _: u32) -> Option<Plan> {
    (cluster.change != Change::None).then(|| Plan::wait(Finding::Working(Work::ChangingConfiguration)))
}

/// A pod that can never run again where its volume is: the volume is given up, so that the pod can run elsewhere, on an empty
/// one. The claim is marked first: it goes when
/// the pod does.
fn leave_lost_node(observed: &Observed, cluster: &ClusterView, _: u32) -> Option<Plan> {
    let (ordinal, _) = observed.pods.iter().find(|(_, pod)| pod.node_lost)?;
    if cluster.member_at(*ordinal).is_some_and(|(id, _)| !cluster.can_spare(id)) {
        return Some(Plan::wait(Finding::QuorumLost));
    }
    let step = match observed.volumes.get(ordinal) {
        Some(volume) if !volume.terminating => Step::DeleteVolume(*ordinal),
        _ => Step::RestartPod(*ordinal),
    };
    Some(Plan::act(Work::LeavingLostNode, step))
}

/// A pod whose data is not the member's any more: lost with its volume, damaged, or fenced. The new data joins and the old id
/// leaves in one change, if the others are a quorum without it.
fn replace_lost(observed: &Observed, cluster: &ClusterView, target: u32) -> Option<Plan> {
    let lost = |ordinal: &Ordinal| {
        let report = observed.nodes.get(ordinal)?;
        let (id, member) = cluster.member_at(*ordinal)?;
        let usable = report.incarnation == member.incarnation && report.state.is_sound();
        (!usable).then_some((*ordinal, id, report))
    };
    let (ordinal, old, report) = (0..target).map(Ordinal).find_map(|ordinal| lost(&ordinal))?;
    if !cluster.can_spare(old) {
        return Some(Plan::wait(Finding::QuorumLost));
    }
    if report.state != NodeState::Uninitialised {
        return Some(Plan::act(Work::EmptyingNode, Step::ResetNode(ordinal)));
    }
    let mut voters = existing(cluster.voters().into_iter().filter(|id| *id != old));
    voters.push(Voter::New(ordinal, report.incarnation));
    Some(set_voters(Work::ReplacingMember, cluster, voters))
}

/// More voters are wanted, and their pods are there: one change takes them all in.
fn scale_up(observed: &Observed, cluster: &ClusterView, target: u32) -> Option<Plan> {
    let missing: Vec<Ordinal> = (0..target).map(Ordinal).filter(|o| cluster.member_at(*o).is_none()).collect();
    if missing.is_empty() {
        return None;
    }
    let mut voters = existing(cluster.voters());
    for ordinal in missing {
        match observed.nodes.get(&ordinal) {
            None => return Some(Plan::wait(Finding::WaitingForPods)),
            Some(report) if report.state == NodeState::Uninitialised => {
                voters.push(Voter::New(ordinal, report.incarnation));
            }
            // Data of an earlier life: removed by a resize and kept, or of another cluster.
            Some(report) if report.cluster_id == observed.latched.cluster_id => {
                return Some(Plan::act(Work::EmptyingNode, Step::ResetNode(ordinal)));
            }
            Some(_) => return Some(Plan::wait(Finding::ClusterIdMismatch)),
        }
    }
    Some(set_voters(Work::ScalingUp, cluster, voters))
}

/// Fewer voters are wanted: clients and leadership move off those that go, then one change drops them.
fn scale_down(observed: &Observed, cluster: &ClusterView, target: u32) -> Option<Plan> {
    let (staying, leaving): (BTreeSet<NodeId>, BTreeSet<NodeId>) =
        cluster.members.keys().partition(|id| cluster.members[*id].ordinal.0 < target);
    if leaving.is_empty() {
        return None;
    }
    let sound = staying.iter().filter(|id| cluster.caught_up.contains(id)).count();
    if sound <= staying.len() / 2 {
        return Some(Plan::wait(Finding::QuorumLost));
    }
    if let Some((ordinal, _)) = observed.pods.iter().find(|(ordinal, pod)| ordinal.0 >= target && pod.serving) {
        return Some(Plan::act(Work::ScalingDown, Step::SetServing { ordinal: *ordinal, serving: false }));
    }
    if leaving.contains(&cluster.leader) {
        let to = staying.iter().find(|id| cluster.members[*id].voter && cluster.caught_up.contains(id))?;
        return Some(Plan::act(Work::ScalingDown, Step::TransferLeader { to: *to }));
    }
    Some(set_voters(Work::ScalingDown, cluster, existing(staying)))
}

/// The smaller configuration is committed: pods, then volumes of the removed members go.
fn drop_surplus(observed: &Observed, _: &ClusterView, target: u32) -> Option<Plan> {
    let set = observed.set.as_ref()?;
    if set.replicas > target {
        return Some(Plan::act(Work::ScalingDown, Step::ScaleSet { replicas: target }));
    }
    if observed.pods.keys().any(|ordinal| ordinal.0 >= target) {
        return Some(Plan::wait(Finding::Working(Work::ScalingDown)));
    }
    let surplus = observed.volumes.iter().find(|(ordinal, _)| ordinal.0 >= target)?;
    if surplus.1.terminating {
        return Some(Plan::wait(Finding::Working(Work::ScalingDown)));
    }
    Some(Plan::act(Work::ScalingDown, Step::DeleteVolume(*surplus.0)))
}

/// A pod left the client Service for a removal that was taken back.
fn serve_again(observed: &Observed, _: &ClusterView, target: u32) -> Option<Plan> {
    let (ordinal, _) = observed.pods.iter().find(|(ordinal, pod)| ordinal.0 < target && !pod.serving)?;
    Some(Plan::act(Work::ScalingUp, Step::SetServing { ordinal: *ordinal, serving: true }))
}

/// The change before has ended, so a newer wish becomes the target.
fn follow_edit(observed: &Observed, _: &ClusterView, target: u32) -> Option<Plan> {
    let wanted = observed.wanted.replicas;
    (wanted != target).then(|| latch_target(wanted))
}

/// Outdated pods that take no part are restarted first, whatever the others do: a bad template could not be mended otherwise.
fn restart_broken(observed: &Observed, cluster: &ClusterView, _: u32) -> Option<Plan> {
    if !observed.wanted.roll_unsupervised {
        return None;
    }
    let broken = observed.pods.iter().find(|(ordinal, pod)| {
        let takes_part = cluster.member_at(**ordinal).is_some_and(|(id, _)| cluster.caught_up.contains(&id));
        pod.outdated && !pod.terminating && !takes_part
    })?;
    Some(Plan::act(Work::RestartingBrokenPod, Step::RestartPod(*broken.0)))
}

/// Late, since a storage class may refuse it: that must not hold up what the cluster needs. The pods run on.
fn grow(observed: &Observed, _: &ClusterView, _: u32) -> Option<Plan> {
    observed.set.as_ref().filter(|set| set.small).map(|_| grow_volumes())
}

fn grow_volumes() -> Plan {
    Plan::act(Work::GrowingVolumes, Step::GrowVolumes)
}

/// Healthy outdated pods: one at a time, when all others take part; the leader last, after it handed over.
fn roll(observed: &Observed, cluster: &ClusterView, _: u32) -> Option<Plan> {
    let outdated: Vec<(Ordinal, NodeId)> = observed
        .pods
        .iter()
        .filter(|(_, pod)| pod.outdated)
        .filter_map(|(ordinal, _)| cluster.member_at(*ordinal).map(|(id, _)| (*ordinal, id)))
        .collect();
    if outdated.is_empty() || !observed.wanted.roll_unsupervised {
        return None;
    }
    let everybody_takes_part = cluster.members.keys().all(|id| cluster.caught_up.contains(id))
        && observed.pods.values().all(|pod| !pod.terminating)
        && cluster.members.values().all(|member| observed.pods.get(&member.ordinal).is_some_and(|pod| pod.ready));
    if !everybody_takes_part {
        return Some(Plan::wait(Finding::Working(Work::RollingUpdate)));
    }
    let step = match outdated.iter().find(|(_, id)| *id != cluster.leader) {
        Some((ordinal, _)) => Step::RestartPod(*ordinal),
        None => {
            let to = cluster.voters().into_iter().find(|id| *id != cluster.leader)?;
            Step::TransferLeader { to }
        }
    };
    Some(Plan::act(Work::RollingUpdate, step))
}

/// Pods are outdated still, and nobody said that they may be restarted.
fn await_approval(observed: &Observed, _: &ClusterView, _: u32) -> Option<Plan> {
    let outdated = observed.pods.values().any(|pod| pod.outdated);
    (outdated && !observed.wanted.roll_unsupervised).then(|| Plan::wait(Finding::RollAwaitsApproval))
}

fn latch_target(replicas: u32) -> Plan {
    Plan::act(Work::LatchingSize, Step::LatchTarget { replicas })
}

fn existing(ids: impl IntoIterator<Item = NodeId>) -> Vec<Voter> {
    ids.into_iter().map(Voter::Existing).collect()
}

fn set_voters(work: Work, cluster: &ClusterView, voters: Vec<Voter>) -> Plan {
    Plan::act(work, Step::SetVoters { voters, expected_config_index: cluster.config_index })
}
