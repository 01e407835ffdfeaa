//! The conditions of a cluster: whether it serves, whether anything is to be done, whether it suffices, and whether waiting is of
//! any use. Read by people, `kubectl wait`, Helm and Argo CD alike.
//!
//! Reconciling and Stalled are there only while they hold, and never both: a tool that sees Reconciling waits.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::crd::{MemberRole, QuorateCluster, QuorateClusterStatus};
use crate::names::{METRICS_PORT, Names, PEER_PORT, RECOVER_ANNOTATION, ROLL_ANNOTATION};
use crate::observe::{OUT_OF_SERVICE, Sighting};
use crate::plan::{ClusterView, Finding, NodeState, Ordinal, Plan, Work};

/// One condition before it has a time.
struct Verdict {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// Sets the conditions, and the time of the last progress, of `after`, which still has those of the status before.
pub(super) fn set(after: &mut QuorateClusterStatus, sighting: &Sighting, plan: &Plan, now: &Time) {
    let cluster = &sighting.cluster;
    let view = sighting.observed.cluster.as_ref();
    let finding = &plan.finding;
    let available = available(sighting, view, finding);
    let degraded = degraded(sighting);
    // A node may be under what is no member any more, whose end is waited for.
    let elsewhere = lost_nodes(sighting).filter(|_| !degraded.holds);
    let and_lost_nodes = |verdict: Verdict| match &elsewhere {
        Some(lost) if verdict.holds => Verdict { message: format!("{}; {lost}", verdict.message), ..verdict },
        _ => verdict,
    };
    let progressing = and_lost_nodes(progressing(sighting, finding));
    after.last_progress_time = last_progress(after, cluster.status.as_ref(), &progressing, now);
    let stalled = stalled(after, sighting, finding, now).map(and_lost_nodes);
    let held = held(sighting, finding);
    // That no leader answers says less than why.
    let unavailable = Some(&available).filter(|it| !it.holds);
    let causes = [held.as_ref(), Some(&progressing).filter(|it| it.holds), stalled.as_ref(), unavailable];
    let decisive = causes.into_iter().chain([Some(&degraded).filter(|it| it.holds)]).flatten().next();
    let ready = Verdict {
        kind: "Ready",
        holds: decisive.is_none(),
        reason: decisive.unwrap_or(&available).reason,
        message: decisive.unwrap_or(&available).message.clone(),
    };
    let reconciling = (progressing.holds && stalled.is_none()).then(|| Verdict {
        kind: "Reconciling",
        holds: true,
        reason: progressing.reason,
        message: progressing.message.clone(),
    });
    let verdicts = [Some(available), Some(progressing), Some(degraded), Some(ready), reconciling, stalled];
    let before = &after.conditions;
    let timed = |verdict: Verdict| {
        let status = if verdict.holds { "True" } else { "False" };
        let same = before.iter().find(|old| old.type_ == verdict.kind && old.status == status);
        Condition {
            type_: verdict.kind.to_string(),
            status: status.to_string(),
            reason: verdict.reason.to_string(),
            message: verdict.message,
            observed_generation: cluster.metadata.generation,
            last_transition_time: same.map_or_else(|| now.clone(), |old| old.last_transition_time.clone()),
        }
    };
    after.conditions = verdicts.into_iter().flatten().map(timed).collect();
}

/// Paused with something to do: what is specified is not what runs.
fn held(sighting: &Sighting, finding: &Finding) -> Option<Verdict> {
    let observed = &sighting.observed;
    let set_differs = observed.set.as_ref().is_none_or(|set| set.outdated || set.overridden || set.small);
    let differs = set_differs
        || observed.pods.values().any(|pod| pod.outdated)
        || observed.latched.target_replicas != Some(observed.wanted.replicas);
    (*finding == Finding::Paused && differs).then(|| Verdict {
        kind: "Ready",
        holds: true,
        reason: "Paused",
        message: "spec.paused is set, and what runs differs from what is specified".to_string(),
    })
}

fn available(sighting: &Sighting, view: Option<&ClusterView>, finding: &Finding) -> Verdict {
    let cluster = &sighting.cluster;
    let lost = |text: &str| format!("no quorum of the members answers{}; {text}", troubles(sighting));
    let (holds, reason, message) = match (view, finding) {
        (Some(view), _) if view.members.keys().all(|id| view.caught_up.contains(id)) => {
            (true, "QuorumHealthy", "every member takes part".to_string())
        }
        (Some(_), _) => (true, "QuorumAvailable", "a quorum serves; some members do not take part".to_string()),
        (None, Finding::ClusterIdMismatch) => {
            let text = "the volumes belong to another cluster, or too few of this one are there; nothing was changed";
            (false, "ClusterIDMismatch", format!("{text}; {}", undecided_volumes(sighting)))
        }
        (None, Finding::QuorumLost) => {
            let command = recover_command(cluster);
            let text = format!("nothing is changed until one does. Only if it is gone for good: {command}");
            (false, "QuorumLost", lost(&text))
        }
        // An annotation that was left behind, or set too soon, makes no quorum lost.
        (None, Finding::RecoveryRefused(refusal)) if sighting.observed.quorum_may_run => {
            let refused = format!("the recovery that is asked for is refused: {}", refusal.text());
            (false, "NoLeader", format!("{}; {refused}", leaderless(sighting)))
        }
        (None, Finding::RecoveryRefused(refusal)) => {
            (false, "QuorumLost", lost(&format!("the recovery that was asked for is refused: {}", refusal.text())))
        }
        (None, Finding::RecoveryFailed) => (false, "QuorumLost", lost("the job that should recover it has failed")),
        (None, Finding::Working(Work::Recovering)) => {
            (false, "QuorumLost", lost(Work::Recovering.text()) + &recovery_trouble(sighting))
        }
        (None, Finding::NoLeader) => (false, "NoLeader", leaderless(sighting)),
        (None, Finding::Working(work @ Work::RestoringLeader)) => (false, "NoLeader", work.text().to_string()),
        (None, Finding::Paused) => (false, "Paused", "the operator is paused, and no leader answers".to_string()),
        // Only a leader tells the index of a configuration: there was one.
        (None, _) if cluster.status.as_ref().is_some_and(|status| status.config_index.is_some()) => {
            (false, "NoLeader", "no leader answers".to_string())
        }
        (None, _) => (false, "Bootstrapping", "the cluster has no leader yet".to_string()),
    };
    Verdict { kind: "Available", holds, reason, message }
}

/// Where to look when members that could elect a leader do not.
fn leaderless(sighting: &Sighting) -> String {
    let Names { cluster: name, namespace } = Names::of(&sighting.cluster);
    let awaits = !sighting.observed.wanted.roll_unsupervised && sighting.observed.pods.values().any(|pod| pod.outdated);
    let older = match awaits {
        true => {
            format!("; pods run an older template, which may be what keeps them from it: {}", roll_command(sighting))
        }
        false => String::new(),
    };
    format!(
        "enough members for a quorum answer or are ready, and none of them leads; look whether they reach each other on port {PEER_PORT} \
         (network policies), whether their disks are slow or full, and at kubectl logs --namespace {namespace} --prefix --selector \
         app.kubernetes.io/name=quorate,app.kubernetes.io/instance={name}{older}"
    )
}

/// What a human types who is sure. It names the cluster, so that it cannot be pasted for another one.
fn recover_command(cluster: &QuorateCluster) -> String {
    let id = cluster.status.as_ref().and_then(|status| status.cluster_id.as_deref()).unwrap_or("CLUSTER-ID");
    annotate_command(cluster, RECOVER_ANNOTATION, &format!("{id}/best"))
}

/// What lets the roll-out that waits go ahead.
fn roll_command(sighting: &Sighting) -> String {
    annotate_command(&sighting.cluster, ROLL_ANNOTATION, &waiting_revision(sighting))
}

fn annotate_command(cluster: &QuorateCluster, annotation: &str, value: &str) -> String {
    let Names { cluster: name, namespace } = Names::of(cluster);
    format!("kubectl annotate quoratecluster/{name} --namespace {namespace} --overwrite {annotation}={value}")
}

/// What the API server said to the work under way, if it refuses it.
fn refusal<'a>(sighting: &'a Sighting, finding: &Finding) -> Option<&'a str> {
    let Finding::Working(work) = finding else { return None };
    sighting.refused.iter().find(|refused| refused.work == work.reason()).map(|refused| refused.message.as_str())
}

