//! The Kubernetes side of Quorate: what users write, what they are told, and what to do next.
//!
//! Owns the `QuorateCluster` resource, [`plan::plan`], which decides one step from what was observed, and the loop around it:
//! [`observe`] reads, [`status`] tells, [`act`] does. Links no storage and no consensus: it reaches nodes only by their API.

pub mod act;
pub mod admin;
pub mod build;
pub mod crd;
pub mod interruption;
pub mod lease;
pub mod metrics;
pub mod names;
pub mod observe;
pub mod plan;
pub mod probes;
pub mod quantity;
pub mod reconcile;
pub mod run;
pub mod status;
