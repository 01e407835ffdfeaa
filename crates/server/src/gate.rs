//! What every gRPC call of a client is asked before its message is looked at: whether it says its version in text, and
//! whether there is a leader if it wants one. The metadata are etcd's.
//!
//! Calls within the process do not come here: whoever makes them has been asked.

use std::sync::Arc;

use quorate_node::NodeError;
use tonic::Status;
use tonic::codegen::BoxFuture;
use tonic::codegen::http::HeaderMap;

use crate::client_api::ApiError;
use crate::metrics::{MethodKind, Metrics};
use crate::runtime::Replica;

/// The metadata of a client that wants to be told when there is no leader.
const HAS_LEADER: &str = "hasleader";
/// The metadata with the version of etcd's client.
const CLIENT_API_VERSION: &str = "client-api-version";
/// Election timeouts without a leader after which a stream that wants one is ended.
const LEADERLESS_TIMEOUTS: u32 = 3;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Gate {
    replica: Replica,
    metrics: Arc<Metrics>,
}

impl Gate {
    pub(crate) fn new(replica: Replica, metrics: Arc<Metrics>) -> Gate {
        Gate { replica, metrics }
    }

    /// Counts the call and lets it in.
    ///
    /// # Errors
    /// The status that it ends with.
    pub(crate) fn admit(&self, headers: &HeaderMap, kind: MethodKind) -> Result<(), Status> {
        let version = match headers.get(CLIENT_API_VERSION) {
            None => "unknown",
            Some(version) => std::str::from_utf8(version.as_bytes())
                .map_err(|_| Status::invalid_argument("etcdserver: invalid client api version"))?,
        };
        self.metrics.grpc.record_client(kind, version);
        if wants_leader(headers) && self.replica.standing().leader.is_none() {
            return Err(ApiError::Node(NodeError::NoLeader).into());
        }
        Ok(())
    }

    /// The status with which a stream ends once there was no leader for long.
    pub(crate) fn leaderless(&self) -> BoxFuture<Status, std::convert::Infallible> {
        let mut changes = self.replica.watch_status();
        let patience = LEADERLESS_TIMEOUTS * self.replica.election_timeout();
        Box::pin(async move {
            loop {
                if changes.wait_for(|change| change.leader.is_none()).await.is_err() {
                    return Ok(ApiError::Node(NodeError::Stopping).into());
                }
                let led = tokio::time::timeout(patience, changes.wait_for(|change| change.leader.is_some())).await;
                if led.is_err() {
                    return Ok(ApiError::Node(NodeError::NoLeader).into());
                }
            }
        })
    }
}

/// Whether the caller wants to be refused where no leader is known.
pub(crate) fn wants_leader(headers: &HeaderMap) -> bool {
    headers.get(HAS_LEADER).is_some_and(|value| value == "true")
}
