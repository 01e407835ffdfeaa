//! Reading the state from any thread while one thread writes it.
//!
//! Owns [`Shared`], the state that readers and the writer meet at, and [`StateView`], the readers' handle.
//!
//! How a read is atomic: under the index lock a reader notes the revision whose records are in the file, opens a read
//! transaction, and walks the index at that revision; then it lets go and fetches the records. The writer applies a
//! batch to the index under the lock, writes the file without it, and takes it again only to raise the visible revision.
//! The index keeps the versions before, so a reader in between is served by those.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use quorate_kv::auth::AttachedKeys;
use quorate_kv::{
    Alarms, AuthState, ChunkSize, ClusterTime, Command, Digest, DueLease, KeySpace, KeyValue, KvError, LeaseSummary,
    LeaseView, Overtaken, RangeRequest, RangeResponse, RangeStream, RationedReader, ReadRecords, Record, RecordKey,
    Revision, Step, StreamEnd, TxnRequest, TxnResponse,
};
use quorate_raft::{LogIndex, Membership};

use super::records::{RecordReader, RecordTotals};
use super::revision_hash::RevisionHasher;
use super::rows::StateRows;
use super::{StateOptions, index_image, revisions};
use crate::database::Database;
use crate::disk::Disk;
use crate::error::{RationedReadError, ReadError, SnapshotError};
use crate::snapshot::{ImageName, SnapshotSink, SnapshotSource};

/// Keys of the index walked under one hold of its lock.
const STEP_KEYS: usize = 4096;

/// Keys of the index, dead ones included, that are walked for a small range: some ten microseconds.
const SMALL_RANGE_KEYS: usize = 256;

/// Records fetched for a small range.
const SMALL_RANGE_RECORDS: usize = 64;

/// Bytes a chunk of a streamed range is meant to have.
const CHUNK_TARGET_BYTES: usize = 512 << 10;

/// State of one file, and the index over it.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) database: Arc<Database>,
    /// Ahead of `rows` while a batch is on its way into the file.
    pub(crate) key_space: KeySpace,
    /// As stored: what readers see.
    pub(crate) rows: StateRows,
    /// Rises when a snapshot replaces the file.
    pub(crate) generation: u64,
}

impl Inner {
    pub(crate) fn visible(&self) -> Revision {
        self.rows.position.key_space.revision
    }

    pub(crate) fn records(&self) -> Result<RecordReader, ReadError> {
        RecordReader::new(&self.database.read()?)
    }
}

/// What readers and the writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: StateOptions,
    /// For the image that is on its way in.
    pub(crate) image_name: Arc<ImageName>,
    inner: RwLock<Inner>,
    /// Held by the writer from the moment the index is ahead of the file until it is not.
    batch: Mutex<()>,
    applied: AtomicU64,
}

impl Shared {
    pub(crate) fn new(disk: Arc<dyn Disk>, options: StateOptions, inner: Inner) -> Self {
        let image_name = ImageName::new(disk.clone());
        let applied = AtomicU64::new(inner.rows.position.applied.0);
        Self { disk, options, image_name, inner: RwLock::new(inner), batch: Mutex::new(()), applied }
    }

    // A panic under one of these locks is a broken invariant, and the process goes down with it; a test that catches it
    // reads what was there.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin_batch(&self) -> MutexGuard<'_, ()> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes rows visible, the file's and the index's matching ones.
    pub(crate) fn publish(&self, rows: StateRows) {
        let mut inner = self.write();
        let applied = rows.position.applied.0;
        inner.rows = rows;
        self.applied.store(applied, Ordering::Release);
    }

    pub(crate) fn replace(&self, mut inner: Inner) -> Arc<Database> {
        let mut current = self.write();
        inner.generation = current.generation + 1;
        self.applied.store(inner.rows.position.applied.0, Ordering::Release);
        std::mem::replace(&mut *current, inner).database
    }
}

/// A handle for reading the state; cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct StateView {
    shared: Arc<Shared>,
}

impl StateView {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The last applied index that reads reflect. Never waits for a lock.
    pub fn applied(&self) -> LogIndex {
        LogIndex(self.shared.applied.load(Ordering::Acquire))
    }

