//! The table of a comparison, and the page it is published on.
//!
//! Owns names, units and goals of the figures. Does no IO but reading what the machine calls itself.

use std::fmt::Write;
use std::fs;

use super::measure::{Figure, Figures, Scale};

/// How a figure is shown.
struct Row {
    figure: Figure,
    name: &'static str,
    unit: &'static str,
    /// The ratio to reach, if one is set.
    goal: &'static str,
    digits: usize,
}

const fn row(figure: Figure, name: &'static str, unit: &'static str, goal: &'static str, digits: usize) -> Row {
    Row { figure, name, unit, goal, digits }
}

const ROWS: [Row; 20] = [
    row(Figure::PutThroughput, "put, 1000 clients: throughput", "1/s", "≥ 1.2", 0),
    row(Figure::PutMedian, "put, 1000 clients: p50", "ms", "", 1),
    row(Figure::PutP99, "put, 1000 clients: p99", "ms", "≤ 1", 1),
    row(Figure::PutCpu, "put, 1000 clients: server CPU", "µs", "≤ 0.8", 1),
    row(Figure::PutWritten, "put, 1000 clients: written to disk", "B", "≤ 1", 0),
    row(Figure::LonePutThroughput, "put, 1 client: throughput", "1/s", "", 0),
    row(Figure::LonePutMedian, "put, 1 client: p50", "ms", "≤ 1", 2),
    row(Figure::LonePutP99, "put, 1 client: p99", "ms", "", 2),
    row(Figure::LonePutCpu, "put, 1 client: server CPU", "µs", "", 0),
    row(Figure::LinearizableThroughput, "linearizable read: throughput", "1/s", "", 0),
    row(Figure::LinearizableMedian, "linearizable read: p50", "ms", "", 2),
    row(Figure::LinearizableP99, "linearizable read: p99", "ms", "", 2),
    row(Figure::LinearizableCpu, "linearizable read: server CPU", "µs", "≤ 0.8", 1),
    row(Figure::SerializableThroughput, "serializable read: throughput", "1/s", "", 0),
    row(Figure::SerializableMedian, "serializable read: p50", "ms", "", 2),
    row(Figure::SerializableP99, "serializable read: p99", "ms", "", 2),
    row(Figure::SerializableCpu, "serializable read: server CPU", "µs", "", 1),
    row(Figure::Memory, "peak memory with all keys loaded, a node", "MiB", "≤ 0.8", 0),
    row(Figure::CleanRestart, "clean stop, start to serving", "s", "", 2),
    row(Figure::CrashRestart, "kill -9, start to serving", "s", "", 2),
];

/// A Markdown table of both sides' means and their ratio.
pub(super) fn render(names: [&str; 2], figures: &[Figures; 2]) -> String {
    let mut table = format!("| figure | unit | {} | {} | ratio | goal |\n", names[0], names[1]);
    table.push_str("|---|---|---:|---:|---:|---:|\n");
    for Row { figure, name, unit, goal, digits } in &ROWS {
        let means = (figures[0].mean(*figure), figures[1].mean(*figure));
        let (Some(ours), Some(theirs)) = means else { continue };
        let ratio = ours / theirs;
        writeln!(table, "| {name} | {unit} | {ours:.digits$} | {theirs:.digits$} | {ratio:.2} | {goal} |")
            .expect("a String takes any text");
    }
    table
}

/// The published page: how it was measured, where, and the table.
pub(super) fn page(table: &str, scale: &Scale, turns: usize) -> String {
    format!(
        "# Performance, measured beside etcd\n\n\
         Three nodes of Quorate and three of etcd 3.7.3, in turn, on one machine, with default settings and the same load\n\
         generator (`quorate bench`), which shares the machine's processors with the servers. `cargo xtask bench --write\n\
         docs/performance.md` makes this page.\n\n\
         - Machine: {machine}.\n\
         - {turns} turns each in the order A B B A, every turn on empty data after a warm-up of 100,000 puts; figures are means.\n\
         - Each workload runs {seconds} s over 100,000 keys of 16 B with values of 256 B; reads have 100 clients. Memory and\n\
         \x20 restart are taken on a cluster of their own with {keys} keys.\n\
         - Server CPU is the sum of the three nodes, per operation. The store's revision rose by exactly the acknowledged puts.\n\
         - \"Serving\" is every node answering `/readyz`, which includes a linearizable read.\n\n\
         {table}\n\
         Ratios within the table are what to rely on; absolute figures move with the machine.\n",
        machine = machine(),
        seconds = scale.duration.as_secs(),
        keys = scale.keys,
    )
}

/// Processor, memory and kernel.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let processor = after(&read("/proc/cpuinfo"), "model name");
    let kibibytes = after(&read("/proc/meminfo"), "MemTotal");
    let kibibytes: f64 = kibibytes.trim_end_matches(" kB").parse().unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let gibibytes = kibibytes / 1024.0 / 1024.0;
    format!("{count} processors ({processor}), {gibibytes:.0} GiB, Linux {}", kernel.trim())
}
