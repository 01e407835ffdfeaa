//! How many writes may wait, by how fast they are done: a queue that takes longer than its clients wait does nobody good.
//!
//! Little's law: as many as were done in the last [`WINDOW`] are done in the next one, so a longer queue means a longer
//! wait. While nothing is done at all (an election, a stalled disk) there is no pace to go by, and the queue's other
//! limits hold: a change of leaders refuses nobody.
//!
//! Never refuses; it says how many there may be.

use std::time::Duration;

use quorate_raft::Time;

/// The pace is taken over this long, and it is how long a write may expect to wait.
const WINDOW: Duration = Duration::from_secs(1);

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    window: Time,
    done: usize,
    done_before: usize,
}

impl Pace {
    /// A write of this node was answered.
    pub(crate) fn done(&mut self, now: Time) {
        self.turn(now);
        self.done += 1;
    }

    /// How many writes may wait; never fewer than `least`.
    pub(crate) fn most_waiting(&mut self, now: Time, least: usize) -> usize {
        self.turn(now);
        match self.done.max(self.done_before) {
            0 => usize::MAX,
            pace => pace.max(least),
        }
    }

    fn turn(&mut self, now: Time) {
        let passed = now.since(self.window);
        if passed < WINDOW {
            return;
        }
        self.done_before = if passed < 2 * WINDOW { self.done } else { 0 };
        self.done = 0;
        self.window = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time(10_000_000_000);

    fn paced(done: usize) -> Pace {
        let mut pace = Pace::default();
        (0..done).for_each(|_| pace.done(START));
        pace
    }

    #[test]
    fn as_many_may_wait_as_were_done_in_the_last_window_and_never_fewer_than_the_least() {
        assert_eq!(paced(700).most_waiting(START, 512), 700);
        assert_eq!(paced(700).most_waiting(START + WINDOW, 512), 700);
        assert_eq!(paced(7).most_waiting(START, 512), 512);
    }

    #[test]
    fn without_a_pace_there_is_no_limit() {
        assert_eq!(paced(0).most_waiting(START, 512), usize::MAX);
        assert_eq!(paced(700).most_waiting(START + 2 * WINDOW, 512), usize::MAX);
    }
}
