//! Steps against an API server that is a function, and nodes that only remember what they were told.

mod recovery;

use std::sync::{Arc, Mutex};

use http::request::Parts;
use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tower::service_fn;

use super::*;
use crate::observe::{KubernetesView, PodView, SetView, VolumeView};
use crate::plan::{Change, ClusterView, MemberView, Observed, PodState, Recovery, SetState, VolumeState, Wanted};

/// Method, path with query, body.
type Call = (String, String, Value);
type Calls = Arc<Mutex<Vec<Call>>>;

/// Answers everything with what was sent, or with `refusal`.
fn server(calls: &Calls, refusal: Option<u16>) -> Client {
    server_that_has(calls, refusal, None)
}

/// The same, but for the resource itself, which can be read.
fn server_that_has(calls: &Calls, refusal: Option<u16>, resource: Option<Value>) -> Client {
    answering(calls, move |head, sent| {
        let reason = if refusal == Some(404) { "NotFound" } else { "Conflict" };
        let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "code": refusal, "message": "", "reason": reason });
        let mut named = sent;
        if !named.is_object() || named["kind"] == "DeleteOptions" {
            named = status.clone();
        }
        let read = resource.clone().filter(|_| head.method == "GET" && head.uri.path().contains("/quorateclusters/"));
        let answer = if refusal.is_some() { status } else { read.unwrap_or(named) };
        (refusal.unwrap_or(200), answer)
    })
}

/// Writes every call down, and answers it with the code and the body that `answer` makes of its head and of what was sent.
fn answering(calls: &Calls, answer: impl Fn(&Parts, Value) -> (u16, Value) + Send + Sync + 'static) -> Client {
    let (calls, answer) = (Arc::clone(calls), Arc::new(answer));
    let service = service_fn(move |request: Request<Body>| {
        let (calls, answer) = (Arc::clone(&calls), Arc::clone(&answer));
        async move {
            let (head, body) = request.into_parts();
            let sent: Value = serde_json::from_slice(&body.collect_bytes().await.expect("a body")).unwrap_or_default();
            let path = head.uri.path().to_string();
            calls.lock().expect("no test panicked").push((head.method.to_string(), path, sent.clone()));
            let (code, answer) = answer(&head, sent);
            let response = Response::builder().status(code);
            Ok::<_, std::convert::Infallible>(response.body(Body::from(answer.to_string().into_bytes())).expect("fits"))
        }
    });
    Client::new(service, "default")
}

/// What the nodes were told: address, call, and the request as text.
#[derive(Default)]
struct Nodes {
    told: Mutex<Vec<(String, &'static str, String)>>,
    refusing: Option<String>,
}

impl Nodes {
    fn hear(&self, node: &Target, call: &'static str, request: String) -> Result<(), AdminError> {
        self.told.lock().expect("no test panicked").push((node.address.clone(), call, request));
        if self.refusing.as_ref() == Some(&node.address) {
            return Err(AdminError::Unreachable { address: node.address.clone(), reason: "refused".to_string() });
        }
        Ok(())
    }
}

impl Admin for Nodes {
    async fn status(&self, node: &Target) -> Result<StatusResponse, AdminError> {
        self.hear(node, "status", String::new()).map(|()| StatusResponse::default())
    }
    async fn init(&self, node: &Target, request: InitRequest) -> Result<(), AdminError> {
        self.hear(node, "init", format!("{request:?}"))
    }
    async fn set_voters(&self, node: &Target, request: SetVotersRequest) -> Result<(), AdminError> {
        self.hear(node, "set_voters", format!("{request:?}"))
    }
    async fn transfer_leader(&self, node: &Target, request: TransferLeaderRequest) -> Result<(), AdminError> {
        self.hear(node, "transfer_leader", format!("{request:?}"))
    }
    async fn reset(&self, node: &Target, request: ResetRequest) -> Result<(), AdminError> {
        self.hear(node, "reset", format!("{request:?}"))
    }
}

/// Three members, the first of which leads; `pods` pods.
fn sighting(pods: u32) -> Sighting {
    let cluster = serde_json::from_value(json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster",
        "metadata": {
            "name": "db", "namespace": "default", "uid": "u-1", "resourceVersion": "7",
            "finalizers": ["example.com/other", FINALIZER],
        },
        "spec": {},
    }));
    let state = PodState { ready: true, serving: true, ..PodState::default() };
    let pod = |ordinal: u32| PodView {
        uid: format!("pod-{ordinal}"),
        state: state.clone(),
        address: Some(format!("node-{ordinal}:2379")),
        ..PodView::default()
    };
    let volume = |ordinal: u32| VolumeView {
        uid: format!("volume-{ordinal}"),
        state: VolumeState { ours: true, ..VolumeState::default() },
        size: "8Gi".to_string(),
        resize_trouble: None,
    };
    let answer = |ordinal: u32| StatusResponse {
        node_id: u64::from(ordinal) + 1,
        name: format!("db-{ordinal}"),
        incarnation: u128::from(ordinal).to_be_bytes().to_vec().into(),
        ..StatusResponse::default()
    };
    let member =
        |ordinal: u32| MemberView { ordinal: Ordinal(ordinal), incarnation: Incarnation(ordinal.into()), voter: true };
    let by_ordinal = 0..pods;
    let observed = Observed {
        wanted: Wanted { replicas: 3, roll_unsupervised: true, ..Wanted::default() },
        cluster: Some(ClusterView {
            config_index: 9,
            change: Change::None,
            members: (0..3).map(|o| (NodeId(u64::from(o) + 1), member(o))).collect(),
            leader: NodeId(1),
            active: (1..=3).map(NodeId).collect(),
            caught_up: (1..=3).map(NodeId).collect(),
        }),
        ..Observed::default()
    };
    let kubernetes = KubernetesView {
        set: Some(SetView {
            uid: "set".to_string(),
            resource_version: "11".to_string(),
            replicas: pods,
            settled: true,
            volume_size: "8Gi".to_string(),
            revision: None,
        }),
        pods: by_ordinal.clone().map(|o| (Ordinal(o), pod(o))).collect(),
        volumes: by_ordinal.clone().map(|o| (Ordinal(o), volume(o))).collect(),
        token: Some("secret".to_string()),
        ..KubernetesView::default()
    };
    let answers = by_ordinal.map(|o| (Ordinal(o), answer(o))).collect();
    Sighting { answers, ..Sighting::untroubled(cluster.expect("the spec is well-formed"), observed, kubernetes) }
}

