//! The measurements of one turn of one system.
//!
//! Owns which load is run and which figure is taken from it. Every put load checks that the store's revision rose by each
//! acknowledged put; every watcher, lease and large range is checked by the generator.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::cluster::{Cluster, Stop, System};
use super::load::Load;
use crate::failure::Failure;

/// Keys that reads and puts are spread over.
const KEY_SPACE: u64 = 100_000;
const VALUE_BYTES: u64 = 256;
const MANY_CLIENTS: u64 = 1000;
/// Clients of a read load: enough to keep both processors busy.
const READERS: u64 = 100;
/// Bytes of a value in a large range, about as large as objects of Kubernetes become.
const LARGE_VALUE_BYTES: u64 = 64 * 1024;
/// Readers of large ranges.
const LARGE_READERS: u64 = 20;
/// Events told to watchers in a run that measures their number.
const EVENTS: u64 = 1_000_000;
/// Events a second in a run that measures latency: far below what either system manages.
const EVENTS_PER_SECOND: u64 = 20_000;
/// A workload that breaks off, or leaves a gap in the data that later ones read, is run this often.
const ATTEMPTS: usize = 3;
const NODES: f64 = 3.0;
const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// How long and how large, and of what.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    pub(super) duration: Duration,
    pub(super) keys: u64,
    pub(super) large_mebibytes: u64,
    pub(super) parts: Vec<Part>,
}

/// What can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Part {
    /// Puts and reads of single keys
    Loads,
    /// Watchers and leases
    Streams,
    /// Ranges of much data
    Large,
    /// Memory and restart with many keys
    Restart,
}

/// What is told of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Measure {
    Throughput,
    Bandwidth,
    Median,
    P99,
    /// Of the servers together, an operation.
    Cpu,
    /// Of the servers together, a mebibyte read.
    CpuPerMebibyte,
    Written,
    /// Largest resident size, mean of the nodes.
    Resident,
    /// Largest private memory of the node that has most.
    Private,
    CleanRestart,
    CrashRestart,
}

/// A workload, as the table calls it, and what is told of it.
pub(super) type Figure = (&'static str, Measure);

/// The workloads, as the table calls them.
pub(super) const PUT: &str = "put, 1000 clients";
pub(super) const LONE_PUT: &str = "put, 1 client";
pub(super) const LINEARIZABLE: &str = "linearizable read";
pub(super) const SERIALIZABLE: &str = "serializable read";
pub(super) const WATCH_1K: &str = "watch, 1,000 watchers";
pub(super) const WATCH_10K: &str = "watch, 10,000 watchers";
pub(super) const KEEP_ALIVE_LONE: &str = "keepalive, 1 client";
pub(super) const KEEP_ALIVE: &str = "keepalive, 1000 clients";
pub(super) const KEEP_ALIVE_LEASES: &str = "keepalive, 100 clients of 200 leases";
pub(super) const LARGE_PAGES: &str = "20 readers of everything, pages of 500";
pub(super) const LARGE_STREAM: &str = "20 readers of everything, RangeStream";
pub(super) const LARGE_ANSWER: &str = "20 readers of a twentieth, one answer";
pub(super) const MANY_KEYS: &str = "all keys loaded";

/// What one turn showed.
#[derive(Debug, Default)]
pub(super) struct Turn {
    figures: BTreeMap<Figure, f64>,
    /// What was not answered, and what had to be run again.
    troubles: Vec<String>,
}

/// Values of all turns so far.
#[derive(Debug, Default)]
pub(super) struct Figures {
    values: BTreeMap<Figure, Vec<f64>>,
    troubles: Vec<String>,
}

impl Figures {
    pub(super) fn add(&mut self, turn: Turn) {
        for (figure, value) in turn.figures {
            self.values.entry(figure).or_default().push(value);
        }
        self.troubles.extend(turn.troubles);
    }

    /// Mean of the turns; `None` if it was not measured.
    pub(super) fn mean(&self, figure: Figure) -> Option<f64> {
        let values = self.values.get(&figure)?;
        Some(values.iter().sum::<f64>() / values.len() as f64)
    }

    /// What was not answered, and what had to be run again.
    pub(super) fn troubles(&self) -> &[String] {
        &self.troubles
    }
}

/// Runs the parts asked for, on fresh clusters.
pub(super) fn measure(system: &System, generator: &Path, folder: &Path, scale: &Scale) -> Result<Turn, Failure> {
    let has = |part| scale.parts.contains(&part);
    let mut figures = BTreeMap::new();
    let troubles = RefCell::default();
    let fresh =
        || Cluster::start(system, folder).map(|cluster| Bench { cluster, generator, scale, troubles: &troubles });
    if has(Part::Loads) || has(Part::Streams) {
        let bench = fresh()?;
        if has(Part::Loads) {
            bench.loads(&mut figures)?;
        }
        if has(Part::Streams) {
            bench.watches(&mut figures)?;
            bench.keep_alives(&mut figures)?;
        }
    }
    if has(Part::Large) {
        fresh()?.large_ranges(&mut figures)?;
    }
    if has(Part::Restart) {
        fresh()?.memory_and_restart(&mut figures)?;
    }
    Ok(Turn { figures, troubles: troubles.into_inner() })
}

/// One cluster under measurement.
struct Bench<'a> {
    cluster: Cluster,
    generator: &'a Path,
    scale: &'a Scale,
    troubles: &'a RefCell<Vec<String>>,
}

