//! One run of the load generator, and what the servers used meanwhile.
//!
//! An operation that was not answered is no part of a figure, but of what is told beside them: a server that drops work
//! must not look fast. A read that finds nothing fails the run.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::cluster::Cluster;
use crate::failure::Failure;
use crate::usage::Usage;

/// How often memory is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// A finished load.
pub(super) struct Load {
    report: Value,
    pub(super) operations: f64,
    pub(super) usage: Usage,
    /// Most memory that one node held for itself, by samples.
    pub(super) private_bytes: f64,
    /// Operations that ended without an answer or with a refusal.
    pub(super) failed: u64,
}

impl Load {
    /// Runs `quorate bench` with `arguments`, which name everything but the servers and the kind of the report.
    pub(super) fn run(
        generator: &Path,
        cluster: &Cluster,
        endpoints: &str,
        arguments: &[String],
    ) -> Result<Load, Failure> {
        let mut command = Command::new(generator);
        command.arg("bench").args(arguments).args(["--endpoints", endpoints, "--output", "json"]);
        eprintln!("xtask:   {}", arguments.join(" "));
        let before = cluster.usage()?;
        let broken = |source| Failure::file(generator)(source);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(broken)?;
        let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
        let reading = [read_all(stdout), read_all(stderr)];
        let mut private_bytes = 0.0_f64;
        let status = loop {
            private_bytes = private_bytes.max(cluster.largest_private_bytes()?);
            if let Some(status) = process.try_wait().map_err(broken)? {
                break status;
            }
            thread::sleep(SAMPLE_INTERVAL);
        };
        let usage = cluster.usage()? - before;
        let [output, complaint] = reading.map(|reading| reading.join().expect("reading a pipe does not panic"));
        if !status.success() {
            return Err(Failure::Broken(format!("the load generator failed: {}", String::from_utf8_lossy(&complaint))));
        }
        let report: Value = serde_json::from_slice(&output)
            .map_err(|error| Failure::Broken(format!("the load generator's report: {error}")))?;
        // A workload of streams ends with the first failure and counts none.
        let count = |field: &str| report.pointer(field).and_then(Value::as_u64).unwrap_or(0);
        if count("/misses") > 0 {
            return Err(Failure::Broken(format!("reads found nothing: {report}")));
        }
        let failed = count("/failed_writes") + count("/failed_reads");
        let operations = number(&report, "/operations")?;
        let load = Load { report, operations, usage, private_bytes, failed };
        eprintln!("xtask:     {:.0}/s", load.number("/throughput")?);
        Ok(load)
    }

    /// A number of the report.
    pub(super) fn number(&self, pointer: &str) -> Result<f64, Failure> {
        number(&self.report, pointer)
    }

    /// What went wrong with operations, and how often.
    pub(super) fn errors(&self) -> String {
        self.report.pointer("/errors").map(Value::to_string).unwrap_or_default()
    }

    /// A latency in milliseconds; `class` is "writes", "reads" or "latency".
    pub(super) fn milliseconds(&self, class: &str, field: &str) -> Result<f64, Failure> {
        self.number(&format!("/{class}/{field}")).map(|microseconds| microseconds / 1e3)
    }
}

fn read_all(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    let mut pipe = pipe.expect("the pipe was asked for");
    thread::spawn(move || {
        let mut all = Vec::new();
        // What can be read is looked at whole; a pipe that breaks ends with its process.
        let _ = pipe.read_to_end(&mut all);
        all
    })
}

fn number(report: &Value, pointer: &str) -> Result<f64, Failure> {
    let value = report.pointer(pointer).and_then(Value::as_f64);
    value.ok_or_else(|| Failure::Broken(format!("the load generator's report has no {pointer}")))
}