/// Names that somebody else has taken, if an object of the cluster is to be made under one of them.
fn taken(sighting: &Sighting, finding: &Finding) -> Option<String> {
    let makes = matches!(finding, Finding::Working(Work::UpdatingObjects | Work::CreatingPods | Work::Recovering));
    let which = sighting.taken.join("; ");
    (makes && !which.is_empty()).then(|| format!("{which}; rename or delete what is not this cluster's"))
}

/// What an apply has not ended, if that is what is waited for.
fn overridden(sighting: &Sighting, finding: &Finding) -> Option<String> {
    let first = sighting.overridden.first().filter(|_| *finding == Finding::Working(Work::UpdatingObjects))?;
    Some(format!("an apply leaves this as it is: {first}; look for who else writes it, such as an admission webhook"))
}

/// What Kubernetes says of pods that do not run, as the end of a sentence; nothing if it says nothing.
fn troubles(sighting: &Sighting) -> String {
    let names = Names::of(&sighting.cluster);
    let pods = sighting.kubernetes.pods.iter();
    pods.filter_map(|(ordinal, pod)| Some(format!("; {}: {}", names.pod(*ordinal), pod.trouble.as_ref()?))).collect()
}

/// Pods of removed members that have not ended, as the end of a sentence.
fn surplus_pods(sighting: &Sighting) -> String {
    let (names, observed) = (Names::of(&sighting.cluster), &sighting.observed);
    let target = observed.latched.target_replicas.unwrap_or(u32::MAX);
    let surplus = observed.pods.iter().filter(|(ordinal, pod)| ordinal.0 >= target && pod.terminating);
    let surplus: Vec<String> = surplus.map(|(ordinal, _)| names.pod(*ordinal)).collect();
    if surplus.is_empty() { String::new() } else { format!("; told to end, and not gone yet: {}", surplus.join(", ")) }
}

