//! The key space on disk: records in revision order, and the applied index in the same transaction as what it reflects.
//!
//! Owns [`StateStore`] and its file. Applies what it is told is committed; never reads the log.
//!
//! Invariants:
//! 1. records, rows, revision, digest and applied index change in one transaction: after a crash they belong together;
//! 2. commits make no storage call; [`StateStore::checkpoint`] makes all of them durable, and its answer is how far the
//!    log may be cut;
//! 3. after a failed write or sync nothing more is written.

mod history;
mod index_image;
mod pinned;
mod pruning;
mod records;
mod revision_hash;
mod revisions;
mod rows;
mod tables;
mod verification;
mod view;

use std::sync::Arc;

use quorate_kv::{AnswerRoom, KeySpace, Outcome};
use quorate_raft::{Entry, Incarnation, LogIndex, Membership, NodeId, Payload, SnapshotMeta, Term};
use quorate_wire::Envelope;

pub use history::{Forgotten, History};
pub use records::RecordTotals;
pub use revision_hash::{RevisionHash, RevisionHasher};
pub use verification::StatePlace;
pub use view::{StateStream, StateView, StreamChunk};

pub(crate) use index_image::forget as forget_index_image;
pub(crate) use pinned::PinnedState;
pub(crate) use records::{RECORDS, RawKey, RecordAppender};
pub(crate) use revisions::REVISIONS;
pub(crate) use rows::{Origin, Position, StateRows};
pub(crate) use tables::{ROWS, RowReader, StateReader, store_image_rows};

use crate::database::{Commit, Database};
use crate::disk::{Disk, FileCounts, INDEX_FILE, STATE_FILE, STATE_FILE_NEW, remove_leftovers};
use crate::error::{ApplyError, OpenError, SnapshotError, WriteError};
use crate::log::DurableBase;
use crate::snapshot::{ReceivedSnapshot, SnapshotSink, SnapshotSource};
use records::{BatchRecords, RecordReader, store_records};
use tables::store_rows;
use view::{Inner, Shared};

/// Memory of the records that a write may answer, in bytes; what is more is withheld.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// The same for all writes of one batch.
const MAX_ANSWERS_BYTES: usize = 64 << 20;

/// How a state file is opened.
#[derive(Debug, Clone, Copy)]
pub struct StateOptions {
    /// redb's cache. Half of it holds what is written between two checkpoints: more than that goes to the disk early.
    pub cache_bytes: usize,
    /// A checkpoint is refused with [`WriteError::DiskFull`] unless this much stays free beside what it writes.
    pub reserve_bytes: u64,
    /// An image on its way in is given up unless this much stays free beside what it writes: the node goes on meanwhile, and its
    /// votes and entries must find room.
    pub image_reserve_bytes: u64,
}

impl Default for StateOptions {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, reserve_bytes: 2 << 20, image_reserve_bytes: 64 << 20 }
    }
}

/// What an applied entry brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedEntry {
    /// Its index.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// The request it answers: node, run of the node, number. `None` for what no request made.
    pub origin: Option<(NodeId, Incarnation, u64)>,
    /// The command's outcome; `None` if the entry holds none.
    pub outcome: Option<Outcome>,
}

/// What a batch brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedBatch {
    /// The last entry.
    pub last: LogIndex,
    /// Its term.
    pub term: Term,
    /// One for each entry, in order.
    pub results: Vec<AppliedEntry>,
}

/// Figures of the state file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateStats {
    /// Records, and their bytes.
    pub totals: RecordTotals,
    /// Record bytes written since the last checkpoint.
    pub dirty_bytes: u64,
    /// The applied index that survives a crash.
    pub durable_applied: LogIndex,
    /// What must be free for the next checkpoint.
    pub checkpoint_bytes: u64,
    /// What was done to the file since it was opened.
    pub file: FileCounts,
}

/// The state. One writer; [`StateStore::view`] gives handles for readers.
#[derive(Debug)]
pub struct StateStore {
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
    durable_applied: LogIndex,
    dirty_bytes: u64,
    /// Bytes of the pages that a compaction has changed since the last checkpoint.
    pruned_bytes: u64,
    /// What is kept for each entry of the log goes with it. At 0 without a log.
    log_base: DurableBase,
}

