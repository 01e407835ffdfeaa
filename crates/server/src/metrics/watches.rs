//! Metrics of watches, set when somebody scrapes.

use prometheus::{IntCounter, IntGauge};

use super::make::Make;
use crate::runtime::WatchView;

/// Watches, their streams, and what they were told.
#[derive(Debug)]
pub struct WatchMetrics {
    streams: IntGauge,
    watches: IntGauge,
    behind: IntGauge,
    queued_answers: IntGauge,
    queued_bytes: IntGauge,
    events_total: IntCounter,
}

impl WatchMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        WatchMetrics {
            streams: make.gauge("quorate_watch_streams", "Open streams of watches. Scrape."),
            watches: make.gauge("quorate_watches", "Watches of all streams. Scrape."),
            behind: make.gauge("quorate_watches_behind", "Watches that read back what they missed. Scrape."),
            queued_answers: make
                .gauge("quorate_watch_queued_answers", "Answers that wait for slow clients of watches. Scrape."),
            queued_bytes: make
                .gauge("quorate_watch_queued_bytes", "Bytes that wait for slow clients of watches. Scrape."),
            events_total: make
                .counter("quorate_watch_events_total", "Events told, once for each watch that was told. Scrape."),
        }
    }

    pub(super) fn observe(&self, view: &WatchView) {
        self.streams.set(view.streams as i64);
        self.watches.set(view.watches as i64);
        self.behind.set(view.behind as i64);
        self.queued_answers.set(view.queued_answers as i64);
        self.queued_bytes.set(view.queued_bytes as i64);
        // A node that started anew counts from 0: a counter never falls.
        self.events_total.inc_by(view.events_told.saturating_sub(self.events_total.get()));
    }
}
