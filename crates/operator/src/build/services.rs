//! Services: one that names the pods, one that spreads clients.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use crate::crd::QuorateCluster;
use crate::names::{CLIENT_PORT, METRICS_PORT, Names, PEER_PORT, SERVING_LABEL};

/// Headless. It names pods that are not ready, too: nodes find each other to become so.
pub(super) fn peers(cluster: &QuorateCluster) -> Service {
    let names = Names::of(cluster);
    let ports = [("client", CLIENT_PORT), ("peer", PEER_PORT), ("metrics", METRICS_PORT)];
    Service {
        metadata: metadata(cluster, names.peers()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_string()),
            publish_not_ready_addresses: Some(true),
            ports: Some(ports.map(port).to_vec()),
            selector: Some(names.selector()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// For clients: ready members that are not about to leave.
pub(super) fn clients(cluster: &QuorateCluster) -> Service {
    let names = Names::of(cluster);
    let mut selector: BTreeMap<String, String> = names.selector();
    selector.insert(SERVING_LABEL.to_string(), "true".to_string());
    Service {
        metadata: metadata(cluster, names.cluster.clone()),
        spec: Some(ServiceSpec {
            ports: Some(vec![port(("client", CLIENT_PORT))]),
            selector: Some(selector),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn port((name, number): (&str, u16)) -> ServicePort {
    ServicePort {
        name: Some(name.to_string()),
        port: i32::from(number),
        target_port: Some(IntOrString::String(name.to_string())),
        protocol: Some("TCP".to_string()),
        ..ServicePort::default()
    }
}
