//! The measurements of one turn of one system.
//!
//! Owns which load is run and which figure is taken from it. Every put load checks that the store's revision rose by each
//! acknowledged put, and any failed operation fails the turn: a server that drops work must not look fast.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::cluster::{Cluster, Stop, System};
use super::usage::Usage;
use crate::failure::Failure;

/// Keys that reads and puts are spread over.
const KEY_SPACE: u64 = 100_000;
const VALUE_BYTES: u64 = 256;
const MANY_CLIENTS: usize = 1000;
/// Clients of a read load: enough to keep both processors busy.
const READERS: usize = 100;
const NODES: f64 = 3.0;
const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// How long and how large.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub(super) duration: Duration,
    pub(super) keys: u64,
}

/// One line of the table. In the table's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Figure {
    PutThroughput,
    PutMedian,
    PutP99,
    PutCpu,
    PutWritten,
    LonePutThroughput,
    LonePutMedian,
    LonePutP99,
    LonePutCpu,
    LinearizableThroughput,
    LinearizableMedian,
    LinearizableP99,
    LinearizableCpu,
    SerializableThroughput,
    SerializableMedian,
    SerializableP99,
    SerializableCpu,
    Memory,
    CleanRestart,
    CrashRestart,
}

/// Values of all turns so far.
#[derive(Debug, Default)]
pub(super) struct Figures(BTreeMap<Figure, Vec<f64>>);

impl Figures {
    pub(super) fn add(&mut self, turn: BTreeMap<Figure, f64>) {
        for (figure, value) in turn {
            self.0.entry(figure).or_default().push(value);
        }
    }

    /// Mean of the turns; `None` if it was not measured.
    pub(super) fn mean(&self, figure: Figure) -> Option<f64> {
        let values = self.0.get(&figure)?;
        Some(values.iter().sum::<f64>() / values.len() as f64)
    }
}

/// The four figures every load gives.
struct LoadFigures {
    throughput: Figure,
    median: Figure,
    p99: Figure,
    cpu: Figure,
}

/// Runs everything on a fresh cluster, then the memory and restart part on another.
pub(super) fn measure(
    system: &System,
    generator: &Path,
    folder: &Path,
    scale: &Scale,
) -> Result<BTreeMap<Figure, f64>, Failure> {
    let mut figures = BTreeMap::new();
    loads(system, generator, folder, scale, &mut figures)?;
    memory_and_restart(system, generator, folder, scale, &mut figures)?;
    Ok(figures)
}

fn loads(
    system: &System,
    generator: &Path,
    folder: &Path,
    scale: &Scale,
    figures: &mut BTreeMap<Figure, f64>,
) -> Result<(), Failure> {
    let cluster = Cluster::start(system, folder)?;
    let run = |workload: &[&str], clients: usize, end: End| -> Result<Load, Failure> {
        Load::run(generator, &cluster, workload, clients, KEY_SPACE, end)
    };
    let timed = End::After(scale.duration);
    // The warm-up also gives the reads something to find.
    run(&["put", "--sequential", "--check-revision"], MANY_CLIENTS, End::Operations(KEY_SPACE))?;

    let puts = run(&["put", "--check-revision"], MANY_CLIENTS, timed)?;
    figures.insert(Figure::PutWritten, puts.usage.written_bytes / puts.operations);
    let put = LoadFigures {
        throughput: Figure::PutThroughput,
        median: Figure::PutMedian,
        p99: Figure::PutP99,
        cpu: Figure::PutCpu,
    };
    puts.record(&put, "writes", figures)?;

    let lone = LoadFigures {
        throughput: Figure::LonePutThroughput,
        median: Figure::LonePutMedian,
        p99: Figure::LonePutP99,
        cpu: Figure::LonePutCpu,
    };
    run(&["put", "--check-revision"], 1, timed)?.record(&lone, "writes", figures)?;

    let linearizable = LoadFigures {
        throughput: Figure::LinearizableThroughput,
        median: Figure::LinearizableMedian,
        p99: Figure::LinearizableP99,
        cpu: Figure::LinearizableCpu,
    };
    let reads = run(&["range", "--consistency", "linearizable"], READERS, timed)?;
    reads.record(&linearizable, "reads", figures)?;

    let serializable = LoadFigures {
        throughput: Figure::SerializableThroughput,
        median: Figure::SerializableMedian,
        p99: Figure::SerializableP99,
        cpu: Figure::SerializableCpu,
    };
    let reads = run(&["range", "--consistency", "serializable"], READERS, timed)?;
    reads.record(&serializable, "reads", figures)
}

