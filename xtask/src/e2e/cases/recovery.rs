//! The quorum is gone for good, and a human says so.

use serde_json::{Value, json};

use crate::e2e::suite::{SYSTEM, Scene, ensure};
use crate::e2e::writer::{get, put};
use crate::failure::Failure;

const ANNOTATION: &str = "quorate.io/recover";

pub(super) fn a_lost_quorum_is_recovered_on_a_humans_word(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    put(scene.service()?, "kept", "yes")?;
    let old = cluster_id(scene)?;
    annotate(scene, &format!("{old}/best"))?;
    put(scene.service()?, "still", "served")?;
    ensure(cluster_id(scene)? == old, || "a cluster with a quorum was recovered".to_owned())?;
    annotate(scene, "")?;

    // Paused, so that the first is not replaced while there is still a quorum to do so.
    scene.patch(&json!({ "paused": true }))?;
    let pods = scene.pods()?;
    lose(scene, "db-1")?;
    lose(scene, "db-2")?;
    scene.await_fact("two pods are new", || {
        let now = scene.pods()?;
        Ok(now.len() == 3 && now.iter().filter(|(_, uid, _)| pods.iter().all(|(_, old, _)| old != uid)).count() == 2)
    })?;
    scene.patch(&json!({ "paused": false }))?;
    scene.await_fact("the condition spells the command out", || {
        Ok(available(scene)?["message"].as_str().unwrap_or_default().contains(&format!("{ANNOTATION}={old}/best")))
    })?;
    annotate(scene, "00000000000000000000000000000001/best")?;
    scene.await_fact("a word for another cluster is refused", || {
        Ok(available(scene)?["message"].as_str().unwrap_or_default().contains("another cluster id"))
    })?;
    let survivor = volume_uid(scene, "db-0")?;

    annotate(scene, &format!("{old}/best"))?;
    scene.await_fact("a recovery is latched", || Ok(scene.status()?["recovery"]["survivor"] == "db-0"))?;
    // Whoever carries on finds everything in the status.
    let operators = ["--namespace", SYSTEM, "--selector=app.kubernetes.io/name=quorate-operator"];
    let now = ["delete", "pods", "--force", "--grace-period=0", "--wait=false"];
    scene.kubectl.output(&[&now[..], &operators[..]].concat())?;
    scene.await_fact("the cluster has another id", || {
        let now = scene.status()?["clusterID"].clone();
        Ok(now.is_string() && now != old.as_str())
    })?;
    scene.await_ready(3)?;
    ensure(get(scene.service()?, "kept")? == "yes", || "data was lost".to_owned())?;
    put(scene.service()?, "after", "1")?;
    ensure(volume_uid(scene, "db-0")? == survivor, || "the survivor's volume was replaced".to_owned())?;
    ensure(scene.status()?["retiredClusterIDs"] == json!([old]), || "the old id is not retired".to_owned())?;
    let jobs = scene.get(&["jobs"])?["items"].as_array().map_or(0, Vec::len);
    ensure(jobs == 0, || format!("{jobs} jobs are left, whose pods keep their volumes from being deleted"))
}

/// Its volume and its pod go, as if the disk had failed.
fn lose(scene: &Scene<'_>, pod: &str) -> Result<(), Failure> {
    scene.run(&["delete", "persistentvolumeclaim", &format!("data-{pod}"), "--wait=false"])?;
    scene.run(&["delete", "pod", pod, "--wait=false"]).map(drop)
}

fn annotate(scene: &Scene<'_>, value: &str) -> Result<(), Failure> {
    let change = if value.is_empty() { format!("{ANNOTATION}-") } else { format!("{ANNOTATION}={value}") };
    scene.run(&["annotate", "quoratecluster/db", "--overwrite", &change]).map(drop)
}

fn cluster_id(scene: &Scene<'_>) -> Result<String, Failure> {
    Ok(scene.status()?["clusterID"].as_str().unwrap_or_default().to_owned())
}

fn available(scene: &Scene<'_>) -> Result<Value, Failure> {
    let status = scene.status()?;
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    Ok(conditions.into_iter().find(|condition| condition["type"] == "Available").unwrap_or_default())
}

fn volume_uid(scene: &Scene<'_>, pod: &str) -> Result<Value, Failure> {
    Ok(scene.get(&["persistentvolumeclaim", &format!("data-{pod}")])?["metadata"]["uid"].clone())
}
