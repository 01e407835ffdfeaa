//! The one place for an image that is being received, and who has it.
//!
//! An image takes minutes, and leaders change meanwhile: an old one that hangs on its disk, or sends what nobody will install,
//! must not keep out the one that now leads. So the image of a later term takes the place of an earlier one's. A leader
//! sends one at a time, so within a term whoever comes second is refused until the first has ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_raft::Term;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// What the sender of an image is told that a later one overtakes.
pub(crate) const OVERTAKEN: &str = "the leader of a later term sends one";

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct IncomingImage {
    place: Arc<Semaphore>,
    /// Who has the place, or gets it next.
    newest: Mutex<Option<Claim>>,
}

#[derive(Debug, Clone)]
struct Claim {
    term: Term,
    overtaken: Arc<Notify>,
}

impl IncomingImage {
    pub(crate) fn new() -> Arc<IncomingImage> {
        Arc::new(IncomingImage { place: Arc::new(Semaphore::new(1)), newest: Mutex::default() })
    }

    /// Waits until whoever is overtaken has left.
    ///
    /// # Errors
    /// Why there is no place for an image of `term`.
    pub(crate) async fn enter(self: &Arc<Self>, term: Term) -> Result<ImagePlace, &'static str> {
        let mut place = self.claim(term)?;
        let turn = Arc::clone(&self.place).acquire_owned();
        tokio::select! {
            biased;
            () = place.overtaken() => return Err(OVERTAKEN),
            permit = turn => place.permit = Some(permit.expect("the semaphore is never closed")),
        }
        Ok(place)
    }

    fn claim(self: &Arc<Self>, term: Term) -> Result<ImagePlace, &'static str> {
        let claim = Claim { term, overtaken: Arc::default() };
        let mut newest = self.newest();
        if let Some(before) = &*newest {
            if before.term >= term {
                return Err("another snapshot is being received");
            }
            before.overtaken.notify_one();
        }
        *newest = Some(claim.clone());
        Ok(ImagePlace { of: Arc::clone(self), claim, permit: None })
    }

    fn newest(&self) -> MutexGuard<'_, Option<Claim>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place, until this is dropped.
#[derive(Debug)]
pub(crate) struct ImagePlace {
    of: Arc<IncomingImage>,
    claim: Claim,
    permit: Option<OwnedSemaphorePermit>,
}

impl ImagePlace {
    /// Resolves when a later image wants the place.
    pub(crate) async fn overtaken(&self) {
        self.claim.overtaken.notified().await;
    }
}

impl Drop for ImagePlace {
    fn drop(&mut self) {
        let mut newest = self.of.newest();
        if newest.as_ref().is_some_and(|newest| Arc::ptr_eq(&newest.overtaken, &self.claim.overtaken)) {
            *newest = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_later_term_takes_the_place_and_the_same_or_an_earlier_one_does_not() {
        let incoming = IncomingImage::new();
        let first = incoming.enter(Term(5)).await.expect("free");
        for term in [4, 5] {
            assert!(incoming.enter(Term(term)).await.is_err(), "{term}");
        }
        let (second, ()) = tokio::join!(incoming.enter(Term(6)), async {
            first.overtaken().await;
            drop(first);
        });
        assert!(incoming.enter(Term(5)).await.is_err(), "the place of who was overtaken is not free");
        drop(second.expect("the first has left"));
        let again = tokio::time::timeout(SOON, incoming.enter(Term(1))).await.expect("nobody is there");
        assert!(again.is_ok());
    }

    #[tokio::test]
    async fn who_waits_for_the_place_is_overtaken_too() {
        let incoming = IncomingImage::new();
        // On a disk that hangs, it does not leave at once.
        let first = incoming.enter(Term(1)).await.expect("free");
        let (second, third, ()) = tokio::join!(incoming.enter(Term(2)), incoming.enter(Term(3)), async {
            tokio::task::yield_now().await;
            drop(first);
        });
        assert_eq!(second.map(drop), Err(OVERTAKEN));
        assert!(third.is_ok());
    }
}
