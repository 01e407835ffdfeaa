//! `quorate dev`: a whole cluster in one process.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use quorate_server::runtime::{Replica, ReplicaConfig};
use quorate_server::server::{Server, ServerConfig};
use quorate_server::{Member, NodeState};
use tempfile::TempDir;

use crate::failure::Failure;
use crate::flags::{NodeFlags, listen};
use crate::random::random_id;
use crate::say::say;
use crate::stop::StopSignals;

/// Client port of the first node.
const FIRST_PORT: u16 = 2379;
/// Distance between the client ports of two nodes at the default ports, and with --client-port.
const FAR: u16 = 10_000;
const NEAR: u16 = 10;
/// A cluster that does not elect in this time will not.
const ELECTION_PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of `quorate dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=7))]
    nodes: u16,
    /// Client port of the first node; the others follow at +10 each.
    #[arg(long, value_name = "PORT")]
    client_port: Option<u16>,
    /// Keeps the data here; the same directory starts again with it. A temporary one if absent.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    flags: NodeFlags,
}

/// Where one node listens. Port 0 is any free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    client: u16,
    peer: u16,
    metrics: u16,
}

/// Runs the cluster until a signal.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(args: DevArgs) -> Result<(), Failure> {
    args.flags.check()?;
    let mut signals = StopSignals::catch()?;
    let data = DataDir::open(args.data_dir.as_deref())?;
    let servers = start_nodes(&args, data.path()).await?;
    let waiting = make_cluster(&servers, data.path()).await?;
    tokio::select! {
        leader = wait_for_leader(&servers) => introduce(&servers, &data, leader?, &waiting),
        () = signals.next() => return stop(servers, &mut signals).await,
    }
    let failed = first_failure(&servers);
    tokio::select! {
        () = signals.next() => {}
        reason = failed => return Err(Failure::new(format_args!("a node ended itself: {reason}"))),
    }
    say("stopping");
    stop(servers, &mut signals).await
}

async fn stop(servers: Vec<Server>, signals: &mut StopSignals) -> Result<(), Failure> {
    let mut stopping = tokio::task::JoinSet::new();
    for server in servers {
        stopping.spawn(server.stop());
    }
    signals.unless_hurried(async { while stopping.join_next().await.is_some() {} }).await
}

/// The data of all nodes, one folder each.
enum DataDir {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl DataDir {
    fn open(path: Option<&Path>) -> Result<Self, Failure> {
        match path {
            Some(path) => Ok(DataDir::Kept(path.to_path_buf())),
            None => TempDir::with_prefix("quorate-dev-")
                .map(DataDir::Temporary)
                .map_err(|error| Failure::new(format_args!("cannot make a temporary directory: {error}"))),
        }
    }

    fn path(&self) -> &Path {
        match self {
            DataDir::Kept(path) => path,
            DataDir::Temporary(directory) => directory.path(),
        }
    }
}

/// The ports of node `number`, from 0.
fn ports(args: &DevArgs, number: u16) -> Result<Ports, Failure> {
    let (first, distance) = args.client_port.map_or((FIRST_PORT, FAR), |port| (port, NEAR));
    let client = number.checked_mul(distance).and_then(|offset| offset.checked_add(first));
    let client = client.filter(|client| *client < u16::MAX - 1).ok_or_else(|| {
        Failure::new(format_args!("there are not enough ports for {} nodes from {first} on", args.nodes))
            .advise("choose a lower --client-port")
    })?;
    if args.nodes == 1 && args.client_port.is_some() {
        return Ok(Ports { client, peer: 0, metrics: 0 });
    }
    Ok(Ports { client, peer: client + 1, metrics: client + 2 })
}

async fn start_nodes(args: &DevArgs, data: &Path) -> Result<Vec<Server>, Failure> {
    // All ports first: a port in use is found before anything is written.
    let mut bound: Vec<[TcpListener; 3]> = Vec::new();
    for number in 0..args.nodes {
        let ports = ports(args, number)?;
        let open = |port: u16| listen(&format!("127.0.0.1:{port}"), "--client-port");
        bound.push([open(ports.client)?, open(ports.peer)?, open(ports.metrics)?]);
    }
    let (limits, metrics_limits) = args.flags.port_limits(bound.len());
    let answers = args.flags.answer_limits(bound.len());
    let mut servers = Vec::new();
    for (number, [client_listener, peer_listener, metrics_listener]) in (1..).zip(bound) {
        let name = format!("n{number}");
        let mut replica = ReplicaConfig::new(data.join(&name), name, peer_listener);
        replica.advertise_client = vec![client_listener.local_addr().map_err(Failure::new)?.to_string()];
        args.flags.apply(&mut replica);
        let config = ServerConfig {
            replica,
            client_listener,
            metrics_listener: Some(metrics_listener),
            admin_token_file: args.flags.admin_token_file.clone(),
            auth_token: args.flags.auth_token.clone(),
            auto_compaction: args.flags.auto_compaction()?,
            limits: limits.clone(),
            metrics_limits: metrics_limits.clone(),
            answers: answers.clone(),
        };
        servers.push(Server::start(config).await.map_err(Failure::new)?);
    }
    Ok(servers)
}

/// Initialises empty nodes together, or finds the cluster that the directory holds. Returns the names of nodes that are
/// in no cluster yet.
async fn make_cluster(servers: &[Server], data: &Path) -> Result<Vec<String>, Failure> {
    let known = servers.iter().find_map(|server| server.replica().status().identity);
    if known.is_some() {
        check_addresses(servers, data)?;
        if servers.iter().any(|server| !members_of(server.replica()).is_empty()) {
            let is_empty = |server: &&Server| server.replica().status().state == NodeState::Uninitialised;
            return Ok(servers.iter().filter(is_empty).map(|server| server.replica().status().name).collect());
        }
    }
    let cluster_id = known.map_or_else(random_id, |identity| Ok(identity.cluster_id))?;
    let members: Vec<Member> = servers.iter().map(|server| server.replica().own_identity().member).collect();
    for server in servers {
        server.replica().init(cluster_id, members.clone()).await.map_err(|error| {
            Failure::new(format_args!("cannot initialise {}: {error}", server.replica().status().name))
                .advise(format_args!("start over with another --data-dir, or remove {}", data.display()))
        })?;
    }
    Ok(Vec::new())
}

fn members_of(replica: &Replica) -> Vec<Member> {
    let effective = replica.status().raft.map(|raft| raft.effective.1);
    effective.map(|membership| membership.members.values().cloned().collect()).unwrap_or_default()
}

/// Nodes find each other by the addresses in the configuration. If all ports moved at once nobody would find anybody.
fn check_addresses(servers: &[Server], data: &Path) -> Result<(), Failure> {
    for server in servers {
        let members = members_of(server.replica());
        if members.len() < 2 {
            continue;
        }
        if members.len() > servers.len() {
            return Err(Failure::new(format_args!(
                "{} holds a cluster of {} nodes, and {} were started",
                data.display(),
                members.len(),
                servers.len()
            ))
            .advise(format_args!("--nodes {}", members.len())));
        }
        let status = server.replica().status();
        let own = members.iter().find(|member| member.incarnation == status.incarnation);
        if let Some(own) = own.filter(|own| own.peer_address != status.peer_address) {
            return Err(Failure::new(format_args!(
                "{} was at {} and would now be at {}: its peers would not find it",
                status.name, own.peer_address, status.peer_address
            ))
            .advise("the --client-port of the first start"));
        }
    }
    Ok(())
}

async fn wait_for_leader(servers: &[Server]) -> Result<String, Failure> {
    let mut changes = servers[0].replica().watch_status();
    let elected = tokio::time::timeout(ELECTION_PATIENCE, changes.wait_for(|change| change.leader.is_some())).await;
    let leader = elected
        .ok()
        .and_then(Result::ok)
        .and_then(|change| change.leader)
        .ok_or_else(|| Failure::new("no leader was elected").advise("RUST_LOG=info shows what the nodes see"))?;
    let is_leader =
        |server: &&Server| server.replica().status().identity.is_some_and(|identity| identity.node_id == leader);
    Ok(servers
        .iter()
        .find(is_leader)
        .map_or_else(|| "another node".to_string(), |server| server.replica().status().name))
}

/// Resolves when any node ends itself.
async fn first_failure(servers: &[Server]) -> String {
    let mut failures = tokio::task::JoinSet::new();
    for server in servers {
        let replica = server.replica().clone();
        failures.spawn(async move { replica.failed().await });
    }
    match failures.join_next().await {
        Some(Ok(reason)) => reason,
        _ => std::future::pending().await,
    }
}

fn introduce(servers: &[Server], data: &DataDir, leader: String, waiting: &[String]) {
    let kept = match data {
        DataDir::Kept(path) => format!("in {}", path.display()),
        DataDir::Temporary(directory) => {
            format!("in {}, which goes when this ends (keep it with --data-dir DIR)", directory.path().display())
        }
    };
    let count = servers.len();
    say(format_args!(
        "quorate {}: {count} {}, {leader} leads",
        env!("CARGO_PKG_VERSION"),
        if count == 1 { "node" } else { "nodes" }
    ));
    say(format_args!("data {kept}\n"));
    for server in servers {
        let status = server.replica().status();
        let metrics = server.metrics_address().map_or_else(String::new, |address| format!("  metrics {address}"));
        say(format_args!(
            "  {}  clients {}  peers {}{metrics}",
            status.name,
            server.client_address(),
            status.peer_address
        ));
    }
    let first = servers[0].client_address();
    let last = servers[count - 1].client_address();
    say("\nTry:");
    say(format_args!("  etcdctl --endpoints {first} put greeting hello"));
    say(format_args!("  etcdctl --endpoints {last} get greeting"));
    say(format_args!("  etcdctl --endpoints {first} member list -w table"));
    say(format_args!("  quorate ctl --endpoint {first} members"));
    say(format_args!("  quorate ctl --endpoint {last} get greeting --consistency stale"));
    say(format_args!("  curl 'http://{last}/v1/kv/greeting?stale&raw'"));
    if !waiting.is_empty() {
        let peers: Vec<String> = servers.iter().map(|server| server.replica().status().peer_address).collect();
        say(format_args!("\n{} wait to be admitted:", waiting.join(", ")));
        say(format_args!("  quorate ctl --endpoint {first} set-voters {}", peers.join(",")));
    }
    say("\nCtrl-C ends it.");
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: DevArgs,
    }

    #[track_caller]
    fn check(typed: &[&str], expected: &[(u16, u16, u16)]) {
        let args = Only::try_parse_from([&["dev"], typed].concat()).expect("arguments").args;
        let found: Vec<Ports> = (0..args.nodes).map(|number| ports(&args, number).expect("ports")).collect();
        let expected: Vec<Ports> =
            expected.iter().map(|&(client, peer, metrics)| Ports { client, peer, metrics }).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn ports_are_the_ones_that_are_promised() {
        check(&[], &[(2379, 2380, 2381), (12379, 12380, 12381), (22379, 22380, 22381)]);
        check(&["--client-port", "5000", "--nodes", "2"], &[(5000, 5001, 5002), (5010, 5011, 5012)]);
        check(&["--client-port", "5000", "--nodes", "1"], &[(5000, 0, 0)]);
        check(&["--nodes", "1"], &[(2379, 2380, 2381)]);
    }

    #[test]
    fn too_many_nodes_for_the_ports_are_refused() {
        let args = Only::try_parse_from(["dev", "--client-port", "65530"]).expect("arguments").args;
        assert!(ports(&args, 0).is_ok());
        assert!(ports(&args, 1).is_err());
    }
}
