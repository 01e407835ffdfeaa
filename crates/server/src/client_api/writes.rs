//! Writes: what can be refused at once is, the rest is replicated, and its answer counted.

use prometheus::IntGauge;
use quorate_kv::{Actor, AuthError, Command, KvError, Outcome, Response, Revision};
use quorate_node::NodeError;
use tonic::codegen::http::HeaderMap;

use super::{ApiError, ClientApi};
use crate::access::{Action, MAX_ROUNDS, Permit};
use crate::answers::{Claim, HeldAnswer};
use crate::metrics::Metrics;

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

impl ClientApi {
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
