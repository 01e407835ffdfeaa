//! Outgoing streams: one task a peer that dials, greets, keeps the stream open and dials again.
//!
//! Invariant: at most [`MAX_LINKS`] peers, each with one connection; a peer that left the configuration and is not written to
//! any more is forgotten.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quorate_proto::quorate::peer::v1 as proto;
use quorate_proto::quorate::peer::v1::peer_client::PeerClient;
use quorate_raft::{Incarnation, NodeId};
use quorate_wire::PeerMessage;
use quorate_wire::peer::{Hello, HelloRefused, MAX_FRAME_BYTES};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tonic::Streaming;

use super::dial::innermost;
use super::outbox::{Outbox, Pushed};
use super::{Dialer, HELLO_TIMEOUT, Host, MAX_REDIAL, MIN_REDIAL, REFUSED_REDIAL};
use crate::metrics::{Metrics, PeerSeries};

/// More peers than any configuration has, counting those that just left.
const MAX_LINKS: usize = 64;
/// How long a link outlives its peer's membership after the last message to it.
const LINGER: Duration = Duration::from_secs(60);
/// How often the way to a peer and back is measured.
const ECHO_INTERVAL: Duration = Duration::from_secs(2);

/// A node as consensus knows it: an address alone names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its id.
    pub(crate) id: NodeId,
    /// Its data folder.
    pub(crate) incarnation: Incarnation,
}

/// All outgoing streams of one node.
pub(crate) struct Links {
    context: Arc<Context>,
    links: Mutex<BTreeMap<NodeId, Link>>,
}

struct Context {
    host: Arc<dyn Host>,
    dialer: Dialer,
    metrics: Arc<Metrics>,
    runtime: Handle,
}

struct Link {
    peer: Peer,
    need: Need,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// Whether anybody needs a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Its peer is a member.
    Member,
    /// Its peer is not, or not any more: it is still told so, and answered.
    Lingering { last_used: Instant },
}

/// What a link's task and the senders share.
struct Shared {
    outbox: Arc<Outbox>,
    address: Mutex<String>,
    /// The peer was heard of: do not wait out the pause between two dials.
    heard: Notify,
    series: PeerSeries,
}

/// How one attempt at a stream ended.
enum Ended {
    /// This node belongs to no cluster now.
    NotReady,
    Unreachable(String),
    Refused(HelloRefused),
    /// It was open, and broke.
    Broken(String),
}

impl Links {
    pub(crate) fn new(host: Arc<dyn Host>, dialer: Dialer, metrics: Arc<Metrics>, runtime: Handle) -> Links {
        let context = Arc::new(Context { host, dialer, metrics, runtime });
        Links { context, links: Mutex::new(BTreeMap::new()) }
    }

    /// Opens links to these members and marks all others for being forgotten.
    pub(crate) fn set_members(&self, members: impl IntoIterator<Item = (Peer, String)>) {
        let mut links = self.lock();
        let now = Instant::now();
        for link in links.values_mut() {
            link.need.leave(now);
        }
        for (peer, address) in members {
            self.open(&mut links, peer, address).need = Need::Member;
        }
    }

    /// `peer` greeted this node and can be answered at `address`.
    pub(crate) fn learn(&self, peer: Peer, address: String) {
        let mut links = self.lock();
        if links.len() < MAX_LINKS || links.contains_key(&peer.id) {
            let link = self.open(&mut links, peer, address);
            link.need.used(Instant::now());
            link.shared.heard.notify_one();
        }
    }

    /// Queues messages for `to`. `false` if nobody knows where that is.
    pub(crate) fn send(&self, to: NodeId, messages: Vec<PeerMessage>) -> bool {
        let mut links = self.lock();
        let Some(link) = links.get_mut(&to) else { return false };
        link.need.used(Instant::now());
        let shared = Arc::clone(&link.shared);
        drop(links);
        if shared.outbox.push(messages) == Pushed::DroppedOlder {
            self.context.host.peer_overrun(to);
        }
        true
    }

    /// Forgets links that nobody needs any more.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        self.lock().retain(|id, link| {
            let over = link.need.is_over(now);
            if over {
                link.end();
                self.context.metrics.network.end_peer(*id);
            }
            !over
        });
    }

    /// Ends all streams.
    pub(crate) fn close(&self) {
        for (_, link) in std::mem::take(&mut *self.lock()) {
            link.end();
        }
    }

    fn open<'a>(&self, links: &'a mut BTreeMap<NodeId, Link>, peer: Peer, address: String) -> &'a mut Link {
        if links.get(&peer.id).is_some_and(|link| link.peer != peer)
            && let Some(stale) = links.remove(&peer.id)
        {
            stale.end();
        }
        let link = links.entry(peer.id).or_insert_with(|| {
            let shared = Arc::new(Shared {
                outbox: Arc::new(Outbox::default()),
                address: Mutex::new(address.clone()),
                heard: Notify::new(),
                series: self.context.metrics.network.begin_peer(peer.id),
            });
            let task = self.context.runtime.spawn(keep_open(Arc::clone(&self.context), peer, Arc::clone(&shared)));
            Link { peer, need: Need::Lingering { last_used: Instant::now() }, shared, task }
        });
        *link.shared.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
        link
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Need {
    /// The peer is no member. A link that was opened long ago lives on from now: who left must be told.
    fn leave(&mut self, now: Instant) {
        if *self == Need::Member {
            *self = Need::Lingering { last_used: now };
        }
    }

    fn used(&mut self, now: Instant) {
        if let Need::Lingering { last_used } = self {
            *last_used = now;
        }
    }

    fn is_over(self, now: Instant) -> bool {
        match self {
            Need::Member => false,
            Need::Lingering { last_used } => now.duration_since(last_used) >= LINGER,
        }
    }
}

