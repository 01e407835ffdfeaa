//! What a user may set, on the cluster and on the operator, and what is shown of it.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::e2e::images::{IMAGE, TAGS};
use crate::e2e::suite::{HELM_PATIENCE, SYSTEM, Scene, chart, ensure};
use crate::e2e::toolchain::Toolchain;
use crate::e2e::writer::{get, put};
use crate::failure::Failure;

pub(super) fn a_supervised_roll_waits_for_a_word(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&["updateStrategy=Supervised"])?;
    let before = scene.pods()?;
    scene.patch(&json!({ "image": format!("{IMAGE}:{}", TAGS[1]) }))?;
    scene.await_fact("the status says that the roll-out waits", || {
        let status = scene.status()?;
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.iter().any(|c| c["type"] == "Progressing" && c["reason"] == "RollAwaitsApproval"))
    })?;
    let waiting = scene.pods()?;
    ensure(waiting == before, || format!("a pod was restarted: {before:?} {waiting:?}"))?;
    let version = scene.get(&["quoratecluster", "db"])?["spec"]["version"].as_str().unwrap_or_default().to_owned();
    scene.run(&["annotate", "quoratecluster", "db", &format!("quorate.io/roll={version}")])?;
    scene.await_fact("every pod is a new one", || {
        let now = scene.pods()?;
        Ok(now.len() == 3 && before.iter().all(|(_, old, _)| now.iter().all(|(_, uid, _)| uid != old)))
    })?;
    scene.await_ready(3)
}

pub(super) fn volumes_go_with_the_cluster_if_asked_to(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&["volumeRetention=Delete"])?;
    scene.run(&["delete", "quoratecluster", "db", "--wait=true"])?;
    scene.await_fact("no pod and no volume is left", || {
        Ok(scene.pods()?.is_empty() && items(&scene.get(&["persistentvolumeclaims"])?).is_empty())
    })
}

pub(super) fn the_resource_explains_itself(scene: &Scene<'_>) -> Result<(), Failure> {
    let spec = scene.run(&["explain", "quoratecluster.spec"])?;
    for expected in ["replicas", "Number of voting members: 3 or 5", "volumeRetention", "Timing of elections"] {
        ensure(spec.contains(expected), || format!("{expected:?} is not in:\n{spec}"))?;
    }
    ensure(!spec.contains("<no description>"), || format!("a field is not described:\n{spec}"))?;
    let status = scene.run(&["explain", "qc.status.members"])?;
    ensure(status.contains("role"), || format!("no role in:\n{status}"))
}

/// With a Role in place of a ClusterRole, in one namespace.
pub(super) fn an_operator_of_one_namespace_needs_no_more(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.kubectl.helm(&["uninstall", "quorate-operator", "--namespace", SYSTEM, "--wait"])?;
    let (chart, image, tag) =
        (chart("quorate-operator"), format!("image.repository={IMAGE}"), format!("image.tag={}", TAGS[0]));
    let mut arguments = vec!["install", "own", &chart, "--namespace", &scene.namespace];
    for value in [image.as_str(), &tag, "crds.install=false", "namespaced=true"] {
        arguments.extend(["--set", value]);
    }
    scene.kubectl.helm(&[&arguments[..], &["--wait", "--timeout", HELM_PATIENCE]].concat())?;
    let elsewhere = json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster",
        "metadata": { "name": "elsewhere", "namespace": "default" }, "spec": {},
    });
    scene.kubectl.apply(&elsewhere.to_string())?;
    scene.install(&[])?;
    for size in [5, 3] {
        scene.patch(&json!({ "replicas": size }))?;
        scene.await_ready(size)?;
    }
    let ignored = scene.kubectl.get(&["quoratecluster", "elsewhere", "--namespace", "default"])?;
    scene.kubectl.output(&["delete", "quoratecluster", "elsewhere", "--namespace", "default"])?;
    scene.kubectl.helm(&["uninstall", "own", "--namespace", &scene.namespace, "--wait"])?;
    ensure(ignored["status"] == Value::Null, || format!("it looked at another namespace: {ignored}"))
}

/// Helm 4 waits for custom resources as well: `--wait` ends when the cluster is ready, as its status says.
pub(super) fn helm_4_waits_for_the_cluster(scene: &Scene<'_>) -> Result<(), Failure> {
    let helm: PathBuf = Toolchain::helm_4()?;
    let kubectl = scene.kubectl.with_helm(helm);
    let (chart, image) = (chart("quorate"), format!("image={IMAGE}:{}", TAGS[0]));
    let namespace = ["--namespace", &scene.namespace];
    let values = ["--set", &image, "--set", "storage.size=1Gi"];
    let wait = ["--wait", "--timeout", HELM_PATIENCE];
    kubectl.helm(&[&["install", "db", &chart][..], &namespace, &values, &wait].concat())?;
    let ready = scene.get(&["quoratecluster", "db"])?;
    let conditions = ready["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let holds = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    ensure(holds, || format!("helm did not wait: {}", ready["status"]))?;
    put(scene.service()?, "kept", "yes")?;
    kubectl.helm(&[&["test", "db", "--timeout", HELM_PATIENCE][..], &namespace].concat())?;
    let grow = ["--set", "replicas=5"];
    kubectl.helm(&[&["upgrade", "db", &chart][..], &namespace, &values, &grow, &wait].concat())?;
    scene.await_ready(5)?;
    kubectl.helm(&[&["uninstall", "db"][..], &namespace, &wait].concat())?;
    scene.await_fact("the pods are gone", || Ok(scene.pods()?.is_empty()))?;
    scene.install_without_waiting(&["replicas=5"])?;
    scene.await_ready(5)?;
    ensure(get(scene.service()?, "kept")? == "yes", || "the data is not the old one".to_owned())
}

fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().cloned().unwrap_or_default()
}
