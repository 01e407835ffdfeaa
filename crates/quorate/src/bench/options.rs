//! The flags of `quorate bench`, and the plan they amount to.
//!
//! Owns defaults and their checks. A [`Plan`] is complete: nothing after this module looks at a flag again.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::BenchError;
use super::keep_alive::KeepAliveArgs;
use super::large_range::LargeRangeArgs;
use super::watch::WatchArgs;
use super::workload::{Keys, Kind};

/// Load used when neither `--total` nor `--duration` is given.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);
/// More connections than this gain nothing on one machine: an HTTP/2 connection carries any number of clients.
const DEFAULT_CONNECTIONS_MAX: usize = 16;
/// Between two tries of a client whose last one failed: a dead server must not turn the load into a busy loop.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);
/// Room for the key's number, so that every key of the key space is different.
const KEY_SIZE_MIN: usize = 8;

/// Measures a server that speaks the etcd v3 API.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    workload: WorkloadArgs,
}

#[derive(Debug, Subcommand)]
enum WorkloadArgs {
    /// Put random keys
    Put {
        #[command(flatten)]
        load: LoadArgs,
        /// Put each key of the key space in turn instead of random ones
        #[arg(long)]
        sequential: bool,
    },
    /// Read random single keys
    Range {
        #[command(flatten)]
        load: LoadArgs,
        #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
        consistency: Consistency,
    },
    /// Read and put random keys
    Mixed {
        #[command(flatten)]
        load: LoadArgs,
        #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
        consistency: Consistency,
        /// Share of reads
        #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
        read_percent: u8,
    },
    /// Put with ten times the clients that saturate the servers, and compare with the peak; --duration is that of a step
    Overload {
        #[command(flatten)]
        load: LoadArgs,
    },
    /// Update keys as Kubernetes does: put if the key is unchanged, else read it
    Txn {
        #[command(flatten)]
        load: LoadArgs,
    },
    /// Tell many watchers of the changes of one key
    Watch(WatchArgs),
    /// Renew leases, as clients do on one stream each
    Keepalive(KeepAliveArgs),
    /// Read all keys that `put --sequential` left, many at a time
    LargeRange(LargeRangeArgs),
}

/// The workloads that are no load of single requests.
#[derive(Debug)]
pub(super) enum StreamArgs {
    Watch(WatchArgs),
    KeepAlive(KeepAliveArgs),
    LargeRange(LargeRangeArgs),
}

/// How fresh a read must be. The first two are etcd's, the others are asked for in request metadata only Quorate reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Consistency {
    /// What an etcd client gets that says nothing
    Linearizable,
    /// The contacted member's own state
    Serializable,
    /// Quorate: leader lease
    Default,
    /// Quorate: confirmed by a quorum
    Consistent,
    /// Quorate: any node's own state, with its staleness told
    Stale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// A table for people
    Text,
    /// One JSON object
    Json,
}

#[derive(Debug, Args)]
struct LoadArgs {
    /// Servers, HOST:PORT[,…]; connections are spread over them
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379", alias = "endpoint")]
    endpoints: Vec<String>,
    /// Concurrent clients, one request outstanding each
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// HTTP/2 connections the clients share [default: as many as clients, at most 16]
    #[arg(long)]
    connections: Option<usize>,
    /// Stop after this many operations
    #[arg(long)]
    total: Option<u64>,
    /// Stop after this many seconds [default: 10, if no --total is given]
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    /// Operations a second at most, over all clients [default: no limit]
    #[arg(long)]
    rate: Option<u64>,
    /// Number of different keys
    #[arg(long, default_value_t = 100_000)]
    key_space: u64,
    /// Bytes a key
    #[arg(long, default_value_t = 16)]
    key_size: usize,
    /// Bytes a value
    #[arg(long, default_value_t = 256)]
    value_size: usize,
    /// Give an operation up after this long
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 10_000)]
    timeout: u64,
    /// Load threads [default: one a processor, at most 4]
    #[arg(long)]
    threads: Option<usize>,
    /// Choice of keys: the same seed asks for the same keys
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fail unless the store's revision rose by exactly the acknowledged writes
    #[arg(long)]
    check_revision: bool,
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Everything a run needs to know.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    pub(super) keys: Keys,
    pub(super) value_size: usize,
    pub(super) endpoints: Vec<String>,
    pub(super) clients: usize,
    pub(super) connections: usize,
    pub(super) threads: usize,
    pub(super) total: Option<u64>,
    pub(super) duration: Option<Duration>,
    pub(super) rate: Option<u64>,
    pub(super) timeout: Duration,
    pub(super) seed: u64,
    pub(super) check_revision: bool,
    pub(super) output: Output,
    /// What a client waits after an error.
    pub(super) pause: Duration,
    /// The run is `overload`, which chooses the clients itself.
    pub(super) overload: bool,
}

