//! What a user may set on the cluster.

use serde_json::{Value, json};

use crate::e2e::images::{IMAGE, TAGS};
use crate::e2e::suite::{Scene, ensure};
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

fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().cloned().unwrap_or_default()
}
