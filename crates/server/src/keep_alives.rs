//! Keepalives of many leases, gathered into one command.
//!
//! Owns the queue of keepalives that came to this node. The first goes at once; those that come while its command is under
//! way, and for the rest of a tenth of a second, share the next one. That tenth is cut short by a lease that is renewed again
//! right after its answer: whoever does that waits for each answer, and would be held to ten a second. Leases renewed every
//! third of their time, however many, stay with ten commands a second. Gathering happens at the node that was asked: it has
//! to remember who waits in any case, and the leader sees one write of each node instead of one of each lease.
//!
//! Never answers on its own word: a time to live is told when the renewal is committed and applied here.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_kv::{Actor, Command, KvError, Response, Revision};
use quorate_node::NodeError;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::runtime::Replica;

/// Time between two commands, as long as there is something to send and nobody who waits for each answer.
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
    /// Leases of the last command since its answers were given; empty while a command is under way.
    answered: HashSet<i64>,
}

impl Queue {
    /// Adds one; whether it should not be kept waiting for others.
    fn push(&mut self, waiting: Waiting) -> bool {
        let is_next_of_a_row = self.answered.contains(&waiting.id);
        self.waiting.push(waiting);
        is_next_of_a_row
    }

    /// The next batch; with none, the task that serves is about to end.
    fn take(&mut self) -> Option<Vec<Waiting>> {
        let count = self.waiting.len().min(MAX_BATCH);
        self.is_served = count > 0;
        self.answered.clear();
        (count > 0).then(|| self.waiting.drain(..count).collect())
    }
}

/// See the module documentation.
#[derive(Default)]
pub(crate) struct KeepAlives {
    queue: Mutex<Queue>,
    /// Somebody waits for each answer: no more gathering.
    hurry: Notify,
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
        if queue.push(Waiting { id, answer }) {
            self.hurry.notify_one();
        }
        if !std::mem::replace(&mut queue.is_served, true) {
            tokio::spawn(Arc::clone(self).serve(replica.clone()));
        }
        Ok(receiver)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(self: Arc<Self>, replica: Replica) {
        let mut batch = self.lock().take();
        while let Some(waiting) = batch {
            let next = Instant::now() + GATHERING;
            let full = waiting.len() == MAX_BATCH;
            self.renew(&replica, waiting).await;
            if !full {
                // A notice left over from an earlier pause only makes this one short.
                let _ = tokio::time::timeout_at(next, self.hurry.notified()).await;
            }
            batch = self.lock().take();
        }
    }

    async fn renew(&self, replica: &Replica, batch: Vec<Waiting>) {
        let renewed = renew(replica, batch.iter().map(|waiting| waiting.id).collect()).await;
        self.lock().answered.extend(batch.iter().map(|waiting| waiting.id));
        for (place, waiting) in batch.into_iter().enumerate() {
            let answer = renewed.as_ref().map(|(ttls_seconds, revision)| (ttls_seconds[place], *revision));
            // Whoever asked may be gone.
            let _ = waiting.answer.send(answer.map_err(Clone::clone));
        }
    }
}

/// What the leases have left, in their order.
async fn renew(replica: &Replica, ids: Vec<i64>) -> Result<(Vec<i64>, Revision), KeepAliveError> {
    // Who may keep a lease alive was decided where each was asked for.
    let outcome = replica.write(Actor::Node, Command::LeaseRenew { ids }).await?;
    match outcome.result? {
        Response::LeaseRenew { ttls_seconds } => Ok((ttls_seconds, outcome.revision)),
        other => unreachable!("a renewal is answered by {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(id: i64) -> Waiting {
        Waiting { id, answer: oneshot::channel().0 }
    }

    #[test]
    fn only_a_lease_renewed_again_after_its_answer_cuts_the_gathering_short() {
        let mut queue = Queue::default();
        assert!(!queue.push(waiting(1)), "the first of a lease");
        assert_eq!(queue.take().map(|batch| batch.len()), Some(1));
        assert!(!queue.push(waiting(1)), "sent without waiting for the answer");
        queue.answered.extend([1]);
        assert!(!queue.push(waiting(2)), "another lease");
        assert!(queue.push(waiting(1)), "after its answer");
        assert_eq!(queue.take().map(|batch| batch.len()), Some(3));
        assert!(queue.take().is_none());
        assert!(!queue.is_served && !queue.push(waiting(1)), "long after its answer");
    }
}
