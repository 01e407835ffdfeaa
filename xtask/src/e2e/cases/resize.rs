//! One field from 3 to 5 and back.

use serde_json::{Value, json};

use crate::e2e::suite::{CALM, SYSTEM, Scene, ensure, sum};
use crate::e2e::watch::{Event, Watch};
use crate::e2e::writer::{Tally, Writers};
use crate::failure::Failure;

pub(super) fn a_resize_loses_no_write(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&CALM)?;
    let before = scene.pods()?;
    let revision = template(scene)?;
    let term = scene.status()?["term"].clone();
    let writers = Writers::start(scene.service()?, "resize");
    scene.patch(&json!({ "replicas": 5 }))?;
    scene.await_ready(5)?;
    let grown = scene.pods()?;
    ensure(before.iter().all(|pod| grown.contains(pod)), || format!("a pod was restarted: {before:?} {grown:?}"))?;
    ensure(scene.status()?["term"] == term, || "there was an election while it grew".to_owned())?;
    await_serving(scene, 5)?;
    let witness = Witness::start(scene)?;
    scene.patch(&json!({ "replicas": 3 }))?;
    scene.await_ready(3)?;
    scene.await_fact("the surplus volumes are gone", || {
        Ok(scene.get(&["persistentvolumeclaims"])?["items"].as_array().map_or(0, Vec::len) == 3)
    })?;
    let tally = writers.finish()?;
    report(&tally);
    witness.check(scene, &["db-3", "db-4"])?;
    let after = scene.pods()?;
    ensure(before == after, || format!("a pod was restarted: {before:?} {after:?}"))?;
    ensure(template(scene)? == revision, || "the pod template changed".to_owned())?;
    // The leader is one of the three that stay: nobody had a reason to elect another.
    ensure(scene.status()?["term"] == term, || "there was an election while it shrank".to_owned())?;
    ensure(tally.refused == 0, || format!("{} writes were refused: {}", tally.refused, tally.last_refusal))
}

fn report(tally: &Tally) {
    eprintln!(
        "  {} writes acknowledged, none lost; {} refused ({}); longest gap {} ms",
        tally.acknowledged,
        tally.refused,
        tally.last_refusal,
        tally.longest_gap.as_millis()
    );
}

/// What is seen of a smaller cluster in the making.
struct Witness {
    endpoints: Watch,
    clusters: Watch,
    pods: Watch,
}

impl Witness {
    fn start(scene: &Scene<'_>) -> Result<Witness, Failure> {
        let watch = |kind| Watch::start(scene, kind);
        Ok(Witness { endpoints: watch("endpointslices")?, clusters: watch("quorateclusters")?, pods: watch("pods")? })
    }

    /// Clients were sent to none of the `victims` before they were dropped from the configuration, and only then did their pods end.
    fn check(&self, scene: &Scene<'_>, victims: &[&str]) -> Result<(), Failure> {
        let clear_at = || -> Result<Option<u64>, Failure> {
            let events = self.endpoints.events()?;
            let of_service = |event: &&Event| event.object["metadata"]["labels"]["kubernetes.io/service-name"] == "db";
            let clear = |event: &&Event| {
                let list = event.object["endpoints"].as_array().cloned().unwrap_or_default();
                !list.iter().any(|endpoint| victims.iter().any(|victim| endpoint["targetRef"]["name"] == *victim))
            };
            // The first state without them that no state with them follows.
            let since = events.iter().filter(of_service).rev().take_while(clear).last();
            Ok(since.map(|event| event.version))
        };
        let dropped_at = || -> Result<Option<u64>, Failure> {
            let dropped = |event: &Event| event.object["status"]["members"].as_array().map_or(0, Vec::len) == 3;
            Ok(self.clusters.events()?.into_iter().find(dropped).map(|event| event.version))
        };
        let ended_at = || -> Result<Option<u64>, Failure> {
            let ending = |event: &Event| {
                let name = &event.object["metadata"]["name"];
                let ending = event.deleted || event.object["metadata"]["deletionTimestamp"].is_string();
                ending && victims.iter().any(|victim| name == victim)
            };
            Ok(self.pods.events()?.into_iter().find(ending).map(|event| event.version))
        };
        scene.await_fact("the watches have seen it all", || {
            Ok(clear_at()?.is_some() && dropped_at()?.is_some() && ended_at()?.is_some())
        })?;
        let (clear, dropped, ended) = (clear_at()?, dropped_at()?, ended_at()?);
        ensure(clear < dropped && dropped < ended, || {
            format!("out of the Service at {clear:?}, out of the configuration at {dropped:?}, pods ended at {ended:?}")
        })
    }
}

