//! A cluster of server processes: bootstrap, finding the leader, waiting for facts.

use std::future::Future;
use std::time::{Duration, Instant};

use quorate_proto::etcdserverpb::StatusRequest;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::node::{Build, Node, NodeConfig};
use crate::proxy::Network;

/// How long a fact may take to become true before a test gives up. Generous: machines are slow, and no test asserts
/// a time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running cluster and the folder that holds its data.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, in the order they were started.
    pub nodes: Vec<Node>,
    root: TempDir,
    network: Option<Network>,
}

impl Cluster {
    /// Starts `count` nodes with `extra` arguments each and initialises one cluster of them all.
    pub async fn start(count: usize, extra: &[&str]) -> Self {
        let mut cluster = Cluster::empty(None);
        for _ in 0..count {
            cluster.add_empty_node(extra);
        }
        cluster.initialise().await;
        cluster
    }

    /// The same, of nodes whose disk and clock go wrong when told to.
    pub async fn start_faulty(count: usize) -> Self {
        Cluster::start_adjusted(count, |_, config| config.build = Build::Faulty).await
    }

    /// The same, of nodes each adjusted before it starts.
    pub async fn start_adjusted(count: usize, adjust: impl Fn(usize, &mut NodeConfig)) -> Self {
        let mut cluster = Cluster::empty(None);
        for number in 0..count {
            let mut config = cluster.next_config();
            adjust(number, &mut config);
            cluster.nodes.push(Node::start(config));
        }
        cluster.initialise().await;
        cluster
    }

    /// The same with a network between the nodes that can be cut.
    pub async fn start_behind_proxies(count: usize) -> Self {
        Cluster::start_behind_proxies_with(count, &[]).await
    }

    /// The same with `extra` arguments each.
    pub async fn start_behind_proxies_with(count: usize, extra: &[&str]) -> Self {
        let mut cluster = Cluster::empty(Some(Network::default()));
        for _ in 0..count {
            let mut config = cluster.next_config();
            config.extra = extra.iter().map(|&argument| argument.to_owned()).collect();
            config.advertise_peer = Some(cluster.network().add(config.peer).await);
            cluster.nodes.push(Node::start(config));
        }
        cluster.initialise().await;
        cluster
    }

    fn empty(network: Option<Network>) -> Self {
        Cluster { nodes: Vec::new(), root: TempDir::new().expect("a temporary folder"), network }
    }

    fn next_config(&self) -> NodeConfig {
        NodeConfig::new(&format!("n{}", self.nodes.len() + 1), self.root.path())
    }

    /// The network between the nodes.
    ///
    /// # Panics
    /// If the cluster was started without one.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("the cluster was started behind proxies")
    }

    async fn initialise(&mut self) {
        self.wait_until_reachable().await;
        let voters: Vec<String> =
            self.nodes.iter().map(|n| format!("{}={}", n.config.name, n.config.advertised_peer())).collect();
        let output = self.nodes[0].ctl(&["init", "--voters", &voters.join(",")]);
        assert!(
            output.status.success(),
            "init failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        self.leader().await;
    }

    /// Starts one more node, empty and waiting; returns its position.
    pub fn add_empty_node(&mut self, extra: &[&str]) -> usize {
        self.add_empty_node_of(Build::Current, extra)
    }

    /// The same of another build.
    pub fn add_empty_node_of(&mut self, build: Build, extra: &[&str]) -> usize {
        let mut config = self.next_config();
        config.build = build;
        config.extra = extra.iter().map(ToString::to_string).collect();
        self.nodes.push(Node::start(config));
        self.nodes.len() - 1
    }

    /// Asks the node at `via` for these voters, and waits until it is so.
    ///
    /// # Panics
    /// If that is refused.
    pub fn set_voters(&self, via: usize, voters: &[usize]) {
        let target: Vec<String> = voters.iter().map(|p| self.nodes[*p].config.advertised_peer().to_string()).collect();
        let started = Instant::now();
        loop {
            let output = self.nodes[via].ctl(&["set-voters", &target.join(",")]);
            if output.status.success() {
                return;
            }
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            // Nothing was changed then, and on a starved machine a node that has just begun takes its time.
            let again = said.contains("did not answer in time") && started.elapsed() < PATIENCE;
            assert!(again, "set-voters: {said}\n{}", self.logs());
        }
    }

    /// Takes the data of the node at `position` away and has the cluster, through the node at `via`, take it in as a new
    /// member behind the same address.
    pub async fn replace(&mut self, position: usize, via: usize) {
        self.nodes[position].wipe();
        self.wait_until_reachable().await;
        self.set_voters(via, &(0..self.nodes.len()).collect::<Vec<_>>());
    }

    /// Waits until every node answers on its client port.
    pub async fn wait_until_reachable(&mut self) {
        for position in 0..self.nodes.len() {
            let address = self.nodes[position].config.client;
            wait_for("the client port to open", || async move { tokio::net::TcpStream::connect(address).await.ok() })
                .await;
        }
    }

    /// A channel to the node at `position`, connected when first used.
    pub fn channel(&self, position: usize) -> Channel {
        channel(&self.nodes[position].config.client.to_string())
    }

    /// Client addresses of all nodes.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|n| n.config.client.to_string()).collect()
    }

    /// The position of the node that says it leads, once one does and it answers.
    pub async fn leader(&self) -> usize {
        wait_for("a leader", || async {
            for position in 0..self.nodes.len() {
                if let Some((member, leader)) = self.leader_seen_by(position).await
                    && member == leader
                {
                    return Some(position);
                }
            }
            None
        })
        .await
    }

    /// The position of a leader other than the node at `old`, once one answers.
    pub async fn leader_other_than(&self, old: usize) -> usize {
        wait_for("a new leader", || async {
            for position in (0..self.nodes.len()).filter(|p| *p != old) {
                if let Some((member, leader)) = self.leader_seen_by(position).await
                    && member == leader
                {
                    return Some(position);
                }
            }
            None
        })
        .await
    }

    /// `(member id, leader id)` as the node at `position` reports them; `None` if it does not answer.
    pub async fn leader_seen_by(&self, position: usize) -> Option<(u64, u64)> {
        let mut client = MaintenanceClient::new(self.channel(position));
        let answer = tokio::time::timeout(Duration::from_secs(2), client.status(StatusRequest::default()));
        let status = answer.await.ok()?.ok()?.into_inner();
        Some((status.header?.member_id, status.leader))
    }

    /// The ends of all logs, for the message of a failing test.
    pub fn logs(&self) -> String {
        self.nodes.iter().map(|n| format!("--- {}\n{}\n", n.config.name, n.log_tail())).collect()
    }
}

/// A channel to `address` that connects when first used.
pub fn channel(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address is a URI")
        .connect_timeout(Duration::from_secs(1))
        .timeout(Duration::from_secs(15))
        .tcp_nodelay(true)
        .connect_lazy()
}

/// Asks `check` again and again until it gives a value.
///
/// # Panics
/// After [`PATIENCE`], naming `what` was waited for.
pub async fn wait_for<T, F, Fut>(what: &str, mut check: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(value) = check().await {
            return value;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited {PATIENCE:?} for {what}");
}
