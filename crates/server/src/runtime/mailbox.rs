//! The input queue of a worker thread: many senders, one receiver that takes everything at once.
//!
//! A channel hands over one item a call and may wake its receiver for each; under load a worker wants the whole backlog in
//! one go, because a batch is one log transaction, one message a peer, one wake-up. Senders wake the receiver only when it
//! sleeps.
//!
//! Invariant: an item is taken once, and items of one sender keep their order.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    inner: Mutex<Inner<T>>,
    arrived: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    items: Vec<T>,
    asleep: bool,
    closed: bool,
}

/// What a wait ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// At least one item was taken.
    Items,
    /// The deadline passed with nothing to take.
    Deadline,
    /// Closed, and everything sent before was taken.
    Closed,
}

/// Why an item was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotSent {
    /// As many wait as may.
    Full,
    /// Nobody takes items any more.
    Closed,
}

impl<T> Mailbox<T> {
    pub(crate) fn new() -> Mailbox<T> {
        Mailbox {
            inner: Mutex::new(Inner { items: Vec::new(), asleep: false, closed: false }),
            arrived: Condvar::new(),
        }
    }

    /// Queues one item; gives it back if the mailbox is closed.
    pub(crate) fn send(&self, item: T) -> Result<(), T> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(item);
        }
        inner.items.push(item);
        let wake = std::mem::take(&mut inner.asleep);
        drop(inner);
        if wake {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Queues one item unless `limit` items wait already.
    pub(crate) fn send_within(&self, limit: usize, item: T) -> Result<(), NotSent> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(NotSent::Closed);
        }
        if inner.items.len() >= limit {
            return Err(NotSent::Full);
        }
        inner.items.push(item);
        let wake = std::mem::take(&mut inner.asleep);
        drop(inner);
        if wake {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Queues all items in their order and leaves `items` empty; a closed mailbox swallows them.
    pub(crate) fn send_all(&self, items: &mut Vec<T>) {
        if items.is_empty() {
            return;
        }
        let mut inner = self.lock();
        if inner.closed {
            items.clear();
            return;
        }
        inner.items.append(items);
        let wake = std::mem::take(&mut inner.asleep);
        drop(inner);
        if wake {
            self.arrived.notify_one();
        }
    }

    /// Moves everything queued to the end of `into` without waiting.
    pub(crate) fn take_queued(&self, into: &mut Vec<T>) {
        let mut inner = self.lock();
        if into.is_empty() {
            std::mem::swap(&mut inner.items, into);
        } else {
            into.append(&mut inner.items);
        }
    }

    /// Items queued and not yet taken.
    pub(crate) fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Moves everything queued to the end of `into`, waiting until something is there, `deadline` has passed or the mailbox is
    /// closed. No deadline = wait for ever.
    pub(crate) fn take(&self, deadline: Option<Instant>, into: &mut Vec<T>) -> Wake {
        let mut inner = self.lock();
        loop {
            if !inner.items.is_empty() {
                if into.is_empty() {
                    // The caller's empty buffer becomes the next queue: no allocation in the steady state.
                    std::mem::swap(&mut inner.items, into);
                } else {
                    into.append(&mut inner.items);
                }
                return Wake::Items;
            }
            if inner.closed {
                return Wake::Closed;
            }
            let wait = match deadline {
                None => None,
                Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                    None | Some(Duration::ZERO) => return Wake::Deadline,
                    some => some,
                },
            };
            inner.asleep = true;
            inner = match wait {
                None => self.arrived.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(wait) => self.arrived.wait_timeout(inner, wait).unwrap_or_else(PoisonError::into_inner).0,
            };
            inner.asleep = false;
        }
    }

    /// Whether nothing more can be sent.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Refuses further items; what is queued is still taken.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.asleep = false;
        drop(inner);
        self.arrived.notify_all();
    }

    /// Refuses further items and drops what is queued: nobody will take it.
    pub(crate) fn abandon(&self) {
        self.close();
        let abandoned = std::mem::take(&mut self.lock().items);
        // Dropped without the lock: an item may wake whoever waits for its answer.
        drop(abandoned);
    }

    /// A panic of another sender cannot leave the queue half-changed: every change is one push, swap or flag.
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn everything_queued_is_taken_at_once_and_in_order() {
        let mailbox = Mailbox::new();
        for item in 0..5 {
            mailbox.send(item).unwrap();
        }
        let mut taken = Vec::new();
        assert_eq!(mailbox.take(None, &mut taken), Wake::Items);
        assert_eq!(taken, [0, 1, 2, 3, 4]);
        assert_eq!(mailbox.len(), 0);
    }

    #[test]
    fn a_closed_mailbox_hands_out_what_was_sent_before() {
        let mailbox = Mailbox::new();
        mailbox.send(1).unwrap();
        mailbox.close();
        assert_eq!(mailbox.send(2), Err(2));
        let mut taken = Vec::new();
        assert_eq!(mailbox.take(None, &mut taken), Wake::Items);
        assert_eq!(mailbox.take(None, &mut taken), Wake::Closed);
        assert_eq!(taken, [1]);
    }

    #[test]
    fn a_full_mailbox_takes_nothing_before_it_is_emptied() {
        let mailbox = Mailbox::new();
        assert_eq!(mailbox.send_within(1, 1), Ok(()));
        assert_eq!(mailbox.send_within(1, 2), Err(NotSent::Full));
        mailbox.take(None, &mut Vec::new());
        assert_eq!(mailbox.send_within(1, 3), Ok(()));
        mailbox.abandon();
        assert_eq!((mailbox.send_within(1, 4), mailbox.len()), (Err(NotSent::Closed), 0));
    }

    #[test]
    fn a_sleeping_receiver_is_woken() {
        let mailbox = Arc::new(Mailbox::new());
        let sender = Arc::clone(&mailbox);
        let thread = std::thread::spawn(move || {
            let mut taken = Vec::new();
            let wake = mailbox.take(None, &mut taken);
            (wake, taken)
        });
        sender.send(7).unwrap();
        assert_eq!(thread.join().unwrap(), (Wake::Items, vec![7]));
    }

    #[test]
    fn a_passed_deadline_ends_the_wait() {
        let mailbox = Mailbox::<u8>::new();
        assert_eq!(mailbox.take(Some(Instant::now()), &mut Vec::new()), Wake::Deadline);
    }
}
