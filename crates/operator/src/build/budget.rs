//! The PodDisruptionBudget: how many pods a drain may take away at once.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Built, metadata};
use crate::crd::QuorateCluster;
use crate::names::Names;

/// Keeps all but `spare` of the pods: what the voters can do without, which the caller knows. While a resize is under way the pods
/// that take no part yet must not be counted as if they could stand in for voters. A number to keep, not a number to lose,
/// because the latter is taken of the pods that are expected, which changes during a resize. Readiness is a member's own, so the
/// default eviction policy (an unready pod may go only while the budget holds) is the safe one.
pub(super) fn budget(cluster: &QuorateCluster, replicas: u32, spare: u32) -> Built {
    let names = Names::of(cluster);
    if !cluster.spec.pod_disruption_budget.enabled {
        return Built::absent("policy", "v1", "PodDisruptionBudget", names.cluster);
    }
    let keep = i32::try_from(replicas.saturating_sub(spare)).expect("few replicas");
    Built::of(PodDisruptionBudget {
        metadata: metadata(cluster, names.cluster.clone()),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(keep)),
            selector: Some(LabelSelector { match_labels: Some(names.selector()), ..LabelSelector::default() }),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}
