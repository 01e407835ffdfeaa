//! Other ways to install: another helm, none, one namespace only, and beside a Prometheus operator.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::e2e::images::{IMAGE, TAGS};
use crate::e2e::suite::{HELM_PATIENCE, SYSTEM, Scene, chart, condition, ensure, install_operator};
use crate::e2e::toolchain::Toolchain;
use crate::e2e::writer::{get, put};
use crate::failure::Failure;
use crate::process::root;

/// With a Role in place of a ClusterRole, in one namespace.
pub(super) fn an_operator_of_one_namespace_needs_no_more(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.kubectl.helm(&["uninstall", "quorate-operator", "--namespace", SYSTEM, "--wait"])?;
    let (chart, image, tag) =
        (chart("quorate-operator"), format!("image.repository={IMAGE}"), format!("image.tag={}", TAGS[0]));
    let mut arguments = vec!["install", "own", &chart, "--namespace", &scene.namespace];
    for value in [image.as_str(), &tag, "crds.install=false", "namespaced=true"] {
        arguments.extend(["--set", value]);
    }
    scene.kubectl.helm(&[&arguments[..], &["--wait", "--timeout", HELM_PATIENCE]].concat())?;
    let elsewhere = json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster",
        "metadata": { "name": "elsewhere", "namespace": "default" }, "spec": {},
    });
    scene.kubectl.apply(&elsewhere.to_string())?;
    scene.install(&[])?;
    for size in [5, 3] {
        scene.patch(&json!({ "replicas": size }))?;
        scene.await_ready(size)?;
    }
    let ignored = scene.kubectl.get(&["quoratecluster", "elsewhere", "--namespace", "default"])?;
    scene.kubectl.output(&["delete", "quoratecluster", "elsewhere", "--namespace", "default"])?;
    scene.kubectl.helm(&["uninstall", "own", "--namespace", &scene.namespace, "--wait"])?;
    ensure(ignored["status"]["observedGeneration"] == -1, || format!("it looked at another namespace: {ignored}"))
}

