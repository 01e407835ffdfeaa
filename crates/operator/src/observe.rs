//! What a reconcile sees: live reads of Kubernetes and of every node, turned into [`Observed`].
//!
//! Never writes. Never reads a cache: a decision about volumes and votes must not rest on what was true a second ago. What the
//! plan does not need, but acting does (uids, addresses, raw answers), is kept beside it in [`Sighting`].

mod ask;
mod cluster;
mod kubernetes;
mod monitor;
mod nodes;
mod recovery_job;
mod trouble;
mod wish;

use std::collections::BTreeMap;

use quorate_proto::quorate::v1::StatusResponse;

use crate::admin::{Admin, Target};
use crate::build::{self, Built, Defaults};
use crate::crd::{ApprovedRoll, QuorateCluster};
use crate::names::Names;
use crate::plan::{ClusterView, Latched, Observed, Ordinal, SetState, Work};
use crate::quantity::is_more;

pub use cluster::{id_of_bytes, report};
pub use kubernetes::{KubernetesView, PodView, SetView, VolumeView, token_of};
pub use nodes::{NodeView, OUT_OF_SERVICE};
pub use recovery_job::{RecoveryJobView, read as recovery_job};

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
    /// The roll-out that a human let go ahead.
    pub approved_roll: Option<ApprovedRoll>,
    /// Pods that a drain may take away at once.
    pub spare: u32,
    /// What the API server refused at the last attempt. Not observed: remembered by this process.
    pub refused: Vec<Refused>,
    /// Where objects that the cluster needs are not as the resource says.
    pub differences: Vec<String>,
    /// Where the PodMonitor is not.
    pub monitor_difference: Option<String>,
    /// Those of all these that an apply did not end before.
    pub overridden: Vec<String>,
    /// Objects of others that have the names of the cluster's own.
    pub taken: Vec<String>,
}

/// A step that the API server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The reason of the work that it is part of.
    pub work: &'static str,
    /// The generation of the resource at that time: another one may be as the API server wants it.
    pub generation: Option<i64>,
    /// What it said, shortened.
    pub message: String,
}

impl Sighting {
    /// A cluster without trouble, none of whose nodes was asked.
    #[cfg(test)]
    pub(crate) fn untroubled(cluster: QuorateCluster, observed: Observed, kubernetes: KubernetesView) -> Sighting {
        Sighting {
            cluster,
            observed,
            kubernetes,
            answers: BTreeMap::new(),
            approved_roll: None,
            spare: 1,
            refused: Vec::new(),
            differences: Vec::new(),
            monitor_difference: None,
            overridden: Vec::new(),
            taken: Vec::new(),
        }
    }

    /// How to reach the node at `ordinal`, if it can be reached at all.
    pub fn target(&self, ordinal: Ordinal) -> Option<Target> {
        let token = self.kubernetes.token.clone()?;
        let address = self.kubernetes.pods.get(&ordinal)?.address.clone()?;
        Some(Target { address, token })
    }

    /// Everything that is not as the resource says.
    pub fn all_differences(&self) -> impl Iterator<Item = &String> + Clone {
        self.differences.iter().chain(&self.monitor_difference)
    }
}

/// What a process remembers of the looks before; it may forget all of it.
#[derive(Debug, Clone, Default)]
pub struct Remembered {
    /// How often in a row leadership was asked to move, and did not.
    pub transfers_tried: u32,
    /// For longer than elections take a quorum has answered, and none led.
    pub long_leaderless: bool,
    /// What the API server refused at the last attempt.
    pub refused: Vec<Refused>,
    /// Differences that were there before the last apply, and whether it is too soon for another one.
    pub applied: BTreeMap<String, bool>,
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
    remembered: Remembered,
) -> Result<Sighting, kube::Error> {
    let kubernetes = kubernetes::read(client, &cluster).await?;
    let answers = ask::ask_nodes(admin, &kubernetes).await;
    Ok(combine(defaults, cluster, kubernetes, answers, remembered))
}

