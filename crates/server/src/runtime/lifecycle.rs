//! The turning points of a node's life: start, initialisation, adoption of an id, reset, stop.
//!
//! What is durable comes first each time: an answer that says "accepted" follows the sync that makes it true. A turn goes on to
//! its end, also if the call that asked for it ends before: a node half-way between two phases is of no use to anybody.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use quorate_node::{Admitted, AppliedState, Barred, InitAccepted, Lifecycle, NodeConfig, Restored, Retention};
use quorate_raft::{Incarnation, LogIndex, Membership, NodeId, Term};
use quorate_store::{
    Disk, LogStore, NodeMark, OpenError, OpenedStores, RealDisk, RecoveredLog, StateOptions, StoreOptions,
};
use quorate_wire::peer::{Hello, HelloRefused, NodeState};
use quorate_wire::{Bootstrap, Identity};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::admin::{InitError, ResetError, StartError};
use super::clock::{Clock, random_u128};
use super::config::ReplicaConfig;
use super::core::{Core, Phase, Settings};
use super::engine::{Engine, Opened};
use super::promises;
use super::set_aside::{set_aside, set_aside_retired};
use super::status::StatusChange;
use crate::peer::{Dialer, Guests, Host, Links, serve};

/// Connections of the peer port get this long to end by themselves.
const PORT_GRACE: Duration = Duration::from_secs(1);

/// Opens the folder and the port; runs the node if it belongs to a cluster.
pub(super) async fn start(config: ReplicaConfig) -> Result<Arc<Core>, StartError> {
    let ReplicaConfig { data_dir, peer_listener, metrics, .. } = config;
    let data_dir_error = |problem: String| StartError::DataDir { path: data_dir.display().to_string(), problem };
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&data_dir).map_err(|error| data_dir_error(error.to_string()))?);
    #[cfg(feature = "test-faults")]
    let disk = super::faults::begin(disk);
    set_aside_retired(&disk, &data_dir, &config.retired_clusters).map_err(|error| data_dir_error(error.to_string()))?;
    let settings = Settings {
        data_dir: data_dir.clone(),
        name: config.name,
        peer_address: config.advertise_peer,
        client_addresses: config.advertise_client,
        raft: quorate_raft::Config {
            heartbeat_interval: config.heartbeat_interval,
            election_timeout: config.election_timeout,
            ..quorate_raft::Config::default()
        },
        snapshot_count: config.snapshot_count,
        keep_log_entries: config.keep_log_entries,
        quota_bytes: config.quota_bytes,
        state_cache_bytes: config.state_cache_bytes,
        max_pending_requests: config.max_pending_requests,
        request_timeout: config.request_timeout,
        max_request_bytes: config.max_request_bytes,
        max_watches: config.max_watches,
        watch_progress_interval: config.watch_progress_interval,
    };
    let core = Arc::new_cyclic(|me| Core {
        me: me.clone(),
        settings,
        metrics,
        tokens: Arc::default(),
        clock: Clock::start(),
        dialer: Dialer,
        runtime: tokio::runtime::Handle::current(),
        disk,
        phase: RwLock::new(Phase::Down),
        lifecycle: Mutex::new(Lifecycle::new(Incarnation(0), None, None, None, None)),
        transition: tokio::sync::Mutex::new(()),
        links: Mutex::new(None),
        refusals: Mutex::default(),
        change: watch::Sender::new(StatusChange {
            state: NodeState::Uninitialised,
            role: None,
            term: Term(0),
            leader: None,
            config_index: LogIndex(0),
            changing: false,
            no_space: false,
            leaving: false,
        }),
        stop: watch::Sender::new(false),
        failed: watch::Sender::new(None),
        port: Mutex::new(None),
    });
    let links =
        Links::new(Arc::clone(&core) as Arc<dyn Host>, core.dialer, Arc::clone(&core.metrics), core.runtime.clone());
    *core.links.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(links));
    let opened = {
        // An only voter may find damage before it counts as running: that waits for its turn, and is not lost.
        let _turn = core.transition.lock().await;
        open(&core).await
    };
    match opened {
        Ok(()) => {}
        Err(error @ OpenError::Damaged { .. }) => {
            tracing::error!("{error}");
            damaged(&core, error.to_string()).await;
        }
        Err(error @ (OpenError::NewerFormat { .. } | OpenError::UnknownEntry { .. })) => {
            return Err(StartError::NewerFormat(error.to_string()));
        }
        Err(error) => return Err(data_dir_error(error.to_string())),
    }
    listen(&core, peer_listener, Guests::new(config.max_peer_connections))?;
    tokio::spawn(promises::keep(Arc::clone(&core)));
    Ok(core)
}