impl StateStore {
    /// Opens the state, or creates an empty one.
    ///
    /// Builds the key index: from its image and the records after it, or from all records (about 2 us each).
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if a record fails its checksum, [`OpenError::NewerFormat`] if a later release wrote it.
    pub fn open(disk: Arc<dyn Disk>, options: StateOptions) -> Result<Self, OpenError> {
        remove_leftovers(&*disk).map_err(|error| OpenError::io(STATE_FILE, error))?;
        let present = disk.exists(STATE_FILE).map_err(|error| OpenError::io(STATE_FILE, error))?;
        let database = if present {
            Database::open(&*disk, STATE_FILE, options.cache_bytes)?
        } else {
            create(&*disk, options.cache_bytes)?
        };
        let transaction = database.read()?;
        let mut rows = StateRows::read(&transaction)?;
        let key_space = index_image::load(&*disk, &rows, &StateReader::new(&transaction)?)?;
        // An index from an older image has to be pruned again.
        rows.position.key_space = key_space.meta();
        drop(transaction);
        let durable_applied = rows.position.applied;
        let inner = Inner { database: Arc::new(database), key_space, rows, generation: 0 };
        let shared = Arc::new(Shared::new(disk.clone(), options, inner));
        Ok(Self { disk, shared, durable_applied, dirty_bytes: 0, pruned_bytes: 0, log_base: DurableBase::default() })
    }

    /// A handle for readers.
    pub fn view(&self) -> StateView {
        StateView::new(self.shared.clone())
    }

    /// The position that the state stands for: index, term and configuration.
    pub fn position(&self) -> SnapshotMeta {
        self.shared.read().rows.snapshot_meta()
    }

    /// The cluster this state belongs to, once it is known.
    pub fn cluster_id(&self) -> Option<u128> {
        self.shared.read().rows.origin.cluster_id
    }

    /// Ties the state to a cluster, durably. Snapshots name it, and refuse another.
    ///
    /// # Errors
    /// Any error: the node must stop.
    ///
    /// # Panics
    /// If the state belongs to another cluster.
    pub fn set_cluster_id(&mut self, cluster_id: u128) -> Result<(), WriteError> {
        let (database, mut rows) = self.current();
        let known = rows.origin.cluster_id.is_none_or(|known| known == cluster_id);
        assert!(known, "the state of cluster {:?} is asked to become cluster {cluster_id}'s", rows.origin.cluster_id);
        if rows.origin.cluster_id.is_some() {
            return Ok(());
        }
        rows.origin.cluster_id = Some(cluster_id);
        database.write(Commit::DurableQuickStart, |transaction| rows::store_origin(transaction, &rows.origin))?;
        self.durable_as_of(rows.position.applied);
        self.shared.publish(rows);
        Ok(())
    }

    /// Forgets from now on what is kept for entries that this log has lost.
    pub(crate) fn follow(&mut self, log_base: DurableBase) {
        self.log_base = log_base;
    }

    /// Applies committed entries, in order, in one transaction. Readers see all of them or none.
    ///
    /// # Errors
    /// Any error: the node must stop, and the state is of no use before it is opened again.
    ///
    /// # Panics
    /// If the entries do not follow the applied index.
    pub fn apply(&mut self, entries: &[Entry]) -> Result<AppliedBatch, ApplyError> {
        self.apply_with(entries, |_| {})
    }

    /// The same, with a look at the state when the key index is ahead of the file.
    ///
    /// # Errors
    /// As [`StateStore::apply`].
    ///
    /// # Panics
    /// As [`StateStore::apply`].
    #[cfg(feature = "testing")]
    pub fn apply_seen(&mut self, entries: &[Entry], look: impl FnOnce(&Self)) -> Result<AppliedBatch, ApplyError> {
        self.apply_with(entries, look)
    }

    fn apply_with(&mut self, entries: &[Entry], look: impl FnOnce(&Self)) -> Result<AppliedBatch, ApplyError> {
        let commands = decode(entries)?;
        let shared = self.shared.clone();
        let _batch = shared.begin_batch();
        let (database, mut rows) = self.current();
        database.check()?;
        let mut records = BatchRecords::new(RecordReader::new(&database.read()?)?);
        let first = LogIndex(rows.position.applied.0 + 1);
        let applied_before = (rows.position.applied, rows.position.term);
        let room = AnswerRoom::new(MAX_ANSWER_BYTES, MAX_ANSWERS_BYTES);
        let mut results = Vec::with_capacity(entries.len());
        let mut revisions = Vec::with_capacity(entries.len());
        let mut membership_changed = false;
        {
            let mut inner = shared.write();
            for (entry, mut command) in entries.iter().zip(commands) {
                if mutant!(AppliesByBatch) && entry.index != entries[entries.len() - 1].index {
                    command = command.filter(|envelope| !matches!(envelope.command, quorate_kv::Command::Compact(_)));
                }
                let follows = entry.index.0 == rows.position.applied.0 + 1 && entry.term >= rows.position.term;
                assert!(follows, "entry {} of term {} is applied after {:?}", entry.index, entry.term, rows.position);
                let result = apply_entry(&mut inner.key_space, &mut records, entry, command, &room)
                    .inspect_err(|error| database.poison(error.to_string()))?;
                if let Payload::Membership(membership) = &entry.payload
                    && !mutant!(ImageOfOldMembership)
                {
                    rows.membership = (entry.index, membership.clone());
                    membership_changed = true;
                }
                rows.position.applied = entry.index;
                rows.position.term = entry.term;
                results.push(result);
                revisions.push(inner.key_space.revision());
            }
            rows.position.key_space = inner.key_space.meta();
        }
        look(self);
        let batch = records.into_batch();
        let before = rows.position.totals;
        let log_base = self.log_base.index();
        let totals = database.write(Commit::Deferred, |transaction| {
            let mut totals = before;
            store_records(transaction, &batch.records, &mut totals)?;
            store_rows(transaction, &batch.rows)?;
            if membership_changed {
                rows::store_membership(transaction, &rows.membership)?;
            }
            if !revisions.is_empty() {
                revisions::store(transaction, first, &revisions, log_base)?;
            }
            let mut stored = Position { totals, ..rows.position };
            if mutant!(AppliedIndexApart) {
                (stored.applied, stored.term) = applied_before;
            }
            rows::store_position(transaction, &stored)?;
            Ok(totals)
        })?;
        rows.position.totals = totals;
        self.dirty_bytes += batch.written_bytes();
        let (last, term) = (rows.position.applied, rows.position.term);
        shared.publish(rows);
        Ok(AppliedBatch { last, term, results })
    }

