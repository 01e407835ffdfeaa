//! What breaks, and comes back without a human.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::e2e::place::{self, NODE};
use crate::e2e::suite::{CALM, Scene, condition, ensure};
use crate::e2e::writer::{Writer, get, put};
use crate::failure::Failure;
use crate::process;

/// Of redb, whose header it holds.
const PAGE: usize = 4096;

pub(super) fn a_lost_volume_is_replaced(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    put(scene.service()?, "before", "1")?;
    let old = member(scene, "db-1")?["id"].clone();
    let writer = Writer::start(scene.service()?, "volume");
    scene.run(&["delete", "persistentvolumeclaim", "data-db-1", "--wait=false"])?;
    scene.run(&["delete", "pod", "db-1", "--wait=false"])?;
    scene.await_fact("db-1 is another member", || {
        let id = member(scene, "db-1")?["id"].clone();
        Ok(id != old && id != Value::Null)
    })?;
    scene.await_ready(3)?;
    let tally = writer.finish()?;
    eprintln!("  {} writes, longest gap {} ms", tally.acknowledged, tally.longest_gap.as_millis());
    ensure(get(scene.service()?, "before")? == "1", || "an old write is lost".to_owned())
}

/// A file that is not what was written to it, as after a failed disk.
pub(super) fn damaged_data_is_replaced(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&CALM)?;
    put(scene.service()?, "before", "1")?;
    let leader = scene.status()?["leader"].clone();
    let victim = if leader == "db-1" { "db-2" } else { "db-1" };
    let old = member(scene, victim)?["id"].clone();
    let claim = scene.get(&["persistentvolumeclaim", &format!("data-{victim}")])?;
    let volume = claim["spec"]["volumeName"].as_str().unwrap_or_default().to_owned();
    let file = find(&place::path(&format!("volumes/{volume}")), "state.redb")?;
    let writer = Writer::start(scene.service()?, "damage");
    let pid = scene.process_of(&scene.namespace, victim)?;
    process::run(Command::new("kill").args(["-STOP", &pid]))?;
    let damaged = spoil(&file);
    process::run(Command::new("kill").args(["-KILL", &pid]))?;
    damaged?;
    scene.await_fact(&format!("{victim} is another member"), || {
        let id = member(scene, victim)?["id"].clone();
        Ok(id != old && id != Value::Null)
    })?;
    scene.await_ready(3)?;
    let tally = writer.finish()?;
    eprintln!("  {} writes, longest gap {} ms", tally.acknowledged, tally.longest_gap.as_millis());
    ensure(get(scene.service()?, "before")? == "1", || "an old write is lost".to_owned())
}

/// Writes over everything but the first page, so that the file still looks like one of its kind.
fn spoil(path: &Path) -> Result<(), Failure> {
    let mut file = File::options().write(true).open(path).map_err(Failure::file(path))?;
    let length = file.metadata().map_err(Failure::file(path))?.len();
    let noise = vec![0xA5; usize::try_from(length).expect("a small file") - PAGE];
    file.seek(SeekFrom::Start(PAGE as u64)).map_err(Failure::file(path))?;
    file.write_all(&noise).and_then(|()| file.sync_all()).map_err(Failure::file(path))
}

/// The file of this name somewhere below `folder`.
fn find(folder: &Path, name: &str) -> Result<PathBuf, Failure> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(Failure::file(&folder))?.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) if entry.file_name() == name => return Ok(entry.path()),
                _ => {}
            }
        }
    }
    Err(Failure::Broken(format!("there is no {name} below {}", folder.display())))
}

pub(super) fn a_killed_leader_comes_back(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    let before = scene.status()?;
    let leader = before["leader"].as_str().unwrap_or_default().to_owned();
    let writer = Writer::start(scene.service()?, "leader");
    let pid = scene.process_of(&scene.namespace, &leader)?;
    process::run(Command::new("kill").args(["-KILL", &pid]))?;
    // The killed process may be back in time to be elected again: what tells is the term.
    scene.await_fact("a leader of a later term", || {
        let now = scene.status()?;
        Ok(now["leader"].is_string() && now["term"].as_u64() > before["term"].as_u64())
    })?;
    scene.await_ready(3)?;
    let tally = writer.finish()?;
    eprintln!("  {} writes, longest gap {} ms", tally.acknowledged, tally.longest_gap.as_millis());
    Ok(())
}

pub(super) fn all_pods_deleted_at_once_come_back(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    put(scene.service()?, "kept", "yes")?;
    let before = scene.member_ids()?;
    let addresses = addresses(scene)?;
    scene.delete_pods(&["db-0", "db-1", "db-2"])?;
    await_running(scene)?;
    scene.await_ready(3)?;
    let now = self::addresses(scene)?;
    ensure(now.len() == 3 && now.iter().all(|address| !addresses.contains(address)), || {
        format!("an address is the old one: {addresses:?} {now:?}")
    })?;
    ensure(scene.member_ids()? == before, || "the members are not the same".to_owned())?;
    ensure(get(scene.service()?, "kept")? == "yes", || "data was lost".to_owned())
}

