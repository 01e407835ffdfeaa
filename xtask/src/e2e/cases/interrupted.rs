//! The operator killed at each place where a step ends.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::e2e::control_plane::operator_writes;
use crate::e2e::suite::{CALM, SYSTEM, Scene, condition, ensure};
use crate::e2e::writer::Writer;
use crate::failure::Failure;

/// More writes than any resize takes: a bound for a resize that never ends.
const MOST_WRITES: usize = 60;

/// The first resizes are interrupted after one write of the operator, the next ones after two, and so on until they end before they
/// are interrupted.
pub(super) fn a_resize_survives_a_kill_after_any_write(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&CALM)?;
    let before = scene.pods()?;
    let writer = Writer::start(scene.service()?, "killed");
    for writes in 1..MOST_WRITES {
        scene.add_volumes(writes)?;
        let mut interrupted = false;
        for size in [5, 3] {
            interrupted |= resize_with_kill_after(scene, size, writes)?;
        }
        if !interrupted {
            let tally = writer.finish()?;
            eprintln!(
                "  interrupted after each of {} writes; {} writes of a client, longest gap {} ms",
                writes - 1,
                tally.acknowledged,
                tally.longest_gap.as_millis()
            );
            let after = scene.pods()?;
            return ensure(before == after, || format!("a pod was restarted: {before:?} {after:?}"));
        }
    }
    Err(Failure::Broken(format!("a resize took more than {MOST_WRITES} writes")))
}

/// Whether the resize was still under way when that many writes were seen.
fn resize_with_kill_after(scene: &Scene<'_>, size: usize, writes: usize) -> Result<bool, Failure> {
    let already = count_writes()?;
    scene.patch(&json!({ "replicas": size }))?;
    let mut interrupted = false;
    scene.await_fact(&format!("{writes} writes, or {size} members"), || {
        interrupted = count_writes()? >= already + writes;
        Ok(interrupted || is_ready(scene, size)?)
    })?;
    if interrupted {
        kill_operator(scene)?;
    }
    scene.await_ready(size)?;
    scene.await_fact("as many pods and volumes as members", || {
        let claims = scene.get(&["persistentvolumeclaims"])?["items"].as_array().map_or(0, Vec::len);
        Ok(scene.pods()?.len() == size && claims == size)
    })?;
    Ok(interrupted)
}

fn is_ready(scene: &Scene<'_>, members: usize) -> Result<bool, Failure> {
    let cluster = scene.get(&["quoratecluster", "db"])?;
    let status = &cluster["status"];
    let current = status["observedGeneration"] == cluster["metadata"]["generation"];
    Ok(current && status["members"].as_array().map_or(0, Vec::len) == members && condition(status, "Ready") == "True")
}

/// Of what matters: an event is written for people, and not looked at again.
fn count_writes() -> Result<usize, Failure> {
    Ok(operator_writes()?.iter().filter(|write| !write.contains("\"apiGroup\":\"events.k8s.io\"")).count())
}

/// Every replica at once and without a word; then new pods, so that the kubelet's growing pauses between restarts do not count.
fn kill_operator(scene: &Scene<'_>) -> Result<(), Failure> {
    let entries = fs::read_dir("/proc").map_err(Failure::file("/proc"))?;
    for pid in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.starts_with(b"/quorate-operator\0") {
            // It may have ended by itself in between.
            let _ = Command::new("kill").args(["-KILL", &pid]).stderr(Stdio::null()).status();
        }
    }
    let selector = "--selector=app.kubernetes.io/name=quorate-operator";
    let delete = ["delete", "pods", "--namespace", SYSTEM, selector, "--force", "--grace-period=0", "--wait=false"];
    scene.kubectl.output(&delete).map(drop)
}
