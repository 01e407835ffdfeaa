//! Duties around the number of members: begin a change, follow it, take it back, and clear away what it leaves.

use std::collections::BTreeSet;

use super::decide::{existing, latch_target, set_voters, transfer};
use super::observed::{Change, ClusterView, MemberView, NodeId, NodeReport, NodeState, Observed, Ordinal};
use super::step::{Finding, Plan, Step, Voter, Work};

/// The user changed their mind before the joint configuration: the voters are still the ones now wanted, so the change under
/// way, which may never end if its pods cannot run, is given up.
pub(super) fn take_back(observed: &Observed, cluster: &ClusterView, target: u32) -> Option<Plan> {
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
pub(super) fn add_pods(observed: &Observed, _: &ClusterView, target: u32) -> Option<Plan> {
    let set = observed.set.as_ref()?;
    (set.replicas < target).then(|| Plan::act(Work::ScalingUp, Step::ScaleSet { replicas: target }))
}

/// A new member that loses or damages its data while it catches up never will: the change would have no end. It is taken back, and
/// whatever it was for is asked for again with the data that is there now.
pub(super) fn give_up_lost_newcomer(observed: &Observed, cluster: &ClusterView, _: u32) -> Option<Plan> {
    let lost = |member: &MemberView| {
        let report = observed.nodes.get(&member.ordinal);
        let stranded = observed.volumes.get(&member.ordinal).is_some_and(|volume| volume.stranded);
        // Empty it is until the leader finds it.
        let useless = |report: &NodeReport| {
            report.incarnation != member.incarnation
                || !(report.state.is_sound() || report.state == NodeState::Uninitialised)
        };
        !member.voter && (stranded || report.is_some_and(useless))
    };
    let hopeless = cluster.change == Change::CatchingUp && cluster.members.values().any(lost);
    hopeless.then(|| set_voters(Work::RestartingChange, cluster, existing(cluster.voters())))
}

/// One change at a time.
pub(super) fn await_change(_: &Observed, cluster: &ClusterView, _: u32) -> Option<Plan> {
    (cluster.change != Change::None).then(|| Plan::wait(Finding::Working(Work::ChangingConfiguration)))
}

/// More voters are wanted, and their pods are there: one change takes them all in.
pub(super) fn scale_up(observed: &Observed, cluster: &ClusterView, target: u32) -> Option<Plan> {
    let missing: Vec<Ordinal> = (0..target).map(Ordinal).filter(|o| cluster.member_at(*o).is_none()).collect();
    if missing.is_empty() {
        return None;
    }
    // Its files may be so damaged that they do not say whose they are: what was on a volume that was made for this cluster was its own.
    let ours = |ordinal: &Ordinal, report: &NodeReport| match report.cluster_id {
        Some(id) => observed.latched.cluster_id == Some(id),
        None => observed.volumes.get(ordinal).is_some_and(|volume| volume.ours),
    };
    let mut voters = existing(cluster.voters());
    for ordinal in missing {
        match observed.nodes.get(&ordinal) {
            None => return Some(Plan::wait(Finding::WaitingForPods)),
            Some(report) if report.state == NodeState::Uninitialised => {
                voters.push(Voter::New(ordinal, report.incarnation));
            }
            // Data of an earlier life: removed by a resize and kept, or damaged before it was a member's.
            Some(report) if ours(&ordinal, report) => {
                return Some(Plan::act(Work::EmptyingNode, Step::ResetNode(ordinal)));
            }
            Some(_) => return Some(Plan::wait(Finding::ClusterIdMismatch)),
        }
    }
    Some(set_voters(Work::ScalingUp, cluster, voters))
}

/// Fewer voters are wanted: clients and leadership move off those that go, then one change drops them. It begins when all that
/// stay take part: of a smaller cluster there is less to lose.
pub(super) fn scale_down(observed: &Observed, cluster: &ClusterView, target: u32) -> Option<Plan> {
    let (staying, leaving): (BTreeSet<NodeId>, BTreeSet<NodeId>) =
        cluster.members.keys().partition(|id| cluster.members[*id].ordinal.0 < target);
    if leaving.is_empty() {
        return None;
    }
    if !staying.iter().all(|id| observed.takes_part(cluster, *id)) {
        return Some(Plan::wait(Finding::TooFewTakePart));
    }
    if let Some((ordinal, _)) = observed.pods.iter().find(|(ordinal, pod)| ordinal.0 >= target && pod.serving) {
        return Some(Plan::act(Work::ScalingDown, Step::SetServing { ordinal: *ordinal, serving: false }));
    }
    if observed.pods.iter().any(|(ordinal, pod)| ordinal.0 >= target && pod.leaves_service) {
        return Some(Plan::wait(Finding::Working(Work::ScalingDown)));
    }
    if leaving.contains(&cluster.leader)
        && let Some(step) = transfer(observed, cluster, staying.iter().copied())
    {
        return Some(Plan::act(Work::ScalingDown, step));
    }
    Some(set_voters(Work::ScalingDown, cluster, existing(staying)))
}

/// The smaller configuration is committed: pods, then volumes of the removed members go. A volume that is not known to be of this
/// cluster stays, whoever put it there. A pod on a node that does not answer may take for ever to go; its volume waits for it, and
/// nothing else does.
pub(super) fn drop_surplus(observed: &Observed, _: &ClusterView, target: u32) -> Option<Plan> {
    let set = observed.set.as_ref()?;
    if set.replicas > target {
        return Some(Plan::act(Work::ScalingDown, Step::ScaleSet { replicas: target }));
    }
    let (ordinal, _) = observed.volumes.iter().find(|(ordinal, volume)| {
        ordinal.0 >= target && volume.ours && !volume.terminating && !observed.pods.contains_key(ordinal)
    })?;
    Some(Plan::act(Work::ScalingDown, Step::DeleteVolume(*ordinal)))
}

/// Pods and volumes of removed members are on their way out, and nothing else is to be done.
///
/// Should the cluster grow again before they are gone, the pod that is on its way out is not asked, so nobody takes its data for that of
/// a new member: the change waits for the pod that comes after it, and what that finds of an earlier life is emptied first.
pub(super) fn await_surplus(observed: &Observed, _: &ClusterView, target: u32) -> Option<Plan> {
    let pods = observed.pods.keys().any(|ordinal| ordinal.0 >= target);
    let volumes = observed.volumes.iter().any(|(ordinal, volume)| ordinal.0 >= target && volume.ours);
    (pods || volumes).then(|| Plan::wait(Finding::Working(Work::ScalingDown)))
}

/// A pod left the client Service for a removal that was taken back.
pub(super) fn serve_again(observed: &Observed, _: &ClusterView, target: u32) -> Option<Plan> {
    let (ordinal, _) = observed.pods.iter().find(|(ordinal, pod)| ordinal.0 < target && !pod.serving)?;
    Some(Plan::act(Work::ScalingUp, Step::SetServing { ordinal: *ordinal, serving: true }))
}

/// The change before has ended, so a newer wish becomes the target.
pub(super) fn follow_edit(observed: &Observed, _: &ClusterView, target: u32) -> Option<Plan> {
    let wanted = observed.wanted.replicas;
    (wanted != target).then(|| latch_target(wanted))
}
