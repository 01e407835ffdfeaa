//! gRPC calls from within the process: the same services, with the same checks, as a call over the network.
//!
//! For whatever is another spelling of calls that exist already: the JSON gateway, locks, elections. Never gives a caller
//! rights that the metadata it passes on would not give it.

use std::convert::Infallible;
use std::task::{Context, Poll};

use quorate_proto::etcdserverpb::kv_server::KvServer;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};

use crate::encoded::with_encoded_body;
use crate::grpc::KvService;

/// All services, without a connection in between.
#[derive(Debug, Clone)]
pub(crate) struct Inside {
    kv: KvServer<KvService>,
    services: axum::Router,
}

impl Inside {
    /// `services` are all but `KV`.
    pub(crate) fn new(kv: KvServer<KvService>, services: axum::Router) -> Inside {
        Inside { kv, services }
    }
}

impl Service<http::Request<Body>> for Inside {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Neither tonic's services nor axum's routers ever ask a caller to wait.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path().starts_with(crate::dispatch::KV_PATH) {
            let call = self.kv.call(request);
            return Box::pin(async move { Ok(with_encoded_body(call.await?)) });
        }
        let answer = self.services.call(request.map(axum::body::Body::new));
        Box::pin(async move { Ok(answer.await?.map(Body::new)) })
    }
}
