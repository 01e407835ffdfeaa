//! What the user is told: the status, as a function of what was observed and decided.
//!
//! Pure. It changes only when there is something new to say: a condition keeps its time unless its status flips, and figures
//! that move all the time are metrics.

mod conditions;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use quorate_proto::quorate::v1::StatusResponse;
use serde_json::{Map, Value};

use crate::crd::{MemberRole, MemberStatus, QuorateClusterStatus, RecoveryStatus};
use crate::names::Names;
use crate::observe::Sighting;
use crate::plan::{ClusterId, ClusterView, NodeId, Ordinal, Plan, Step};

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
        target_version: target_version(sighting),
        approved_roll: sighting.approved_roll.clone(),
        // So a step is never begun on a status that somebody has written since.
        steps: before.steps + i64::from(plan.step.is_some()),
        members,
        ..before.clone()
    };
    match plan.step {
        Some(Step::LatchTarget { replicas }) => after.target_replicas = i32::try_from(replicas).ok(),
        Some(Step::LatchNewClusterId) => after.cluster_id = Some(format!("{:032x}", new_cluster_id.0)),
        Some(Step::AdoptClusterId(id)) => after.cluster_id = Some(format!("{:032x}", id.0)),
        _ => {}
    }
    latch_recovery(&mut after, sighting, plan, new_cluster_id);
    conditions::set(&mut after, sighting, plan, now);
    after
}

fn latch_recovery(after: &mut QuorateClusterStatus, sighting: &Sighting, plan: &Plan, new_cluster_id: ClusterId) {
    if let Some(recovery) = &mut after.recovery {
        let deleted = plan.step == Some(Step::DeleteRecoveryJob);
        recovery.begun = !deleted && (recovery.begun || sighting.observed.recovery_job.has_begun());
    }
    match plan.step {
        Some(Step::LatchRecovery { survivor }) => {
            after.recovery = Some(RecoveryStatus {
                survivor: Names::of(&sighting.cluster).pod(survivor),
                new_cluster_id: format!("{:032x}", new_cluster_id.0),
                begun: false,
            });
        }
        Some(Step::EndRecovery) => after.recovery = None,
        Some(Step::LatchRecovered) => {
            let recovered = after.recovery.as_ref().expect("a job ends only for a recovery that was latched");
            let old = after.cluster_id.replace(recovered.new_cluster_id.clone());
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

/// By the word of the nodes that run the newest template, as the current one is by that of all: a tag may be called anything. Until one
/// of them answers, the tag is all that is known; of an image of the user's own nothing is.
fn target_version(sighting: &Sighting) -> Option<String> {
    let applied = sighting.observed.set.as_ref().is_some_and(|set| set.settled && !set.outdated);
    let newest = |ordinal: &Ordinal| sighting.observed.pods.get(ordinal).is_some_and(|pod| !pod.outdated);
    let mut newest = sighting.answers.iter().filter(|(ordinal, _)| applied && newest(ordinal));
    match (newest.next(), &sighting.cluster.spec.image) {
        (Some((_, answer)), _) => Some(answer.version.clone()),
        (None, None) => Some(sighting.cluster.spec.version.clone()),
        (None, Some(_)) => None,
    }
}

fn hex(id: NodeId) -> String {
    format!("{:016x}", id.0)
}

fn count(of: usize) -> i32 {
    i32::try_from(of).expect("few pods")
}

#[cfg(test)]
mod tests;