fn listen(core: &Arc<Core>, listener: std::net::TcpListener, guests: Guests) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let host = Arc::clone(core) as Arc<dyn Host>;
    let serving = serve(listener, guests, host, Arc::clone(&core.metrics), core.stop.subscribe());
    let port = tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!("the peer port ended: {error}");
        }
    });
    *core.port.lock().unwrap_or_else(PoisonError::into_inner) = Some(port);
    Ok(())
}

/// Opens the stores and runs the node, if the folder says to which cluster it belongs.
async fn open(core: &Arc<Core>) -> Result<(), OpenError> {
    let disk = Arc::clone(&core.disk);
    let options = StoreOptions {
        state: StateOptions { cache_bytes: core.settings.state_cache_bytes, ..StateOptions::default() },
        ..StoreOptions::default()
    };
    #[cfg(feature = "test-faults")]
    let options = super::faults::uncached(options);
    let incarnation = Incarnation(random_u128().map_err(system)?);
    let opened = tokio::task::spawn_blocking(move || options.open(&disk, incarnation)).await;
    let opened = opened.map_err(|panic| system(std::io::Error::other(panic)))??;
    let recovered = &opened.recovered;
    let committed = committed_membership(recovered);
    *core.lifecycle() = Lifecycle::new(
        recovered.incarnation,
        recovered.identity,
        bootstrap_of(recovered),
        barred(&recovered.mark),
        committed.as_deref(),
    );
    core.state_changed();
    let identity = recovered.identity;
    core.set_phase(Phase::Idle(Some(Box::new(opened))));
    match identity {
        None => {
            tracing::info!(
                incarnation = format!("{:032x}", core.incarnation().0),
                "empty: waiting to be initialised or joined"
            );
            Ok(())
        }
        Some(identity) => run(core, identity).await,
    }
}

/// Stays up with damaged files, and says whose they are if the log still tells.
async fn damaged(core: &Arc<Core>, reason: String) {
    let disk = Arc::clone(&core.disk);
    let reading = move || {
        // A missing file must not be made: it would say that this node is empty.
        let present = disk.exists(quorate_store::LOG_FILE).unwrap_or(false);
        present.then(|| LogStore::owner(&*disk).ok())?
    };
    if let Ok(Some((incarnation, identity))) = tokio::task::spawn_blocking(reading).await {
        *core.lifecycle() = Lifecycle::new(incarnation, identity, None, None, None);
    }
    core.bar(NodeState::Damaged, reason);
}

fn system(error: std::io::Error) -> OpenError {
    OpenError::Storage { file: "data folder", source: Box::new(error.into()) }
}

/// Turns an idle phase with an identity into a running one.
async fn run(core: &Arc<Core>, identity: Identity) -> Result<(), OpenError> {
    let Some(stores) = core.take_idle_stores() else { return Ok(()) };
    let config = node_config(core);
    let starting = {
        let core = Arc::clone(core);
        tokio::task::spawn_blocking(move || {
            let opened = restore(stores, identity)?;
            Engine::start(&core, config, identity, opened).map_err(system)
        })
    };
    let engine = starting.await.map_err(|panic| system(std::io::Error::other(panic)))??;
    tracing::info!(node = %identity.node_id, cluster = format!("{:032x}", identity.cluster_id), "running");
    core.set_phase(Phase::Running(Arc::clone(&engine)));
    core.connect(&engine);
    Ok(())
}

fn node_config(core: &Core) -> NodeConfig {
    let mut config = NodeConfig::new(core.settings.raft.clone(), core.member());
    config.request_timeout = core.settings.request_timeout;
    config.limits.max_pending_writes = core.settings.max_pending_requests;
    config.retention = Retention {
        keep_entries: core.settings.keep_log_entries,
        step_entries: core.settings.snapshot_count.max(1),
        ..Retention::default()
    };
    config
}

