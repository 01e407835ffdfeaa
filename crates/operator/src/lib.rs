//! The Kubernetes side of Quorate: what users write, what they are told, and what to do next.
//!
//! Owns the `QuorateCluster` resource and [`plan::plan`], which decides one step from what was observed. Links no
//! storage and no consensus: it reaches nodes only by their API.

pub mod crd;
pub mod plan;
