//! Keepalives of many leases, gathered into one command.
//!
//! Owns the queue of keepalives that came to this node. The first goes at once; those that come while its command is under
//! way, and for the rest of a tenth of a second, share the next one. That tenth is cut short by a lease that is renewed again
//! right after its answer: whoever does that waits for each answer, and would be held to ten a second. Leases renewed every
//! third of their time, however many, stay with ten commands a second. Gathering happens at the node that was asked: it has
//! to remember who waits in any case, and the leader sees one write of each node instead of one of each lease.
//!
//! Never answers on its own word: a time to live is told when the renewal is committed and applied here.

use std::collections::{HashSet, VecDeque};
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

/// Keepalives that wait for their command; with as many, more are refused.
const MAX_WAITING: usize = 100_000;

/// Leases that may be queued with one answer in common.
pub(crate) const MAX_TOGETHER: usize = 256;

/// What became of keepalives: the time to live of each in seconds, 0 if there is no such lease, and the store's revision.
pub(crate) type Renewed = Result<(Vec<i64>, Revision), KeepAliveError>;

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

/// Keepalives that came together, and are answered together.
struct Waiting {
    ids: Vec<i64>,
    answer: oneshot::Sender<Renewed>,
}

/// What one command renews.
#[derive(Default)]
struct Batch {
    waiting: Vec<Waiting>,
    leases: usize,
    /// Others found no place in it.
    is_full: bool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Leases of `waiting`.
    leases: usize,
    /// A task takes from it, and will look again before it ends.
    is_served: bool,
    /// Leases of the last command since its answers were given; empty while a command is under way.
    answered: HashSet<i64>,
}

impl Queue {
    /// Adds some; whether they should not be kept waiting for others.
    fn push(&mut self, waiting: Waiting) -> bool {
        let is_next_of_a_row = waiting.ids.iter().any(|id| self.answered.contains(id));
        self.leases += waiting.ids.len();
        self.waiting.push_back(waiting);
        is_next_of_a_row
    }

    /// The next batch; with none, the task that serves is about to end.
    fn take(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        while let Some(next) = self.waiting.pop_front_if(|next| batch.leases + next.ids.len() <= MAX_BATCH) {
            batch.leases += next.ids.len();
            batch.waiting.push(next);
        }
        batch.is_full = !self.waiting.is_empty();
        self.leases -= batch.leases;
        self.is_served = !batch.waiting.is_empty();
        self.answered.clear();
        self.is_served.then_some(batch)
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
    /// Queues the renewal of some leases, [`MAX_TOGETHER`] at most. The answer comes when it is applied here; a dropped
    /// receiver gives the answer up, not the renewal.
    ///
    /// # Errors
    /// [`NodeError::TooManyRequests`].
    ///
    /// # Panics
    /// If they are more.
    pub(crate) fn queue(
        self: &Arc<Self>,
        replica: &Replica,
        ids: Vec<i64>,
    ) -> Result<oneshot::Receiver<Renewed>, KeepAliveError> {
        assert!(ids.len() <= MAX_TOGETHER, "{} keepalives come together", ids.len());
        let (answer, receiver) = oneshot::channel();
        let mut queue = self.lock();
        if queue.leases >= MAX_WAITING {
            return Err(NodeError::TooManyRequests.into());
        }
        if queue.push(Waiting { ids, answer }) {
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
        while let Some(Batch { waiting, is_full, .. }) = batch {
            let next = Instant::now() + GATHERING;
            self.renew(&replica, waiting).await;
            if !is_full {
                // A notice left over from an earlier pause only makes this one short.
                let _ = tokio::time::timeout_at(next, self.hurry.notified()).await;
            }
            batch = self.lock().take();
        }
    }

    async fn renew(&self, replica: &Replica, batch: Vec<Waiting>) {
        let ids: Vec<i64> = batch.iter().flat_map(|waiting| &waiting.ids).copied().collect();
        let mut renewed = renew(replica, ids.clone()).await;
        self.lock().answered.extend(ids);
        for waiting in batch {
            let answer = match &mut renewed {
                Ok((ttls_seconds, revision)) => Ok((ttls_seconds.drain(..waiting.ids.len()).collect(), *revision)),
                Err(error) => Err(error.clone()),
            };
            // Whoever asked may be gone.
            let _ = waiting.answer.send(answer);
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

    fn waiting(ids: &[i64]) -> Waiting {
        Waiting { ids: ids.to_vec(), answer: oneshot::channel().0 }
    }

    #[test]
    fn only_a_lease_renewed_again_after_its_answer_cuts_the_gathering_short() {
        let mut queue = Queue::default();
        assert!(!queue.push(waiting(&[1])), "the first of a lease");
        assert_eq!(queue.take().map(|batch| batch.leases), Some(1));
        assert!(!queue.push(waiting(&[1])), "sent without waiting for the answer");
        queue.answered.extend([1]);
        assert!(!queue.push(waiting(&[2, 3])), "other leases");
        assert!(queue.push(waiting(&[4, 1])), "after its answer");
        assert_eq!(queue.take().map(|batch| batch.leases), Some(5));
        assert!(queue.take().is_none());
        assert!(!queue.is_served && !queue.push(waiting(&[1])), "long after its answer");
    }

    #[test]
    fn a_command_takes_what_fits_and_leaves_what_came_together_together() {
        let mut queue = Queue::default();
        let together: Vec<i64> = (0..MAX_TOGETHER as i64).collect();
        for _ in 0..=MAX_BATCH / MAX_TOGETHER {
            queue.push(waiting(&together));
        }
        let batch = queue.take().expect("some");
        assert!(batch.is_full);
        assert_eq!((batch.leases, queue.leases), (MAX_BATCH / MAX_TOGETHER * MAX_TOGETHER, MAX_TOGETHER));
        assert_eq!(queue.take().map(|batch| (batch.leases, batch.is_full)), Some((MAX_TOGETHER, false)));
    }
}
