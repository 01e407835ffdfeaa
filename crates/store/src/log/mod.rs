//! The Raft log on disk: entries, term and vote, who this node is, and where the log begins.
//!
//! Owns [`LogStore`] and its file. Never reads the key space, and never decides what is committed.
//!
//! Invariants:
//! 1. a call that promises durability returns only after the sync that covers it; entries, term and vote of one call
//!    are in one transaction, so a crash shows all of them or none;
//! 2. the file holds contiguous indexes, terms that never fall, and a commit index within them; a file that does not
//!    is refused at open and never healed by truncation;
//! 3. after a failed write or sync nothing more is written.

mod reader;
mod scan;
mod shape;
mod tables;

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate_raft::{Entry, HardState, Incarnation, LogIndex, Membership, SnapshotMeta, Term};
use quorate_wire::Identity;
use redb::WriteTransaction;

pub use reader::LogReader;
pub(crate) use tables::ENTRIES;
pub use tables::NodeMark;

use crate::database::{Commit, Database, guarded};
use crate::disk::{Disk, FileCounts, LOG_FILE, LOG_FILE_NEW};
use crate::error::{OpenError, ReadError, WriteError};
use crate::meta::{META, MetaRows, put_format};
use crate::seal;
use shape::LogShape;
use tables::{BaseRow, LOG_FORMAT, MetaKey, NodeRow};

/// Prefix entries removed by one call of [`LogStore::truncate_prefix`]: a few milliseconds of the writer's time.
pub const TRUNCATE_STEP_ENTRIES: u64 = 16_384;

/// Bytes that one entry may take beyond its payload: its share of the page copies that a commit writes.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// What a write takes that adds no entry: a few pages of rows, and of redb's own tables. Far less than the reserve of an append, so
/// that a full disk does not keep a log from being cut.
const ROWS_BYTES: u64 = 64 << 10;

/// How a log file is opened.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// redb's page cache. The log is written once and rarely read: small is enough.
    pub cache_bytes: usize,
    /// An append is refused with [`WriteError::DiskFull`] unless this much stays free after it: room for the page
    /// copies of a commit, for the checkpoint of the state, and for whatever else ends a full disk.
    pub reserve_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { cache_bytes: 16 << 20, reserve_bytes: 8 << 20 }
    }
}

/// One write of the Raft core: all of it becomes durable together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogWrite {
    /// Term, vote and commit index from now on.
    pub hard_state: HardState,
    /// They replace everything from `entries[0].index` on. Empty: the hard state alone.
    pub entries: Vec<Entry>,
}

/// What a log held when it was opened: all a node needs to go on from there, but the payloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredLog {
    /// The random name of this data directory.
    pub incarnation: Incarnation,
    /// Cluster and node id, if a cluster has taken this node in.
    pub identity: Option<Identity>,
    /// A verdict on this node.
    pub mark: NodeMark,
    /// Term, vote, commit index.
    pub hard_state: HardState,
    /// The last index before the log and its term.
    pub base: (LogIndex, Term),
    /// The configuration in force at the base, and where it was logged.
    pub base_membership: (LogIndex, Arc<Membership>),
    /// First index of each run of equal terms.
    pub terms: Vec<(LogIndex, Term)>,
    /// The configurations logged after the base.
    pub memberships: Vec<(LogIndex, Arc<Membership>)>,
    /// The last index.
    pub last: LogIndex,
    /// [`Entry::size`] of all its entries, as they were found in the file: what was appended since is not counted.
    pub entry_bytes: u64,
}

/// Figures of the log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStats {
    /// The last index before the log.
    pub base: LogIndex,
    /// The last index.
    pub last: LogIndex,
    /// What was done to the file since it was opened.
    pub file: FileCounts,
}

/// After which entry the log on the disk begins, for whoever keeps something for each of its entries: no loss of power brings back an
/// entry up to it. It only lags behind, and says nothing of anything else in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct DurableBase(Arc<AtomicU64>);