async fn take(
    sighting: &Sighting,
    step: Step,
    nodes: &Nodes,
    refusal: Option<u16>,
) -> (Result<(), ActError>, Vec<Call>) {
    let calls = Calls::default();
    let client = server(&calls, refusal);
    let defaults = Defaults::new("quorate", None);
    let result = Hands { client: &client, admin: nodes, defaults: &defaults }.act(sighting, &step).await;
    let calls = calls.lock().expect("no test panicked").clone();
    (result, calls)
}

#[tokio::test]
async fn what_is_deleted_is_what_was_seen() {
    for (step, path, uid) in [
        (Step::RestartPod(Ordinal(1)), "/api/v1/namespaces/default/pods/db-1", "pod-1"),
        (Step::DeleteVolume(Ordinal(2)), "/api/v1/namespaces/default/persistentvolumeclaims/data-db-2", "volume-2"),
    ] {
        let (result, calls) = take(&sighting(3), step, &Nodes::default(), None).await;
        result.expect("deleted");
        let [(method, called, body)] = &calls[..] else { panic!("one call: {calls:?}") };
        assert_eq!((method.as_str(), called.as_str()), ("DELETE", path));
        assert_eq!(body["preconditions"]["uid"], uid);
    }
}

#[tokio::test]
async fn what_is_gone_already_needs_no_deletion() {
    let (result, _) = take(&sighting(3), Step::RestartPod(Ordinal(1)), &Nodes::default(), Some(404)).await;
    result.expect("nothing is left to do");
    let (result, _) = take(&sighting(3), Step::RestartPod(Ordinal(1)), &Nodes::default(), Some(409)).await;
    result.expect_err("it is another pod by now");
}

#[tokio::test]
async fn a_change_of_voters_goes_to_the_leader_with_the_index_it_was_based_on() {
    let nodes = Nodes::default();
    let voters = vec![Voter::Existing(NodeId(1)), Voter::New(Ordinal(4), Incarnation(4))];
    let step = Step::SetVoters { voters, expected_config_index: 9 };
    take(&sighting(5), step, &nodes, None).await.0.expect("accepted");
    let told = nodes.told.into_inner().expect("no test panicked");
    let [(address, "set_voters", request)] = &told[..] else { panic!("one call: {told:?}") };
    assert_eq!(address, "node-0:2379");
    assert!(request.contains("expected_config_index: 9") && request.contains("db-4"), "{request}");
}

