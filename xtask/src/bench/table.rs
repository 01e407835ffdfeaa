//! The table of a comparison, and the page it is published on.
//!
//! Owns names, units and goals of the figures. Does no IO but reading what the machine calls itself.

use std::fmt::Write;
use std::fs;

use super::measure::{
    Figures, KEEP_ALIVE, KEEP_ALIVE_LEASES, KEEP_ALIVE_LONE, LARGE_ANSWER, LARGE_PAGES, LARGE_STREAM, LINEARIZABLE,
    LONE_PUT, MANY_KEYS, Measure, PUT, Part, SERIALIZABLE, Scale, WATCH_1K, WATCH_10K,
};

/// What begins the part of the page that is written by hand.
const BY_HAND: &str = "\n## ";

/// Lines of the table: workload, measure, the ratio to reach if one is set.
const ROWS: [(&str, Measure, &str); 50] = [
    (PUT, Measure::Throughput, "≥ 1.2"),
    (PUT, Measure::Median, ""),
    (PUT, Measure::P99, "≤ 1"),
    (PUT, Measure::Cpu, "≤ 0.8"),
    (PUT, Measure::Written, "≤ 1"),
    (LONE_PUT, Measure::Throughput, ""),
    (LONE_PUT, Measure::Median, "≤ 1"),
    (LONE_PUT, Measure::P99, ""),
    (LONE_PUT, Measure::Cpu, ""),
    (LINEARIZABLE, Measure::Throughput, ""),
    (LINEARIZABLE, Measure::Median, ""),
    (LINEARIZABLE, Measure::P99, ""),
    (LINEARIZABLE, Measure::Cpu, "≤ 0.8"),
    (SERIALIZABLE, Measure::Throughput, ""),
    (SERIALIZABLE, Measure::Median, ""),
    (SERIALIZABLE, Measure::P99, ""),
    (SERIALIZABLE, Measure::Cpu, ""),
    (WATCH_1K, Measure::Throughput, "≥ 1.5"),
    (WATCH_1K, Measure::Cpu, "< 1"),
    (WATCH_1K, Measure::Private, ""),
    (WATCH_1K, Measure::Median, ""),
    (WATCH_1K, Measure::P99, ""),
    (WATCH_10K, Measure::Throughput, ""),
    (WATCH_10K, Measure::Cpu, ""),
    (WATCH_10K, Measure::Private, ""),
    (WATCH_10K, Measure::Median, ""),
    (WATCH_10K, Measure::P99, ""),
    (KEEP_ALIVE_LONE, Measure::Throughput, ""),
    (KEEP_ALIVE_LONE, Measure::Median, ""),
    (KEEP_ALIVE_LONE, Measure::Cpu, ""),
    (KEEP_ALIVE, Measure::Throughput, ""),
    (KEEP_ALIVE, Measure::Median, ""),
    (KEEP_ALIVE, Measure::P99, ""),
    (KEEP_ALIVE, Measure::Cpu, ""),
    (KEEP_ALIVE_LEASES, Measure::Throughput, ""),
    (KEEP_ALIVE_LEASES, Measure::Median, ""),
    (KEEP_ALIVE_LEASES, Measure::P99, ""),
    (KEEP_ALIVE_LEASES, Measure::Cpu, ""),
    (LARGE_PAGES, Measure::Bandwidth, ""),
    (LARGE_PAGES, Measure::CpuPerMebibyte, ""),
    (LARGE_PAGES, Measure::Private, "bounded"),
    (LARGE_STREAM, Measure::Bandwidth, ""),
    (LARGE_STREAM, Measure::CpuPerMebibyte, ""),
    (LARGE_STREAM, Measure::Private, "bounded"),
    (LARGE_ANSWER, Measure::Bandwidth, ""),
    (LARGE_ANSWER, Measure::CpuPerMebibyte, ""),
    (LARGE_ANSWER, Measure::Private, "bounded"),
    (MANY_KEYS, Measure::Resident, "≤ 0.8"),
    (MANY_KEYS, Measure::CleanRestart, ""),
    (MANY_KEYS, Measure::CrashRestart, ""),
];

impl Measure {
    /// Name and unit.
    fn label(self) -> (&'static str, &'static str) {
        match self {
            Measure::Throughput => ("throughput", "1/s"),
            Measure::Bandwidth => ("throughput", "MiB/s"),
            Measure::Median => ("p50", "ms"),
            Measure::P99 => ("p99", "ms"),
            Measure::Cpu => ("server CPU", "µs"),
            Measure::CpuPerMebibyte => ("server CPU a MiB", "µs"),
            Measure::Written => ("written to disk", "B"),
            Measure::Resident => ("peak memory, a node", "MiB"),
            Measure::Private => ("peak private memory of a node", "MiB"),
            Measure::CleanRestart => ("clean stop, start to serving", "s"),
            Measure::CrashRestart => ("kill -9, start to serving", "s"),
        }
    }
}

