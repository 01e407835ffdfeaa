//! Keepalives of many leases, gathered into one command.
//!
//! Owns the queue of keepalives that came to this node. The first goes at once; those that come while its command is under
//! way, and for the rest of a tenth of a second, share the next one. Gathering happens at the node that was asked: it has to
//! remember who waits in any case, and the leader sees one write of each node instead of one of each lease.
//!
//! Never answers on its own word: a time to live is told when the renewal is committed and applied here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_kv::{Actor, Command, KvError, Response, Revision};
use quorate_node::NodeError;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::runtime::Replica;

/// Time between two commands, as long as there is something to send.
const GATHERING: Duration = Duration::from_millis(100);

/// Leases renewed by one command: about 90 KB of log.
const MAX_BATCH: usize = 10_000;

/// Keepalives that wait for their command; more are refused.
const MAX_WAITING: usize = 100_000;

/// What became of a keepalive: the time to live in seconds, 0 if there is no such lease, and the store's revision.
pub(crate) type Renewed = Result<(i64, Revision), KeepAliveError>;

/// Why a lease may not have been renewed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum KeepAliveError {
    /// The replica did not do it.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The key space refused the whole command.
    #[error("etcdserver: {0}")]
    Kv(#[from] KvError),
}

struct Waiting {
    id: i64,
    answer: oneshot::Sender<Renewed>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// A task takes from it, and will look again before it ends.
    is_served: bool,
}

/// See the module documentation.
#[derive(Default)]
pub(crate) struct KeepAlives {
    queue: Mutex<Queue>,
}

impl std::fmt::Debug for KeepAlives {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeepAlives").finish_non_exhaustive()
    }
}

impl KeepAlives {
    /// Queues the renewal of one lease. The answer comes when it is applied here; a dropped receiver gives the answer up,
    /// not the renewal.
    ///
    /// # Errors
    /// [`NodeError::TooManyRequests`].
    pub(crate) fn queue(
        self: &Arc<Self>,
        replica: &Replica,
        id: i64,
    ) -> Result<oneshot::Receiver<Renewed>, KeepAliveError> {
        let (answer, receiver) = oneshot::channel();
        let mut queue = self.lock();
        if queue.waiting.len() >= MAX_WAITING {
            return Err(NodeError::TooManyRequests.into());
        }
        queue.waiting.push(Waiting { id, answer });
        if !std::mem::replace(&mut queue.is_served, true) {
            tokio::spawn(Arc::clone(self).serve(replica.clone()));
        }
        Ok(receiver)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch; with none, the task that serves is about to end.
    fn take(&self) -> Option<Vec<Waiting>> {
        let mut queue = self.lock();
        let count = queue.waiting.len().min(MAX_BATCH);
        queue.is_served = count > 0;
        (count > 0).then(|| queue.waiting.drain(..count).collect())
    }

    async fn serve(self: Arc<Self>, replica: Replica) {
        while let Some(batch) = self.take() {
            let next = Instant::now() + GATHERING;
            let full = batch.len() == MAX_BATCH;
            renew(&replica, batch).await;
            if !full {
                tokio::time::sleep_until(next).await;
            }
        }
    }
}

async fn renew(replica: &Replica, batch: Vec<Waiting>) {
    let ids = batch.iter().map(|waiting| waiting.id).collect();
    // Who may keep a lease alive was decided where each was asked for.
    let written = replica.write(Actor::Node, Command::LeaseRenew { ids }).await;
    let renewed = match written {
        Ok(outcome) => match outcome.result {
            Ok(Response::LeaseRenew { ttls_seconds }) => Ok((ttls_seconds, outcome.revision)),
            Ok(other) => unreachable!("a renewal is answered by {other:?}"),
            Err(refused) => Err(KeepAliveError::Kv(refused)),
        },
        Err(refused) => Err(KeepAliveError::Node(refused)),
    };
    for (place, waiting) in batch.into_iter().enumerate() {
        let answer = renewed.as_ref().map(|(ttls_seconds, revision)| (ttls_seconds[place], *revision));
        // Whoever asked may be gone.
        let _ = waiting.answer.send(answer.map_err(Clone::clone));
    }
}
