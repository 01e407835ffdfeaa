//! Figures that dashboards made for etcd want and that have no name of ours: who a node is, what its probes said, what was
//! done to the key space.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use quorate_kv::{Outcome, Response, ResponseBody, TxnResponse};

use super::make::Make;

/// A batch that takes longer to apply is slow, as etcd has it.
const SLOW_APPLY: Duration = Duration::from_millis(100);

/// See the module documentation. Fields marked "scrape" are set by [`super::Metrics::observe`].
#[derive(Debug)]
pub struct EtcdMetrics {
    /// Scrape. 1 for this node's id.
    pub server_id: IntGaugeVec,
    /// 1 for the version of etcd whose API is offered.
    pub server_version: IntGaugeVec,
    /// Scrape. 1 for the version of etcd that the cluster as a whole offers.
    pub cluster_version: IntGaugeVec,
    /// Scrape. Changes of users, roles and rights.
    pub auth_revision: IntGauge,
    /// `/health` said yes.
    pub health_success: IntCounter,
    /// `/health` said no.
    pub health_failures: IntCounter,
    /// 1 if the check last passed; `type` = livez, readyz.
    pub healthcheck: IntGaugeVec,
    /// Checks; `status` = success, error.
    pub healthchecks_total: IntCounterVec,
    /// Batches that took more than a tenth of a second to apply.
    pub slow_apply_total: IntCounter,
    /// Reads that no quorum confirmed in time.
    pub slow_read_indexes_total: IntCounter,
    /// Learners that were promoted by a call to this node.
    pub learner_promote_successes: IntCounter,
    /// Learners that were not; `Reason` is the status.
    pub learner_promote_failures: IntCounterVec,
    /// Ranges answered here, those of transactions included.
    pub range_total: IntCounter,
    /// Puts applied, those of transactions included.
    pub put_total: IntCounter,
    /// Deletions applied, those of transactions included.
    pub delete_total: IntCounter,
    /// Transactions applied.
    pub txn_total: IntCounter,
    range_seconds: [Histogram; 2],
}

impl EtcdMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let range_seconds = make.seconds_by(
            "etcd_server_range_duration_seconds",
            "From a range's arrival to its answer.",
            &["success"],
        );
        EtcdMetrics {
            server_id: make.gauges("etcd_server_id", "1 for the node's id.", &["server_id"]),
            server_version: make.gauges("etcd_server_version", "1 for the version offered.", &["server_version"]),
            cluster_version: make.gauges("etcd_cluster_version", "1 for the version offered.", &["cluster_version"]),
            auth_revision: make.gauge("etcd_debugging_auth_revision", "Changes of users, roles and rights."),
            health_success: make.counter("etcd_server_health_success", "/health said yes."),
            health_failures: make.counter("etcd_server_health_failures", "/health said no."),
            healthcheck: make.gauges("etcd_server_healthcheck", "1 if the check last passed.", &["type", "name"]),
            healthchecks_total: make.counters(
                "etcd_server_healthchecks_total",
                "Checks of /livez and /readyz.",
                &["type", "name", "status"],
            ),
            slow_apply_total: make.counter("etcd_server_slow_apply_total", "Batches that were slow to apply."),
            slow_read_indexes_total: make
                .counter("etcd_server_slow_read_indexes_total", "Reads that no quorum confirmed in time."),
            learner_promote_successes: make
                .counter("etcd_server_learner_promote_successes", "Learners promoted by a call to this node."),
            learner_promote_failures: make.counters(
                "etcd_server_learner_promote_failures",
                "Promotions that were refused.",
                &["Reason"],
            ),
            range_total: make.counter("etcd_mvcc_range_total", "Ranges answered here."),
            put_total: make.counter("etcd_mvcc_put_total", "Puts applied."),
            delete_total: make.counter("etcd_mvcc_delete_total", "Deletions applied."),
            txn_total: make.counter("etcd_mvcc_txn_total", "Transactions applied."),
            range_seconds: ["false", "true"].map(|success| range_seconds.with_label_values(&[success])),
        }
    }

    /// A range was answered, or refused.
    pub(crate) fn ranged(&self, took: Duration, success: bool) {
        self.range_total.inc();
        self.range_seconds[usize::from(success)].observe(took.as_secs_f64());
    }

    /// Counts a check of a probe.
    pub(crate) fn checked(&self, probe: &str, name: &str, passed: bool) {
        self.healthcheck.with_label_values(&[probe, name]).set(passed.into());
        let status = if passed { "success" } else { "error" };
        self.healthchecks_total.with_label_values(&[probe, name, status]).inc();
    }

    /// A batch was applied.
    pub(crate) fn batch_applied(&self, took: Duration) {
        if took > SLOW_APPLY {
            self.slow_apply_total.inc();
        }
    }

    /// Counts what an applied command did.
    pub(crate) fn applied(&self, outcome: &Outcome) {
        match &outcome.result {
            Ok(Response::Put(_)) => self.put_total.inc(),
            Ok(Response::DeleteRange(_)) => self.delete_total.inc(),
            Ok(Response::Txn(txn)) => {
                self.txn_total.inc();
                self.count_operations(txn);
            }
            // Each key that goes with a lease is a deletion of its own.
            Ok(Response::LeaseRevoke | Response::LeaseExpire { .. }) => {
                self.delete_total.inc_by(outcome.changes.len() as u64);
            }
            _ => {}
        }
    }

    fn count_operations(&self, txn: &TxnResponse) {
        for operation in &txn.responses {
            match &operation.body {
                ResponseBody::Range(_) => self.range_total.inc(),
                ResponseBody::Put(_) => self.put_total.inc(),
                ResponseBody::DeleteRange(_) => self.delete_total.inc(),
                ResponseBody::Txn(nested) => self.count_operations(nested),
            }
        }
    }
}