#[tokio::test]
async fn leadership_is_asked_to_move_in_the_configuration_that_was_seen() {
    let nodes = Nodes::default();
    let step = Step::TransferLeader { to: NodeId(2), expected_config_index: 9 };
    take(&sighting(3), step, &nodes, None).await.0.expect("accepted");
    let told = nodes.told.into_inner().expect("no test panicked");
    let [(address, "transfer_leader", request)] = &told[..] else { panic!("one call: {told:?}") };
    assert_eq!(address, "node-0:2379");
    assert!(request.contains("node_id: 2") && request.contains("expected_config_index: 9"), "{request}");
}

#[tokio::test]
async fn a_volume_of_an_earlier_life_is_marked_with_the_resource_that_took_it_up() {
    let (result, calls) = take(&sighting(3), Step::MarkVolume(Ordinal(2)), &Nodes::default(), None).await;
    drop(result);
    let [(method, path, body)] = &calls[..] else { panic!("one call: {calls:?}") };
    assert_eq!((method.as_str(), path.ends_with("/persistentvolumeclaims/data-db-2")), ("PATCH", true));
    assert_eq!(body["metadata"], json!({ "uid": "volume-2", "annotations": { "quorate.io/owner": "u-1" } }));
}

#[tokio::test]
async fn a_pod_monitor_is_made_apart_and_removed_when_it_is_not_wanted() {
    let mut seen = sighting(3);
    let apply = async |seen: &Sighting| {
        let (result, calls) = take(seen, Step::ApplyMonitor, &Nodes::default(), None).await;
        result.expect("applied");
        let [(method, path, _)] = &calls[..] else { panic!("one call: {calls:?}") };
        assert_eq!(path, "/apis/monitoring.coreos.com/v1/namespaces/default/podmonitors/db");
        method.clone()
    };
    let key = ("PodMonitor".to_string(), "db".to_string());
    seen.kubernetes.objects.insert(key, json!({ "metadata": { "uid": "monitor" } }));
    assert_eq!(apply(&seen).await, "DELETE");
    seen.cluster.spec.monitoring.pod_monitor = true;
    assert_eq!(apply(&seen).await, "PATCH");
}

#[tokio::test]
async fn an_object_of_somebody_else_is_neither_deleted_nor_applied_over() {
    let key = |kind: &str, name: &str| (kind.to_string(), name.to_string());
    let paths = async |seen: &Sighting| {
        let (result, calls) = take(seen, Step::ApplyObjects { replicas: 3 }, &Nodes::default(), None).await;
        let paths =
            calls.into_iter().map(|(method, path, _)| (method, path.rsplit('/').nth(1).unwrap_or("").to_string()));
        (result, paths.collect::<Vec<_>>())
    };
    let mut seen = sighting(3);
    seen.kubernetes.foreign.insert(key("PodDisruptionBudget", "db"));
    let (result, calls) = paths(&seen).await;
    result.expect("the others are applied");
    let applied: Vec<&str> = calls.iter().map(|(_, plural)| plural.as_str()).collect();
    assert_eq!(applied, ["services", "services", "statefulsets"]);
    seen.cluster.spec.pod_disruption_budget.enabled = false;
    let (_, calls) = paths(&seen).await;
    assert!(calls.iter().all(|(method, _)| method == "PATCH"), "it is not ours to delete: {calls:?}");
    seen.kubernetes.foreign.insert(key("Service", "db-peers"));
    seen.kubernetes.set = None;
    let (result, calls) = paths(&seen).await;
    let said = result.expect_err("no set without its Services").to_string();
    assert!(said.contains("Service db-peers is somebody else's"), "{said}");
    assert_eq!(calls, []);
}

#[tokio::test]
async fn an_object_that_is_not_wanted_any_more_is_deleted_as_it_was_seen() {
    let mut seen = sighting(3);
    seen.cluster.spec.pod_disruption_budget.enabled = false;
    let key = ("PodDisruptionBudget".to_string(), "db".to_string());
    seen.kubernetes.objects.insert(key, json!({ "metadata": { "uid": "budget" } }));
    let (result, calls) = take(&seen, Step::ApplyObjects { replicas: 3 }, &Nodes::default(), None).await;
    result.expect("applied");
    let (_, path, body) = calls.iter().find(|(method, ..)| method == "DELETE").expect("deleted");
    assert!(path.ends_with("/poddisruptionbudgets/db"), "{path}");
    assert_eq!(body["preconditions"]["uid"], "budget");
}

