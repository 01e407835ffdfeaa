//! The objects that a cluster consists of, as a function of the resource.
//!
//! Pure: no API call, no clock. Whether an object in the API server is as built is decided by [`Built::matches`], so that an
//! idle cluster causes no write.

mod budget;
mod fingerprint;
mod pod_monitor;
mod recovery_job;
mod services;
mod stateful_set;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::{ApiResource, GroupVersionKind};
use serde::Serialize;
use serde_json::Value;

use crate::crd::QuorateCluster;
use crate::names::Names;

pub use pod_monitor::pod_monitor;
pub use recovery_job::{CONTAINER as RECOVERY_CONTAINER, recovery_job};
pub use stateful_set::{CONTAINER, volume_size};

/// Annotation with the fingerprint of what was last applied: it tells of fields that are not wanted any more.
const APPLIED: &str = "quorate.io/applied";

/// Labels that together say whose an object is. Every object has carried them since the first version.
const MARKS: [&str; 2] = ["app.kubernetes.io/managed-by", "quorate.io/cluster"];

/// What is fixed for all clusters of one operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Image without its tag; the tag is the version of the resource.
    pub image: String,
    /// What stands for all addresses of a pod: where its nodes listen.
    pub all_addresses: IpAddr,
}

impl Defaults {
    /// `service_host` is the address at which pods reach the API server. Its family is the first one of the cluster's network, in
    /// which the kubelet asks pods whether they are alive.
    pub fn new(image: &str, service_host: Option<&str>) -> Defaults {
        let all_addresses = match service_host.and_then(|host| host.parse().ok()) {
            // Takes IPv4 in, too.
            Some(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
            _ => Ipv4Addr::UNSPECIFIED.into(),
        };
        Defaults { image: image.to_string(), all_addresses }
    }
}

/// One object as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// Its kind.
    pub resource: ApiResource,
    /// Its name.
    pub name: String,
    /// All of it that the operator owns; none if the object should not exist.
    pub body: Option<Value>,
}

impl Built {
    fn of<K>(object: K) -> Self
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize,
    {
        let name = object.meta().name.clone().expect("a built object has a name");
        let body = serde_json::to_value(object).expect("an object of the API is JSON");
        Built::from_json(ApiResource::erase::<K>(&()), name, body)
    }

    fn from_json(resource: ApiResource, name: String, mut body: Value) -> Self {
        // Fields that only the API server fills in; sent along they would be owned, or refused.
        body.as_object_mut().expect("an object").remove("status");
        let print = fingerprint::of(&body);
        body["metadata"]["annotations"][APPLIED] = Value::String(print);
        Built { resource, name, body: Some(body) }
    }

    fn absent(group: &str, version: &str, kind: &str, name: String) -> Self {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Built { resource, name, body: None }
    }

    /// Whether `live` is as wanted: every field that is built has its value there, and no field that was built earlier is left.
    pub fn matches(&self, live: Option<&Value>) -> bool {
        self.difference(live).is_none()
    }

    /// What keeps `live` from being as wanted, with the object's kind and name; none if it matches. Equal differences have equal texts.
    pub fn difference(&self, live: Option<&Value>) -> Option<String> {
        let what = match (&self.body, live) {
            (None, None) => return None,
            (None, Some(_)) => "should not be there".to_string(),
            (Some(_), None) => "should be there".to_string(),
            (Some(body), Some(live)) => fingerprint::difference(live, body)?,
        };
        Some(format!("{} {}: {what}", self.resource.kind, self.name))
    }

    /// For people, if an object of somebody else has its name.
    pub fn name_is_taken(&self) -> String {
        let Built { resource, name, .. } = self;
        format!("{} {name} is somebody else's: neither its owner nor its labels name this cluster", resource.kind)
    }
}

/// Everything beside the StatefulSet that a cluster needs, in the order in which it is applied. A drain may take `spare` of its pods away at once.
pub fn companions(cluster: &QuorateCluster, replicas: u32, spare: u32) -> Vec<Built> {
    vec![
        Built::of(services::peers(cluster)),
        Built::of(services::clients(cluster)),
        budget::budget(cluster, replicas, spare),
    ]
}

/// The StatefulSet with this many pods, on volumes of this size.
pub fn stateful_set(cluster: &QuorateCluster, defaults: &Defaults, replicas: u32, volume: &str) -> Built {
    Built::of(stateful_set::stateful_set(cluster, defaults, replicas, volume))
}

/// The clusters that nodes of this one must set aside, as they read it: one id a line.
pub fn retired_text(cluster: &QuorateCluster) -> String {
    cluster.status.as_ref().map(|status| status.retired_cluster_ids.join("\n")).unwrap_or_default()
}

