//! One node with all its ports for tests of the client APIs, and small clients for it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::{PutRequest, RangeRequest, RangeResponse};
use quorate_proto::quorate::v1::admin_client::AdminClient;
use quorate_server::answers::AnswerLimits;
use quorate_server::listen::PortLimits;
use quorate_server::runtime::{ReplicaConfig, StatusChange};
use quorate_server::server::{Server, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::cluster::{CLUSTER, PATIENCE};

/// Largest request of every node here; small, so that tests can pass it cheaply.
pub(crate) const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// A node and the folder it lives in.
pub(crate) struct Served {
    pub(crate) server: Server,
    _directory: TempDir,
}

impl Served {
    /// A node that waits to be initialised.
    pub(crate) async fn empty() -> Served {
        Served::start(None, |_| {}).await
    }

    /// A node that waits to be initialised, with other settings than the usual ones.
    pub(crate) async fn empty_adjusted(adjust: impl FnOnce(&mut ServerConfig)) -> Served {
        Served::start(None, adjust).await
    }

    /// The only node of a cluster, with other settings than the usual ones.
    pub(crate) async fn adjusted(adjust: impl FnOnce(&mut ServerConfig)) -> Served {
        let served = Served::start(None, adjust).await;
        served.init().await;
        served
    }

    /// The only node of a cluster.
    pub(crate) async fn alone() -> Served {
        let served = Served::empty().await;
        served.init().await;
        served
    }

    /// Nodes that are the voters of one cluster, every one of which knows the leader.
    pub(crate) async fn together(count: usize) -> Vec<Served> {
        Served::together_adjusted(count, |_, _| {}).await
    }

    /// The same with other settings than the usual ones, by the number of the node.
    pub(crate) async fn together_adjusted(count: usize, adjust: impl Fn(usize, &mut ServerConfig)) -> Vec<Served> {
        let mut nodes = Vec::new();
        for number in 0..count {
            nodes.push(Served::start(None, |config| adjust(number, config)).await);
        }
        let members: Vec<_> = nodes.iter().map(|node| node.server.replica().own_identity().member).collect();
        for node in &nodes {
            node.server.replica().init(CLUSTER, members.clone()).await.expect("an empty node accepts");
        }
        for node in &nodes {
            node.until("knows a leader", |change| change.leader.is_some()).await;
        }
        nodes
    }

    /// The only node of a cluster whose data is in `directory`.
    pub(crate) async fn on(directory: &Path) -> Served {
        let served = Served::opened(directory).await;
        served.until("leads", |change| change.leader.is_some()).await;
        served
    }

    /// A node with the data in `directory`, whatever becomes of it.
    pub(crate) async fn opened(directory: &Path) -> Served {
        Served::start(None, |config| config.replica.data_dir = directory.to_owned()).await
    }

    /// Waits until what this node says of itself is so.
    pub(crate) async fn until(&self, what: &str, holds: impl FnMut(&StatusChange) -> bool) {
        let mut changes = self.server.replica().watch_status();
        let waited = tokio::time::timeout(PATIENCE, changes.wait_for(holds)).await;
        waited.unwrap_or_else(|_| panic!("in time, a node {what}")).expect("runs");
    }

    /// A node whose admin calls need the token in `file`.
    pub(crate) async fn guarded(file: &Path) -> Served {
        Served::start(Some(file), |_| {}).await
    }

    async fn start(token_file: Option<&Path>, adjust: impl FnOnce(&mut ServerConfig)) -> Served {
        let directory = TempDir::new().expect("a temporary folder");
        let bind = || TcpListener::bind("127.0.0.1:0").expect("a free port");
        let client_listener = bind();
        let mut replica = ReplicaConfig::new(directory.path().to_owned(), "alone".to_string(), bind());
        replica.advertise_client = vec![client_listener.local_addr().expect("bound").to_string()];
        replica.heartbeat_interval = Duration::from_millis(50);
        replica.election_timeout = Duration::from_millis(500);
        replica.max_request_bytes = MAX_REQUEST_BYTES;
        let mut config = ServerConfig {
            replica,
            client_listener,
            metrics_listener: Some(bind()),
            admin_token_file: token_file.map(Path::to_owned),
            auth_token: quorate_server::TokenOption::default(),
            auto_compaction: None,
            limits: PortLimits::default(),
            metrics_limits: PortLimits::default(),
            answers: AnswerLimits::default(),
        };
        adjust(&mut config);
        Served { server: Server::start(config).await.expect("starts"), _directory: directory }
    }

    /// Makes it a cluster, and waits until it leads.
    pub(crate) async fn init(&self) {
        let replica = self.server.replica();
        replica.init(CLUSTER, vec![replica.own_identity().member]).await.expect("an empty node accepts");
        self.until("elects itself", |change| change.leader.is_some()).await;
    }

    pub(crate) fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.server.client_address())).expect("an address").connect_lazy()
    }

    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel())
    }

    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel())
    }

    /// Puts one key; the revision of the answer.
    pub(crate) async fn put(&self, key: &str, value: &str) -> i64 {
        let answer = self.kv().put(put(key, value)).await.expect("a put succeeds").into_inner();
        answer.header.expect("a header").revision
    }

    /// A read with metadata.
    pub(crate) async fn range_with(
        &self,
        request: RangeRequest,
        metadata: &[(&'static str, &str)],
    ) -> Result<Response<RangeResponse>, Status> {
        let mut request = Request::new(request);
        for (name, value) in metadata {
            request.metadata_mut().append(*name, value.parse().expect("a metadata value"));
        }
        self.kv().range(request).await
    }

    /// An HTTP call on the client port.
    pub(crate) async fn http(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        http(self.server.client_address(), method, path, body).await
    }
}

pub(crate) fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_string().into(), value: value.to_string().into(), ..PutRequest::default() }
}

pub(crate) fn range(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_string().into(), ..RangeRequest::default() }
}

/// An answer over HTTP/1.1.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The value of a header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(':')?.1.trim())
    }
}

/// One request on a connection of its own.
pub(crate) async fn http(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> Answer {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    exchange(address, &[head.as_bytes(), body]).await
}

/// One request, written out, on a connection of its own.
pub(crate) async fn http_text(address: SocketAddr, request: &str) -> Answer {
    exchange(address, &[request.as_bytes()]).await
}

async fn exchange(address: SocketAddr, parts: &[&[u8]]) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("the port is open");
    for part in parts {
        // A server that refuses a body early may close before it has read all of it.
        let _ = stream.write_all(part).await;
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    Answer { status, head, body: answer[end + 4..].to_vec() }
}
