//! Reads: permission first, then the state, then whether the permission still holds; and room for every answer.

use std::sync::Arc;
use std::time::Instant;

use quorate_kv::{KvError, RangeRequest, RangeResponse, ResponseBody, Revision, TxnRequest, TxnResponse};
use quorate_node::{Consistency, NodeError, ReadGrant, ReadOptions};
use quorate_store::{RationedReadError, StateStream, StateView};
use tokio::sync::OwnedSemaphorePermit;
use tonic::codegen::http::HeaderMap;

use super::{ApiError, ClientApi};
use crate::access::Action;
use crate::answers::{Claim, HeldAnswer, NoRoom};
use crate::blocking::with_permit;
use crate::metrics::ReadOutcome;

/// Bytes of a small range that is read where it arrives. Larger ones take threads of their own, so that a listing of a
/// million keys delays nobody's single key.
const MAX_INLINE_BYTES: usize = 256 << 10;

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

impl ClientApi {
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
        let small = self.read_small(|view, allow| view.range_if_small(request, allow))?;
        small.map(|(answer, held)| Ok((answer?, held))).transpose()
    }

    /// Reads on this thread what turns out to be small; `read` asks for the bytes it takes.
    fn read_small<T>(
        &self,
        read: impl FnOnce(&StateView, &dyn Fn(usize) -> bool) -> Result<Option<T>, RationedReadError>,
    ) -> Result<Option<(T, Option<HeldAnswer>)>, ApiError> {
        let claim = self.answers.open();
        let allow = |bytes| claim.take(bytes) && claim.bytes() <= MAX_INLINE_BYTES;
        match read(&self.view()?, &allow) {
            Ok(Some(answer)) => Ok(Some((answer, claim.keep()))),
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

    /// Looks at something other than records, as it is once this node has applied whatever was answered anywhere before this
    /// call. `look` asks for the bytes it takes: little is looked at on this thread, more as a large range is read.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(super) async fn look<T: Send + 'static>(
        &self,
        look: impl Fn(&StateView, &dyn Fn(usize) -> bool) -> Result<T, RationedReadError> + Clone + Send + 'static,
    ) -> Result<(T, Option<HeldAnswer>), ApiError> {
        let options = ReadOptions { consistency: Consistency::Consistent, ..ReadOptions::default() };
        let looking = self.read(options, || {
            let look = look.clone();
            async move {
                if let Some(answer) = self.read_small(|view, allow| look(view, allow).map(Some))? {
                    return Ok(answer);
                }
                self.read_state(move |view, claim| look(view, &|bytes| claim.take(bytes)).map(Ok)).await
            }
        });
        let Served { answer, held, .. } = looking.await?;
        Ok((answer, held))
    }

    /// Asks for permission, reads, and asks whether the permission still holds. A lease that ran out in between (the
    /// process may have been paused) makes the read a `Consistent` one.
    pub(super) async fn read<T, F>(
        &self,
        options: ReadOptions,
        mut answer: impl FnMut() -> F,
    ) -> Result<Served<T>, ApiError>
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

    /// A place among the reads that take threads of their own.
    pub(super) async fn turn_to_read(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.large_reads).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Reads on a thread of its own, as often as it takes to have room for the answer.
    async fn read_state<T: Send + 'static>(
        &self,
        read: impl Fn(&StateView, &Claim) -> Result<Result<T, KvError>, RationedReadError> + Clone + Send + 'static,
    ) -> Result<(T, Option<HeldAnswer>), ApiError> {
        let view = self.view()?;
        let mut claim = self.answers.open();
        loop {
            let turn = self.turn_to_read().await;
            let (view, read) = (view.clone(), read.clone());
            let (result, back) = with_permit(turn, move || (read(&view, &claim), claim)).await?;
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
}

/// The revision a read-only transaction was made at, by what its first range says.
fn revision_of(response: &TxnResponse) -> Option<Revision> {
    response.responses.iter().find_map(|op| match &op.body {
        ResponseBody::Range(range) => Some(range.revision),
        _ => None,
    })
}
