//! The gRPC services of the client port: etcd's and `quorate.v1.Admin`, with health and reflection.
//!
//! Each method decodes, hands over to [`crate::client_api::ClientApi`] or the replica, and encodes.

mod admin;
mod auth;
mod claims;
mod cluster;
mod downgrade;
mod election;
mod header;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod metadata;
mod status;
mod watch;

use std::sync::Arc;

use quorate_proto::etcdserverpb::auth_server::AuthServer;
use quorate_proto::etcdserverpb::cluster_server::ClusterServer;
use quorate_proto::etcdserverpb::kv_server::KvServer;
use quorate_proto::etcdserverpb::lease_server::LeaseServer;
use quorate_proto::etcdserverpb::maintenance_server::MaintenanceServer;
use quorate_proto::quorate::v1::admin_server::AdminServer;
use quorate_proto::v3electionpb::election_server::ElectionServer;
use quorate_proto::v3lockpb::lock_server::LockServer;
use tonic::codegen::http::{self, Uri};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Response, Status};
use tonic_health::server::{HealthReporter, health_reporter};

use self::admin::AdminService;
use self::auth::AuthService;
use self::cluster::ClusterService;
use self::election::ElectionService;
pub(crate) use self::kv::KvService;
use self::lease::LeaseService;
use self::lock::LockService;
use self::maintenance::MaintenanceService;
use self::watch::WatchService;
use crate::answers::HeldAnswer;
use crate::client_api::ClientApi;
use crate::inside::Inside;
use crate::relay::Relay;

/// The etcd version whose behaviour is offered. Clients choose features by it, so it has to be one they know.
pub(crate) const ETCD_VERSION: &str = "3.7.3";
/// The same by major and minor number, as etcd tells it of a cluster.
pub(crate) const ETCD_CLUSTER_VERSION: &str = "3.7";
/// The etcd version of the data format, by major and minor number.
pub(crate) const ETCD_STORAGE_VERSION: &str = "3.7.0";

/// Bytes by which a message may be larger than the largest request in it.
const DECODE_MARGIN: usize = 512 * 1024;

/// The `KV` service.
pub(crate) fn kv_service(api: &Arc<ClientApi>, relay: &Arc<Relay>) -> KvServer<KvService> {
    KvServer::new(KvService::new(Arc::clone(api), Arc::clone(relay)))
        .max_decoding_message_size(api.max_request_bytes() + DECODE_MARGIN)
}

/// Every other service, and the handle that turns health around. Some are made of calls of `kv`.
pub(crate) async fn other_services(api: &Arc<ClientApi>, kv: &KvServer<KvService>) -> (axum::Router, HealthReporter) {
    let max_message_bytes = api.max_request_bytes() + DECODE_MARGIN;
    let (reporter, health) = health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(quorate_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(<KvServer<KvService> as NamedService>::NAME)
        .with_service_name(<WatchService as NamedService>::NAME)
        .with_service_name(<LeaseServer<LeaseService> as NamedService>::NAME)
        .with_service_name(<ClusterServer<ClusterService> as NamedService>::NAME)
        .with_service_name(<MaintenanceServer<MaintenanceService> as NamedService>::NAME)
        .with_service_name(<AuthServer<AuthService> as NamedService>::NAME)
        .with_service_name(<AdminServer<AdminService> as NamedService>::NAME)
        .with_service_name(<LockServer<LockService> as NamedService>::NAME)
        .with_service_name(<ElectionServer<ElectionService> as NamedService>::NAME)
        .with_service_name("grpc.health.v1.Health")
        .build_v1()
        .expect("the descriptors are generated together with the code");
    let cluster = ClusterService::new(Arc::clone(api));
    let lease = LeaseService::new(Arc::clone(api));
    let maintenance = MaintenanceService::new(Arc::clone(api));
    let auth = AuthService::new(Arc::clone(api));
    let admin = AdminService::new(Arc::clone(api));
    let routes = Routes::new(ClusterServer::new(cluster).max_decoding_message_size(max_message_bytes))
        .add_service(WatchService::new(Arc::clone(api)))
        .add_service(LeaseServer::new(lease).max_decoding_message_size(max_message_bytes))
        .add_service(MaintenanceServer::new(maintenance).max_decoding_message_size(max_message_bytes))
        .add_service(AuthServer::new(auth).max_decoding_message_size(max_message_bytes))
        .add_service(AdminServer::new(admin).max_decoding_message_size(max_message_bytes))
        .add_service(health)
        .add_service(reflection);
    let services = routes.prepare().into_axum_router().fallback(not_offered);
    (with_claims(kv, services), reporter)
}

/// Locks and elections are made of calls of the other services.
fn with_claims(kv: &KvServer<KvService>, services: axum::Router) -> axum::Router {
    let inside = Inside::new(kv.clone(), services.clone());
    let lock = LockServer::new(LockService::new(inside.clone()));
    let election = ElectionServer::new(ElectionService::new(inside));
    services
        .route_service(&format!("/{}/{{*method}}", LockServer::<LockService>::NAME), lock)
        .route_service(&format!("/{}/{{*method}}", ElectionServer::<ElectionService>::NAME), election)
}

/// The claim of a large answer travels with it to the connection.
fn hold<T>(mut response: Response<T>, held: Option<HeldAnswer>) -> Response<T> {
    if let Some(held) = held {
        response.extensions_mut().insert(held);
    }
    response
}

/// The answer to a method that is not registered: an empty text would leave its caller guessing what it talks to.
async fn not_offered(uri: Uri) -> http::Response<axum::body::Body> {
    let method = uri.path().trim_start_matches('/');
    Status::unimplemented(format!("{method} is not offered by this version of Quorate")).into_http()
}
