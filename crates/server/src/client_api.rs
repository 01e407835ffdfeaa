//! A decoded request's way to its answer, the same for gRPC and HTTP: is it allowed, is it valid, what does the replica
//! say, and is the answer still true when it is made.
//!
//! Never sees bytes of a protocol, and never decides about consensus: how fresh a read is, is the replica's word.

mod hashes;
mod leases;
#[cfg(test)]
mod stalled_read;
mod watches;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prometheus::IntGauge;
use quorate_kv::{
    Actor, AuthError, Command, KvError, Outcome, RangeRequest, RangeResponse, Response, ResponseBody, Revision,
    TxnRequest, TxnResponse,
};
use quorate_node::{Consistency, NodeError, ReadGrant, ReadOptions};
use quorate_store::{RationedReadError, ReadError, StateStream, StateView};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::codegen::http::HeaderMap;

pub(crate) use self::leases::QueuedKeepAlives;
pub(crate) use self::watches::Watches;
use crate::access::{Access, Action, Denied, MAX_ROUNDS, Permit};
use crate::answers::{AnswerBudget, AnswerLimits, Claim, HeldAnswer, NoRoom};
use crate::keep_alives::KeepAlives;
use crate::metrics::{Metrics, ReadOutcome};
use crate::node_state::why_not_serving;
use crate::read_choice::BadChoice;
use crate::runtime::Replica;

/// Bytes of a small range that is read where it arrives. Larger ones take threads of their own, so that a listing of a
/// million keys delays nobody's single key.
const MAX_INLINE_BYTES: usize = 256 << 10;

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

/// What a read was served under, and how to tell the client.
#[derive(Debug, Clone)]
pub(crate) struct Served<T> {
    /// The answer.
    pub answer: T,
    /// What the replica said about its freshness.
    pub grant: ReadGrant,
    /// The memory it takes, if that is worth counting; to be kept until it is sent.
    pub held: Option<HeldAnswer>,
}

/// A streamed range, and its place among those that may be under way.
#[derive(Debug)]
pub(crate) struct ServedStream {
    /// What is left of it.
    pub stream: StateStream,
    /// What the replica said about its freshness.
    pub grant: ReadGrant,
    /// Kept until the client has everything.
    pub place: OwnedSemaphorePermit,
}

/// What one node lets its clients ask for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriteLimits {
    /// Encoded bytes of a write.
    pub(crate) max_request_bytes: usize,
    /// Leases there may be before no more are granted.
    pub(crate) max_leases: usize,
}

/// What a write was answered.
#[derive(Debug)]
pub(crate) struct WriteAnswer {
    /// The answer.
    pub(crate) response: Response,
    /// Revision of the store after the write.
    pub(crate) revision: Revision,
    /// The memory it takes, if that is worth counting; to be kept until it is sent.
    pub(crate) held: Option<HeldAnswer>,
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

    /// Replicates a command that took `bytes` to send. The answer comes when it is committed and applied here.
    ///
    /// # Errors
    /// [`ApiError`]. After [`NodeError::Timeout`] and its kin the command may still take effect.
    pub(crate) async fn write(
        &self,
        headers: &HeaderMap,
        mut command: Command,
        bytes: usize,
    ) -> Result<Outcome, ApiError> {
        let mut permit = self.access.check(headers, Action::Write(&command)).await?;
        if bytes > self.writes.max_request_bytes {
            return Err(self.explain(NodeError::TooLarge));
        }
        quorate_kv::validate(&command, &self.limits)?;
        // Judged again where it is applied; what is refused here makes no entry.
        if self.judge(&command).is_err() {
            // Elsewhere the alarm may be cleared, or the lease revoked, and answered so.
            self.confirm().await?;
            self.judge(&command)?;
        }
        let _pending = PendingWrite::begin(&self.metrics);
        for _ in 1..MAX_ROUNDS {
            // Only who is somebody can have been judged by rights that are not in force any more.
            let again = (permit.actor() != Actor::Anonymous).then(|| command.clone());
            let outcome = self.submit(&permit, command).await?;
            let changed = matches!(outcome.result, Err(KvError::Auth(AuthError::OldRevision)));
            let Some(refused) = again.filter(|_| changed) else { return Ok(outcome) };
            // It was without effect, and whatever the rights are now is applied here.
            command = refused;
            permit = self.access.check(headers, Action::Write(&command)).await?;
        }
        self.submit(&permit, command).await
    }

    /// The same for a command whose answer may be large: with the memory it takes.
    ///
    /// # Errors
    /// As [`ClientApi::write`], and [`ApiError::AnswerWithheld`], after which the command has taken effect.
    pub(crate) async fn write_answered(
        &self,
        headers: &HeaderMap,
        command: Command,
        bytes: usize,
    ) -> Result<WriteAnswer, ApiError> {
        let Outcome { result, revision, .. } = self.write(headers, command, bytes).await?;
        let response = result?;
        let claim = match response {
            Response::Withheld => None,
            _ => self.room_for(response.bytes()).await,
        };
        match claim {
            Some(claim) => Ok(WriteAnswer { response, revision, held: claim.keep() }),
            None => {
                self.count_limit("answer_bytes");
                Err(ApiError::AnswerWithheld(revision))
            }
        }
    }

