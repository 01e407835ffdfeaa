//! Volumes that are to be larger: claims that are patched, and a set that is made again around its pods.

use serde_json::{Value, json};

use crate::e2e::suite::{CALM, Scene, ensure};
use crate::e2e::volumes::CLASS;
use crate::e2e::writer::Writers;
use crate::failure::Failure;

pub(super) fn volumes_grow_without_a_restart(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&CALM)?;
    let (pods, set) = (scene.pods()?, set(scene)?);
    let writers = Writers::start(scene.service()?, "growth");
    scene.patch(&json!({ "storage": { "size": "2Gi" } }))?;
    await_size(scene, "2Gi")?;
    // A set cannot be told to ask for other volumes: this is another one, to which the controller gave the same pods.
    let again = self::set(scene)?;
    ensure(again["metadata"]["uid"] != set["metadata"]["uid"], || "the set was not made again".to_owned())?;
    scene.await_fact("the new set owns every pod", || {
        let owners = owners(scene)?;
        Ok(owners.len() == 3 && owners.iter().all(|owner| *owner == again["metadata"]["uid"]))
    })?;
    scene.await_ready(3)?;
    let now = scene.pods()?;
    ensure(now == pods, || format!("pods were restarted: {pods:?} {now:?}"))?;
    // The set is worked with as before, and what it makes from now on has the new size.
    scene.patch(&json!({ "replicas": 5 }))?;
    scene.await_ready(5)?;
    ensure(claims(scene)?.len() == 5, || "there are not five claims".to_owned())?;
    await_size(scene, "2Gi")?;
    let tally = writers.finish()?;
    ensure(tally.refused == 0, || format!("{} writes were refused: {}", tally.refused, tally.last_refusal))?;
    // A smaller size leaves everything as it is.
    scene.patch(&json!({ "storage": { "size": "1Gi" } }))?;
    scene.await_ready(5)?;
    await_size(scene, "2Gi")
}

pub(super) fn a_growth_that_is_refused_holds_nothing_up(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&CALM)?;
    allow_growth(scene, false)?;
    let refused = while_refused(scene);
    // The class is everybody's.
    let allowed = allow_growth(scene, true);
    refused.and(allowed)?;
    await_size(scene, "2Gi")?;
    scene.await_ready(5)
}

fn while_refused(scene: &Scene<'_>) -> Result<(), Failure> {
    let (pods, set) = (scene.pods()?, set(scene)?);
    scene.patch(&json!({ "storage": { "size": "2Gi" } }))?;
    scene.await_fact("an event says that the class refuses", || {
        let events = scene.get(&["events", "--field-selector=reason=GrowingVolumesFailed"])?;
        let events = events["items"].as_array().cloned().unwrap_or_default();
        Ok(events.iter().any(|event| event["type"] == "Warning"))
    })?;
    scene.patch(&json!({ "replicas": 5 }))?;
    scene.await_fact("five members all the same", || {
        let members = scene.status()?["members"].as_array().cloned().unwrap_or_default();
        Ok(members.len() == 5 && members.iter().all(|member| member["healthy"] == true))
    })?;
    let now = scene.pods()?;
    ensure(pods.iter().all(|pod| now.contains(pod)), || format!("pods were restarted: {pods:?} {now:?}"))?;
    let kept = self::set(scene)?["metadata"]["uid"] == set["metadata"]["uid"];
    ensure(kept, || "the set was made again for volumes that stay as they are".to_owned())
}

/// Lets volumes of the tests' class grow, or not, and waits until the API server acts on it.
fn allow_growth(scene: &Scene<'_>, allowed: bool) -> Result<(), Failure> {
    let patch = json!({ "allowVolumeExpansion": allowed }).to_string();
    scene.kubectl.output(&["patch", "storageclass", CLASS, "--type=merge", "--patch", &patch])?;
    let more = json!({ "spec": { "resources": { "requests": { "storage": "3Gi" } } } }).to_string();
    let ask = ["patch", "persistentvolumeclaim", "data-db-0", "--dry-run=server", "--type=merge", "--patch", &more];
    scene.await_fact("the API server knows whether volumes may grow", || Ok(scene.run(&ask).is_ok() == allowed))
}

/// Waits until every claim asks for this much, and so does the set for those to come.
pub(super) fn await_size(scene: &Scene<'_>, size: &str) -> Result<(), Failure> {
    let asks = |spec: &Value| spec["resources"]["requests"]["storage"] == size;
    scene.await_fact(&format!("every claim asks for {size}, and so does the set"), || {
        let set = set(scene)?;
        Ok(asks(&set["spec"]["volumeClaimTemplates"][0]["spec"]) && claims(scene)?.iter().all(|c| asks(&c["spec"])))
    })
}

fn set(scene: &Scene<'_>) -> Result<Value, Failure> {
    scene.get(&["statefulset", "db"])
}

fn claims(scene: &Scene<'_>) -> Result<Vec<Value>, Failure> {
    Ok(scene.get(&["persistentvolumeclaims"])?["items"].as_array().cloned().unwrap_or_default())
}

/// Uid of each pod's controller.
fn owners(scene: &Scene<'_>) -> Result<Vec<Value>, Failure> {
    let list = scene.get(&["pods", "--selector=app.kubernetes.io/instance=db,app.kubernetes.io/name=quorate"])?;
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    Ok(pods.iter().map(|pod| pod["metadata"]["ownerReferences"][0]["uid"].clone()).collect())
}
