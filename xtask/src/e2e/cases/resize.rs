//! One field from 3 to 5 and back.

use serde_json::json;

use crate::e2e::suite::{CALM, SYSTEM, Scene, ensure};
use crate::e2e::writer::Writer;
use crate::failure::Failure;

pub(super) fn a_resize_loses_no_write(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&CALM)?;
    let before = scene.pods()?;
    let revision = template(scene)?;
    let term = scene.status()?["term"].clone();
    let writer = Writer::start(scene.service()?, "resize");
    scene.patch(&json!({ "replicas": 5 }))?;
    scene.await_ready(5)?;
    let grown = scene.pods()?;
    ensure(before.iter().all(|pod| grown.contains(pod)), || format!("a pod was restarted: {before:?} {grown:?}"))?;
    ensure(scene.status()?["term"] == term, || "there was an election while it grew".to_owned())?;
    scene.patch(&json!({ "replicas": 3 }))?;
    scene.await_ready(3)?;
    scene.await_fact("the surplus volumes are gone", || {
        Ok(scene.get(&["persistentvolumeclaims"])?["items"].as_array().map_or(0, Vec::len) == 3)
    })?;
    let tally = writer.finish()?;
    let after = scene.pods()?;
    ensure(before == after, || format!("a pod was restarted: {before:?} {after:?}"))?;
    ensure(template(scene)? == revision, || "the pod template changed".to_owned())?;
    eprintln!(
        "  {} writes acknowledged, none lost; {} refused ({}); longest gap {} ms",
        tally.acknowledged,
        tally.refused,
        tally.last_refusal,
        tally.longest_gap.as_millis()
    );
    Ok(())
}

pub(super) fn other_sizes_are_refused(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    for size in ["4", "1", "7"] {
        let refused = scene.run(&["scale", "quoratecluster/db", &format!("--replicas={size}")]).err();
        let said = refused.map(|failure| failure.to_string()).unwrap_or_default();
        ensure(said.contains("replicas must be 3 or 5"), || format!("{size} was answered with {said:?}"))?;
    }
    scene.run(&["scale", "quoratecluster/db", "--replicas=5"])?;
    scene.await_ready(5)
}

pub(super) fn a_leader_that_leaves_hands_over(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install_without_waiting(&["replicas=5"])?;
    scene.await_ready(5)?;
    lead_from(scene, "db-4")?;
    let writer = Writer::start(scene.service()?, "leader");
    scene.patch(&json!({ "replicas": 3 }))?;
    scene.await_ready(3)?;
    let tally = writer.finish()?;
    eprintln!("  {} writes, longest gap {} ms", tally.acknowledged, tally.longest_gap.as_millis());
    Ok(())
}

pub(super) fn a_resize_can_be_taken_back(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    let before = scene.pods()?;
    scene.patch(&json!({ "replicas": 5 }))?;
    scene.await_fact("the resize has begun", || Ok(scene.pods()?.len() > 3))?;
    scene.patch(&json!({ "replicas": 3 }))?;
    scene.await_ready(3)?;
    scene.await_fact("the new pods are gone", || Ok(scene.pods()? == before))
}

pub(super) fn a_resize_survives_a_killed_operator(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    let selector = "--selector=app.kubernetes.io/name=quorate-operator";
    for (size, members) in [(5, 5), (3, 3)] {
        scene.patch(&json!({ "replicas": size }))?;
        let kill = ["delete", "pods", "--namespace", SYSTEM, selector, "--force", "--grace-period=0", "--wait=false"];
        scene.kubectl.output(&kill)?;
        scene.await_fact("the change is under way or done", || Ok(scene.status()?["targetReplicas"] == size))?;
        scene.kubectl.output(&kill)?;
        scene.await_ready(members)?;
    }
    Ok(())
}

/// Makes `pod` the leader, as an administrator would.
fn lead_from(scene: &Scene<'_>, pod: &str) -> Result<(), Failure> {
    let endpoint = format!("--endpoint=db.{}.svc:2379", scene.namespace);
    let token = "--admin-token-file=/etc/quorate/admin/token";
    scene.run(&["exec", pod, "--", "/quorate", "ctl", &endpoint, token, "transfer-leader", pod])?;
    scene.await_fact(&format!("{pod} leads"), || Ok(scene.status()?["leader"] == pod))
}

fn template(scene: &Scene<'_>) -> Result<String, Failure> {
    let set = scene.get(&["statefulset", "db"])?;
    Ok(set["status"]["updateRevision"].as_str().unwrap_or_default().to_owned())
}
