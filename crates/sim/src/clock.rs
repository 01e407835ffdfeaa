//! Virtual time: the true time of a run, and each node's own monotonic clock with its offset and rate.
//!
//! Owns the arithmetic between the two. Never reads the machine's clock. Invariant: a node's clock never runs back
//! between two true times of one process life.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

use quorate_raft::Time;

/// True time since the start of the run, in microseconds. No node ever sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// Time since `earlier`, zero if that lies ahead.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(duration.as_micros() as u64))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// A node's clock during one life of its process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
    reading_at_start: u64,
    /// Runs this much faster than true time, in parts per million.
    rate_ppm: i32,
}

impl Clock {
    /// A clock that reads `reading_at_start` at `started`.
    pub(crate) fn new(started: Instant, reading_at_start: u64, rate_ppm: i32) -> Clock {
        assert!(rate_ppm > -500_000 && rate_ppm < 500_000, "a clock this wrong is a separate fault");
        Clock { started, reading_at_start, rate_ppm }
    }

    fn scale(&self) -> u128 {
        (1_000_000 + i64::from(self.rate_ppm)) as u128
    }

    /// What the node reads at true time `now`.
    pub(crate) fn read(&self, now: Instant) -> Time {
        let elapsed = u128::from(now.0.saturating_sub(self.started.0));
        Time(self.reading_at_start + (elapsed * self.scale() / 1_000_000) as u64)
    }

    /// The first true time at which the node reads at least `reading`.
    pub(crate) fn when(&self, reading: Time) -> Instant {
        let elapsed = u128::from(reading.0.saturating_sub(self.reading_at_start));
        let micros = (elapsed * 1_000_000).div_ceil(self.scale());
        Instant(self.started.0.saturating_add(u64::try_from(micros).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_at_the_deadline_has_reached_it() {
        for rate in [-100_000, -1, 0, 1, 333, 100_000] {
            let clock = Clock::new(Instant(5_000), 77, rate);
            for reading in [77, 78, 1_000, 123_457] {
                let at = clock.when(Time(reading));
                assert!(clock.read(at) >= Time(reading), "rate {rate} reading {reading}");
                assert!(at.0 == 5_000 || clock.read(Instant(at.0 - 1)) < Time(reading));
            }
        }
    }
}
