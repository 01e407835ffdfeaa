//! What a user asks for.
//!
//! Every setting is typed: a free map of server flags would let a user overrule what the operator must own. Defaults are
//! in the schema, so that the API server fills them in and `kubectl get -o yaml` shows what is in force.

// The derive repeats each type in an inner module, where its `pub` reaches nobody.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::QuorateClusterStatus;

/// What a map of labels must keep to, and what is said otherwise.
const OPERATORS_LABELS: (&str, &str) = (
    "self.all(key, !key.startsWith('app.kubernetes.io/') && !key.startsWith('quorate.io/'))",
    "labels under app.kubernetes.io/ and quorate.io/ belong to the operator",
);

/// A Quorate cluster: a replicated key-value store with the etcd v3 API.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "quorate.io",
    version = "v1alpha1",
    kind = "QuorateCluster",
    namespaced,
    doc = "A Quorate cluster: a replicated key-value store with the etcd v3 API.",
    status = "QuorateClusterStatus",
    shortname = "qc",
    category = "all",
    derive = "PartialEq",
    selectable = ".spec.version",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Available", type_ = "string", json_path = ".status.conditions[?(@.type=='Available')].status"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.currentVersion"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type=='Progressing')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].message",
        priority = "1"
    ),
    validation = ("self.metadata.name.size() <= 40", "the name may have at most 40 characters: pod and volume names are made from it"),
    validation = ("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')", "the name must be letters, digits and dashes, a letter first: it is also the name of a Service")
)]
#[serde(rename_all = "camelCase")]
pub struct QuorateClusterSpec {
    /// Number of voting members: 3 or 5. Changing it is the whole of a resize: one joint-consensus change, no restart.
    #[serde(default = "default_replicas")]
    #[x_kube(validation = ("self in [3, 5]", "replicas must be 3 or 5: other sizes tolerate no more failures, or slow every write"))]
    pub replicas: i32,
    /// Version to run; also the tag of the default image.
    #[serde(default = "default_version")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = ("self.matches('^[A-Za-z0-9_][A-Za-z0-9_.-]*$')", "version must be the tag of an image: letters, digits, underscores, dots and dashes"))]
    pub version: String,
    /// Image to run in place of the default one of this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// When the kubelet pulls the image.
    #[serde(default)]
    pub image_pull_policy: ImagePullPolicy,
    /// Secrets for pulling the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// The volume of each member.
    #[serde(default)]
    pub storage: Storage,
    /// What happens to the volumes when the cluster is deleted. Volumes of members that a resize removed are always
    /// deleted, once the smaller configuration is committed.
    #[serde(default)]
    pub volume_retention: VolumeRetention,
    /// Requests and limits of each member's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Affinity of the pods. By default members are spread over nodes where that is possible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Topology spread constraints of the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Tolerations of the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// Labels a node must have to run a member.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Priority class of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Labels and annotations for every object made for this cluster.
    #[serde(default)]
    pub additional_metadata: AdditionalMetadata,
    /// Stops every action of the operator on this cluster; the cluster itself runs on.
    #[serde(default)]
    pub paused: bool,
    /// How a new version or setting reaches the pods.
    #[serde(default)]
    pub update_strategy: UpdateStrategy,
    /// Seconds without progress after which a change is reported as stalled.
    #[serde(default = "default_progress_deadline_seconds")]
    #[schemars(range(min = 30, max = 86_400))]
    pub progress_deadline_seconds: i32,
    /// Timing of elections.
    #[serde(default)]
    pub raft: RaftTiming,
    /// When the log is cut.
    #[serde(default)]
    pub snapshots: Snapshots,
    /// How old revisions are forgotten.
    #[serde(default)]
    pub auto_compaction: AutoCompaction,
    /// Prometheus objects.
    #[serde(default)]
    pub monitoring: Monitoring,
    /// Protection against voluntary disruption.
    #[serde(default)]
    pub pod_disruption_budget: PodDisruptionBudget,
}

/// When the kubelet pulls an image.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImagePullPolicy {
    /// At each start.
    Always,
    /// When the node does not have it.
    #[default]
    IfNotPresent,
    /// Never.
    Never,
}

/// The volume of each member.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(oldSelf.storageClassName) && !has(self.storageClassName) || has(oldSelf.storageClassName) && has(self.storageClassName) && self.storageClassName == oldSelf.storageClassName",
    "storageClassName cannot be changed: a volume keeps the class it was made with"
))]
#[x_kube(validation = (
    "!has(self.quota) || isQuantity(self.quota) && isQuantity(self.size) && quantity(self.quota).compareTo(quantity(self.size)) <= 0",
    "quota must not be more than size: the volume would be full before"
))]
pub struct Storage {
    /// Size of each volume; they grow with it. A smaller one leaves the volumes as they are, and takes a growth back that was refused.
    #[serde(default = "default_size")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = ("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))", "size must be a quantity above zero, such as 10Gi"))]
    pub size: String,
    /// Live bytes above which writes are refused; the nodes' default (2Gi) if absent. The files are larger than what is live in them, so
    /// leave room on the volume. Another quota restarts the pods, one at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = ("self.matches('^[0-9]+([.][0-9]+)?(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$') && quantity(self).isGreaterThan(quantity('0'))", "quota must be a quantity above zero, such as 4Gi"))]
    pub quota: Option<String>,
    /// Class of the volumes; the cluster's default one if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

impl Default for Storage {
    fn default() -> Self {
        Storage { size: default_size(), quota: None, storage_class_name: None }
    }
}

/// What happens to the volumes of a deleted cluster.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VolumeRetention {
    /// They stay, and a cluster of the same name takes them up again.
    #[default]
    Retain,
    /// They go with the cluster.
    Delete,
}

