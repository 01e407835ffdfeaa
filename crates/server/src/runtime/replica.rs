//! The handle of one node: what the APIs call.

use std::sync::Arc;
use std::time::Duration;

use quorate_kv::{Actor, ClusterTime, Command, Outcome};
use quorate_node::{AdminOperation, Answer, ClientOp, Consistency, NodeError, ReadGrant, ReadOptions};
use quorate_raft::{Incarnation, LogIndex, Member, NodeId, Term};
use quorate_store::StateView;
use quorate_wire::peer::PeerIdentity;
use quorate_wire::{Bootstrap, FORMAT_VERSION, WRITTEN_VERSION};
use tokio::sync::{mpsc, watch};

use super::admin::{InitError, ResetError, SetVotersError, SnapshotInfo, StartError, VoterProgress, VoterSpec};
use super::config::ReplicaConfig;
use super::core::Core;
use super::engine::Engine;
use super::status::{DiskView, FollowerView, RaftView, ReplicaStatus, SpaceView, Stamp, StatusChange};
use super::watch_queue::WatchStream;
use super::watching::NotOpened;
use super::{images, lifecycle, members, voters};
use crate::auth::Tokens;
use crate::peer::{Host as _, IdentifyError, identify};

/// How long a transfer's caller waits to learn who leads now, beyond the transfer itself.
const NEW_LEADER_WAIT: Duration = Duration::from_secs(5);

/// Handle of one running node. Clones share the node; it ends with [`Replica::stop`], [`Replica::halt`] or the last clone.
#[derive(Clone)]
pub struct Replica {
    core: Arc<Core>,
    _last: Arc<HaltOnDrop>,
}

/// Ends the node when the last handle goes.
struct HaltOnDrop(Arc<Core>);

impl Drop for HaltOnDrop {
    fn drop(&mut self) {
        lifecycle::abandon(&self.0);
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("settings", &self.core.settings).finish_non_exhaustive()
    }
}

impl Replica {
    /// Opens the data folder, listens on the peer port and, if the node belongs to a cluster, runs it.
    ///
    /// Damaged files are no error: the node stays up and says so in [`Replica::status`].
    ///
    /// # Errors
    /// [`StartError`]: the folder cannot be used at all, or the system refuses what a node needs.
    pub async fn start(config: ReplicaConfig) -> Result<Replica, StartError> {
        let core = lifecycle::start(config).await?;
        Ok(Replica { _last: Arc::new(HaltOnDrop(Arc::clone(&core))), core })
    }

    /// Replicates and applies `command` on behalf of `actor`, from whichever node this is. The caller has validated it.
    ///
    /// # Errors
    /// [`NodeError`] says what the client may assume. A request that the state machine refused is an [`Outcome`].
    pub async fn write(&self, actor: Actor, command: Command) -> Result<Outcome, NodeError> {
        let engine = self.engine()?;
        let begun = std::time::Instant::now();
        let answer = engine.ask(ClientOp::Write { actor, command }).await;
        let requests = &self.core.metrics.requests;
        match answer {
            Ok(Answer::Written(outcome)) => {
                requests.writes_total.inc();
                self.core.metrics.raft.write_seconds.observe(begun.elapsed().as_secs_f64());
                Ok(outcome)
            }
            Ok(other) => {
                requests.writes_failed_total.inc();
                Err(refused(other))
            }
            Err(error) => {
                requests.writes_failed_total.inc();
                Err(error)
            }
        }
    }

    /// Something in [`Replica::view`] could not be read: the node looks for it in its files.
    pub(crate) fn doubt(&self) {
        if let Some(engine) = self.core.engine() {
            engine.doubt.notify_one();
        }
    }

    /// Permission to read [`Replica::view`] now. Check [`Replica::read_still_valid`] after the read; if it is not, ask
    /// again as `Consistent`.
    ///
    /// # Errors
    /// [`NodeError`]; nothing was read.
    pub async fn read(&self, options: ReadOptions) -> Result<ReadGrant, NodeError> {
        let engine = self.engine()?;
        if let Some(grant) = self.leased_read(&engine, options) {
            return Ok(grant);
        }
        match engine.ask(ClientOp::Read(options)).await? {
            Answer::ReadAt(grant) => Ok(grant),
            other => Err(refused(other)),
        }
    }

