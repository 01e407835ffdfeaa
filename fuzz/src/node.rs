//! Whole nodes for the targets whose parsers are behind a client port: what is sent there is judged as it is in life.
//!
//! Never talks to anybody else: a call that names addresses is made only if they are this machine's.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use prost::Message as _;
use quorate_proto::authpb::UserAddOptions;
use quorate_proto::etcdserverpb as etcd;
use quorate_server::TokenOption;
use quorate_server::answers::AnswerLimits;
use quorate_server::listen::PortLimits;
use quorate_server::runtime::ReplicaConfig;
use quorate_server::server::{Server, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Calls that wait for others (locks, watches) are given up after this long; the node must answer another one then.
const PATIENCE: Duration = Duration::from_millis(20);
/// A node that answers nobody for so long stands still.
const STANDSTILL: Duration = Duration::from_secs(8);
/// What a node needs before it can be tried must be answered, however busy the machine is.
const SETUP_PATIENCE: Duration = Duration::from_secs(60);
/// More of an answer is not read.
const MOST_ANSWER_BYTES: usize = 64 * 1024;
/// What signed tokens are signed with.
pub(crate) const SECRET: &[u8] = b"known to the fuzzer and its node";

/// Panics anywhere in this process: those of the node's threads and tasks end where no target sees them.
static PANICS: AtomicUsize = AtomicUsize::new(0);
static NODE: Mutex<Option<Arc<Node>>> = Mutex::new(None);
static GUARDED: Mutex<Option<Arc<Node>>> = Mutex::new(None);

/// See the module documentation.
pub(crate) struct Node {
    runtime: Runtime,
    #[cfg_attr(not(test), expect(dead_code, reason = "held, because a server that is dropped stops"))]
    server: Mutex<Option<Server>>,
    client: Port,
    peer: Port,
    _folder: TempDir,
}

/// Where a node listens, and a connection to it.
struct Port {
    address: SocketAddr,
    connection: Mutex<Option<SendRequest<Bytes>>>,
}

/// What came back.
#[derive(Debug, Default)]
struct Answer {
    /// HTTP's status, or gRPC's where there is one; [`BROKEN`] if neither came.
    status: String,
    /// Of gRPC, or the beginning of the body.
    text: String,
}

/// Status of an exchange whose connection or stream failed.
const BROKEN: &str = "broken";

/// The node, started when it is first asked for.
pub(crate) fn node() -> Arc<Node> {
    let mut node = lock(&NODE);
    Arc::clone(node.get_or_insert_with(|| Arc::new(Node::start())))
}

/// Another one, where nobody may do anything without a token.
pub(crate) fn guarded() -> Arc<Node> {
    let mut node = lock(&GUARDED);
    Arc::clone(node.get_or_insert_with(|| {
        let node = Node::start();
        for (call, message) in [
            (
                "UserAdd",
                etcd::AuthUserAddRequest { name: "root".into(), options: no_password(), ..Default::default() }
                    .encode_to_vec(),
            ),
            (
                "UserGrantRole",
                etcd::AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() }.encode_to_vec(),
            ),
            ("AuthEnable", Vec::new()),
        ] {
            let request = head(&format!("etcdserverpb.Auth/{call}"));
            let answer = node.exchange_within(SETUP_PATIENCE, &node.client, request, frame(&message));
            let answer = answer.unwrap_or_default();
            assert_eq!(answer.status, "0", "{call}: {answer:?}");
        }
        Arc::new(node)
    }))
}

fn no_password() -> Option<UserAddOptions> {
    Some(UserAddOptions { no_password: true })
}