/// Everything consensus has to know of the files.
fn restore(stores: Box<OpenedStores>, identity: Identity) -> Result<Opened, OpenError> {
    let OpenedStores { log, mut state, .. } = *stores;
    state.set_cluster_id(identity.cluster_id)?;
    let recovered = log.recovered();
    let position = state.position();
    let view = state.view();
    let applied = position.index;
    let from = LogIndex(applied.0 + 1);
    let tail = log.entries(from, usize::MAX)?;
    let restored = Restored {
        raft: quorate_raft::Restored {
            hard_state: recovered.hard_state,
            base: recovered.base,
            base_membership: recovered.base_membership,
            terms: recovered.terms,
            last: recovered.last,
            memberships: recovered.memberships,
            tail,
            applied,
        },
        applied: AppliedState {
            index: applied,
            term: position.term,
            revision: view.revision(),
            digest: view.digest().1,
            leases: view.lease_summary(),
        },
        log_bytes: recovered.entry_bytes,
        barred: barred(&recovered.mark),
        session: Incarnation(random_u128().map_err(system)?),
    };
    Ok(Opened { log, state, restored })
}

fn barred(mark: &NodeMark) -> Option<Barred> {
    let (state, reason) = match mark {
        NodeMark::None => return None,
        NodeMark::Removed => (NodeState::Removed, "this node has left the cluster".to_owned()),
        NodeMark::Fenced { reason } => (NodeState::Fenced, reason.clone()),
        NodeMark::Damaged { reason } => (NodeState::Damaged, reason.clone()),
    };
    Some(Barred { state, reason })
}

/// The bootstrap configuration, while the log still begins with it.
fn bootstrap_of(recovered: &RecoveredLog) -> Option<Bootstrap> {
    let identity = recovered.identity?;
    let (index, membership) = &recovered.base_membership;
    let first = *index == LogIndex(0) && !membership.members.is_empty();
    first.then(|| Bootstrap { cluster_id: identity.cluster_id, members: membership.members.clone() })
}

/// The newest configuration the log knows to be committed.
fn committed_membership(recovered: &RecoveredLog) -> Option<Arc<Membership>> {
    let commit = recovered.hard_state.commit;
    let newest = recovered.memberships.iter().rev().find(|(index, _)| *index <= commit);
    let membership = newest.map_or(&recovered.base_membership.1, |(_, membership)| membership);
    (!membership.members.is_empty()).then(|| Arc::clone(membership))
}

/// Does `work` to its end, whatever becomes of the caller: a call ends with its connection.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, String> {
    tokio::spawn(work).await.map_err(|error| error.to_string())
}

impl Core {
    /// Accepts a bootstrap configuration durably and runs the node.
    pub(super) async fn init(&self, bootstrap: &Bootstrap) -> Result<NodeId, InitError> {
        let core = self.me().map_err(InitError::Storage)?;
        let bootstrap = bootstrap.clone();
        to_its_end(async move { core.form(&bootstrap).await }).await.map_err(InitError::Storage)?
    }

    async fn form(self: &Arc<Self>, bootstrap: &Bootstrap) -> Result<NodeId, InitError> {
        let _turn = self.transition.lock().await;
        let mut changed = self.lifecycle().clone();
        let identity = match changed.init(bootstrap)? {
            InitAccepted::Again(identity) => return Ok(identity.node_id),
            InitAccepted::New(identity) => identity,
        };
        let (_, membership) = bootstrap.membership();
        let store = move |stores: &mut OpenedStores| stores.log.bootstrap(identity, Arc::new(membership));
        self.change_idle(store).await.map_err(InitError::Storage)?;
        *self.lifecycle() = changed;
        self.state_changed();
        run(self, identity).await.map_err(|error| InitError::Storage(error.to_string()))?;
        Ok(identity.node_id)
    }

    /// Judges a greeting; an empty node may adopt the id it is called by.
    pub(super) async fn admit(&self, hello: &Hello) -> Result<(), HelloRefused> {
        let not_serving = |text: String| HelloRefused::NotServing(text);
        let core = self.me().map_err(not_serving)?;
        if self.lifecycle().identity().is_some() {
            let membership = self.engine().map(|engine| engine.membership());
            let admitted = self.lifecycle().admit(hello, membership.as_deref())?;
            assert_eq!(admitted, Admitted::Welcome, "an id is adopted once");
            return Ok(());
        }
        let hello = hello.clone();
        to_its_end(async move { core.adopt(&hello).await }).await.map_err(not_serving)?
    }

