//! `quorate bench`: a closed-loop load generator for anything that speaks the etcd v3 API.
//!
//! Owns its flags, its threads and the report. Never looks at what kind of server answers: the same binary measures Quorate
//! and etcd, so a comparison differs in the server alone.
//!
//! Invariants:
//! 1. a client has one request outstanding, and its latency runs from before the call to after the decoded answer;
//! 2. an operation is either acknowledged and in the percentiles, or counted under its error, never both.

mod drive;
mod keep_alive;
mod large_range;
mod leases;
mod messages;
mod options;
mod overload;
mod report;
mod sample;
mod transport;
mod watch;
mod workload;

pub(crate) use self::options::BenchArgs;
use self::options::StreamArgs;
use self::report::Report;

/// Why a benchmark gave no result, or a result that must not be trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The flags contradict each other.
    #[error("{0}")]
    Arguments(String),
    /// A server could not be reached before the load began.
    #[error("cannot connect to {endpoint}: {source}: is a server listening there?")]
    Connect {
        /// As given on the command line.
        endpoint: String,
        /// What the transport met.
        source: std::io::Error,
    },
    /// The store's revision could not be read, before or after the load.
    #[error("cannot read the revision from {endpoint}: {status}")]
    Revision {
        /// As given on the command line.
        endpoint: String,
        /// The server's answer.
        status: Box<tonic::Status>,
    },
    /// `--check-revision`: the store holds more or fewer writes than were acknowledged.
    #[error(
        "revision rose by {rise}, but {acknowledged} writes were acknowledged and {unknown} ended in an error: \
         did something else write meanwhile?"
    )]
    RevisionMismatch {
        /// Revision after the load less the one before it.
        rise: i64,
        /// Writes with a successful answer.
        acknowledged: u64,
        /// Writes that failed, whose outcome is not known.
        unknown: u64,
    },
    /// `overload`: too little was left, the leader changed, or leases ended.
    #[error(
        "{percent:.0} % of the peak were left (at least {least} are wanted), the term went from {before} to {after}, {ended} leases \
         that were renewed ended"
    )]
    Overload {
        /// Of the largest throughput.
        percent: f64,
        /// What is wanted.
        least: f64,
        /// Term before the first step.
        before: u64,
        /// Term after the last.
        after: u64,
        /// Leases that should live.
        ended: usize,
    },
    /// A workload of streams was not answered as it should have been.
    #[error("{name}: {why}")]
    Workload {
        /// As on the command line.
        name: &'static str,
        /// What came instead.
        why: String,
    },
    /// The report could not be printed.
    #[error("cannot print the report: {0}")]
    Print(#[source] std::io::Error),
}

/// Runs one benchmark and prints its report.
///
/// # Errors
/// See [`BenchError`]; failed operations are no error but part of the report.
///
/// # Panics
/// If a load thread panicked.
pub(crate) async fn run(args: BenchArgs) -> Result<(), BenchError> {
    let args = match args.into_streams() {
        Ok(StreamArgs::Watch(watch)) => return watch::run(watch).await,
        Ok(StreamArgs::KeepAlive(keep_alive)) => return keep_alive::run(keep_alive).await,
        Ok(StreamArgs::LargeRange(large_range)) => return large_range::run(large_range).await,
        Err(load) => *load,
    };
    let plan = args.into_plan()?;
    let output = plan.output;
    let check = plan.check_revision;
    if plan.overload {
        return tokio::task::spawn_blocking(move || overload::run(&plan)).await.expect("a load thread panicked");
    }
    let driven = tokio::task::spawn_blocking(move || drive::drive(&plan)).await;
    let report: Report = driven.expect("a load thread panicked")?;
    report.print(output).map_err(BenchError::Print)?;
    if check { report.check_revision() } else { Ok(()) }
}
