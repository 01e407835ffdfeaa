//! Reads of the API server.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use super::monitor;
use super::nodes::{self, NodeView};
use super::recovery_job::{self, RecoveryJobView};
use super::trouble;
use crate::build::{self, Built};
use crate::crd::QuorateCluster;
use crate::names::{CLIENT_PORT, Names, OWNER_ANNOTATION, RETIRED_KEY, SERVING_LABEL, TOKEN_KEY};
use crate::plan::{Ordinal, PodState, VolumeState};

/// What Kubernetes says of one cluster.
#[derive(Debug, Clone, Default)]
pub struct KubernetesView {
    /// The StatefulSet.
    pub set: Option<SetView>,
    /// Its pods.
    pub pods: BTreeMap<Ordinal, PodView>,
    /// Its volume claims.
    pub volumes: BTreeMap<Ordinal, VolumeView>,
    /// The admin token.
    pub token: Option<String>,
    /// The retired clusters as the nodes are told of them.
    pub retired: String,
    /// The job of the recovery under way.
    pub recovery_job: RecoveryJobView,
    /// Everything that is built, by kind and name, as it is now.
    pub objects: BTreeMap<(String, String), Value>,
    /// Objects of others that have the kind and name of one that is built.
    pub foreign: BTreeSet<(String, String)>,
    /// The Prometheus operator is installed, or was not needed to be.
    pub monitors_served: bool,
}

/// The StatefulSet.
#[derive(Debug, Clone, Default)]
pub struct SetView {
    /// For preconditions.
    pub uid: String,
    /// For preconditions, too: it changes with the set.
    pub resource_version: String,
    /// Pods it is told to run.
    pub replicas: u32,
    /// Its controller has seen its newest specification.
    pub settled: bool,
    /// Size of the volumes that it makes.
    pub volume_size: String,
    /// Its newest revision: what outdated pods are to become.
    pub revision: Option<String>,
}

/// One pod.
#[derive(Debug, Clone, Default)]
pub struct PodView {
    /// For preconditions.
    pub uid: String,
    /// What the plan needs.
    pub state: PodState,
    /// It is being deleted.
    pub terminating: bool,
    /// HOST:PORT of the client port, once the pod has an address.
    pub address: Option<String>,
    /// Why it does not run, as far as Kubernetes says so.
    pub trouble: Option<String>,
    /// The Kubernetes node under it, as far as it was looked at: under the leader, and under pods that are not ready.
    pub node: Option<NodeView>,
}

/// One volume claim.
#[derive(Debug, Clone)]
pub struct VolumeView {
    /// For preconditions.
    pub uid: String,
    /// What the plan needs.
    pub state: VolumeState,
    /// Size that is asked for.
    pub size: String,
    /// It should be larger than it is, and Kubernetes says what keeps it from that.
    pub resize_trouble: Option<String>,
}

impl KubernetesView {
    /// What is there in place of `object`.
    pub fn live(&self, object: &Built) -> Option<&Value> {
        self.objects.get(&(object.resource.kind.clone(), object.name.clone()))
    }

    /// Whether somebody else's object is in place of `object`, which should be there.
    pub fn is_taken(&self, object: &Built) -> bool {
        object.body.is_some() && self.foreign.contains(&(object.resource.kind.clone(), object.name.clone()))
    }

    /// Sorts what has the kind and name of an object that is built.
    pub(super) fn take_in(&mut self, cluster: &QuorateCluster, key: (String, String), live: Value) {
        if build::is_of(cluster, &live) {
            self.objects.insert(key, live);
        } else {
            self.foreign.insert(key);
        }
    }
}

pub(super) async fn read(client: &Client, cluster: &QuorateCluster) -> Result<KubernetesView, kube::Error> {
    let names = Names::of(cluster);
    let selected = ListParams::default().labels(&names.selector_text());
    let set = api::<StatefulSet>(client, &names).get_opt(&names.cluster).await?;
    let pods = api::<Pod>(client, &names).list(&selected).await?;
    let claims = api::<PersistentVolumeClaim>(client, &names).list(&selected).await?;
    let secret = api::<Secret>(client, &names).get_opt(&names.admin_secret()).await?;

    let mut view = KubernetesView {
        token: secret.as_ref().and_then(token_of),
        retired: secret.as_ref().and_then(|secret| text_of(secret, RETIRED_KEY)).unwrap_or_default(),
        ..KubernetesView::default()
    };
    if let Some(recovery) = super::wish::latched(cluster).recovery {
        view.recovery_job = recovery_job::read(client, &names, recovery.cluster_id).await?;
    }
    for object in build::companions(cluster, 0, 0) {
        if let Some(live) = get(client, &names, &object).await? {
            view.take_in(cluster, (object.resource.kind, object.name), live);
        }
    }
    let set = take_in_set(cluster, set, &names, &mut view)?;
    monitor::read(client, cluster, &names, &mut view).await?;
    read_pods(client, cluster, set.as_ref(), &pods.items, &mut view).await?;
    read_endpoints(client, &names, &mut view).await?;
    for claim in &claims.items {
        let Some(ordinal) = names.ordinal_of_claim(&claim.name_any()) else { continue };
        let mut volume = volume_view(cluster, claim);
        if let Some(pod) = view.pods.get(&ordinal).filter(|pod| !pod.state.ready) {
            // A pod that runs, and may only be cut off, still has what is deleted under it.
            let deleted = has_lost_its_volume(claim) && !pod.state.runs;
            volume.state.stranded = deleted || nodes::is_stranded(client, claim, pod.node.as_ref()).await?;
        }
        view.volumes.insert(ordinal, volume);
    }
    if let Some(set) = set {
        view.set = Some(set_view(&set));
    }
    Ok(view)
}

