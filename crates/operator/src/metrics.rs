//! The operator's own metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::crd::QuorateClusterStatus;
use crate::names::Names;
use crate::observe::Sighting;

/// All of them, and where they are gathered.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    failures: IntCounterVec,
    steps: IntCounterVec,
    seconds: HistogramVec,
    last_success: GaugeVec,
    members: IntGaugeVec,
    members_caught_up: IntGaugeVec,
    available: IntGaugeVec,
    conditions: IntGaugeVec,
    paused: IntGaugeVec,
    lag: IntGaugeVec,
    /// Members whose lag is shown, by cluster: what is not shown any more must be taken away by name.
    shown: Mutex<BTreeMap<(String, String), BTreeSet<String>>>,
    watch_errors: IntCounter,
    leads: IntGauge,
}

/// What `ReconcileError::kind` can say.
const KINDS_OF_FAILURE: [&str; 4] = ["conflict", "kubernetes", "node", "other"];
/// Every condition of a cluster.
const CONDITIONS: [&str; 6] = ["Available", "Progressing", "Degraded", "Ready", "Reconciling", "Stalled"];
const CLUSTER: [&str; 2] = ["namespace", "name"];

impl Metrics {
    /// A fresh set, all at zero.
    ///
    /// # Panics
    /// If two metrics have one name.
    pub fn new() -> Self {
        let registry = Registry::new();
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).expect("each name is used once");
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let seconds = HistogramOpts::new("quorate_operator_reconcile_duration_seconds", "Time of one reconcile.")
            .buckets(vec![0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
        let last_success = Opts::new(
            "quorate_operator_last_success_timestamp_seconds",
            "When a cluster was last looked at without an error, but for one that its status names.",
        );
        let failures = counter("quorate_operator_reconcile_failures_total", "Failed reconciles by kind.", &["kind"]);
        // From the start, or the first failure of a kind would be no increase to Prometheus.
        for kind in KINDS_OF_FAILURE {
            failures.with_label_values(&[kind]);
        }
        Metrics {
            reconciles: counter("quorate_operator_reconciles_total", "Reconciles.", &[]),
            failures,
            steps: counter("quorate_operator_steps_total", "Steps taken by what they are part of.", &["work"]),
            seconds: register(&registry, HistogramVec::new(seconds, &[])),
            last_success: register(&registry, GaugeVec::new(last_success, &CLUSTER)),
            members: gauge("quorate_operator_cluster_members", "Members of the committed configuration.", &CLUSTER),
            members_caught_up: gauge("quorate_operator_cluster_members_caught_up", "Members that take part.", &CLUSTER),
            available: gauge("quorate_operator_cluster_available", "1 while a leader answers.", &CLUSTER),
            conditions: gauge(
                "quorate_operator_cluster_condition",
                "1 while a condition of a cluster is true.",
                &["namespace", "name", "condition"],
            ),
            paused: gauge("quorate_operator_cluster_paused", "1 while the operator leaves a cluster alone.", &CLUSTER),
            lag: gauge(
                "quorate_operator_member_lag_entries",
                "Entries that a member is behind its leader.",
                &["namespace", "name", "member"],
            ),
            shown: Mutex::default(),
            watch_errors: register(
                &registry,
                IntCounter::new("quorate_operator_watch_errors_total", "Errors of the watches that cause reconciles."),
            ),
            leads: register(
                &registry,
                IntGauge::new("quorate_operator_leader", "1 while this process holds the Lease and acts."),
            ),
            registry,
        }
    }

    /// One reconcile ended.
    pub fn reconciled(&self, took: Duration, failure: Option<&'static str>) {
        self.reconciles.with_label_values::<&str>(&[]).inc();
        self.seconds.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
        if let Some(kind) = failure {
            self.failures.with_label_values(&[kind]).inc();
        }
    }

    /// A step was taken.
    pub fn stepped(&self, work: &str) {
        self.steps.with_label_values(&[work]).inc();
    }

    /// Shows a cluster as it was just seen.
    pub fn show(&self, sighting: &Sighting, status: &QuorateClusterStatus) {
        let names = Names::of(&sighting.cluster);
        let labels = [names.namespace.as_str(), names.cluster.as_str()];
        self.show_conditions(&names, status);
        self.paused.with_label_values(&labels).set(i64::from(sighting.observed.wanted.paused));
        let view = sighting.observed.cluster.as_ref();
        self.available.with_label_values(&labels).set(i64::from(view.is_some()));
        self.show_lag(&names, sighting);
        let Some(view) = view else { return };
        let of = |count: usize| i64::try_from(count).expect("few members");
        self.members.with_label_values(&labels).set(of(view.members.len()));
        self.members_caught_up.with_label_values(&labels).set(of(view.caught_up.len()));
    }

    /// A condition that is not there does not hold.
    fn show_conditions(&self, names: &Names, status: &QuorateClusterStatus) {
        for kind in CONDITIONS {
            let holds = status.condition(kind).is_some_and(|condition| condition.status == "True");
            self.conditions.with_label_values(&[&names.namespace, &names.cluster, kind]).set(i64::from(holds));
        }
    }

    /// As the leader sees its followers. Whoever is none any more, or has no leader, has no lag that is known of.
    fn show_lag(&self, names: &Names, sighting: &Sighting) {
        let leader = sighting.observed.cluster.as_ref().map(|view| view.leader.0);
        let answer = sighting.answers.values().find(|answer| Some(answer.node_id) == leader);
        let mut now = BTreeSet::new();
        for follower in answer.iter().flat_map(|answer| &answer.followers) {
            let member = format!("{:016x}", follower.node_id);
            let lag = i64::try_from(follower.lag_entries).unwrap_or(i64::MAX);
            self.lag.with_label_values(&[&names.namespace, &names.cluster, &member]).set(lag);
            now.insert(member);
        }
        self.keep_lag(names, now);
    }

    fn keep_lag(&self, names: &Names, members: BTreeSet<String>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (names.namespace.clone(), names.cluster.clone());
        for gone in shown.remove(&key).unwrap_or_default().difference(&members) {
            // Absent is as good as removed.
            let _ = self.lag.remove_label_values(&[&names.namespace, &names.cluster, gone]);
        }
        if !members.is_empty() {
            shown.insert(key, members);
        }
    }

    /// A reconcile of a cluster ended without an error, its step included, or with a refusal that is in its status.
    pub fn succeeded(&self, names: &Names) {
        self.last_success.with_label_values(&[&names.namespace, &names.cluster]).set(unix_seconds());
    }

    /// A watch failed; it is begun again.
    pub fn watch_failed(&self) {
        self.watch_errors.inc();
    }

    /// Forgets a cluster that is no more.
    pub fn forget(&self, names: &Names) {
        let labels = [names.namespace.as_str(), names.cluster.as_str()];
        // Absent is as good as removed.
        let _ = self.last_success.remove_label_values(&labels);
        for gauge in [&self.available, &self.members, &self.members_caught_up, &self.paused] {
            let _ = gauge.remove_label_values(&labels);
        }
        for kind in CONDITIONS {
            let _ = self.conditions.remove_label_values(&[&names.namespace, &names.cluster, kind]);
        }
        self.keep_lag(names, BTreeSet::new());
    }

    /// Whether this process acts.
    pub fn leads(&self, leads: bool) {
        self.leads.set(i64::from(leads));
    }

    /// In the text format.
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            Ok(()) => String::from_utf8_lossy(&out).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

fn register<T: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<T>) -> T {
    let metric = metric.expect("names and labels are constants of this file");
    registry.register(Box::new(metric.clone())).expect("each name is used once");
    metric
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::{BTreeSet, Metrics, Names};

    #[test]
    fn what_is_no_more_is_not_shown() {
        let metrics = Metrics::new();
        let names = Names { cluster: "db".to_string(), namespace: "default".to_string() };
        let members = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let show = |ids: &[&str]| {
            for id in ids {
                metrics.lag.with_label_values(&["default", "db", id]).set(7);
            }
            metrics.keep_lag(&names, members(ids));
        };
        show(&["01", "02"]);
        show(&["02", "03"]);
        let text = metrics.text();
        assert!(!text.contains("member=\"01\"") && text.contains("member=\"03\""), "{text}");
        metrics.succeeded(&names);
        let condition = serde_json::json!({
            "type": "Degraded", "reason": "MembersDown", "status": "True", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let status = serde_json::from_value(serde_json::json!({ "conditions": [condition] })).expect("a status");
        metrics.show_conditions(&names, &status);
        for (kind, holds) in [("Degraded", 1), ("Stalled", 0)] {
            let line = format!(
                "quorate_operator_cluster_condition{{condition=\"{kind}\",name=\"db\",namespace=\"default\"}} {holds}"
            );
            assert!(metrics.text().contains(&line), "{}", metrics.text());
        }
        metrics.forget(&names);
        assert!(!metrics.text().contains("name=\"db\""), "{}", metrics.text());
    }
}