/// What keeps the job of a recovery from beginning, as the end of a sentence.
fn recovery_trouble(sighting: &Sighting) -> String {
    let recovery = sighting.observed.latched.recovery;
    let job = recovery.map(|recovery| Names::of(&sighting.cluster).recovery_job(recovery.cluster_id));
    let trouble = job.zip(sighting.kubernetes.recovery_job.trouble.as_ref());
    trouble.map_or_else(String::new, |(job, trouble)| format!("; job {job}: {trouble}"))
}

/// Pods that the set was told of and has not made, as the end of a sentence: what keeps it from that is known to it alone, a quota
/// of the namespace for example.
fn missing_pods(sighting: &Sighting) -> String {
    let names = Names::of(&sighting.cluster);
    let set = sighting.observed.set.as_ref().filter(|set| set.settled);
    let missing = (0..set.map_or(0, |set| set.replicas)).map(Ordinal);
    let missing = missing.filter(|ordinal| !sighting.observed.pods.contains_key(ordinal));
    let missing: Vec<String> = missing.map(|ordinal| names.pod(ordinal)).collect();
    let Names { cluster, namespace } = names;
    match missing.is_empty() {
        true => String::new(),
        false => format!(
            "; not made yet: {}; the events of its set say why: kubectl describe statefulset {cluster} --namespace {namespace}",
            missing.join(", ")
        ),
    }
}

fn progressing(sighting: &Sighting, finding: &Finding) -> Verdict {
    let and_troubles = |text: &str| text.to_string() + &troubles(sighting);
    let (holds, message) = match finding {
        Finding::Working(work) => match refusal(sighting, finding) {
            Some(said) => (true, format!("{}, which the API server refuses: {said}", work.text())),
            None => match taken(sighting, finding).or_else(|| overridden(sighting, finding)) {
                Some(said) => (true, format!("{}; {said}", work.text())),
                None if *work == Work::ScalingDown => (true, and_troubles(work.text()) + &surplus_pods(sighting)),
                None => (true, and_troubles(work.text()) + &recovery_trouble(sighting)),
            },
        },
        Finding::WaitingForPods => (true, and_troubles("pods are coming up") + &missing_pods(sighting)),
        Finding::Deleting => (true, and_troubles("the cluster is being deleted")),
        Finding::RollAwaitsApproval => {
            (true, format!("pods run an older template; to have them restarted: {}", roll_command(sighting)))
        }
        Finding::TooFewTakePart => {
            let text = "the next step waits for members that do not take part: it would cost the quorum";
            (true, and_troubles(text))
        }
        Finding::Reconciled => (false, "everything is as specified".to_string()),
        Finding::MembersDown => (false, "nothing is to be done until the missing members come back".to_string()),
        Finding::Paused => (false, "spec.paused is set".to_string()),
        Finding::QuorumLost => (false, "nothing is changed while the quorum is away".to_string()),
        Finding::NoLeader => (false, "nothing is changed while no member leads".to_string()),
        Finding::RecoveryRefused(refusal) => (false, refusal.text().to_string()),
        Finding::RecoveryFailed => {
            let text = "its job says why; name another survivor in the annotation, or remove it to have the pods back";
            (false, text.to_string())
        }
        Finding::ClusterIdMismatch => (false, undecided_volumes(sighting)),
    };
    Verdict { kind: "Progressing", holds, reason: finding.reason(), message }
}

