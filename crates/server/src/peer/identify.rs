//! Asks whoever listens at an address who it is.
//!
//! People know one of a node's two addresses, so both ports answer: the peer port is asked first, the client port if the
//! peer service is not there.

use std::time::Duration;

use quorate_proto::quorate::peer::v1 as proto;
use quorate_proto::quorate::peer::v1::peer_client::PeerClient;
use quorate_proto::quorate::v1::admin_client::AdminClient;
use quorate_wire::peer::PeerIdentity;
use tonic::Code;

use super::Dialer;

/// A node that takes longer to say who it is counts as not there.
const IDENTIFY_TIMEOUT: Duration = Duration::from_secs(3);

/// Nobody could be identified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    /// Nobody answers there.
    #[error("{0}")]
    Unreachable(String),
    /// Somebody answers, who is not a Quorate node or failed to say who it is.
    #[error("{address} does not answer as a Quorate node: {reason}")]
    NotANode {
        /// As asked.
        address: String,
        /// What it answered.
        reason: String,
    },
}

/// Who listens at `address`.
pub(crate) async fn identify(dialer: Dialer, address: &str) -> Result<PeerIdentity, IdentifyError> {
    let asked = tokio::time::timeout(IDENTIFY_TIMEOUT, ask(dialer, address));
    asked.await.unwrap_or_else(|_| Err(IdentifyError::Unreachable(format!("{address} did not answer in time"))))
}

async fn ask(dialer: Dialer, address: &str) -> Result<PeerIdentity, IdentifyError> {
    let channel = dialer.connect(address).await.map_err(IdentifyError::Unreachable)?;
    let not_a_node = |status: tonic::Status| IdentifyError::NotANode {
        address: address.to_owned(),
        reason: status.message().to_owned(),
    };
    let answer = match PeerClient::new(channel.clone()).identify(proto::IdentifyRequest {}).await {
        Ok(answer) => answer.into_inner(),
        Err(status) if status.code() == Code::Unimplemented => {
            let request = quorate_proto::quorate::v1::IdentifyRequest {};
            let answer = AdminClient::new(channel).identify(request).await.map_err(not_a_node)?.into_inner();
            proto::IdentifyResponse {
                incarnation: answer.incarnation,
                cluster_id: answer.cluster_id,
                node_id: answer.node_id,
                name: answer.name,
                peer_address: answer.peer_address,
                client_addresses: answer.client_addresses,
                max_version: answer.max_version,
                state: answer.state,
                version: String::new(),
            }
        }
        Err(status) => return Err(not_a_node(status)),
    };
    PeerIdentity::from_wire(answer)
        .map_err(|error| IdentifyError::NotANode { address: address.to_owned(), reason: error.to_string() })
}