/// The set, unless it is somebody else's: then this cluster has none.
fn take_in_set(
    cluster: &QuorateCluster,
    set: Option<StatefulSet>,
    names: &Names,
    view: &mut KubernetesView,
) -> Result<Option<StatefulSet>, kube::Error> {
    let Some(set) = set else { return Ok(None) };
    let body = serde_json::to_value(&set).map_err(kube::Error::SerdeError)?;
    let key = ("StatefulSet".to_string(), names.cluster.clone());
    view.take_in(cluster, key.clone(), body);
    Ok(view.objects.contains_key(&key).then_some(set))
}

/// The pods, and the nodes under those that are not ready and under the leader. If its node is about to be emptied, the others'
/// nodes are looked at, too: leadership must not go from one such node to the next.
async fn read_pods(
    client: &Client,
    cluster: &QuorateCluster,
    set: Option<&StatefulSet>,
    pods: &[Pod],
    view: &mut KubernetesView,
) -> Result<(), kube::Error> {
    let names = Names::of(cluster);
    let newest = set.and_then(|set| set.status.as_ref()?.update_revision.clone());
    let leader = cluster.status.as_ref().and_then(|status| status.leader.clone());
    let under = async |pod: &Pod| match pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) {
        Some(name) => nodes::node(client, name).await,
        None => Ok(None),
    };
    for pod in pods {
        let Some(ordinal) = names.ordinal_of_pod(&pod.name_any()) else { continue };
        let looks = !is_ready(pod) || leader == Some(pod.name_any());
        let node = if looks { under(pod).await? } else { None };
        view.pods.insert(ordinal, pod_view(pod, newest.as_deref(), node));
    }
    if view.pods.values().any(|pod| pod.state.ready && pod.state.cordoned) {
        for pod in pods {
            let seen = names.ordinal_of_pod(&pod.name_any()).and_then(|ordinal| view.pods.get_mut(&ordinal));
            if let Some(seen) = seen.filter(|seen| seen.node.is_none()) {
                seen.node = under(pod).await?;
                seen.state.cordoned = seen.node.as_ref().is_some_and(|node| node.cordoned);
            }
        }
    }
    Ok(())
}

/// Whether the client Service still leads to pods that are to leave it. While no pod leaves there is nothing to ask.
async fn read_endpoints(client: &Client, names: &Names, view: &mut KubernetesView) -> Result<(), kube::Error> {
    if view.pods.values().all(|pod| pod.state.serving) {
        return Ok(());
    }
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={}", names.cluster));
    let slices = api::<EndpointSlice>(client, names).list(&of_service).await?;
    let endpoints = slices.items.iter().flat_map(|slice| &slice.endpoints);
    let listed: BTreeSet<&str> = endpoints.filter_map(|of| of.target_ref.as_ref()?.uid.as_deref()).collect();
    for pod in view.pods.values_mut() {
        pod.state.leaves_service = !pod.state.serving && listed.contains(pod.uid.as_str());
    }
    Ok(())
}

fn api<K>(client: &Client, names: &Names) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), &names.namespace)
}

pub(super) async fn get(client: &Client, names: &Names, object: &Built) -> Result<Option<Value>, kube::Error> {
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), &names.namespace, &object.resource);
    let live = api.get_opt(&object.name).await?;
    live.map(|live| serde_json::to_value(live).map_err(kube::Error::SerdeError)).transpose()
}

/// The admin token, if the Secret has one.
pub fn token_of(secret: &Secret) -> Option<String> {
    text_of(secret, TOKEN_KEY)
}

fn text_of(secret: &Secret, key: &str) -> Option<String> {
    let bytes = &secret.data.as_ref()?.get(key)?.0;
    let text = std::str::from_utf8(bytes).ok()?.trim();
    (!text.is_empty()).then(|| text.to_string())
}

