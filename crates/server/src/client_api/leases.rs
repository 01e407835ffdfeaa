//! What clients ask of leases, the same for all protocols.

use std::sync::Arc;
use std::time::Duration;

use quorate_kv::{Command, KvError, LeaseGrantRequest, LeaseGrantResponse, Response, Revision};
use quorate_node::NodeError;
use tokio::sync::oneshot;
use tonic::codegen::http::HeaderMap;

use super::{ApiError, ClientApi};
use crate::access::Action;
use crate::answers::HeldAnswer;
use crate::keep_alives::{KeepAliveError, Renewed};

/// Ids drawn for one grant before it is given up: two that are taken in a row say that something else is wrong.
const MAX_DRAWS: usize = 4;

/// What a key of a lease takes in an answer beside its bytes: its place among those that are read, and among those that are
/// answered, with a block of memory for each.
const KEY_OVERHEAD_BYTES: usize = 64;

/// What the id of a lease takes in an answer: as it is read, and as it is answered.
const ID_BYTES: usize = 16;

/// Leases whose keys are looked at in one go, to see whether a caller may know of them: no longer may one caller keep others
/// from their turn on this thread, and writes from the state.
const JUDGED_TOGETHER: usize = 1024;

/// What a lease has left.
#[derive(Debug, Clone)]
pub(crate) struct TimeToLive {
    /// Whole seconds left; -1 if there is no such lease.
    pub(crate) ttl_seconds: i64,
    /// What it was granted; 0 if there is no such lease.
    pub(crate) granted_seconds: i64,
    /// Its keys, if they were asked for.
    pub(crate) keys: Vec<Arc<[u8]>>,
    /// The store's revision.
    pub(crate) revision: Revision,
    /// The memory the keys take, if that is worth counting; to be kept until they are sent.
    pub(crate) held: Option<HeldAnswer>,
}

/// Ids of leases.
#[derive(Debug, Clone)]
pub(crate) struct LeaseIds {
    /// Those first that run out first.
    pub(crate) ids: Vec<i64>,
    /// The store's revision.
    pub(crate) revision: Revision,
    /// The memory they take, if that is worth counting; to be kept until they are sent.
    pub(crate) held: Option<HeldAnswer>,
}

/// What became of keepalives that came together.
pub(crate) struct QueuedKeepAlives {
    /// The leases that are being renewed, in order, and their answer.
    pub(crate) queued: Option<(Vec<i64>, oneshot::Receiver<Renewed>)>,
    /// Why the one after them is not.
    pub(crate) refused: Option<ApiError>,
}

impl From<KeepAliveError> for ApiError {
    fn from(error: KeepAliveError) -> ApiError {
        match error {
            KeepAliveError::Node(refused) => refused.into(),
            KeepAliveError::Kv(refused) => refused.into(),
        }
    }
}

