//! The signals that end a node politely.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// SIGINT and SIGTERM.
#[derive(Debug)]
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Catches both from now on.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub(crate) fn catch() -> Result<Self, Failure> {
        let catch = |kind| signal(kind).map_err(|error| Failure::new(format_args!("cannot catch signals: {error}")));
        Ok(StopSignals { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    /// Waits for the next of either.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits this long, or until a Ctrl-C.
    pub(crate) async fn sleep(&mut self, delay: Duration) {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for `stopping`; another Ctrl-C ends the waiting, for people in a hurry. Another SIGTERM does not: supervisors
    /// send it to the process and to its group.
    pub(crate) async fn unless_hurried(&mut self, stopping: impl Future<Output = ()>) -> Result<(), Failure> {
        tokio::select! {
            () = stopping => Ok(()),
            _ = self.interrupt.recv() => Err(Failure::new("stopped in the middle of stopping; the next start replays the log")),
        }
    }
}
