//! Metrics of client requests: reads by consistency and outcome, writes, forwards, queues, limits.

use prometheus::{Histogram, IntCounter, IntCounterVec};
use quorate_node::Consistency;

use super::make::Make;

/// How a read ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Answered.
    Served,
    /// Answered after the lease ran out under it and the quorum was asked instead.
    ServedAfterRetry,
    /// The client's own bound on staleness could not be kept.
    TooStale,
    /// No leader, overload, a timeout.
    Failed,
}

const CONSISTENCIES: [&str; 3] = ["default", "consistent", "stale"];
const OUTCOMES: [&str; 4] = ["served", "served_after_retry", "too_stale", "failed"];

/// Reads. Each pair of labels is looked up once, at the start: a read costs one atomic addition.
#[derive(Debug)]
pub struct ReadMetrics {
    total: [[IntCounter; OUTCOMES.len()]; CONSISTENCIES.len()],
    /// Staleness of answered stale reads where it is known.
    pub staleness_seconds: Histogram,
}

impl ReadMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let total = make.counters("quorate_reads_total", "Reads.", &["consistency", "outcome"]);
        ReadMetrics {
            total: CONSISTENCIES
                .map(|consistency| OUTCOMES.map(|outcome| total.with_label_values(&[consistency, outcome]))),
            staleness_seconds: make.seconds("quorate_read_staleness_seconds", "Staleness of answered stale reads."),
        }
    }

    /// Counts one read, under the consistency the client asked for.
    pub fn record(&self, asked: Consistency, outcome: ReadOutcome) {
        let consistency = match asked {
            Consistency::Default => 0,
            Consistency::Consistent => 1,
            Consistency::Stale => 2,
        };
        let outcome = match outcome {
            ReadOutcome::Served => 0,
            ReadOutcome::ServedAfterRetry => 1,
            ReadOutcome::TooStale => 2,
            ReadOutcome::Failed => 3,
        };
        self.total[consistency][outcome].inc();
    }
}

/// Writes, forwards, queues and limits.
#[derive(Debug)]
pub struct RequestMetrics {
    /// Writes answered.
    pub writes_total: IntCounter,
    /// Writes that ended with an error.
    pub writes_failed_total: IntCounter,
    /// Requests sent on to the leader.
    pub forwards_sent_total: IntCounter,
    /// Requests taken over from other nodes.
    pub forwards_received_total: IntCounter,
    /// Forwards sent again after a leader change, or refused.
    pub forwards_retried_total: IntCounter,
    /// Requests that ran out of time.
    pub timeouts_total: IntCounter,
    /// Requests refused at a limit; `limit` is its name.
    pub limits_hit_total: IntCounterVec,
}

impl RequestMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        RequestMetrics {
            writes_total: make.counter("quorate_writes_total", "Writes answered."),
            writes_failed_total: make.counter("quorate_writes_failed_total", "Writes that ended with an error."),
            forwards_sent_total: make.counter("quorate_forwards_sent_total", "Requests sent on to the leader."),
            forwards_received_total: make
                .counter("quorate_forwards_received_total", "Requests taken over from other nodes."),
            forwards_retried_total: make.counter("quorate_forwards_retried_total", "Forwards sent again."),
            timeouts_total: make.counter("quorate_request_timeouts_total", "Requests that ran out of time."),
            limits_hit_total: make.counters("quorate_limits_hit_total", "Requests refused at a limit.", &["limit"]),
        }
    }
}
