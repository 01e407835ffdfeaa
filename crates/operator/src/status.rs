//! What the user is told: the status, as a function of what was observed and decided.
//!
//! Pure. It changes only when there is something new to say: a condition keeps its time unless its status flips, and figures
//! that move all the time are metrics.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use quorate_proto::quorate::v1::StatusResponse;
use serde_json::{Map, Value};

use crate::crd::{MemberRole, MemberStatus, QuorateCluster, QuorateClusterStatus, RecoveryStatus};
use crate::names::{Names, RECOVER_ANNOTATION};
use crate::observe::Sighting;
use crate::plan::{ClusterId, ClusterView, Finding, NodeId, Ordinal, Plan, Step, Work};

/// Clusters that are remembered as retired: as many as the resource may list.
const MAX_RETIRED: usize = 16;

/// The status after this observation and before this step.
///
/// `new_cluster_id` is used by the step that chooses one, and by no other.
pub fn status(sighting: &Sighting, plan: &Plan, new_cluster_id: ClusterId, now: &Time) -> QuorateClusterStatus {
    let cluster = &sighting.cluster;
    let before = cluster.status.clone().unwrap_or_default();
    let view = sighting.observed.cluster.as_ref();
    let members = match view {
        Some(view) => members(&Names::of(cluster), view, &sighting.answers),
        // Without a leader nothing new is known of who is a member.
        None => before.members.iter().map(|member| lost_sight(member, sighting)).collect(),
    };
    let current = common_version(&members).or_else(|| before.current_version.clone());
    let ready = sighting.observed.pods.values().filter(|pod| pod.ready).count();
    let mut after = QuorateClusterStatus {
        observed_generation: cluster.metadata.generation,
        replicas: count(sighting.observed.pods.len()),
        ready_replicas: count(ready),
        selector: Some(Names::of(cluster).selector_text()),
        leader: view.and_then(|view| members.iter().find(|m| m.id == hex(view.leader)).map(|m| m.name.clone())),
        term: leader_answer(sighting).map(|answer| answer.term.cast_signed()),
        config_index: view.map(|view| view.config_index.cast_signed()).or(before.config_index),
        current_version: current,
        target_version: Some(cluster.spec.version.clone()),
        members,
        ..before.clone()
    };
    match plan.step {
        Some(Step::LatchTarget { replicas }) => after.target_replicas = i32::try_from(replicas).ok(),
        Some(Step::LatchNewClusterId) => after.cluster_id = Some(format!("{:032x}", new_cluster_id.0)),
        Some(Step::AdoptClusterId(id)) => after.cluster_id = Some(format!("{:032x}", id.0)),
        _ => {}
    }
    latch_recovery(&mut after, plan, &Names::of(cluster), new_cluster_id);
    after.conditions = conditions(cluster, view, &plan.finding, &before.conditions, now);
    after
}

fn latch_recovery(after: &mut QuorateClusterStatus, plan: &Plan, names: &Names, new_cluster_id: ClusterId) {
    match plan.step {
        Some(Step::LatchRecovery { survivor }) => {
            after.recovery = Some(RecoveryStatus {
                survivor: names.pod(survivor),
                new_cluster_id: format!("{:032x}", new_cluster_id.0),
            });
        }
        Some(Step::AbandonRecovery) => after.recovery = None,
        Some(Step::LatchRecovered) => {
            let recovered = after.recovery.take().expect("a job ends only for a recovery that was latched");
            let old = after.cluster_id.replace(recovered.new_cluster_id);
            after.retired_cluster_ids.extend(old);
            let surplus = after.retired_cluster_ids.len().saturating_sub(MAX_RETIRED);
            after.retired_cluster_ids.drain(..surplus);
            // The old ones; the new cluster tells its own when it runs.
            after.members.clear();
        }
        _ => {}
    }
}

