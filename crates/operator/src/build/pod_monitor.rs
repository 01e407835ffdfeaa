//! The PodMonitor of the Prometheus operator, if it is asked for.

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;

use super::{Built, metadata};
use crate::crd::QuorateCluster;
use crate::names::Names;

const GROUP: &str = "monitoring.coreos.com";

pub(super) fn pod_monitor(cluster: &QuorateCluster) -> Built {
    let names = Names::of(cluster);
    if !cluster.spec.monitoring.pod_monitor {
        return Built::absent(GROUP, "v1", "PodMonitor", names.cluster);
    }
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", "PodMonitor"));
    let body = json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(cluster, names.cluster.clone()),
        "spec": {
            "selector": { "matchLabels": names.selector() },
            "podMetricsEndpoints": [{ "port": "metrics", "path": "/metrics" }],
        },
    });
    Built::from_json(resource, names.cluster, body)
}