fn combine(
    defaults: &Defaults,
    cluster: QuorateCluster,
    kubernetes: KubernetesView,
    answers: BTreeMap<Ordinal, StatusResponse>,
    remembered: Remembered,
) -> Sighting {
    let Remembered { transfers_tried, long_leaderless, refused, applied } = remembered;
    let names = Names::of(&cluster);
    let latched = wish::latched(&cluster);
    let view = latched.cluster_id.and_then(|id| cluster::view(&names, id, &answers));
    let spare = spare(&names, view.as_ref(), latched, &kubernetes);
    let objects = objects(defaults, &cluster, &kubernetes, spare);
    let monitor = build::pod_monitor(&cluster);
    let difference = |object: &Built| {
        object.difference(kubernetes.live(object)).filter(|_| kubernetes.set.is_some() && !kubernetes.is_taken(object))
    };
    let differences: Vec<String> = objects.iter().filter_map(difference).collect();
    let monitor_difference = difference(&monitor).filter(|_| kubernetes.monitors_served);
    let taken = objects.iter().chain([&monitor]).filter(|object| kubernetes.is_taken(object));
    let taken: Vec<String> = taken.map(Built::name_is_taken).collect();
    let is_refused = |work: Work| refused.iter().any(|refused| refused.work == work.reason());
    let is_left = |difference: &String| applied.get(difference).copied().unwrap_or(false);
    let of_all = differences.iter().chain(&monitor_difference);
    let overridden: Vec<String> =
        of_all.clone().filter(|difference| applied.contains_key(*difference)).cloned().collect();
    let set = kubernetes.set.as_ref().map(|set| SetState {
        replicas: set.replicas,
        settled: set.settled,
        outdated: lacks_secret(&cluster, &kubernetes) || differences.iter().any(|difference| !is_left(difference)),
        overridden: of_all.clone().any(is_left) || !taken.is_empty(),
        small: small(&cluster, &kubernetes),
        growth_refused: is_refused(Work::GrowingVolumes),
        monitor_outdated: monitor_difference.as_ref().is_some_and(|difference| !is_left(difference)),
        monitor_refused: is_refused(Work::UpdatingMonitor),
    });
    let newest = kubernetes.set.as_ref().and_then(|set| set.revision.as_deref());
    let newest = newest.filter(|_| set.as_ref().is_some_and(|set| set.settled && !set.outdated));
    let waits = newest.filter(|_| kubernetes.pods.values().any(|pod| pod.state.outdated));
    let approved_roll = wish::approved_roll(&cluster, waits, newest);
    let approved = approved_roll.as_ref().is_some_and(|approved| Some(approved.revision.as_str()) == newest);
    let observed = Observed {
        wanted: wish::wanted(&cluster, approved),
        latched,
        set,
        pods: kubernetes.pods.iter().map(|(ordinal, pod)| (*ordinal, pod.state.clone())).collect(),
        volumes: kubernetes.volumes.iter().map(|(ordinal, volume)| (*ordinal, volume.state.clone())).collect(),
        nodes: answers.iter().filter_map(|(ordinal, answer)| Some((*ordinal, report(answer)?))).collect(),
        cluster: view,
        quorum_may_run: latched.cluster_id.is_some_and(|id| {
            let known = cluster.status.as_ref();
            cluster::quorum_may_run(&names, id, &answers, &kubernetes.pods, known)
        }),
        long_leaderless,
        retired: wish::retired(&cluster),
        recovery_job: kubernetes.recovery_job.state,
        transfers_tried,
    };
    Sighting {
        cluster,
        observed,
        kubernetes,
        answers,
        approved_roll,
        spare,
        refused,
        differences,
        monitor_difference,
        overridden,
        taken,
    }
}