#[tokio::test]
async fn a_node_with_other_data_by_now_is_not_taken_in() {
    let nodes = Nodes::default();
    let voters = vec![Voter::New(Ordinal(4), Incarnation(99))];
    let step = Step::SetVoters { voters, expected_config_index: 9 };
    take(&sighting(5), step, &nodes, None).await.0.expect_err("another node is there");
    assert_eq!(nodes.told.into_inner().expect("no test panicked").len(), 0);
}

#[tokio::test]
async fn files_that_do_not_say_whose_they_are_can_be_set_aside() {
    let nodes = Nodes::default();
    let mut seen = sighting(3);
    seen.observed.latched.cluster_id = Some(ClusterId(0x61));
    take(&seen, Step::ResetNode(Ordinal(1)), &nodes, None).await.0.expect("reset");
    let told = nodes.told.into_inner().expect("no test panicked");
    let [(address, "reset", request)] = &told[..] else { panic!("one call: {told:?}") };
    assert_eq!(address, "node-1:2379");
    // The node refuses an id that is missing; the last byte is an `a`.
    assert!(request.contains("\\0a\""), "{request}");
}

#[tokio::test]
async fn init_is_told_to_every_node_even_if_one_refuses() {
    let nodes = Nodes { refusing: Some("node-0:2379".to_string()), ..Nodes::default() };
    let members = (0..3).map(|o| (Ordinal(o), Incarnation(o.into()))).collect();
    let step = Step::Init { cluster_id: ClusterId(5), members };
    take(&sighting(3), step, &nodes, None).await.0.expect_err("one refused");
    assert_eq!(nodes.told.into_inner().expect("no test panicked").len(), 3);
}

#[tokio::test]
async fn the_set_comes_last_when_it_grows_and_first_when_it_shrinks() {
    let order = async |from: u32, to: u32| {
        let (result, calls) = take(&sighting(from), Step::ScaleSet { replicas: to }, &Nodes::default(), None).await;
        result.expect("applied");
        calls.iter().position(|(_, path, _)| path.contains("statefulsets")).map(|at| (at, calls.len()))
    };
    assert_eq!(order(3, 5).await, Some((3, 4)));
    assert_eq!(order(5, 3).await, Some((0, 4)));
}

#[tokio::test]
async fn a_set_whose_template_is_refused_can_be_scaled() {
    let mut seen = sighting(3);
    let outdated = SetState { replicas: 3, settled: true, outdated: true, ..SetState::default() };
    seen.observed.set = Some(outdated);
    let (_, calls) = take(&seen, Step::ScaleSet { replicas: 0 }, &Nodes::default(), None).await;
    let [(method, path, body)] = &calls[..] else { panic!("one call: {calls:?}") };
    assert_eq!((method.as_str(), path.as_str()), ("PATCH", "/apis/apps/v1/namespaces/default/statefulsets/db"));
    assert_eq!(*body, json!({ "metadata": { "resourceVersion": "11" }, "spec": { "replicas": 0 } }));
}

#[tokio::test]
async fn a_set_shrinks_only_if_it_is_the_one_that_was_seen() {
    let version = async |from: u32, to: u32| {
        let (_, calls) = take(&sighting(from), Step::ScaleSet { replicas: to }, &Nodes::default(), None).await;
        let (_, _, body) = calls.into_iter().find(|(_, path, _)| path.contains("statefulsets")).expect("applied");
        body["metadata"]["resourceVersion"].clone()
    };
    assert_eq!(version(5, 3).await, "11");
    // It was seen to be smaller, and may have grown since.
    assert_eq!(version(3, 5).await, "11");
    assert_eq!(version(3, 3).await, "11");
}

#[tokio::test]
async fn a_set_is_made_only_if_there_is_none_yet() {
    let make = async |there: bool| {
        let calls = Calls::default();
        let client = answering(&calls, move |head, sent| {
            let missing =
                json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "code": 404, "reason": "NotFound" });
            let set = json!({ "kind": "StatefulSet", "apiVersion": "apps/v1", "metadata": { "name": "db" } });
            match (head.method.as_str(), there) {
                ("GET", true) => (200, set),
                ("GET", false) => (404, missing),
                _ => (200, sent),
            }
        });
        let mut seen = sighting(3);
        seen.kubernetes.set = None;
        let defaults = Defaults::new("quorate", None);
        let hands = Hands { client: &client, admin: &Nodes::default(), defaults: &defaults };
        let result = hands.act(&seen, &Step::ApplyObjects { replicas: 3 }).await;
        let calls = calls.lock().expect("no test panicked").clone();
        (result, calls.iter().any(|(method, path, _)| method == "PATCH" && path.ends_with("/statefulsets/db")))
    };
    let (result, applied) = make(false).await;
    result.expect("made");
    assert!(applied);
    let (result, applied) = make(true).await;
    result.expect_err("it may have grown");
    assert!(!applied);
}

