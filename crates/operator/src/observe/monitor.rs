//! The PodMonitor, of an API that need not be installed.

use kube::Client;

use super::kubernetes::{KubernetesView, get};
use crate::build;
use crate::crd::QuorateCluster;
use crate::names::Names;

/// What is not there can be neither made nor missed.
pub(super) async fn read(
    client: &Client,
    cluster: &QuorateCluster,
    names: &Names,
    view: &mut KubernetesView,
) -> Result<(), kube::Error> {
    let monitor = build::pod_monitor(cluster);
    let live = match get(client, names, &monitor).await {
        Err(error) if is_unserved(&error) => None,
        Err(kube::Error::Api(status)) if status.is_forbidden() && monitor.body.is_none() => None,
        other => other?,
    };
    view.monitors_served = monitor.body.is_none() || live.is_some() || {
        match client.list_api_group_resources(&monitor.resource.api_version).await {
            Ok(_) => true,
            Err(error) if is_unserved(&error) => false,
            Err(error) => return Err(error),
        }
    };
    if let Some(live) = live {
        view.take_in(cluster, (monitor.resource.kind, monitor.name), live);
    }
    Ok(())
}

/// The path of an API that is not installed is answered in plain text: the code is all there is, the reason is not `NotFound`.
fn is_unserved(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use tower::service_fn;

    use super::*;

    #[tokio::test]
    async fn without_the_prometheus_operator_there_is_nothing_to_make_and_nothing_to_miss() {
        // An API server answers the paths of an API that is not installed in plain text.
        let service = service_fn(|_: Request<Body>| async {
            let answer = Response::builder().status(404).body(Body::from(b"404 page not found\n".to_vec()));
            Ok::<_, std::convert::Infallible>(answer.expect("a response"))
        });
        let client = Client::new(service, "default");
        for wanted in [false, true] {
            let cluster: QuorateCluster = serde_json::from_value(json!({
                "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster",
                "metadata": { "name": "db", "namespace": "default" },
                "spec": { "monitoring": { "podMonitor": wanted } },
            }))
            .expect("the spec is well-formed");
            let mut view = KubernetesView::default();
            read(&client, &cluster, &Names::of(&cluster), &mut view).await.expect("no reconcile fails of it");
            assert_eq!((view.monitors_served, view.objects.len()), (!wanted, 0));
        }
    }
}
