//! The StatefulSet and its pod template.
//!
//! Nothing in the template depends on the number of replicas: a resize must not touch a running pod. Pods are restarted by the
//! operator alone (OnDelete), all of them may start at once (Parallel), and Kubernetes never deletes a volume by itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector,
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec,
    PodTemplateSpec, Probe, SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
    VolumeResourceRequirements, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Defaults, metadata};
use crate::crd::{AutoCompaction, CompactionMode, ImagePullPolicy, QuorateCluster};
use crate::names::{CLIENT_PORT, METRICS_PORT, Names, PEER_PORT, RETIRED_KEY, SERVING_LABEL, TOKEN_KEY, VOLUME};
use crate::quantity;

/// User and group of the image.
const USER: i64 = 65_532;
/// For which a pod that is told to end serves on: while kube-proxy may send it clients still, its port must be open.
const SHUTDOWN_DELAY: &str = "5s";
/// Longer than [`SHUTDOWN_DELAY`], requests in flight, a hand-over of leadership and a last checkpoint take together.
const TERMINATION_GRACE_SECONDS: i64 = 120;
/// Name of the container of a node.
pub const CONTAINER: &str = "quorate";
pub(super) const DATA_DIR: &str = "/data";
const TOKEN_DIR: &str = "/etc/quorate/admin";

pub(super) fn stateful_set(
    cluster: &QuorateCluster,
    defaults: &Defaults,
    replicas: u32,
    volume_size: &str,
) -> StatefulSet {
    let names = Names::of(cluster);
    let keep = StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_deleted: Some("Retain".to_string()),
        when_scaled: Some("Retain".to_string()),
    };
    StatefulSet {
        metadata: metadata(cluster, names.cluster.clone()),
        spec: Some(StatefulSetSpec {
            replicas: Some(i32::try_from(replicas).expect("few replicas")),
            service_name: Some(names.peers()),
            pod_management_policy: Some("Parallel".to_string()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_string()),
                ..StatefulSetUpdateStrategy::default()
            }),
            persistent_volume_claim_retention_policy: Some(keep),
            selector: LabelSelector { match_labels: Some(names.selector()), ..LabelSelector::default() },
            template: template(cluster, &names, defaults),
            volume_claim_templates: Some(vec![claim(cluster, &names, volume_size)]),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

/// Size of the volumes that `live` makes for new pods: its claim template cannot be changed in place.
pub fn volume_size(live: &StatefulSet) -> Option<&str> {
    let templates = live.spec.as_ref()?.volume_claim_templates.as_ref()?;
    let requests = templates.first()?.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage").map(|size| size.0.as_str())
}

fn template(cluster: &QuorateCluster, names: &Names, defaults: &Defaults) -> PodTemplateSpec {
    let spec = &cluster.spec;
    let mut labels = spec.additional_metadata.labels.clone();
    labels.extend(names.labels());
    labels.insert(SERVING_LABEL.to_string(), "true".to_string());
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(spec.additional_metadata.annotations.clone()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![container(cluster, names, defaults)],
            volumes: Some(vec![Volume {
                name: "admin-token".to_string(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(names.admin_secret()),
                    default_mode: Some(0o440),
                    ..SecretVolumeSource::default()
                }),
                ..Volume::default()
            }]),
            affinity: Some(spec.affinity.clone().unwrap_or_else(|| spread_over_nodes(names))),
            topology_spread_constraints: some_list(&spec.topology_spread_constraints),
            tolerations: some_list(&spec.tolerations),
            node_selector: (!spec.node_selector.is_empty()).then(|| spec.node_selector.clone()),
            priority_class_name: spec.priority_class_name.clone(),
            image_pull_secrets: some_list(&spec.image_pull_secrets),
            security_context: Some(pod_security()),
            termination_grace_period_seconds: Some(TERMINATION_GRACE_SECONDS),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            ..PodSpec::default()
        }),
    }
}

