//! Work on a stopped node's data: looking at it, printing its log, restoring an image, recovering from a lost quorum.
//!
//! [`inspect`] and [`dump_applied`] work on an [`OverlayDisk`]: they run the node's own code for opening and replaying and
//! change nothing. [`restore`] and [`recover`] end with a node that is the only voter of a new cluster.

use std::sync::Arc;

use bytes::Bytes;
use quorate_kv::Revision;
use quorate_raft::{Entry, HardState, Incarnation, LogIndex, Member, Membership, SnapshotMeta, Term};
use quorate_wire::{DecodeError, Identity, derive_node_id, dump};

use crate::disk::{Disk, LOG_FILE, STATE_FILE};
use crate::error::{ApplyError, OpenError, ReadError, SnapshotError, WriteError};
use crate::log::{LogStore, NodeMark};
use crate::overlay_disk::OverlayDisk;
use crate::snapshot::{ImageName, SnapshotSink};
use crate::state::{StatePlace, StateStore, forget_index_image};
use crate::stores::{OpenedStores, StoreOptions};

/// Entries applied in one transaction while replaying.
const REPLAY_BATCH_BYTES: usize = 4 << 20;

/// Bytes of the state verified at a time.
const VERIFY_STEP_BYTES: usize = 4 << 20;

/// Why offline work was not done, or not finished.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The data cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no node's data.
    #[error("no node's data here: there is no {LOG_FILE}")]
    NoData,
    /// A restore wants an empty directory.
    #[error("there is a node's data here already ({0}): restore into an empty directory")]
    NotEmpty(String),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An entry cannot be applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// An entry cannot be printed.
    #[error("entry {index}: {source}")]
    Entry {
        /// Its index.
        index: LogIndex,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The image is refused.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The result could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The image could not be read, or the output not be written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A node cannot be recovered under what it is already.
    #[error("the data is of cluster {0:032x} already: choose another cluster id")]
    SameCluster(u128),
}

/// What a stopped node's data says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The random name of the directory.
    pub incarnation: Incarnation,
    /// Cluster and node id.
    pub identity: Option<Identity>,
    /// A verdict on the node.
    pub mark: NodeMark,
    /// Term, vote, and the commit index as far as it is known here.
    pub hard_state: HardState,
    /// The last index before the log, and its term.
    pub base: (LogIndex, Term),
    /// The last entry.
    pub last: LogIndex,
    /// The applied index that is in the state file.
    pub applied: LogIndex,
    /// Revision of the state file.
    pub revision: Revision,
    /// Compact revision of the state file.
    pub compact_revision: Revision,
    /// The configuration in force at the end of the log, and its index.
    pub membership: (LogIndex, Arc<Membership>),
    /// The entries after the commit index: they may or may not have been acknowledged by a quorum.
    pub uncommitted: Vec<Entry>,
}

/// Reads what a stopped node's data says, and all of its state; changes nothing.
///
/// # Errors
/// If there is no data, it cannot be opened, or a record of it is rotten or missing.
pub fn inspect(disk: Arc<dyn Disk>) -> Result<Inspection, OfflineError> {
    let OpenedStores { log, recovered, state } = open_existing(Arc::new(OverlayDisk::new(disk)))?;
    let view = state.view();
    verify(&state)?;
    let uncommitted = log.entries(LogIndex(recovered.hard_state.commit.0 + 1), usize::MAX)?;
    let membership = recovered.memberships.last().unwrap_or(&recovered.base_membership).clone();
    Ok(Inspection {
        incarnation: recovered.incarnation,
        identity: recovered.identity,
        mark: recovered.mark,
        hard_state: recovered.hard_state,
        base: recovered.base,
        last: recovered.last,
        applied: view.applied(),
        revision: view.revision(),
        compact_revision: view.compact_revision(),
        membership,
        uncommitted,
    })
}

