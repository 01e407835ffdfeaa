//! `quorate server`: one node.

use std::path::PathBuf;

use clap::Args;
use quorate_server::NodeState;
use quorate_server::listen::PortLimits;
use quorate_server::runtime::ReplicaConfig;
use quorate_server::server::{Server, ServerConfig};

use crate::failure::Failure;
use crate::flags::{NodeFlags, listen};
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
    #[command(flatten)]
    flags: NodeFlags,
}

/// Runs the node until a signal, or until its disk fails.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(args: ServerArgs) -> Result<(), Failure> {
    args.flags.check()?;
    let mut signals = StopSignals::catch()?;
    let server = Server::start(config(&args)?).await.map_err(Failure::new)?;
    announce(&server, &args);
    tokio::select! {
        () = signals.next() => {}
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
    args.flags.apply(&mut replica);
    Ok(ServerConfig {
        replica,
        client_listener,
        metrics_listener: Some(metrics_listener),
        admin_token_file: args.flags.admin_token_file.clone(),
        auto_compaction: args.flags.auto_compaction()?,
        limits: PortLimits::default(),
    })
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
