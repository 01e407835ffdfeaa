//! HTTP/1.1 (and HTTP/2) beside gRPC: keys in the manner of Consul's KV API, probes, version, metrics.
//!
//! Never has rules of its own about keys or freshness: it is another spelling of what [`crate::client_api`] does.

mod answer;
mod health;
mod kv;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use serde_json::json;

use crate::client_api::ClientApi;
use crate::grpc::{ETCD_STORAGE_VERSION, ETCD_VERSION};

/// What HTTP handlers share.
#[derive(Debug, Clone)]
struct Shared {
    api: Arc<ClientApi>,
}

/// Everything HTTP on the client port.
pub(crate) fn client_router(api: &Arc<ClientApi>) -> Router {
    let shared = Shared { api: Arc::clone(api) };
    let keys: MethodRouter<Shared> = get(kv::get).put(kv::put).delete(kv::delete).fallback(answer::wrong_method);
    probes()
        .route("/version", get(version).fallback(answer::wrong_method))
        .route("/v1/kv", keys.clone())
        .route("/v1/kv/", keys.clone())
        .route("/v1/kv/{*key}", keys)
        .fallback(answer::no_such_path)
        .with_state(shared)
}

/// Metrics and health alone: for scrapers and probes, which have no credentials.
pub(crate) fn metrics_router(api: &Arc<ClientApi>) -> Router {
    let shared = Shared { api: Arc::clone(api) };
    probes().fallback(answer::no_such_path).with_state(shared)
}

fn probes() -> Router<Shared> {
    let only_get = |handler: MethodRouter<Shared>| handler.fallback(answer::wrong_method);
    Router::new()
        .route("/health", only_get(get(health::health)))
        .route("/livez", only_get(get(health::livez)))
        .route("/livez/{check}", only_get(get(health::livez_check)))
        .route("/readyz", only_get(get(health::readyz)))
        .route("/readyz/{check}", only_get(get(health::readyz_check)))
        .route("/metrics", only_get(get(metrics)))
}

async fn version(State(shared): State<Shared>) -> Response {
    let in_cluster = shared.api.replica().status().identity.is_some();
    let cluster = if in_cluster { ETCD_STORAGE_VERSION } else { "not_decided" };
    axum::Json(json!({
        "etcdserver": ETCD_VERSION,
        "etcdcluster": cluster,
        "storage": ETCD_STORAGE_VERSION,
        "quorate": env!("CARGO_PKG_VERSION"),
    }))
    .into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let metrics = shared.api.metrics();
    metrics.observe(&shared.api.replica().status());
    match metrics.encode() {
        Ok(text) => {
            let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => answer::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}