    /// A read that needs no word from the node: it published a lease that holds, and everything it had committed by
    /// then is applied. Whatever was acknowledged before this call is among that.
    fn leased_read(&self, engine: &Engine, options: ReadOptions) -> Option<ReadGrant> {
        if options.consistency != Consistency::Default || options.min_revision.is_some() {
            return None;
        }
        let lease = engine.published.lease()?;
        let fence = quorate_node::LeaseFence { term: lease.term };
        if !fence.holds(Some(lease), self.core.clock.now()) {
            return None;
        }
        let commit = engine.published.commit();
        let applied = engine.view.applied();
        (applied >= commit).then_some(ReadGrant {
            index: applied,
            effective: Consistency::Default,
            known_leader: true,
            staleness: Some(Duration::ZERO),
            lag_entries: 0,
            fence: Some(fence),
        })
    }

    /// Whether what was read under `grant` is still what the grant promised.
    pub fn read_still_valid(&self, grant: &ReadGrant) -> bool {
        let Some(fence) = grant.fence else { return true };
        let lease = self.core.engine().and_then(|engine| engine.published.lease());
        fence.holds(lease, self.core.clock.now())
    }

    /// The applied state; `None` without a running node.
    pub fn view(&self) -> Option<StateView> {
        self.core.engine().map(|engine| engine.view.clone())
    }

    /// The logins this node knows.
    pub(crate) fn tokens(&self) -> Arc<Tokens> {
        Arc::clone(&self.core.tokens)
    }

    /// Begins a stream of watches. One that `needs_leader` ends when for long none was known.
    pub(crate) fn watch(&self, needs_leader: bool) -> Option<Result<WatchStream, NotOpened>> {
        self.core.engine().map(|engine| engine.watching.open(needs_leader))
    }

    /// Ends all streams of watches: their clients find another node. With `stop` no further ones are begun.
    pub(crate) fn end_watches(&self, stop: bool) {
        if let Some(engine) = self.core.engine() {
            if stop { engine.watching.stop() } else { engine.watching.end_all() }
        }
    }

    /// Who answers, and in which term: what every answer's header says. Costs no more than a few loads.
    pub fn stamp(&self) -> Stamp {
        self.core.engine().map_or_else(Stamp::default, |engine| Stamp {
            cluster_id: engine.identity.cluster_id,
            node_id: engine.identity.node_id.0,
            term: engine.published.term().0,
        })
    }

    /// What the cluster clock shows now, as this node counts it; its beginning without a running node.
    pub fn cluster_clock(&self) -> ClusterTime {
        let now = self.core.clock.now();
        self.core.engine().map_or_else(ClusterTime::default, |engine| engine.published.cluster_clock(now))
    }

    /// How long a follower waits for a leader before it campaigns.
    pub fn election_timeout(&self) -> Duration {
        self.core.settings.raft.election_timeout
    }

    /// One look at everything. Asks no thread.
    pub fn status(&self) -> ReplicaStatus {
        let core = &self.core;
        let lifecycle = core.lifecycle();
        let (state, state_reason) = (lifecycle.state(), lifecycle.reason().to_owned());
        let (incarnation, identity) = (lifecycle.incarnation(), lifecycle.identity());
        drop(lifecycle);
        let engine = core.engine();
        ReplicaStatus {
            state,
            state_reason,
            name: core.settings.name.clone(),
            incarnation,
            identity,
            peer_address: core.settings.peer_address.clone(),
            client_addresses: core.settings.client_addresses.clone(),
            max_version: FORMAT_VERSION,
            raft: engine.as_deref().map(|engine| self.raft_view(engine)),
            space: engine.as_deref().map(space_view).unwrap_or_default(),
            disk: engine.as_deref().map(|engine| disk_view(core, engine)).unwrap_or_default(),
            watches: engine.as_deref().map(|engine| engine.watching.view()).unwrap_or_default(),
            // Looked at now, as the alarms below are: what was last told may be older than an alarm that was taken back.
            no_space: engine.as_deref().is_some_and(Engine::has_no_space),
            quota_bytes: core.settings.quota_bytes,
            alarms: engine.as_deref().map(|engine| engine.view.alarms()).unwrap_or_default(),
        }
    }

