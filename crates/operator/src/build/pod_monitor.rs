//! The PodMonitor of the Prometheus operator, if it is asked for.

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;

use super::{Built, metadata};
use crate::crd::QuorateCluster;
use crate::names::Names;

const GROUP: &str = "monitoring.coreos.com";

/// It carries the labels by which a Prometheus selects it, beside those of every object.
pub fn pod_monitor(cluster: &QuorateCluster) -> Built {
    let names = Names::of(cluster);
    if !cluster.spec.monitoring.pod_monitor {
        return Built::absent(GROUP, "v1", "PodMonitor", names.cluster);
    }
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", "PodMonitor"));
    let mut metadata = metadata(cluster, names.cluster.clone());
    let mut labels = cluster.spec.monitoring.labels.clone();
    labels.extend(metadata.labels.take().unwrap_or_default());
    metadata.labels = Some(labels);
    let body = json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata,
        "spec": {
            "selector": { "matchLabels": names.selector() },
            "podMetricsEndpoints": [{ "port": "metrics", "path": "/metrics" }],
        },
    });
    Built::from_json(resource, names.cluster, body)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::cluster;
    use super::pod_monitor;

    #[test]
    fn a_prometheus_finds_it_by_the_users_labels() {
        let asked = json!({ "monitoring": { "podMonitor": true, "labels": { "release": "prometheus" } } });
        let body = pod_monitor(&cluster(asked)).body.expect("a body");
        assert_eq!(body["metadata"]["labels"]["release"], "prometheus");
        assert_eq!(body["metadata"]["labels"]["app.kubernetes.io/instance"], "example");
        assert_eq!(pod_monitor(&cluster(json!({}))).body, None);
    }
}