impl DurableBase {
    pub(crate) fn index(&self) -> LogIndex {
        LogIndex(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, base: LogIndex) {
        self.0.store(base.0, Ordering::Relaxed);
    }
}

/// The log. One writer; [`LogStore::reader`] gives handles for other threads.
#[derive(Debug)]
pub struct LogStore {
    disk: Arc<dyn Disk>,
    database: Arc<Database>,
    options: LogOptions,
    node: NodeRow,
    hard_state: HardState,
    shape: LogShape,
    /// See [`RecoveredLog::entry_bytes`].
    entry_bytes: u64,
    durable_base: DurableBase,
}

impl LogStore {
    /// Opens the log, or creates an empty one that is named `new_incarnation`.
    ///
    /// Reads and checks every entry: a few microseconds each.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if the file contradicts itself, [`OpenError::NewerFormat`] if a later release wrote it.
    pub fn open(
        disk: Arc<dyn Disk>,
        new_incarnation: Incarnation,
        options: LogOptions,
    ) -> Result<(Self, RecoveredLog), OpenError> {
        let present = disk.exists(LOG_FILE).map_err(|error| OpenError::io(LOG_FILE, error))?;
        let database = if present {
            Database::open(&*disk, LOG_FILE, options.cache_bytes)?
        } else {
            create(&*disk, new_incarnation, options.cache_bytes)?
        };
        let scan::Scanned { node, hard_state, shape, entry_bytes } = scan::scan(&database.read()?)?;
        shape.check();
        let durable_base = DurableBase::default();
        durable_base.set(shape.base.0);
        let database = Arc::new(database);
        let log = Self { disk, database, options, node, hard_state, shape, entry_bytes, durable_base };
        let recovered = log.recovered();
        Ok((log, recovered))
    }

    /// Whose log this is, as far as one row still tells, whatever has become of the others.
    ///
    /// # Errors
    /// [`OpenError`] if that row cannot be read either.
    pub fn owner(disk: &dyn Disk) -> Result<(Incarnation, Option<Identity>), OpenError> {
        guarded(LOG_FILE, || {
            let database = Database::open(disk, LOG_FILE, 0)?;
            let rows = MetaRows::open(LOG_FILE, &database.read()?)?;
            let node = rows.require(MetaKey::Node.name(), NodeRow::decode)?;
            Ok((node.incarnation, node.identity))
        })
    }

    /// What the log holds now, in the form [`LogStore::open`] gives.
    pub fn recovered(&self) -> RecoveredLog {
        RecoveredLog {
            incarnation: self.node.incarnation,
            identity: self.node.identity,
            mark: self.node.mark.clone(),
            hard_state: self.hard_state,
            base: self.shape.base,
            base_membership: self.shape.base_membership.clone(),
            terms: self.shape.terms(),
            memberships: self.shape.memberships(),
            last: self.shape.last,
            entry_bytes: self.entry_bytes,
        }
    }

    /// Makes several writes durable, in order, in one transaction with one sync.
    ///
    /// # Errors
    /// [`WriteError::DiskFull`]: nothing was written, try again later. Any other error: the node must stop.
    ///
    /// # Panics
    /// If the entries leave a gap or the commit index lies beyond them: a bug of the caller.
    pub fn append(&mut self, writes: &[LogWrite]) -> Result<(), WriteError> {
        let Some(last_write) = writes.last() else { return Ok(()) };
        let tail = net_tail(writes);
        self.check_space(&tail)?;
        let mut shape = self.shape.clone();
        if let Some(first) = tail.first() {
            shape.cut_from(first.index);
        }
        for entry in &tail {
            if let Err(detail) = shape.push(entry) {
                panic!("the log is asked to store what it would refuse to read: {detail}");
            }
        }
        let mut hard_state = last_write.hard_state;
        assert!(hard_state.commit <= shape.last, "commit {} beyond the last entry {}", hard_state.commit, shape.last);
        // A write that was queued before the prefix went may know less of the commit index.
        hard_state.commit = hard_state.commit.max(shape.base.0);

        let conflict = tail.first().filter(|first| first.index <= self.shape.last).map(|first| first.index);
        if mutant!(CommitBeforeEntries) {
            self.database.write(Commit::Durable, |transaction| put_hard_state(transaction, &hard_state))?;
        }
        self.database.write(Commit::Durable, |transaction| {
            put_hard_state(transaction, &hard_state)?;
            store_tail(transaction, conflict, &tail)
        })?;
        self.hard_state = hard_state;
        self.shape = shape;
        self.durable_base.set(self.shape.base.0);
        Ok(())
    }

    /// Entries from `from` on: [`LogReader::entries`].
    ///
    /// # Errors
    /// [`ReadError::Damaged`] as [`LogReader::visit`].
    pub fn entries(&self, from: LogIndex, max_bytes: usize) -> Result<Vec<Entry>, ReadError> {
        self.reader().entries(from, max_bytes)
    }

    /// Shared with this log: it moves as the log does.
    pub(crate) fn durable_base(&self) -> DurableBase {
        self.durable_base.clone()
    }

    /// A handle for reading from another thread.
    pub fn reader(&self) -> LogReader {
        LogReader::new(self.database.clone())
    }

    /// Term of the base or of a stored entry.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.shape.term_at(index)
    }