/// Hands out one JSON line for every entry in the log that is known to be committed, in order; changes nothing.
///
/// # Errors
/// If there is no data, it cannot be opened, or `print` fails.
pub fn dump_applied(
    disk: Arc<dyn Disk>,
    mut print: impl FnMut(&str) -> std::io::Result<()>,
) -> Result<(), OfflineError> {
    let OpenedStores { log, recovered, mut state } = open_existing(Arc::new(OverlayDisk::new(disk)))?;
    let committed = recovered.hard_state.commit;
    replay(&log, &mut state, committed)?;
    let revisions = state.view().applied_revisions()?;
    let first = LogIndex(recovered.base.0.0 + 1);
    let mut printer = dump::Printer::default();
    let mut failed = None;
    log.reader().visit(first..=committed, |entry| {
        // Known for every entry unless the log is far longer than it is meant to be; 0 says so.
        let revision = revisions.get(&entry.index).map_or(0, |revision| revision.0);
        let printed = printer
            .line(&entry, revision)
            .map_err(|source| OfflineError::Entry { index: entry.index, source })
            .and_then(|line| Ok(print(&line)?));
        failed = printed.err();
        failed.is_none()
    })?;
    failed.map_or(Ok(()), Err)
}

/// What becomes of the entries after the commit index when a quorum is lost for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UncommittedTail {
    /// Applied: some may have been acknowledged by nodes that are gone. A client that got no answer may see its write.
    Apply,
    /// Left out: an acknowledged write may be lost.
    Discard,
}

/// How a node is made the only voter of a new cluster.
#[derive(Debug, Clone)]
pub struct NewCluster {
    /// The new cluster's id. Nodes and clients of the old one are never mistaken for its own.
    pub cluster_id: u128,
    /// The node as the new cluster's only member; its incarnation is filled in.
    pub member: Member,
    /// Added to the revision, so that no client takes a new revision for one it has seen already. Everything before counts as
    /// compacted.
    pub revision_bump: u64,
}

impl NewCluster {
    fn identity(&self, incarnation: Incarnation) -> Identity {
        Identity { cluster_id: self.cluster_id, node_id: derive_node_id(self.cluster_id, incarnation) }
    }

    /// The new cluster's first configuration. Its version is that of `old`, whose log and state it goes on from.
    fn sole_voter(&self, identity: Identity, incarnation: Incarnation, old: &Membership) -> Arc<Membership> {
        Arc::new(Membership {
            voters: [identity.node_id].into(),
            members: [(identity.node_id, Member { incarnation, ..self.member.clone() })].into(),
            cluster_version: old.cluster_version,
            ..Membership::default()
        })
    }
}

/// What a recovery or restore made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The node in its new cluster.
    pub identity: Identity,
    /// Where its log begins.
    pub meta: SnapshotMeta,
    /// Its revision.
    pub revision: Revision,
}

/// The cluster that a [`recover`] which was interrupted was making: its state has the new id, its log the old one. Only
/// another [`recover`] with this id makes the data whole again. Changes nothing.
///
/// # Errors
/// If there is no data, or a file cannot be opened.
pub fn unfinished_recovery(disk: Arc<dyn Disk>) -> Result<Option<u128>, OfflineError> {
    require_data(&*disk)?;
    if !disk.exists(STATE_FILE)? {
        return Ok(None);
    }
    let disk: Arc<dyn Disk> = Arc::new(OverlayDisk::new(disk));
    let options = StoreOptions::default();
    let (_, log) = LogStore::open(disk.clone(), Incarnation(0), options.log)?;
    let state = StateStore::open(disk, options.state)?.cluster_id();
    let old = log.identity.map(|identity| identity.cluster_id);
    Ok(state.filter(|cluster_id| old.is_some_and(|old| old != *cluster_id)))
}