/// Waits until the client Service leads to this many pods.
fn await_serving(scene: &Scene<'_>, pods: usize) -> Result<(), Failure> {
    scene.await_fact(&format!("{pods} pods are behind the Service"), || {
        let slices = scene.get(&["endpointslices", "--selector=kubernetes.io/service-name=db"])?;
        let count = |slice: &Value| slice["endpoints"].as_array().map_or(0, Vec::len);
        Ok(slices["items"].as_array().into_iter().flatten().map(count).sum::<usize>() == pods)
    })
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
    scene.install_without_waiting(&[&["replicas=5"][..], &CALM].concat())?;
    scene.await_ready(5)?;
    lead_from(scene, "db-4")?;
    let term = scene.status()?["term"].as_u64();
    let before = campaigns(scene)?;
    let writers = Writers::start(scene.service()?, "leader");
    scene.patch(&json!({ "replicas": 3 }))?;
    scene.await_ready(3)?;
    let tally = writers.finish()?;
    report(&tally);
    // Who is handed leadership asks for votes at once; who misses a leader asks first whether others miss it as well.
    let after = campaigns(scene)?;
    let (asked, voted) = (after.0 - before.0, after.1 - before.1);
    ensure(asked == 0.0 && voted == 1.0, || format!("{asked} pre-votes and {voted} votes in place of one transfer"))?;
    let now = scene.status()?["term"].as_u64();
    ensure(now == term.map(|term| term + 1), || format!("from term {term:?} to {now:?}"))?;
    ensure(tally.refused == 0, || format!("{} writes were refused: {}", tally.refused, tally.last_refusal))
}

/// Pre-votes and votes that the three members that stay have ever asked for.
fn campaigns(scene: &Scene<'_>) -> Result<(f64, f64), Failure> {
    let (mut asked, mut voted) = (0.0, 0.0);
    for pod in ["db-0", "db-1", "db-2"] {
        let text = scene.metrics(pod)?;
        asked += sum(&text, "quorate_raft_campaigns_total", "kind=\"pre_vote\"");
        voted += sum(&text, "quorate_raft_campaigns_total", "kind=\"vote\"");
    }
    Ok((asked, voted))
}

/// The other direction: a smaller size that is taken back while the cluster still has it all.
pub(super) fn a_smaller_size_can_be_taken_back(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install_without_waiting(&[&["replicas=5"][..], &CALM].concat())?;
    scene.await_ready(5)?;
    let writers = Writers::start(scene.service()?, "back");
    let (ids, pods) = (scene.member_ids()?, scene.pods()?);
    scene.patch(&json!({ "replicas": 3 }))?;
    scene.await_fact("the resize has begun", || Ok(scene.status()?["targetReplicas"] == 3))?;
    scene.patch(&json!({ "replicas": 5 }))?;
    scene.await_ready(5)?;
    await_serving(scene, 5)?;
    let tally = writers.finish()?;
    report(&tally);
    // Which of the two is a matter of moments; both are right: three stay as they were in either case.
    let (now, kept) = (scene.member_ids()?, scene.pods()?);
    let stayed = ids.iter().filter(|id| now.contains(id)).count();
    let running = pods.iter().filter(|pod| kept.contains(pod)).count();
    eprintln!("  {stayed} members and {running} pods of 5 stayed");
    ensure(stayed >= 3 && running >= 3, || format!("{stayed} members and {running} pods of 5 stayed"))
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
pub(super) fn lead_from(scene: &Scene<'_>, pod: &str) -> Result<(), Failure> {
    let endpoint = format!("--endpoint=db.{}.svc:2379", scene.namespace);
    let token = "--admin-token-file=/etc/quorate/admin/token";
    scene.run(&["exec", pod, "--", "/quorate", "ctl", &endpoint, token, "transfer-leader", pod])?;
    scene.await_fact(&format!("{pod} leads"), || Ok(scene.status()?["leader"] == pod))
}

fn template(scene: &Scene<'_>) -> Result<String, Failure> {
    let set = scene.get(&["statefulset", "db"])?;
    Ok(set["status"]["updateRevision"].as_str().unwrap_or_default().to_owned())
}
