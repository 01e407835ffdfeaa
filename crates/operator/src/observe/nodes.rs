//! The Kubernetes nodes under the pods: which of them run, which are about to be emptied, which are gone for good, and whether a
//! volume is gone with them.
//!
//! A node that does not answer may still run its pods, so "gone for good" is a human's word: the Node object is deleted, or
//! tainted as out of service. An operator of one namespace may not look at nodes and volumes: it then never gives one up.

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim,
};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

/// Taint by which a human says that a node is gone for good.
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// One Kubernetes node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its kubelet answers.
    pub ready: bool,
    /// It takes no new pods.
    pub cordoned: bool,
    /// It is gone for good.
    pub gone: bool,
}

/// The node of this name; none if the operator may not look.
pub(super) async fn node(client: &Client, name: &str) -> Result<Option<NodeView>, kube::Error> {
    match Api::<Node>::all(client.clone()).get_opt(name).await {
        Ok(None) => Ok(Some(NodeView { name: name.to_string(), gone: true, ..NodeView::default() })),
        Ok(Some(node)) => Ok(Some(view(&node))),
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(None),
        Err(error) => Err(error),
    }
}

fn view(node: &Node) -> NodeView {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    NodeView {
        name: node.name_any(),
        ready: conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True")),
        cordoned: node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false),
        gone: taints.is_some_and(|taints| taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)),
    }
}