    /// Current revision.
    pub fn revision(&self) -> Revision {
        self.shared.read().visible()
    }

    /// Oldest readable revision.
    pub fn compact_revision(&self) -> Revision {
        self.shared.read().rows.position.key_space.compact_revision
    }

    /// Revision up to which this node has physically removed what compaction hides.
    pub fn pruned(&self) -> Revision {
        self.shared.read().rows.position.key_space.pruned
    }

    /// Hash of everything applied, and the index it belongs to: equal on all nodes at equal indexes.
    pub fn digest(&self) -> (LogIndex, Digest) {
        let inner = self.shared.read();
        (inner.rows.position.applied, inner.rows.position.key_space.digest)
    }

    /// The cluster clock as the last applied entry set it, and when the first lease runs out.
    pub fn lease_summary(&self) -> LeaseSummary {
        self.shared.read().key_space.lease_summary()
    }

    /// A lease with its keys, if it is there.
    pub fn lease(&self, id: i64) -> Option<LeaseView> {
        self.shared.read().key_space.lease(id)
    }

    /// A lease without its keys, if it is there.
    pub fn lease_without_keys(&self, id: i64) -> Option<LeaseView> {
        self.shared.read().key_space.lease_without_keys(id)
    }

    /// A lease with its keys as far as `allow` says, which is asked for the length of each.
    ///
    /// # Errors
    /// [`RationedReadError::NotAllowed`].
    pub fn lease_within(&self, id: i64, allow: &dyn Fn(usize) -> bool) -> Result<Option<LeaseView>, RationedReadError> {
        self.shared.read().key_space.lease_within(id, allow)
    }

    /// Ids of all leases, those first that run out first, if `allow` says yes to their number.
    ///
    /// # Errors
    /// [`RationedReadError::NotAllowed`].
    pub fn leases_within(&self, allow: &dyn Fn(usize) -> bool) -> Result<Vec<i64>, RationedReadError> {
        let inner = self.shared.read();
        if !allow(inner.key_space.lease_count()) {
            return Err(RationedReadError::NotAllowed);
        }
        Ok(inner.key_space.leases_by_deadline())
    }

    /// Ids of all leases, those first that run out first.
    pub fn leases_by_deadline(&self) -> Vec<i64> {
        self.shared.read().key_space.leases_by_deadline()
    }

    /// Number of leases.
    pub fn lease_count(&self) -> usize {
        self.shared.read().key_space.lease_count()
    }

    /// Leases whose deadline has come by `until`, the oldest deadline first, at most `max` of them.
    pub fn due_leases(&self, until: ClusterTime, max: usize) -> Vec<DueLease> {
        self.shared.read().key_space.due_leases(until, max)
    }

    /// The configuration applied last, and where it was logged.
    pub fn membership(&self) -> (LogIndex, Arc<Membership>) {
        self.shared.read().rows.membership.clone()
    }

    /// The alarms that stand, as the newest applied entry left them.
    pub fn alarms(&self) -> Alarms {
        self.shared.read().key_space.alarms().clone()
    }

    /// Whether the alarms let a command through.
    ///
    /// # Errors
    /// [`KvError::NoSpace`] or [`KvError::Corrupt`].
    pub fn admit(&self, command: &Command) -> Result<(), KvError> {
        self.shared.read().key_space.alarms().admit(command)
    }

    /// Users, roles and the switch, as the newest applied entry left them.
    pub fn auth(&self) -> Arc<AuthState> {
        self.shared.read().key_space.auth().clone()
    }

    /// Keys in the index, deleted ones not yet removed included.
    pub fn key_count(&self) -> usize {
        self.shared.read().key_space.key_count()
    }

    /// Records stored, and their bytes: what a quota counts.
    pub fn totals(&self) -> RecordTotals {
        self.shared.read().rows.position.totals
    }

    /// Answers a range.
    ///
    /// # Errors
    /// The inner error refuses the request; the outer is a failure of this node's storage.
    pub fn range(&self, request: &RangeRequest) -> Result<Result<RangeResponse, KvError>, ReadError> {
        self.range_within(request, &|_| true).map_err(|error| match error {
            RationedReadError::Read(error) => error,
            RationedReadError::NotAllowed => unreachable!("everything is allowed"),
        })
    }