    /// A claim for an answer that is in memory already, once there is room for it.
    async fn room_for(&self, bytes: usize) -> Option<Claim> {
        let claim = self.answers.open();
        if claim.take(bytes) {
            return Some(claim);
        }
        drop(claim);
        self.answers.wait_for(bytes).await.ok().filter(|claim| claim.take(bytes))
    }

    /// Whether a write can be taken, by what this node has applied.
    fn judge(&self, command: &Command) -> Result<(), KvError> {
        let Some(view) = self.replica.view() else { return Ok(()) };
        view.admit(command)?;
        if matches!(command, Command::LeaseGrant(_)) && view.lease_count() >= self.writes.max_leases {
            return Err(KvError::TooManyLeases);
        }
        Ok(())
    }

    async fn submit(&self, permit: &Permit, command: Command) -> Result<Outcome, ApiError> {
        self.replica.write(permit.actor(), command).await.map_err(|refused| {
            self.metrics.raft.proposals_failed_total.inc();
            self.explain(refused)
        })
    }

    /// Reads an interval.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn range(
        &self,
        headers: &HeaderMap,
        request: RangeRequest,
        options: ReadOptions,
    ) -> Result<Served<RangeResponse>, ApiError> {
        let request = Arc::new(request);
        let read = || async {
            quorate_kv::validate_range(&request)?;
            self.range_unasked(Arc::clone(&request), options).await
        };
        self.access.permitted(headers, Action::Range(&request), read).await
    }

    /// Whether a key can be read, without telling what is there: for probes, which are nobody.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn probe(&self, options: ReadOptions) -> Result<(), ApiError> {
        let request = RangeRequest { key: "health".into(), limit: 1, keys_only: true, ..RangeRequest::default() };
        self.range_unasked(Arc::new(request), options).await.map(drop)
    }

    async fn range_unasked(
        &self,
        request: Arc<RangeRequest>,
        options: ReadOptions,
    ) -> Result<Served<RangeResponse>, ApiError> {
        let began = Instant::now();
        let reading = self.read(options, || {
            let request = Arc::clone(&request);
            async {
                if let Some(answer) = self.small_range(&request)? {
                    return Ok(answer);
                }
                self.read_state(move |view, claim| view.range_within(&request, &|bytes| claim.take(bytes))).await
            }
        });
        let served = reading.await;
        self.metrics.etcd.ranged(began.elapsed(), served.is_ok());
        served
    }

    /// The answer to a range that turns out to be small, read on this thread.
    fn small_range(&self, request: &RangeRequest) -> Result<Option<(RangeResponse, Option<HeldAnswer>)>, ApiError> {
        let claim = self.answers.open();
        let allow = |bytes| claim.take(bytes) && claim.bytes() <= MAX_INLINE_BYTES;
        match self.view()?.range_if_small(request, &allow) {
            Ok(Some(answer)) => Ok(Some((answer?, claim.keep()))),
            Ok(None) | Err(RationedReadError::NotAllowed) => Ok(None),
            Err(RationedReadError::Read(error)) => Err(self.unread(error)),
        }
    }

    /// A transaction that only reads: no log entry, all of it at one revision.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn read_txn(
        &self,
        headers: &HeaderMap,
        request: TxnRequest,
        options: ReadOptions,
    ) -> Result<Served<(TxnResponse, Revision)>, ApiError> {
        let request = Arc::new(request);
        let read = || async {
            quorate_kv::validate_txn(&request, &self.limits)?;
            let reading = self.read(options, || {
                let request = Arc::clone(&request);
                self.read_state(move |view, claim| {
                    Ok(view.read_txn_within(&request, &|bytes| claim.take(bytes))?.map(|response| {
                        let revision = revision_of(&response).unwrap_or_else(|| view.revision());
                        (response, revision)
                    }))
                })
            });
            reading.await
        };
        self.access.permitted(headers, Action::ReadTxn(&request), read).await
    }

    /// Begins a streamed range. Later chunks are read at the same revision, whatever is written meanwhile.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn begin_stream(
        &self,
        headers: &HeaderMap,
        request: RangeRequest,
        options: ReadOptions,
    ) -> Result<ServedStream, ApiError> {
        let request = &request;
        let begin = || async move {
            quorate_kv::validate_stream(request)?;
            let place = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
                self.count_limit("streams");
                NoRoom::TooManyStreams(self.answer_limits.max_streams)
            })?;
            let begun = self.read(options, || async move { Ok((self.view()?.stream(request)?, None)) }).await?;
            Ok(ServedStream { stream: begun.answer, grant: begun.grant, place })
        };
        self.access.permitted(headers, Action::Range(request), begin).await
    }

    /// Waits until this node has applied whatever was answered anywhere before this call, and reads nothing: for answers
    /// made of a status.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn confirm(&self) -> Result<(), ApiError> {
        let options = ReadOptions { consistency: Consistency::Consistent, ..ReadOptions::default() };
        self.read(options, || std::future::ready(Ok(((), None)))).await.map(drop)
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

    /// Asks for permission, reads, and asks whether the permission still holds. A lease that ran out in between (the
    /// process may have been paused) makes the read a `Consistent` one.
    async fn read<T, F>(&self, options: ReadOptions, mut answer: impl FnMut() -> F) -> Result<Served<T>, ApiError>
    where
        F: Future<Output = Result<(T, Option<HeldAnswer>), ApiError>>,
    {
        let mut retried = false;
        let mut options_now = options;
        let result = loop {
            let grant = match self.replica.read(options_now).await {
                Ok(grant) => grant,
                Err(refused) => break Err(self.explain(refused)),
            };
            match answer().await {
                Ok(_) if !self.replica.read_still_valid(&grant) => {
                    assert!(!retried, "a confirmed read has no lease that could run out");
                    retried = true;
                    options_now.consistency = Consistency::Consistent;
                }
                Ok((answer, held)) => break Ok(Served { answer, grant, held }),
                Err(error) => break Err(error),
            }
        };
        self.count_read(options.consistency, retried, &result);
        result
    }

    fn count_read<T>(&self, asked: Consistency, retried: bool, result: &Result<Served<T>, ApiError>) {
        let outcome = match result {
            // The key space's refusals are answers, too.
            Ok(_) | Err(ApiError::Kv(_)) if retried => ReadOutcome::ServedAfterRetry,
            Ok(_) | Err(ApiError::Kv(_)) => ReadOutcome::Served,
            Err(ApiError::Node(NodeError::StaleRead { .. })) => ReadOutcome::TooStale,
            Err(_) => ReadOutcome::Failed,
        };
        self.metrics.reads.record(asked, outcome);
        match result {
            Ok(Served { grant, .. }) if grant.effective == Consistency::Consistent => {
                self.metrics.raft.read_indexes_total.inc();
            }
            Err(ApiError::Node(refused)) if asked == Consistency::Consistent => {
                self.metrics.raft.read_indexes_failed_total.inc();
                if matches!(refused, NodeError::Timeout | NodeError::TimeoutLeaderFailure) {
                    self.metrics.etcd.slow_read_indexes_total.inc();
                }
            }
            _ => {}
        }
        if let Ok(Served { grant, .. }) = result
            && grant.effective == Consistency::Stale
            && let Some(staleness) = grant.staleness
        {
            self.metrics.reads.staleness_seconds.observe(staleness.as_secs_f64());
        }
    }

    /// Reads on a thread of its own, as often as it takes to have room for the answer.
    async fn read_state<T: Send + 'static>(
        &self,
        read: impl Fn(&StateView, &Claim) -> Result<Result<T, KvError>, RationedReadError> + Clone + Send + 'static,
    ) -> Result<(T, Option<HeldAnswer>), ApiError> {
        let view = self.view()?;
        let mut claim = self.answers.open();
        loop {
            let turn = self.large_reads.acquire().await.expect("the semaphore is never closed");
            let (view, read) = (view.clone(), read.clone());
            let reading = tokio::task::spawn_blocking(move || (read(&view, &claim), claim));
            let (result, back) = reading.await?;
            drop(turn);
            claim = back;
            match result {
                Err(RationedReadError::NotAllowed) => {
                    let bytes = claim.bytes();
                    // Nothing is held while waiting.
                    drop(claim);
                    claim = self.answers.wait_for(bytes).await.inspect_err(|_| self.count_limit("answer_bytes"))?;
                }
                Err(RationedReadError::Read(error)) => return Err(self.unread(error)),
                Ok(answer) => return Ok((answer?, claim.keep())),
            }
        }
    }

    fn count_limit(&self, limit: &str) {
        self.metrics.requests.limits_hit_total.with_label_values(&[limit]).inc();
    }
}

/// Counts a write as pending until it is answered, or until its client goes away.
struct PendingWrite<'a>(&'a IntGauge);

impl<'a> PendingWrite<'a> {
    fn begin(metrics: &'a Metrics) -> Self {
        metrics.raft.proposals_total.inc();
        let gauge = &metrics.raft.proposals_pending;
        gauge.inc();
        PendingWrite(gauge)
    }
}

impl Drop for PendingWrite<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The revision a read-only transaction was made at, by what its first range says.
fn revision_of(response: &TxnResponse) -> Option<Revision> {
    response.responses.iter().find_map(|op| match &op.body {
        ResponseBody::Range(range) => Some(range.revision),
        _ => None,
    })
}

/// How long a check of health may take before it counts as failed.
pub(crate) const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