fn set_view(set: &StatefulSet) -> SetView {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let observed = set.status.as_ref().and_then(|status| status.observed_generation);
    let knows_revision = set.status.as_ref().is_some_and(|status| status.update_revision.is_some());
    SetView {
        uid: set.uid().unwrap_or_default(),
        resource_version: set.resource_version().unwrap_or_default(),
        replicas: u32::try_from(replicas).unwrap_or(0),
        settled: observed == set.metadata.generation && knows_revision,
        volume_size: build::volume_size(set).unwrap_or_default().to_string(),
        revision: set.status.as_ref().and_then(|status| status.update_revision.clone()),
    }
}

fn pod_view(pod: &Pod, newest_revision: Option<&str>, node: Option<NodeView>) -> PodView {
    let labels = pod.labels();
    let revision = labels.get("controller-revision-hash").map(String::as_str);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    PodView {
        uid: pod.uid().unwrap_or_default(),
        state: PodState {
            ready: is_ready(pod),
            runs: runs(pod),
            // The update revision alone tells: under OnDelete the current one is never promoted.
            outdated: newest_revision.is_some() && revision != newest_revision,
            terminating,
            serving: labels.get(SERVING_LABEL).is_some_and(|value| value == "true"),
            leaves_service: false,
            node_lost: !is_ready(pod) && node.as_ref().is_some_and(|node| node.gone),
            cordoned: node.as_ref().is_some_and(|node| node.cordoned),
        },
        terminating,
        address: ip.map(|ip| match ip.contains(':') {
            true => format!("[{ip}]:{CLIENT_PORT}"),
            false => format!("{ip}:{CLIENT_PORT}"),
        }),
        trouble: if is_ready(pod) { None } else { trouble::of_pod(pod, build::CONTAINER) },
        node,
    }
}

fn volume_view(cluster: &QuorateCluster, claim: &PersistentVolumeClaim) -> VolumeView {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let size = resources.and_then(|resources| resources.requests.as_ref()?.get("storage").map(|size| size.0.clone()));
    let marked =
        claim.annotations().get(OWNER_ANNOTATION).is_some_and(|uid| Some(uid) == cluster.metadata.uid.as_ref());
    // A set makes claims after its resource was made; an older one is of an earlier life.
    let younger =
        claim.creation_timestamp().is_some_and(|made| cluster.creation_timestamp().is_some_and(|of| made >= of));
    VolumeView {
        uid: claim.uid().unwrap_or_default(),
        state: VolumeState {
            terminating: claim.metadata.deletion_timestamp.is_some(),
            ours: marked || younger,
            stranded: false,
        },
        resize_trouble: size.as_deref().and_then(|size| trouble::of_growth(claim, size)),
        size: size.unwrap_or_default(),
    }
}

/// The volume that it was bound to is not there any more.
fn has_lost_its_volume(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Lost"))
}

