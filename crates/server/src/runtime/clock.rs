//! The only clock and the only randomness of a replica.
//!
//! The node takes time and jitter as inputs; they are made here.

use std::io::Read;
use std::time::{Duration, Instant};

use quorate_raft::Time;
use rustix::time::{ClockId, clock_gettime};

/// What time is measured by: it goes on while the machine is suspended, and nobody can set it. `Instant` would stand still
/// then, and a leader that slept would take its lease for one that is in force.
#[cfg(target_os = "linux")]
const SOURCE: ClockId = ClockId::Boottime;
/// Elsewhere this one goes on.
#[cfg(not(target_os = "linux"))]
const SOURCE: ClockId = ClockId::Monotonic;
/// What a clock shows at its start, so that "an election timeout ago" is never before zero.
const START: Duration = Duration::from_secs(3600);
/// A deadline beyond what an `Instant` can hold is "never"; this is long enough to look again.
const FAR: Duration = Duration::from_secs(86_400);
/// Who waits looks at the clock this often: one that goes wrong may come to the time sooner than waiting would.
const LONGEST_WAIT: Duration = if cfg!(feature = "test-faults") { Duration::from_millis(5) } else { FAR };

/// Microseconds since the replica started, monotonic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Duration,
}

impl Clock {
    /// A clock that starts one hour in.
    pub(crate) fn start() -> Clock {
        Clock { origin: elapsed() }
    }

    pub(crate) fn now(&self) -> Time {
        let shown = elapsed().saturating_sub(self.origin) + START;
        Time(u64::try_from(shown.as_micros()).unwrap_or(u64::MAX))
    }

    /// When to look whether `time` has come. Waiting stands still while the machine is suspended, this clock does not: who
    /// waited may be late, and looks at the clock again.
    pub(crate) fn instant(&self, time: Time) -> Instant {
        Instant::now() + Duration::from_micros(time.0.saturating_sub(self.now().0)).min(LONGEST_WAIT)
    }
}

/// Since some moment before the machine's start, as this process is made to see it.
fn elapsed() -> Duration {
    #[cfg(feature = "test-faults")]
    return super::faults::bend(right());
    #[cfg(not(feature = "test-faults"))]
    right()
}

/// The same, as it is.
pub(super) fn right() -> Duration {
    let shown = clock_gettime(SOURCE);
    Duration::new(shown.tv_sec.cast_unsigned(), u32::try_from(shown.tv_nsec).expect("below a second"))
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

    /// Set in the process that [`time_goes_on_while_the_machine_is_suspended`] starts.
    #[cfg(target_os = "linux")]
    const INSIDE: &str = "QUORATE_TEST_INSIDE_TIME_NAMESPACE";

    /// A machine that was suspended is one whose boot time is ahead of its monotonic time. A time namespace is that too,
    /// and the only one that a test can make.
    #[cfg(target_os = "linux")]
    #[test]
    fn time_goes_on_while_the_machine_is_suspended() {
        const SLEPT: Duration = Duration::from_secs(100_000_000);
        if std::env::var_os(INSIDE).is_some() {
            assert!(elapsed() > SLEPT, "the clock shows {:?}", elapsed());
            return;
        }
        let unshare = |command: &[&std::ffi::OsStr]| {
            let mut unshare = std::process::Command::new("unshare");
            unshare.args(["--time", "--boottime", &SLEPT.as_secs().to_string(), "--fork"]).args(command);
            unshare.env(INSIDE, "1").output()
        };
        if !unshare(&["true".as_ref()]).is_ok_and(|output| output.status.success()) {
            println!("SKIPPED: needs the right to make a time namespace");
            return;
        }
        let own = std::env::current_exe().unwrap();
        let name = "runtime::clock::tests::time_goes_on_while_the_machine_is_suspended";
        let inside = unshare(&[own.as_os_str(), name.as_ref(), "--exact".as_ref()]).unwrap();
        let said = String::from_utf8_lossy(&inside.stdout);
        assert!(inside.status.success() && said.contains("1 passed"), "{said}");
    }
}