fn container(cluster: &QuorateCluster, names: &Names, defaults: &Defaults) -> Container {
    let spec = &cluster.spec;
    let pod_name = EnvVarSource {
        field_ref: Some(ObjectFieldSelector {
            field_path: "metadata.name".to_string(),
            api_version: Some("v1".to_string()),
        }),
        ..EnvVarSource::default()
    };
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_string(),
        mount_path: path.to_string(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    Container {
        name: CONTAINER.to_string(),
        image: Some(image(cluster, defaults)),
        image_pull_policy: Some(pull_policy(cluster)),
        command: Some(vec!["/quorate".to_string()]),
        args: Some(arguments(cluster, names, defaults.all_addresses)),
        env: Some(vec![EnvVar { name: "POD_NAME".to_string(), value: None, value_from: Some(pod_name) }]),
        ports: Some([("client", CLIENT_PORT), ("peer", PEER_PORT), ("metrics", METRICS_PORT)].map(port).to_vec()),
        startup_probe: Some(probe("/livez", 2, 300)),
        liveness_probe: Some(probe("/livez", 10, 6)),
        // Without the read that needs a quorum: stale reads outlive the quorum.
        readiness_probe: Some(probe("/readyz?exclude=linearizable_read", 2, 3)),
        resources: spec.resources.clone(),
        volume_mounts: Some(vec![mount(VOLUME, DATA_DIR, false), mount("admin-token", TOKEN_DIR, true)]),
        security_context: Some(container_security()),
        ..Container::default()
    }
}

pub(super) fn image(cluster: &QuorateCluster, defaults: &Defaults) -> String {
    let spec = &cluster.spec;
    spec.image.clone().unwrap_or_else(|| format!("{}:{}", defaults.image, spec.version))
}

pub(super) fn pull_policy(cluster: &QuorateCluster) -> String {
    let policy = match cluster.spec.image_pull_policy {
        ImagePullPolicy::Always => "Always",
        ImagePullPolicy::IfNotPresent => "IfNotPresent",
        ImagePullPolicy::Never => "Never",
    };
    policy.to_string()
}

/// What the restricted profile asks of a pod.
pub(super) fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        // A volume with a million files would otherwise be walked at each start.
        fs_group_change_policy: Some("OnRootMismatch".to_string()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_string(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

/// What it asks of a container.
pub(super) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_string()]), add: None }),
        ..SecurityContext::default()
    }
}

fn arguments(cluster: &QuorateCluster, names: &Names, all_addresses: IpAddr) -> Vec<String> {
    let spec = &cluster.spec;
    let host = names.host("$(POD_NAME)");
    let (mode, retention) = compaction(&spec.auto_compaction);
    let listen = |port| SocketAddr::from((all_addresses, port)).to_string();
    let flags = [
        ("--name", "$(POD_NAME)".to_string()),
        ("--data-dir", DATA_DIR.to_string()),
        ("--listen-client", listen(CLIENT_PORT)),
        ("--listen-peer", listen(PEER_PORT)),
        ("--listen-metrics", listen(METRICS_PORT)),
        ("--advertise-client", format!("{host}:{CLIENT_PORT}")),
        ("--advertise-peer", format!("{host}:{PEER_PORT}")),
        ("--shutdown-delay", SHUTDOWN_DELAY.to_string()),
        ("--admin-token-file", format!("{TOKEN_DIR}/{TOKEN_KEY}")),
        ("--retired-clusters-file", format!("{TOKEN_DIR}/{RETIRED_KEY}")),
        ("--heartbeat-interval", spec.raft.heartbeat_interval_milliseconds.to_string()),
        ("--election-timeout", spec.raft.election_timeout_milliseconds.to_string()),
        ("--snapshot-count", spec.snapshots.count.to_string()),
        ("--auto-compaction-mode", mode.to_string()),
        ("--auto-compaction-retention", retention),
    ];
    // Only if there is one: an operator that is new to this setting restarts no pod.
    let quota = spec.storage.quota.as_deref().and_then(quantity::value);
    let quota = quota.map(|bytes| ("--quota-backend-bytes", format!("{:.0}", bytes.ceil())));
    let flags = flags.into_iter().chain(quota).map(|(flag, value)| format!("{flag}={value}"));
    std::iter::once("server".to_string()).chain(flags).collect()
}

/// As etcd's flags say it: no compaction is a retention of nothing.
fn compaction(wanted: &AutoCompaction) -> (&'static str, String) {
    match wanted.mode {
        CompactionMode::Periodic => ("periodic", wanted.retention.clone()),
        CompactionMode::Revision => ("revision", wanted.retention.clone()),
        CompactionMode::Off => ("periodic", "0".to_string()),
    }
}