/// Helm 4 waits for custom resources as well: `--wait` ends when the cluster is ready, as its status says.
pub(super) fn helm_4_waits_for_the_cluster(scene: &Scene<'_>) -> Result<(), Failure> {
    let helm: PathBuf = Toolchain::helm_4()?;
    let kubectl = scene.kubectl.with_helm(helm);
    // The operator's chart as well: it is installed anew, and the resource that the other helm left is taken over.
    scene.kubectl.helm(&["uninstall", "quorate-operator", "--namespace", SYSTEM, "--wait"])?;
    install_operator(&kubectl)?;
    let (chart, image) = (chart("quorate"), format!("image={IMAGE}:{}", TAGS[0]));
    let namespace = ["--namespace", &scene.namespace];
    let values = ["--set", &image, "--set", "storage.size=1Gi"];
    let wait = ["--wait", "--timeout", HELM_PATIENCE];
    kubectl.helm(&[&["install", "db", &chart][..], &namespace, &values, &wait].concat())?;
    let ready = scene.get(&["quoratecluster", "db"])?;
    let conditions = ready["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let holds = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    ensure(holds, || format!("helm did not wait: {}", ready["status"]))?;
    put(scene.service()?, "kept", "yes")?;
    kubectl.helm(&[&["test", "db", "--timeout", HELM_PATIENCE][..], &namespace].concat())?;
    let grow = ["--set", "replicas=5"];
    kubectl.helm(&[&["upgrade", "db", &chart][..], &namespace, &values, &grow, &wait].concat())?;
    scene.await_ready(5)?;
    kubectl.helm(&[&["uninstall", "db"][..], &namespace, &wait].concat())?;
    scene.await_fact("the pods are gone", || Ok(scene.pods()?.is_empty()))?;
    scene.install_without_waiting(&["replicas=5"])?;
    scene.await_ready(5)?;
    ensure(get(scene.service()?, "kept")? == "yes", || "the data is not the old one".to_owned())
}

/// `manifests/` with `kubectl apply --server-side`, as the page on Kubernetes says, but for the image's name: no registry is here.
pub(super) fn manifests_do_without_helm(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.kubectl.helm(&["uninstall", "quorate-operator", "--namespace", SYSTEM, "--wait"])?;
    let applied = apply_manifests(scene);
    // But for the resource, or every cluster of every test would go with it.
    let objects =
        "networkpolicy,deployment,poddisruptionbudget,serviceaccount,role,rolebinding,clusterrole,clusterrolebinding";
    let removed = ["--namespace", SYSTEM, "--selector=app.kubernetes.io/instance=quorate-operator"];
    scene.kubectl.output(&[&["delete", objects][..], &removed].concat())?;
    applied
}

fn apply_manifests(scene: &Scene<'_>) -> Result<(), Failure> {
    let own = |name: &str| -> Result<String, Failure> {
        let path = root().join("manifests").join(name);
        let text = fs::read_to_string(&path).map_err(Failure::file(&path))?;
        let version = env!("CARGO_PKG_VERSION");
        let text = text.replace(&format!("\"quorate:{version}\""), &format!("\"{IMAGE}:{}\"", TAGS[0]));
        let text = text.replace("namespace: default", &format!("namespace: {}", scene.namespace));
        Ok(text.replace("--image=quorate\n", &format!("--image={IMAGE}\n")))
    };
    scene.kubectl.apply(&own("operator.yaml")?)?;
    let rollout = ["rollout", "status", "deployment/quorate-operator", "--namespace", SYSTEM, "--timeout=300s"];
    scene.kubectl.output(&rollout)?;
    let cluster = own("cluster.yaml")?.replace("spec:\n", &format!("spec:\n  image: {IMAGE}:{}\n", TAGS[0]));
    scene.kubectl.apply(&cluster)?;
    scene.kubectl.apply(&own("network-policy.yaml")?)?;
    let wait = ["wait", "quoratecluster/example", "--for=condition=Ready", "--timeout=300s"];
    scene.run(&wait)?;
    scene.run(&["scale", "quoratecluster/example", "--replicas=5"])?;
    scene.await_fact("five members", || {
        let status = scene.get(&["quoratecluster", "example"])?["status"].clone();
        Ok(status["members"].as_array().map_or(0, Vec::len) == 5 && condition(&status, "Ready") == "True")
    })?;
    // The same manifest again takes the field back: it names a size.
    scene.kubectl.apply(&cluster)?;
    scene.await_fact("three members", || {
        let status = scene.get(&["quoratecluster", "example"])?["status"].clone();
        Ok(status["members"].as_array().map_or(0, Vec::len) == 3 && condition(&status, "Ready") == "True")
    })
}

/// `kubectl scale` changes the cluster and not the release; what the next `helm upgrade` makes of it depends on whether it names a size.
pub(super) fn a_scaled_cluster_keeps_its_size_if_the_release_names_none(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.install(&["replicas=null"])?;
    scene.run(&["scale", "quoratecluster/db", "--replicas=5"])?;
    scene.await_ready(5)?;
    scene.install_without_waiting(&["replicas=null", "progressDeadlineSeconds=900"])?;
    scene.await_ready(5)?;
    let spec = scene.get(&["quoratecluster", "db"])?["spec"].clone();
    ensure(spec["replicas"] == 5 && spec["progressDeadlineSeconds"] == 900, || format!("the upgrade made {spec}"))?;
    scene.install_without_waiting(&["replicas=3", "progressDeadlineSeconds=900"])?;
    scene.await_ready(3)
}

/// Helm 4 applies on the server, which knows who set the size last: an upgrade that names none leaves it alone, one that names another
/// is refused until it is told to take the field over.
pub(super) fn helm_4_does_not_take_a_size_back_unasked(scene: &Scene<'_>) -> Result<(), Failure> {
    let kubectl = scene.kubectl.with_helm(Toolchain::helm_4()?);
    let (chart, image) = (chart("quorate"), format!("image={IMAGE}:{}", TAGS[0]));
    let upgrade = |more: &[&str]| {
        let release = ["upgrade", "--install", "db", &chart, "--namespace", &scene.namespace];
        kubectl.helm(&[&release[..], &["--set", &image, "--set", "storage.size=1Gi"], more].concat())
    };
    upgrade(&[])?;
    scene.await_ready(3)?;
    scene.run(&["scale", "quoratecluster/db", "--replicas=5"])?;
    scene.await_ready(5)?;
    upgrade(&["--set", "replicas=null", "--set", "progressDeadlineSeconds=900"])?;
    scene.await_ready(5)?;
    let spec = scene.get(&["quoratecluster", "db"])?["spec"].clone();
    ensure(spec["replicas"] == 5 && spec["progressDeadlineSeconds"] == 900, || format!("the upgrade made {spec}"))?;
    let refused = upgrade(&["--set", "replicas=3"]).err().map(|failure| failure.to_string()).unwrap_or_default();
    ensure(refused.contains("conflict") && refused.contains(".spec.replicas"), || format!("helm said {refused:?}"))?;
    upgrade(&["--set", "replicas=3", "--force-conflicts"])?;
    scene.await_ready(3)
}

/// With the resources of the Prometheus operator there, each object that the charts and the operator make for it is accepted whole.
pub(super) fn a_prometheus_operator_finds_its_objects(scene: &Scene<'_>) -> Result<(), Failure> {
    for (plural, kind) in [("podmonitors", "PodMonitor"), ("prometheusrules", "PrometheusRule")] {
        scene.kubectl.apply(&definition(plural, kind).to_string())?;
    }
    scene.await_fact("the resources are served", || Ok(scene.run(&["get", "podmonitors,prometheusrules"]).is_ok()))?;
    let result = make_monitors(scene);
    // A release whose objects are of a resource that is gone can be neither upgraded nor looked at. The cluster goes while there is
    // an operator to let it go.
    let namespace = scene.namespace.as_str();
    for (release, space) in [("db", namespace), ("quorate-operator", SYSTEM)] {
        scene.kubectl.helm(&["uninstall", release, "--namespace", space, "--ignore-not-found", "--wait"])?;
    }
    for plural in ["podmonitors", "prometheusrules"] {
        let name = format!("{plural}.monitoring.coreos.com");
        scene.kubectl.output(&["delete", "customresourcedefinition", &name, "--wait=false"])?;
    }
    result
}

fn make_monitors(scene: &Scene<'_>) -> Result<(), Failure> {
    let chart = chart("quorate-operator");
    let with = ["--reuse-values", "--set", "monitoring.podMonitor=true", "--set", "monitoring.prometheusRule=true"];
    let upgrade = ["upgrade", "quorate-operator", &chart, "--namespace", SYSTEM];
    scene.kubectl.helm(&[&upgrade[..], &with].concat())?;
    let flags = ["monitoring.podMonitor=true", "monitoring.prometheusRule=true", "monitoring.dashboard=true"];
    scene.install(&[&flags[..], &["monitoring.labels.release=prometheus"]].concat())?;
    let system = scene.kubectl.get(&["podmonitor", "quorate-operator", "--namespace", SYSTEM])?;
    monitors(scene, &system, SYSTEM, 2)?;
    let own = scene.get(&["podmonitor", "db"])?;
    ensure(own["metadata"]["labels"]["release"] == "prometheus", || format!("not labelled: {own}"))?;
    monitors(scene, &own, &scene.namespace, 3)?;
    let rules = scene.get(&["prometheusrule", "db"])?;
    ensure(rules["metadata"]["labels"]["release"] == "prometheus", || format!("not labelled: {rules}"))?;
    let alerts = rules["spec"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
    let whole = |rule: &Value| rule["alert"].is_string() && rule["expr"].is_string() && rule["labels"].is_object();
    ensure(!alerts.is_empty() && alerts.iter().all(whole), || format!("not what was written: {rules}"))?;
    let dashboard = scene.get(&["configmap", "db-dashboard"])?;
    ensure(dashboard["metadata"]["labels"]["grafana_dashboard"] == "1", || format!("not labelled: {dashboard}"))?;
    // It goes with the wish for it.
    scene.patch(&json!({ "monitoring": { "podMonitor": false } }))?;
    scene.await_fact("the PodMonitor is gone", || {
        Ok(scene.run(&["get", "podmonitor", "db", "--ignore-not-found"])?.trim().is_empty())
    })
}

/// The monitor selects so many pods of its namespace, and each has the port it names.
fn monitors(scene: &Scene<'_>, monitor: &Value, namespace: &str, expected: usize) -> Result<(), Failure> {
    let labels = monitor["spec"]["selector"]["matchLabels"].as_object().cloned().unwrap_or_default();
    let labels: Vec<String> =
        labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("?"))).collect();
    let port = &monitor["spec"]["podMetricsEndpoints"][0]["port"];
    let pods = scene.kubectl.get(&["pods", "--namespace", namespace, "--selector", &labels.join(",")])?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let has_port = |pod: &&Value| {
        let ports = pod["spec"]["containers"][0]["ports"].as_array().cloned().unwrap_or_default();
        port.is_string() && ports.iter().any(|named| named["name"] == *port)
    };
    let found = pods.iter().filter(has_port).count();
    ensure(!labels.is_empty() && found == expected, || format!("it finds {found} of {expected} pods: {monitor}"))
}

/// As much of the Prometheus operator's resource as is used here; an API server drops every field that it does not name.
fn definition(plural: &str, kind: &str) -> Value {
    let text = json!({ "type": "string" });
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let list = |items: Value| json!({ "type": "array", "items": items });
    let object = |properties: Value| json!({ "type": "object", "properties": properties });
    let spec = if kind == "PodMonitor" {
        json!({
            "selector": object(json!({ "matchLabels": texts })),
            "podMetricsEndpoints": list(object(json!({ "port": text, "path": text }))),
        })
    } else {
        let rule = json!({ "alert": text, "expr": text, "for": text, "labels": texts, "annotations": texts });
        json!({ "groups": list(object(json!({ "name": text, "rules": list(object(rule)) }))) })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.monitoring.coreos.com") },
        "spec": {
            "group": "monitoring.coreos.com", "scope": "Namespaced",
            "names": { "plural": plural, "kind": kind, "singular": kind.to_lowercase() },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": object(json!({ "spec": object(spec) })) },
            }],
        },
    })
}
