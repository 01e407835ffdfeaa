//! A network between nodes, and between clients and nodes, that can be cut, slowed down, narrowed and reset: a TCP proxy
//! before the port of each node.
//!
//! A node advertises its proxy, so that all others reach it through that. Who is at the other end of a connection shows in
//! the greeting, which carries the sender's own advertised address; clients have a proxy of their own. A cut holds bytes
//! back, as a network does that loses every packet: the connection stays, and what was sent arrives when the cut is healed,
//! or never. Bytes that are lost otherwise end their connection: what is below a connection sends again or gives up.
//!
//! Never looks further into what it passes on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

/// A greeting is within the first bytes of a connection.
const GREETING_BYTES: usize = 16 * 1024;
/// Pieces a second that a narrow link passes on, if one connection has it for itself.
const PIECES_A_SECOND: usize = 64;

/// What happens to bytes from one node to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Link {
    cut: bool,
    delay: Duration,
    /// Up to this much is added to the delay, another time for each piece.
    jitter: Duration,
    /// Bytes a second of all connections together; 0 for as many as may come.
    rate: u64,
    /// Of a thousand pieces so many are lost, each with its connection.
    lost: u64,
    /// Connections that were opened under another number are reset.
    resets: u64,
}

/// Links by sender and receiver.
type Links = BTreeMap<(usize, usize), Link>;
/// When narrow links have passed on what was given to them, all connections of a link together.
type Occupied = Arc<Mutex<BTreeMap<(usize, usize), Instant>>>;

/// Stands for all clients where a link has a sender and a receiver.
pub const CLIENTS: usize = usize::MAX;

/// The network of a cluster.
#[derive(Debug)]
pub struct Network {
    links: watch::Sender<Links>,
    occupied: Occupied,
    /// Advertised addresses by node.
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Default for Network {
    fn default() -> Self {
        Network { links: watch::Sender::new(Links::new()), occupied: Occupied::default(), addresses: Arc::default() }
    }
}

impl Network {
    /// Puts a proxy before the next node, which listens at `behind`; gives the address to advertise.
    pub async fn add(&self, behind: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let node = {
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            addresses.push(address);
            addresses.len() - 1
        };
        // Who sends shows in the greeting.
        let (route, addresses) = (self.route(CLIENTS, node), Arc::clone(&self.addresses));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(greet_and_carry(stream, behind, route.clone(), Arc::clone(&addresses)));
            }
        });
        address
    }

    /// Puts a proxy before the client port of `node`, which listens at `behind`; gives the address for clients. The link
    /// has [`CLIENTS`] at its other end.
    pub async fn add_client_port(&self, node: usize, behind: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let route = self.route(CLIENTS, node);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let route = route.clone();
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(behind).await {
                        carry(client, server, Vec::new(), route).await;
                    }
                });
            }
        });
        address
    }

    /// Nothing gets from `from` to `to` any more; the way back stays open.
    pub fn cut(&self, from: usize, to: usize) {
        self.change(from, to, |link| link.cut = true);
    }

    /// Nothing gets to or from `node` any more.
    pub fn isolate(&self, node: usize) {
        for other in self.others(node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// Bytes take this much longer between `node` and the others, both ways.
    pub fn delay(&self, node: usize, delay: Duration) {
        for other in self.others(node) {
            self.change(node, other, |link| link.delay = delay);
            self.change(other, node, |link| link.delay = delay);
        }
    }

    /// The links between `node` and the others are bad, both ways: each piece of a message comes up to `jitter` later, no more
    /// than `rate` bytes a second pass, and of a thousand pieces `lost` are lost.
    pub fn worsen(&self, node: usize, jitter: Duration, rate: u64, lost: u64) {
        let worse = |link: &mut Link| *link = Link { jitter, rate, lost, ..*link };
        for other in self.others(node) {
            self.change(node, other, worse);
            self.change(other, node, worse);
        }
    }

    /// Ends every connection between clients and `node`.
    pub fn reset_clients(&self, node: usize) {
        self.change(CLIENTS, node, |link| link.resets += 1);
    }

    /// Ends every connection between `node` and the others, in the middle of whatever it carries.
    pub fn reset(&self, node: usize) {
        for other in self.others(node) {
            self.change(node, other, |link| link.resets += 1);
            self.change(other, node, |link| link.resets += 1);
        }
    }

    /// All links are whole and fast again.
    pub fn heal(&self) {
        self.links.send_modify(|links| {
            for link in links.values_mut() {
                *link = Link { resets: link.resets, ..Link::default() };
            }
        });
    }

    fn route(&self, from: usize, to: usize) -> Route {
        Route { links: self.links.subscribe(), occupied: Arc::clone(&self.occupied), from, to }
    }

    fn others(&self, node: usize) -> impl Iterator<Item = usize> {
        let count = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).len();
        (0..count).filter(move |other| *other != node)
    }

    fn change(&self, from: usize, to: usize, change: impl FnOnce(&mut Link)) {
        self.links.send_modify(|links| change(links.entry((from, to)).or_default()));
    }
}

