//! The operator's own port: `/metrics` for Prometheus, `/livez` and `/readyz` for the kubelet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;

use crate::metrics::Metrics;

/// Serves until the process ends. `ready` turns true when the API server knows the resource.
///
/// # Errors
/// If the port is taken.
pub async fn serve(listen: SocketAddr, metrics: Arc<Metrics>, ready: Arc<AtomicBool>) -> std::io::Result<()> {
    let readyz = move || async move {
        match ready.load(Ordering::Relaxed) {
            true => (StatusCode::OK, "ok\n"),
            false => {
                (StatusCode::SERVICE_UNAVAILABLE, "the QuorateCluster resource is not installed, or not readable\n")
            }
        }
    };
    let routes = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(move || async move { metrics.text() }));
    axum::serve(tokio::net::TcpListener::bind(listen).await?, routes).await
}