/// A merge patch from `before` to `after`; none if there is nothing to write. What is gone is named, or it would stay.
pub fn patch(before: Option<&QuorateClusterStatus>, after: &QuorateClusterStatus) -> Option<Value> {
    if before == Some(after) {
        return None;
    }
    let fields = |status: &QuorateClusterStatus| match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        other => unreachable!("a status is a JSON object: {other:?}"),
    };
    let mut patch =
        before.map(fields).unwrap_or_default().into_iter().map(|(key, _)| (key, Value::Null)).collect::<Map<_, _>>();
    patch.extend(fields(after));
    Some(Value::Object(patch))
}

fn members(names: &Names, view: &ClusterView, answers: &BTreeMap<Ordinal, StatusResponse>) -> Vec<MemberStatus> {
    let of = |(id, member): (&NodeId, &crate::plan::MemberView)| {
        let answer = answers.get(&member.ordinal).filter(|answer| answer.node_id == id.0);
        let sound = answer.and_then(crate::observe::report).is_some_and(|report| report.state.is_sound());
        MemberStatus {
            id: hex(*id),
            name: names.pod(member.ordinal),
            role: match (*id == view.leader, member.voter, answer.is_some()) {
                (true, ..) => MemberRole::Leader,
                (_, false, _) => MemberRole::Learner,
                (_, true, true) => MemberRole::Follower,
                (_, true, false) => MemberRole::Unknown,
            },
            healthy: sound,
            caught_up: view.caught_up.contains(id),
            version: answer.map(|answer| answer.version.clone()),
        }
    };
    let mut members: Vec<_> = view.members.iter().map(of).collect();
    members.sort_by(|one, other| one.name.cmp(&other.name));
    members
}

fn lost_sight(member: &MemberStatus, sighting: &Sighting) -> MemberStatus {
    let answers = sighting.answers.values().any(|answer| hex(NodeId(answer.node_id)) == member.id);
    MemberStatus { role: MemberRole::Unknown, healthy: answers, caught_up: false, ..member.clone() }
}

fn leader_answer(sighting: &Sighting) -> Option<&StatusResponse> {
    let view = sighting.observed.cluster.as_ref()?;
    sighting.answers.values().find(|answer| answer.node_id == view.leader.0)
}

fn common_version(members: &[MemberStatus]) -> Option<String> {
    let first = members.first()?.version.as_ref()?;
    members.iter().all(|member| member.version.as_ref() == Some(first)).then(|| first.clone())
}