impl Bench<'_> {
    /// Runs a workload against all nodes. `arguments` are split at spaces.
    fn run(&self, arguments: &str) -> Option<Load> {
        self.run_at(&self.cluster.endpoints(), arguments)
    }

    /// Runs it again if it breaks off: a request may time out where the machine is too busy, and a stream ends with it.
    /// `None` if it always does; the figures of the others are worth having.
    fn run_at(&self, endpoints: &str, arguments: &str) -> Option<Load> {
        let split: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        for _ in 0..ATTEMPTS {
            match Load::run(self.generator, &self.cluster, endpoints, &split) {
                Ok(load) => {
                    if load.failed > 0 {
                        self.note(format!("{} operations of `{arguments}` failed: {}", load.failed, load.errors()));
                    }
                    return Some(load);
                }
                Err(failure) => self.note(format!("`{arguments}` broke off: {failure}")),
            }
        }
        None
    }

    /// Puts what other workloads read: all of it, or they mean nothing.
    fn fill(&self, arguments: &str) -> Result<Load, Failure> {
        let arguments = format!("put --sequential --check-revision {arguments}");
        let whole = (0..ATTEMPTS).find_map(|_| self.run(&arguments).filter(|load| load.failed == 0));
        whole.ok_or_else(|| Failure::Broken(format!("`{arguments}` did not go through in {ATTEMPTS} attempts")))
    }

    fn note(&self, trouble: String) {
        eprintln!("xtask:     {trouble}");
        self.troubles.borrow_mut().push(trouble);
    }

    fn loads(&self, figures: &mut BTreeMap<Figure, f64>) -> Result<(), Failure> {
        let seconds = self.scale.duration.as_secs();
        let data = format!("--key-space {KEY_SPACE} --value-size {VALUE_BYTES}");
        let load =
            |workload: &str, clients: u64, end: &str| self.run(&format!("{workload} --clients {clients} {end} {data}"));
        let timed = format!("--duration {seconds}");
        // The warm-up also gives the reads something to find.
        self.fill(&format!("--clients {MANY_CLIENTS} --total {KEY_SPACE} {data}"))?;
        if let Some(puts) = load("put --check-revision", MANY_CLIENTS, &timed) {
            figures.insert((PUT, Measure::Written), puts.usage.written_bytes / puts.operations);
            record(&puts, PUT, "writes", figures)?;
        }
        for (name, workload, clients, class) in [
            (LONE_PUT, "put --check-revision", 1, "writes"),
            (LINEARIZABLE, "range --consistency linearizable", READERS, "reads"),
            (SERIALIZABLE, "range --consistency serializable", READERS, "reads"),
        ] {
            if let Some(done) = load(workload, clients, &timed) {
                record(&done, name, class, figures)?;
            }
        }
        Ok(())
    }

    /// All watchers on one node. One run tells as much as it can; another, at a fixed pace, how long that takes.
    fn watches(&self, figures: &mut BTreeMap<Figure, f64>) -> Result<(), Failure> {
        let node = self.cluster.one_endpoint();
        for (name, watchers) in [(WATCH_1K, 1_000), (WATCH_10K, 10_000)] {
            let total = EVENTS / watchers;
            if let Some(most) = self.run_at(&node, &format!("watch --watchers {watchers} --total {total}")) {
                figures.insert((name, Measure::Throughput), most.number("/throughput")?);
                figures.insert((name, Measure::Cpu), most.usage.cpu_seconds * 1e6 / most.operations);
                figures.insert((name, Measure::Private), most.private_bytes / MEBIBYTE);
            }
            let (seconds, rate) = (self.scale.duration.as_secs(), EVENTS_PER_SECOND / watchers);
            let paced = format!("watch --watchers {watchers} --rate {rate} --duration {seconds}");
            if let Some(paced) = self.run_at(&node, &paced) {
                figures.insert((name, Measure::Median), paced.milliseconds("latency", "p50")?);
                figures.insert((name, Measure::P99), paced.milliseconds("latency", "p99")?);
            }
        }
        Ok(())
    }

    fn keep_alives(&self, figures: &mut BTreeMap<Figure, f64>) -> Result<(), Failure> {
        let seconds = self.scale.duration.as_secs();
        for (name, clients, leases) in
            [(KEEP_ALIVE_LONE, 1, 1), (KEEP_ALIVE, MANY_CLIENTS, 1), (KEEP_ALIVE_LEASES, READERS, 200)]
        {
            let workload = format!("keepalive --clients {clients} --leases {leases} --duration {seconds} --ttl 300");
            if let Some(load) = self.run(&workload) {
                record(&load, name, "latency", figures)?;
            }
        }
        Ok(())
    }

    fn large_ranges(&self, figures: &mut BTreeMap<Figure, f64>) -> Result<(), Failure> {
        let keys = self.scale.large_mebibytes * (1 << 20) / LARGE_VALUE_BYTES;
        let data = format!("--key-space {keys} --value-size {LARGE_VALUE_BYTES}");
        self.fill(&format!("--clients {READERS} --total {keys} {data}"))?;
        let node = self.cluster.one_endpoint();
        for (name, by) in [
            (LARGE_PAGES, "pages --page 500"),
            (LARGE_STREAM, "stream"),
            (LARGE_ANSWER, &format!("answer --parts {LARGE_READERS}")),
        ] {
            let workload = format!("large-range --clients {LARGE_READERS} {data} --by {by}");
            let Some(load) = self.run_at(&node, &workload) else { continue };
            let mebibytes = load.number("/bytes")? / MEBIBYTE;
            figures.insert((name, Measure::Bandwidth), load.number("/bytes_per_second")? / MEBIBYTE);
            figures.insert((name, Measure::CpuPerMebibyte), load.usage.cpu_seconds * 1e6 / mebibytes);
            figures.insert((name, Measure::Private), load.private_bytes / MEBIBYTE);
        }
        Ok(())
    }

    fn memory_and_restart(mut self, figures: &mut BTreeMap<Figure, f64>) -> Result<(), Failure> {
        let keys = self.scale.keys;
        let load = self
            .fill(&format!("--clients {MANY_CLIENTS} --total {keys} --key-space {keys} --value-size {VALUE_BYTES}"))?;
        figures.insert((MANY_KEYS, Measure::Resident), load.usage.peak_bytes / NODES / MEBIBYTE);
        let clean = self.cluster.restart(Stop::Clean)?;
        figures.insert((MANY_KEYS, Measure::CleanRestart), clean.as_secs_f64());
        let crash = self.cluster.restart(Stop::Kill)?;
        figures.insert((MANY_KEYS, Measure::CrashRestart), crash.as_secs_f64());
        Ok(())
    }
}

/// The four figures that every closed loop gives.
fn record(load: &Load, name: &'static str, class: &str, figures: &mut BTreeMap<Figure, f64>) -> Result<(), Failure> {
    figures.insert((name, Measure::Throughput), load.number("/throughput")?);
    figures.insert((name, Measure::Median), load.milliseconds(class, "p50")?);
    figures.insert((name, Measure::P99), load.milliseconds(class, "p99")?);
    figures.insert((name, Measure::Cpu), load.usage.cpu_seconds * 1e6 / load.operations);
    Ok(())
}