/// Its container runs, by the last word of its kubelet.
fn runs(pod: &Pod) -> bool {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    containers.is_some_and(|all| all.iter().any(|c| c.state.as_ref().is_some_and(|state| state.running.is_some())))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;

    #[test]
    fn a_set_of_somebody_else_is_no_set_of_this_cluster() {
        let cluster: QuorateCluster = serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster",
            "metadata": { "name": "db", "namespace": "default", "uid": "u-1" }, "spec": {},
        }))
        .expect("the spec is well-formed");
        for (owner, ours) in [("u-1", true), ("u-2", false)] {
            let owners = json!([{ "apiVersion": "v1", "kind": "K", "name": "n", "uid": owner }]);
            let set = json!({ "metadata": { "name": "db", "ownerReferences": owners } });
            let set = Some(serde_json::from_value(set).expect("a set"));
            let mut view = KubernetesView::default();
            let taken_in = take_in_set(&cluster, set, &Names::of(&cluster), &mut view).expect("JSON");
            assert_eq!((taken_in.is_some(), view.foreign.len()), (ours, usize::from(!ours)), "{owner}");
        }
    }

    fn claim(created: &str, owner: Option<&str>) -> VolumeView {
        let cluster: QuorateCluster = serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster",
            "metadata": { "name": "db", "uid": "u-2", "creationTimestamp": "2026-01-02T00:00:00Z" },
            "spec": {},
        }))
        .expect("the spec is well-formed");
        let annotations = owner.map(|uid| json!({ OWNER_ANNOTATION: uid })).unwrap_or(Value::Null);
        let metadata = json!({ "name": "data-db-0", "creationTimestamp": created, "annotations": annotations });
        volume_view(&cluster, &serde_json::from_value(json!({ "metadata": metadata })).expect("a claim"))
    }

    /// Whether the slices of the client Service alone are asked for.
    fn of_service(request: &Request<Body>) -> bool {
        request.uri().query().is_some_and(|query| query.contains("labelSelector=kubernetes.io%2Fservice-name%3Ddb"))
    }

    /// An API server on which `db` has these pods, claims and endpoints, and nothing else.
    fn api_server(pod: Value, claim: Value, slices: Value) -> Client {
        let service = service_fn(move |request: Request<Body>| {
            let lists = [
                ("pods", "Pod", json!([pod])),
                ("persistentvolumeclaims", "PersistentVolumeClaim", json!([claim])),
                ("endpointslices", "EndpointSlice", if of_service(&request) { slices.clone() } else { json!([]) }),
            ];
            async move {
                let asked = request.uri().path().rsplit('/').next().filter(|_| request.uri().query().is_some());
                let found = lists.into_iter().find(|(plural, _, _)| Some(*plural) == asked);
                let (code, answer) = match found {
                    Some((_, kind, items)) => {
                        let kind = format!("{kind}List");
                        (200, json!({ "apiVersion": "v1", "kind": kind, "metadata": {}, "items": items }))
                    }
                    None => {
                        let status = json!({
                            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                            "code": 404, "reason": "NotFound", "message": "",
                        });
                        (404, status)
                    }
                };
                let answer = Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
                Ok::<_, std::convert::Infallible>(answer.expect("a response"))
            }
        });
        Client::new(service, "default")
    }

    async fn read_from(client: Client) -> KubernetesView {
        let cluster: QuorateCluster = serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster",
            "metadata": { "name": "db", "namespace": "default" }, "spec": {},
        }))
        .expect("the spec is well-formed");
        read(&client, &cluster).await.expect("read")
    }

    #[tokio::test]
    async fn a_volume_that_was_deleted_under_its_claim_is_lost_once_its_pod_does_not_run() {
        let stranded = async |state: Value, phase: &str| {
            let labels = json!({ "controller-revision-hash": "db-1" });
            let container = json!({
                "name": "quorate", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state,
            });
            let pod = json!({
                "metadata": { "name": "db-1", "labels": labels },
                "spec": { "containers": [] }, "status": { "containerStatuses": [container] },
            });
            let claim = json!({
                "metadata": { "name": "data-db-1" }, "spec": { "volumeName": "pv" }, "status": { "phase": phase },
            });
            let view = read_from(api_server(pod, claim, json!([]))).await;
            view.volumes[&Ordinal(1)].state.stranded
        };
        let waiting = json!({ "waiting": { "reason": "ContainerCreating" } });
        assert!(stranded(waiting.clone(), "Lost").await);
        assert!(!stranded(waiting, "Bound").await);
        assert!(!stranded(json!({ "running": {} }), "Lost").await, "it still has it");
    }

    #[tokio::test]
    async fn a_pod_leaves_the_service_until_no_endpoint_is_its_own() {
        let leaves = async |serving: &str, uid: &str| {
            let pod = json!({ "metadata": { "name": "db-3", "uid": "u-3", "labels": { SERVING_LABEL: serving } } });
            let endpoint = |uid: &str| json!({ "addresses": ["10.0.0.3"], "targetRef": { "uid": uid } });
            let slice = |endpoints: Value| json!({ "addressType": "IPv4", "metadata": {}, "endpoints": endpoints });
            let slices = json!([slice(json!([endpoint("u-0")])), slice(json!([endpoint(uid)]))]);
            read_from(api_server(pod, json!({ "metadata": {} }), slices)).await.pods[&Ordinal(3)].state.leaves_service
        };
        assert!(leaves("false", "u-3").await);
        assert!(!leaves("false", "u-2").await, "of a pod that had its name before");
        assert!(!leaves("true", "u-3").await, "it is to stay there");
    }

    #[test]
    fn a_volume_of_an_earlier_life_is_ours_only_when_it_was_marked() {
        assert!(claim("2026-01-02T00:00:01Z", None).state.ours);
        assert!(!claim("2026-01-01T23:59:59Z", None).state.ours);
        assert!(!claim("2026-01-01T23:59:59Z", Some("u-1")).state.ours, "of the resource before this one");
        assert!(claim("2026-01-01T23:59:59Z", Some("u-2")).state.ours);
    }

    #[test]
    fn a_pod_that_is_cut_off_runs_and_one_without_its_image_does_not() {
        let pod = |state: Value| {
            let status = json!({ "containerStatuses": [{
                "name": "quorate", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state,
            }] });
            let pod = json!({ "metadata": { "name": "db-0" }, "status": status });
            pod_view(&serde_json::from_value(pod).expect("a pod"), None, None).state
        };
        assert!(pod(json!({ "running": {} })).runs);
        assert!(!pod(json!({ "waiting": { "reason": "ImagePullBackOff" } })).runs);
    }
}
