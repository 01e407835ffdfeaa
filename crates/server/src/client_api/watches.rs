//! A client's stream of watches, the same for every protocol: each request is judged, each answer comes in its turn.
//!
//! Never sees bytes of a protocol. Dropping the stream ends its watches.

use std::sync::Arc;
use std::task::{Context, Poll};

use quorate_node::NodeError;
use quorate_node::watch::{Answer, Ended, Refusal};
use quorate_wire::etcd::{WatchCreate, WatchRequest};
use quorate_wire::peer::NodeState;
use tonic::Status;
use tonic::codegen::BoxFuture;
use tonic::codegen::http::HeaderMap;

use super::{ApiError, ClientApi};
use crate::access::{Action, Denied};
use crate::gate::wants_leader;
use crate::runtime::{NotOpened, WatchStream};

/// See the module documentation.
pub(crate) struct Watches {
    api: Arc<ClientApi>,
    headers: Arc<HeaderMap>,
    stream: WatchStream,
    /// A watch whose caller is being judged.
    judged: Option<BoxFuture<WatchCreate, Refusal>>,
}

impl ClientApi {
    /// Begins a stream of watches on this node's state.
    ///
    /// # Errors
    /// [`ApiError`]: this node does not serve.
    pub(crate) fn watch(self: &Arc<Self>, headers: HeaderMap) -> Result<Watches, ApiError> {
        let needs_leader = wants_leader(&headers);
        let standing = self.replica.standing();
        if standing.leaving || standing.state == NodeState::Removed {
            return Err(NodeError::NodeRemoved.into());
        }
        if matches!(standing.state, NodeState::Fenced | NodeState::Damaged) {
            return Err(self.not_serving());
        }
        match self.replica.watch(needs_leader) {
            Some(Ok(stream)) => Ok(Watches { api: Arc::clone(self), headers: Arc::new(headers), stream, judged: None }),
            Some(Err(NotOpened::Full)) => {
                self.metrics.requests.limits_hit_total.with_label_values(&["watch_streams"]).inc();
                Err(NodeError::TooManyRequests.into())
            }
            Some(Err(NotOpened::Stopping)) => Err(NodeError::Stopping.into()),
            None => Err(self.not_serving()),
        }
    }
}

impl Watches {
    /// Whether a further request may be made now; if not, it may after the next answer.
    pub(crate) fn takes_requests(&self) -> bool {
        self.judged.is_none() && self.stream.takes_requests()
    }

    /// Whether nothing is to come unless something is asked.
    pub(crate) fn is_idle(&self) -> bool {
        self.judged.is_none() && self.stream.is_idle()
    }

    /// Makes a request. A watch that is not allowed is refused in its turn.
    ///
    /// # Panics
    /// If no request may be made now.
    pub(crate) fn request(&mut self, request: WatchRequest) {
        assert!(self.takes_requests(), "a request is made while another is judged");
        let create = match request {
            // A watch of what cannot be is told nothing and needs no right: refused by the stream, before rights as in etcd.
            WatchRequest::Create(create) if create.start_revision >= 0 => create,
            other => return self.stream.request(other),
        };
        let (api, headers) = (Arc::clone(&self.api), Arc::clone(&self.headers));
        self.judged = Some(Box::pin(async move {
            let action = Action::Watch { key: &create.key, range_end: &create.range_end };
            match api.access.check(&headers, action).await {
                Ok(_) => Ok(create),
                Err(denied) => Err(refusal(denied)),
            }
        }));
    }

    /// The next answer; after an end there is none.
    pub(crate) fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Answer, Ended>>> {
        if let Some(judged) = &mut self.judged
            && let Poll::Ready(judged) = judged.as_mut().poll(context)
        {
            self.judged = None;
            match judged {
                Ok(create) => self.stream.request(WatchRequest::Create(create)),
                Err(reason) => self.stream.refuse(reason),
            }
        }
        let answer = self.stream.poll_answer(context);
        if let Poll::Ready(Some(Ok(Answer::Refused { reason, .. }))) = &answer {
            let limit = match reason {
                Refusal::StreamFull { .. } => "stream_watches",
                Refusal::NodeFull { .. } => "node_watches",
                _ => return answer,
            };
            self.api.metrics.requests.limits_hit_total.with_label_values(&[limit]).inc();
        }
        answer
    }
}

/// What etcd tells of a watch its caller may not have: the status of a call that would be refused, in Go's words.
fn refusal(denied: Denied) -> Refusal {
    let status = Status::from(ApiError::Denied(denied));
    Refusal::Denied(format!("rpc error: code = {:?} desc = {}", status.code(), status.message()))
}
