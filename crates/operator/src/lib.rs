//! The Kubernetes side of Quorate: what users write and what they are told.
//!
//! Owns the `QuorateCluster` resource. Links no storage and no consensus: it reaches nodes only by their API.

pub mod crd;