    /// Removes a prefix, at most [`TRUNCATE_STEP_ENTRIES`] of it; says whether more of it is left.
    ///
    /// Costs no sync: until the next append is durable a crash brings the prefix back, which harms nothing. The
    /// caller must hold a durable state that reflects `up_to`.
    ///
    /// # Errors
    /// [`WriteError::DiskFull`]: nothing was changed, try again later; nothing is lost by a log that is longer than it need be. Any
    /// other error: the node must stop.
    ///
    /// # Panics
    /// If `up_to` is beyond the last entry.
    pub fn truncate_prefix(&mut self, up_to: LogIndex) -> Result<bool, WriteError> {
        assert!(up_to <= self.shape.last, "truncation at {up_to}, last {}", self.shape.last);
        let before = self.shape.base.0;
        if up_to <= before {
            return Ok(false);
        }
        self.check_removal_space()?;
        let step = LogIndex(up_to.0.min(before.0 + TRUNCATE_STEP_ENTRIES));
        let mut shape = self.shape.clone();
        shape.cut_through(step);
        let base = BaseRow { base: shape.base, membership: shape.base_membership.clone() };
        // What was applied is committed, whether or not a write has said so yet.
        let hard_state = HardState { commit: self.hard_state.commit.max(step), ..self.hard_state };
        self.database.write(Commit::Deferred, |transaction| {
            transaction.open_table(ENTRIES)?.retain_in(..=step.0, |_, _| false)?;
            put_hard_state(transaction, &hard_state)?;
            tables::put(transaction, MetaKey::Base, base.encode())
        })?;
        self.hard_state = hard_state;
        self.shape = shape;
        Ok(step < up_to)
    }

    /// Replaces the whole log by the position of an installed snapshot, durably.
    ///
    /// # Errors
    /// [`WriteError::DiskFull`]: nothing was changed. Any error: the node must not go on with this log, which the state has left
    /// behind; tried again, or at the next start, the same call may succeed.
    pub fn reset_to(&mut self, meta: &SnapshotMeta) -> Result<(), WriteError> {
        let shape = LogShape::empty((meta.index, meta.term), (meta.membership_index, meta.membership.clone()));
        let hard_state = HardState {
            // A node that learned of a term from the image has not voted in it.
            vote: self.hard_state.vote.filter(|_| self.hard_state.term >= meta.term),
            term: self.hard_state.term.max(meta.term),
            commit: meta.index,
            promise: self.hard_state.promise,
        };
        self.replace(self.node.clone(), hard_state, shape)
    }

    /// Becomes a member of a cluster that is just being made: identity and first configuration in one durable step.
    ///
    /// # Errors
    /// Any error: the node must stop.
    ///
    /// # Panics
    /// If the node already has another identity, or entries.
    pub fn bootstrap(&mut self, identity: Identity, membership: Arc<Membership>) -> Result<(), WriteError> {
        assert!(self.shape.base.0.0 == 0 && self.shape.last.0 == 0, "bootstrap of a node that has a log");
        let shape = LogShape::empty((LogIndex(0), Term(0)), (LogIndex(0), membership));
        self.replace(self.adopted(identity), self.hard_state, shape)
    }

    /// Adopts the identity a running cluster gave to this node, durably.
    ///
    /// # Errors
    /// Any error: the node must stop.
    ///
    /// # Panics
    /// If the node already has another identity: ids are adopted once.
    pub fn set_identity(&mut self, identity: Identity) -> Result<(), WriteError> {
        let node = self.adopted(identity);
        self.store_node(node)
    }

    /// Records a verdict on this node, durably.
    ///
    /// # Errors
    /// [`WriteError::DiskFull`]: nothing was changed, and the node is not marked. Any error: the node must stop.
    pub fn set_mark(&mut self, mark: NodeMark) -> Result<(), WriteError> {
        self.store_node(NodeRow { mark, ..self.node.clone() })
    }

    /// Figures; cheap.
    pub fn stats(&self) -> LogStats {
        LogStats { base: self.shape.base.0, last: self.shape.last, file: self.database.counts() }
    }

    /// Panics if an invariant is broken.
    pub fn check(&self) {
        self.shape.check();
        assert!(self.hard_state.commit >= self.shape.base.0 && self.hard_state.commit <= self.shape.last);
        assert!(self.hard_state.term >= self.shape.last_term());
    }

    /// The whole content under a new identity: for offline recovery, where the cluster itself is replaced.
    pub(crate) fn take_over(&mut self, identity: Identity, meta: &SnapshotMeta) -> Result<(), WriteError> {
        let shape = LogShape::empty((meta.index, meta.term), (meta.membership_index, meta.membership.clone()));
        let term = self.hard_state.term.max(meta.term);
        let hard_state = HardState { term, vote: None, commit: meta.index, ..self.hard_state };
        let node = NodeRow { identity: Some(identity), mark: NodeMark::None, incarnation: self.node.incarnation };
        self.replace(node, hard_state, shape)
    }

