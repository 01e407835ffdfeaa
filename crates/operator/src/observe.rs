//! What a reconcile sees: live reads of Kubernetes and of every node, turned into [`Observed`].
//!
//! Never writes. Never reads a cache: a decision about volumes and votes must not rest on what was true a second ago. What the
//! plan does not need, but acting does (uids, addresses, raw answers), is kept beside it in [`Sighting`].

mod ask;
mod cluster;
mod kubernetes;

use std::collections::BTreeMap;

use quorate_proto::quorate::v1::StatusResponse;

use crate::admin::{Admin, Target};
use crate::build::Defaults;
use crate::crd::{QuorateCluster, UpdateStrategy, VolumeRetention};
use crate::names::Names;
use crate::plan::{ClusterId, Latched, Observed, Ordinal, SetState, Wanted};
use crate::quantity::is_more;

pub use cluster::{id_of_bytes, report};
pub use kubernetes::{KubernetesView, PodView, SetView, VolumeView};

/// Annotation by which a human lets a supervised roll-out go ahead.
pub const ROLL_ANNOTATION: &str = "quorate.io/roll";

/// One observation.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// The resource as it is now.
    pub cluster: QuorateCluster,
    /// What the plan is made from.
    pub observed: Observed,
    /// What Kubernetes says, beyond what the plan needs.
    pub kubernetes: KubernetesView,
    /// What the nodes answered.
    pub answers: BTreeMap<Ordinal, StatusResponse>,
}

impl Sighting {
    /// How to reach the node at `ordinal`, if it can be reached at all.
    pub fn target(&self, ordinal: Ordinal) -> Option<Target> {
        let token = self.kubernetes.token.clone()?;
        let address = self.kubernetes.pods.get(&ordinal)?.address.clone()?;
        Some(Target { address, token })
    }
}

/// Reads everything once.
///
/// # Errors
/// What the API server said. A node that does not answer is an observation, not an error.
pub async fn observe<A: Admin>(
    client: &kube::Client,
    admin: &A,
    defaults: &Defaults,
    cluster: QuorateCluster,
) -> Result<Sighting, kube::Error> {
    let kubernetes = kubernetes::read(client, &cluster).await?;
    let answers = ask::ask_nodes(admin, &kubernetes).await;
    Ok(combine(defaults, cluster, kubernetes, answers))
}

fn combine(
    defaults: &Defaults,
    cluster: QuorateCluster,
    kubernetes: KubernetesView,
    answers: BTreeMap<Ordinal, StatusResponse>,
) -> Sighting {
    let names = Names::of(&cluster);
    let latched = latched(&cluster);
    let observed = Observed {
        wanted: wanted(&cluster),
        latched,
        set: kubernetes.set.as_ref().map(|set| SetState {
            replicas: set.replicas,
            settled: set.settled,
            outdated: outdated(defaults, &cluster, &kubernetes),
        }),
        pods: kubernetes.pods.iter().map(|(ordinal, pod)| (*ordinal, pod.state.clone())).collect(),
        volumes: kubernetes.volumes.iter().map(|(ordinal, volume)| (*ordinal, volume.state.clone())).collect(),
        nodes: answers.iter().filter_map(|(ordinal, answer)| Some((*ordinal, report(answer)?))).collect(),
        cluster: latched.cluster_id.and_then(|id| cluster::view(&names, id, &answers)),
    };
    Sighting { cluster, observed, kubernetes, answers }
}

/// Whether an object is not as the resource says, with the number of pods left as it is, or a volume is smaller.
fn outdated(defaults: &Defaults, cluster: &QuorateCluster, kubernetes: &KubernetesView) -> bool {
    let Some(set) = &kubernetes.set else { return false };
    let mut built = crate::build::companions(cluster, set.replicas);
    built.push(crate::build::stateful_set(cluster, defaults, set.replicas, &set.volume_size));
    let size = &cluster.spec.storage.size;
    let sizes = kubernetes.volumes.values().map(|volume| &volume.size).chain([&set.volume_size]);
    built.iter().any(|object| !object.matches(kubernetes.live(object)))
        || sizes.into_iter().any(|live| is_more(size, live))
}

fn wanted(cluster: &QuorateCluster) -> Wanted {
    let spec = &cluster.spec;
    let approved = || {
        let annotations = cluster.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(ROLL_ANNOTATION)).is_some_and(|version| *version == spec.version)
    };
    Wanted {
        // The API server admits 3 and 5 only; a resource that came past it is held at the smaller.
        replicas: u32::try_from(spec.replicas).unwrap_or(3).max(3),
        paused: spec.paused,
        deleted: cluster.metadata.deletion_timestamp.is_some(),
        delete_volumes: spec.volume_retention == VolumeRetention::Delete,
        roll_unsupervised: spec.update_strategy == UpdateStrategy::Unsupervised || approved(),
    }
}

fn latched(cluster: &QuorateCluster) -> Latched {
    let Some(status) = &cluster.status else { return Latched::default() };
    let id = status.cluster_id.as_ref().and_then(|text| u128::from_str_radix(text, 16).ok());
    Latched {
        cluster_id: id.map(ClusterId),
        target_replicas: status.target_replicas.and_then(|replicas| u32::try_from(replicas).ok()),
    }
}