    fn raft_view(&self, engine: &Engine) -> RaftView {
        let seen = engine.published.status();
        let now = self.core.clock.now();
        let age = now.since(seen.at);
        let raft = &seen.status.raft;
        let lease = engine.published.lease();
        let lease_valid = lease.is_some_and(|lease| now < lease.until);
        RaftView {
            role: raft.role,
            term: raft.term,
            leader: raft.leader,
            first: raft.first,
            // Newer than the status they come with, and never behind each other.
            last: raft.last.max(engine.published.commit()),
            last_term: raft.last_term,
            commit: raft.commit.max(engine.published.commit()),
            applied: engine.view.applied(),
            membership: (raft.committed_membership_index, Arc::clone(&raft.committed_membership)),
            effective: (raft.membership_index, Arc::clone(&raft.membership)),
            lease_valid,
            staleness: if lease_valid {
                Some(Duration::ZERO)
            } else {
                seen.status.staleness.map(|staleness| staleness + age)
            },
            followers: followers(raft),
        }
    }

    /// Changes of state, role, leader and configuration.
    pub fn watch_status(&self) -> watch::Receiver<StatusChange> {
        self.core.change.subscribe()
    }

    /// State, role, leader and configuration now.
    pub(crate) fn standing(&self) -> StatusChange {
        self.core.change.borrow().clone()
    }

    /// Resolves with the reason when the node has ended by itself for good, because a disk failed.
    pub async fn failed(&self) -> String {
        let mut failed = self.core.failed.subscribe();
        let reason = failed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            // The sender lives as long as this handle.
            None => std::future::pending().await,
        }
    }

    /// Who listens at `address`, a peer or client port.
    ///
    /// # Errors
    /// [`IdentifyError`]: nobody, or nobody that is a node.
    pub async fn identify(&self, address: &str) -> Result<PeerIdentity, IdentifyError> {
        identify(self.core.dialer, address).await
    }

    /// Who this node is.
    pub fn own_identity(&self) -> PeerIdentity {
        self.core.identity()
    }

    /// Makes this empty node a first voter of `cluster_id`, durably, and runs it. Repeating the same configuration succeeds.
    ///
    /// # Errors
    /// [`InitError`]; nothing changed.
    pub async fn init(&self, cluster_id: u128, members: Vec<Member>) -> Result<NodeId, InitError> {
        let bootstrap = Bootstrap::new(cluster_id, members).map_err(|error| InitError::Invalid(error.to_string()))?;
        self.core.init(&bootstrap).await
    }

    /// Makes these the voters and reports how that goes until it is done or failed. Dropping the receiver changes nothing.
    ///
    /// # Errors
    /// [`SetVotersError::Unavailable`] if this node does not run; everything else comes through the receiver.
    pub async fn set_voters(
        &self,
        targets: Vec<VoterSpec>,
        expected: Option<LogIndex>,
    ) -> Result<mpsc::Receiver<Result<VoterProgress, SetVotersError>>, SetVotersError> {
        let engine = self.engine().map_err(|error| SetVotersError::Unavailable(error.to_string()))?;
        Ok(voters::set_voters(Arc::clone(&self.core), engine, targets, expected))
    }

    /// Adds a member that is not started yet: the first empty node found at the address becomes it. Answers its id. One
    /// that rises becomes a voter by itself once it has caught up.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn add_member(&self, peer_address: String, rises: bool) -> Result<NodeId, NodeError> {
        members::add(&self.core, &*self.engine()?, peer_address, rises).await
    }

    /// Makes a learner that has caught up a voter.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn promote_member(&self, id: NodeId) -> Result<(), NodeError> {
        members::promote(&self.core, &*self.engine()?, id).await
    }

    /// Takes one member out for ever; the others stay.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn remove_member(&self, id: NodeId) -> Result<(), NodeError> {
        members::remove(&self.core, &*self.engine()?, id).await
    }

    /// Says where other nodes reach a member. A member that runs announces its own address again.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn readdress_member(&self, id: NodeId, peer_address: String) -> Result<(), NodeError> {
        members::readdress(&self.core, &*self.engine()?, id, peer_address).await
    }

    /// Hands leadership to `to`, or to the voter whose log is furthest. Answers who leads now, and its term. With `expected`, only
    /// while that is the index of the newest configuration here, committed or not: who decided on an older one may be wrong by now.
    ///
    /// # Errors
    /// [`NodeError`]; leadership is where it was, or wherever an election put it.
    pub async fn transfer_leader(
        &self,
        to: Option<NodeId>,
        expected: Option<LogIndex>,
    ) -> Result<(NodeId, Term), NodeError> {
        let engine = self.engine()?;
        let current = engine.published.status().status.raft.membership_index;
        if expected.is_some_and(|expected| expected != current) {
            return Err(NodeError::StaleConfig { current });
        }
        let mut changes = self.watch_status();
        let before = changes.borrow_and_update().leader;
        let answer = engine.ask(ClientOp::Admin(AdminOperation::TransferLeader { to })).await?;
        let transfers = &self.core.metrics.raft.transfers_total;
        if answer != Answer::Transferred {
            transfers.with_label_values(&["failed"]).inc();
            return Err(refused(answer));
        }
        transfers.with_label_values(&["done"]).inc();
        let settled = changes.wait_for(|change| match to {
            Some(to) => change.leader == Some(to),
            None => change.leader.is_some() && change.leader != before,
        });
        let settled = tokio::time::timeout(NEW_LEADER_WAIT, settled).await;
        let change = settled.map_err(|_| NodeError::Timeout)?.map_err(|_| NodeError::Stopping)?;
        Ok((change.leader.unwrap_or(engine.identity.node_id), change.term))
    }

    /// An image of this node's applied state. The chunks in order are the file; they carry their own checksums.
    ///
    /// # Errors
    /// [`NodeError::NoState`] without a running node, or the state cannot be read.
    pub async fn snapshot(&self) -> Result<(SnapshotInfo, mpsc::Receiver<Result<bytes::Bytes, String>>), NodeError> {
        let engine = self.engine()?;
        let source = images::open_source(&self.core, &engine).await.map_err(NodeError::Invalid)?;
        let meta = source.meta();
        let info = SnapshotInfo {
            cluster_id: engine.identity.cluster_id,
            index: meta.index,
            term: meta.term,
            revision: source.revision().0,
            format_version: WRITTEN_VERSION,
            expected_bytes: source.expected_bytes(),
        };
        Ok((info, images::chunks(Arc::clone(&self.core), engine, source)))
    }

    /// Sets this node's data aside in a sub-folder and starts it empty, under a new incarnation.
    ///
    /// # Errors
    /// [`ResetError`], also for a current member.
    pub async fn reset(&self, cluster_id: u128, node_id: NodeId) -> Result<Incarnation, ResetError> {
        lifecycle::reset(&self.core, cluster_id, node_id).await
    }

    /// Ends the node politely: leadership is handed over, what is pending is answered, the state is made durable.
    pub async fn stop(self) {
        lifecycle::stop(&self.core, true).await;
    }

    /// Ends the node at once, without handing anything over. The files are closed when this returns.
    pub async fn halt(self) {
        lifecycle::stop(&self.core, false).await;
    }

    fn engine(&self) -> Result<Arc<Engine>, NodeError> {
        self.core.engine().ok_or(NodeError::NoState)
    }
}

