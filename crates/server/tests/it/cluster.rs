//! A cluster of replicas for tests: starts, ends and restarts them, writes and reads through any of them.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use bytes::Bytes;
use quorate_kv::{Command, PutRequest, RangeRequest};
use quorate_node::{Consistency, NodeError, ReadOptions};
use quorate_raft::{LogIndex, Member, NodeId};
use quorate_server::runtime::{Replica, ReplicaConfig, ReplicaStatus, SetVotersError, VoterPhase, VoterSpec};
use quorate_wire::identity::derive_node_id;
use quorate_wire::peer::Hello;
use tempfile::TempDir;
use tokio::time::timeout;

/// Longest wait for anything; far more than it takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The cluster id of every test.
pub(crate) const CLUSTER: u128 = 0x7e57_0000_0000_0000_0000_0000_0000_0001;

/// One node: its folder outlives the running replica.
pub(crate) struct TestNode {
    pub(crate) directory: TempDir,
    pub(crate) address: SocketAddr,
    name: String,
    replica: Option<Replica>,
}

/// Nodes by number.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<TestNode>,
    /// What is other than usual in the settings of a node that starts.
    pub(crate) adjust: fn(&mut ReplicaConfig),
}

impl Cluster {
    /// Empty nodes that wait.
    pub(crate) async fn empty(count: usize) -> Cluster {
        Cluster::adjusted(count, |_| {}).await
    }

    /// Empty nodes with other settings than the usual ones.
    pub(crate) async fn adjusted(count: usize, adjust: fn(&mut ReplicaConfig)) -> Cluster {
        let mut cluster = Cluster { nodes: Vec::new(), adjust };
        for _ in 0..count {
            cluster.add().await;
        }
        cluster
    }

    /// A running cluster with all its nodes as voters.
    pub(crate) async fn running(count: usize) -> Cluster {
        let cluster = Cluster::empty(count).await;
        cluster.init_all().await;
        cluster
    }

    /// Tells every node the same bootstrap configuration and waits for a leader.
    pub(crate) async fn init_all(&self) {
        let members: Vec<Member> = (0..self.nodes.len()).map(|node| self.replica(node).own_identity().member).collect();
        for node in 0..self.nodes.len() {
            self.replica(node).init(CLUSTER, members.clone()).await.expect("an empty node accepts");
        }
        self.leader().await;
    }

    /// Starts one more empty node; answers its number.
    pub(crate) async fn add(&mut self) -> usize {
        self.add_on(TcpListener::bind("127.0.0.1:0").expect("a free port")).await
    }

    /// Starts one more empty node on a port that is known already.
    pub(crate) async fn add_on(&mut self, listener: TcpListener) -> usize {
        let address = listener.local_addr().expect("bound");
        let number = self.nodes.len();
        let directory = TempDir::new().expect("a temporary folder");
        self.nodes.push(TestNode { directory, address, name: format!("node-{number}"), replica: None });
        self.start_on(number, listener).await;
        number
    }

    async fn start_on(&mut self, node: usize, listener: TcpListener) {
        let slot = &mut self.nodes[node];
        let mut config = ReplicaConfig::new(slot.directory.path().to_owned(), slot.name.clone(), listener);
        config.heartbeat_interval = Duration::from_millis(50);
        config.election_timeout = Duration::from_millis(500);
        (self.adjust)(&mut config);
        slot.replica = Some(Replica::start(config).await.expect("starts"));
    }

    /// Starts a node again at its address.
    pub(crate) async fn restart(&mut self, node: usize) {
        let listener = TcpListener::bind(self.nodes[node].address).expect("the port is free again");
        self.start_on(node, listener).await;
    }

