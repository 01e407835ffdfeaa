//! The cluster clock as this node tells it between the entries that set it.
//!
//! A leader's clock begins where the log's stands when it has applied the first entry of its own term, and goes on by its
//! own monotonic clock. What passed before, without a leader or since the last entry of the one before, does not count: the
//! clock never runs ahead of real time, so no lease runs out early, whoever leads.
//!
//! Why a command appended before that first entry is applied needs no stamp: its deadlines count from what the log's clock
//! says there, which is where this leader's clock begins, and that is later.

use std::time::Duration;

use quorate_kv::ClusterTime;
use quorate_raft::Time;

/// A clock is logged at least this often while there are leases, and as much less often as they are far from running out:
/// it is what a change of leaders can add to a lease.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);
const SHORTEST_SILENCE: Duration = Duration::from_secs(1);

/// Share of the time to the next deadline after which the clock is logged again.
const SILENCE_SHARE: u32 = 8;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct ClusterClock {
    /// As the state machine has it, and when this node learned that.
    applied: Reading,
    /// Present on a leader that has applied an entry of its own term.
    led: Option<Led>,
}

/// What the clock showed at a moment of this node's own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) clock: ClusterTime,
    pub(crate) at: Time,
}

#[derive(Debug)]
struct Led {
    began: Reading,
    /// The newest clock this leader appended.
    logged: ClusterTime,
}

impl Reading {
    fn after(self, now: Time) -> ClusterTime {
        self.clock.after(now.since(self.at))
    }

    /// When the clock will show `target`.
    fn when(self, target: ClusterTime) -> Time {
        self.at + self.clock.until(target)
    }
}

impl ClusterClock {
    pub(crate) fn new(clock: ClusterTime, now: Time) -> ClusterClock {
        ClusterClock { applied: Reading { clock, at: now }, led: None }
    }

    /// The state machine's clock, after a batch or an image.
    pub(crate) fn applied(&mut self, clock: ClusterTime, now: Time) {
        if clock != self.applied.clock {
            self.applied = Reading { clock, at: now };
        }
    }

    /// This node has applied the first entry of the term it leads.
    pub(crate) fn begin(&mut self, now: Time) {
        let clock = if mutant!(LeaseClockBegunAnew) { ClusterTime(0) } else { self.applied.clock };
        self.led = Some(Led { began: Reading { clock, at: now }, logged: clock });
    }

    /// This node no longer leads the term it did.
    pub(crate) fn end(&mut self) {
        self.led = None;
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.led.is_some()
    }

    /// The clock a leader goes by.
    pub(crate) fn now(&self, now: Time) -> Option<ClusterTime> {
        self.led.as_ref().map(|led| led.began.after(now))
    }

    /// The clock to append in front of commands that count from it; `None` if the log has it already, or it has not begun.
    pub(crate) fn stamp(&self, now: Time) -> Option<ClusterTime> {
        let led = self.led.as_ref()?;
        Some(led.began.after(now)).filter(|clock| *clock > led.logged)
    }

    /// A stamp is in this leader's log.
    pub(crate) fn logged(&mut self, clock: ClusterTime) {
        let led = self.led.as_mut().expect("only a leader's clock gives stamps");
        led.logged = led.logged.max(clock);
    }

    /// When the clock is to be logged, though no command asks for it, if a lease runs out at `deadline`.
    pub(crate) fn log_at(&self, deadline: ClusterTime) -> Option<Time> {
        let led = self.led.as_ref()?;
        let silence = led.logged.until(deadline) / SILENCE_SHARE;
        Some(led.began.when(led.logged.after(silence.clamp(SHORTEST_SILENCE, LONGEST_SILENCE))))
    }

    /// When a leader's clock will show `target`.
    pub(crate) fn when(&self, target: ClusterTime) -> Option<Time> {
        self.led.as_ref().map(|led| led.began.when(target))
    }

    /// From where a reader may go on counting, on any node: exact on the leader, elsewhere late by the way of the entry.
    pub(crate) fn reading(&self) -> Reading {
        self.led.as_ref().map_or(self.applied, |led| led.began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_leader_goes_on_from_the_logs_clock_when_it_begins() {
        let mut clock = ClusterClock::new(ClusterTime(5000), Time(0));
        let now = Time(0) + 100 * SECOND;
        assert_eq!(clock.now(now), None);
        clock.begin(now);
        assert_eq!(clock.now(now), Some(ClusterTime(5000)), "the time before does not count");
        assert_eq!(clock.now(now + 2 * SECOND), Some(ClusterTime(7000)));
        clock.end();
        assert_eq!(clock.now(now + 3 * SECOND), None);
    }

    #[test]
    fn a_stamp_is_given_once_for_one_reading() {
        let mut clock = ClusterClock::new(ClusterTime(0), Time(0));
        clock.begin(Time(0));
        assert_eq!(clock.stamp(Time(0)), None, "the log has it");
        let now = Time(0) + SECOND;
        assert_eq!(clock.stamp(now), Some(ClusterTime(1000)));
        clock.logged(ClusterTime(1000));
        assert_eq!(clock.stamp(now), None);
    }

    #[test]
    fn the_clock_is_logged_more_often_when_a_deadline_is_near() {
        let mut clock = ClusterClock::new(ClusterTime(0), Time(0));
        assert_eq!(clock.log_at(ClusterTime(1000)), None);
        clock.begin(Time(0));
        for (deadline_seconds, silence) in [(1, SECOND), (40, 5 * SECOND), (3600, 10 * SECOND)] {
            let deadline = ClusterTime(deadline_seconds * 1000);
            assert_eq!(clock.log_at(deadline), Some(Time(0) + silence));
        }
    }
}