/// Whether `live` was made for `cluster`: its owner says so, or, where the resource was made again over what it left behind, its labels.
/// Anything else that has the name of one of its objects is somebody's own, which is neither changed nor deleted.
pub fn is_of(cluster: &QuorateCluster, live: &Value) -> bool {
    let labels = Names::of(cluster).labels();
    let marked = |key: &str| live["metadata"]["labels"][key].as_str() == labels.get(key).map(String::as_str);
    let owners = live["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let owned =
        owners.filter_map(|owner| owner["uid"].as_str()).any(|uid| Some(uid) == cluster.metadata.uid.as_deref());
    owned || MARKS.into_iter().all(marked)
}

/// Metadata of an object of `cluster`: owned by it, with the user's labels and annotations. The operator's own labels win.
pub fn metadata(cluster: &QuorateCluster, name: String) -> ObjectMeta {
    let names = Names::of(cluster);
    let mut labels = cluster.spec.additional_metadata.labels.clone();
    labels.extend(names.labels());
    ObjectMeta {
        name: Some(name),
        namespace: Some(names.namespace),
        labels: Some(labels),
        annotations: Some(cluster.spec.additional_metadata.annotations.clone()),
        owner_references: Some(cluster.controller_owner_ref(&()).into_iter().collect()),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Built, Defaults, companions, is_of, pod_monitor, stateful_set};
    use crate::crd::QuorateCluster;

    pub(super) fn cluster(spec: Value) -> QuorateCluster {
        serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster",
            "metadata": { "name": "example", "namespace": "default", "uid": "u-1" },
            "spec": spec,
        }))
        .expect("the spec is well-formed")
    }

    fn set(spec: Value, replicas: u32) -> Built {
        stateful_set(&cluster(spec), &Defaults::new("quorate", None), replicas, "8Gi")
    }

    #[test]
    fn a_resize_leaves_the_pod_template_as_it_is() {
        let template = |built: Built| built.body.expect("a body")["spec"]["template"].clone();
        assert_eq!(template(set(json!({ "replicas": 3 }), 3)), template(set(json!({ "replicas": 5 }), 5)));
    }

    #[test]
    fn what_was_applied_matches_until_the_resource_changes() {
        let built = set(json!({}), 3);
        let mut live = built.body.clone().expect("a body");
        live["status"] = json!({ "replicas": 3 });
        live["spec"]["revisionHistoryLimit"] = json!(10);
        assert!(built.matches(Some(&live)));
        assert!(!set(json!({ "version": "9" }), 3).matches(Some(&live)));
        assert!(!built.matches(None));
    }

    #[test]
    fn the_budget_keeps_all_but_what_the_voters_can_spare() {
        let keep = |replicas, spare| {
            let built = companions(&cluster(json!({})), replicas, spare);
            let budget = built.into_iter().find(|object| object.resource.kind == "PodDisruptionBudget");
            budget.and_then(|budget| budget.body).expect("a body")["spec"]["minAvailable"].clone()
        };
        assert_eq!((keep(3, 1), keep(5, 2), keep(5, 1)), (json!(2), json!(3), json!(4)));
    }

    #[test]
    fn a_field_that_is_not_wanted_any_more_is_noticed() {
        let live = set(json!({ "nodeSelector": { "disk": "fast" } }), 3).body;
        assert!(!set(json!({}), 3).matches(live.as_ref()));
    }

    #[test]
    fn what_others_add_to_a_merged_list_stays_and_what_was_built_earlier_does_not() {
        let built = set(json!({}), 3);
        let mut live = built.body.clone().expect("a body");
        let pod = &mut live["spec"]["template"]["spec"];
        let theirs = json!({ "name": "theirs" });
        pod["containers"][0]["env"].as_array_mut().expect("a list").push(theirs.clone());
        pod["containers"].as_array_mut().expect("a list").push(theirs.clone());
        pod["volumes"].as_array_mut().expect("a list").insert(0, theirs);
        assert_eq!(built.difference(Some(&live)), None);
        let secrets = |names: &[&str]| {
            let secrets: Vec<_> = names.iter().map(|name| json!({ "name": name })).collect();
            set(json!({ "imagePullSecrets": secrets }), 3)
        };
        assert!(!secrets(&["one"]).matches(secrets(&["one", "two"]).body.as_ref()), "it applied the other itself");
    }

    #[test]
    fn a_field_that_somebody_else_changed_is_noticed() {
        let built = set(json!({}), 3);
        let mut live = built.body.clone().expect("a body");
        live["spec"]["replicas"] = json!(2);
        assert!(!built.matches(Some(&live)));
    }

    #[test]
    fn an_object_is_of_a_cluster_by_its_owner_or_its_labels() {
        let ours = set(json!({}), 3).body.expect("a body");
        let without = |field: &str| {
            let mut live = ours.clone();
            live["metadata"].as_object_mut().expect("a map").remove(field);
            live
        };
        let cluster = cluster(json!({}));
        assert!(is_of(&cluster, &without("labels")) && is_of(&cluster, &without("ownerReferences")));
        let mut theirs = without("ownerReferences");
        theirs["metadata"]["labels"]["quorate.io/cluster"] = json!("other");
        assert!(!is_of(&cluster, &theirs));
        assert!(!is_of(&cluster, &json!({ "metadata": { "name": "example" } })));
    }

    #[test]
    fn every_object_is_owned_by_the_resource() {
        let cluster = cluster(json!({ "monitoring": { "podMonitor": true } }));
        let mut built = companions(&cluster, 3, 1);
        built.push(pod_monitor(&cluster));
        for body in built.iter().filter_map(|object| object.body.as_ref()) {
            assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], "u-1", "{body}");
        }
        assert_eq!(built.iter().filter(|object| object.body.is_some()).count(), 4);
    }
}
