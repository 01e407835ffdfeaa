//! Names, labels and addresses of the objects of a cluster: the one place that knows how they are made from its name.
//!
//! Pure. Selector labels are immutable in a StatefulSet, so they are the fewest that tell one cluster's pods from another's.

use std::collections::BTreeMap;

use crate::crd::QuorateCluster;
use crate::plan::{ClusterId, Ordinal};

/// Port of clients and of the admin API.
pub const CLIENT_PORT: u16 = 2379;
/// Port of the other nodes.
pub const PEER_PORT: u16 = 2380;
/// Port of metrics and probes.
pub const METRICS_PORT: u16 = 2381;
/// Name of the volume claim template.
pub const VOLUME: &str = "data";
/// Label that the client Service selects; see [`crate::plan::Step::SetServing`].
pub const SERVING_LABEL: &str = "quorate.io/serving";
/// Finalizer of the resource.
pub const FINALIZER: &str = "quorate.io/cluster";
/// Key of the admin token in its Secret, and name of its file.
pub const TOKEN_KEY: &str = "token";
/// Key, in the same Secret, of the clusters that were retired by a recovery, and name of its file.
pub const RETIRED_KEY: &str = "retired";
/// Annotation by which a human asks for a recovery: `CLUSTER-ID/best` or `CLUSTER-ID/POD`.
pub const RECOVER_ANNOTATION: &str = "quorate.io/recover";
/// Annotation of a volume claim that is older than the resource: uid of the resource whose cluster's data was seen on it.
pub const OWNER_ANNOTATION: &str = "quorate.io/owner";
/// Annotation by which a human lets a supervised roll-out go ahead: a revision of the StatefulSet, or a version.
pub const ROLL_ANNOTATION: &str = "quorate.io/roll";
/// Field manager and reporter of everything this program writes.
pub const MANAGER: &str = "quorate-operator";

/// Names made from one cluster's name and namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Name of the resource; also of its StatefulSet, its client Service and its disruption budget.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
}

impl Names {
    /// Of a resource that came from the API server, and so has a name and a namespace.
    pub fn of(cluster: &QuorateCluster) -> Self {
        Names {
            cluster: cluster.metadata.name.clone().unwrap_or_default(),
            namespace: cluster.metadata.namespace.clone().unwrap_or_default(),
        }
    }

    /// Service that gives each pod its DNS name.
    pub fn peers(&self) -> String {
        format!("{}-peers", self.cluster)
    }

    /// Secret with the admin token.
    pub fn admin_secret(&self) -> String {
        format!("{}-admin", self.cluster)
    }

    /// Pod of this position.
    pub fn pod(&self, ordinal: Ordinal) -> String {
        format!("{}-{}", self.cluster, ordinal.0)
    }

    /// Volume claim of this position.
    pub fn claim(&self, ordinal: Ordinal) -> String {
        format!("{VOLUME}-{}", self.pod(ordinal))
    }

    /// Job that recovers a survivor's data as the cluster of this id. Each recovery draws its own id, and so has its own job.
    pub fn recovery_job(&self, new: ClusterId) -> String {
        let id = format!("{:032x}", new.0);
        format!("{}-recover-{}", self.cluster, &id[..8])
    }

    /// What selects the pods of those jobs; nothing that selects the members' pods finds them.
    pub fn recovery_labels(&self) -> BTreeMap<String, String> {
        [("app.kubernetes.io/name", "quorate-recover"), ("app.kubernetes.io/instance", &self.cluster)].map(owned).into()
    }

    /// DNS name that follows `pod` wherever it runs.
    pub fn host(&self, pod: &str) -> String {
        format!("{pod}.{}.{}.svc", self.peers(), self.namespace)
    }

    /// Position of a pod, or of the member that is named like it.
    pub fn ordinal_of_pod(&self, name: &str) -> Option<Ordinal> {
        let digits = name.strip_prefix(&self.cluster)?.strip_prefix('-')?;
        let ordinal: u32 = digits.parse().ok()?;
        (ordinal.to_string() == digits).then_some(Ordinal(ordinal))
    }

    /// Position of a volume claim.
    pub fn ordinal_of_claim(&self, name: &str) -> Option<Ordinal> {
        self.ordinal_of_pod(name.strip_prefix(VOLUME)?.strip_prefix('-')?)
    }

    /// What selects the pods of this cluster and no others.
    pub fn selector(&self) -> BTreeMap<String, String> {
        [("app.kubernetes.io/name", "quorate"), ("app.kubernetes.io/instance", &self.cluster)].map(owned).into()
    }

    /// The selector as text.
    pub fn selector_text(&self) -> String {
        text(&self.selector())
    }

    /// The selector of the recovery's pods as text.
    pub fn recovery_selector_text(&self) -> String {
        text(&self.recovery_labels())
    }

    /// Labels of every object of this cluster.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let more = [
            ("app.kubernetes.io/component", "server"),
            ("app.kubernetes.io/part-of", "quorate"),
            ("app.kubernetes.io/managed-by", MANAGER),
            ("quorate.io/cluster", &self.cluster),
        ];
        self.selector().into_iter().chain(more.map(owned)).collect()
    }
}

fn text(selector: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_string(), value.to_string())
}

#[cfg(test)]
mod tests {
    use super::{Names, Ordinal};

    fn names() -> Names {
        Names { cluster: "example".to_string(), namespace: "default".to_string() }
    }

    #[test]
    fn names_lead_back_to_the_position() {
        assert_eq!(names().ordinal_of_pod(&names().pod(Ordinal(4))), Some(Ordinal(4)));
        assert_eq!(names().ordinal_of_claim(&names().claim(Ordinal(10))), Some(Ordinal(10)));
    }

    #[test]
    fn names_of_other_clusters_have_no_position() {
        for name in ["example", "example-", "example-x", "example-01", "example-2-0", "examples-0", "other-0"] {
            assert_eq!(names().ordinal_of_pod(name), None, "{name}");
        }
    }
}