/// Whether the volume of `claim` can be used only on nodes that are gone for good. `under` is the node under its pod: none while
/// the pod waits for one. Where the operator may not look, the volume counts as lost with the node under its pod.
pub(super) async fn is_stranded(
    client: &Client,
    claim: &PersistentVolumeClaim,
    under: Option<&NodeView>,
) -> Result<bool, kube::Error> {
    let lost = under.is_some_and(|node| node.gone);
    if under.is_some() && !lost {
        return Ok(false);
    }
    let Some(name) = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref()) else { return Ok(false) };
    let volume = match Api::<PersistentVolume>::all(client.clone()).get_opt(name).await {
        Ok(Some(volume)) => volume,
        Ok(None) => return Ok(false),
        Err(kube::Error::Api(status)) if status.is_forbidden() => return Ok(lost),
        Err(error) => return Err(error),
    };
    let required = volume.spec.and_then(|spec| spec.node_affinity?.required);
    let Some(selectors) = required.and_then(|required| selectors(&required.node_selector_terms)) else {
        return Ok(false);
    };
    for selector in selectors {
        match Api::<Node>::all(client.clone()).list(&ListParams::default().labels(&selector)).await {
            Ok(nodes) if nodes.items.iter().all(|node| view(node).gone) => {}
            Ok(_) => return Ok(false),
            Err(kube::Error::Api(status)) if status.is_forbidden() => return Ok(lost),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// The terms as label selectors, if each ties the volume to single nodes. A zone that has no node now may have one again.
fn selectors(terms: &[NodeSelectorTerm]) -> Option<Vec<String>> {
    let selector = |term: &NodeSelectorTerm| {
        let requirements = term.match_expressions.as_ref()?;
        if !requirements.iter().any(names_a_node) || term.match_fields.as_ref().is_some_and(|fields| !fields.is_empty())
        {
            return None;
        }
        let parts: Vec<String> = requirements.iter().map(requirement).collect::<Option<_>>()?;
        Some(parts.join(","))
    };
    if terms.is_empty() { None } else { terms.iter().map(selector).collect() }
}

/// Local volumes name the host; drivers of local storage use a key of their own that ends alike.
fn names_a_node(requirement: &NodeSelectorRequirement) -> bool {
    let last = requirement.key.rsplit('/').next().unwrap_or_default();
    requirement.operator == "In" && ["hostname", "node", "nodename", "nodeid", "node-name"].contains(&last)
}

fn requirement(requirement: &NodeSelectorRequirement) -> Option<String> {
    let NodeSelectorRequirement { key, operator, values } = requirement;
    let values = values.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(",");
    match operator.as_str() {
        "In" => Some(format!("{key} in ({values})")),
        "NotIn" => Some(format!("{key} notin ({values})")),
        "Exists" => Some(key.clone()),
        "DoesNotExist" => Some(format!("!{key}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;

    fn named(name: &str, taint: Option<&str>) -> Value {
        let taints: Vec<Value> = taint.iter().map(|key| json!({ "key": key, "effect": "NoExecute" })).collect();
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
            "spec": { "taints": taints, "unschedulable": true },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        })
    }

    /// An API server with one volume, which is bound by `key`, and these nodes, all of which fit every selector.
    fn server(key: Option<&'static str>, nodes: Vec<Value>, forbidden: bool) -> Client {
        let service = service_fn(move |request: Request<Body>| {
            let nodes = nodes.clone();
            async move {
                let affinity = key.map(|key| {
                    let expression = json!({ "key": key, "operator": "In", "values": ["one"] });
                    json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": [expression] }] } })
                });
                let failure = |code: u16, reason: &str| {
                    let status = json!({
                        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                        "code": code, "reason": reason, "message": reason,
                    });
                    (code, status)
                };
                let path = request.uri().path().to_string();
                let (code, answer) = match path.rsplit('/').next() {
                    _ if forbidden => failure(403, "Forbidden"),
                    Some("pv") => {
                        let metadata = json!({ "name": "pv" });
                        let spec = json!({ "nodeAffinity": affinity });
                        (
                            200,
                            json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec }),
                        )
                    }
                    Some("nodes") => {
                        let query = request.uri().query().unwrap_or_default();
                        assert!(query.contains("labelSelector=") && query.contains("one"), "{query}");
                        (200, json!({ "apiVersion": "v1", "kind": "NodeList", "metadata": {}, "items": nodes }))
                    }
                    Some(name) => match nodes.iter().find(|node| node["metadata"]["name"] == name) {
                        Some(node) => (200, node.clone()),
                        None => failure(404, "NotFound"),
                    },
                    None => unreachable!("a path has parts"),
                };
                let answer = Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
                Ok::<_, std::convert::Infallible>(answer.expect("a response"))
            }
        });
        Client::new(service, "default")
    }

    const HOST: Option<&str> = Some("kubernetes.io/hostname");

    async fn stranded(key: Option<&'static str>, nodes: Vec<Value>, under: Option<&NodeView>, forbidden: bool) -> bool {
        let claim = serde_json::from_value(json!({ "metadata": { "name": "data" }, "spec": { "volumeName": "pv" } }));
        let client = server(key, nodes, forbidden);
        is_stranded(&client, &claim.expect("a claim"), under).await.expect("an answer")
    }

    #[tokio::test]
    async fn a_node_is_gone_when_a_human_says_so() {
        let client = server(None, vec![named("one", None), named("two", Some(OUT_OF_SERVICE))], false);
        let [one, two, three] = ["one", "two", "three"].map(|name| node(&client, name));
        let (one, two, three) = (one.await.expect("read"), two.await.expect("read"), three.await.expect("read"));
        let kept = NodeView { name: "one".to_string(), ready: true, cordoned: true, gone: false };
        assert_eq!(one, Some(kept));
        assert!(two.is_some_and(|node| node.gone) && three.is_some_and(|node| node.gone));
        assert_eq!(node(&server(None, Vec::new(), true), "one").await.expect("read"), None);
    }

    #[tokio::test]
    async fn a_volume_of_one_node_is_lost_with_it_though_its_pod_waits_for_another() {
        assert!(stranded(HOST, Vec::new(), None, false).await);
        assert!(stranded(HOST, vec![named("one", Some(OUT_OF_SERVICE))], None, false).await);
        assert!(!stranded(HOST, vec![named("one", None)], None, false).await, "the pod waits for room, not for a node");
    }

    #[tokio::test]
    async fn a_volume_that_can_be_used_elsewhere_is_not_lost_with_a_node() {
        let gone = NodeView { name: "one".to_string(), gone: true, ..NodeView::default() };
        assert!(stranded(HOST, Vec::new(), Some(&gone), false).await);
        assert!(!stranded(None, Vec::new(), Some(&gone), false).await);
        assert!(!stranded(Some("topology.kubernetes.io/zone"), Vec::new(), Some(&gone), false).await);
        let runs = NodeView { gone: false, ..gone };
        assert!(!stranded(HOST, Vec::new(), Some(&runs), false).await);
    }

    #[tokio::test]
    async fn where_volumes_cannot_be_read_only_a_node_that_is_gone_takes_its_volume_along() {
        let gone = NodeView { name: "one".to_string(), gone: true, ..NodeView::default() };
        assert!(stranded(HOST, Vec::new(), Some(&gone), true).await);
        assert!(!stranded(HOST, Vec::new(), None, true).await);
    }
}
