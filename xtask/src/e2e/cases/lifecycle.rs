//! From nothing to a cluster, and away again.

use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::e2e::suite::{SYSTEM, Scene, condition, ensure, install_operator};
use crate::e2e::writer::{Writer, get, put};
use crate::failure::Failure;

pub(super) fn an_install_becomes_available(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    scene.await_fact("the conditions say that all is well, and one member leads", || {
        let status = scene.status()?;
        let members = status["members"].as_array().cloned().unwrap_or_default();
        let leaders = members.iter().filter(|member| member["role"] == "Leader").count();
        let expected = [("Available", "True"), ("Progressing", "False"), ("Degraded", "False"), ("Reconciling", "")];
        Ok(leaders == 1 && expected.iter().all(|(kind, value)| condition(&status, kind) == *value))
    })?;
    let service = scene.service()?;
    put(service, "greeting", "hello")?;
    ensure(get(service, "greeting")? == "hello", || "the key is not what was written".to_owned())?;
    scene.kubectl.helm(&["test", "db", "--namespace", &scene.namespace, "--timeout", "600s"]).map(drop)
}

pub(super) fn a_cluster_of_the_same_name_takes_up_its_data(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    put(scene.service()?, "kept", "yes")?;
    let id = scene.status()?["clusterID"].clone();
    scene.kubectl.helm(&["uninstall", "db", "--namespace", &scene.namespace, "--wait"])?;
    scene.await_fact("the pods are gone", || Ok(scene.pods()?.is_empty()))?;
    let claims = scene.get(&["persistentvolumeclaims"])?["items"].as_array().map_or(0, Vec::len);
    ensure(claims == 3, || format!("{claims} volumes are left of 3"))?;
    scene.install(&[])?;
    ensure(scene.status()?["clusterID"] == id, || "it is another cluster".to_owned())?;
    ensure(get(scene.service()?, "kept")? == "yes", || "the data is not the old one".to_owned())
}

pub(super) fn too_few_volumes_of_a_cluster_are_not_wiped(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    put(scene.service()?, "kept", "yes")?;
    scene.kubectl.helm(&["uninstall", "db", "--namespace", &scene.namespace, "--wait"])?;
    scene.await_fact("the pods are gone", || Ok(scene.pods()?.is_empty()))?;
    let kept = scene.get(&["persistentvolumeclaim", "data-db-0"])?["metadata"]["uid"].clone();
    scene.run(&["delete", "persistentvolumeclaim", "data-db-1", "data-db-2", "--wait=true"])?;
    scene.install_without_waiting(&[])?;
    scene.await_fact("the status says why it stops", || {
        let status = scene.status()?;
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.iter().any(|c| c["type"] == "Stalled" && c["reason"] == "ClusterIDMismatch"))
    })?;
    ensure(scene.status()?["clusterID"].is_null(), || "a cluster was made".to_owned())?;
    let now = scene.get(&["persistentvolumeclaim", "data-db-0"])?["metadata"]["uid"].clone();
    ensure(now == kept, || "the volume was replaced".to_owned())
}

pub(super) fn a_paused_cluster_is_left_alone(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    scene.patch(&json!({ "paused": true, "replicas": 5 }))?;
    scene.await_fact("the status says so", || {
        let status = scene.status()?;
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.iter().any(|c| c["type"] == "Progressing" && c["reason"] == "Paused"))
    })?;
    // Long enough for several reconciles; what is looked for is that nothing happens.
    sleep(Duration::from_secs(5));
    let pods = scene.pods()?.len();
    ensure(pods == 3, || format!("there are {pods} pods"))?;
    scene.patch(&json!({ "paused": false }))?;
    scene.await_ready(5)
}

pub(super) fn a_cluster_without_its_set_keeps_its_pods(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    let pods = scene.pods()?;
    scene.run(&["delete", "statefulset", "db", "--cascade=orphan"])?;
    scene.await_fact("the set is there again", || Ok(scene.get(&["statefulset", "db"])?["status"]["replicas"] == 3))?;
    scene.await_ready(3)?;
    let now = scene.pods()?;
    ensure(now == pods, || format!("pods were restarted: {pods:?} {now:?}"))
}

pub(super) fn clusters_outlive_the_operator(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    let before = scene.pods()?;
    let writer = Writer::start(scene.service()?, "alone");
    scene.kubectl.helm(&["uninstall", "quorate-operator", "--namespace", SYSTEM, "--wait"])?;
    // The resource is kept, and so is every cluster.
    let kept = scene.status()?;
    ensure(kept["clusterID"].is_string(), || format!("the cluster is gone: {kept}"))?;
    install_operator(scene.kubectl)?;
    scene.install_without_waiting(&["replicas=5"])?;
    scene.await_ready(5)?;
    scene.kubectl.helm(&["rollback", "db", "--namespace", &scene.namespace])?;
    scene.await_ready(3)?;
    let tally = writer.finish()?;
    eprintln!("  {} writes, longest gap {} ms", tally.acknowledged, tally.longest_gap.as_millis());
    let after = scene.pods()?;
    ensure(before == after, || format!("a pod was restarted: {before:?} {after:?}"))
}
