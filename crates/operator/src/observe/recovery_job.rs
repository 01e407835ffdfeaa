//! The job of a recovery, and how far it is: by its pods more than by its own word.
//!
//! What must never be missed is that it writes. A pod that has not ended may do so, also one whose job was deleted; so may one whose
//! kubelet cannot be asked, whatever that said last.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::{nodes, trouble};
use crate::build;
use crate::names::Names;
use crate::plan::{ClusterId, JobState};

/// The job of one recovery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryJobView {
    /// For preconditions; none if there is no job.
    pub uid: Option<String>,
    /// What the plan needs.
    pub state: JobState,
    /// Why it has not begun, as far as Kubernetes says so.
    pub trouble: Option<String>,
}

/// Reads the job that makes the cluster `new`, and the pods of every recovery of this cluster.
///
/// # Errors
/// What the API server said.
pub async fn read(client: &Client, names: &Names, new: ClusterId) -> Result<RecoveryJobView, kube::Error> {
    let selected = ListParams::default().labels(&names.recovery_selector_text());
    let pods = Api::<Pod>::namespaced(client.clone(), &names.namespace).list(&selected).await?.items;
    let name = names.recovery_job(new);
    let Some(job) = Api::<Job>::namespaced(client.clone(), &names.namespace).get_opt(&name).await? else {
        let state = if pods.iter().all(has_ended) { JobState::Absent } else { JobState::Running };
        return Ok(RecoveryJobView { state, ..RecoveryJobView::default() });
    };
    let uid = job.uid();
    let state = state(&job, &pods);
    if state != JobState::NotBegun {
        return Ok(RecoveryJobView { uid, state, trouble: None });
    }
    let mut trouble = None;
    for pod in &pods {
        trouble = trouble.or_else(|| trouble::of_pod(pod, build::RECOVERY_CONTAINER));
        let Some(under) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) else { continue };
        if nodes::node(client, under).await?.is_some_and(|node| !node.ready) {
            let trouble = Some(format!("{} is on node {under}, which is not ready", pod.name_any()));
            return Ok(RecoveryJobView { uid, state: JobState::Running, trouble });
        }
    }
    if pods.is_empty() {
        let command = format!("kubectl describe job {name} --namespace {}", names.namespace);
        trouble = Some(format!("it has no pod, its events say why: {command}"));
    }
    Ok(RecoveryJobView { uid, state, trouble })
}

/// By the last words of the kubelets.
fn state(job: &Job, pods: &[Pod]) -> JobState {
    let status = job.status.clone().unwrap_or_default();
    let ended = pods.iter().filter(|pod| has_ended(pod)).count();
    // A pod that is counted and not there any more may have been anything.
    let counted = status.failed.unwrap_or(0) + status.succeeded.unwrap_or(0);
    let unseen = usize::try_from(counted).unwrap_or(0) > ended;
    let holds = |kind: &str| status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True");
    match (ended == pods.len(), holds("Complete"), holds("Failed")) {
        (true, true, _) => JobState::Succeeded,
        (true, _, true) => JobState::Failed,
        _ if unseen || pods.iter().any(has_begun) => JobState::Running,
        _ => JobState::NotBegun,
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn has_ended(pod: &Pod) -> bool {
    ["Succeeded", "Failed"].contains(&phase(pod))
}

/// Whether a container of it was ever started.
fn has_begun(pod: &Pod) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let started =
        |state: &k8s_openapi::api::core::v1::ContainerState| state.running.is_some() || state.terminated.is_some();
    ["Running", "Succeeded", "Unknown"].contains(&phase(pod))
        || containers.into_iter().any(|container| {
            container.restart_count > 0 || container.state.iter().chain(&container.last_state).any(started)
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(phase: &str, container: &Value) -> Value {
        let container = json!({
            "name": "recover", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": container,
        });
        json!({ "metadata": { "name": "db-recover-1" }, "status": { "phase": phase, "containerStatuses": [container] } })
    }

    #[track_caller]
    fn check(status: Value, pods: &[Value], expected: JobState) {
        let job = serde_json::from_value(json!({ "metadata": { "name": "db-recover" }, "status": status }));
        let pods: Vec<Pod> = pods.iter().map(|pod| serde_json::from_value(pod.clone()).expect("a pod")).collect();
        assert_eq!(state(&job.expect("a job"), &pods), expected);
    }

    #[test]
    fn a_job_has_not_begun_until_a_container_of_it_was_started() {
        let waiting = json!({ "waiting": { "reason": "ImagePullBackOff" } });
        check(json!({}), &[], JobState::NotBegun);
        check(json!({ "active": 1 }), &[pod("Pending", &waiting)], JobState::NotBegun);
        check(json!({ "active": 1 }), &[json!({ "metadata": {} })], JobState::NotBegun);
        check(json!({ "active": 1 }), &[pod("Running", &json!({ "running": {} }))], JobState::Running);
        check(json!({ "active": 1 }), &[pod("Pending", &json!({ "running": {} }))], JobState::Running);
        let terminated = json!({ "terminated": { "exitCode": 1 } });
        check(json!({ "failed": 1 }), &[pod("Failed", &terminated)], JobState::Running);
        check(json!({ "failed": 1 }), &[pod("Pending", &waiting)], JobState::Running);
        check(
            json!({ "failed": 1 }),
            &[json!({ "status": { "phase": "Failed", "reason": "Evicted" } })],
            JobState::NotBegun,
        );
    }

    #[test]
    fn a_job_has_ended_when_its_pods_have() {
        let holds = |kind: &str| json!({ "conditions": [{ "type": kind, "status": "True" }] });
        let terminated = json!({ "terminated": { "exitCode": 0 } });
        check(holds("Complete"), &[pod("Succeeded", &terminated)], JobState::Succeeded);
        check(holds("Failed"), &[], JobState::Failed);
        check(holds("Failed"), &[pod("Running", &json!({ "running": {} }))], JobState::Running);
    }
}
