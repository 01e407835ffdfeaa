//! More than one operator, and one that stops at the worst moment.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::e2e::images::{IMAGE, TAGS};
use crate::e2e::suite::{CALM, SYSTEM, Scene, ensure};
use crate::e2e::writer::{Tally, Writers, get, put};
use crate::failure::Failure;

const INTERRUPT: &str = "quorate.io/test-interrupt";
const OPERATORS: &str = "--selector=app.kubernetes.io/name=quorate-operator";

pub(super) fn two_operators_at_once_do_no_harm(scene: &Scene<'_>) -> Result<(), Failure> {
    // A second release has a Lease of its own, so both act on the same clusters.
    scene.install_second_operator()?;
    scene.install(&CALM)?;
    let before = scene.pods()?;
    let term = scene.status()?["term"].clone();
    let writers = Writers::start(scene.service()?, "two");
    for size in [5, 3] {
        scene.patch(&json!({ "replicas": size }))?;
        scene.await_ready(size)?;
    }
    let tally = writers.finish()?;
    report(&tally);
    scene.kubectl.helm(&["uninstall", "second", "--namespace", &scene.namespace, "--wait"])?;
    let after = scene.pods()?;
    ensure(before == after, || format!("a pod was restarted: {before:?} {after:?}"))?;
    ensure(scene.status()?["term"] == term, || "there was an election".to_owned())?;
    ensure(tally.refused == 0, || format!("{} writes were refused: {}", tally.refused, tally.last_refusal))
}

/// The replica that acts is frozen, then killed: the other takes over, and the first does not act on when it wakes.
pub(super) fn another_replica_takes_over(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&CALM)?;
    let before = scene.pods()?;
    let writers = Writers::start(scene.service()?, "takeover");
    let frozen = holder(scene)?;
    let pid = scene.process_of(SYSTEM, &frozen)?;
    signal("-STOP", &pid)?;
    let resized = scene.patch(&json!({ "replicas": 5 })).and_then(|()| scene.await_ready(5));
    let now = holder(scene);
    // The kubelet may have ended it in the meantime, for it answers no probe.
    let _ = Command::new("kill").args(["-CONT", &pid]).stderr(Stdio::null()).status();
    resized?;
    let now = now?;
    ensure(now != frozen, || format!("{frozen} still holds the lease"))?;
    scene.await_fact("who was frozen has ended, since its lease is another's", || restarted(scene, &frozen))?;
    let killed = holder(scene)?;
    signal("-KILL", &scene.process_of(SYSTEM, &killed)?)?;
    scene.patch(&json!({ "replicas": 3 }))?;
    scene.await_ready(3)?;
    let tally = writers.finish()?;
    report(&tally);
    let after = scene.pods()?;
    ensure(before == after, || format!("a pod was restarted: {before:?} {after:?}"))?;
    ensure(tally.refused == 0, || format!("{} writes were refused: {}", tally.refused, tally.last_refusal))
}

/// Every kind of step that changes something outside the status, interrupted before it is taken and before anybody knows that it was.
pub(super) fn an_operator_that_dies_around_a_step_is_carried_on(scene: &Scene<'_>) -> Result<(), Failure> {
    interruptible(scene, tell)
}

/// The same for the step that makes volumes grow: it patches each claim, then takes the set away around its pods.
pub(super) fn an_operator_that_dies_while_volumes_grow_is_carried_on(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&CALM)?;
    let pods = scene.pods()?;
    interruptible(scene, |scene| {
        interrupt_at(scene, "before/GrowVolumes,after/GrowVolumes")?;
        scene.patch(&json!({ "storage": { "size": "2Gi" } }))?;
        await_deaths(scene)
    })?;
    super::growth::await_size(scene, "2Gi")?;
    scene.await_ready(3)?;
    let now = scene.pods()?;
    ensure(now == pods, || format!("pods were restarted: {pods:?} {now:?}"))
}

/// What is told while operators may be interrupted.
fn interruptible(scene: &Scene<'_>, tell: fn(&Scene<'_>) -> Result<(), Failure>) -> Result<(), Failure> {
    let allow = ["set", "env", "deployment/quorate-operator", "--namespace", SYSTEM];
    scene.kubectl.output(&[&allow[..], &["QUORATE_TEST_INTERRUPTIONS=1"]].concat())?;
    await_operators(scene)?;
    let told = tell(scene);
    scene.kubectl.output(&[&allow[..], &["QUORATE_TEST_INTERRUPTIONS-"]].concat())?;
    await_operators(scene)?;
    told
}

