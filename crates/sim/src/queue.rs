//! The event queue: what happens next, in the order of true time.
//!
//! Events of one instant come out in the order they were scheduled, so the queue adds no chance of its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::Instant;

/// Time, number, and where the event lies: the heap moves these, not the events, which are large.
type Key = Reverse<(Instant, u64, usize)>;

/// Events waiting for their time.
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Key>,
    events: Vec<Option<E>>,
    free: Vec<usize>,
    now: Instant,
    scheduled: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        let now = Instant::default();
        Queue { heap: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), now, scheduled: 0 }
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
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.heap.push(Reverse((at.max(self.now), self.scheduled, place)));
    }

    /// Takes the next event and moves time to it.
    pub(crate) fn take(&mut self) -> Option<E> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        assert!(at >= self.now, "time ran back");
        self.now = at;
        self.free.push(place);
        self.events[place].take()
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