    /// Answers a range as far as `allow` says, which is asked for the memory of each record.
    ///
    /// # Errors
    /// As [`StateView::range`], and [`RationedReadError::NotAllowed`].
    pub fn range_within(
        &self,
        request: &RangeRequest,
        allow: &dyn Fn(usize) -> bool,
    ) -> Result<Result<RangeResponse, KvError>, RationedReadError> {
        let inner = self.shared.read();
        let mut plan = match inner.key_space.begin_range(request, inner.visible()) {
            Ok(plan) => plan,
            Err(refused) => return Ok(Err(refused)),
        };
        let mut records = inner.records()?;
        let mut inner = Some(inner);
        loop {
            let held = inner.take().unwrap_or_else(|| self.shared.read());
            let revision = plan.revision();
            let step = match plan.advance(&held.key_space, held.visible(), STEP_KEYS) {
                Ok(step) => step,
                Err(refused) => return Ok(Err(refused)),
            };
            if plan.revision() != revision {
                // Compaction overtook the walk, and it began anew at a revision the older transaction may not have.
                records = held.records()?;
            }
            if step == Step::Done {
                break;
            }
        }
        plan.finish(&RationedReader::new(&records, allow)).map(Ok)
    }

    /// Answers a range if that is little work whatever the store holds: few keys of the index, few records, and no more
    /// bytes than `allow` says. `None` otherwise.
    ///
    /// # Errors
    /// As [`StateView::range_within`].
    pub fn range_if_small(
        &self,
        request: &RangeRequest,
        allow: &dyn Fn(usize) -> bool,
    ) -> Result<Option<Result<RangeResponse, KvError>>, RationedReadError> {
        let inner = self.shared.read();
        let visible = if mutant!(SmallRangeSeesBatch) { inner.key_space.revision() } else { inner.visible() };
        let mut plan = match inner.key_space.begin_range(request, visible) {
            Ok(plan) => plan,
            Err(refused) => return Ok(Some(Err(refused))),
        };
        match plan.advance(&inner.key_space, visible, SMALL_RANGE_KEYS) {
            Ok(Step::Done) if plan.records() <= SMALL_RANGE_RECORDS => {}
            Ok(_) => return Ok(None),
            Err(refused) => return Ok(Some(Err(refused))),
        }
        let records = inner.records()?;
        drop(inner);
        plan.finish(&RationedReader::new(&records, allow)).map(|answer| Some(Ok(answer)))
    }

