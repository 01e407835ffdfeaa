//! What was measured: one sample an acknowledged operation, and percentiles over all of them.
//!
//! Samples are kept whole and sorted once at the end: percentiles are exact, and recording is a push.

use std::collections::BTreeMap;
use std::time::Duration;

/// One acknowledged operation. Nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    /// Answer received, since the start of the load.
    pub(super) end: u64,
    pub(super) latency: u64,
}

/// What one client, or all of them together, saw.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    pub(super) writes: Vec<Sample>,
    pub(super) reads: Vec<Sample>,
    /// Reads that found no key.
    pub(super) misses: u64,
    /// Transactions whose compare failed: they are reads.
    pub(super) conflicts: u64,
    /// Failed writes: their outcome is unknown.
    pub(super) failed_writes: u64,
    pub(super) failed_reads: u64,
    /// By the text of the error.
    pub(super) errors: BTreeMap<String, u64>,
}

impl Recorded {
    pub(super) fn merge(&mut self, other: Recorded) {
        self.writes.extend(other.writes);
        self.reads.extend(other.reads);
        self.misses += other.misses;
        self.conflicts += other.conflicts;
        self.failed_writes += other.failed_writes;
        self.failed_reads += other.failed_reads;
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }
}

/// Latencies of one class of operations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Summary {
    pub(super) count: u64,
    pub(super) mean: Duration,
    pub(super) p50: Duration,
    pub(super) p90: Duration,
    pub(super) p99: Duration,
    pub(super) p999: Duration,
    pub(super) max: Duration,
    /// Longest time between two acknowledgements in a row, over all clients.
    pub(super) longest_gap: Duration,
}

impl Summary {
    /// `None` if there is nothing to sum up.
    pub(super) fn of(mut samples: Vec<Sample>) -> Option<Summary> {
        if samples.is_empty() {
            return None;
        }
        samples.sort_unstable_by_key(|sample| sample.end);
        let longest_gap = samples.windows(2).map(|pair| pair[1].end - pair[0].end).max().unwrap_or(0);
        let mut latencies: Vec<u64> = samples.into_iter().map(|sample| sample.latency).collect();
        latencies.sort_unstable();
        let total: u128 = latencies.iter().map(|&latency| u128::from(latency)).sum();
        Some(Summary {
            count: latencies.len() as u64,
            mean: Duration::from_nanos((total / latencies.len() as u128) as u64),
            p50: at_rank(&latencies, 500),
            p90: at_rank(&latencies, 900),
            p99: at_rank(&latencies, 990),
            p999: at_rank(&latencies, 999),
            max: at_rank(&latencies, 1000),
            longest_gap: Duration::from_nanos(longest_gap),
        })
    }
}

/// Nearest rank: the least value that at least `per_mille` of the sorted values do not exceed.
fn at_rank(sorted: &[u64], per_mille: usize) -> Duration {
    let rank = (sorted.len() * per_mille).div_ceil(1000).max(1);
    Duration::from_nanos(sorted[rank - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let samples = (1..=1000).rev().map(|n| Sample { end: n * 10, latency: n }).collect();
        let summary = Summary::of(samples).expect("samples");
        let nanos = |duration: Duration| duration.as_nanos();
        assert_eq!(nanos(summary.p50), 500);
        assert_eq!(nanos(summary.p99), 990);
        assert_eq!(nanos(summary.p999), 999);
        assert_eq!(nanos(summary.max), 1000);
        assert_eq!(summary.count, 1000);
    }

    #[test]
    fn one_sample_is_every_percentile() {
        let summary = Summary::of(vec![Sample { end: 9, latency: 4 }]).expect("a sample");
        assert_eq!(summary.p50, summary.max);
        assert_eq!(summary.longest_gap, Duration::ZERO);
    }

    #[test]
    fn longest_gap_is_between_neighbouring_answers_of_any_client() {
        let sample = |end| Sample { end, latency: 1 };
        let summary = Summary::of(vec![sample(100), sample(10), sample(40)]).expect("samples");
        assert_eq!(summary.longest_gap, Duration::from_nanos(60));
    }

    #[test]
    fn nothing_has_no_summary() {
        assert_eq!(Summary::of(Vec::new()), None);
    }
}
