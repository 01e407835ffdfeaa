//! The rules of the resource, evaluated as the API server evaluates them, without one.

use kube::core::cel::{validate_cel, validate_cel_update};
use serde_json::{Value, json};

use super::QuorateCluster;

/// A cluster with this spec, the schema's defaults filled in.
fn cluster(spec: Value) -> QuorateCluster {
    serde_json::from_value(json!({
        "apiVersion": "quorate.io/v1alpha1",
        "kind": "QuorateCluster",
        "metadata": { "name": "example" },
        "spec": spec,
    }))
    .expect("the spec is well-formed")
}

#[track_caller]
fn check_accepted(spec: Value) {
    if let Err(errors) = validate_cel(&cluster(spec)) {
        panic!("refused: {errors:?}");
    }
}

#[track_caller]
fn check_refused(spec: Value, expected: &str) {
    let errors = validate_cel(&cluster(spec)).expect_err("should be refused");
    let text = format!("{errors:?}");
    assert!(text.contains(expected), "refused for another reason: {text}");
}

#[track_caller]
fn check_change_accepted(old: Value, new: Value) {
    if let Err(errors) = validate_cel_update(&cluster(new), &cluster(old)) {
        panic!("refused: {errors:?}");
    }
}

#[track_caller]
fn check_change_refused(old: Value, new: Value, expected: &str) {
    let errors = validate_cel_update(&cluster(new), &cluster(old)).expect_err("should be refused");
    let text = format!("{errors:?}");
    assert!(text.contains(expected), "refused for another reason: {text}");
}

#[test]
fn an_empty_spec_is_a_cluster_of_three() {
    check_accepted(json!({}));
    assert_eq!(cluster(json!({})).spec.replicas, 3);
}

#[test]
fn only_three_and_five_replicas_are_accepted() {
    check_accepted(json!({ "replicas": 3 }));
    check_accepted(json!({ "replicas": 5 }));
    for replicas in [-1, 0, 1, 2, 4, 6, 7] {
        check_refused(json!({ "replicas": replicas }), "replicas must be 3 or 5");
    }
}

#[test]
fn a_version_is_the_tag_of_an_image() {
    for version in ["0.1.0", "v1.2.3-rc.1", "_x"] {
        check_accepted(json!({ "version": version }));
    }
    for version in ["1.2.3+build", "1 2", "-1", ".1", "a:b", "a/b"] {
        check_refused(json!({ "version": version }), "version must be the tag of an image");
    }
}

#[test]
fn a_size_may_be_any_and_be_taken_back() {
    let size = |size: &str| json!({ "storage": { "size": size } });
    check_change_accepted(size("8Gi"), size("8Gi"));
    check_change_accepted(size("8Gi"), size("10Gi"));
    check_change_accepted(size("80Gi"), size("8Gi"));
    for none in ["much", "0", "-1Gi", "0Gi"] {
        check_refused(size(none), "size must be a quantity");
    }
}

#[test]
fn a_quota_fits_on_the_volume() {
    let quota = |quota: &str| json!({ "storage": { "size": "8Gi", "quota": quota } });
    for fits in ["8Gi", "4Gi", "1.5G", "1000000000", "8192Mi"] {
        check_accepted(quota(fits));
    }
    check_refused(quota("9Gi"), "quota must not be more than size");
    for none in ["much", "0", "-1Gi", "0Mi", "5m"] {
        check_refused(quota(none), "quota must be a quantity");
    }
    check_change_accepted(quota("8Gi"), quota("4Gi"));
}

#[test]
fn the_storage_class_stays() {
    let class = |name: &str| json!({ "storage": { "size": "8Gi", "storageClassName": name } });
    let none = json!({ "storage": { "size": "8Gi" } });
    check_change_accepted(class("fast"), class("fast"));
    check_change_accepted(none.clone(), none.clone());
    check_change_refused(class("fast"), class("slow"), "storageClassName cannot be changed");
    check_change_refused(none.clone(), class("slow"), "storageClassName cannot be changed");
    check_change_refused(class("fast"), none, "storageClassName cannot be changed");
}

#[test]
fn an_election_timeout_leaves_room_for_lost_heartbeats() {
    let raft = |heartbeat: i32, election: i32| json!({ "raft": { "heartbeatIntervalMilliseconds": heartbeat, "electionTimeoutMilliseconds": election } });
    check_accepted(raft(100, 500));
    check_refused(raft(100, 499), "at least five times");
}

#[test]
fn what_is_kept_suits_the_mode() {
    let compaction =
        |mode: &str, retention: &str| json!({ "autoCompaction": { "mode": mode, "retention": retention } });
    for (mode, retention) in
        [("Periodic", "1h"), ("Periodic", "1.5h"), ("Periodic", "24"), ("Revision", "10000"), ("Off", "1h")]
    {
        check_accepted(compaction(mode, retention));
    }
    check_refused(json!({ "autoCompaction": { "mode": "Revision" } }), "must be a number of revisions");
    check_refused(compaction("Revision", "1h"), "must be a number of revisions");
    for retention in ["soon", "1d", "-1h", "h", "1h30m"] {
        check_refused(compaction("Periodic", retention), "must be a duration");
    }
}

#[test]
fn labels_of_the_operator_cannot_be_set() {
    check_accepted(json!({ "additionalMetadata": { "labels": { "team": "a" }, "annotations": { "team": "a" } } }));
    for key in ["app.kubernetes.io/name", "quorate.io/role"] {
        check_refused(json!({ "additionalMetadata": { "labels": { key: "x" } } }), "belong to the operator");
        check_refused(json!({ "monitoring": { "labels": { key: "x" } } }), "belong to the operator");
    }
    check_refused(
        json!({ "additionalMetadata": { "annotations": { "quorate.io/roll": "x" } } }),
        "belong to the operator",
    );
}

#[test]
fn the_name_must_suit_a_service() {
    let named = |name: &str| {
        let mut cluster = cluster(json!({}));
        cluster.metadata.name = Some(name.to_string());
        validate_cel(&cluster).map_err(|errors| format!("{errors:?}"))
    };
    named("db-1").expect("accepted");
    for name in ["1db", "db.one", "db-"] {
        let refused = named(name).expect_err("should be refused");
        assert!(refused.contains("name of a Service"), "{name}: {refused}");
    }
    let long = named(&"a".repeat(41)).expect_err("should be refused");
    assert!(long.contains("at most 40 characters"), "{long}");
}