    /// Starts a node again under another address.
    pub(crate) async fn move_to_a_new_port(&mut self, node: usize) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        self.nodes[node].address = listener.local_addr().expect("bound");
        self.start_on(node, listener).await;
    }

    /// Ends a node without a farewell.
    pub(crate) async fn halt(&mut self, node: usize) {
        self.nodes[node].replica.take().expect("runs").halt().await;
    }

    /// Ends a node politely.
    pub(crate) async fn stop(&mut self, node: usize) {
        self.nodes[node].replica.take().expect("runs").stop().await;
    }

    /// The running replica.
    pub(crate) fn replica(&self, node: usize) -> &Replica {
        self.nodes[node].replica.as_ref().expect("runs")
    }

    fn running_nodes(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].replica.is_some())
    }

    /// The id of a node that has one.
    pub(crate) fn id(&self, node: usize) -> NodeId {
        self.replica(node).status().identity.expect("initialised").node_id
    }

    /// Waits until a running node satisfies `wanted`.
    pub(crate) async fn until(
        &self,
        node: usize,
        what: &str,
        wanted: impl Fn(&ReplicaStatus) -> bool,
    ) -> ReplicaStatus {
        let replica = self.replica(node);
        let mut changes = replica.watch_status();
        let waiting = async {
            loop {
                changes.borrow_and_update();
                let status = replica.status();
                if wanted(&status) {
                    return status;
                }
                // Positions in the log move without a change that is announced: look again after a while.
                let _ = timeout(Duration::from_millis(50), changes.changed()).await;
            }
        };
        match timeout(PATIENCE, waiting).await {
            Ok(status) => status,
            Err(_) => panic!("node {node} never reached: {what}; it is {:#?}", replica.status()),
        }
    }

    /// The number of the node that leads, once one does and all running nodes agree.
    pub(crate) async fn leader(&self) -> usize {
        let looking = async {
            loop {
                for node in self.running_nodes() {
                    let status = self.replica(node).status();
                    let Some(raft) = &status.raft else { continue };
                    let Some(identity) = status.identity else { continue };
                    let agreed = |other: usize| {
                        let other = self.replica(other).status().raft;
                        other.is_some_and(|other| other.leader == Some(identity.node_id) && other.term == raft.term)
                    };
                    let members = &raft.membership.1.members;
                    let counted = |other: &usize| {
                        let id = self.replica(*other).status().identity.map(|identity| identity.node_id);
                        id.is_some_and(|id| members.contains_key(&id))
                    };
                    if raft.leader == Some(identity.node_id) && self.running_nodes().filter(counted).all(agreed) {
                        return node;
                    }
                }
                tokio::task::yield_now().await;
                let mut change = self.replica(self.running_nodes().next().expect("a node runs")).watch_status();
                let _ = timeout(Duration::from_millis(20), change.changed()).await;
            }
        };
        match timeout(PATIENCE, looking).await {
            Ok(leader) => leader,
            Err(_) => {
                let all: Vec<_> = self.running_nodes().map(|node| self.replica(node).status()).collect();
                panic!("no leader: {all:#?}");
            }
        }
    }

    /// Puts through one node until it takes it. Only errors that promise "not done" are tried again.
    pub(crate) async fn put(&self, node: usize, key: &str, value: &str) {
        put(self.replica(node), key, value).await;
    }

    /// A linearizable read through one node.
    pub(crate) async fn get(&self, node: usize, key: &str) -> Option<Bytes> {
        get(self.replica(node), key, Consistency::Consistent).await
    }

    /// Makes these nodes the voters and follows that to its end.
    pub(crate) async fn set_voters(&self, through: usize, voters: &[VoterSpec]) -> Result<LogIndex, SetVotersError> {
        let mut progress = self.replica(through).set_voters(voters.to_vec(), None).await?;
        let following = async {
            while let Some(step) = progress.recv().await {
                let step = step?;
                if step.phase == VoterPhase::Done {
                    return Ok(step.config_index);
                }
            }
            panic!("the progress ended without an end");
        };
        timeout(PATIENCE, following).await.expect("the change ends")
    }

    /// The voters one node knows as committed.
    pub(crate) fn voters(&self, node: usize) -> BTreeSet<NodeId> {
        self.replica(node).status().raft.expect("runs").membership.1.voters.clone()
    }

    /// The peer address of a node as a voter.
    pub(crate) fn at(&self, node: usize) -> VoterSpec {
        VoterSpec::Address(self.nodes[node].address.to_string())
    }
}

/// A put of text.
pub(crate) fn put_command(key: &str, value: &str) -> Command {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    Command::Put(PutRequest { key, value, ..PutRequest::default() })
}

/// Puts until it is taken.
pub(crate) async fn put(replica: &Replica, key: &str, value: &str) {
    let trying = async {
        loop {
            match replica.write(quorate_kv::Actor::Anonymous, put_command(key, value)).await {
                Ok(outcome) => {
                    outcome.result.expect("a put is not refused");
                    return;
                }
                Err(
                    NodeError::NoLeader
                    | NodeError::Timeout
                    | NodeError::TimeoutLeaderFailure
                    | NodeError::LeaderChanged,
                ) => {}
                Err(error) => panic!("put {key}: {error}"),
            }
        }
    };
    timeout(PATIENCE, trying).await.expect("a put succeeds in time");
}

/// Reads one key.
pub(crate) async fn get(replica: &Replica, key: &str, consistency: Consistency) -> Option<Bytes> {
    let request = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..RangeRequest::default() };
    let trying = async {
        loop {
            let options = ReadOptions { consistency, ..ReadOptions::default() };
            let grant = match replica.read(options).await {
                Ok(grant) => grant,
                Err(NodeError::NoLeader | NodeError::Timeout | NodeError::LeaderChanged) => continue,
                Err(error) => panic!("get {key}: {error}"),
            };
            let view = replica.view().expect("the node runs");
            let answer = view.range(&request).expect("readable").expect("a sound request");
            if replica.read_still_valid(&grant) {
                return answer.kvs.into_iter().next().map(|kv| kv.value);
            }
        }
    };
    timeout(PATIENCE, trying).await.expect("a read succeeds in time")
}

/// The greeting to this node of one that may have been added meanwhile, for all that the node knows.
pub(crate) fn hello_of_a_newcomer(replica: &Replica) -> Hello {
    let own = replica.own_identity();
    let identity = own.identity.expect("initialised");
    let mut member = own.member.clone();
    member.incarnation.0 ^= 1;
    Hello {
        cluster_id: identity.cluster_id,
        from: derive_node_id(identity.cluster_id, member.incarnation),
        member,
        to: identity.node_id,
        to_incarnation: own.member.incarnation,
        format_version: 1,
        refused: None,
    }
}
