//! What a removed node still does for its clients: for a while it passes their calls on to a member.
//!
//! A client that was sent away may come back to the only address it knows; until it learns another, its reads and writes
//! are answered by the cluster, not refused. Messages are not decoded: this is a relay of bytes.
//!
//! A call is relayed once at most: two nodes that left together would otherwise send it to and fro.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use hyper::body::Incoming;
use tonic::Status;
use tonic::codegen::http::{self, HeaderValue, Version, header};
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::{Channel, Endpoint};

/// How long a removed node passes calls on.
pub(crate) const RELAY_TIME: Duration = Duration::from_secs(30);

/// A member that does not answer a connection attempt within this time is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Marks a call that has been relayed.
const RELAYED: &str = "quorate-relayed";

/// Headers that speak of one connection only; HTTP/2 knows none of them.
const HOP_HEADERS: [header::HeaderName; 4] =
    [header::CONNECTION, header::HOST, header::TRANSFER_ENCODING, header::UPGRADE];

/// The way to the members; shut on a node that is one.
#[derive(Debug, Default)]
pub(crate) struct Relay {
    /// Whether `members` is set: all that a call on a member costs.
    open: AtomicBool,
    members: RwLock<Option<Channel>>,
}

impl Relay {
    /// Calls go to one of these client addresses from now on.
    pub(crate) fn open(&self, addresses: &[String]) {
        let endpoints = addresses.iter().filter_map(|address| Endpoint::from_shared(format!("http://{address}")).ok());
        let endpoints: Vec<Endpoint> = endpoints.map(|endpoint| endpoint.connect_timeout(CONNECT_TIMEOUT)).collect();
        if endpoints.is_empty() {
            return;
        }
        let channel = Channel::balance_list(endpoints.into_iter());
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = Some(channel);
        self.open.store(true, Ordering::Release);
    }

    /// Calls are answered here again.
    pub(crate) fn shut(&self) {
        self.open.store(false, Ordering::Release);
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The members to pass this call on to, if it is to be passed on.
    pub(crate) fn takes(&self, request: &http::Request<Incoming>) -> Option<Channel> {
        if !self.open.load(Ordering::Acquire) || request.headers().contains_key(RELAYED) {
            return None;
        }
        self.members.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
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
