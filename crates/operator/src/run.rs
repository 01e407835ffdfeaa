//! `quorate-operator run`: waits for the resource and the Lease, then reconciles until told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::runtime::controller::{self, Config, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::Grpc;
use crate::build::Defaults;
use crate::crd::QuorateCluster;
use crate::lease::Election;
use crate::metrics::Metrics;
use crate::names::MANAGER;
use crate::probes;
use crate::reconcile::{Context, after_error, reconcile};

const RETRY: Duration = Duration::from_secs(2);
/// Changes come in bursts: a pod's start is five of them.
const DEBOUNCE: Duration = Duration::from_millis(100);
const CONCURRENT_RECONCILES: u16 = 16;
const PROBES_PORT: u16 = 8080;
/// The longest that the API server may be silent while an answer is read; a watch without news is ended by it after 290 s. Looks and
/// the Lease have shorter limits of their own; what begins a watch has none but this.
const LONGEST_SILENCE: Duration = Duration::from_secs(300);

/// Settings of the program.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Look after clusters in this namespace only; in all of them if absent
    #[arg(long, env = "QUORATE_WATCH_NAMESPACE")]
    namespace: Option<String>,
    /// Image of the nodes, without its tag: that is spec.version
    #[arg(long, env = "QUORATE_IMAGE", default_value = "quorate")]
    image: String,
    /// Where metrics and probes are served; port 8080 of all addresses if absent
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Address of the API server within the cluster: its family says at which addresses to listen
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", hide = true)]
    service_host: Option<String>,
    /// Namespace of the Lease by which replicas of the operator agree who acts
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    lease_namespace: String,
    /// Name of that Lease
    #[arg(long, default_value = "quorate-operator")]
    lease_name: String,
    /// Name of this replica
    #[arg(long, env = "POD_NAME", default_value = "quorate-operator")]
    identity: String,
}

/// Why the program ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no way to the API server.
    #[error("the API server: {0}")]
    Kubernetes(#[from] kube::Error),
    /// The probes' port.
    #[error("the port of metrics and probes: {0}")]
    Listen(std::io::Error),
    /// Signals.
    #[error("signals cannot be received: {0}")]
    Signal(std::io::Error),
    /// Another replica may act now, so this one must not.
    #[error("the lease was lost")]
    LeaseLost,
}

/// Runs until SIGTERM or Ctrl-C.
///
/// # Errors
/// [`RunError`]; the process should end, and be started again.
pub async fn run(args: RunArgs) -> Result<(), RunError> {
    let client = connect().await?;
    let metrics = Arc::new(Metrics::new());
    let ready = Arc::new(AtomicBool::new(false));
    let defaults = Defaults::new(&args.image, args.service_host.as_deref());
    let listen = args.listen.unwrap_or_else(|| SocketAddr::from((defaults.all_addresses, PROBES_PORT)));
    let probes = probes::serve(listen, Arc::clone(&metrics), Arc::clone(&ready));
    let work = lead(&args, &defaults, &client, &metrics, &ready);
    tokio::select! {
        served = probes => served.map_err(RunError::Listen),
        worked = work => worked,
    }
}

async fn connect() -> Result<Client, kube::Error> {
    let mut config = kube::Config::infer().await.map_err(kube::Error::InferConfig)?;
    // Counted from when something was asked, not from when the connection went idle.
    (config.read_timeout, config.reset_reader_on_write) = (Some(LONGEST_SILENCE), true);
    Client::try_from(config)
}

async fn lead(
    args: &RunArgs,
    defaults: &Defaults,
    client: &Client,
    metrics: &Arc<Metrics>,
    ready: &AtomicBool,
) -> Result<(), RunError> {
    let mut stop = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let election = Election::new(client.clone(), &args.lease_namespace, &args.lease_name, args.identity.clone());
    let to_act = async {
        await_resource(args, client).await;
        ready.store(true, Ordering::Relaxed);
        tracing::info!("waiting for the lease");
        election.acquire().await;
    };
    tokio::select! {
        () = to_act => {}
        _ = stop.recv() => return Ok(()),
        _ = tokio::signal::ctrl_c() => return Ok(()),
    }
    tracing::info!("reconciling");
    metrics.leads(true);
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let mut controller = Box::pin(control(args, defaults.clone(), client, metrics, ended));
    tokio::select! {
        () = &mut controller => return Ok(()),
        () = election.hold() => return Err(RunError::LeaseLost),
        _ = stop.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    // Steps under way end before the Lease is given to somebody else.
    drop(end);
    controller.await;
    election.release().await;
    Ok(())
}

/// Waits instead of ending: a chart may install the resource after the operator.
async fn await_resource(args: &RunArgs, client: &Client) {
    while let Err(error) = clusters(args, client).list(&ListParams::default().limit(1)).await {
        tracing::warn!(%error, "QuorateCluster cannot be listed yet");
        tokio::time::sleep(RETRY).await;
    }
}

async fn control(
    args: &RunArgs,
    defaults: Defaults,
    client: &Client,
    metrics: &Arc<Metrics>,
    ended: tokio::sync::oneshot::Receiver<()>,
) {
    let reporter = Reporter { controller: MANAGER.to_string(), instance: Some(args.identity.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let context = Arc::new(Context::new(client.clone(), Grpc::default(), defaults, recorder, Arc::clone(metrics)));
    let ours = watcher::Config::default().labels("app.kubernetes.io/managed-by=quorate-operator");
    // Claims get their labels from the StatefulSet's selector, so the label of the operator is not on them.
    let named = watcher::Config::default().labels("app.kubernetes.io/name=quorate");
    Controller::new(clusters(args, client), watcher::Config::default())
        .with_config(Config::default().debounce(DEBOUNCE).concurrency(CONCURRENT_RECONCILES))
        .owns(scoped::<StatefulSet>(args, client), ours.clone())
        .watches(scoped::<Pod>(args, client), ours, cluster_of)
        .watches(scoped::<PersistentVolumeClaim>(args, client), named, cluster_of)
        .graceful_shutdown_on(async move { drop(ended.await) })
        .run(reconcile, after_error, context)
        .for_each(|reconciled| async {
            match reconciled {
                // Failed reconciles have told of themselves, and what is gone needs none.
                Ok(_) | Err(controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_)) => {}
                Err(error) => {
                    metrics.watch_failed();
                    tracing::warn!(%error, "a watch failed");
                }
            }
        })
        .await;
}

/// Pods are owned by their StatefulSet and claims by nobody: both carry the cluster's name as a label.
fn cluster_of<K: ResourceExt>(object: K) -> Option<ObjectRef<QuorateCluster>> {
    let name = object.labels().get("app.kubernetes.io/instance")?.clone();
    Some(ObjectRef::new(&name).within(&object.namespace()?))
}

fn clusters(args: &RunArgs, client: &Client) -> Api<QuorateCluster> {
    scoped(args, client)
}

fn scoped<K>(args: &RunArgs, client: &Client) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match &args.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
