//! Connections of `ctl`: to a node's client port with the admin token, and to whoever answers at an address.

use std::path::Path;
use std::time::Duration;

use quorate_proto::quorate::peer::v1::peer_client::PeerClient;
use quorate_proto::quorate::v1::admin_client::AdminClient;
use quorate_proto::quorate::{peer, v1};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::ctl::address::host_and_port;
use crate::failure::Failure;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The admin service of one node, called with the token if there is one.
pub(crate) type Admin = AdminClient<InterceptedService<Channel, Token>>;

/// Puts the admin token on every call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Token(Option<MetadataValue<Ascii>>);

impl Token {
    /// Reads the token.
    ///
    /// # Errors
    /// If the file cannot be read or holds no usable token.
    pub(crate) fn read(file: Option<&Path>) -> Result<Self, Failure> {
        let Some(file) = file else { return Ok(Token(None)) };
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::new(format_args!("cannot read the token file {}: {error}", file.display())))?;
        let value = format!("Bearer {}", text.trim()).parse().map_err(|_| {
            Failure::new(format_args!("the token in {} has characters no header can carry", file.display()))
        })?;
        Ok(Token(Some(value)))
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Token(Some(value)) = self {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Opens a connection.
///
/// # Errors
/// If nobody answers at `address`.
pub(crate) async fn channel(address: &str) -> Result<Channel, Failure> {
    let address = host_and_port(address)?;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Failure::new(format_args!("`{address}` is no address: {error}")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    endpoint.connect().await.map_err(|error| {
        Failure::new(format_args!("cannot connect to {address}: {}", root_cause(&error)))
            .advise("is the node running, and is this the address it listens at?")
    })
}

/// The admin service at `address`.
///
/// # Errors
/// If nobody answers there.
pub(crate) async fn admin(address: &str, token: &Token) -> Result<Admin, Failure> {
    Ok(AdminClient::with_interceptor(channel(address).await?, token.clone()))
}

/// Asks who is at `address`, be it a client port or a peer port.
///
/// # Errors
/// If nobody answers there, or something that is not Quorate.
pub(crate) async fn identify(address: &str, token: &Token) -> Result<v1::IdentifyResponse, Failure> {
    let channel = channel(address).await?;
    let mut admin = AdminClient::with_interceptor(channel.clone(), token.clone());
    match admin.identify(v1::IdentifyRequest {}).await {
        Ok(answer) => return Ok(answer.into_inner()),
        Err(status) if status.code() != Code::Unimplemented => return Err(Failure::answered(address, &status)),
        Err(_) => {}
    }
    let answer = PeerClient::new(channel)
        .identify(peer::v1::IdentifyRequest {})
        .await
        .map_err(|status| Failure::answered(address, &status))?
        .into_inner();
    Ok(v1::IdentifyResponse {
        incarnation: answer.incarnation,
        // Both enums number the states alike.
        state: answer.state,
        name: answer.name,
        peer_address: answer.peer_address,
        client_addresses: answer.client_addresses,
        cluster_id: answer.cluster_id,
        node_id: answer.node_id,
        max_version: answer.max_version,
    })
}

/// The innermost error: "connection refused" says more than "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
