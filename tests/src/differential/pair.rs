//! One etcd and one Quorate with empty stores, and the same request to both.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quorate_proto::etcdserverpb::RangeRequest;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use tempfile::TempDir;
use tokio::time::sleep;
use tonic::transport::Channel;

use super::side::Side;
use super::{Action, Answer, Run};
use crate::cluster::{channel, wait_for};
use crate::node::free_address;

/// Nodes of Quorate that are asked in turn.
const NODES: u16 = 3;
/// Between the client ports of two nodes of `quorate dev`, which has the ports between them for peers and metrics.
const PORT_DISTANCE: u16 = 10;

/// Attempts to start a server.
const MAX_STARTS: u32 = 10;
/// Between two looks at whether it still runs.
const PACE: Duration = Duration::from_millis(50);
/// Between two reports of progress to a watch that wants them.
const PROGRESS: &str = "500ms";
/// Faults of etcd by which its process ends, as its log names them. docs/etcd-compatibility.md tells when.
const KNOWN_ENDS: [&str; 1] = ["range failed to find revision pair"];
/// What etcd had to say, in the folder of its data.
const LOG: &str = "said.log";
/// Data is in memory where that is a folder: what is compared is not what survives a crash.
const MEMORY: &str = "/dev/shm";

/// An etcd of one node and a Quorate of three. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Pair {
    etcd: Side,
    quorate: Side,
    servers: [Server; 2],
}

impl Pair {
    /// Starts both and waits until both serve.
    pub(super) async fn start(run: &Run) -> Pair {
        let (etcd, theirs) = serving(1, || Server::etcd(&run.etcd)).await;
        let (quorate, ours) = serving(NODES, || Server::quorate(&run.quorate)).await;
        Pair { etcd: Side::new(theirs), quorate: Side::new(ours), servers: [etcd, quorate] }
    }

    /// What etcd and Quorate answer, asked at the same time.
    pub(super) async fn ask(&mut self, action: &Action) -> (Answer, Answer) {
        tokio::join!(self.etcd.perform(action), self.quorate.perform(action))
    }

    /// Whether etcd's process has ended by a fault of its own that is known. It writes that down before it ends.
    pub(super) fn etcd_ended(&self) -> bool {
        // A log that cannot be read tells of no known end.
        let said = std::fs::read_to_string(self.servers[0].data.path().join(LOG)).unwrap_or_default();
        KNOWN_ENDS.iter().any(|end| said.contains(end))
    }
}

/// A server of so many nodes, once they serve. One that ends before is started again: somebody else may have taken a port
/// between its choice and its use.
async fn serving(nodes: u16, start: impl Fn() -> Server) -> (Server, Vec<(SocketAddr, Channel)>) {
    for _ in 0..MAX_STARTS {
        let mut server = start();
        let address = |number| SocketAddr::new(server.client.ip(), server.client.port() + PORT_DISTANCE * number);
        let channels: Vec<_> =
            (0..nodes).map(|number| (address(number), channel(&address(number).to_string()))).collect();
        let ended = async {
            while server.process.try_wait().is_ok_and(|status| status.is_none()) {
                sleep(PACE).await;
            }
        };
        let served = async {
            for (_, channel) in &channels {
                wait_until_served(channel).await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = served => return (server, channels),
        }
    }
    panic!("a server ended {MAX_STARTS} times before it served");
}

/// A serializable read is the last thing to be served: it needs a leader to have been heard of, and a state.
async fn wait_until_served(channel: &Channel) {
    wait_for("a server that serves", || async {
        let mut client = KvClient::new(channel.clone());
        let linearizable = RangeRequest { key: "ready".into(), ..RangeRequest::default() };
        let serializable = RangeRequest { serializable: true, ..linearizable.clone() };
        client.range(linearizable).await.ok()?;
        client.range(serializable).await.ok().map(drop)
    })
    .await;
}

fn data(prefix: &str) -> TempDir {
    TempDir::with_prefix_in(prefix, MEMORY).or_else(|_| TempDir::with_prefix(prefix)).expect("a temporary folder")
}

/// A process with its data, gone when dropped.
#[derive(Debug)]
struct Server {
    client: SocketAddr,
    process: Child,
    data: TempDir,
}

impl Server {
    fn etcd(binary: &Path) -> Server {
        let (client, peer) = (free_address(), free_address());
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let data = data("differential-etcd-");
        let mut command = Command::new(binary);
        command.arg("--data-dir").arg(data.path());
        for (flag, value) in [
            ("--name", "one"),
            ("--listen-client-urls", &client_url),
            ("--advertise-client-urls", &client_url),
            ("--listen-peer-urls", &peer_url),
            ("--initial-advertise-peer-urls", &peer_url),
            ("--initial-cluster", &format!("one={peer_url}")),
            ("--heartbeat-interval", "10"),
            ("--election-timeout", "100"),
            ("--log-level", "error"),
            ("--watch-progress-notify-interval", PROGRESS),
            ("--bcrypt-cost", "4"),
        ] {
            command.args([flag, value]);
        }
        command.arg("--unsafe-no-fsync");
        command.stderr(File::create(data.path().join(LOG)).expect("a log"));
        Server::spawn(command, client, data)
    }

    fn quorate(binary: &Path) -> Server {
        // The ports of the other nodes follow.
        let client = loop {
            let first = free_address();
            let mut follow = (1..NODES * PORT_DISTANCE).map(|step| SocketAddr::new(first.ip(), first.port() + step));
            if follow.all(|address| TcpListener::bind(address).is_ok()) {
                break first;
            }
        };
        let data = data("differential-quorate-");
        let mut command = Command::new(binary);
        command.args([
            "dev",
            "--nodes",
            &NODES.to_string(),
            "--heartbeat-interval",
            "50",
            "--election-timeout",
            "1000",
            "--watch-progress-notify-interval",
            PROGRESS,
        ]);
        command.args(["--client-port", &client.port().to_string()]).arg("--data-dir").arg(data.path());
        command.stderr(Stdio::null());
        Server::spawn(command, client, data)
    }

    fn spawn(mut command: Command, client: SocketAddr, data: TempDir) -> Server {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.spawn().expect("the server starts");
        Server { client, process, data }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means it has ended by itself, which the requests to it have shown.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
