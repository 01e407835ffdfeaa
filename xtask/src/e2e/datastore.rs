//! Where the API server keeps its objects: one etcd, or three nodes of Quorate.
//!
//! With Quorate, each test begins with the loss of a node, a different one each time, which comes back while the test runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use super::daemon::{self, await_ready};
use super::place::text;
use super::toolchain::Toolchain;
use super::writer::request_once;
use crate::failure::Failure;
use crate::process;

const PATIENCE: Duration = Duration::from_secs(300);
/// How long a killed node stays away: more than an election takes.
const ABSENCE: Duration = Duration::from_secs(10);
/// Below the range from which systems take the ports of outgoing connections: a node that comes back finds its port free.
const FIRST_PORT: u16 = 16_379;
const NODES: u16 = 3;

/// Names of the processes, for those who end them.
pub(super) const PROCESSES: [&str; 4] = ["etcd", "quorate-1", "quorate-2", "quorate-3"];

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Datastore {
    /// etcd, as everybody has it.
    Etcd,
    /// Three nodes of Quorate.
    Quorate,
}

/// A node that was killed and is on its way back.
pub(super) struct Absence {
    thread: JoinHandle<Result<(), Failure>>,
}

impl Datastore {
    pub(super) fn start(self, tools: &Toolchain, binaries: &Path) -> Result<(), Failure> {
        match self {
            Datastore::Etcd => start_etcd(tools),
            Datastore::Quorate => start_quorate(binaries),
        }
    }

    /// For `--etcd-servers`.
    pub(super) fn servers(self) -> String {
        let nodes = match self {
            Datastore::Etcd => 1,
            Datastore::Quorate => NODES,
        };
        (1..=nodes).map(|node| format!("http://{}", client(node))).collect::<Vec<_>>().join(",")
    }

    /// Kills a node; none of etcd, which is alone.
    pub(super) fn disturb(self, binaries: &Path, turn: u16) -> Option<Absence> {
        if self == Datastore::Etcd {
            return None;
        }
        let node = turn % NODES + 1;
        let binary = binary(binaries);
        daemon::kill(&name(node));
        let thread = spawn(move || {
            sleep(ABSENCE);
            start_node(&binary, node)?;
            await_node("quorate", node)
        });
        Some(Absence { thread })
    }
}

impl Absence {
    /// Waits until the node takes part again.
    pub(super) fn end(self) -> Result<(), Failure> {
        self.thread.join().map_err(|_| Failure::Broken("bringing a node of the datastore back failed".to_owned()))?
    }
}

fn start_etcd(tools: &Toolchain) -> Result<(), Failure> {
    let (client, peer) = (format!("http://{}", client(1)), format!("http://{}", peer(1)));
    let arguments = [
        "--data-dir=".to_owned() + &text("etcd"),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync=true".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    daemon::start("etcd", &tools.path("etcd"), &arguments)
}

fn start_quorate(binaries: &Path) -> Result<(), Failure> {
    let binary = binary(binaries);
    for node in 1..=NODES {
        start_node(&binary, node)?;
    }
    let voters: Vec<String> = (1..=NODES).map(|node| format!("{}={}", name(node), peer(node))).collect();
    let init = || {
        let mut init = Command::new(&binary);
        init.args(["ctl", "--endpoint", &client(1), "init", "--voters", &voters.join(",")]);
        init
    };
    await_ready("an answer of every node of the datastore", PATIENCE, || {
        (1..=NODES).all(|node| request_once(metrics(node), "GET", "/livez").is_ok())
    })?;
    process::run(&mut init())?;
    (1..=NODES).try_for_each(|node| await_node("the datastore", node))
}

fn start_node(binary: &Path, node: u16) -> Result<(), Failure> {
    let name = name(node);
    let arguments = [
        "server".to_owned(),
        "--data-dir=".to_owned() + &text(&format!("datastore/{name}")),
        format!("--name={name}"),
        format!("--listen-client={}", client(node)),
        format!("--listen-peer={}", peer(node)),
        format!("--listen-metrics={}", metrics(node)),
        // As installers of Kubernetes set it for etcd.
        "--watch-progress-notify-interval=5s".to_owned(),
    ];
    daemon::start(&name, binary, &arguments)
}

fn await_node(what: &str, node: u16) -> Result<(), Failure> {
    await_ready(what, PATIENCE, || request_once(metrics(node), "GET", "/readyz").is_ok())
}

fn binary(binaries: &Path) -> PathBuf {
    binaries.join("quorate")
}

fn name(node: u16) -> String {
    format!("quorate-{node}")
}

fn client(node: u16) -> String {
    address(node, 0).to_string()
}

fn peer(node: u16) -> String {
    address(node, 1).to_string()
}

fn metrics(node: u16) -> std::net::SocketAddr {
    address(node, 2)
}

fn address(node: u16, service: u16) -> std::net::SocketAddr {
    ([127, 0, 0, 1], FIRST_PORT + 10 * (node - 1) + service).into()
}
