//! The result of a run, as a table or as one JSON object.
//!
//! Owns the JSON field names: `cargo xtask bench` and people's scripts read them. Latencies are microseconds there.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::BenchError;
use super::options::{Output, Plan};
use super::sample::{Recorded, Sample, Summary};

/// The store's revision and term around the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Revisions {
    pub(super) before: i64,
    pub(super) after: i64,
    pub(super) term_before: u64,
    pub(super) term_after: u64,
}

/// What a run showed.
#[derive(Debug)]
pub(super) struct Report {
    workload: &'static str,
    clients: usize,
    connections: usize,
    elapsed: Duration,
    revisions: Revisions,
    writes: Option<Summary>,
    reads: Option<Summary>,
    misses: u64,
    conflicts: u64,
    failed_writes: u64,
    failed_reads: u64,
    errors: Vec<(String, u64)>,
}

impl Report {
    pub(super) fn new(plan: &Plan, recorded: Recorded, elapsed: Duration, revisions: Revisions) -> Report {
        let mut errors: Vec<(String, u64)> = recorded.errors.into_iter().collect();
        errors.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Report {
            workload: plan.kind.name(),
            clients: plan.clients,
            connections: plan.connections,
            elapsed,
            revisions,
            writes: Summary::of(recorded.writes),
            reads: Summary::of(recorded.reads),
            misses: recorded.misses,
            conflicts: recorded.conflicts,
            failed_writes: recorded.failed_writes,
            failed_reads: recorded.failed_reads,
            errors,
        }
    }

    /// Every acknowledged write raised the revision by one, and nothing else did. A write that failed may have been done.
    pub(super) fn check_revision(&self) -> Result<(), BenchError> {
        let rise = self.revisions.after - self.revisions.before;
        let acknowledged = self.writes.map_or(0, |summary| summary.count);
        let allowed = acknowledged..=acknowledged + self.failed_writes;
        if u64::try_from(rise).is_ok_and(|rise| allowed.contains(&rise)) {
            return Ok(());
        }
        Err(BenchError::RevisionMismatch { rise, acknowledged, unknown: self.failed_writes })
    }

    pub(super) fn print(&self, output: Output) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match output {
            Output::Json => writeln!(out, "{}", self.json()),
            Output::Text => self.write_text(&mut out),
        }
    }

    fn throughput(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64()
    }

    /// Acknowledged writes a second.
    pub(super) fn write_throughput(&self) -> f64 {
        self.writes.map_or(0.0, |summary| self.throughput(summary.count))
    }

    /// The term before and after.
    pub(super) fn terms(&self) -> (u64, u64) {
        (self.revisions.term_before, self.revisions.term_after)
    }

    pub(super) fn json(&self) -> Value {
        let class = |summary: &Option<Summary>| summary.map(|summary| class(&summary, self.elapsed));
        let count = |summary: &Option<Summary>| summary.map_or(0, |summary| summary.count);
        let errors: serde_json::Map<String, Value> =
            self.errors.iter().map(|(text, count)| (text.clone(), json!(count))).collect();
        json!({
            "workload": self.workload,
            "clients": self.clients,
            "connections": self.connections,
            "seconds": self.elapsed.as_secs_f64(),
            "operations": count(&self.writes) + count(&self.reads),
            "throughput": self.throughput(count(&self.writes) + count(&self.reads)),
            "writes": class(&self.writes),
            "reads": class(&self.reads),
            "misses": self.misses,
            "conflicts": self.conflicts,
            "failed_writes": self.failed_writes,
            "failed_reads": self.failed_reads,
            "errors": errors,
            "revision": { "before": self.revisions.before, "after": self.revisions.after },
        })
    }

    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "{}: {} clients on {} connections, {:.1} s, revision {} -> {}",
            self.workload,
            self.clients,
            self.connections,
            self.elapsed.as_secs_f64(),
            self.revisions.before,
            self.revisions.after,
        )?;
        writeln!(
            out,
            "{:<8}{:>10}{:>10}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}{:>14}",
            "", "count", "per s", "mean", "p50", "p90", "p99", "p99.9", "max", "longest gap"
        )?;
        for (name, summary) in [("writes", &self.writes), ("reads", &self.reads)] {
            let Some(summary) = summary else { continue };
            let cell = |duration: Duration| format!("{:.2} ms", duration.as_secs_f64() * 1e3);
            writeln!(
                out,
                "{name:<8}{:>10}{:>10.0}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}{:>14}",
                summary.count,
                self.throughput(summary.count),
                cell(summary.mean),
                cell(summary.p50),
                cell(summary.p90),
                cell(summary.p99),
                cell(summary.p999),
                cell(summary.max),
                cell(summary.longest_gap),
            )?;
        }
        if self.misses > 0 {
            writeln!(out, "{} reads found no key: put them first (put --sequential)", self.misses)?;
        }
        if self.conflicts > 0 {
            writeln!(out, "{} transactions found their key changed", self.conflicts)?;
        }
        for (text, count) in &self.errors {
            writeln!(out, "{count:>8} x {text}")?;
        }
        Ok(())
    }
}

/// Latencies of one class of operations.
fn class(summary: &Summary, elapsed: Duration) -> Value {
    json!({
        "count": summary.count,
        "throughput": summary.count as f64 / elapsed.as_secs_f64(),
        "mean": microseconds(summary.mean),
        "p50": microseconds(summary.p50),
        "p90": microseconds(summary.p90),
        "p99": microseconds(summary.p99),
        "p999": microseconds(summary.p999),
        "max": microseconds(summary.max),
        "longest_gap": microseconds(summary.longest_gap),
    })
}

/// What a workload of streams showed; one that failed has no report.
#[derive(Debug)]
pub(super) struct StreamReport {
    pub(super) workload: &'static str,
    /// For people: what was done.
    pub(super) title: String,
    /// For scripts: the same, by name.
    pub(super) details: Value,
    pub(super) elapsed: Duration,
    pub(super) operations: u64,
    /// Bytes of values received, where that is the point.
    pub(super) bytes: Option<u64>,
    /// Some of the operations.
    pub(super) samples: Vec<Sample>,
}

impl StreamReport {
    pub(super) fn print(self, output: Output) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let seconds = self.elapsed.as_secs_f64();
        let throughput = self.operations as f64 / seconds;
        let bytes_per_second = self.bytes.map(|bytes| bytes as f64 / seconds);
        let latency = Summary::of(self.samples);
        if output == Output::Json {
            let report = json!({
                "workload": self.workload,
                "details": self.details,
                "seconds": seconds,
                "operations": self.operations,
                "throughput": throughput,
                "bytes": self.bytes,
                "bytes_per_second": bytes_per_second,
                "latency": latency.map(|latency| class(&latency, self.elapsed)),
            });
            return writeln!(out, "{report}");
        }
        writeln!(out, "{}: {} operations, {seconds:.1} s, {throughput:.0}/s", self.title, self.operations)?;
        if let Some(bytes) = bytes_per_second {
            writeln!(out, "{:.0} MiB/s", bytes / 1024.0 / 1024.0)?;
        }
        let Some(latency) = latency else { return Ok(()) };
        let cell = |duration: Duration| format!("{:.2} ms", duration.as_secs_f64() * 1e3);
        let (p50, p99, max) = (cell(latency.p50), cell(latency.p99), cell(latency.max));
        writeln!(out, "latency of {}: p50 {p50}, p99 {p99}, max {max}", latency.count)
    }
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e3
}