fn tell(scene: &Scene<'_>) -> Result<(), Failure> {
    let cluster = json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster",
        "metadata": {
            "name": "db", "namespace": scene.namespace, "annotations": { INTERRUPT: "before/Init,after/Init" },
        },
        "spec": {
            "image": format!("{IMAGE}:{}", TAGS[0]), "storage": { "size": "1Gi" },
            // Nobody but the operator is to move leadership, however busy the machine is.
            "raft": { "electionTimeoutMilliseconds": 20000, "heartbeatIntervalMilliseconds": 1000 },
        },
    });
    scene.kubectl.apply(&cluster.to_string())?;
    await_deaths(scene)?;
    scene.await_ready(3)?;
    put(scene.service()?, "kept", "yes")?;
    resize(scene, 5, "before/SetVoters,after/SetVoters")?;
    super::resize::lead_from(scene, "db-4")?;
    let down = "before/SetServing,after/SetServing,before/TransferLeader,after/TransferLeader,before/SetVoters,after/SetVoters,\
                after/ScaleSet,before/DeleteVolume,after/DeleteVolume";
    resize(scene, 3, down)?;

    interrupt_at(scene, "before/RestartPod,after/RestartPod")?;
    scene.patch(&json!({ "image": format!("{IMAGE}:{}", TAGS[1]) }))?;
    await_deaths(scene)?;
    scene.await_ready(3)?;

    interrupt_at(scene, "before/SetVoters,after/SetVoters")?;
    let ids = scene.member_ids()?;
    scene.run(&["delete", "persistentvolumeclaim", "data-db-1", "--wait=false"])?;
    scene.run(&["delete", "pod", "db-1", "--wait=false"])?;
    await_deaths(scene)?;
    scene.await_fact("another member in its place", || {
        let now = scene.member_ids()?;
        Ok(now.len() == 3 && ids.iter().filter(|id| now.contains(id)).count() == 2)
    })?;
    scene.await_ready(3)?;
    ensure(get(scene.service()?, "kept")? == "yes", || "data was lost".to_owned())
}

fn resize(scene: &Scene<'_>, size: usize, points: &str) -> Result<(), Failure> {
    interrupt_at(scene, points)?;
    scene.patch(&json!({ "replicas": size }))?;
    await_deaths(scene)?;
    scene.await_ready(size)?;
    scene.await_fact("as many volumes as members", || {
        Ok(scene.get(&["persistentvolumeclaims"])?["items"].as_array().map_or(0, Vec::len) == size)
    })
}

fn interrupt_at(scene: &Scene<'_>, points: &str) -> Result<(), Failure> {
    scene.run(&["annotate", "quoratecluster/db", "--overwrite", &format!("{INTERRUPT}={points}")]).map(drop)
}

/// Waits until an operator has died at each moment of the list: it takes off the first before it does.
fn await_deaths(scene: &Scene<'_>) -> Result<(), Failure> {
    let left = || -> Result<String, Failure> {
        let cluster = scene.get(&["quoratecluster", "db"])?;
        Ok(cluster["metadata"]["annotations"][INTERRUPT].as_str().unwrap_or_default().to_owned())
    };
    loop {
        let before = left()?;
        if before.is_empty() {
            return Ok(());
        }
        scene.await_fact(&format!("the operator died {before}"), || Ok(left()? != before))?;
        // New pods, so that the kubelet's growing pauses between restarts do not count.
        let delete = ["delete", "pods", "--namespace", SYSTEM, OPERATORS, "--force", "--grace-period=0", "--wait=true"];
        scene.kubectl.output(&delete)?;
    }
}

fn await_operators(scene: &Scene<'_>) -> Result<(), Failure> {
    let status = ["rollout", "status", "deployment/quorate-operator", "--namespace", SYSTEM, "--timeout=300s"];
    scene.kubectl.output(&status).map(drop)
}

/// Name of the pod that acts.
fn holder(scene: &Scene<'_>) -> Result<String, Failure> {
    let lease = scene.kubectl.get(&["lease", "quorate-operator", "--namespace", SYSTEM])?;
    Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

fn restarted(scene: &Scene<'_>, pod: &str) -> Result<bool, Failure> {
    let pod = scene.kubectl.get(&["pod", pod, "--namespace", SYSTEM])?;
    Ok(pod["status"]["containerStatuses"][0]["restartCount"].as_u64() > Some(0))
}

fn signal(name: &str, pid: &str) -> Result<(), Failure> {
    crate::process::run(Command::new("kill").args([name, pid]))
}

fn report(tally: &Tally) {
    eprintln!(
        "  {} writes, {} refused ({}), longest gap {} ms",
        tally.acknowledged,
        tally.refused,
        tally.last_refusal,
        tally.longest_gap.as_millis()
    );
}