fn memory_and_restart(
    system: &System,
    generator: &Path,
    folder: &Path,
    scale: &Scale,
    figures: &mut BTreeMap<Figure, f64>,
) -> Result<(), Failure> {
    let mut cluster = Cluster::start(system, folder)?;
    let load = Load::run(
        generator,
        &cluster,
        &["put", "--sequential", "--check-revision"],
        MANY_CLIENTS,
        scale.keys,
        End::Operations(scale.keys),
    )?;
    figures.insert(Figure::Memory, load.usage.peak_bytes / NODES / MEBIBYTE);
    let clean = cluster.restart(Stop::Clean)?;
    figures.insert(Figure::CleanRestart, clean.as_secs_f64());
    let crash = cluster.restart(Stop::Kill)?;
    figures.insert(Figure::CrashRestart, crash.as_secs_f64());
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum End {
    After(Duration),
    Operations(u64),
}

/// A finished load: what the generator reported and what the servers used meanwhile.
struct Load {
    report: Value,
    operations: f64,
    usage: Usage,
}

impl Load {
    fn run(
        generator: &Path,
        cluster: &Cluster,
        workload: &[&str],
        clients: usize,
        key_space: u64,
        end: End,
    ) -> Result<Load, Failure> {
        let mut command = Command::new(generator);
        command.arg("bench").args(workload).args(["--endpoints", &cluster.endpoints()]);
        command.args(["--clients", &clients.to_string(), "--output", "json"]);
        command.args(["--key-space", &key_space.to_string()]);
        command.args(["--value-size", &VALUE_BYTES.to_string()]);
        match end {
            End::After(duration) => command.args(["--duration", &duration.as_secs().to_string()]),
            End::Operations(count) => command.args(["--total", &count.to_string()]),
        };
        eprintln!("xtask:   {} with {clients} clients", workload.join(" "));
        let before = cluster.usage()?;
        let output = command.output().map_err(Failure::file(generator))?;
        let usage = cluster.usage()? - before;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::Broken(format!("the load generator failed: {text}")));
        }
        let report: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| Failure::Broken(format!("the load generator's report: {error}")))?;
        let failed = number(&report, "/failed_writes")? + number(&report, "/failed_reads")?;
        if failed > 0.0 || number(&report, "/misses")? > 0.0 {
            return Err(Failure::Broken(format!("operations failed or found nothing: {report}")));
        }
        let operations = number(&report, "/operations")?;
        eprintln!("xtask:     {:.0}/s", number(&report, "/throughput")?);
        Ok(Load { report, operations, usage })
    }

    /// `class` is "writes" or "reads".
    fn record(&self, names: &LoadFigures, class: &str, figures: &mut BTreeMap<Figure, f64>) -> Result<(), Failure> {
        let latency =
            |field: &str| number(&self.report, &format!("/{class}/{field}")).map(|microseconds| microseconds / 1e3);
        figures.insert(names.throughput, number(&self.report, "/throughput")?);
        figures.insert(names.median, latency("p50")?);
        figures.insert(names.p99, latency("p99")?);
        figures.insert(names.cpu, self.usage.cpu_seconds * 1e6 / self.operations);
        Ok(())
    }
}

fn number(report: &Value, pointer: &str) -> Result<f64, Failure> {
    let value = report.pointer(pointer).and_then(Value::as_f64);
    value.ok_or_else(|| Failure::Broken(format!("the load generator's report has no {pointer}")))
}