    /// Answers a transaction of ranges only, as far as `allow` says, which is asked for the memory of each record.
    ///
    /// # Errors
    /// The inner error refuses the request; the outer is a failure of this node's storage or [`RationedReadError::NotAllowed`].
    ///
    /// # Panics
    /// If the transaction is not read-only.
    pub fn read_txn_within(
        &self,
        txn: &TxnRequest,
        allow: &dyn Fn(usize) -> bool,
    ) -> Result<Result<TxnResponse, KvError>, RationedReadError> {
        'anew: loop {
            let inner = self.shared.read();
            let records = inner.records()?;
            let records = RationedReader::new(&records, allow);
            let mut plan = match inner.key_space.begin_read_txn(&records, txn, inner.visible())? {
                Ok(plan) => plan,
                Err(refused) => return Ok(Err(refused)),
            };
            let mut inner = Some(inner);
            loop {
                let held = inner.take().unwrap_or_else(|| self.shared.read());
                match plan.advance(&held.key_space, STEP_KEYS) {
                    Ok(Step::More) => {}
                    Ok(Step::Done) => break,
                    Err(Overtaken) => continue 'anew,
                }
            }
            return plan.finish(&records).map(Ok);
        }
    }

    /// Begins a range that is answered in chunks, each in a transaction of its own: a slow client holds nothing up.
    ///
    /// # Errors
    /// If the revision is compacted or in the future.
    pub fn stream(&self, request: &RangeRequest) -> Result<StateStream, KvError> {
        let inner = self.shared.read();
        let stream = inner.key_space.begin_stream(request, inner.visible())?;
        let generation = inner.generation;
        drop(inner);
        Ok(StateStream {
            shared: self.shared.clone(),
            stream,
            size: ChunkSize::new(CHUNK_TARGET_BYTES),
            generation,
            ended: false,
        })
    }

    /// Begins to read an image of the whole state. Physical compaction waits until it is dropped.
    ///
    /// # Errors
    /// [`SnapshotError::Refused`] on a node that belongs to no cluster.
    pub fn snapshot(&self) -> Result<SnapshotSource, SnapshotError> {
        SnapshotSource::new(self)
    }

    /// Begins to hash the records as of a revision; 0 or less for the current one.
    ///
    /// # Errors
    /// The inner error refuses the revision; the outer is a failure of this node's storage.
    pub fn hash_at(&self, revision: i64) -> Result<Result<RevisionHasher, KvError>, ReadError> {
        RevisionHasher::new(self, revision)
    }

    /// Begins to take in an image of cluster `expected`, beside the state in use; one at a time.
    ///
    /// # Errors
    /// If the new file cannot be made.
    pub fn receive_snapshot(&self, expected: u128) -> Result<SnapshotSink, SnapshotError> {
        SnapshotSink::new(&self.shared.image_name, Some(expected), &self.shared.options)
    }

    /// The record of one change, if it is still there: for watchers that fall behind.
    ///
    /// # Errors
    /// A failure of this node's storage.
    pub fn record(&self, at: RecordKey) -> Result<Option<Record>, ReadError> {
        self.shared.read().records()?.get(at)
    }

    /// The revision after each entry applied lately, for printing the log.
    ///
    /// # Errors
    /// A failure of this node's storage.
    pub fn applied_revisions(&self) -> Result<std::collections::BTreeMap<LogIndex, Revision>, ReadError> {
        let transaction = self.shared.read().database.read()?;
        revisions::read(&transaction)
    }

    /// Writes the image of the key index that makes the next start fast. Reads and writes go on meanwhile.
    ///
    /// # Errors
    /// The disk's. The state is not harmed: without an image the next start takes longer.
    pub fn write_index_image(&self) -> std::io::Result<()> {
        index_image::write(&*self.shared.disk, &self.shared)
    }
}

impl AttachedKeys for StateView {
    fn all_attached(&self, lease: i64, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.shared.read().key_space.all_attached(lease, test)
    }

    /// Under one lock: whoever names many leases must not take it, and give it back, for each.
    fn all_attached_to(&self, leases: &[i64], test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.shared.read().key_space.all_attached_to(leases, test)
    }
}

/// One chunk of a streamed range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamChunk {
    /// Keys in order; may be empty where keys are only counted.
    pub kvs: Vec<KeyValue>,
    /// With the last chunk.
    pub end: Option<StreamEnd>,
}

/// A range that is read chunk by chunk.
#[derive(Debug)]
pub struct StateStream {
    shared: Arc<Shared>,
    stream: RangeStream,
    size: ChunkSize,
    generation: u64,
    ended: bool,
}

impl StateStream {
    /// Revision the keys are read at.
    pub fn revision(&self) -> Revision {
        self.stream.revision()
    }

    /// The next chunk; `None` after the last.
    ///
    /// # Errors
    /// The inner error ends the stream, [`KvError::Compacted`] also if a snapshot replaced the state meanwhile; the outer
    /// is a failure of this node's storage.
    pub fn next_chunk(&mut self) -> Result<Option<Result<StreamChunk, KvError>>, ReadError> {
        if self.ended {
            return Ok(None);
        }
        let inner = self.shared.read();
        if inner.generation != self.generation {
            self.ended = true;
            return Ok(Some(Err(KvError::Compacted)));
        }
        let mut plan = match self.stream.plan_chunk(&inner.key_space, self.size.keys()) {
            Ok(plan) => plan,
            Err(refused) => {
                self.ended = true;
                return Ok(Some(Err(refused)));
            }
        };
        let records = inner.records()?;
        drop(inner);
        let kvs = plan.fetch(&records)?;
        self.size.observe(kvs.len(), kvs.iter().map(KeyValue::bytes).sum());
        let end = plan.end.take();
        self.ended = end.is_some();
        Ok(Some(Ok(StreamChunk { kvs, end })))
    }
}