    /// Makes everything applied durable. The answer is how far the log may be cut.
    ///
    /// # Errors
    /// [`WriteError::DiskFull`]: nothing was written, try again later. Any other error: the node must stop.
    pub fn checkpoint(&mut self) -> Result<LogIndex, WriteError> {
        let (database, rows) = self.current();
        database.check_space(&*self.disk, self.checkpoint_bytes())?;
        self.make_durable(&database, &rows.position)?;
        Ok(self.durable_applied)
    }

    /// Whether the next checkpoint is better made at once: it still fits, and takes half of the room that there is for it. One that
    /// found no room once would want more each time, and find none before space is freed.
    ///
    /// # Errors
    /// Any error: the node must stop.
    pub fn is_checkpoint_pressing(&self) -> Result<bool, WriteError> {
        let free_bytes = self.shared.read().database.free_bytes(&*self.disk)?;
        let (needed, reserve) = (self.checkpoint_bytes(), self.shared.options.reserve_bytes);
        Ok(needed <= free_bytes && needed - reserve >= (free_bytes - reserve) / 2)
    }

    /// Switches to a received snapshot, durably. Until the switch the old state is as it was.
    ///
    /// The caller then resets the log to the snapshot's position; if it dies before that, [`crate::StoreOptions::open`]
    /// does so at the next start.
    ///
    /// # Errors
    /// Any error: the node must stop.
    ///
    /// # Panics
    /// If the snapshot is older than the state: it would take back what was applied.
    pub fn install(&mut self, received: ReceivedSnapshot) -> Result<SnapshotMeta, WriteError> {
        let shared = self.shared.clone();
        let _batch = shared.begin_batch();
        let (current, rows) = self.current();
        current.check()?;
        let (old, new) = (rows.position.applied, received.rows.position.applied);
        assert!(new >= old, "a snapshot of entry {new} would take back what was applied up to {old}");
        received.publish().inspect_err(|error| current.poison(error.to_string()))?;
        let ReceivedSnapshot { database, key_space, rows: received_rows, .. } = received;
        let meta = received_rows.snapshot_meta();
        self.durable_as_of(received_rows.position.applied);
        // The old file has no name any more; it goes with its last reader.
        drop(shared.replace(Inner { database: Arc::new(database), key_space, rows: received_rows, generation: 0 }));
        // The image is of the old file, and says so; it only takes space.
        if let Err(error) = index_image::remove(&*self.disk) {
            tracing::warn!(%error, "the index image of the replaced state cannot be removed");
        }
        Ok(meta)
    }

    /// [`StateView::snapshot`].
    ///
    /// # Errors
    /// [`SnapshotError::Refused`] on a node that belongs to no cluster.
    pub fn snapshot(&self) -> Result<SnapshotSource, SnapshotError> {
        self.view().snapshot()
    }

    /// [`StateView::receive_snapshot`].
    ///
    /// # Errors
    /// If the new file cannot be made.
    pub fn receive_snapshot(&self, expected: u128) -> Result<SnapshotSink, SnapshotError> {
        self.view().receive_snapshot(expected)
    }

    /// Figures; cheap.
    pub fn stats(&self) -> StateStats {
        let inner = self.shared.read();
        StateStats {
            totals: inner.rows.position.totals,
            dirty_bytes: self.dirty_bytes,
            durable_applied: self.durable_applied,
            checkpoint_bytes: self.checkpoint_bytes(),
            file: inner.database.counts(),
        }
    }

