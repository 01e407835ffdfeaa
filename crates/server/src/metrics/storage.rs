//! Metrics of the two data files.

use prometheus::{Histogram, IntCounter, IntGauge, IntGaugeVec};

use super::make::Make;

/// What the log writer and the state writer do. Fields marked "scrape" are set by [`super::Metrics::observe`].
#[derive(Debug)]
pub struct StorageMetrics {
    /// One log transaction, sync included.
    pub log_sync_seconds: Histogram,
    /// Entries in one log transaction.
    pub log_batch_entries: Histogram,
    /// Payload bytes appended to the log.
    pub log_appended_bytes_total: IntCounter,
    /// Entries cut off the front of the log.
    pub log_compacted_entries_total: IntCounter,
    /// Applying one batch, in memory and in the state file, without a sync.
    pub apply_seconds: Histogram,
    /// Entries in one applied batch.
    pub apply_batch_entries: Histogram,
    /// One durable commit (checkpoint) of the state file.
    pub state_commit_seconds: Histogram,
    /// Times that both files were read through and found sound.
    pub scrub_passes_total: IntCounter,
    /// Bytes of records that were read to verify them.
    pub scrubbed_bytes_total: IntCounter,
    /// Records that failed their checksum; the node bars itself at the first.
    pub damaged_total: IntCounter,
    /// Scrape. Applied index that survives a crash without the log.
    pub durable_applied_index: IntGauge,
    /// Scrape. Bytes the log file has allocated.
    pub log_allocated_bytes: IntGauge,
    /// Scrape. Bytes the state file has allocated.
    pub state_allocated_bytes: IntGauge,
    /// Scrape. Allocated bytes of the state file less its free pages: what the quota counts.
    pub state_live_bytes: IntGauge,
    /// Scrape. The quota; 0 = none.
    pub quota_bytes: IntGauge,
    /// Scrape. 1 while writes are refused for want of space.
    pub no_space: IntGauge,
    /// Scrape. 1 for each alarm that stands.
    pub alarms: IntGaugeVec,
    /// Scrape. Store revision.
    pub revision: IntGauge,
    /// Scrape. Oldest readable revision.
    pub compact_revision: IntGauge,
    /// Scrape. Live keys.
    pub keys: IntGauge,
}

impl StorageMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        StorageMetrics {
            log_sync_seconds: make.seconds("quorate_log_sync_seconds", "One log transaction, sync included."),
            log_batch_entries: make.sizes("quorate_log_batch_entries", "Entries in one log transaction."),
            log_appended_bytes_total: make
                .counter("quorate_log_appended_bytes_total", "Payload bytes appended to the log."),
            log_compacted_entries_total: make
                .counter("quorate_log_compacted_entries_total", "Entries cut off the front of the log."),
            apply_seconds: make.seconds("quorate_apply_seconds", "Applying one batch."),
            apply_batch_entries: make.sizes("quorate_apply_batch_entries", "Entries in one applied batch."),
            state_commit_seconds: make.seconds("quorate_state_commit_seconds", "One durable commit of the state file."),
            scrub_passes_total: make
                .counter("quorate_scrub_passes_total", "Times that both files were read through and found sound."),
            scrubbed_bytes_total: make.counter("quorate_scrubbed_bytes_total", "Bytes read to verify them."),
            damaged_total: make.counter("quorate_damaged_records_total", "Records that failed their checksum."),
            durable_applied_index: make
                .gauge("quorate_durable_applied_index", "Applied index that survives a crash without the log."),
            log_allocated_bytes: make.gauge("quorate_log_allocated_bytes", "Bytes the log file has allocated."),
            state_allocated_bytes: make.gauge("quorate_state_allocated_bytes", "Bytes the state file has allocated."),
            state_live_bytes: make
                .gauge("quorate_state_live_bytes", "Allocated bytes of the state file less its free pages."),
            quota_bytes: make.gauge("quorate_quota_bytes", "Quota on live bytes; 0 = none."),
            no_space: make.gauge("quorate_no_space", "1 while writes are refused for want of space."),
            alarms: make.gauges("quorate_alarms", "1 for each alarm that stands.", &["server_id", "alarm_type"]),
            revision: make.gauge("quorate_revision", "Store revision."),
            compact_revision: make.gauge("quorate_compact_revision", "Oldest readable revision."),
            keys: make.gauge("quorate_keys", "Live keys."),
        }
    }
}
