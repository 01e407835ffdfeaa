//! Three nodes of one system on this machine, from empty data to gone.
//!
//! Owns the child processes and ends them when dropped. Both systems get their defaults; nothing is tuned for either.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::http;
use crate::failure::Failure;
use crate::process;
use crate::usage::{Usage, private_bytes};

const NODES: usize = 3;
/// A cluster that does not serve by then is broken; also covers a restart on a million keys.
const PATIENCE: Duration = Duration::from_secs(120);
/// Resolution of the restart time.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What is measured.
#[derive(Debug, Clone)]
pub(super) enum System {
    Quorate { binary: PathBuf },
    Etcd { binary: PathBuf },
}

/// How a node is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// SIGTERM, waiting for its end.
    Clean,
    /// SIGKILL: the next start recovers.
    Kill,
}

/// A running cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    system: System,
    folder: tempfile::TempDir,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    metrics: SocketAddr,
    process: Option<Child>,
}

impl System {
    pub(super) fn name(&self) -> &'static str {
        match self {
            System::Quorate { .. } => "Quorate",
            System::Etcd { .. } => "etcd",
        }
    }

    fn command(&self, node: &Node, all: &[Node], data: &Path) -> Command {
        match self {
            System::Quorate { binary } => {
                let mut command = Command::new(binary);
                command.arg("server").arg("--data-dir").arg(data).args(["--name", &node.name]);
                for (flag, address) in [
                    ("--listen-client", node.client),
                    ("--advertise-client", node.client),
                    ("--listen-peer", node.peer),
                    ("--advertise-peer", node.peer),
                    ("--listen-metrics", node.metrics),
                ] {
                    command.arg(flag).arg(address.to_string());
                }
                command
            }
            System::Etcd { binary } => {
                let peers: Vec<String> = all.iter().map(|node| format!("{}=http://{}", node.name, node.peer)).collect();
                let (client, peer) = (format!("http://{}", node.client), format!("http://{}", node.peer));
                let mut command = Command::new(binary);
                command.arg("--data-dir").arg(data);
                for (flag, value) in [
                    ("--name", &node.name),
                    ("--listen-client-urls", &client),
                    ("--advertise-client-urls", &client),
                    ("--listen-peer-urls", &peer),
                    ("--initial-advertise-peer-urls", &peer),
                    ("--initial-cluster", &peers.join(",")),
                    ("--log-level", &"warn".to_owned()),
                ] {
                    command.arg(flag).arg(value);
                }
                command
            }
        }
    }
}

impl Cluster {
    /// Starts three empty nodes under `folder`, makes them a cluster and waits until each serves.
    pub(super) fn start(system: &System, folder: &Path) -> Result<Cluster, Failure> {
        let folder = tempfile::tempdir_in(folder).map_err(Failure::file(folder))?;
        let addresses = free_addresses(3 * NODES)?;
        let node = |number: usize| Node {
            name: format!("n{}", number + 1),
            client: addresses[3 * number],
            peer: addresses[3 * number + 1],
            metrics: addresses[3 * number + 2],
            process: None,
        };
        let nodes = (0..NODES).map(node).collect();
        let mut cluster = Cluster { system: system.clone(), folder, nodes };
        cluster.spawn()?;
        if let System::Quorate { binary } = system {
            cluster.wait_for("/livez")?;
            let voters: Vec<String> =
                cluster.nodes.iter().map(|node| format!("{}={}", node.name, node.client)).collect();
            let mut init = Command::new(binary);
            init.args(["ctl", "--endpoint", &cluster.nodes[0].client.to_string(), "init", "--voters"]);
            process::run(init.arg(voters.join(",")))?;
        }
        cluster.wait_for("/readyz")?;
        Ok(cluster)
    }

    /// Client addresses of all nodes, as the load generator takes them.
    pub(super) fn endpoints(&self) -> String {
        let addresses: Vec<String> = self.nodes.iter().map(|node| node.client.to_string()).collect();
        addresses.join(",")
    }

    /// Client address of one node.
    pub(super) fn one_endpoint(&self) -> String {
        self.nodes[0].client.to_string()
    }

    /// What the node that holds most memory for itself holds now.
    pub(super) fn largest_private_bytes(&self) -> Result<f64, Failure> {
        self.nodes
            .iter()
            .filter_map(|node| node.process.as_ref())
            .try_fold(0.0_f64, |most, process| Ok(most.max(private_bytes(process.id())?)))
    }

    /// Sum over the nodes.
    pub(super) fn usage(&self) -> Result<Usage, Failure> {
        self.nodes
            .iter()
            .filter_map(|node| node.process.as_ref())
            .try_fold(Usage::default(), |sum, process| Ok(sum + Usage::of(process.id())?))
    }

    /// Ends all nodes, starts them again, and returns the time from the start to every node serving linearizable reads.
    pub(super) fn restart(&mut self, how: Stop) -> Result<Duration, Failure> {
        for node in &mut self.nodes {
            let Some(process) = &mut node.process else { continue };
            match how {
                Stop::Kill => process.kill().map_err(|source| broken(node, "cannot be killed", &source))?,
                // The standard library sends SIGKILL only.
                Stop::Clean => {
                    let terminate = Command::new("kill").arg(process.id().to_string()).status();
                    if !terminate.is_ok_and(|status| status.success()) {
                        return Err(Failure::Broken("`kill` failed".to_owned()));
                    }
                }
            }
        }
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                process.wait().map_err(|source| broken(node, "cannot be waited for", &source))?;
            }
        }
        let start = Instant::now();
        self.spawn()?;
        self.wait_for("/readyz")?;
        Ok(start.elapsed())
    }

    fn spawn(&mut self) -> Result<(), Failure> {
        for number in 0..self.nodes.len() {
            let data = self.folder.path().join(&self.nodes[number].name);
            let log = self.folder.path().join(format!("{}.log", self.nodes[number].name));
            let log = File::options().create(true).append(true).open(&log).map_err(Failure::file(log))?;
            let also = log.try_clone().map_err(Failure::file(&data))?;
            let mut command = self.system.command(&self.nodes[number], &self.nodes, &data);
            let process = command
                .stdout(log)
                .stderr(also)
                .spawn()
                .map_err(|source| broken(&self.nodes[number], "cannot be started", &source))?;
            self.nodes[number].process = Some(process);
        }
        Ok(())
    }

    fn wait_for(&mut self, path: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        for number in 0..self.nodes.len() {
            while !http::is_ok(self.nodes[number].client, path) {
                let node = &mut self.nodes[number];
                let ended = node.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
                if ended.is_some() || Instant::now() > deadline {
                    let name = node.name.clone();
                    return Err(self.complain(&name, path));
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        }
        Ok(())
    }

    /// The end of the log of a node that does not come up.
    fn complain(&self, name: &str, path: &str) -> Failure {
        let log = fs::read_to_string(self.folder.path().join(format!("{name}.log")));
        let log = log.unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(10).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        let system = self.system.name();
        Failure::Broken(format!("{system} node {name} does not answer {path}:\n{}", tail.join("\n")))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            // A child that is gone already is what this wants.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Loopback addresses nobody listens on at this moment.
fn free_addresses(count: usize) -> Result<Vec<SocketAddr>, Failure> {
    let refused = |source| Failure::Broken(format!("no free port on the loopback interface: {source}"));
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>().map_err(refused)?;
    listeners.iter().map(|listener| listener.local_addr().map_err(refused)).collect()
}

fn broken(node: &Node, problem: &str, source: &std::io::Error) -> Failure {
    Failure::Broken(format!("node {} {problem}: {source}", node.name))
}
