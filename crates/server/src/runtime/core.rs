//! What one process knows of its node in every state of its life, and the node's face on the peer port.
//!
//! Owns the [`Lifecycle`], the phase (with or without a running [`Engine`]) and the peer links. Initialisation, adoption of an
//! id, reset and stop take turns: each of them changes what the data folder is.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use quorate_node::{Input, Lifecycle};
use quorate_raft::{Incarnation, Member, Membership, NodeId, Term};
use quorate_store::{Disk, OpenedStores};
use quorate_wire::peer::{Hello, HelloRefused, NodeState, PeerIdentity};
use quorate_wire::{Bootstrap, FORMAT_VERSION, PeerMessage, WRITTEN_VERSION};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::clock::Clock;
use super::driver::Event;
use super::engine::Engine;
use super::failure::Failure;
use super::images;
use super::published::Seen;
use super::status::StatusChange;
use crate::auth::Tokens;
use crate::metrics::Metrics;
use crate::peer::{Dialer, Host, ImageSink, Links, Peer};

/// Inputs the node may be behind by before peer streams wait.
const MAX_NODE_BACKLOG: usize = 8 * 1024;
/// How long a waiting peer stream waits before it looks again.
const BACKLOG_PAUSE: Duration = Duration::from_millis(1);

/// What stays the same for a process.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) data_dir: PathBuf,
    pub(crate) name: String,
    pub(crate) peer_address: String,
    pub(crate) client_addresses: Vec<String>,
    pub(crate) raft: quorate_raft::Config,
    pub(crate) snapshot_count: u64,
    pub(crate) keep_log_entries: u64,
    pub(crate) quota_bytes: u64,
    pub(crate) state_cache_bytes: usize,
    pub(crate) max_pending_requests: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) max_request_bytes: usize,
    pub(crate) max_watches: usize,
    pub(crate) watch_progress_interval: Duration,
}

/// With or without a running node.
pub(crate) enum Phase {
    /// Uninitialised, or between two phases: the stores wait for an identity.
    Idle(Option<Box<OpenedStores>>),
    /// The node runs.
    Running(Arc<Engine>),
    /// Damaged files, a failed disk, or stopped for good.
    Down,
}

/// See the module documentation.
pub(crate) struct Core {
    /// Itself, for the threads and tasks it starts.
    pub(crate) me: Weak<Core>,
    pub(crate) settings: Settings,
    pub(crate) metrics: Arc<Metrics>,
    /// Fed with the logins that are applied.
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) clock: Clock,
    pub(crate) dialer: Dialer,
    pub(crate) runtime: Handle,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) phase: RwLock<Phase>,
    pub(crate) lifecycle: Mutex<Lifecycle>,
    /// Held by whoever changes what the data folder is.
    pub(crate) transition: tokio::sync::Mutex<()>,
    pub(crate) links: Mutex<Option<Arc<Links>>>,
    /// Peers that say this node was removed.
    pub(crate) refusals: Mutex<BTreeSet<NodeId>>,
    /// The task that serves the peer port.
    pub(crate) port: Mutex<Option<JoinHandle<()>>>,
    pub(crate) change: watch::Sender<StatusChange>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) failed: watch::Sender<Option<String>>,
}

impl Core {
    /// This node as it wants to stand in configurations.
    pub(crate) fn member(&self) -> Member {
        Member {
            incarnation: self.incarnation(),
            name: self.settings.name.clone(),
            peer_address: self.settings.peer_address.clone(),
            client_addresses: self.settings.client_addresses.clone(),
            max_version: FORMAT_VERSION,
        }
    }

    /// A counted reference to itself, unless everybody else has let go.
    pub(crate) fn me(&self) -> Result<Arc<Core>, String> {
        self.me.upgrade().ok_or_else(|| "this node stops".to_owned())
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.lifecycle().incarnation()
    }