impl Link {
    fn end(&self) {
        self.task.abort();
        self.shared.outbox.close();
    }
}

/// Dials `peer` for ever.
async fn keep_open(context: Arc<Context>, peer: Peer, shared: Arc<Shared>) {
    let mut pause = MIN_REDIAL;
    let mut said = String::new();
    loop {
        let ended = attempt(&context, peer, &shared).await;
        shared.outbox.close();
        context.host.peer_lost(peer.id);
        let text = match ended {
            Ended::NotReady => {
                pause = MAX_REDIAL;
                String::new()
            }
            Ended::Unreachable(text) => {
                pause = (pause * 2).min(MAX_REDIAL);
                text
            }
            Ended::Refused(refusal) => {
                pause = REFUSED_REDIAL;
                let text = format!("refused: {refusal}");
                context.host.refused_by(peer.id, refusal);
                text
            }
            Ended::Broken(text) => {
                pause = MIN_REDIAL;
                text
            }
        };
        if !text.is_empty() {
            shared.series.send_failures.inc();
        }
        // The same failure again is no news: a peer that is down for a day must not fill the log.
        if text != said && !text.is_empty() {
            tracing::warn!(peer = %peer.id, "peer stream: {text}");
        }
        said = text;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.heard.notified() => tokio::time::sleep(MIN_REDIAL).await,
        }
    }
}

async fn attempt(context: &Context, peer: Peer, shared: &Shared) -> Ended {
    let Some(hello) = context.host.hello(peer) else { return Ended::NotReady };
    let address = shared.address.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let channel = match context.dialer.connect(&address).await {
        Ok(channel) => channel,
        Err(text) => return Ended::Unreachable(text),
    };
    let frames = shared.outbox.open(&hello, shared.series.sent_bytes.clone());
    let mut client = PeerClient::new(channel).max_decoding_message_size(MAX_FRAME_BYTES);
    let greeting = async {
        let mut answers = client.stream(frames).await?.into_inner();
        let greeting = answers.message().await?;
        Ok::<_, tonic::Status>((answers, greeting))
    };
    let (answers, greeting) = match tokio::time::timeout(HELLO_TIMEOUT, greeting).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(status)) => return Ended::Unreachable(format!("{address}: {}", innermost(&status))),
        Err(_) => return Ended::Unreachable(format!("{address} did not greet in time")),
    };
    let Some(greeting) = greeting.and_then(|frame| frame.hello) else {
        return Ended::Unreachable(format!("{address} did not greet"));
    };
    match Hello::from_wire(greeting) {
        Err(error) => return Ended::Unreachable(format!("{address}: {error}")),
        Ok(Hello { refused: Some(refusal), .. }) => return Ended::Refused(refusal),
        Ok(_) => {}
    }
    tracing::debug!(peer = %peer.id, %address, "peer stream open");
    let _connected = shared.series.connected();
    let observe = |took: Duration| shared.series.round_trip_seconds.observe(took.as_secs_f64());
    let ended = measure(&shared.outbox, answers, observe).await;
    Ended::Broken(format!("{address} {ended}"))
}

/// Measures round trips as long as the stream is open; says how it ended.
async fn measure(outbox: &Outbox, mut answers: Streaming<proto::Frame>, observe: impl Fn(Duration)) -> String {
    let mut due = tokio::time::interval(ECHO_INTERVAL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut asked, mut asked_at) = (0, Instant::now());
    loop {
        tokio::select! {
            _ = due.tick() => {
                asked += 1;
                asked_at = Instant::now();
                outbox.ask_echo(asked);
            }
            answer = answers.message() => match answer {
                Ok(Some(frame)) if frame.echo == asked => observe(asked_at.elapsed()),
                Ok(Some(_)) => {}
                Ok(None) => return "closed the stream".to_owned(),
                Err(status) => return innermost(&status),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_lingers_from_the_moment_its_peer_leaves() {
        let left = Instant::now() + 100 * LINGER;
        let mut need = Need::Member;
        assert!(!need.is_over(left));
        need.leave(left);
        assert!(!need.is_over(left), "who left could not be told");
        assert!(need.is_over(left + LINGER));
    }

    #[test]
    fn a_lingering_link_lives_on_while_it_is_written_to() {
        let left = Instant::now();
        let mut need = Need::Member;
        need.leave(left);
        need.used(left + LINGER / 2);
        need.leave(left + LINGER / 2);
        assert!(!need.is_over(left + LINGER));
        assert!(need.is_over(left + LINGER / 2 + LINGER));
    }

    #[test]
    fn the_link_of_a_member_never_ends_by_itself() {
        let now = Instant::now();
        let mut need = Need::Member;
        need.used(now);
        assert!(!need.is_over(now + 100 * LINGER));
    }
}