/// Labels and annotations for the objects of a cluster.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AdditionalMetadata {
    /// Labels; those of Kubernetes and of the operator cannot be set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = OPERATORS_LABELS)]
    pub labels: BTreeMap<String, String>,
    /// Annotations; those of the operator cannot be set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = ("self.all(key, !key.startsWith('quorate.io/'))", "annotations under quorate.io/ belong to the operator"))]
    pub annotations: BTreeMap<String, String>,
}

/// How a new version or setting reaches the pods.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpdateStrategy {
    /// At once: one pod at a time, the leader last.
    #[default]
    Unsupervised,
    /// When a human sets the annotation `quorate.io/roll` to the revision that waits, as the condition Progressing names it, or to
    /// the version, which lets one roll-out go ahead.
    Supervised,
}

/// Timing of elections. The defaults suit one data centre.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "self.electionTimeoutMilliseconds >= 5 * self.heartbeatIntervalMilliseconds",
    "electionTimeoutMilliseconds must be at least five times heartbeatIntervalMilliseconds, or one lost message starts an election"
))]
pub struct RaftTiming {
    /// How often a leader speaks when it has nothing to say.
    #[serde(default = "default_heartbeat_interval")]
    #[schemars(range(min = 10, max = 10_000))]
    pub heartbeat_interval_milliseconds: i32,
    /// How long a follower waits for its leader.
    #[serde(default = "default_election_timeout")]
    #[schemars(range(min = 100, max = 50_000))]
    pub election_timeout_milliseconds: i32,
}

impl Default for RaftTiming {
    fn default() -> Self {
        RaftTiming {
            heartbeat_interval_milliseconds: default_heartbeat_interval(),
            election_timeout_milliseconds: default_election_timeout(),
        }
    }
}

/// When the log is cut.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Snapshots {
    /// Entries after which the log may be cut.
    #[serde(default = "default_snapshot_count")]
    #[schemars(range(min = 100, max = 10_000_000))]
    pub count: i64,
}

impl Default for Snapshots {
    fn default() -> Self {
        Snapshots { count: default_snapshot_count() }
    }
}

/// How old revisions are forgotten.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "self.mode != 'Revision' || self.retention.matches('^[0-9]{1,18}$')",
    "retention must be a number of revisions, such as 10000, in mode Revision"
))]
#[x_kube(validation = (
    "self.mode != 'Periodic' || self.retention.matches('^([0-9]{1,6}|[0-9]{1,9}([.][0-9]{1,9})?(us|ms|s|m|h))$')",
    "retention must be a duration, such as 30m, or a number of hours in mode Periodic"
))]
pub struct AutoCompaction {
    /// By age or by number.
    #[serde(default)]
    pub mode: CompactionMode,
    /// How much is kept: a duration such as `1h`, or a number of revisions.
    #[serde(default = "default_retention")]
    #[schemars(length(min = 1, max = 32))]
    pub retention: String,
}

impl Default for AutoCompaction {
    fn default() -> Self {
        AutoCompaction { mode: CompactionMode::default(), retention: default_retention() }
    }
}

/// What is kept when old revisions are forgotten.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompactionMode {
    /// Revisions younger than a duration.
    #[default]
    Periodic,
    /// The newest revisions.
    Revision,
    /// Everything: whoever uses the cluster compacts it, as Kubernetes does.
    Off,
}

/// Prometheus objects.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// Makes a PodMonitor, where the Prometheus operator is installed.
    #[serde(default)]
    pub pod_monitor: bool,
    /// Labels of the PodMonitor, by which a Prometheus selects it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = OPERATORS_LABELS)]
    pub labels: BTreeMap<String, String>,
}

/// Protection against voluntary disruption.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PodDisruptionBudget {
    /// Whether a drain is held up while it would cost the quorum.
    #[serde(default = "default_true")]
    pub enabled: bool,
}

impl Default for PodDisruptionBudget {
    fn default() -> Self {
        PodDisruptionBudget { enabled: true }
    }
}

fn default_replicas() -> i32 {
    3
}

fn default_version() -> String {
    env!("CARGO_PKG_VERSION").to_string()
}

fn default_size() -> String {
    "8Gi".to_string()
}

fn default_progress_deadline_seconds() -> i32 {
    600
}

fn default_heartbeat_interval() -> i32 {
    100
}

fn default_election_timeout() -> i32 {
    1000
}

fn default_snapshot_count() -> i64 {
    10_000
}

fn default_retention() -> String {
    "1h".to_string()
}

fn default_true() -> bool {
    true
}
