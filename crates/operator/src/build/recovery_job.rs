//! The job that turns a survivor's data into a cluster of its own.
//!
//! It runs `quorate recover` on the survivor's volume, with both ids given, so that it may run again and again. Its pod carries
//! other labels than the members', so that no Service, budget or set takes it for one.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaimVolumeSource, PodSpec, PodTemplateSpec, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::stateful_set::{DATA_DIR, container_security, image, pod_security, pull_policy, some_list};
use super::{Defaults, metadata};
use crate::crd::QuorateCluster;
use crate::names::{Names, VOLUME};
use crate::plan::{ClusterId, Recovery};

/// A pod that could not start, or was killed, is tried again this often.
const RETRIES: i32 = 5;
/// Name of its container.
pub const CONTAINER: &str = "recover";

/// The job of `recovery`, which ends the cluster `old`. It stays until the operator deletes it: whether it has done its work is known from
/// it alone, and one that has failed waits for a human.
pub fn recovery_job(cluster: &QuorateCluster, defaults: &Defaults, old: ClusterId, recovery: Recovery) -> Job {
    let names = Names::of(cluster);
    let mut metadata = metadata(cluster, names.recovery_job(recovery.cluster_id));
    let labels = metadata.labels.get_or_insert_default();
    labels.extend(names.recovery_labels());
    labels.insert("app.kubernetes.io/component".to_string(), "recovery".to_string());
    let labels = labels.clone();
    let annotations = metadata.annotations.clone();
    Job {
        metadata,
        spec: Some(JobSpec {
            backoff_limit: Some(RETRIES),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), annotations, ..ObjectMeta::default() }),
                spec: Some(pod(cluster, defaults, &names, old, recovery)),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn pod(cluster: &QuorateCluster, defaults: &Defaults, names: &Names, old: ClusterId, recovery: Recovery) -> PodSpec {
    let spec = &cluster.spec;
    let arguments = [
        "recover".to_string(),
        format!("--data-dir={DATA_DIR}"),
        format!("--confirm={:032x}", old.0),
        format!("--new-cluster-id={:032x}", recovery.cluster_id.0),
    ];
    PodSpec {
        restart_policy: Some("Never".to_string()),
        containers: vec![Container {
            name: CONTAINER.to_string(),
            image: Some(image(cluster, defaults)),
            image_pull_policy: Some(pull_policy(cluster)),
            command: Some(vec!["/quorate".to_string()]),
            args: Some(arguments.to_vec()),
            resources: spec.resources.clone(),
            volume_mounts: Some(vec![VolumeMount {
                name: VOLUME.to_string(),
                mount_path: DATA_DIR.to_string(),
                ..VolumeMount::default()
            }]),
            security_context: Some(container_security()),
            ..Container::default()
        }],
        volumes: Some(vec![Volume {
            name: VOLUME.to_string(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: names.claim(recovery.survivor),
                read_only: None,
            }),
            ..Volume::default()
        }]),
        tolerations: some_list(&spec.tolerations),
        node_selector: (!spec.node_selector.is_empty()).then(|| spec.node_selector.clone()),
        priority_class_name: spec.priority_class_name.clone(),
        image_pull_secrets: some_list(&spec.image_pull_secrets),
        security_context: Some(pod_security()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        ..PodSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::cluster;
    use super::{ClusterId, Defaults, Names, Recovery, recovery_job};
    use crate::plan::Ordinal;

    #[test]
    fn the_job_names_both_clusters_and_works_on_the_survivor_alone() {
        let cluster = cluster(json!({ "version": "1.2.3" }));
        let defaults = Defaults::new("quorate", None);
        let recovery = Recovery { survivor: Ordinal(2), cluster_id: ClusterId(0xbb), begun: false };
        let job = serde_json::to_value(recovery_job(&cluster, &defaults, ClusterId(0xaa), recovery)).expect("JSON");
        assert_eq!(job["metadata"]["name"], "example-recover-00000000");
        assert_eq!(job["metadata"]["ownerReferences"][0]["uid"], "u-1");
        assert_eq!(job["spec"].get("ttlSecondsAfterFinished"), None, "nobody but the operator removes it");
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["volumes"][0]["persistentVolumeClaim"]["claimName"], "data-example-2");
        let args = pod["containers"][0]["args"].as_array().expect("a list").clone();
        assert!(args.contains(&json!("--confirm=000000000000000000000000000000aa")), "{args:?}");
        assert!(args.contains(&json!("--new-cluster-id=000000000000000000000000000000bb")), "{args:?}");
    }

    #[test]
    fn nothing_takes_its_pod_for_a_member() {
        let cluster = cluster(json!({}));
        let defaults = Defaults::new("quorate", None);
        let recovery = Recovery { survivor: Ordinal(0), cluster_id: ClusterId(1), begun: false };
        let job = recovery_job(&cluster, &defaults, ClusterId(2), recovery);
        let labels = job.spec.and_then(|spec| spec.template.metadata?.labels).expect("labels");
        let selector = Names::of(&cluster).selector();
        assert!(selector.iter().any(|(key, value)| labels.get(key) != Some(value)), "{labels:?}");
    }
}