/// Waits for three pods that say themselves that they are ready: the status may still be that of pods that are gone.
fn await_running(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.await_fact("three pods are ready", || {
        let pods = scene.get(&["pods"])?["items"].as_array().cloned().unwrap_or_default();
        Ok(pods.len() == 3 && pods.iter().all(|pod| pod["status"]["containerStatuses"][0]["ready"] == true))
    })
}

fn addresses(scene: &Scene<'_>) -> Result<Vec<String>, Failure> {
    let pods = scene.get(&["pods"])?["items"].as_array().cloned().unwrap_or_default();
    Ok(pods.iter().filter_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned)).collect())
}

/// How a human says that a node is gone for good.
enum Word {
    Taint,
    Deletion,
}

pub(super) fn a_member_on_a_lost_node_is_replaced(scene: &Scene<'_>) -> Result<(), Failure> {
    lose_node(scene, &Word::Taint)
}

pub(super) fn a_member_on_a_deleted_node_is_replaced(scene: &Scene<'_>) -> Result<(), Failure> {
    lose_node(scene, &Word::Deletion)
}

fn lose_node(scene: &Scene<'_>, word: &Word) -> Result<(), Failure> {
    scene.install(&[])?;
    put(scene.service()?, "kept", "yes")?;
    let old = member(scene, "db-2")?["id"].clone();
    // A node that nothing runs on: to everybody else it is one that stopped answering.
    make_node("lost", scene)?;
    scene.kubectl.output(&["cordon", NODE])?;
    let moved = scene.delete_pods(&["db-2"]).and_then(|()| {
        scene.await_fact("db-2 is on the lost node", || Ok(scene.get(&["pod", "db-2"])?["spec"]["nodeName"] == "lost"))
    });
    scene.kubectl.output(&["uncordon", NODE])?;
    moved?;
    tie_volume("data-db-2", "lost", scene)?;
    scene.await_fact("the status says that a member is down", || {
        let status = scene.status()?;
        Ok(condition(&status, "Degraded") == "True" && condition(&status, "Available") == "True")
    })?;
    ensure(member(scene, "db-2")?["id"] == old, || "it was replaced before a human spoke".to_owned())?;
    match word {
        Word::Taint => {
            let taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
            scene.kubectl.output(&["taint", "node", "lost", taint])?;
        }
        Word::Deletion => drop(scene.kubectl.output(&["delete", "node", "lost"])?),
    }
    scene.await_fact("db-2 is another member", || {
        let id = member(scene, "db-2")?["id"].clone();
        Ok(id != old && id != Value::Null)
    })?;
    scene.kubectl.output(&["delete", "node", "lost", "--ignore-not-found"])?;
    scene.await_ready(3)?;
    ensure(get(scene.service()?, "kept")? == "yes", || "data was lost".to_owned())
}

/// The volume of a claim is one node's, as a local disk is: a volume that others can use would come back with its data.
fn tie_volume(claim: &str, node: &str, scene: &Scene<'_>) -> Result<(), Failure> {
    let volume = scene.get(&["persistentvolumeclaim", claim])?["spec"]["volumeName"].clone();
    let volume = volume.as_str().ok_or_else(|| Failure::Broken(format!("{claim} has no volume")))?;
    let host = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": [node] });
    let affinity = json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": [host] }] } });
    let patch = json!({ "spec": { "nodeAffinity": affinity } }).to_string();
    scene.kubectl.output(&["patch", "persistentvolume", volume, "--type=merge", "--patch", &patch]).map(drop)
}

/// A Node object without a kubelet, ready for as long as nobody expects a heartbeat.
fn make_node(name: &str, scene: &Scene<'_>) -> Result<(), Failure> {
    let metadata = json!({ "name": name, "labels": { "kubernetes.io/hostname": name } });
    scene.kubectl.apply(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata }).to_string())?;
    let resources = json!({ "cpu": "4", "memory": "8Gi", "pods": "20" });
    let ready = json!({ "type": "Ready", "status": "True", "reason": "Made", "message": "by a test" });
    let status = json!({ "status": { "capacity": resources, "allocatable": resources, "conditions": [ready] } });
    let patch = ["patch", "node", name, "--subresource=status", "--type=merge", "--patch", &status.to_string()];
    scene.kubectl.output(&patch)?;
    scene.await_fact("the node takes pods", || {
        Ok(scene.kubectl.get(&["node", name])?["spec"]["taints"].as_array().is_none_or(Vec::is_empty))
    })
}

