//! Steps of a recovery.

use super::*;

/// Three members, and a recovery that was latched; the API server knows the resource with `begun` in its status.
async fn start_recovery(begun: &Value) -> (Result<(), ActError>, Vec<Call>) {
    let mut seen = sighting(0);
    let status = json!({ "recovery": { "survivor": "db-2", "newClusterID": "000000000000000000000000000000bb" } });
    seen.cluster.status = Some(serde_json::from_value(status).expect("a status"));
    seen.observed.latched.cluster_id = Some(ClusterId(0xaa));
    seen.observed.latched.recovery = Some(Recovery { survivor: Ordinal(2), cluster_id: ClusterId(0xbb), begun: false });
    let mut now = serde_json::to_value(&seen.cluster).expect("JSON");
    now["status"]["recovery"] = begun.clone();
    let calls = Calls::default();
    let client = server_that_has(&calls, None, Some(now));
    let defaults = Defaults::new("quorate", None);
    let nodes = Nodes::default();
    let result = Hands { client: &client, admin: &nodes, defaults: &defaults }.act(&seen, &Step::StartRecovery).await;
    let calls = calls.lock().expect("no test panicked").clone();
    (result, calls)
}

#[tokio::test]
async fn one_job_recovers_what_was_latched() {
    let latched = json!({ "survivor": "db-2", "newClusterID": "000000000000000000000000000000bb" });
    let (result, calls) = start_recovery(&latched).await;
    result.expect("started");
    let (method, path, body) = calls.last().expect("a call");
    assert_eq!((method.as_str(), path.as_str()), ("POST", "/apis/batch/v1/namespaces/default/jobs"));
    assert_eq!(body["metadata"]["name"], "db-recover-00000000");
}

#[tokio::test]
async fn a_recovery_that_was_taken_back_is_not_started() {
    let (result, calls) = start_recovery(&Value::Null).await;
    result.expect_err("it is gone");
    assert!(calls.iter().all(|(method, ..)| method == "GET"), "{calls:?}");
}

#[tokio::test]
async fn a_job_that_has_not_begun_is_deleted_and_one_that_has_is_not() {
    let deletion = async |container: Value| {
        let calls = Calls::default();
        let client = answering(&calls, move |head, _| {
            let container = json!({ "name": "recover", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": container });
            let pod = json!({ "metadata": { "name": "p" }, "status": { "phase": "Pending", "containerStatuses": [container] } });
            let answer = if head.uri.path().ends_with("/pods") {
                json!({ "apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [pod] })
            } else {
                json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "j", "uid": "job" } })
            };
            (200, answer)
        });
        let mut seen = sighting(0);
        let recovery = Recovery { survivor: Ordinal(2), cluster_id: ClusterId(0xbb << 96), begun: false };
        seen.observed.latched.recovery = Some(recovery);
        seen.kubernetes.recovery_job.uid = Some("job".to_string());
        seen.kubernetes.recovery_job.state = JobState::NotBegun;
        let defaults = Defaults::new("quorate", None);
        let hands = Hands { client: &client, admin: &Nodes::default(), defaults: &defaults };
        let result = hands.act(&seen, &Step::DeleteRecoveryJob).await;
        let calls = calls.lock().expect("no test panicked").clone();
        (result, calls.into_iter().find(|(method, ..)| method == "DELETE"))
    };
    let (result, call) = deletion(json!({ "waiting": { "reason": "ImagePullBackOff" } })).await;
    result.expect("deleted");
    let (_, path, body) = call.expect("a deletion");
    assert_eq!(path, "/apis/batch/v1/namespaces/default/jobs/db-recover-000000bb");
    assert_eq!((&body["preconditions"]["uid"], &body["propagationPolicy"]), (&json!("job"), &json!("Background")));
    let (result, call) = deletion(json!({ "running": {} })).await;
    result.expect_err("it writes");
    assert_eq!(call, None);
}
