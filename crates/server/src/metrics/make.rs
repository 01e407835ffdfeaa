//! Makes metrics and registers each at once, so that a field that exists is also published.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

/// Buckets of a disk operation in seconds: 0.1 ms doubling to 13 s. They contain etcd's (1 ms doubling to 8 s) closely
/// enough for the dashboards' quantiles, and resolve disks that sync in less than 1 ms.
fn disk_seconds() -> Vec<f64> {
    exponential_buckets(0.0001, 2.0, 18).expect("positive start, factor above 1")
}

/// Buckets of counts: 1 doubling to 8192.
fn counts() -> Vec<f64> {
    exponential_buckets(1.0, 2.0, 14).expect("positive start, factor above 1")
}

/// Registers what it makes.
pub(super) struct Make<'a> {
    registry: &'a Registry,
}

impl<'a> Make<'a> {
    pub(super) fn new(registry: &'a Registry) -> Self {
        Make { registry }
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// A histogram of durations in seconds.
    pub(super) fn seconds(&self, name: &str, help: &str) -> Histogram {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(disk_seconds())))
    }

    /// Histograms of durations in seconds.
    pub(super) fn seconds_by(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(disk_seconds()), labels))
    }

    /// Histograms with these buckets.
    pub(super) fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }

    /// A histogram of long spans in seconds: 1 s doubling to half a year, etcd's buckets for times to live.
    pub(super) fn spans(&self, name: &str, help: &str) -> Histogram {
        let buckets = exponential_buckets(1.0, 2.0, 24).expect("positive start, factor above 1");
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
    }

    /// A histogram of how many.
    pub(super) fn sizes(&self, name: &str, help: &str) -> Histogram {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(counts())))
    }

    fn register<M: Collector + Clone + 'static>(&self, made: prometheus::Result<M>) -> M {
        let metric = made.expect("metric names and labels are well formed");
        self.registry.register(Box::new(metric.clone())).expect("metric names are not used twice");
        metric
    }
}
