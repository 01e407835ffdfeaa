//! That the Kubernetes below is one: without it no other test means anything.

use serde_json::json;

use crate::e2e::node::PAUSE_IMAGE;
use crate::e2e::suite::Scene;
use crate::failure::Failure;

pub(super) fn a_pod_runs(scene: &Scene<'_>) -> Result<(), Failure> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "idle", "namespace": scene.namespace },
        "spec": {
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" },
            },
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "idle", "image": PAUSE_IMAGE, "imagePullPolicy": "IfNotPresent",
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                },
            }],
        },
    });
    scene.kubectl.apply(&pod.to_string())?;
    scene.await_fact("the pod runs", || Ok(scene.get(&["pod", "idle"])?["status"]["phase"] == "Running"))
}