    fn adopted(&self, identity: Identity) -> NodeRow {
        let known = self.node.identity.is_none_or(|known| known == identity);
        assert!(known, "node {:?} is asked to become {identity:?}", self.node.identity);
        NodeRow { identity: Some(identity), ..self.node.clone() }
    }

    fn store_node(&mut self, node: NodeRow) -> Result<(), WriteError> {
        self.database.check_space(&*self.disk, ROWS_BYTES)?;
        self.database.write(Commit::Durable, |transaction| tables::put(transaction, MetaKey::Node, node.encode()))?;
        self.node = node;
        Ok(())
    }

    fn replace(&mut self, node: NodeRow, hard_state: HardState, shape: LogShape) -> Result<(), WriteError> {
        self.check_removal_space()?;
        let base = BaseRow { base: shape.base, membership: shape.base_membership.clone() };
        self.database.write(Commit::Durable, |transaction| {
            transaction.open_table(ENTRIES)?.retain(|_, _| false)?;
            tables::put(transaction, MetaKey::Node, node.encode())?;
            tables::put(transaction, MetaKey::Base, base.encode())?;
            put_hard_state(transaction, &hard_state)
        })?;
        self.node = node;
        self.hard_state = hard_state;
        self.shape = shape;
        self.entry_bytes = 0;
        self.check();
        Ok(())
    }

    /// Looks for room to give room back: entries that go leave their pages as they are, and redb notes which of them are free.
    fn check_removal_space(&self) -> Result<(), WriteError> {
        /// Eight bytes for the number of a page of four KiB.
        const PAGE_BYTES_A_NOTE_BYTE: u64 = 512;
        let note_bytes = self.database.counts().len_bytes / PAGE_BYTES_A_NOTE_BYTE;
        self.database.check_space(&*self.disk, ROWS_BYTES + note_bytes)
    }

    fn check_space(&self, tail: &[&Entry]) -> Result<(), WriteError> {
        let payload: u64 = tail.iter().map(|entry| entry.size() as u64 + ENTRY_OVERHEAD_BYTES).sum();
        self.database.check_space(&*self.disk, self.options.reserve_bytes + payload)
    }
}

/// What several writes amount to: the entries of all, later ones replacing earlier ones.
fn net_tail(writes: &[LogWrite]) -> Vec<&Entry> {
    let mut tail: Vec<&Entry> = Vec::new();
    for write in writes {
        if let Some(first) = write.entries.first() {
            let kept = tail.partition_point(|entry| entry.index < first.index);
            tail.truncate(kept);
            tail.extend(&write.entries);
        }
    }
    tail
}

fn put_hard_state(transaction: &WriteTransaction, hard_state: &HardState) -> Result<(), redb::Error> {
    let mut row = seal::unsealed();
    row.extend_from_slice(&quorate_wire::encode_hard_state(hard_state));
    tables::put(transaction, MetaKey::HardState, row)
}

/// Writes the tail in index order, after removing what it replaces.
fn store_tail(transaction: &WriteTransaction, conflict: Option<LogIndex>, tail: &[&Entry]) -> Result<(), redb::Error> {
    if tail.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(ENTRIES)?;
    if let Some(first) = conflict {
        table.retain_in(first.0.., |_, _| false)?;
    }
    let mut record = Vec::new();
    let mut cursor = table.upper_bound_mut(Bound::<u64>::Unbounded)?;
    for entry in tail {
        record.clear();
        quorate_wire::encode_entry(entry, &mut record);
        cursor.insert_before(entry.index.0, record.as_slice())?;
    }
    cursor.close()?;
    Ok(())
}

/// Makes an empty log, whole and durable before it has its name.
fn create(disk: &dyn Disk, incarnation: Incarnation, cache_bytes: usize) -> Result<Database, OpenError> {
    let database = Database::create(disk, LOG_FILE_NEW, LOG_FILE, cache_bytes)?;
    let node = NodeRow { incarnation, identity: None, mark: NodeMark::None };
    let base = BaseRow { base: (LogIndex(0), Term(0)), membership: (LogIndex(0), Arc::default()) };
    database.write(Commit::Durable, |transaction| {
        transaction.open_table(ENTRIES)?;
        put_format(&mut transaction.open_table(META)?, LOG_FORMAT)?;
        tables::put(transaction, MetaKey::Node, node.encode())?;
        tables::put(transaction, MetaKey::Base, base.encode())?;
        put_hard_state(transaction, &HardState::default())
    })?;
    database.publish(disk, LOG_FILE_NEW)?;
    Ok(database)
}