#[tokio::test]
async fn nodes_are_told_of_retired_clusters_before_the_set_is_touched() {
    let mut seen = sighting(0);
    let status =
        json!({ "retiredClusterIDs": ["000000000000000000000000000000aa", "000000000000000000000000000000bb"] });
    seen.cluster.status = Some(serde_json::from_value(status).expect("a status"));
    let (result, calls) = take(&seen, Step::ScaleSet { replicas: 3 }, &Nodes::default(), None).await;
    result.expect("applied");
    let (method, path, body) = calls.first().expect("a call");
    assert_eq!((method.as_str(), path.as_str()), ("PATCH", "/api/v1/namespaces/default/secrets/db-admin"));
    let told = "000000000000000000000000000000aa\n000000000000000000000000000000bb";
    assert_eq!(body["stringData"]["retired"], told);
}

/// The calls, as method and body, of an apply that saw no token, where the API server has `there` under the Secret's name.
async fn make_token(there: Value) -> Vec<(String, Value)> {
    let mut seen = sighting(3);
    seen.kubernetes.token = None;
    let calls = Calls::default();
    let client = answering(&calls, move |head, sent| {
        match (head.method.as_str(), head.uri.path().contains("/secrets")) {
            ("POST", true) => (
                409,
                json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "code": 409, "message": "", "reason": "AlreadyExists",
                }),
            ),
            ("GET", true) => (200, there.clone()),
            _ => (200, sent),
        }
    });
    let defaults = Defaults::new("quorate", None);
    let hands = Hands { client: &client, admin: &Nodes::default(), defaults: &defaults };
    hands.act(&seen, &Step::ApplyObjects { replicas: 3 }).await.expect("applied");
    let calls = calls.lock().expect("no test panicked").clone();
    calls.into_iter().filter(|(_, path, _)| path.contains("/secrets")).map(|(method, _, body)| (method, body)).collect()
}

#[tokio::test]
async fn a_secret_without_a_token_gets_one_and_one_with_a_token_keeps_it() {
    let metadata = json!({ "name": "db-admin", "resourceVersion": "5" });
    let secret = |data: Value| json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data });
    let calls = make_token(secret(json!({ "retired": "" }))).await;
    let (method, patch) = calls.last().expect("a call");
    assert_eq!((method.as_str(), &patch["metadata"]["resourceVersion"]), ("PATCH", &json!("5")));
    assert_eq!(patch["stringData"]["token"].as_str().map(str::len), Some(64), "{patch}");
    let calls = make_token(secret(json!({ "token": "c2VjcmV0" }))).await;
    assert_eq!(calls.last().map(|(method, _)| method.as_str()), Some("GET"), "another operator was first");
}

#[tokio::test]
async fn only_the_own_finalizer_is_removed_and_only_from_what_was_seen() {
    let (result, calls) = take(&sighting(3), Step::ReleaseFinalizer, &Nodes::default(), None).await;
    // The fake answers with the patch, which is no resource.
    drop(result);
    let [(method, _, body)] = &calls[..] else { panic!("one call: {calls:?}") };
    assert_eq!(method, "PATCH");
    assert_eq!(body["metadata"], json!({ "resourceVersion": "7", "finalizers": ["example.com/other"] }));
}

#[tokio::test]
async fn a_volume_that_should_be_larger_is_patched_and_its_set_made_again() {
    let mut small = sighting(3);
    small.cluster.spec.storage.size = "12Gi".to_string();
    let (result, calls) = take(&small, Step::GrowVolumes, &Nodes::default(), None).await;
    result.expect("grown");
    let grown = calls.iter().filter(|(method, path, body)| {
        method == "PATCH"
            && path.contains("persistentvolumeclaims")
            && body["spec"]["resources"]["requests"]["storage"] == "12Gi"
    });
    let patched = grown.count();
    assert_eq!(patched, 3, "{calls:?}");
    let (method, path, body) = calls.last().expect("a call");
    assert!(method == "DELETE" && path.ends_with("/statefulsets/db"), "{calls:?}");
    assert_eq!(body["propagationPolicy"], "Orphan");
    assert_eq!(body["preconditions"], json!({ "uid": "set", "resourceVersion": "11" }));
}