    pub(crate) fn lifecycle(&self) -> MutexGuard<'_, Lifecycle> {
        self.lifecycle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running node, if there is one.
    pub(crate) fn engine(&self) -> Option<Arc<Engine>> {
        match &*self.phase.read().unwrap_or_else(PoisonError::into_inner) {
            Phase::Running(engine) => Some(Arc::clone(engine)),
            Phase::Idle(_) | Phase::Down => None,
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) -> Phase {
        std::mem::replace(&mut *self.phase.write().unwrap_or_else(PoisonError::into_inner), phase)
    }

    /// Takes the stores out of an idle phase; the caller puts a phase back.
    pub(crate) fn take_idle_stores(&self) -> Option<Box<OpenedStores>> {
        match &mut *self.phase.write().unwrap_or_else(PoisonError::into_inner) {
            Phase::Idle(stores) => stores.take(),
            Phase::Running(_) | Phase::Down => None,
        }
    }

    pub(crate) fn links(&self) -> Option<Arc<Links>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Queues messages for a peer.
    pub(crate) fn send(&self, to: NodeId, messages: Vec<PeerMessage>) {
        if let Some(links) = self.links() {
            // Unknown receivers left the configuration long ago: their messages are lost like any other may be.
            links.send(to, messages);
        }
    }

    /// Opens links to the members of the configuration in force.
    pub(crate) fn connect(&self, engine: &Engine) {
        let Some(links) = self.links() else { return };
        let own = engine.identity.node_id;
        let membership = engine.membership();
        let others = membership.members.iter().filter(|(id, member)| **id != own && member.is_bound());
        links.set_members(
            others.map(|(id, member)| (Peer { id: *id, incarnation: member.incarnation }, member.peer_address.clone())),
        );
    }

    pub(crate) fn configuration_committed(&self, membership: &Membership) {
        self.lifecycle().configuration_committed(membership);
        self.state_changed();
    }

    /// The node was removed, fenced or found damaged.
    pub(crate) fn bar(&self, state: NodeState, reason: String) {
        self.lifecycle().bar(state, reason);
        self.state_changed();
    }

    /// Publishes the life-cycle state alone.
    pub(crate) fn state_changed(&self) {
        let state = self.lifecycle().state();
        self.change.send_if_modified(|change| std::mem::replace(&mut change.state, state) != state);
    }

    pub(crate) fn status_changed(&self, engine: &Engine, seen: &Seen) {
        let raft = &seen.status.raft;
        let membership = &raft.committed_membership;
        let new = StatusChange {
            state: self.lifecycle().state(),
            role: Some(raft.role),
            term: raft.term,
            leader: raft.leader,
            config_index: raft.committed_membership_index,
            changing: membership.is_joint() || membership.target.is_some(),
            no_space: engine.has_no_space(),
            leaving: !raft.membership.members.is_empty() && !raft.membership.is_member(engine.identity.node_id),
        };
        self.change.send_if_modified(|change| {
            let modified = *change != new;
            *change = new;
            modified
        });
        if let Some(links) = self.links() {
            links.sweep();
        }
    }

    /// A disk failed: no promise leaves any more, and whoever runs the process is told.
    pub(crate) fn node_failed(&self, engine: &Engine, error: String) {
        tracing::error!("the node stops: {error}");
        engine.halt();
        engine.watching.stop();
        engine.published.set(None, engine.published.commit());
        self.bar(NodeState::Damaged, error.clone());
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                *failed = Some(error);
            }
            first
        });
    }

    /// The node cannot go on.
    pub(crate) fn give_up(&self, engine: &Arc<Engine>, failure: Failure) {
        match failure {
            Failure::Damaged(reason) => {
                // Nobody is left to be told where the core is gone.
                let Ok(core) = self.me() else { return };
                let engine = Arc::clone(engine);
                self.runtime.spawn(async move { core.node_damaged(&engine, reason).await });
            }
            Failure::Ended(error) => self.node_failed(engine, error),
        }
    }

    /// Something in this node's files fails its checksum: it stops taking part, for good, and says so. The process stays up
    /// to say it.
    async fn node_damaged(&self, engine: &Arc<Engine>, reason: String) {
        let _turn = self.transition.lock().await;
        if !self.engine().is_some_and(|running| Arc::ptr_eq(&running, engine)) {
            return;
        }
        self.metrics.storage.damaged_total.inc();
        tracing::error!("{reason}");
        engine.bar(self, NodeState::Damaged, reason);
        engine.published.set(None, engine.published.commit());
        self.set_phase(Phase::Down);
        engine.end(false).await;
    }

    /// This node's greeting to `to`.
    pub(crate) fn greeting(&self, to: Peer) -> Option<Hello> {
        let lifecycle = self.lifecycle();
        let identity = lifecycle.identity()?;
        drop(lifecycle);
        Some(Hello {
            cluster_id: identity.cluster_id,
            from: identity.node_id,
            member: self.member(),
            to: to.id,
            to_incarnation: to.incarnation,
            format_version: WRITTEN_VERSION,
            refused: None,
        })
    }
}

