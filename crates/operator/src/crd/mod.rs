//! `QuorateCluster`, `quorate.io/v1alpha1`: the one resource that users write.
//!
//! The definition in the charts and manifests is generated from these types. Every rule that the API server enforces is
//! a CEL rule here and is tested in `rules`; there is no webhook.

mod spec;
mod status;

#[cfg(test)]
mod rules;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;
use serde_json::json;

pub use spec::{
    AdditionalMetadata, AutoCompaction, CompactionMode, ImagePullPolicy, Monitoring, PodDisruptionBudget,
    QuorateCluster, QuorateClusterSpec, RaftTiming, Snapshots, Storage, UpdateStrategy, VolumeRetention,
};
pub use status::{ApprovedRoll, MemberRole, MemberStatus, QuorateClusterStatus, RecoveryStatus};

/// API group of the resource, and prefix of its labels, annotations and finalizers.
pub const GROUP: &str = "quorate.io";

/// The definition: the derived one, with a status from the start that says that nobody has looked at the resource yet.
///
/// Tools that follow kstatus (Helm 4, Argo CD, Flux) take a resource without a status for one that is as it should be: `helm install --wait`
/// would end before the operator had seen the cluster.
///
/// # Panics
/// Never: the derived definition has one version with a status.
pub fn definition() -> CustomResourceDefinition {
    let mut definition = QuorateCluster::crd();
    let version = definition.spec.versions.first_mut().and_then(|version| version.schema.as_mut());
    let root = version.and_then(|schema| schema.open_api_v3_schema.as_mut()).and_then(|root| root.properties.as_mut());
    let status = root.and_then(|properties| properties.get_mut("status")).expect("the resource has a status");
    status.default = Some(JSON(json!({ "observedGeneration": -1 })));
    definition
}
