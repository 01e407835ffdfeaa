//! What a removed node still does for its clients: for a while it passes their calls on to a member.
//!
//! A client that was sent away may come back to the only address it knows; until it learns another, its reads and writes
//! are answered by the cluster, not refused. Calls that arrive after the removal are not decoded: they pass as bytes. One
//! that waited inside the node while it was removed, and so came to nothing, is sent once more ([`Relay::instead`]).
//!
//! A call is relayed once at most: two nodes that left together would otherwise send it to and fro.

use std::convert::Infallible;
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use quorate_node::NodeError;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use tokio::sync::watch;
use tonic::Status;
use tonic::codegen::http::{self, HeaderValue, Version, header};
use tonic::codegen::{BoxFuture, Service};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::address::as_url;

/// How long a removed node passes calls on.
pub(crate) const RELAY_TIME: Duration = Duration::from_secs(30);

/// A member that does not answer a connection attempt within this time is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Marks a call that has been relayed.
const RELAYED: &str = "quorate-relayed";

/// Headers that speak of one connection only; HTTP/2 knows none of them.
const HOP_HEADERS: [header::HeaderName; 4] =
    [header::CONNECTION, header::HOST, header::TRANSFER_ENCODING, header::UPGRADE];

/// A removed node learns of its removal in one task and opens the relay in another: calls refused in between wait so long.
const OPENS_WITHIN: Duration = Duration::from_secs(1);

/// Where calls go.
#[derive(Debug, Clone, Default)]
enum Way {
    /// Nowhere: this node is a member.
    #[default]
    Here,
    /// To the members at these addresses, which this channel reaches.
    Members(Vec<String>, Channel),
    /// Nowhere any more: this node left long ago, or knows no member.
    Ended,
}

/// The way to the members; shut on a node that is one.
#[derive(Debug, Default)]
pub(crate) struct Relay {
    /// Whether `way` leads to members: all that a call on a member costs.
    open: AtomicBool,
    way: watch::Sender<Way>,
}

impl Relay {
    /// Calls go to one of these client addresses from now on.
    pub(crate) fn open(&self, addresses: &[String]) {
        if matches!(&*self.way.borrow(), Way::Members(open, _) if open == addresses) {
            return;
        }
        let endpoints = endpoints(addresses);
        if endpoints.is_empty() {
            return self.turn(Way::Ended);
        }
        self.turn(Way::Members(addresses.to_vec(), Channel::balance_list(endpoints.into_iter())));
    }

    /// Calls are refused from now on.
    pub(crate) fn end(&self) {
        self.turn(Way::Ended);
    }

    /// Calls are answered here again.
    pub(crate) fn serve_here(&self) {
        self.turn(Way::Here);
    }

    fn turn(&self, way: Way) {
        let open = matches!(way, Way::Members(..));
        self.way.send_replace(way);
        self.open.store(open, Ordering::Release);
    }

    /// The members to pass this call on to, if it is to be passed on.
    pub(crate) fn takes(&self, request: &http::Request<Incoming>) -> Option<Channel> {
        if !self.open.load(Ordering::Acquire) || request.headers().contains_key(RELAYED) {
            return None;
        }
        match &*self.way.borrow() {
            Way::Members(_, channel) => Some(channel.clone()),
            Way::Here | Way::Ended => None,
        }
    }

    /// Whom to send the call with this message and metadata to instead, if `refused` says that this node was removed and so
    /// did nothing about it.
    ///
    /// # Errors
    /// `refused`, if it says something else or nobody can be asked.
    pub(crate) async fn instead<Q>(
        &self,
        refused: Status,
        mut metadata: MetadataMap,
        message: Q,
    ) -> Result<(KvClient<Channel>, tonic::Request<Q>), Status> {
        if !says_removed(&refused) || metadata.contains_key(RELAYED) {
            return Err(refused);
        }
        let mut way = self.way.subscribe();
        let turned = tokio::time::timeout(OPENS_WITHIN, way.wait_for(|way| !matches!(way, Way::Here))).await;
        let turned = turned.ok().and_then(Result::ok).map(|way| way.clone());
        let Some(Way::Members(_, members)) = turned else { return Err(refused) };
        metadata.insert(RELAYED, MetadataValue::from_static("1"));
        let members = KvClient::new(members).max_decoding_message_size(usize::MAX);
        Ok((members, tonic::Request::from_parts(metadata, http::Extensions::default(), message)))
    }
}

/// Where members listen who announced these addresses.
fn endpoints(addresses: &[String]) -> Vec<Endpoint> {
    let endpoints = addresses.iter().filter_map(|address| Endpoint::from_shared(as_url(address)).ok());
    endpoints.map(|endpoint| endpoint.connect_timeout(CONNECT_TIMEOUT)).collect()
}

/// Whether the status was made of [`NodeError::NodeRemoved`], which is kept in it as its source.
fn says_removed(refused: &Status) -> bool {
    let source = refused.source().and_then(|source| source.downcast_ref());
    matches!(source, Some(NodeError::NodeRemoved))
}

/// Passes `request` on and gives the member's answer.
pub(crate) fn pass_on(
    mut members: Channel,
    mut request: http::Request<Incoming>,
) -> BoxFuture<http::Response<tonic::body::Body>, Infallible> {
    *request.version_mut() = Version::HTTP_2;
    for name in HOP_HEADERS {
        request.headers_mut().remove(name);
    }
    request.headers_mut().insert(RELAYED, HeaderValue::from_static("1"));
    let request = request.map(tonic::body::Body::new);
    Box::pin(async move {
        let answer = async {
            std::future::poll_fn(|context| members.poll_ready(context)).await?;
            members.call(request).await
        };
        Ok(answer.await.unwrap_or_else(|error| {
            let text = format!("this node was removed from the cluster, and no member could be asked: {error}");
            Status::unavailable(text).into_http()
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::endpoints;

    #[test]
    fn members_are_found_by_either_form_of_their_addresses() {
        let announced = ["n1:2379".to_owned(), "http://n2:2379".to_owned()];
        let found: Vec<String> = endpoints(&announced).iter().map(|endpoint| endpoint.uri().to_string()).collect();
        assert_eq!(found, ["http://n1:2379/", "http://n2:2379/"]);
    }
}