    async fn adopt(self: &Arc<Self>, hello: &Hello) -> Result<(), HelloRefused> {
        let not_serving = |text: String| HelloRefused::NotServing(text);
        let _turn = self.transition.lock().await;
        let mut changed = self.lifecycle().clone();
        if let Admitted::Adopt(identity) = changed.admit(hello, None)? {
            let store = move |stores: &mut OpenedStores| stores.log.set_identity(identity);
            self.change_idle(store).await.map_err(not_serving)?;
            *self.lifecycle() = changed;
            self.state_changed();
            tracing::info!(node = %identity.node_id, by = %hello.from, "admitted to a cluster");
            run(self, identity).await.map_err(|error| not_serving(error.to_string()))?;
        }
        Ok(())
    }

    /// Changes the files of an idle node, durably. A failed write leaves it down: what is on the disk is unknown.
    async fn change_idle<E: std::fmt::Display + Send + 'static>(
        &self,
        change: impl FnOnce(&mut OpenedStores) -> Result<(), E> + Send + 'static,
    ) -> Result<(), String> {
        let mut stores = self.take_idle_stores().ok_or("this node is not idle")?;
        let changing = tokio::task::spawn_blocking(move || change(&mut stores).map(|()| stores));
        match changing.await {
            Ok(Ok(stores)) => {
                self.set_phase(Phase::Idle(Some(stores)));
                Ok(())
            }
            Ok(Err(error)) => {
                self.set_phase(Phase::Down);
                self.bar(NodeState::Damaged, error.to_string());
                Err(error.to_string())
            }
            Err(panic) => {
                self.set_phase(Phase::Down);
                Err(panic.to_string())
            }
        }
    }
}

/// Sets the data aside and opens an empty folder.
pub(super) async fn reset(core: &Arc<Core>, cluster_id: u128, node_id: NodeId) -> Result<Incarnation, ResetError> {
    let core = Arc::clone(core);
    to_its_end(async move { begin_anew(&core, cluster_id, node_id).await }).await.map_err(ResetError::Storage)?
}

async fn begin_anew(core: &Arc<Core>, cluster_id: u128, node_id: NodeId) -> Result<Incarnation, ResetError> {
    let _turn = core.transition.lock().await;
    let seen = core.engine().map(|engine| engine.published.status());
    // After a restart a node knows what is committed only once a leader has told it: whatever lists it counts.
    let known = seen.iter().flat_map(|seen| {
        let raft = &seen.status.raft;
        [&raft.committed_membership, &raft.membership]
    });
    let listing = known.into_iter().find(|membership| membership.is_member(node_id));
    let lifecycle = core.lifecycle().clone();
    // Files so damaged that they do not say whose they are can only be set aside.
    let nameless = lifecycle.state() == NodeState::Damaged && lifecycle.identity().is_none();
    if !nameless {
        lifecycle.check_reset(cluster_id, node_id, listing.map(|membership| &**membership))?;
    }
    if let Phase::Running(engine) = core.set_phase(Phase::Down) {
        engine.end(false).await;
    }
    if let Some(links) = core.links() {
        links.close();
    }
    core.refusals.lock().unwrap_or_else(PoisonError::into_inner).clear();
    // No thread applies any more, so none of the old cluster's logins is learned after this.
    core.tokens.clear();
    let folder = core.settings.data_dir.clone();
    let moving = tokio::task::spawn_blocking(move || set_aside(&folder));
    let moved = moving.await.map_err(|panic| ResetError::Storage(panic.to_string()))?;
    let aside = moved.map_err(|error| ResetError::Storage(error.to_string()))?;
    tracing::warn!("data set aside in {aside}");
    core.change.send_modify(|change| {
        *change = StatusChange {
            state: NodeState::Uninitialised,
            role: None,
            term: Term(0),
            leader: None,
            config_index: LogIndex(0),
            changing: false,
            no_space: false,
            leaving: false,
        };
    });
    open(core).await.map_err(|error| ResetError::Storage(error.to_string()))?;
    Ok(core.incarnation())
}

/// Ends the node and the port.
pub(super) async fn stop(core: &Arc<Core>, farewell: bool) {
    let _turn = core.transition.lock().await;
    if let Some(engine) = core.engine() {
        engine.end(farewell).await;
    }
    core.set_phase(Phase::Down);
    abandon(core);
    let port = core.port.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(mut port) = port
        && tokio::time::timeout(PORT_GRACE, &mut port).await.is_err()
    {
        port.abort();
    }
}

/// Ends everything without waiting for it.
pub(super) fn abandon(core: &Core) {
    core.stop.send_replace(true);
    if let Some(engine) = core.engine() {
        engine.abandon();
    }
    let links = core.links.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(links) = links {
        links.close();
    }
}