/// Pods that a drain may take away at once. While nobody tells of the members, as many as the budget lets go that is there: an election
/// is no reason to write it. Never more than the target could spare, nor fewer than one.
fn spare(names: &Names, view: Option<&ClusterView>, latched: Latched, kubernetes: &KubernetesView) -> u32 {
    let Some(target) = latched.target_replicas else { return 1 };
    if let Some(view) = view {
        return view.spare(target);
    }
    let budget = kubernetes.objects.get(&("PodDisruptionBudget".to_string(), names.cluster.clone()));
    let kept = budget.and_then(|budget| u32::try_from(budget["spec"]["minAvailable"].as_u64()?).ok());
    let live = kubernetes.set.as_ref().zip(kept).map_or(1, |(set, kept)| set.replicas.saturating_sub(kept));
    live.clamp(1, (target.saturating_sub(1) / 2).max(1))
}

/// What the cluster needs, with the number of pods left as it is.
fn objects(defaults: &Defaults, cluster: &QuorateCluster, kubernetes: &KubernetesView, spare: u32) -> Vec<Built> {
    let set = kubernetes.set.as_ref();
    let (replicas, size) = set.map_or((0, ""), |set| (set.replicas, set.volume_size.as_str()));
    let mut built = build::companions(cluster, replicas, spare);
    built.push(build::stateful_set(cluster, defaults, replicas, size));
    built
}

/// Without the admin token no node can be asked, and no new pod starts; without the retired clusters one could start on the data of one.
fn lacks_secret(cluster: &QuorateCluster, kubernetes: &KubernetesView) -> bool {
    kubernetes.token.is_none() || kubernetes.retired != build::retired_text(cluster)
}