/// The error in an answer of the wrong kind.
pub(super) fn refused(answer: Answer) -> NodeError {
    match answer {
        Answer::Refused(error) => error,
        other => unreachable!("the node answers a request in kind, not with {other:?}"),
    }
}

pub(super) fn followers(raft: &quorate_raft::Status) -> std::collections::BTreeMap<NodeId, FollowerView> {
    let view = |peer: &quorate_raft::PeerStatus| FollowerView {
        matched: peer.matched,
        active: peer.recently_active,
        snapshot: peer.state == quorate_raft::ReplicationState::Snapshot,
    };
    raft.peers.iter().map(|(id, peer)| (*id, view(peer))).collect()
}

fn space_view(engine: &Engine) -> SpaceView {
    let view = &engine.view;
    SpaceView {
        revision: view.revision().0,
        compact_revision: view.compact_revision().0,
        digest: view.digest().1.0,
        digest_index: view.digest().0,
        keys: view.key_count() as u64,
        leases: view.lease_count() as u64,
        auth_revision: view.auth().revision(),
    }
}

/// What both files take. Asks the file system, so it is for whoever wants a status, not for every request.
fn disk_view(core: &Core, engine: &Engine) -> DiskView {
    use std::os::unix::fs::MetadataExt as _;
    let allocated = |name: &str| {
        let metadata = std::fs::metadata(core.settings.data_dir.join(name));
        metadata.map_or(0, |metadata| metadata.blocks() * 512)
    };
    let seen = engine.published.status();
    DiskView {
        state_allocated: allocated(quorate_store::STATE_FILE),
        state_in_use: engine.view.totals().bytes,
        log_allocated: allocated(quorate_store::LOG_FILE),
        log_in_use: seen.status.log_bytes,
        durable_applied: seen.status.durable_applied,
    }
}
