//! Pods that stand in for real ones, to measure one operator of many clusters on one machine.
//!
//! This program is the kubelet of one Kubernetes node: it says of each pod placed there that it runs and is ready, gives it an
//! address of this machine, and serves the Admin API there. Everything else is real: API server, controllers, scheduler,
//! volumes, operator. A stand-in answers as a node of a cluster at rest does: empty until Init, then a member, the first one
//! listed leading. It keeps nothing, and refuses what a cluster at rest is never asked for.

use std::collections::BTreeSet;
use std::error::Error;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use clap::Parser;
use futures_util::{StreamExt, future};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, ResourceExt};
use quorate_operator::names::CLIENT_PORT;
use quorate_proto::quorate::v1 as pb;
use quorate_proto::quorate::v1::admin_server::{Admin, AdminServer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_stream::Empty;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A kubelet is given up after 40 s of silence.
const HEARTBEAT: Duration = Duration::from_secs(10);
const AT_ONCE: usize = 16;
const MOST_PODS: u32 = 4_000;

/// Runs until it is ended.
#[derive(Debug, Parser)]
struct Arguments {
    /// How the API server is reached
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Name of the Kubernetes node; also its label and its taint `stand-in`
    #[arg(long)]
    node: String,
    /// Address of the first pod; the next ones follow. All of them must be this machine's
    #[arg(long)]
    first_address: Ipv4Addr,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "a provider is installed already")?;
    let arguments = Arguments::parse();
    let kubeconfig = Kubeconfig::read_from(&arguments.kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let kubelet =
        Kubelet { client, node: arguments.node, addresses: Mutex::new(Addresses::from(arguments.first_address)) };
    kubelet.register().await?;
    future::try_join(kubelet.live(), kubelet.run_pods()).await?;
    Ok(())
}

/// The kubelet of the one node.
struct Kubelet {
    client: Client,
    node: String,
    addresses: Mutex<Addresses>,
}

/// Who has got an address, by uid; and the next one.
struct Addresses {
    given: BTreeSet<String>,
    next: u32,
}

impl From<Ipv4Addr> for Addresses {
    fn from(first: Ipv4Addr) -> Self {
        Addresses { given: BTreeSet::new(), next: first.to_bits() }
    }
}

impl Addresses {
    /// An address for this pod; none if it has got one.
    fn give(&mut self, uid: String) -> Option<Ipv4Addr> {
        let address = Ipv4Addr::from_bits(self.next);
        let new = self.given.insert(uid);
        self.next += u32::from(new);
        new.then_some(address)
    }
}

impl Kubelet {
    /// Nothing is placed here that does not ask for it.
    async fn register(&self) -> Result<(), kube::Error> {
        let labels = json!({ "kubernetes.io/hostname": self.node, "stand-in": self.node });
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": self.node, "labels": labels },
            "spec": { "taints": [{ "key": "stand-in", "value": self.node, "effect": "NoSchedule" }] },
        });
        let apply = PatchParams::apply("stand-ins").force();
        Api::<Node>::all(self.client.clone()).patch(&self.node, &apply, &Patch::Apply(node)).await?;
        Ok(())
    }

    async fn live(&self) -> Result<(), Box<dyn Error>> {
        let api = Api::<Node>::all(self.client.clone());
        let mut heartbeats = tokio::time::interval(HEARTBEAT);
        loop {
            heartbeats.tick().await;
            let room =
                json!({ "cpu": "10000", "memory": "10Ti", "ephemeral-storage": "10Ti", "pods": MOST_PODS.to_string() });
            let ready = json!({
                "type": "Ready", "status": "True", "reason": "StandIn", "message": "",
                "lastHeartbeatTime": Timestamp::now(), "lastTransitionTime": Timestamp::UNIX_EPOCH,
            });
            let status = json!({ "status": { "capacity": room, "allocatable": room, "conditions": [ready] } });
            api.patch_status(&self.node, &PatchParams::default(), &Patch::Merge(status)).await?;
        }
    }

    async fn run_pods(&self) -> Result<(), Box<dyn Error>> {
        let placed = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node));
        let pods = watcher(Api::<Pod>::all(self.client.clone()), placed).default_backoff().applied_objects();
        pods.for_each_concurrent(AT_ONCE, |pod| async {
            let done = match pod {
                Ok(pod) if pod.metadata.deletion_timestamp.is_some() => self.end(&pod).await,
                Ok(pod) => self.start(&pod).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = done {
                eprintln!("{error}");
            }
        })
        .await;
        Err("the watch has ended".into())
    }

    async fn start(&self, pod: &Pod) -> Result<(), Box<dyn Error>> {
        let given = self.addresses.lock().expect("nobody panics while holding it").give(pod.uid().unwrap_or_default());
        let Some(address) = given else { return Ok(()) };
        let listener = TcpListener::bind((address, CLIENT_PORT)).await?;
        let node = StandIn { name: pod.name_any(), address, cluster: Mutex::default() };
        let server = Server::builder().add_service(AdminServer::new(node));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let patch = Patch::Merge(json!({ "status": running(pod, address) }));
        self.api_of(pod).patch_status(&pod.name_any(), &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Its last word, which the API server waits for.
    async fn end(&self, pod: &Pod) -> Result<(), Box<dyn Error>> {
        match self.api_of(pod).delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    fn api_of(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default())
    }
}

/// What a kubelet says of a pod whose containers run and are ready.
fn running(pod: &Pod, address: Ipv4Addr) -> Value {
    let now = Timestamp::now();
    let holds = |kind: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": now });
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(holds);
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let containers = containers.map(|container| {
        json!({
            "name": container.name, "image": container.image, "imageID": "", "restartCount": 0, "ready": true, "started": true,
            "state": { "running": { "startedAt": now } },
        })
    });
    json!({
        "phase": "Running", "startTime": now, "podIP": address, "podIPs": [{ "ip": address }], "conditions": conditions,
        "containerStatuses": containers.collect::<Vec<_>>(),
    })
}

/// One node of a cluster.
struct StandIn {
    name: String,
    address: Ipv4Addr,
    /// As it was told by Init.
    cluster: Mutex<Option<pb::InitRequest>>,
}

type Answer<T> = Result<Response<T>, Status>;

fn never<T>() -> Answer<T> {
    Err(Status::unimplemented("a cluster at rest is never asked for this"))
}

impl StandIn {
    /// Never given to two pods.
    fn incarnation(&self) -> Vec<u8> {
        u128::from(self.address.to_bits()).to_be_bytes().to_vec()
    }

    fn empty(&self) -> pb::StatusResponse {
        pb::StatusResponse {
            incarnation: self.incarnation().into(),
            name: self.name.clone(),
            state: pb::NodeState::Uninitialised.into(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            peer_address: format!("{}:2380", self.address),
            client_addresses: vec![format!("{}:{CLIENT_PORT}", self.address)],
            max_version: 1,
            ..pb::StatusResponse::default()
        }
    }

    /// A member, whose id is its position in the list.
    fn member(&self, cluster: &pb::InitRequest) -> pb::StatusResponse {
        let own = self.incarnation();
        let ids = || (1..).zip(&cluster.members);
        let node_id = ids().find(|(_, member)| member.incarnation[..] == own[..]).map_or(0, |(id, _)| id);
        let leads = node_id == 1;
        let voter = |(node_id, member): (u64, &pb::InitMember)| pb::Member {
            node_id,
            incarnation: member.incarnation.clone(),
            name: member.name.clone(),
            peer_address: member.peer_address.clone(),
            client_addresses: member.client_addresses.clone(),
            role: pb::MemberRole::Voter.into(),
            max_version: member.max_version,
        };
        let follower = |node_id| pb::Follower { node_id, match_index: 1, active: true, ..pb::Follower::default() };
        let others = ids().map(|(id, _)| id).filter(|id| leads && *id != 1);
        pb::StatusResponse {
            node_id,
            cluster_id: cluster.cluster_id.clone(),
            state: pb::NodeState::Member.into(),
            role: if leads { pb::RaftRole::Leader } else { pb::RaftRole::Follower }.into(),
            lease_valid: leads,
            term: 1,
            leader: 1,
            configuration: Some(pb::Configuration {
                index: 1,
                members: ids().map(voter).collect(),
                ..pb::Configuration::default()
            }),
            log: Some(pb::LogPosition { first: 1, last: 1, commit: 1, applied: 1, last_term: 1 }),
            followers: others.map(follower).collect(),
            ..self.empty()
        }
    }
}

#[tonic::async_trait]
impl Admin for StandIn {
    type SetVotersStream = Empty<Result<pb::SetVotersProgress, Status>>;
    type SnapshotStream = Empty<Result<pb::SnapshotChunk, Status>>;

    async fn init(&self, request: Request<pb::InitRequest>) -> Answer<pb::InitResponse> {
        let request = request.into_inner();
        let node_id = self.member(&request).node_id;
        *self.cluster.lock().expect("nobody panics while holding it") = Some(request);
        Ok(Response::new(pb::InitResponse { node_id }))
    }
    async fn status(&self, _: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        let cluster = self.cluster.lock().expect("nobody panics while holding it");
        Ok(Response::new(cluster.as_ref().map_or_else(|| self.empty(), |cluster| self.member(cluster))))
    }
    async fn identify(&self, _: Request<pb::IdentifyRequest>) -> Answer<pb::IdentifyResponse> {
        never()
    }
    async fn set_voters(&self, _: Request<pb::SetVotersRequest>) -> Answer<Self::SetVotersStream> {
        never()
    }
    async fn transfer_leader(&self, _: Request<pb::TransferLeaderRequest>) -> Answer<pb::TransferLeaderResponse> {
        never()
    }
    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Answer<Self::SnapshotStream> {
        never()
    }
    async fn reset(&self, _: Request<pb::ResetRequest>) -> Answer<pb::ResetResponse> {
        never()
    }
}