    /// Bytes of pages in use. Walks the whole file: for tests and offline inspection.
    ///
    /// # Errors
    /// Any error: the node must stop.
    pub fn measure_allocated_bytes(&self) -> Result<u64, WriteError> {
        self.current().0.measure_allocated_bytes()
    }

    /// Makes everything durable and writes the index image, so that the next start is fast.
    ///
    /// # Errors
    /// If the checkpoint fails; the log still has what is lost.
    pub fn close(mut self) -> Result<(), WriteError> {
        self.checkpoint()?;
        if let Err(error) = self.view().write_index_image() {
            tracing::warn!(%error, "no index image could be written; the next start takes longer");
        }
        Ok(())
    }

    /// Panics if an invariant is broken. Walks the index.
    pub fn check(&self) {
        let inner = self.shared.read();
        inner.key_space.check();
        assert!(self.durable_applied <= inner.rows.position.applied);
        assert_eq!(inner.key_space.meta(), inner.rows.position.key_space);
    }

    /// Puts the state under another cluster: for offline recovery.
    pub(crate) fn take_over(
        &mut self,
        cluster_id: u128,
        membership: Arc<Membership>,
        revision_bump: i64,
    ) -> Result<SnapshotMeta, WriteError> {
        let (database, mut rows) = self.current();
        rows.origin.cluster_id = Some(cluster_id);
        rows.membership = (rows.position.applied, membership);
        rows.position.key_space = rows.position.key_space.raised(revision_bump);
        database.write(Commit::DurableQuickStart, |transaction| rows.store(transaction))?;
        let meta = rows.snapshot_meta();
        self.shared.publish(rows);
        Ok(meta)
    }

    /// What must be free for a checkpoint.
    fn checkpoint_bytes(&self) -> u64 {
        // Each dirty page is written whole; twice the record bytes covers the half-full ones.
        self.shared.options.reserve_bytes + 2 * self.dirty_bytes + self.pruned_bytes
    }

    /// Makes durable what was committed, as of `position`. What it takes on the disk was looked at before.
    fn make_durable(&mut self, database: &Database, position: &Position) -> Result<(), WriteError> {
        if mutant!(AppliedIndexApart) {
            database.write(Commit::DurableQuickStart, |_| Ok(()))?;
        }
        database.write(Commit::DurableQuickStart, |transaction| rows::store_position(transaction, position))?;
        self.durable_as_of(position.applied);
        Ok(())
    }

    fn durable_as_of(&mut self, applied: LogIndex) {
        (self.durable_applied, self.dirty_bytes, self.pruned_bytes) = (applied, 0, 0);
    }

    fn current(&self) -> (Arc<Database>, StateRows) {
        let inner = self.shared.read();
        (inner.database.clone(), inner.rows.clone())
    }
}

impl Drop for StateStore {
    fn drop(&mut self) {
        // Whoever opens the directory next may use the name, and an image on its way in may outlive this.
        self.shared.image_name.give_away();
    }
}

fn decode(entries: &[Entry]) -> Result<Vec<Option<Envelope>>, ApplyError> {
    let decode = |entry: &Entry| match &entry.payload {
        Payload::Noop | Payload::Membership(_) => Ok(None),
        Payload::Command(bytes) => quorate_wire::decode_envelope(bytes)
            .map(Some)
            .map_err(|source| ApplyError::UnknownEntry { index: entry.index, source }),
    };
    entries.iter().map(decode).collect()
}

fn apply_entry(
    key_space: &mut KeySpace,
    records: &mut BatchRecords,
    entry: &Entry,
    command: Option<Envelope>,
    room: &AnswerRoom,
) -> Result<AppliedEntry, ApplyError> {
    let (index, term) = (entry.index, entry.term);
    let Some(Envelope { origin, incarnation, sequence, actor, command }) = command else {
        return Ok(AppliedEntry { index, term, origin: None, outcome: None });
    };
    let outcome = key_space.apply_for(records, &actor, &command, room)?;
    Ok(AppliedEntry { index, term, origin: Some((origin, incarnation, sequence)), outcome: Some(outcome) })
}

/// Makes an empty state, whole and durable before it has its name.
fn create(disk: &dyn Disk, cache_bytes: usize) -> Result<Database, OpenError> {
    let database = Database::create(disk, STATE_FILE_NEW, STATE_FILE, cache_bytes)?;
    database.write(Commit::DurableQuickStart, |transaction| {
        transaction.open_table(RECORDS)?;
        transaction.open_table(ROWS)?;
        transaction.open_table(REVISIONS)?;
        StateRows::empty().store(transaction)
    })?;
    index_image::forget(disk).map_err(|error| OpenError::io(INDEX_FILE, error))?;
    database.publish(disk, STATE_FILE_NEW)?;
    Ok(database)
}
