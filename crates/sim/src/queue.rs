//! The event queue: what happens next, in the order of true time.
//!
//! Events of one instant come out in the order they were scheduled, so the queue adds no chance of its own.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::clock::Instant;

struct Scheduled<E> {
    at: Instant,
    number: u64,
    event: E,
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl<E> Eq for Scheduled<E> {}
impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Scheduled<E> {
    // Reversed: the heap gives out its greatest, the queue its earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// Events waiting for their time.
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Scheduled<E>>,
    now: Instant,
    scheduled: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Queue { heap: BinaryHeap::new(), now: Instant::default(), scheduled: 0 }
    }
}

impl<E> Queue<E> {
    /// True time of the event taken last.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Schedules `event`; a time that has passed means now.
    pub(crate) fn at(&mut self, at: Instant, event: E) {
        self.scheduled += 1;
        self.heap.push(Scheduled { at: at.max(self.now), number: self.scheduled, event });
    }

    /// Takes the next event and moves time to it.
    pub(crate) fn take(&mut self) -> Option<E> {
        let next = self.heap.pop()?;
        assert!(next.at >= self.now, "time ran back");
        self.now = next.at;
        Some(next.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_then_of_scheduling() {
        let mut queue = Queue::default();
        queue.at(Instant(5), "b");
        queue.at(Instant(3), "a");
        queue.at(Instant(5), "c");
        assert_eq!(queue.take(), Some("a"));
        queue.at(Instant(1), "late means now");
        assert_eq!(queue.take(), Some("late means now"));
        assert_eq!(queue.now(), Instant(3));
        assert_eq!(queue.take(), Some("b"));
        assert_eq!(queue.take(), Some("c"));
        assert_eq!(queue.take(), None);
    }
}
