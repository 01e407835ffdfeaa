//! The nodes' admin API as the operator uses it.
//!
//! [`Admin`] is what acting is written against; [`Grpc`] is the real thing. Each call is one short connection: an operator of
//! many clusters would otherwise hold thousands of idle ones. Nothing is retried here; the next reconcile looks again.

use std::future::Future;
use std::time::Duration;

use quorate_proto::quorate::v1::admin_client::AdminClient;
use quorate_proto::quorate::v1::{
    InitRequest, ResetRequest, SetVotersPhase, SetVotersRequest, StatusRequest, StatusResponse, TransferLeaderRequest,
};
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a node listens, and what it wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// HOST:PORT of its client port.
    pub address: String,
    /// The admin token of its cluster.
    pub token: String,
}

/// Why an admin call had no effect that is known of.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The node does not answer; it may be starting.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// Which node.
        address: String,
        /// What the connection said.
        reason: String,
    },
    /// The node answered with an error.
    #[error("{address} refused: {status}")]
    Refused {
        /// Which node.
        address: String,
        /// Its answer.
        status: Box<Status>,
    },
}

/// The calls.
pub trait Admin: Send + Sync + 'static {
    /// The node's own view.
    fn status(&self, node: &Target) -> impl Future<Output = Result<StatusResponse, AdminError>> + Send;
    /// Makes an empty node accept the first configuration.
    fn init(&self, node: &Target, request: InitRequest) -> impl Future<Output = Result<(), AdminError>> + Send;
    /// Declares the voters; returns once the change is accepted, long before it ends.
    fn set_voters(
        &self,
        node: &Target,
        request: SetVotersRequest,
    ) -> impl Future<Output = Result<(), AdminError>> + Send;
    /// Hands leadership over.
    fn transfer_leader(&self, node: &Target, to: u64) -> impl Future<Output = Result<(), AdminError>> + Send;
    /// Sets the node's data aside.
    fn reset(&self, node: &Target, request: ResetRequest) -> impl Future<Output = Result<(), AdminError>> + Send;
}

/// [`Admin`] over the network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Grpc;

impl Admin for Grpc {
    async fn status(&self, node: &Target) -> Result<StatusResponse, AdminError> {
        let answer = connect(node).await?.status(authorized(node, StatusRequest {})?).await;
        answer.map(tonic::Response::into_inner).map_err(refused(node))
    }

    async fn init(&self, node: &Target, request: InitRequest) -> Result<(), AdminError> {
        connect(node).await?.init(authorized(node, request)?).await.map(drop).map_err(refused(node))
    }

    async fn set_voters(&self, node: &Target, request: SetVotersRequest) -> Result<(), AdminError> {
        let answer = connect(node).await?.set_voters(authorized(node, request)?).await.map_err(refused(node))?;
        let mut progress = answer.into_inner();
        // The change is replicated from the second phase on; until then a cancelled call may cancel it.
        while let Some(step) = progress.next().await {
            let accepted = [SetVotersPhase::CatchingUp, SetVotersPhase::Joint, SetVotersPhase::Done];
            if accepted.contains(&step.map_err(refused(node))?.phase()) {
                break;
            }
        }
        Ok(())
    }

    async fn transfer_leader(&self, node: &Target, to: u64) -> Result<(), AdminError> {
        let request = TransferLeaderRequest { node_id: to };
        connect(node).await?.transfer_leader(authorized(node, request)?).await.map(drop).map_err(refused(node))
    }

    async fn reset(&self, node: &Target, request: ResetRequest) -> Result<(), AdminError> {
        connect(node).await?.reset(authorized(node, request)?).await.map(drop).map_err(refused(node))
    }
}

async fn connect(node: &Target) -> Result<AdminClient<Channel>, AdminError> {
    let unreachable = |error: tonic::transport::Error| AdminError::Unreachable {
        address: node.address.clone(),
        reason: causes(&error),
    };
    let endpoint = Endpoint::from_shared(format!("http://{}", node.address)).map_err(unreachable)?;
    let channel =
        endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(CALL_TIMEOUT).connect().await.map_err(unreachable)?;
    Ok(AdminClient::new(channel))
}

fn authorized<T>(node: &Target, message: T) -> Result<Request<T>, AdminError> {
    let mut request = Request::new(message);
    let value = format!("Bearer {}", node.token).parse().map_err(|_| AdminError::Refused {
        address: node.address.clone(),
        status: Box::new(Status::unauthenticated("the admin token in the Secret is not printable text")),
    })?;
    request.metadata_mut().insert("authorization", value);
    Ok(request)
}

fn refused(node: &Target) -> impl Fn(Status) -> AdminError {
    let address = node.address.clone();
    move |status| AdminError::Refused { address: address.clone(), status: Box::new(status) }
}

/// The whole chain: the outermost error of a transport says only that there was one.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
