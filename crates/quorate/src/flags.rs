//! The flags that `server` and `dev` share, with etcd's names, meanings and defaults where etcd has them.

use std::net::{TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use quorate_server::TokenOption;
use quorate_server::answers::AnswerLimits;
use quorate_server::auto_compaction::AutoCompaction;
use quorate_server::listen::PortLimits;
use quorate_server::runtime::ReplicaConfig;

use crate::descriptors::share_for_connections;
use crate::failure::Failure;
use crate::memory::default_answer_bytes;

/// An election timeout of fewer heartbeats than this would expire while the leader is well (etcd's rule).
const LEAST_HEARTBEATS: u64 = 5;
/// Idle watches are told the revision no more often than this, as etcd has it.
const LEAST_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
const DEFAULT_PROGRESS_INTERVAL: Duration = Duration::from_secs(600);
/// The quota of a node that names none.
const DEFAULT_QUOTA_BYTES: u64 = 2 << 30;

/// How a node behaves.
#[derive(Debug, Clone, Args)]
pub(crate) struct NodeFlags {
    /// Time between a leader's heartbeats, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 100)]
    heartbeat_interval: u64,
    /// Silence of the leader after which an election begins, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    election_timeout: u64,
    /// Entries by which the log is cut at a time.
    #[arg(long, value_name = "ENTRIES", default_value_t = 10_000)]
    snapshot_count: u64,
    /// Entries that the log keeps for members that lag; who is further behind gets an image.
    #[arg(long, value_name = "ENTRIES", default_value_t = 20_000)]
    snapshot_catchup_entries: u64,
    /// Largest write a client may ask for, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 1_572_864)]
    max_request_bytes: usize,
    /// Bytes that all large answers may hold in memory at one time; encoding takes as much again for values below 16 KiB.
    /// [default: an eighth of the memory that this process may use, 64 MiB at least and 2 GiB at most]
    #[arg(long, value_name = "BYTES")]
    max_answer_bytes: Option<usize>,
    /// Client connections; further ones are closed at once.
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    max_connections: usize,
    /// Requests in flight on one HTTP/2 connection.
    #[arg(long, value_name = "COUNT", default_value_t = 8192)]
    max_concurrent_streams: u32,
    /// Leases at one time; further ones are not granted.
    #[arg(long, value_name = "COUNT", default_value_t = 4_000_000)]
    max_leases: usize,
    /// Live bytes above which writes are refused; 0 for 2 GiB, less than 0 for no limit.
    #[arg(long, value_name = "BYTES", default_value_t = 0, allow_negative_numbers = true)]
    quota_backend_bytes: i64,
    /// What --auto-compaction-retention counts: periodic or revision.
    #[arg(long, value_name = "MODE", default_value = "periodic")]
    auto_compaction_mode: String,
    /// History that is kept: a number of hours or a duration, or a number of revisions; 0 keeps all of it.
    #[arg(long, value_name = "RETENTION", default_value = "0")]
    auto_compaction_retention: String,
    /// How often idle watches are told the revision; 0s for ten minutes.
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    watch_progress_notify_interval: String,
    /// File with the token that calls of the admin service need; it may be replaced at any time.
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,
    /// Tokens of users: `simple`, or `jwt,sign-method=METHOD,priv-key=FILE`, with `pub-key=FILE` and `ttl=5m` where wanted.
    #[arg(long, value_name = "KIND", default_value = "simple")]
    pub(crate) auth_token: TokenOption,
}

impl NodeFlags {
    /// Checks what clap cannot.
    ///
    /// # Errors
    /// [`Failure`] naming the flag.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.heartbeat_interval == 0 {
            return Err(Failure::new("--heartbeat-interval is 0"));
        }
        if self.election_timeout < self.heartbeat_interval * LEAST_HEARTBEATS {
            return Err(Failure::new(format_args!(
                "--election-timeout {} is less than {LEAST_HEARTBEATS} times --heartbeat-interval {}",
                self.election_timeout, self.heartbeat_interval
            )));
        }
        let at_least_one = [
            ("--max-answer-bytes", self.max_answer_bytes.unwrap_or(1)),
            ("--max-connections", self.max_connections),
            ("--max-concurrent-streams", self.max_concurrent_streams as usize),
        ];
        if let Some((flag, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(Failure::new(format_args!("{flag} is 0: nobody could be served")));
        }
        if self.max_request_bytes == 0 {
            return Err(Failure::new("--max-request-bytes is 0"));
        }
        if self.progress_interval().is_none() {
            return Err(Failure::new(format_args!(
                "--watch-progress-notify-interval {} is no duration such as 10m",
                self.watch_progress_notify_interval
            )));
        }
        if let Some(file) = &self.admin_token_file {
            std::fs::metadata(file).map_err(|error| {
                Failure::new(format_args!("--admin-token-file {}: {error}", file.display()))
                    .advise("create the file first, with the token in it and nothing else")
            })?;
        }
        self.auto_compaction().map(drop)
    }

    /// Fills in what these flags say.
    pub(crate) fn apply(&self, config: &mut ReplicaConfig) {
        config.heartbeat_interval = Duration::from_millis(self.heartbeat_interval);
        config.election_timeout = Duration::from_millis(self.election_timeout);
        config.snapshot_count = self.snapshot_count;
        config.keep_log_entries = self.snapshot_catchup_entries;
        config.max_request_bytes = self.max_request_bytes;
        config.max_leases = self.max_leases;
        config.watch_progress_interval = self.progress_interval().expect("checked at the start");
        config.quota_bytes = match self.quota_backend_bytes {
            0 => DEFAULT_QUOTA_BYTES,
            bytes => u64::try_from(bytes).unwrap_or(0),
        };
    }

    /// None if it is no duration. 0 asks for the default, as with etcd: told every 100 ms, each idle watch would cost something.
    fn progress_interval(&self) -> Option<Duration> {
        let typed = quorate_server::duration::parse_duration(&self.watch_progress_notify_interval)?;
        Some(if typed.is_zero() { DEFAULT_PROGRESS_INTERVAL } else { typed.max(LEAST_PROGRESS_INTERVAL) })
    }

    /// Limits of the client port and of the metrics port of one of `nodes` nodes in this process.
    pub(crate) fn port_limits(&self, nodes: usize) -> (PortLimits, PortLimits) {
        let share = share_for_connections(self.max_connections, nodes);
        let limits = |max_connections| PortLimits {
            max_connections,
            max_streams: self.max_concurrent_streams,
            ..PortLimits::default()
        };
        (limits(share.clients), limits(share.metrics))
    }

    /// Limits of the answers of one of `nodes` nodes in this process.
    pub(crate) fn answer_limits(&self, nodes: usize) -> AnswerLimits {
        let max_bytes = self.max_answer_bytes.unwrap_or_else(|| default_answer_bytes() / nodes);
        AnswerLimits { max_bytes, ..AnswerLimits::default() }
    }

    /// What history goes without being asked.
    ///
    /// # Errors
    /// [`Failure`] if the two flags do not fit.
    pub(crate) fn auto_compaction(&self) -> Result<Option<AutoCompaction>, Failure> {
        AutoCompaction::parse(&self.auto_compaction_mode, &self.auto_compaction_retention).map_err(Failure::new)
    }
}

