//! The resource as a real API server serves it: its rules, its words, and what kubectl shows of it.

use serde_json::{Value, json};

use crate::e2e::suite::{Scene, ensure};
use crate::failure::Failure;

pub(super) fn the_resource_explains_itself(scene: &Scene<'_>) -> Result<(), Failure> {
    let spec = scene.run(&["explain", "quoratecluster.spec"])?;
    for expected in ["replicas", "Number of voting members: 3 or 5", "volumeRetention", "Timing of elections"] {
        ensure(spec.contains(expected), || format!("{expected:?} is not in:\n{spec}"))?;
    }
    ensure(!spec.contains("<no description>"), || format!("a field is not described:\n{spec}"))?;
    let status = scene.run(&["explain", "qc.status.members"])?;
    ensure(status.contains("role"), || format!("no role in:\n{status}"))
}

/// Each rule of the resource, on a new object and on a change of one.
pub(super) fn the_api_server_keeps_every_rule(scene: &Scene<'_>) -> Result<(), Failure> {
    // Paused, since nothing is to run: what is looked at is what is accepted.
    let base = json!({ "paused": true, "storage": { "size": "2Gi", "storageClassName": "e2e" } });
    scene.kubectl.apply(&cluster(scene, "db", &base).to_string())?;
    let timing = json!({ "raft": { "heartbeatIntervalMilliseconds": 300, "electionTimeoutMilliseconds": 1000 } });
    let label = |kind: &str, key: &str| json!({ "additionalMetadata": { kind: { key: "x" } } });
    let made: &[(&str, Value, &str)] = &[
        ("new", json!({ "replicas": 4 }), "replicas must be 3 or 5"),
        ("new", json!({ "storage": { "size": "much" } }), "size must be a quantity"),
        ("new", json!({ "storage": { "size": "1Gi", "quota": "2Gi" } }), "quota must not be more than size"),
        ("new", json!({ "storage": { "quota": "much" } }), "quota must be a quantity"),
        ("new", json!({ "version": "1.0.0+build" }), "version must be the tag of an image"),
        ("new", timing, "at least five times heartbeatIntervalMilliseconds"),
        ("new", label("labels", "app.kubernetes.io/name"), "belong to the operator"),
        ("new", label("labels", "quorate.io/role"), "belong to the operator"),
        ("new", label("annotations", "quorate.io/roll"), "belong to the operator"),
        ("new", json!({ "monitoring": { "labels": { "quorate.io/role": "x" } } }), "belong to the operator"),
        ("new", json!({ "autoCompaction": { "mode": "Revision" } }), "must be a number of revisions"),
        ("new", json!({ "autoCompaction": { "retention": "soon" } }), "must be a duration"),
        ("1db", json!({}), "the name must be letters, digits and dashes"),
        ("a-name-that-is-longer-than-forty-characters", json!({}), "the name may have at most 40 characters"),
        ("new", json!({ "volumeRetention": "Keep" }), "Unsupported value"),
        ("new", json!({ "progressDeadlineSeconds": 1 }), "should be greater than or equal to 30"),
        ("new", json!({ "replica": 3 }), "field not declared in schema"),
    ];
    for (name, spec, expected) in made {
        let said = scene.kubectl.dry_run(&cluster(scene, name, spec).to_string()).err();
        expect(&format!("{name} with {spec}"), said, expected)?;
    }
    let changed: &[(Value, &str)] = &[
        (json!({ "replicas": 4 }), "replicas must be 3 or 5"),
        (json!({ "storage": { "storageClassName": "other" } }), "storageClassName cannot be changed"),
        (json!({ "storage": { "storageClassName": null } }), "storageClassName cannot be changed"),
        (json!({ "raft": { "electionTimeoutMilliseconds": 400 } }), "at least five times"),
        (json!({ "volumeRetention": "Recycle" }), "Unsupported value"),
    ];
    for (spec, expected) in changed {
        expect(&spec.to_string(), scene.patch(spec).err(), expected)?;
    }
    for size in ["0", "1", "2", "4", "7"] {
        let said = scene.run(&["scale", "quoratecluster/db", &format!("--replicas={size}")]).err();
        expect(&format!("kubectl scale --replicas={size}"), said, "replicas must be 3 or 5")?;
    }
    // What the rules leave is accepted, so that no rule above refuses everything.
    scene.patch(&json!({
        "storage": { "size": "3Gi", "quota": "1.5Gi" }, "volumeRetention": "Delete",
        "raft": { "heartbeatIntervalMilliseconds": 100, "electionTimeoutMilliseconds": 500 },
        "additionalMetadata": { "labels": { "team": "a" }, "annotations": { "team": "a" } },
    }))?;
    scene.run(&["scale", "quoratecluster/db", "--replicas=5"])?;
    let spec = scene.get(&["quoratecluster", "db"])?["spec"].clone();
    ensure(spec["replicas"] == 5 && spec["storage"]["size"] == "3Gi", || format!("it was not changed: {spec}"))
}

/// Columns, short name, category, and the field by which clusters are selected.
pub(super) fn the_resource_shows_itself(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&[])?;
    let table = scene.run(&["get", "qc", "db"])?;
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let (header, row) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let columns = ["NAME", "AVAILABLE", "DESIRED", "READY", "LEADER", "VERSION", "STATUS", "AGE"];
    ensure(header == columns, || format!("other columns:\n{table}"))?;
    let leads = row.get(4).is_some_and(|leader| leader.starts_with("db-"));
    ensure(row.starts_with(&["db", "True", "3", "3"]) && leads && row.get(6) == Some(&"Reconciled"), || {
        format!("another row:\n{table}")
    })?;
    let wide = scene.run(&["get", "qc", "db", "-o", "wide"])?;
    ensure(wide.lines().next().is_some_and(|header| header.contains("MESSAGE")), || format!("no message:\n{wide}"))?;
    let all = scene.run(&["get", "all", "-o", "name"])?;
    ensure(all.contains("quoratecluster.quorate.io/db"), || format!("not in the category `all`:\n{all}"))?;
    let version = scene.get(&["quoratecluster", "db"])?["spec"]["version"].as_str().unwrap_or_default().to_owned();
    for (wanted, expected) in [(version.as_str(), 1), ("0.0.1", 0)] {
        let found = scene.get(&["qc", "--field-selector", &format!("spec.version={wanted}")])?;
        let count = found["items"].as_array().map_or(0, Vec::len);
        ensure(count == expected, || format!("{count} clusters of version {wanted}"))?;
    }
    let selector = scene.get(&["quoratecluster", "db"])?["status"]["selector"].as_str().unwrap_or_default().to_owned();
    let selected = scene.get(&["pods", "--selector", &selector])?["items"].as_array().map_or(0, Vec::len);
    ensure(selected == 3, || format!("status.selector {selector:?} selects {selected} pods"))
}

fn cluster(scene: &Scene<'_>, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster",
        "metadata": { "name": name, "namespace": scene.namespace }, "spec": spec,
    })
}

fn expect(what: &str, said: Option<Failure>, expected: &str) -> Result<(), Failure> {
    let said = said.map(|failure| failure.to_string()).unwrap_or_default();
    ensure(said.contains(expected), || format!("{what} was answered with {said:?}"))
}
