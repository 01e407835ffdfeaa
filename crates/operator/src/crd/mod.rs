//! `QuorateCluster`, `quorate.io/v1alpha1`: the one resource that users write.
//!
//! The definition in the charts and manifests is generated from these types. Every rule that the API server enforces is
//! a CEL rule here and is tested in `rules`; there is no webhook.

mod spec;
mod status;

#[cfg(test)]
mod rules;

pub use spec::{
    AdditionalMetadata, AutoCompaction, CompactionMode, ImagePullPolicy, Monitoring, PodDisruptionBudget,
    QuorateCluster, QuorateClusterSpec, RaftTiming, Snapshots, Storage, UpdateStrategy, VolumeRetention,
};
pub use status::{ApprovedRoll, MemberRole, MemberStatus, QuorateClusterStatus, RecoveryStatus};

/// API group of the resource, and prefix of its labels, annotations and finalizers.
pub const GROUP: &str = "quorate.io";
