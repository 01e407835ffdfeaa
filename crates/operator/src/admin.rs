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
    fn transfer_leader(
        &self,
        node: &Target,
        request: TransferLeaderRequest,
    ) -> impl Future<Output = Result<(), AdminError>> + Send;
    /// Sets the node's data aside.
    fn reset(&self, node: &Target, request: ResetRequest) -> impl Future<Output = Result<(), AdminError>> + Send;
}

/// [`Admin`] over the network.
#[derive(Debug, Clone, Copy)]
pub struct Grpc {
    /// The longest that a call may take.
    call_timeout: Duration,
}

impl Default for Grpc {
    fn default() -> Self {
        Grpc { call_timeout: CALL_TIMEOUT }
    }
}

impl Admin for Grpc {
    async fn status(&self, node: &Target) -> Result<StatusResponse, AdminError> {
        let asked = async {
            self.connect(node).await?.status(authorized(node, StatusRequest {})?).await.map_err(refused(node))
        };
        self.in_time(node, asked).await.map(tonic::Response::into_inner)
    }

    async fn init(&self, node: &Target, request: InitRequest) -> Result<(), AdminError> {
        let asked = async { self.connect(node).await?.init(authorized(node, request)?).await.map_err(refused(node)) };
        self.in_time(node, asked).await.map(drop)
    }

    async fn set_voters(&self, node: &Target, request: SetVotersRequest) -> Result<(), AdminError> {
        self.in_time(node, self.accepted(node, request)).await
    }

    async fn transfer_leader(&self, node: &Target, request: TransferLeaderRequest) -> Result<(), AdminError> {
        let asked = async {
            self.connect(node).await?.transfer_leader(authorized(node, request)?).await.map_err(refused(node))
        };
        self.in_time(node, asked).await.map(drop)
    }

    async fn reset(&self, node: &Target, request: ResetRequest) -> Result<(), AdminError> {
        let asked = async { self.connect(node).await?.reset(authorized(node, request)?).await.map_err(refused(node)) };
        self.in_time(node, asked).await.map(drop)
    }
}

impl Grpc {
    /// The limit of a channel would end with the head of the answer: a node that freezes after it would be waited for for ever.
    async fn in_time<T>(
        &self,
        node: &Target,
        asked: impl Future<Output = Result<T, AdminError>>,
    ) -> Result<T, AdminError> {
        tokio::time::timeout(self.call_timeout, asked).await.unwrap_or_else(|_| {
            let reason = format!("no answer within {:?}", self.call_timeout);
            Err(AdminError::Unreachable { address: node.address.clone(), reason })
        })
    }

    /// Asks for a change and follows it until it is replicated; before that a cancelled call may cancel it.
    async fn accepted(&self, node: &Target, request: SetVotersRequest) -> Result<(), AdminError> {
        let answer = self.connect(node).await?.set_voters(authorized(node, request)?).await.map_err(refused(node))?;
        let mut progress = answer.into_inner();
        while let Some(step) = progress.next().await {
            let accepted = [SetVotersPhase::CatchingUp, SetVotersPhase::Joint, SetVotersPhase::Done];
            if accepted.contains(&step.map_err(refused(node))?.phase()) {
                break;
            }
        }
        Ok(())
    }

    async fn connect(&self, node: &Target) -> Result<AdminClient<Channel>, AdminError> {
        let unreachable = |error: tonic::transport::Error| AdminError::Unreachable {
            address: node.address.clone(),
            reason: causes(&error),
        };
        let endpoint = Endpoint::from_shared(format!("http://{}", node.address)).map_err(unreachable)?;
        Ok(AdminClient::new(endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await.map_err(unreachable)?))
    }
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use axum::http::{Response, header};
    use axum::{Router, serve};
    use tokio::net::TcpListener;

    use super::*;

    /// Begins to answer whatever is asked, and freezes.
    async fn frozen() -> Response<Body> {
        let mut answer = Response::new(Body::from_stream(tokio_stream::pending::<Result<Vec<u8>, Infallible>>()));
        answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
        answer
    }

    #[tokio::test]
    async fn a_node_that_freezes_is_not_waited_for_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let node = Target { address: listener.local_addr().expect("bound").to_string(), token: "secret".to_string() };
        let serving = tokio::spawn(async { serve(listener, Router::new().fallback(frozen)).await });
        let admin = Grpc { call_timeout: Duration::from_millis(200) };
        let calls = [
            admin.status(&node).await.map(drop),
            admin.init(&node, InitRequest::default()).await,
            admin.set_voters(&node, SetVotersRequest::default()).await,
            admin.transfer_leader(&node, TransferLeaderRequest::default()).await,
            admin.reset(&node, ResetRequest::default()).await,
        ];
        for call in calls {
            let error = call.expect_err("nothing is answered");
            assert!(error.to_string().contains("no answer within"), "{error}");
        }
        serving.abort();
    }
}