/// After permanent loss of the quorum: makes the node the only voter of a new cluster that holds its data.
///
/// If it is interrupted, the same call finishes it: with the same cluster id, which [`unfinished_recovery`] tells. The other
/// parts of `new` are then those of the first call.
///
/// # Errors
/// Any [`OfflineError`]. Nothing is changed if a record of the state is rotten or missing.
pub fn recover(disk: Arc<dyn Disk>, new: NewCluster, tail: UncommittedTail) -> Result<Recovered, OfflineError> {
    require_data(&*disk)?;
    let options = StoreOptions::default();
    let (mut log, recovered) = LogStore::open(disk.clone(), Incarnation(0), options.log)?;
    if recovered.identity.is_some_and(|own| own.cluster_id == new.cluster_id) {
        return Err(OfflineError::SameCluster(new.cluster_id));
    }
    let state = StateStore::open(disk.clone(), options.state)?;
    verify(&state)?;
    let interrupted = state.cluster_id() == Some(new.cluster_id);
    let identity = new.identity(recovered.incarnation);
    let mut state = if interrupted {
        state
    } else {
        drop((log, state));
        let opened = options.open(&disk, Incarnation(0))?;
        log = opened.log;
        let mut state = opened.state;
        let last = match tail {
            UncommittedTail::Apply => opened.recovered.last,
            UncommittedTail::Discard => opened.recovered.hard_state.commit,
        };
        replay(&log, &mut state, last)?;
        let membership = new.sole_voter(identity, recovered.incarnation, &state.position().membership);
        state.take_over(new.cluster_id, membership, bump(&new))?;
        state
    };
    let meta = state.position();
    log.take_over(identity, &meta)?;
    let revision = state.view().revision();
    state.checkpoint()?;
    Ok(Recovered { identity, meta, revision })
}

/// Makes an empty directory the data of the only voter of a new cluster that holds what an image holds.
///
/// # Errors
/// [`OfflineError::NotEmpty`] if a node's data is there; [`SnapshotError`] if the image is not whole. Whatever an
/// interrupted restore leaves behind is refused by a node, and is to be removed.
pub fn restore(
    disk: Arc<dyn Disk>,
    image: impl IntoIterator<Item = std::io::Result<Bytes>>,
    new: NewCluster,
    incarnation: Incarnation,
) -> Result<Recovered, OfflineError> {
    let names = disk.list()?;
    if let Some(name) = names.iter().find(|name| [LOG_FILE, STATE_FILE].contains(&name.as_str())) {
        return Err(OfflineError::NotEmpty(name.clone()));
    }
    let options = StoreOptions::default();
    let identity = new.identity(incarnation);
    let mut sink = SnapshotSink::new(&ImageName::new(disk.clone()), None, &options.state)?;
    for chunk in image {
        sink.push(&chunk?)?;
    }
    let received = sink.finish_with(|rows| {
        rows.origin.cluster_id = Some(new.cluster_id);
        rows.membership = (rows.position.applied, new.sole_voter(identity, incarnation, &rows.membership.1));
        rows.position.key_space = rows.position.key_space.raised(bump(&new));
    })?;
    let meta = received.meta();
    let revision = received.rows.position.key_space.revision;
    forget_index_image(&*disk)?;
    received.publish()?;
    let (mut log, _) = LogStore::open(disk, incarnation, options.log)?;
    log.take_over(identity, &meta)?;
    Ok(Recovered { identity, meta, revision })
}

fn bump(new: &NewCluster) -> i64 {
    i64::try_from(new.revision_bump).unwrap_or(i64::MAX / 2)
}

fn require_data(disk: &dyn Disk) -> Result<(), OfflineError> {
    if disk.exists(LOG_FILE)? { Ok(()) } else { Err(OfflineError::NoData) }
}

fn open_existing(disk: Arc<dyn Disk>) -> Result<OpenedStores, OfflineError> {
    require_data(&*disk)?;
    Ok(StoreOptions::default().open(&disk, Incarnation(0))?)
}

/// Reads the state through. A start believes the image of the index and reads no record that it covers, and a node finds out as it
/// goes on; here nobody goes on, and from what is made of this copy every other one will be made.
fn verify(state: &StateStore) -> Result<(), ReadError> {
    let mut place = Some(StatePlace::START);
    while let Some(from) = place {
        place = state.view().verify(from, VERIFY_STEP_BYTES)?.1;
    }
    Ok(())
}

/// Applies what the log has after the applied index, up to `last`.
fn replay(log: &LogStore, state: &mut StateStore, last: LogIndex) -> Result<(), OfflineError> {
    loop {
        let next = LogIndex(state.position().index.0 + 1);
        let mut entries = log.entries(next, REPLAY_BATCH_BYTES)?;
        entries.retain(|entry| entry.index <= last);
        if entries.is_empty() {
            return Ok(());
        }
        state.apply(&entries)?;
    }
}
