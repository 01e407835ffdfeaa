//! The only clock and the only randomness of a replica.
//!
//! The node takes time and jitter as inputs; they are made here.

use std::io::Read;
use std::time::{Duration, Instant};

use quorate_raft::Time;

/// Microseconds since the replica started, monotonic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts one hour in, so that "an election timeout ago" is never before zero.
    pub(crate) fn start() -> Clock {
        let now = Instant::now();
        Clock { origin: now.checked_sub(Duration::from_secs(3600)).unwrap_or(now) }
    }

    pub(crate) fn now(&self) -> Time {
        Time(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The instant `time` names, for waiting until it.
    pub(crate) fn instant(&self, time: Time) -> Instant {
        // A deadline beyond what an Instant can hold is "never"; a day is long enough to look again.
        let limit = Instant::now() + Duration::from_secs(86_400);
        self.origin.checked_add(Duration::from_micros(time.0)).map_or(limit, |instant| instant.min(limit))
    }
}

/// Election jitter: xorshift64*, seeded by the operating system. Two nodes started in the same instant must not draw alike.
#[derive(Debug)]
pub(crate) struct Jitter {
    state: u64,
}

impl Jitter {
    /// # Errors
    /// The operating system gave no randomness.
    pub(crate) fn new() -> std::io::Result<Jitter> {
        Ok(Jitter { state: (random_u128()? as u64) | 1 })
    }

    /// Uniform in `0..below`.
    pub(crate) fn draw(&mut self, below: Duration) -> Duration {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let drawn = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D);
        let span = u64::try_from(below.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(drawn % span)
    }
}

/// 128 random bits from the operating system: the incarnation of an empty data folder.
///
/// # Errors
/// The operating system gave none.
pub(crate) fn random_u128() -> std::io::Result<u128> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_below_its_bound_and_varies() {
        let mut jitter = Jitter::new().unwrap();
        let bound = Duration::from_millis(100);
        let drawn: std::collections::BTreeSet<_> = (0..100).map(|_| jitter.draw(bound)).collect();
        assert!(drawn.iter().all(|draw| *draw < bound));
        assert!(drawn.len() > 50, "{drawn:?}");
    }

    #[test]
    fn an_instant_and_its_time_agree() {
        let clock = Clock::start();
        let now = clock.now();
        assert!(clock.instant(now) <= Instant::now());
        assert!(clock.instant(Time(u64::MAX)) > Instant::now());
    }
}