#[cfg(test)]
impl Plan {
    /// For tests of other modules: any valid plan.
    pub(super) fn sample() -> Plan {
        Plan {
            kind: Kind::Txn,
            keys: Keys { count: 1000, size: 16 },
            value_size: 64,
            endpoints: vec!["127.0.0.1:2379".to_owned()],
            clients: 10,
            connections: 2,
            threads: 1,
            total: Some(1),
            duration: None,
            rate: None,
            timeout: Duration::from_secs(1),
            seed: 7,
            check_revision: false,
            output: Output::Text,
            pause: PAUSE_AFTER_ERROR,
            overload: false,
        }
    }
}

impl BenchArgs {
    /// The flags of a workload that is no load of requests; otherwise itself.
    pub(super) fn into_streams(self) -> Result<StreamArgs, Box<BenchArgs>> {
        match self.workload {
            WorkloadArgs::Watch(args) => Ok(StreamArgs::Watch(args)),
            WorkloadArgs::Keepalive(args) => Ok(StreamArgs::KeepAlive(args)),
            WorkloadArgs::LargeRange(args) => Ok(StreamArgs::LargeRange(args)),
            workload => Err(Box::new(BenchArgs { workload })),
        }
    }

    pub(super) fn into_plan(self) -> Result<Plan, BenchError> {
        let overload = matches!(self.workload, WorkloadArgs::Overload { .. });
        let (kind, load) = match self.workload {
            WorkloadArgs::Overload { mut load } => {
                load.connections.get_or_insert(DEFAULT_CONNECTIONS_MAX);
                load.clients = load.clients.max(DEFAULT_CONNECTIONS_MAX);
                (Kind::Put { sequential: false }, load)
            }
            WorkloadArgs::Put { load, sequential } => (Kind::Put { sequential }, load),
            WorkloadArgs::Range { load, consistency } => (Kind::Range { consistency }, load),
            WorkloadArgs::Mixed { load, consistency, read_percent } => {
                (Kind::Mixed { consistency, read_percent }, load)
            }
            WorkloadArgs::Txn { load } => (Kind::Txn, load),
            WorkloadArgs::Watch(_) | WorkloadArgs::Keepalive(_) | WorkloadArgs::LargeRange(_) => {
                unreachable!("these are no load of requests")
            }
        };
        Ok(Plan { overload, ..load.into_plan(kind)? })
    }
}

impl LoadArgs {
    fn into_plan(self, kind: Kind) -> Result<Plan, BenchError> {
        let refuse = |text: String| Err(BenchError::Arguments(text));
        if self.clients == 0 || self.connections == Some(0) || self.threads == Some(0) {
            return refuse("--clients, --connections and --threads must be at least 1".to_owned());
        }
        if self.key_size < KEY_SIZE_MIN {
            return refuse(format!("--key-size must be at least {KEY_SIZE_MIN}"));
        }
        if self.key_space == 0 || self.key_space >= 10_u64.pow(KEY_SIZE_MIN as u32) {
            return refuse("--key-space must be between 1 and 99999999".to_owned());
        }
        if self.rate == Some(0) {
            return refuse("--rate must be at least 1".to_owned());
        }
        let duration = match (self.duration, self.total) {
            (Some(seconds), _) => match Duration::try_from_secs_f64(seconds) {
                Ok(duration) if !duration.is_zero() => Some(duration),
                _ => return refuse(format!("--duration {seconds} is no number of seconds")),
            },
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_DURATION),
        };
        let connections = self.connections.unwrap_or(DEFAULT_CONNECTIONS_MAX).min(self.clients);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Plan {
            kind,
            keys: Keys { count: self.key_space, size: self.key_size },
            value_size: self.value_size,
            endpoints: self.endpoints,
            clients: self.clients,
            connections,
            threads: self.threads.unwrap_or(processors.min(4)).min(connections),
            total: self.total,
            duration,
            rate: self.rate,
            timeout: Duration::from_millis(self.timeout),
            seed: self.seed,
            check_revision: self.check_revision,
            output: self.output,
            pause: PAUSE_AFTER_ERROR,
            overload: false,
        })
    }
}