/// A core as the peer port sees it. The port's tasks hold it, so it must be an `Arc` of its own.
#[tonic::async_trait]
impl Host for Core {
    fn hello(&self, to: Peer) -> Option<Hello> {
        self.greeting(to)
    }

    async fn welcome(&self, hello: &Hello) -> Result<Hello, HelloRefused> {
        self.admit(hello).await?;
        let from = Peer { id: hello.from, incarnation: hello.member.incarnation };
        if let Some(links) = self.links() {
            links.learn(from, hello.member.peer_address.clone());
        }
        self.greeting(from).ok_or_else(|| HelloRefused::NotServing("this node belongs to no cluster".into()))
    }

    async fn deliver(&self, from: NodeId, messages: Vec<PeerMessage>) {
        let Some(engine) = self.engine() else { return };
        while engine.driver.backlog() > MAX_NODE_BACKLOG && !engine.driver.is_ended() {
            tokio::time::sleep(BACKLOG_PAUSE).await;
        }
        let events = messages.into_iter().map(|message| Event::Input(Input::Peer { from, message })).collect();
        engine.driver.tell_all(events);
    }

    fn peer_lost(&self, id: NodeId) {
        if let Some(engine) = self.engine() {
            engine.tell(Input::PeerLost { id });
        }
    }

    fn peer_overrun(&self, id: NodeId) {
        if let Some(engine) = self.engine() {
            engine.tell(Input::PeerOverrun { id });
        }
    }

    fn refused_by(&self, peer: NodeId, refusal: HelloRefused) {
        let HelloRefused::Removed(text) = refusal else { return };
        let Some(engine) = self.engine() else { return };
        // One peer may hold a configuration that is rolled back yet; a majority of the voters known here cannot.
        let voters = engine.membership().voters.clone();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.insert(peer);
        let agreed = refusals.iter().filter(|id| voters.contains(id)).count();
        if agreed >= quorate_raft::quorum_size(voters.len()) && self.lifecycle().state() != NodeState::Removed {
            engine.tell(Input::Refused { reason: text });
        }
    }

    fn identity(&self) -> PeerIdentity {
        let lifecycle = self.lifecycle();
        let (identity, state) = (lifecycle.identity(), lifecycle.state());
        drop(lifecycle);
        PeerIdentity { identity, member: self.member(), state, version: env!("CARGO_PKG_VERSION").to_owned() }
    }

    async fn bootstrap(&self, bootstrap: Bootstrap) -> Result<(), String> {
        self.init(&bootstrap).await.map(|_| ()).map_err(|error| error.to_string())
    }

    async fn receive_snapshot(&self, from: NodeId, term: Term) -> Result<Box<dyn ImageSink>, String> {
        let engine = self.engine().ok_or("this node does not run")?;
        Ok(Box::new(images::receive(engine, from, term).await?))
    }
}