/// Whose data is on which volume, of those that are not known to be this cluster's. Before a cluster is chosen these are all that hold
/// any.
fn undecided_volumes(sighting: &Sighting) -> String {
    let (names, observed) = (Names::of(&sighting.cluster), &sighting.observed);
    let foreign = observed.nodes.iter().filter_map(|(ordinal, report)| {
        let claim = names.claim(*ordinal);
        let ours = observed.volumes.get(ordinal).is_some_and(|volume| volume.ours);
        match report.cluster_id {
            None if report.state == NodeState::Damaged && !ours => {
                Some(format!("{claim} holds damaged data that does not say of which cluster it is"))
            }
            None => None,
            Some(id) if Some(id) == observed.latched.cluster_id => None,
            Some(id) => Some(format!("{claim} holds data of cluster {:032x}", id.0)),
        }
    });
    let unknown = observed.volumes.iter().filter(|(_, volume)| volume.stranded && !volume.ours);
    let unknown = unknown.map(|(ordinal, _)| format!("{} cannot be read any more", names.claim(*ordinal)));
    let volumes: Vec<String> = foreign.chain(unknown).collect();
    match volumes.is_empty() {
        true => "a human must decide about the volumes".to_string(),
        false => format!("a human must decide about the volumes: {}", volumes.join(", ")),
    }
}

fn waiting_revision(sighting: &Sighting) -> String {
    let set = sighting.kubernetes.set.as_ref();
    set.and_then(|set| set.revision.clone()).unwrap_or_else(|| sighting.cluster.spec.version.clone())
}

/// True exactly when the cluster delivers less than was asked for: reading it alone tells whether to page somebody.
fn degraded(sighting: &Sighting) -> Verdict {
    let wanted = usize::try_from(sighting.cluster.spec.replicas).unwrap_or(0);
    let (holds, reason, message) = match &sighting.observed.cluster {
        None => (true, "NoLeader", "no leader answers".to_string()),
        Some(view) => {
            let taking_part = view.members.keys().filter(|id| view.caught_up.contains(id)).count();
            let down = view.members.len() - taking_part;
            if down > 0 {
                let which = down_members(sighting, view);
                (true, "MembersDown", format!("{down} of {} members do not take part: {which}", view.members.len()))
            } else if taking_part < wanted {
                (true, "TooFewMembers", format!("{taking_part} members of {wanted}"))
            } else if let Some(message) = unready_pods(sighting, view) {
                (true, "PodsNotReady", message)
            } else if let Some(message) = small_volume(sighting) {
                (true, "VolumeTooSmall", message)
            } else {
                (false, "FullCapacity", "every member takes part".to_string())
            }
        }
    };
    match lost_nodes(sighting).filter(|_| holds) {
        Some(lost) => Verdict { kind: "Degraded", holds, reason: "NodeLost", message: format!("{message}; {lost}") },
        None => Verdict { kind: "Degraded", holds, reason, message },
    }
}

/// Members that take part and get no clients: their pods are not ready, for a reason of the node's own, such as the alarm CORRUPT.
fn unready_pods(sighting: &Sighting, view: &ClusterView) -> Option<String> {
    let names = Names::of(&sighting.cluster);
    let pods =
        view.members.values().filter_map(|member| Some((member.ordinal, sighting.observed.pods.get(&member.ordinal)?)));
    let unready = pods.filter(|(_, pod)| pod.serving && !pod.ready).map(|(ordinal, _)| names.pod(ordinal));
    let unready: BTreeSet<String> = unready.collect();
    let unready = unready.into_iter().collect::<Vec<_>>().join(", ");
    (!unready.is_empty()).then(|| {
        format!("not ready, and without clients: {unready}; on port {METRICS_PORT} of each /readyz?verbose says why, an alarm for example")
    })
}

/// A volume that was asked to grow, and did not.
fn small_volume(sighting: &Sighting) -> Option<String> {
    let names = Names::of(&sighting.cluster);
    let mut volumes = sighting.kubernetes.volumes.iter();
    let (ordinal, trouble) = volumes.find_map(|(ordinal, volume)| Some((ordinal, volume.resize_trouble.as_ref()?)))?;
    Some(format!("the volume of {} has not grown: {trouble}", names.claim(*ordinal)))
}