pub(super) fn a_drain_takes_one_pod_at_a_time(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    let evict = |pod: &str| {
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": { "name": pod, "namespace": scene.namespace },
        });
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", scene.namespace);
        scene.kubectl.create_raw(&path, &eviction.to_string())
    };
    evict("db-0")?;
    let second = evict("db-1").err().map(|failure| failure.to_string()).unwrap_or_default();
    ensure(second.contains("disruption budget"), || format!("a second eviction was answered with {second:?}"))?;
    scene.await_ready(3)
}

/// Where the pods have nowhere else to go, a drain stops at the second one.
pub(super) fn a_drained_node_keeps_the_quorum(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    let writer = Writer::start(scene.service()?, "drain");
    let selector = "--pod-selector=app.kubernetes.io/instance=db,app.kubernetes.io/name=quorate";
    let drained = scene.kubectl.output(&["drain", NODE, selector, "--timeout=20s"]);
    let running = scene.get(&["pods"])?;
    scene.kubectl.output(&["uncordon", NODE])?;
    let said = drained.err().map(|failure| failure.to_string()).unwrap_or_default();
    ensure(said.contains("disruption budget"), || format!("the drain ended with {said:?}"))?;
    let pods = running["items"].as_array().cloned().unwrap_or_default();
    let up = pods.iter().filter(|pod| pod["status"]["containerStatuses"][0]["ready"] == true).count();
    ensure(up >= 2, || format!("{up} pods run during the drain"))?;
    scene.await_ready(3)?;
    let tally = writer.finish()?;
    eprintln!("  {} writes, longest gap {} ms", tally.acknowledged, tally.longest_gap.as_millis());
    Ok(())
}

pub(super) fn a_quorum_that_is_away_is_left_alone(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    put(scene.service()?, "kept", "yes")?;
    let before = scene.member_ids()?;
    // Pods that cannot be scheduled: their volumes wait for them.
    scene.patch(&json!({ "updateStrategy": "Supervised", "nodeSelector": { "nowhere": "true" } }))?;
    scene.await_fact("the template is applied", || {
        let set = scene.get(&["statefulset", "db"])?;
        Ok(set["spec"]["template"]["spec"]["nodeSelector"]["nowhere"] == "true")
    })?;
    scene.delete_pods(&["db-0", "db-1"])?;
    scene.await_fact("the status says that the quorum is lost", || {
        let status = scene.status()?;
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.iter().any(|c| c["type"] == "Available" && c["reason"] == "QuorumLost"))
    })?;
    scene.patch(&json!({ "nodeSelector": null, "updateStrategy": "Unsupervised" }))?;
    scene.await_ready(3)?;
    ensure(scene.member_ids()? == before, || "the members are not the same".to_owned())?;
    ensure(get(scene.service()?, "kept")? == "yes", || "data was lost".to_owned())
}

/// The members run on without it; what shows that they know the new token is a resize, which asks the leader and starts pods.
pub(super) fn a_deleted_admin_token_is_made_again(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&CALM)?;
    let (pods, before) = (scene.pods()?, token(scene)?);
    let writer = Writer::start(scene.service()?, "token");
    scene.run(&["delete", "secret", "db-admin"])?;
    scene.await_fact("there is another token", || {
        let now = token(scene)?;
        Ok(now.is_string() && now != before)
    })?;
    scene.patch(&json!({ "replicas": 5 }))?;
    scene.await_ready(5)?;
    let tally = writer.finish()?;
    eprintln!("  {} writes, longest gap {} ms", tally.acknowledged, tally.longest_gap.as_millis());
    let now = scene.pods()?;
    ensure(pods.iter().all(|pod| now.contains(pod)), || format!("pods were restarted: {pods:?} {now:?}"))
}

/// Of the cluster's Secret; null while there is none.
fn token(scene: &Scene<'_>) -> Result<Value, Failure> {
    let secrets = scene.get(&["secrets"])?["items"].as_array().cloned().unwrap_or_default();
    let ours = secrets.into_iter().find(|secret| secret["metadata"]["name"] == "db-admin");
    Ok(ours.map_or(Value::Null, |secret| secret["data"]["token"].clone()))
}

pub(super) fn a_pod_that_moves_stays_the_same_member(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    let before = scene.member_ids()?;
    scene.delete_pods(&["db-2"])?;
    await_running(scene)?;
    scene.await_ready(3)?;
    ensure(scene.member_ids()? == before, || "it became another member".to_owned())
}

fn member(scene: &Scene<'_>, name: &str) -> Result<Value, Failure> {
    let status = scene.status()?;
    let members = status["members"].as_array().cloned().unwrap_or_default();
    Ok(members.into_iter().find(|member| member["name"] == name).unwrap_or_default())
}