/// Preferred, not required: on fewer nodes than members a cluster is still better than none.
fn spread_over_nodes(names: &Names) -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                weight: 100,
                pod_affinity_term: PodAffinityTerm {
                    label_selector: Some(LabelSelector {
                        match_labels: Some(names.selector()),
                        ..LabelSelector::default()
                    }),
                    topology_key: "kubernetes.io/hostname".to_string(),
                    ..PodAffinityTerm::default()
                },
            }]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn claim(cluster: &QuorateCluster, names: &Names, size: &str) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(VOLUME.to_string()),
            labels: Some(names.selector()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_string()]),
            storage_class_name: cluster.spec.storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_string(), Quantity(size.to_string()))])),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

fn port((name, number): (&str, u16)) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_string()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_string()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_string()),
            port: IntOrString::String("metrics".to_string()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

pub(super) fn some_list<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::cluster;
    use super::{Defaults, stateful_set, volume_size};

    fn pod(spec: serde_json::Value) -> serde_json::Value {
        let set = stateful_set(&cluster(spec), &Defaults::new("quorate", None), 3, "8Gi");
        serde_json::to_value(set).expect("JSON")["spec"]["template"]["spec"].clone()
    }

    #[test]
    fn an_image_of_the_user_wins_over_the_version() {
        assert_eq!(pod(json!({ "version": "1.2.3" }))["containers"][0]["image"], "quorate:1.2.3");
        let own = json!({ "version": "1.2.3", "image": "example/own:5" });
        assert_eq!(pod(own)["containers"][0]["image"], "example/own:5");
    }

    #[test]
    fn pods_keep_to_the_restricted_profile() {
        let pod = pod(json!({}));
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(container["allowPrivilegeEscalation"], false);
        assert_eq!(container["readOnlyRootFilesystem"], true);
        assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
    }

    #[test]
    fn a_quota_is_told_in_bytes_and_only_if_there_is_one() {
        let flag = |storage: serde_json::Value| {
            let args = pod(json!({ "storage": storage }))["containers"][0]["args"].clone();
            let args = args.as_array().expect("a list").clone();
            args.into_iter().find(|arg| arg.as_str().is_some_and(|arg| arg.starts_with("--quota-backend-bytes")))
        };
        assert_eq!(flag(json!({ "size": "8Gi" })), None);
        assert_eq!(flag(json!({ "quota": "4Gi" })), Some(json!("--quota-backend-bytes=4294967296")));
        assert_eq!(
            flag(json!({ "quota": "0.0005k" })),
            Some(json!("--quota-backend-bytes=1")),
            "none would be the default"
        );
    }

    #[test]
    fn nodes_listen_where_the_kubelet_asks_also_in_a_cluster_of_ipv6() {
        let listen = |service_host| {
            let set = stateful_set(&cluster(json!({})), &Defaults::new("quorate", service_host), 3, "8Gi");
            let pod = set.spec.and_then(|spec| spec.template.spec).expect("a pod");
            let args = pod.containers.into_iter().flat_map(|container| container.args.unwrap_or_default());
            args.filter(|arg| arg.starts_with("--listen-")).collect::<Vec<_>>()
        };
        let ports = ["--listen-client=[::]:2379", "--listen-peer=[::]:2380", "--listen-metrics=[::]:2381"];
        assert_eq!(listen(Some("fd00:10:96::1")), ports);
        let before = ports.map(|flag| flag.replace("[::]", "0.0.0.0"));
        assert_eq!(listen(Some("10.96.0.1")), before);
        assert_eq!(listen(None), before);
        assert_eq!(listen(Some("kubernetes.default")), before, "a name says nothing of a family");
    }

    #[test]
    fn no_compaction_is_a_retention_of_nothing() {
        let args =
            pod(json!({ "autoCompaction": { "mode": "Off", "retention": "1h" } }))["containers"][0]["args"].clone();
        let args: Vec<&str> = args.as_array().expect("a list").iter().filter_map(|arg| arg.as_str()).collect();
        assert!(args.contains(&"--auto-compaction-retention=0"), "{args:?}");
    }

    #[test]
    fn the_size_of_the_claim_template_is_read_back() {
        let set = stateful_set(&cluster(json!({})), &Defaults::new("quorate", None), 3, "12Gi");
        assert_eq!(volume_size(&set), Some("12Gi"));
    }
}
