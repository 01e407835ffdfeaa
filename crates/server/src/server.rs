//! One node with all its ports: the replica, the client port, the metrics port, and automatic compaction.
//!
//! Owns the order of starting and stopping. `quorate server` runs one of these, `quorate dev` several.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::access::Access;
use crate::answers::AnswerLimits;
use crate::auth::{Authenticator, TokenOption};
use crate::auto_compaction::{self, AutoCompaction};
use crate::client_api::{ClientApi, WriteLimits};
use crate::dispatch::Dispatch;
use crate::gate::Gate;
use crate::inside::Inside;
use crate::leaving::take_leave_when_removed;
use crate::listen::{PortLimits, PortOrder, serve};
use crate::relay::Relay;
use crate::runtime::{Replica, ReplicaConfig, StartError};
use crate::{gateway, grpc, http};

/// What one node is started with.
#[derive(Debug)]
pub struct ServerConfig {
    /// The replica's part.
    pub replica: ReplicaConfig,
    /// Bound by the caller.
    pub client_listener: TcpListener,
    /// Bound by the caller; without it there is no metrics port.
    pub metrics_listener: Option<TcpListener>,
    /// Whoever calls `Admin` must know the token in it, or be root where users have rights.
    pub admin_token_file: Option<PathBuf>,
    /// Which tokens users are given.
    pub auth_token: TokenOption,
    /// What history is forgotten without being asked; `None` for nothing.
    pub auto_compaction: Option<AutoCompaction>,
    /// Limits of the client port.
    pub limits: PortLimits,
    /// Limits of the metrics port, which asks nobody who they are: connections to it must not take those of clients and members.
    pub metrics_limits: PortLimits,
    /// Limits of answers.
    pub answers: AnswerLimits,
}

/// A node that serves.
#[derive(Debug)]
pub struct Server {
    replica: Replica,
    client_address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    orders: Arc<watch::Sender<PortOrder>>,
    ports: JoinSet<()>,
    /// Automatic compaction, and the farewell of a removed node.
    helpers: JoinSet<()>,
    health: HealthReporter,
    api: Arc<ClientApi>,
}

impl Server {
    /// Starts the replica, then opens the ports.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: ServerConfig) -> Result<Server, StartError> {
        let max_request_bytes = config.replica.max_request_bytes;
        let writes = WriteLimits { max_request_bytes, max_leases: config.replica.max_leases };
        let metrics = Arc::clone(&config.replica.metrics);
        let client_listener = into_tokio(config.client_listener)?;
        let metrics_listener = config.metrics_listener.map(into_tokio).transpose()?;
        let client_address = client_listener.local_addr()?;
        let metrics_address = metrics_listener.as_ref().map(tokio::net::TcpListener::local_addr).transpose()?;

        let replica = Replica::start(config.replica).await?;
        let authenticator = Authenticator::new(&config.auth_token, replica.tokens())?;
        let access = Access::new(replica.clone(), authenticator, config.admin_token_file);
        let answers = config.answers;
        let api = ClientApi::new(replica.clone(), access, writes, answers.clone(), Arc::clone(&metrics));
        let api = Arc::new(api);
        let (orders, receiver) = watch::channel(PortOrder::Serve);
        let orders = Arc::new(orders);
        let mut ports = JoinSet::new();

        let relay = Arc::new(Relay::default());
        let kv = grpc::kv_service(&api, &relay);
        let (other_services, health) = grpc::other_services(&api, &kv).await;
        let inside = Inside::new(kv.clone(), other_services.clone());
        let gate = Arc::new(Gate::new(replica.clone(), Arc::clone(&metrics)));
        let gateway = gateway::router(inside, Arc::clone(&gate), max_request_bytes, answers.send_time);
        let http = http::client_router(&api).merge(gateway);
        let (limits, passed_on) = (config.limits, Arc::clone(&relay));
        let dispatch =
            Dispatch::new(kv, other_services, http, Arc::clone(&metrics), gate, passed_on, (&limits, &answers));
        let client_port = move |end| dispatch.on(end);
        ports.spawn(serve(client_listener, client_port, limits, Arc::clone(&metrics), receiver.clone()));
        if let Some(listener) = metrics_listener {
            let router = http::metrics_router(&api);
            ports.spawn(serve(listener, move |_| router.clone(), config.metrics_limits, metrics, receiver));
        }
        let mut helpers = JoinSet::new();
        if let Some(auto) = config.auto_compaction {
            helpers.spawn(auto_compaction::run(replica.clone(), auto));
        }
        helpers.spawn(take_leave_when_removed(replica.clone(), Arc::clone(&orders), relay));
        Ok(Server { replica, client_address, metrics_address, orders, ports, helpers, health, api })
    }

    /// The node itself.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Where clients connect.
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Where metrics are scraped.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Says by `/readyz` and gRPC's health service that no more clients are to be sent here. Those that come are served: a load
    /// balancer needs a moment to hear of it.
    pub async fn withdraw(&self) {
        self.api.withdraw();
        self.health.set_service_status("", ServingStatus::NotServing).await;
    }

    /// Takes no new connections, lets requests in flight end, hands leadership over, makes everything durable.
    pub async fn stop(mut self) {
        self.withdraw().await;
        self.helpers.shutdown().await;
        // Streams of watches have no end of their own.
        self.replica.end_watches(true);
        self.orders.send_replace(PortOrder::Stop);
        while self.ports.join_next().await.is_some() {}
        self.replica.stop().await;
    }
}

fn into_tokio(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}