/// One condition before it has a time.
struct Verdict {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

fn conditions(
    cluster: &QuorateCluster,
    view: Option<&ClusterView>,
    finding: &Finding,
    before: &[Condition],
    now: &Time,
) -> Vec<Condition> {
    let available = available(cluster, view, finding);
    let progressing = progressing(finding);
    let degraded = degraded(cluster, view);
    let decisive = [&progressing, &degraded].into_iter().find(|verdict| verdict.holds).unwrap_or(&available);
    let ready = Verdict {
        kind: "Ready",
        holds: available.holds && !progressing.holds && !degraded.holds,
        reason: decisive.reason,
        message: decisive.message.clone(),
    };
    let reconciling = progressing.holds.then(|| Verdict {
        kind: "Reconciling",
        holds: true,
        reason: progressing.reason,
        message: progressing.message.clone(),
    });
    let stalled = stalled(cluster, finding, progressing.holds, before, now);
    let verdicts = [Some(available), Some(progressing), Some(degraded), Some(ready), reconciling, stalled];
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
    verdicts.into_iter().flatten().map(timed).collect()
}

fn available(cluster: &QuorateCluster, view: Option<&ClusterView>, finding: &Finding) -> Verdict {
    let lost = |text: &str| format!("no quorum of the members answers; {text}");
    let (holds, reason, message) = match (view, finding) {
        (Some(view), _) if view.members.keys().all(|id| view.caught_up.contains(id)) => {
            (true, "QuorumHealthy", "every member takes part".to_string())
        }
        (Some(_), _) => (true, "QuorumAvailable", "a quorum serves; some members do not take part".to_string()),
        (None, Finding::ClusterIdMismatch) => (
            false,
            "ClusterIDMismatch",
            "the volumes belong to another cluster, or too few of this one are there; nothing was changed".to_string(),
        ),
        (None, Finding::QuorumLost) => {
            let command = recover_command(cluster);
            let text = format!("nothing is changed until one does. Only if it is gone for good: {command}");
            (false, "QuorumLost", lost(&text))
        }
        (None, Finding::RecoveryRefused(refusal)) => {
            (false, "QuorumLost", lost(&format!("the recovery that was asked for is refused: {}", refusal.text())))
        }
        (None, Finding::RecoveryFailed) => (false, "QuorumLost", lost("the job that should recover it has failed")),
        (None, Finding::Working(Work::Recovering)) => (false, "QuorumLost", lost(Work::Recovering.text())),
        (None, Finding::Paused) => (false, "Paused", "the operator is paused, and no leader answers".to_string()),
        (None, _) => (false, "Bootstrapping", "the cluster has no leader yet".to_string()),
    };
    Verdict { kind: "Available", holds, reason, message }
}

/// What a human types who is sure. It names the cluster, so that it cannot be pasted for another one.
fn recover_command(cluster: &QuorateCluster) -> String {
    let Names { cluster: name, namespace } = Names::of(cluster);
    let id = cluster.status.as_ref().and_then(|status| status.cluster_id.as_deref()).unwrap_or("CLUSTER-ID");
    format!("kubectl annotate quoratecluster/{name} --namespace {namespace} --overwrite {RECOVER_ANNOTATION}={id}/best")
}

fn progressing(finding: &Finding) -> Verdict {
    let (holds, reason, message) = match finding {
        Finding::Working(work) => (true, work.reason(), work.text()),
        Finding::WaitingForPods => (true, "WaitingForPods", "pods are coming up"),
        Finding::Deleting => (true, "Deleting", "the cluster is being deleted"),
        Finding::RollAwaitsApproval => (
            true,
            "RollAwaitsApproval",
            "pods run an older template; set the annotation quorate.io/roll to spec.version to restart them",
        ),
        Finding::Reconciled => (false, "Reconciled", "everything is as specified"),
        Finding::MembersDown => (false, "MembersDown", "nothing is to be done until the missing members come back"),
        Finding::Paused => (false, "Paused", "spec.paused is set"),
        Finding::QuorumLost => (false, "QuorumLost", "nothing is changed while the quorum is away"),
        Finding::RecoveryRefused(refusal) => (false, "RecoveryRefused", refusal.text()),
        Finding::RecoveryFailed => (
            false,
            "RecoveryFailed",
            "its job says why; name another survivor in the annotation, or remove it to have the pods back",
        ),
        Finding::ClusterIdMismatch => (false, "ClusterIDMismatch", "a human must decide about the volumes"),
    };
    Verdict { kind: "Progressing", holds, reason, message: message.to_string() }
}

/// True exactly when the cluster delivers less than was asked for: reading it alone tells whether to page somebody.
fn degraded(cluster: &QuorateCluster, view: Option<&ClusterView>) -> Verdict {
    let wanted = usize::try_from(cluster.spec.replicas).unwrap_or(0);
    let (holds, reason, message) = match view {
        None => (true, "NoLeader", "no leader answers".to_string()),
        Some(view) => {
            let taking_part = view.members.keys().filter(|id| view.caught_up.contains(id)).count();
            let down = view.members.len() - taking_part;
            if down > 0 {
                (true, "MembersDown", format!("{down} of {} members do not take part", view.members.len()))
            } else if taking_part < wanted {
                (true, "TooFewMembers", format!("{taking_part} members of {wanted}"))
            } else {
                (false, "FullCapacity", "every member takes part".to_string())
            }
        }
    };
    Verdict { kind: "Degraded", holds, reason, message }
}

/// Only while true, as `kubectl wait` and Helm read it: waiting longer is of no use.
fn stalled(
    cluster: &QuorateCluster,
    finding: &Finding,
    progressing: bool,
    before: &[Condition],
    now: &Time,
) -> Option<Verdict> {
    let verdict = |reason, message: String| Some(Verdict { kind: "Stalled", holds: true, reason, message });
    if *finding == Finding::ClusterIdMismatch {
        return verdict("ClusterIDMismatch", "a human must decide about the volumes".to_string());
    }
    if *finding == Finding::RecoveryFailed {
        return verdict("RecoveryFailed", "the job that should recover the cluster has failed".to_string());
    }
    let since = before.iter().find(|old| old.type_ == "Progressing" && old.status == "True" && progressing)?;
    let seconds = now.0.duration_since(since.last_transition_time.0).as_secs();
    let allowed = i64::from(cluster.spec.progress_deadline_seconds);
    if seconds <= allowed {
        return None;
    }
    // The number itself would change with every look.
    verdict("DeadlineExceeded", format!("not as specified for more than {allowed} seconds"))
}

fn hex(id: NodeId) -> String {
    format!("{:016x}", id.0)
}

fn count(of: usize) -> i32 {
    i32::try_from(of).expect("few pods")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::{SignedDuration, Timestamp};
    use serde_json::json;

    use super::*;
    use crate::observe::KubernetesView;
    use crate::plan::{Change, Incarnation, MemberView, Observed, Wanted};

    fn sighting(caught_up: usize, status: Option<QuorateClusterStatus>) -> Sighting {
        let mut cluster: QuorateCluster = serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster",
            "metadata": { "name": "example", "namespace": "default", "generation": 4 },
            "spec": {},
        }))
        .expect("the spec is well-formed");
        cluster.status = status;
        let member = |ordinal| MemberView { ordinal: Ordinal(ordinal), incarnation: Incarnation(0), voter: true };
        let view = ClusterView {
            config_index: 9,
            change: Change::None,
            members: (0..3).map(|ordinal| (NodeId(u64::from(ordinal) + 1), member(ordinal))).collect(),
            leader: NodeId(1),
            caught_up: (1..=3).take(caught_up).map(NodeId).collect(),
        };
        let wanted = Wanted { replicas: 3, roll_unsupervised: true, ..Wanted::default() };
        Sighting {
            cluster,
            observed: Observed { wanted, cluster: (caught_up > 0).then_some(view), ..Observed::default() },
            kubernetes: KubernetesView::default(),
            answers: BTreeMap::new(),
        }
    }

    fn idle(finding: Finding) -> Plan {
        Plan { step: None, finding }
    }

    fn at(seconds: i64) -> Time {
        Time(Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds))
    }

    fn told(sighting: &Sighting, plan: &Plan, seconds: i64) -> QuorateClusterStatus {
        status(sighting, plan, ClusterId(0xab), &at(seconds))
    }

    fn holds(status: &QuorateClusterStatus, kind: &str) -> Option<bool> {
        status.conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.status == "True")
    }

    #[track_caller]
    fn check(caught_up: usize, finding: Finding, expected: [(&str, Option<bool>); 5]) {
        let status = told(&sighting(caught_up, None), &idle(finding), 0);
        for (kind, expected) in expected {
            assert_eq!(holds(&status, kind), expected, "{kind} in {:?}", status.conditions);
        }
    }

    #[test]
    fn conditions_say_whether_it_serves_changes_and_suffices() {
        let kinds = |values: [Option<bool>; 5]| {
            let mut values = values.into_iter();
            ["Available", "Progressing", "Degraded", "Ready", "Reconciling"]
                .map(|kind| (kind, values.next().expect("five")))
        };
        let (yes, no) = (Some(true), Some(false));
        check(3, Finding::Reconciled, kinds([yes, no, no, yes, None]));
        check(2, Finding::MembersDown, kinds([yes, no, yes, no, None]));
        check(3, Finding::Working(Work::RollingUpdate), kinds([yes, yes, no, no, yes]));
        check(0, Finding::QuorumLost, kinds([no, no, yes, no, None]));
    }

    #[test]
    fn nothing_new_is_nothing_to_write() {
        let first = told(&sighting(3, None), &idle(Finding::Reconciled), 0);
        let second = told(&sighting(3, Some(first.clone())), &idle(Finding::Reconciled), 500);
        assert_eq!(patch(Some(&first), &second), None);
    }

    #[test]
    fn what_is_gone_is_named_in_the_patch() {
        let first = told(&sighting(3, None), &idle(Finding::Reconciled), 0);
        let second = told(&sighting(0, Some(first.clone())), &idle(Finding::QuorumLost), 1);
        let patch = patch(Some(&first), &second).expect("something changed");
        assert_eq!(patch["leader"], Value::Null);
        assert!(patch.as_object().expect("an object").contains_key("leader"));
    }

    #[test]
    fn a_latched_id_is_never_replaced() {
        let latch = Plan { step: Some(Step::LatchNewClusterId), finding: Finding::Working(Work::ChoosingClusterId) };
        let first = told(&sighting(0, None), &latch, 0);
        assert_eq!(first.cluster_id.as_deref(), Some("000000000000000000000000000000ab"));
        let second = status(&sighting(3, Some(first.clone())), &idle(Finding::Reconciled), ClusterId(0xcd), &at(1));
        assert_eq!(second.cluster_id, first.cluster_id);
    }

    fn lost(recovery: Option<RecoveryStatus>) -> Sighting {
        let cluster_id = Some("000000000000000000000000000000aa".to_string());
        sighting(0, Some(QuorateClusterStatus { cluster_id, recovery, ..QuorateClusterStatus::default() }))
    }

    #[test]
    fn a_lost_quorum_names_the_command_that_gives_it_up() {
        let status = told(&lost(None), &idle(Finding::QuorumLost), 0);
        let available = status.conditions.iter().find(|c| c.type_ == "Available").expect("always there");
        let command = "kubectl annotate quoratecluster/example --namespace default --overwrite \
                       quorate.io/recover=000000000000000000000000000000aa/best";
        assert!(available.message.ends_with(command), "{}", available.message);
    }

    #[test]
    fn a_recovered_cluster_has_the_new_id_and_remembers_the_old_one() {
        let step = |step| Plan { step: Some(step), finding: Finding::Working(Work::Recovering) };
        let begun = told(&lost(None), &step(Step::LatchRecovery { survivor: Ordinal(2) }), 0);
        assert_eq!(begun.cluster_id.as_deref(), Some("000000000000000000000000000000aa"));
        let recovery = begun.recovery.expect("latched");
        assert_eq!(
            (recovery.survivor.as_str(), recovery.new_cluster_id.as_str()),
            ("example-2", "000000000000000000000000000000ab")
        );
        let done = told(&lost(Some(recovery.clone())), &step(Step::LatchRecovered), 1);
        assert_eq!((done.cluster_id, done.recovery), (Some(recovery.new_cluster_id.clone()), None));
        assert_eq!(done.retired_cluster_ids, ["000000000000000000000000000000aa"]);
        let abandoned = told(&lost(Some(recovery)), &step(Step::AbandonRecovery), 1);
        assert_eq!((abandoned.recovery, abandoned.retired_cluster_ids.len()), (None, 0));
    }

    #[test]
    fn work_that_takes_longer_than_allowed_is_stalled_until_it_ends() {
        let working = idle(Finding::Working(Work::ScalingUp));
        let first = told(&sighting(3, None), &working, 0);
        let within = told(&sighting(3, Some(first.clone())), &working, 600);
        assert_eq!(holds(&within, "Stalled"), None);
        let past = told(&sighting(3, Some(within)), &working, 601);
        assert_eq!(holds(&past, "Stalled"), Some(true));
        let done = told(&sighting(3, Some(past)), &idle(Finding::Reconciled), 602);
        assert_eq!(holds(&done, "Stalled"), None);
    }
}