/// A Markdown table of both sides' means and their ratio.
pub(super) fn render(names: [&str; 2], figures: &[Figures; 2]) -> String {
    let mut table = format!("| figure | unit | {} | {} | ratio | goal |\n", names[0], names[1]);
    table.push_str("|---|---|---:|---:|---:|---:|\n");
    for (workload, measure, goal) in ROWS {
        let means = figures.each_ref().map(|side| side.mean((workload, measure)));
        let [Some(ours), Some(theirs)] = means else { continue };
        let (name, unit) = measure.label();
        let ratio = ours / theirs;
        let (ours, theirs) = (three_digits(ours), three_digits(theirs));
        writeln!(table, "| {workload}: {name} | {unit} | {ours} | {theirs} | {ratio:.2} | {goal} |")
            .expect("a String takes any text");
    }
    table
}

/// Three digits that mean something, or all of those before the point.
fn three_digits(value: f64) -> String {
    let digits = match value {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

/// The published page: how it was measured, where, and the table.
pub(super) fn page(table: &str, troubles: &str, scale: &Scale, turns: usize) -> String {
    let order = match turns {
        1 => "One turn each, Quorate first".to_owned(),
        _ => format!("{turns} turns each in the order A B B A, of which figures are means"),
    };
    let mut how = format!(
        "- {order}; every turn on empty data. A workload that is timed runs {seconds} s; values have 256 B.\n\
         - Server CPU is the sum of the three nodes, per operation.\n",
        seconds = scale.duration.as_secs(),
    );
    if scale.parts.contains(&Part::Loads) {
        how.push_str(
            "- Puts and reads are of 100,000 keys of 16 B, after a warm-up of 100,000 puts; reads have 100 clients. The store's\n\
             \x20 revision rose by exactly the acknowledged puts.\n",
        );
    }
    if scale.parts.contains(&Part::Streams) {
        how.push_str(
            "- All watchers are on one node, on 100 streams, and watch one key: throughput is of a million events with four\n\
             \x20 writers, latency (from the put's sending to the watcher) at 20,000 events/s. Each watcher saw each put once.\n\
             - Keepalives: each client renews its leases, waits for all answers, and begins anew.\n",
        );
    }
    if scale.parts.contains(&Part::Large) {
        writeln!(
            how,
            "- Large ranges read {} MiB of 64 KiB values from one node, by 20 readers at the same time; every byte is counted.\n\
             \x20 Private memory is what a process holds for itself, by samples; etcd's mapped database is not in it.",
            scale.large_mebibytes
        )
        .expect("a String takes any text");
    }
    if scale.parts.contains(&Part::Restart) {
        writeln!(
            how,
            "- Memory (resident, mapped files included) and restart are taken on a cluster of their own with {} keys.\n\
             - \"Serving\" is every node answering `/readyz`, which includes a linearizable read.",
            scale.keys
        )
        .expect("a String takes any text");
    }
    format!(
        "# Performance, measured beside etcd\n\n\
         Three nodes of Quorate and three of etcd 3.7.3, in turn, on one machine, with default settings and the same load\n\
         generator (`quorate bench`), which shares the machine's processors with the servers. `cargo xtask bench --write\n\
         docs/performance.md` makes this part of the page, up to the next heading.\n\n\
         - Machine: {machine}.\n\
         {how}\n\
         {table}\n\
         {troubles}\
         Ratios within the table are what to rely on; absolute figures move with the machine.\n",
        machine = machine(),
    )
}

/// What did not go through, as a list; nothing if all did.
pub(super) fn troubles(names: [&str; 2], figures: &[Figures; 2]) -> String {
    let of_side = |(name, side): (&str, &Figures)| -> Vec<String> {
        // A message may have lines of its own.
        let line =
            |trouble: &String| format!("- {name}: {}\n", trouble.split_whitespace().collect::<Vec<_>>().join(" "));
        side.troubles().iter().map(line).collect()
    };
    let lines: Vec<String> = names.into_iter().zip(figures).flat_map(of_side).collect();
    if lines.is_empty() {
        return String::new();
    }
    format!("What did not go through, and is in no figure:\n\n{}\n", lines.concat())
}

/// The part of a page that is written by hand: from its first second-level heading on.
pub(super) fn kept(page: &str) -> String {
    page.find(BY_HAND).map_or_else(String::new, |start| page[start..].to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_by_hand_stays() {
        let page = "# Performance\n\n| a |\n\n## By hand\n\ntext\n\n## More\n";
        assert_eq!(kept(page), "\n## By hand\n\ntext\n\n## More\n");
        assert_eq!(kept("# Performance\n\n| a |\n"), "");
    }

    #[test]
    fn figures_have_three_digits() {
        let shown: Vec<String> = [0.126, 9.99, 12.34, 123.4, 21_531.0].into_iter().map(three_digits).collect();
        assert_eq!(shown, ["0.13", "9.99", "12.3", "123", "21531"]);
    }
}
