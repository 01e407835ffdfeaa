//! A decoded request's way to its answer, the same for gRPC and HTTP: is it allowed, is it valid, what does the replica
//! say, and is the answer still true when it is made.
//!
//! Never sees bytes of a protocol, and never decides about consensus: how fresh a read is, is the replica's word.

mod administration;
mod hashes;
mod leases;
mod reads;
#[cfg(test)]
mod stalled_read;
mod watches;
mod writes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate_kv::{AuthError, KvError, Revision};
use quorate_node::NodeError;
use quorate_store::{ReadError, StateView};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) use self::administration::Image;
pub(crate) use self::leases::{LeaseIds, QueuedKeepAlives};
pub(crate) use self::reads::{Served, ServedStream};
pub(crate) use self::watches::Watches;
pub(crate) use self::writes::{WriteAnswer, WriteLimits};
use crate::access::{Access, Denied};
use crate::answers::{AnswerBudget, AnswerLimits, NoRoom};
use crate::keep_alives::KeepAlives;
use crate::metrics::Metrics;
use crate::node_state::why_not_serving;
use crate::read_choice::BadChoice;
use crate::runtime::Replica;

/// Large ranges read at the same time; further ones wait for their turn. Bounds the threads they take.
const MAX_LARGE_READS: usize = 64;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The key space refuses it.
    #[error("etcdserver: {0}")]
    Kv(#[from] KvError),
    /// The replica cannot do it, or cannot do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The caller may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The read contradicts itself.
    #[error(transparent)]
    Choice(#[from] BadChoice),
    /// This node has no state to read or write: it waits to be initialised, or its files are damaged.
    #[error("this node is not serving: {0}")]
    NotServing(String),
    /// Stored data could not be read.
    #[error("stored data could not be read: {0}")]
    Storage(#[source] ReadError),
    /// The answer has no room in memory.
    #[error("etcdserver: {0}")]
    NoRoom(#[from] NoRoom),
    /// The write was applied; what it would answer has no room in memory.
    #[error(
        "etcdserver: the write was applied, at revision {0}, but there is no room for its answer, which alone says what a transaction \
         chose: let it read and replace less, or read that with limit or with RangeStream"
    )]
    AnswerWithheld(Revision),
    /// The operating system gives no random bytes, so no salt and no token can be made.
    #[error("no random bytes can be had")]
    NoRandomness,
    /// This node checks signed tokens and gives none: it has the public key alone.
    #[error("this node has no private key to sign tokens with")]
    NoSigningKey,
    /// A reading thread ended in the middle.
    #[error("the read was interrupted: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl From<AuthError> for ApiError {
    fn from(refused: AuthError) -> ApiError {
        ApiError::Kv(refused.into())
    }
}

/// Serves requests of all protocols from one replica.
#[derive(Debug)]
pub(crate) struct ClientApi {
    replica: Replica,
    access: Access,
    limits: quorate_kv::Limits,
    writes: WriteLimits,
    metrics: Arc<Metrics>,
    large_reads: Arc<Semaphore>,
    answers: Arc<AnswerBudget>,
    answer_limits: AnswerLimits,
    streams: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
    keep_alives: Arc<KeepAlives>,
    withdrawn: AtomicBool,
}

impl ClientApi {
    /// Serves from `replica` by the rules of `access`. Writes past `writes` are refused.
    pub(crate) fn new(
        replica: Replica,
        access: Access,
        writes: WriteLimits,
        answer_limits: AnswerLimits,
        metrics: Arc<Metrics>,
    ) -> Self {
        ClientApi {
            replica,
            access,
            limits: quorate_kv::Limits::default(),
            writes,
            metrics,
            large_reads: Arc::new(Semaphore::new(MAX_LARGE_READS)),
            answers: AnswerBudget::new(&answer_limits),
            streams: Arc::new(Semaphore::new(answer_limits.max_streams)),
            downloads: Arc::new(Semaphore::new(answer_limits.max_downloads)),
            keep_alives: Arc::default(),
            withdrawn: AtomicBool::new(false),
            answer_limits,
        }
    }

    /// Tells whoever sends clients here to send no more. Those that come are served.
    pub(crate) fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Relaxed);
    }

    /// Whether this node is about to stop.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Relaxed)
    }

    /// The replica behind it.
    pub(crate) fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The rules for callers.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Largest write that is taken.
    pub(crate) fn max_request_bytes(&self) -> usize {
        self.writes.max_request_bytes
    }

    /// Limits of answers.
    pub(crate) fn answer_limits(&self) -> &AnswerLimits {
        &self.answer_limits
    }

    /// A place among the downloads of images.
    ///
    /// # Errors
    /// [`NoRoom::TooManyDownloads`].
    pub(crate) fn download_place(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.downloads).try_acquire_owned().map_err(|_| {
            self.count_limit("downloads");
            NoRoom::TooManyDownloads(self.answer_limits.max_downloads).into()
        })
    }

    /// The node's metrics.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What the state is read from.
    ///
    /// # Errors
    /// [`ApiError::NotServing`] with what the node waits for.
    pub(crate) fn view(&self) -> Result<StateView, ApiError> {
        self.replica.view().ok_or_else(|| self.not_serving())
    }

    /// What a client is told of data that cannot be read. The node looks for itself whether its files can be trusted.
    pub(crate) fn unread(&self, error: ReadError) -> ApiError {
        self.replica.doubt();
        ApiError::Storage(error)
    }

    fn not_serving(&self) -> ApiError {
        ApiError::NotServing(why_not_serving(&self.replica.status()))
    }

    /// Counts a refusal. A node without a state says what it waits for, which its refusal does not know.
    fn explain(&self, refused: NodeError) -> ApiError {
        let requests = &self.metrics.requests;
        match refused {
            NodeError::NoState if self.replica.view().is_none() => return self.not_serving(),
            NodeError::Timeout | NodeError::TimeoutLeaderFailure => requests.timeouts_total.inc(),
            NodeError::TooManyRequests => self.count_limit("pending_requests"),
            NodeError::TooLarge => self.count_limit("request_bytes"),
            NodeError::NoSpace => self.count_limit("space"),
            _ => {}
        }
        refused.into()
    }

    fn count_limit(&self, limit: &str) {
        self.metrics.requests.limits_hit_total.with_label_values(&[limit]).inc();
    }
}

/// How long a check of health may take before it counts as failed.
pub(crate) const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