/// Stops the nodes there are, and removes their files. The fuzzer ends without: its caller removes them.
#[cfg(test)]
pub(crate) fn end() {
    for node in [&NODE, &GUARDED] {
        let Some(node) = lock(node).take() else { continue };
        if let Some(server) = lock(&node.server).take() {
            node.runtime.block_on(server.stop());
        }
    }
    assert_eq!(PANICS.load(Ordering::Relaxed), 0, "something panicked in a node");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    fn start() -> Node {
        static COUNTING: Once = Once::new();
        COUNTING.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                PANICS.fetch_add(1, Ordering::Relaxed);
                previous(panic);
            }));
        });
        let folder = TempDir::new().expect("a temporary folder");
        let runtime = Runtime::new().expect("threads");
        // A program without Rust's own `main` would be ended by a write to a connection that was reset.
        let _stays = runtime.block_on(async { signal(SignalKind::pipe()) }).expect("a handler");
        let (server, peer) = runtime.block_on(start(folder.path()));
        let [client, peer] =
            [server.client_address(), peer].map(|address| Port { address, connection: Mutex::new(None) });
        Node { runtime, server: Mutex::new(Some(server)), client, peer, _folder: folder }
    }

    /// Sends one message, well framed, to a method of the client port.
    pub(crate) fn call(&self, method: &str, message: &[u8]) {
        self.call_raw(method, frame(message));
    }

    /// Sends this body, whatever it is, to a method of the client port.
    pub(crate) fn call_raw(&self, method: &str, body: Bytes) {
        self.exchange(head(method), body);
    }

    /// The same for the port of its peers.
    pub(crate) fn call_as_peer(&self, method: &str, body: Bytes) {
        self.exchange_with(&self.peer, head(method), body);
    }

    /// Sends one request over HTTP/2.
    ///
    /// # Panics
    /// If anything panicked meanwhile, or the node ended or stands still.
    pub(crate) fn exchange(&self, request: Request<()>, body: Bytes) {
        self.exchange_with(&self.client, request, body);
    }

    fn exchange_with(&self, port: &Port, request: Request<()>, body: Bytes) {
        let answer = self.exchange_within(PATIENCE, port, request, body);
        if answer.is_none_or(|answer| answer.status == BROKEN) {
            self.check_alive();
        }
    }

    /// Sends these bytes to a port as they are, and reads what comes back.
    pub(crate) fn send_bytes(&self, to_peers: bool, bytes: &[u8]) {
        let port = if to_peers { &self.peer } else { &self.client };
        let exchange = async {
            let mut stream = TcpStream::connect(port.address).await?;
            // No state is kept for connections that are many a second.
            stream.set_zero_linger()?;
            stream.write_all(bytes).await?;
            stream.shutdown().await?;
            let mut answer = Vec::new();
            stream.take(MOST_ANSWER_BYTES as u64).read_to_end(&mut answer).await
        };
        // What it answers, or that it hangs up, is its own affair.
        let ended = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange).await });
        self.check_panics();
        if ended.is_err() {
            self.check_alive();
        }
    }

    /// Somebody else is still served.
    fn check_alive(&self) {
        let request = head("etcdserverpb.Maintenance/Status");
        let answer = self.exchange_within(STANDSTILL, &self.client, request, frame(&[]));
        assert!(answer.is_some(), "the node stands still");
    }

    fn check_panics(&self) {
        assert_eq!(PANICS.load(Ordering::Relaxed), 0, "something panicked in the node");
    }

    /// None if there was no answer in time.
    fn exchange_within(&self, patience: Duration, port: &Port, request: Request<()>, body: Bytes) -> Option<Answer> {
        let answer = self.runtime.block_on(async {
            let exchange = port.exchange(request, body);
            tokio::time::timeout(patience, exchange).await
        });
        self.check_panics();
        match answer {
            Err(_) => None,
            Ok(Ok(answer)) => {
                assert!(!answer.text.contains("server stopped"), "the node ended: {answer:?}");
                Some(answer)
            }
            Ok(Err(error)) => {
                *lock(&port.connection) = None;
                Some(Answer { status: BROKEN.to_owned(), text: error.to_string() })
            }
        }
    }
}

impl Port {
    async fn exchange(&self, request: Request<()>, body: Bytes) -> Result<Answer, h2::Error> {
        let held = lock(&self.connection).clone();
        let client = match held {
            Some(client) => client,
            None => {
                let stream = TcpStream::connect(self.address).await.expect("the node's port is open");
                let (client, connection) = h2::client::handshake(stream).await?;
                tokio::spawn(connection);
                *lock(&self.connection) = Some(client.clone());
                client
            }
        };
        let (answer, mut sending) = client.ready().await?.send_request(request, false)?;
        sending.send_data(body, true)?;
        let (head, mut body) = answer.await?.into_parts();
        let mut bytes = Vec::new();
        while let Some(more) = body.data().await {
            let more = more?;
            body.flow_control().release_capacity(more.len())?;
            bytes.extend_from_slice(&more);
            if bytes.len() > MOST_ANSWER_BYTES {
                break;
            }
        }
        let trailers = body.trailers().await?;
        let field = |name: &str| {
            let value = trailers.as_ref().and_then(|fields| fields.get(name)).or_else(|| head.headers.get(name));
            value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let status = field("grpc-status").unwrap_or_else(|| head.status.as_str().to_owned());
        let text = field("grpc-message").unwrap_or_else(|| {
            // What was read is data; what was refused says why.
            let refused = !head.status.is_success();
            if refused { String::from_utf8_lossy(&bytes).into_owned() } else { String::new() }
        });
        Ok(Answer { status, text })
    }
}

/// A message as gRPC frames it.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("inputs are small").to_be_bytes();
    [&[0][..], &length, message].concat().into()
}

/// A request of gRPC for a method.
pub(crate) fn head(method: &str) -> Request<()> {
    let request = Request::post(format!("http://fuzz/{method}")).header("content-type", "application/grpc");
    request.header("te", "trailers").body(()).expect("sound")
}

async fn start(folder: &Path) -> (Server, SocketAddr) {
    let bind = || TcpListener::bind("127.0.0.1:0").expect("a free port");
    let key = folder.join("secret");
    std::fs::write(&key, SECRET).expect("a file in the folder");
    let option = format!("jwt,sign-method=HS256,priv-key={}", key.display());
    let peer_listener = bind();
    let peer = peer_listener.local_addr().expect("a bound port");
    let config = ServerConfig {
        replica: ReplicaConfig::new(folder.join("data"), "fuzzed".to_owned(), peer_listener),
        client_listener: bind(),
        metrics_listener: None,
        admin_token_file: None,
        auth_token: option.parse::<TokenOption>().expect("a sound option"),
        auto_compaction: None,
        limits: PortLimits::default(),
        metrics_limits: PortLimits::default(),
        answers: AnswerLimits::default(),
    };
    let server = Server::start(config).await.expect("starts");
    let replica = server.replica();
    replica.init(1, vec![replica.own_identity().member]).await.expect("an empty node accepts");
    let mut changes = replica.watch_status();
    changes.wait_for(|change| change.leader.is_some()).await.expect("it runs");
    (server, peer)
}