impl ClientApi {
    /// Grants a lease of at least the shortest time to live; with id 0, one of this node's choice.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn grant_lease(
        &self,
        headers: &HeaderMap,
        id: i64,
        ttl_seconds: i64,
    ) -> Result<(LeaseGrantResponse, Revision), ApiError> {
        let ttl_seconds = ttl_seconds.max(self.shortest_ttl_seconds());
        for _ in 0..MAX_DRAWS {
            let drawn = if id == 0 { draw_id()? } else { id };
            let command = Command::LeaseGrant(LeaseGrantRequest { id: drawn, ttl_seconds });
            let outcome = self.write(headers, command, 0).await?;
            match outcome.result {
                Ok(Response::LeaseGrant(granted)) => return Ok((granted, outcome.revision)),
                Ok(other) => unreachable!("a grant is answered by {other:?}"),
                Err(KvError::LeaseExists) if id == 0 => {}
                Err(refused) => return Err(refused.into()),
            }
        }
        Err(KvError::LeaseExists.into())
    }

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn revoke_lease(&self, headers: &HeaderMap, id: i64) -> Result<Revision, ApiError> {
        let outcome = self.write(headers, Command::LeaseRevoke { id }, 0).await?;
        outcome.result?;
        Ok(outcome.revision)
    }

    /// Queues the renewal of leases that came together; the answer comes when it is committed and applied here. Of what is
    /// refused on the way, those before it are renewed all the same.
    pub(crate) async fn keep_alive(&self, headers: &HeaderMap, mut ids: Vec<i64>) -> QueuedKeepAlives {
        let mut refused = None;
        for place in 0..ids.len() {
            if let Err(denied) = self.access.check(headers, Action::RenewLease(ids[place])).await {
                refused = Some(denied.into());
                ids.truncate(place);
                break;
            }
        }
        if ids.is_empty() {
            return QueuedKeepAlives { queued: None, refused };
        }
        match self.keep_alives.queue(&self.replica, ids.clone()) {
            Ok(renewed) => QueuedKeepAlives { queued: Some((ids, renewed)), refused },
            Err(error) => QueuedKeepAlives { queued: None, refused: Some(error.into()) },
        }
    }

    /// What a lease has left, by the cluster clock as this node counts it.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn time_to_live(
        &self,
        headers: &HeaderMap,
        id: i64,
        with_keys: bool,
    ) -> Result<TimeToLive, ApiError> {
        let action = if with_keys { Action::LeaseKeys(id) } else { Action::Observe };
        let look = || async {
            let seen = self.look(move |view, allow| {
                let lease = match with_keys {
                    true => view.lease_within(id, &|bytes| allow(bytes + KEY_OVERHEAD_BYTES))?,
                    false => view.lease_without_keys(id),
                };
                Ok((lease, view.revision()))
            });
            let seen = seen.await?;
            if with_keys {
                // Keys may have been attached since.
                let _permit = self.access.check(headers, action).await?;
            }
            Ok::<_, ApiError>(seen)
        };
        let ((lease, revision), held) = self.access.permitted(headers, action, look).await?;
        Ok(match lease {
            None => TimeToLive { ttl_seconds: -1, granted_seconds: 0, keys: Vec::new(), revision, held },
            Some(lease) => {
                let left = self.replica.cluster_clock().until(lease.deadline);
                // The clock may not be told yet on a node that has just started: no lease has more than its whole time.
                let left = left.min(Duration::from_secs(lease.ttl_seconds.cast_unsigned()));
                TimeToLive {
                    ttl_seconds: left.as_secs().cast_signed(),
                    granted_seconds: lease.ttl_seconds,
                    keys: lease.keys,
                    revision,
                    held,
                }
            }
        })
    }

    /// Ids of all leases.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn leases(&self, headers: &HeaderMap) -> Result<LeaseIds, ApiError> {
        let look = || {
            self.look(|view, allow| {
                let ids = view.leases_within(&|count| allow(count * ID_BYTES))?;
                Ok((ids, view.revision()))
            })
        };
        let ((ids, revision), held) = self.access.permitted(headers, Action::Observe, look).await?;
        for together in ids.chunks(JUDGED_TOGETHER) {
            // As in etcd: whoever may not read a key is not told of the lease it hangs on.
            let _permit = self.access.check(headers, Action::SeeLeases(together)).await?;
            tokio::task::yield_now().await;
        }
        Ok(LeaseIds { ids, revision, held })
    }

    /// etcd's least time to live: long enough to outlast an election.
    fn shortest_ttl_seconds(&self) -> i64 {
        let millis = self.replica.election_timeout().as_millis() as u64;
        (millis * 3).div_ceil(2000).max(1).cast_signed()
    }
}

/// A random positive id.
fn draw_id() -> Result<i64, ApiError> {
    loop {
        let random = crate::runtime::random_u128().map_err(|_| NodeError::NoState)?;
        let id = (random as u64 >> 1).cast_signed();
        if id != 0 {
            return Ok(id);
        }
    }
}
