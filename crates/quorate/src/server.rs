//! `quorate server`: one node.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use quorate_server::NodeState;
use quorate_server::duration::parse_duration;
use quorate_server::runtime::ReplicaConfig;
use quorate_server::server::{Server, ServerConfig};

use crate::failure::Failure;
use crate::flags::{NodeFlags, listen};
use crate::recover::parse_id;
use crate::stop::StopSignals;

/// Arguments of `quorate server`.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Holds everything the node knows; created if absent.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The member's name.
    #[arg(long, env = "HOSTNAME", default_value = "default")]
    name: String,
    /// Where clients connect: gRPC and HTTP.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:2379")]
    listen_client: String,
    /// Where other nodes connect.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:2380")]
    listen_peer: String,
    /// Where metrics and health are read without credentials.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:2381")]
    listen_metrics: String,
    /// Where clients find this node, if not at --listen-client; several separated by commas.
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    advertise_client: Vec<String>,
    /// Where other nodes find this node, if not at --listen-peer.
    #[arg(long, value_name = "HOST:PORT")]
    advertise_peer: Option<String>,
    /// File with ids of clusters, one a line, that must never run again; none if there is no such file. Data of one is set
    /// aside at the start: another cluster was recovered from a node of it.
    #[arg(long, value_name = "FILE")]
    retired_clusters_file: Option<PathBuf>,
    /// How long a node that is told to stop goes on serving, while `/readyz` says that it is about to stop: time for load
    /// balancers to hear of it, so that they send nobody to a port that is closed. A Ctrl-C ends the waiting.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    shutdown_delay: String,
    #[command(flatten)]
    flags: NodeFlags,
}

/// Runs the node until a signal, or until its disk fails.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(args: ServerArgs) -> Result<(), Failure> {
    args.flags.check()?;
    let shutdown_delay = parse_duration(&args.shutdown_delay).ok_or_else(|| {
        Failure::new(format_args!("--shutdown-delay {} is no duration such as 5s", args.shutdown_delay))
    })?;
    let mut signals = StopSignals::catch()?;
    let server = Server::start(config(&args)?).await.map_err(Failure::new)?;
    announce(&server, &args);
    let serving = async {
        signals.next().await;
        if !shutdown_delay.is_zero() {
            tracing::info!("stopping in {}: no more clients are to be sent here", args.shutdown_delay);
            server.withdraw().await;
            signals.sleep(shutdown_delay).await;
        }
    };
    tokio::select! {
        () = serving => {}
        reason = server.replica().failed() => {
            return Err(Failure::new(format_args!("the node ended itself: {reason}"))
                .advise("look at the disk, then start the node again: it reads back what is really there"));
        }
    }
    tracing::info!("stopping: leadership is handed over first");
    signals.unless_hurried(server.stop()).await?;
    tracing::info!("stopped");
    Ok(())
}

fn config(args: &ServerArgs) -> Result<ServerConfig, Failure> {
    let client_listener = listen(&args.listen_client, "--listen-client")?;
    let peer_listener = listen(&args.listen_peer, "--listen-peer")?;
    let metrics_listener = listen(&args.listen_metrics, "--listen-metrics")?;
    let bound = client_listener.local_addr().map_err(Failure::new)?.to_string();
    let mut replica = ReplicaConfig::new(args.data_dir.clone(), args.name.clone(), peer_listener);
    if let Some(address) = &args.advertise_peer {
        replica.advertise_peer.clone_from(address);
    }
    replica.advertise_client =
        if args.advertise_client.is_empty() { vec![bound] } else { args.advertise_client.clone() };
    if let Some(file) = &args.retired_clusters_file {
        replica.retired_clusters = retired_clusters(file)?;
    }
    args.flags.apply(&mut replica);
    let (limits, metrics_limits) = args.flags.port_limits(1);
    Ok(ServerConfig {
        replica,
        client_listener,
        metrics_listener: Some(metrics_listener),
        admin_token_file: args.flags.admin_token_file.clone(),
        auth_token: args.flags.auth_token.clone(),
        auto_compaction: args.flags.auto_compaction()?,
        limits,
        metrics_limits,
        answers: args.flags.answer_limits(1),
    })
}

/// A line that is no id is refused: a node that should have stayed away would run.
fn retired_clusters(file: &Path) -> Result<BTreeSet<u128>, Failure> {
    let failed = |problem: &dyn std::fmt::Display| {
        Failure::new(format_args!("--retired-clusters-file {}: {problem}", file.display()))
    };
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(failed(&error)),
    };
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| parse_id(line.trim()).map_err(|e| failed(&e)))
        .collect()
}

fn announce(server: &Server, args: &ServerArgs) {
    let status = server.replica().status();
    tracing::info!(
        name = args.name,
        client = %server.client_address(),
        peer = status.peer_address,
        data = %args.data_dir.display(),
        "listening"
    );
    match status.state {
        NodeState::Uninitialised => tracing::info!(
            "this node is empty and waits. To make a cluster, name all of its first nodes: \
             quorate ctl --endpoint {} init --voters {}={},…",
            server.client_address(),
            args.name,
            status.peer_address,
        ),
        NodeState::Fenced | NodeState::Damaged | NodeState::Removed => {
            tracing::warn!(state = ?status.state, reason = status.state_reason, "this node does not serve");
        }
        NodeState::Joining | NodeState::Member => {}
    }
}

#[cfg(test)]
mod tests {
    use super::retired_clusters;

    #[test]
    fn retired_clusters_are_read_line_by_line_and_nothing_is_overlooked() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let file = folder.path().join("retired");
        assert!(retired_clusters(&file).expect("no file is no retired cluster").is_empty());
        std::fs::write(&file, format!("{:032x}\n\n{:032x}\n", 7, 9)).expect("written");
        assert_eq!(retired_clusters(&file).expect("two ids"), [7, 9].into());
        std::fs::write(&file, "7\n").expect("written");
        assert!(retired_clusters(&file).is_err());
    }
}
