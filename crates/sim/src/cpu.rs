//! The processor time of this thread and of the runs it waited for: the only clock that the simulator's figures are measured
//! with, since a machine that has other work to do changes nothing about it. Never read inside a run.

use std::cell::Cell;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

thread_local! {
    /// What the runs took that this thread waited for: each has a thread of its own.
    static WAITED_FOR: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Processor time that this thread, and the runs it waited for, have used so far.
#[must_use]
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let own = Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0));
    own + WAITED_FOR.get()
}

/// Counts what a run took for the thread that waited for it.
pub(crate) fn waited_for(run: Duration) {
    WAITED_FOR.set(WAITED_FOR.get() + run);
}