/// Who does not take part, and why.
fn down_members(sighting: &Sighting, view: &ClusterView) -> String {
    let names = Names::of(&sighting.cluster);
    let down = view.members.iter().filter(|(id, _)| !view.caught_up.contains(id)).map(|(id, member)| {
        let why = match sighting.kubernetes.pods.get(&member.ordinal) {
            None => "has no pod",
            Some(pod) => match &pod.trouble {
                Some(trouble) => trouble,
                None if view.active.contains(id) => "is behind",
                None => "does not answer",
            },
        };
        format!("{} ({why})", names.pod(member.ordinal))
    });
    let down: BTreeSet<String> = down.collect();
    down.into_iter().collect::<Vec<_>>().join(", ")
}

/// Pods that cannot run where they are, and what a human types who knows that the node never comes back: nobody else can tell it
/// from one that is only cut off.
fn lost_nodes(sighting: &Sighting) -> Option<String> {
    let names = Names::of(&sighting.cluster);
    let pods = sighting.kubernetes.pods.iter().filter(|(_, pod)| !pod.state.ready);
    let lost = pods.filter_map(|(ordinal, pod)| {
        let node = pod.node.as_ref().filter(|node| !node.ready && !node.gone)?;
        let (pod, node) = (names.pod(*ordinal), &node.name);
        Some(format!(
            "pod {pod} is on node {node}, which is not ready; only if that is gone for good: kubectl delete node {node}, or, to \
             keep the Node object: kubectl taint node {node} {OUT_OF_SERVICE}=nodeshutdown:NoExecute"
        ))
    });
    let lost: Vec<String> = lost.collect();
    (!lost.is_empty()).then(|| lost.join("; "))
}

/// When something was last seen to move; none while nothing is to be done. What only comes and goes, such as a leader, is no
/// progress.
fn last_progress(
    after: &QuorateClusterStatus,
    before: Option<&QuorateClusterStatus>,
    progressing: &Verdict,
    now: &Time,
) -> Option<Time> {
    if !progressing.holds {
        return None;
    }
    let moved = before.is_none_or(|before| {
        let told = before.condition("Progressing");
        standing(before) != standing(after) || told.is_none_or(|told| told.reason != progressing.reason)
    });
    let known = before.and_then(|before| before.last_progress_time.clone());
    known.filter(|_| !moved).or_else(|| Some(now.clone()))
}

/// What a change or a roll-out moves.
fn standing(status: &QuorateClusterStatus) -> impl PartialEq + use<> {
    let member = |member: &crate::crd::MemberStatus| {
        (member.id.clone(), member.role == MemberRole::Learner, member.caught_up, member.version.clone())
    };
    let members: Vec<_> = status.members.iter().map(member).collect();
    let made = (status.observed_generation, status.cluster_id.clone(), status.recovery.clone(), status.target_replicas);
    (made, status.config_index, status.ready_replicas, members)
}

/// Only while true, as `kubectl wait` and Helm read it: waiting longer is of no use.
fn stalled(after: &QuorateClusterStatus, sighting: &Sighting, finding: &Finding, now: &Time) -> Option<Verdict> {
    let verdict = |reason, message: String| Some(Verdict { kind: "Stalled", holds: true, reason, message });
    match finding {
        Finding::ClusterIdMismatch => return verdict("ClusterIDMismatch", undecided_volumes(sighting)),
        Finding::RecoveryFailed => {
            return verdict("RecoveryFailed", "the job that should recover the cluster has failed".to_string());
        }
        // A human may take as long as they like.
        Finding::RollAwaitsApproval => return None,
        _ => {}
    }
    if let Some(said) = refusal(sighting, finding) {
        return verdict("Refused", format!("the API server refuses what is specified: {said}"));
    }
    if let Some(said) = taken(sighting, finding) {
        return verdict("NameTaken", said);
    }
    if let Some(said) = overridden(sighting, finding) {
        return verdict("Overridden", said);
    }
    let seconds = now.0.duration_since(after.last_progress_time.as_ref()?.0).as_secs();
    let allowed = i64::from(sighting.cluster.spec.progress_deadline_seconds);
    if seconds <= allowed {
        return None;
    }
    // The number itself would change with every look.
    verdict("DeadlineExceeded", format!("nothing has moved for more than {allowed} seconds"))
}
