//! The figures a node runs with. Owns their meaning and their bounds; never reads them from anywhere.

use std::time::Duration;

/// How a node paces elections, heartbeats and replication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Silence after which a follower campaigns, before jitter; also what a voter promises a leader it heard.
    pub election_timeout: Duration,
    /// Pause between a leader's broadcasts when nothing else goes out. Well below `election_timeout`.
    pub heartbeat_interval: Duration,
    /// Bound on how far two nodes' clock rates may differ, in millionths. A lease ends this much early.
    pub clock_drift_ppm: u32,
    /// Entry bytes of one append; a larger single entry travels alone.
    pub max_append_bytes: usize,
    /// Entries of one append.
    pub max_append_entries: usize,
    /// Appends with entries that may be unanswered by one follower.
    pub max_inflight_appends: usize,
    /// Entry bytes that may be unanswered by one follower; a larger single entry travels alone.
    pub max_inflight_bytes: usize,
    /// A learner this many entries behind, or fewer, has caught up.
    pub catch_up_entries: u64,
    /// Entry bytes kept in memory; older ones are read back from the log store.
    pub log_cache_bytes: usize,
}

impl Default for Config {
    /// etcd's timing and limits that suit a LAN.
    fn default() -> Self {
        Self {
            election_timeout: Duration::from_millis(1000),
            heartbeat_interval: Duration::from_millis(100),
            clock_drift_ppm: 50_000,
            max_append_bytes: 1 << 20,
            max_append_entries: 4096,
            max_inflight_appends: 256,
            max_inflight_bytes: 8 << 20,
            catch_up_entries: 1000,
            log_cache_bytes: 16 << 20,
        }
    }
}

impl Config {
    /// How long a leader may serve reads after it sent a round to which a quorum answered with this promise.
    ///
    /// Voters refuse every candidate for as long as they promised after they heard the leader, on their own clocks, which
    /// may run fast by the drift bound against the leader's.
    pub fn lease_duration(&self, promise: Duration) -> Duration {
        let drift_ppm = if mutant!(LeaseIgnoresDrift) { 0 } else { self.clock_drift_ppm };
        let kept_ppm = 1_000_000u32.saturating_sub(drift_ppm);
        let kept_by_voters = if mutant!(LeaseByOwnTimeout) { self.election_timeout } else { promise };
        kept_by_voters.min(self.election_timeout) * kept_ppm / 1_000_000
    }

    /// Panics if the figures cannot work together.
    pub fn check(&self) {
        assert!(!self.heartbeat_interval.is_zero(), "heartbeat_interval is zero");
        assert!(self.heartbeat_interval < self.election_timeout, "heartbeat_interval is not below election_timeout");
        assert!(self.clock_drift_ppm < 1_000_000, "clock_drift_ppm leaves no lease");
        assert!(self.max_append_bytes > 0 && self.max_append_entries > 0, "an append may hold nothing");
        assert!(self.max_inflight_appends > 0 && self.max_inflight_bytes > 0, "nothing may be in flight");
    }
}
