//! New versions and settings.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::e2e::images::{IMAGE, TAGS};
use crate::e2e::suite::{CALM, PATIENCE, Scene, ensure, message};
use crate::e2e::writer::Writer;
use crate::failure::Failure;

pub(super) fn an_upgrade_restarts_the_leader_last(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&CALM)?;
    let leader = scene.status()?["leader"].as_str().unwrap_or_default().to_owned();
    let before = scene.pods()?;
    let writer = Writer::start(scene.service()?, "upgrade");
    scene.patch(&json!({ "image": format!("{IMAGE}:{}", TAGS[1]) }))?;
    let order = restarts(scene, &before)?;
    scene.await_ready(3)?;
    let tally = writer.finish()?;
    eprintln!(
        "  order {order:?}, leader was {leader}; {} writes, longest gap {} ms",
        tally.acknowledged,
        tally.longest_gap.as_millis()
    );
    ensure(order.last() == Some(&leader), || format!("{leader} led, and the order was {order:?}"))
}

pub(super) fn a_bad_image_can_be_mended(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    let before = scene.pods()?;
    scene.patch(&json!({ "image": "localhost/quorate:none" }))?;
    scene.await_fact("one pod runs the bad image", || Ok(scene.pods()? != before))?;
    scene.await_fact("the status says which image cannot be pulled", || {
        let said = message(&scene.status()?, "Progressing");
        Ok(said.contains("ImagePullBackOff: localhost/quorate:none"))
    })?;
    // Long enough for a second restart, which must not come.
    sleep(Duration::from_secs(5));
    let now = scene.pods()?;
    let untouched = before.iter().filter(|pod| now.contains(pod)).count();
    ensure(untouched == 2, || format!("{untouched} of 3 pods are untouched"))?;
    scene.patch(&json!({ "image": format!("{IMAGE}:{}", TAGS[1]) }))?;
    scene.await_ready(3)
}

/// Names of the pods in the order in which they were replaced, until all are.
fn restarts(scene: &Scene<'_>, before: &[(String, String, u64)]) -> Result<Vec<String>, Failure> {
    let mut order: Vec<String> = Vec::new();
    let start = Instant::now();
    while order.len() < before.len() {
        ensure(start.elapsed() < PATIENCE, || format!("only {order:?} were restarted"))?;
        for (name, uid, _) in scene.pods()? {
            let replaced = before.iter().any(|(old, old_uid, _)| *old == name && *old_uid != uid);
            if replaced && !order.contains(&name) {
                order.push(name);
            }
        }
        sleep(Duration::from_millis(200));
    }
    Ok(order)
}