/// One way between two nodes, or between clients and a node.
#[derive(Debug, Clone)]
struct Route {
    links: watch::Receiver<Links>,
    occupied: Occupied,
    from: usize,
    to: usize,
}

impl Route {
    fn back(&self) -> Route {
        Route { from: self.to, to: self.from, ..self.clone() }
    }

    fn link(&self) -> Link {
        self.links.borrow().get(&(self.from, self.to)).copied().unwrap_or_default()
    }

    /// Until the link is no longer cut; false if the network is gone.
    async fn whole(&mut self) -> bool {
        let ends = (self.from, self.to);
        self.links.wait_for(|links| !links.get(&ends).is_some_and(|link| link.cut)).await.is_ok()
    }

    /// Until the connections of the link are reset.
    async fn reset(&mut self, resets: u64) {
        let ends = (self.from, self.to);
        let _ = self.links.wait_for(|links| links.get(&ends).is_some_and(|link| link.resets != resets)).await;
    }

    /// When a narrow link has passed on so many bytes more, behind whatever other connections gave to it.
    fn passed(&self, bytes: usize, rate: u64) -> Instant {
        let now = Instant::now();
        let Some(takes_us) = (bytes as u64 * 1_000_000).checked_div(rate) else { return now };
        let mut occupied = self.occupied.lock().unwrap_or_else(PoisonError::into_inner);
        let until = occupied.entry((self.from, self.to)).or_insert(now);
        *until = now.max(*until) + Duration::from_micros(takes_us);
        *until
    }
}

/// One connection to the peer port of the node `route.to`, from its greeting to its end.
async fn greet_and_carry(
    mut client: TcpStream,
    behind: SocketAddr,
    route: Route,
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
) {
    let Ok(mut server) = TcpStream::connect(behind).await else { return };
    let mut greeting = Vec::new();
    let (from, held) = loop {
        let (mut sent, mut answered) = ([0; 4096], [0; 4096]);
        // Before the greeting both sides speak of nothing but the transport.
        tokio::select! {
            read = client.read(&mut sent) => {
                let Ok(read @ 1..) = read else { return };
                greeting.extend_from_slice(&sent[..read]);
                if let Some(from) = sender_of(&greeting, route.to, &addresses) {
                    break (from, sent[..read].to_vec());
                }
                if greeting.len() > GREETING_BYTES || server.write_all(&sent[..read]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(read @ 1..) = read else { return };
                if client.write_all(&answered[..read]).await.is_err() {
                    return;
                }
            }
        }
    };
    carry(client, server, held, Route { from, ..route }).await;
}

/// Passes on what both sides say, until one of them ends or the link is reset; `held` was said by the client already.
async fn carry(client: TcpStream, server: TcpStream, held: Vec<u8>, mut route: Route) {
    let resets = route.link().resets;
    let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
    let (forth, back) = (route.clone(), route.back());
    tokio::select! {
        () = pump(held, client_in, server_out, forth) => {}
        () = pump(Vec::new(), server_in, client_out, back) => {}
        () = route.reset(resets) => {}
    }
}

fn sender_of(greeting: &[u8], to: usize, addresses: &Mutex<Vec<SocketAddr>>) -> Option<usize> {
    let addresses = addresses.lock().unwrap_or_else(PoisonError::into_inner);
    addresses.iter().enumerate().filter(|(node, _)| *node != to).find_map(|(node, address)| {
        let text = address.to_string();
        greeting.windows(text.len()).any(|window| window == text.as_bytes()).then_some(node)
    })
}

/// Passes bytes on, one way, until one side ends or a piece is lost; `held` came before.
async fn pump(mut held: Vec<u8>, mut input: OwnedReadHalf, mut output: OwnedWriteHalf, mut route: Route) {
    let mut buffer = vec![0; 64 * 1024];
    let mut chance = Chance::new();
    loop {
        if !held.is_empty() {
            let link = route.link();
            if chance.below(1000) < link.lost {
                return;
            }
            let jitter = chance.below(u64::try_from(link.jitter.as_micros()).expect("a short time").max(1));
            let passed = route.passed(held.len(), link.rate);
            tokio::time::sleep_until(passed + link.delay + Duration::from_micros(jitter)).await;
            if !route.whole().await || output.write_all(&held).await.is_err() {
                return;
            }
        }
        // Small pieces, so that the connections of a narrow link take turns.
        let most = match usize::try_from(route.link().rate).expect("a small number") {
            0 => buffer.len(),
            rate => (rate / PIECES_A_SECOND).clamp(1, buffer.len()),
        };
        let Ok(read @ 1..) = input.read(&mut buffer[..most]).await else { return };
        held.clear();
        held.extend_from_slice(&buffer[..read]);
    }
}

/// Small random numbers, others for each connection.
struct Chance(u64);

impl Chance {
    fn new() -> Chance {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
        Chance(CONNECTIONS.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}
