//! What Kubernetes says of pods that do not run, and of volumes that do not grow, shortened for people. Pure.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::quantity::is_more;

/// Characters of what is said of one pod or claim.
const LONGEST_TROUBLE: usize = 160;

/// Why a pod that is not ready does not run its `container`, in words that stay the same while it is tried again and again: each change would be a write.
pub(super) fn of_pod(pod: &Pod, container: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let unscheduled = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = unscheduled {
        let said = condition.message.as_deref().unwrap_or_default();
        // What follows is of other pods that might have to go.
        let said = said.split(" preemption:").next().unwrap_or_default();
        return Some(told(condition.reason.as_deref().unwrap_or("Unscheduled"), said));
    }
    if status.phase.as_deref() == Some("Failed") {
        let said = status.message.as_deref().unwrap_or_default();
        return Some(told(status.reason.as_deref().unwrap_or("Failed"), said));
    }
    let told_of = status.container_statuses.iter().flatten().find(|c| c.name == container)?;
    let waiting = told_of.state.as_ref()?.waiting.as_ref()?;
    match waiting.reason.as_deref()? {
        "ContainerCreating" | "PodInitializing" => None,
        "ErrImagePull" | "ImagePullBackOff" => {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let image = containers.filter(|c| c.name == container).find_map(|c| c.image.as_deref());
            Some(told("ImagePullBackOff", image.unwrap_or_default()))
        }
        reason @ "CrashLoopBackOff" => {
            let ended = told_of.last_state.as_ref().and_then(|state| state.terminated.as_ref());
            let said = ended
                .map(|ended| format!("exit code {}, {}", ended.exit_code, ended.reason.as_deref().unwrap_or_default()));
            Some(told(reason, said.as_deref().unwrap_or_default()))
        }
        reason => Some(told(reason, waiting.message.as_deref().unwrap_or_default())),
    }
}

fn told(reason: &str, said: &str) -> String {
    let said: String = said.trim().trim_end_matches(['.', ',']).chars().take(LONGEST_TROUBLE).collect();
    if said.is_empty() { reason.to_string() } else { format!("{reason}: {said}") }
}

/// What a driver says to a volume that is smaller than the `size` asked for. A growth that is only under way is no trouble.
pub(super) fn of_growth(claim: &PersistentVolumeClaim, size: &str) -> Option<String> {
    let status = claim.status.as_ref()?;
    let capacity = &status.capacity.as_ref()?.get("storage")?.0;
    if !is_more(size, capacity) {
        return None;
    }
    let known = ["FileSystemResizePending", "ControllerResizeError", "NodeResizeError"];
    let said = status.conditions.iter().flatten().find(|c| c.status == "True" && known.contains(&c.type_.as_str()))?;
    let said = told(&said.type_, said.message.as_deref().unwrap_or_default());
    Some(format!("{capacity} of {size}, {said}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check_trouble(status: Value, expected: Option<&str>) {
        let spec = json!({ "containers": [{ "name": "quorate", "image": "quorate:none" }] });
        let pod = json!({ "metadata": { "name": "db-0" }, "spec": spec, "status": status });
        let pod = serde_json::from_value(pod).expect("a pod");
        assert_eq!(of_pod(&pod, "quorate").as_deref(), expected);
    }

    #[test]
    fn a_pod_says_why_it_does_not_run() {
        let container = |state: Value, last: Value| {
            json!({ "containerStatuses": [{
                "name": "quorate", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": state, "lastState": last,
            }] })
        };
        let waiting = |reason: &str, message: &str| {
            let ended = json!({ "terminated": { "exitCode": 1, "reason": "Error" } });
            container(json!({ "waiting": { "reason": reason, "message": message } }), ended)
        };
        for reason in ["ErrImagePull", "ImagePullBackOff"] {
            check_trouble(waiting(reason, "again in 10s"), Some("ImagePullBackOff: quorate:none"));
        }
        check_trouble(waiting("CrashLoopBackOff", "back-off 10s"), Some("CrashLoopBackOff: exit code 1, Error"));
        let missing = "secret \"db-admin\" not found";
        let expected = format!("CreateContainerConfigError: {missing}");
        check_trouble(waiting("CreateContainerConfigError", missing), Some(&expected));
        check_trouble(waiting("ContainerCreating", ""), None);
        check_trouble(container(json!({ "running": {} }), Value::Null), None);
        let message = "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available: 3 No victims.";
        let condition =
            json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message });
        let expected = "Unschedulable: 0/3 nodes are available: 3 Insufficient cpu";
        check_trouble(json!({ "conditions": [condition] }), Some(expected));
    }

    #[test]
    fn a_volume_that_should_be_larger_says_what_keeps_it_from_that() {
        let trouble = |capacity: &str, kind: &str| {
            let condition = json!({ "type": kind, "status": "True", "message": "no room" });
            let status = json!({ "capacity": { "storage": capacity }, "conditions": [condition] });
            let claim = json!({ "metadata": { "name": "data-db-0" }, "status": status });
            of_growth(&serde_json::from_value(claim).expect("a claim"), "12Gi")
        };
        let expected = Some("8Gi of 12Gi, ControllerResizeError: no room".to_string());
        assert_eq!(trouble("8Gi", "ControllerResizeError"), expected);
        assert_eq!(trouble("12Gi", "ControllerResizeError"), None);
        assert_eq!(trouble("8Gi", "Resizing"), None, "it is under way");
    }
}