/// Opens a port.
///
/// # Errors
/// [`Failure`] naming the flag that would change it.
pub(crate) fn listen(address: &str, flag: &str) -> Result<TcpListener, Failure> {
    let bare = address.strip_prefix("http://").unwrap_or(address);
    let resolved = bare
        .to_socket_addrs()
        .map_err(|error| Failure::new(format_args!("{flag} {address} is no address to listen at: {error}")))?;
    let resolved: Vec<_> = resolved.collect();
    TcpListener::bind(&resolved[..]).map_err(|error| {
        Failure::new(format_args!("cannot listen at {bare}: {error}"))
            .advise(format_args!("end what uses the port, or choose another one with {flag}"))
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        flags: NodeFlags,
    }

    #[track_caller]
    fn check_progress(typed: &[&str], expected: Option<Duration>) {
        let arguments = typed.iter().map(|value| format!("--watch-progress-notify-interval={value}"));
        let only = Only::try_parse_from(std::iter::once("server".to_owned()).chain(arguments)).expect("arguments");
        assert_eq!(only.flags.progress_interval(), expected, "{typed:?}");
        assert_eq!(only.flags.check().is_ok(), expected.is_some(), "{typed:?}");
    }

    #[test]
    fn idle_watches_are_told_every_ten_minutes_unless_a_time_is_given() {
        let ten_minutes = Some(Duration::from_secs(600));
        check_progress(&[], ten_minutes);
        check_progress(&["0s"], ten_minutes);
        check_progress(&["5s"], Some(Duration::from_secs(5)));
        check_progress(&["1ms"], Some(LEAST_PROGRESS_INTERVAL));
        check_progress(&["often"], None);
    }
}
