//! Reads of the API server.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, Secret};
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use crate::build::{self, Built};
use crate::crd::QuorateCluster;
use crate::names::{CLIENT_PORT, Names, RETIRED_KEY, SERVING_LABEL, TOKEN_KEY};
use crate::plan::{ClusterId, JobState, Ordinal, PodState, VolumeState};

/// Taint by which a human says that a node is gone for good.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

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
    pub recovery_job: JobState,
    /// Everything that is built, by kind and name, as it is now.
    pub objects: BTreeMap<(String, String), Value>,
}

/// The StatefulSet.
#[derive(Debug, Clone)]
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
}

impl KubernetesView {
    /// What is there in place of `object`.
    pub fn live(&self, object: &Built) -> Option<&Value> {
        self.objects.get(&(object.resource.kind.clone(), object.name.clone()))
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
        token: secret.as_ref().and_then(|secret| text_of(secret, TOKEN_KEY)),
        retired: secret.as_ref().and_then(|secret| text_of(secret, RETIRED_KEY)).unwrap_or_default(),
        ..KubernetesView::default()
    };
    if let Some(recovery) = super::wish::latched(cluster).recovery {
        view.recovery_job = recovery_job(client, &names, recovery.cluster_id).await?;
    }
    for object in build::companions(cluster, 0, 0) {
        if let Some(live) = get(client, &names, &object).await? {
            view.objects.insert((object.resource.kind, object.name), live);
        }
    }
    let newest = set.as_ref().and_then(|set| set.status.as_ref()?.update_revision.clone());
    for pod in &pods.items {
        let Some(ordinal) = names.ordinal_of_pod(&pod.name_any()) else { continue };
        let node_lost = !is_ready(pod) && is_node_lost(client, pod).await?;
        view.pods.insert(ordinal, pod_view(pod, newest.as_deref(), node_lost));
    }
    for claim in &claims.items {
        let Some(ordinal) = names.ordinal_of_claim(&claim.name_any()) else { continue };
        view.volumes.insert(ordinal, volume_view(claim));
    }
    if let Some(set) = set {
        view.set = Some(set_view(&set));
        let body = serde_json::to_value(&set).map_err(kube::Error::SerdeError)?;
        view.objects.insert(("StatefulSet".to_string(), names.cluster), body);
    }
    Ok(view)
}

fn api<K>(client: &Client, names: &Names) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), &names.namespace)
}

async fn get(client: &Client, names: &Names, object: &Built) -> Result<Option<Value>, kube::Error> {
    // Objects of an API that need not be installed are looked at only when they are wanted.
    if object.body.is_none() && object.resource.group.ends_with("coreos.com") {
        return Ok(None);
    }
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), &names.namespace, &object.resource);
    let live = api.get_opt(&object.name).await?;
    live.map(|live| serde_json::to_value(live).map_err(kube::Error::SerdeError)).transpose()
}

/// A pod that has not ended counts more than what the job says: it may be one of a job that was deleted.
async fn recovery_job(client: &Client, names: &Names, new: ClusterId) -> Result<JobState, kube::Error> {
    let selected = ListParams::default().labels(&names.recovery_selector_text());
    let pods = api::<Pod>(client, names).list(&selected).await?;
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    let ended = pods.items.iter().all(|pod| ["Succeeded", "Failed"].contains(&phase(pod).as_str()));
    let Some(job) = api::<Job>(client, names).get_opt(&names.recovery_job(new)).await? else {
        return Ok(if ended { JobState::Absent } else { JobState::Running });
    };
    let conditions = job.status.and_then(|status| status.conditions).unwrap_or_default();
    let holds = |kind: &str| conditions.iter().any(|c| c.type_ == kind && c.status == "True");
    Ok(match (ended, holds("Complete"), holds("Failed")) {
        (true, true, _) => JobState::Succeeded,
        (true, _, true) => JobState::Failed,
        _ => JobState::Running,
    })
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
    }
}

fn pod_view(pod: &Pod, newest_revision: Option<&str>, node_lost: bool) -> PodView {
    let labels = pod.labels();
    let revision = labels.get("controller-revision-hash").map(String::as_str);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    PodView {
        uid: pod.uid().unwrap_or_default(),
        state: PodState {
            ready: is_ready(pod),
            // The update revision alone tells: under OnDelete the current one is never promoted.
            outdated: newest_revision.is_some() && revision != newest_revision,
            terminating,
            serving: labels.get(SERVING_LABEL).is_some_and(|value| value == "true"),
            node_lost,
        },
        terminating,
        address: ip.map(|ip| match ip.contains(':') {
            true => format!("[{ip}]:{CLIENT_PORT}"),
            false => format!("{ip}:{CLIENT_PORT}"),
        }),
    }
}

fn volume_view(claim: &PersistentVolumeClaim) -> VolumeView {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let size = resources.and_then(|resources| resources.requests.as_ref()?.get("storage").map(|size| size.0.clone()));
    VolumeView {
        uid: claim.uid().unwrap_or_default(),
        state: VolumeState { terminating: claim.metadata.deletion_timestamp.is_some() },
        size: size.unwrap_or_default(),
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// Its Node object is deleted, or tainted as out of service. An operator of one namespace may not look at nodes: it then never
/// gives a volume up.
async fn is_node_lost(client: &Client, pod: &Pod) -> Result<bool, kube::Error> {
    let Some(name) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) else { return Ok(false) };
    match Api::<Node>::all(client.clone()).get_opt(name).await {
        Ok(None) => Ok(true),
        Ok(Some(node)) => {
            let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
            Ok(taints.iter().any(|taint| taint.key == OUT_OF_SERVICE))
        }
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(false),
        Err(error) => Err(error),
    }
}