fn small(cluster: &QuorateCluster, kubernetes: &KubernetesView) -> bool {
    let Some(set) = &kubernetes.set else { return false };
    let live = kubernetes.volumes.values().filter(|volume| !volume.state.terminating).map(|volume| &volume.size);
    live.chain([&set.volume_size]).any(|live| is_more(&cluster.spec.storage.size, live))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::VolumeState;

    /// A cluster of three whose objects are as they should be, and what Kubernetes says of it.
    fn as_built() -> (QuorateCluster, Defaults, KubernetesView) {
        let cluster: QuorateCluster = serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster",
            "metadata": { "name": "db", "namespace": "default", "uid": "u-1" },
            "spec": {},
        }))
        .expect("the spec is well-formed");
        let defaults = Defaults::new("quorate", None);
        let mut built = build::companions(&cluster, 3, 1);
        built.push(build::stateful_set(&cluster, &defaults, 3, "8Gi"));
        let live = |object: build::Built| object.body.map(|body| ((object.resource.kind, object.name), body));
        let kubernetes = KubernetesView {
            set: Some(SetView { replicas: 3, volume_size: "8Gi".to_string(), settled: true, ..SetView::default() }),
            token: Some("secret".to_string()),
            objects: built.into_iter().filter_map(live).collect(),
            ..KubernetesView::default()
        };
        (cluster, defaults, kubernetes)
    }

    #[test]
    fn an_election_is_no_reason_to_write_the_disruption_budget() {
        let (mut cluster, defaults, mut kubernetes) = as_built();
        let status = json!({ "targetReplicas": 5, "clusterID": "000000000000000000000000000000aa" });
        cluster.status = Some(serde_json::from_value(status).expect("a status"));
        let mut built = build::companions(&cluster, 5, 2);
        built.push(build::stateful_set(&cluster, &defaults, 5, "8Gi"));
        for object in built {
            kubernetes.objects.extend(object.body.map(|body| ((object.resource.kind, object.name), body)));
        }
        kubernetes.set.as_mut().expect("a set").replicas = 5;
        let seen = combine(&defaults, cluster.clone(), kubernetes.clone(), BTreeMap::new(), Remembered::default());
        assert!(seen.observed.cluster.is_none());
        assert_eq!((seen.spare, seen.observed.set.expect("a set").outdated), (2, false));
        // Somebody else's number is not kept.
        let key = ("PodDisruptionBudget".to_string(), "db".to_string());
        kubernetes.objects.get_mut(&key).expect("a budget")["spec"]["minAvailable"] = json!(0);
        let seen = combine(&defaults, cluster, kubernetes, BTreeMap::new(), Remembered::default());
        assert_eq!((seen.spare, seen.observed.set.expect("a set").outdated), (2, true));
    }

    #[test]
    fn an_apply_that_ended_nothing_is_not_made_again_at_once() {
        let (cluster, defaults, mut kubernetes) = as_built();
        let key = ("StatefulSet".to_string(), "db".to_string());
        kubernetes.objects.get_mut(&key).expect("a set")["spec"]["serviceName"] = json!("theirs");
        let look = |applied: &[(&str, bool)]| {
            let applied = applied.iter().map(|(difference, too_soon)| (difference.to_string(), *too_soon)).collect();
            let remembered = Remembered { applied, ..Remembered::default() };
            let seen = combine(&defaults, cluster.clone(), kubernetes.clone(), BTreeMap::new(), remembered);
            let set = seen.observed.set.expect("a set");
            (set.outdated, set.overridden, seen.overridden)
        };
        let difference = "StatefulSet db: spec.serviceName should be \"db-peers\"";
        assert_eq!(look(&[]), (true, false, vec![]));
        assert_eq!(look(&[(difference, true)]), (false, true, vec![difference.to_string()]));
        assert_eq!(look(&[(difference, false)]), (true, false, vec![difference.to_string()]));
        assert_eq!(look(&[("Service db: spec.x should be 1", true)]), (true, false, vec![]), "it differs elsewhere");
    }

    #[test]
    fn a_size_below_that_of_the_volumes_changes_nothing() {
        let (mut cluster, defaults, mut kubernetes) = as_built();
        let (uid, state, size) = ("volume-0".to_string(), VolumeState::default(), "8Gi".to_string());
        kubernetes.volumes.insert(Ordinal(0), VolumeView { uid, state, size, resize_trouble: None });
        let look = |cluster: &QuorateCluster| {
            let seen = combine(&defaults, cluster.clone(), kubernetes.clone(), BTreeMap::new(), Remembered::default());
            let set = seen.observed.set.expect("a set");
            (set.small, set.outdated)
        };
        cluster.spec.storage.size = "80Gi".to_string();
        assert_eq!(look(&cluster), (true, false));
        for back in ["8Gi", "4Gi"] {
            cluster.spec.storage.size = back.to_string();
            assert_eq!(look(&cluster), (false, false), "{back}");
        }
    }

    #[test]
    fn an_object_of_somebody_else_is_none_of_ours() {
        let (mut cluster, defaults, mut kubernetes) = as_built();
        let key = ("PodDisruptionBudget".to_string(), "db".to_string());
        kubernetes.objects.remove(&key);
        kubernetes.foreign.insert(key);
        let look = |cluster: &QuorateCluster| {
            let seen = combine(&defaults, cluster.clone(), kubernetes.clone(), BTreeMap::new(), Remembered::default());
            let set = seen.observed.set.expect("a set");
            (set.outdated, set.overridden, seen.taken.len())
        };
        assert_eq!(look(&cluster), (false, true, 1), "nothing is applied over it, and the rest goes on");
        cluster.spec.pod_disruption_budget.enabled = false;
        assert_eq!(look(&cluster), (false, false, 0), "ours is to be absent, and is");
    }

    #[test]
    fn a_missing_admin_token_is_made_again() {
        let (cluster, defaults, mut kubernetes) = as_built();
        let outdated = |kubernetes: &KubernetesView| {
            let seen = combine(&defaults, cluster.clone(), kubernetes.clone(), BTreeMap::new(), Remembered::default());
            seen.observed.set.expect("a set").outdated
        };
        assert!(!outdated(&kubernetes));
        kubernetes.token = None;
        assert!(outdated(&kubernetes));
    }
}
