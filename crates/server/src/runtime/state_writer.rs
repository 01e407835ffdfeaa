//! The state writer: one thread that owns the [`StateStore`] and applies committed entries to it.
//!
//! Applies everything queued, then uses idle moments for what is not urgent: the checkpoint that makes the state durable, and the
//! physical part of compactions.
//!
//! Invariants:
//! 1. entries are applied in the order they came, each batch as it was cut: nodes compare their state hashes at the ends of
//!    batches;
//! 2. after a failed write nothing is applied or reported;
//! 3. the state not yet durable is bounded by [`MAX_DIRTY_BYTES`] and [`CHECKPOINT_INTERVAL`], and by half of the free space: more
//!    might find no room ever after;
//! 4. a received image keeps its place on the disk until consensus has decided on it: it may be about to become the state.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use quorate_kv::Revision;
use quorate_node::watch::Batch;
use quorate_node::{AppliedResult, AppliedState, AppliedSummary};
use quorate_raft::{Entry, LogIndex, SnapshotMeta};
use quorate_store::{ReceivedSnapshot, SnapshotSink, StateStore, StateView, WriteError};
use tokio::sync::oneshot;

use super::failure::Failure;
use super::mailbox::{Mailbox, Wake};
use crate::metrics::Metrics;

/// The state is made durable this often while it changes.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// The state is made durable earlier once this many entry bytes were applied.
const MAX_DIRTY_BYTES: usize = 32 * 1024 * 1024;
/// Keys looked at by one step of a physical compaction: a few milliseconds.
const COMPACT_STEP_KEYS: usize = 2_000;
/// Under constant load one compaction step is squeezed in after this many wakes.
const COMPACT_EVERY_WAKES: u32 = 16;

/// What the state writer is asked to do.
#[derive(Debug)]
pub(crate) enum StateJob {
    /// Apply, then report.
    Apply { entries: Vec<Entry> },
    /// Switch to the received image, then tell the log writer.
    Install { meta: SnapshotMeta, installed: mpsc::Sender<AppliedState> },
    /// A whole, verified image; [`StateJob::Install`] or [`StateJob::Decline`] follows.
    Keep { image: Box<ReceivedSnapshot> },
    /// Consensus does not want the kept image.
    Decline,
    /// Begin to receive an image of this cluster.
    OpenSink { expected: u128, reply: oneshot::Sender<Result<SnapshotSink, String>> },
}

/// What the state writer reports.
pub(crate) trait StateReports: Send + 'static {
    /// Whether anybody wants to know what changed. Asked after it is visible to readers.
    fn is_watched(&self) -> bool;
    /// This changed, and readers see it.
    fn changed(&self, batch: Batch);
    /// A batch was applied.
    fn applied(&self, summary: AppliedSummary);
    /// The state is durable up to `index`.
    fn checkpoint_done(&self, index: LogIndex);
    /// Called about once a second and after each checkpoint, to look at space.
    fn look_at_space(&self, store: &StateStore);
    /// Nothing can be applied any more: the node must stop.
    fn state_failed(&self, failure: Failure);
}

/// Runs until `jobs` is closed and gives the store back. `None` after a failure.
pub(crate) fn run<R: StateReports>(
    store: StateStore,
    jobs: &Mailbox<StateJob>,
    reports: &R,
    metrics: &Arc<Metrics>,
) -> Option<StateStore> {
    let mut writer = Writer {
        view: store.view(),
        store,
        reports,
        metrics,
        kept: None,
        dirty_bytes: 0,
        dirty: false,
        checkpoint_at: Instant::now(),
        looked_at: Instant::now(),
        compacting: true,
    };
    let mut taken = Vec::new();
    let mut wakes = 0_u32;
    loop {
        let deadline = if writer.compacting { Instant::now() } else { writer.next_duty() };
        let wake = jobs.take(Some(deadline), &mut taken);
        let done = match wake {
            Wake::Closed => return Some(writer.store),
            Wake::Items => taken.drain(..).try_for_each(|job| writer.carry_out(job)),
            Wake::Deadline => Ok(()),
        };
        wakes = wakes.wrapping_add(1);
        let idle = wake == Wake::Deadline;
        let done = done.and_then(|()| writer.housekeeping(idle, wakes));
        if let Err(failure) = done {
            reports.state_failed(failure);
            return None;
        }
    }
}

struct Writer<'a, R> {
    store: StateStore,
    view: StateView,
    reports: &'a R,
    metrics: &'a Arc<Metrics>,
    /// An image that consensus has not decided on.
    kept: Option<Box<ReceivedSnapshot>>,
    dirty_bytes: usize,
    dirty: bool,
    /// Last checkpoint.
    checkpoint_at: Instant,
    /// Last look at the space.
    looked_at: Instant,
    /// A compaction may have left records to remove.
    compacting: bool,
}

impl<R: StateReports> Writer<'_, R> {
    fn carry_out(&mut self, job: StateJob) -> Result<(), Failure> {
        match job {
            StateJob::Apply { entries } => {
                #[cfg(feature = "test-faults")]
                let entries = super::faults::misapply(entries);
                self.apply(&entries)?;
                // Here too: a backlog brings many batches at once. A step of compaction looks at the room by itself.
                if self.is_checkpoint_due() || self.store.is_checkpoint_pressing()? {
                    self.checkpoint()?;
                }
                Ok(())
            }
            StateJob::Install { meta, installed } => self.install(&meta, &installed),
            StateJob::Keep { image } => {
                assert!(self.kept.is_none(), "no image is taken in while one is kept");
                self.kept = Some(image);
                Ok(())
            }
            StateJob::Decline => {
                self.kept = None;
                Ok(())
            }
            StateJob::OpenSink { expected, reply } => {
                // Whoever asked may have given up.
                let _ = reply.send(self.open_sink(expected));
                Ok(())
            }
        }
    }

    /// An image on its way in takes the place on the disk of one that was kept: the kept one must be out of use.
    fn open_sink(&self, expected: u128) -> Result<SnapshotSink, String> {
        if self.kept.is_some() {
            return Err("another snapshot waits to be installed".to_owned());
        }
        self.store.receive_snapshot(expected).map_err(|error| error.to_string())
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<(), Failure> {
        let begun = Instant::now();
        let before = self.view.revision();
        let mut applied = self.store.apply(entries)?;
        let storage = &self.metrics.storage;
        let took = begun.elapsed();
        storage.apply_seconds.observe(took.as_secs_f64());
        self.metrics.etcd.batch_applied(took);
        applied
            .results
            .iter()
            .filter_map(|entry| entry.outcome.as_ref())
            .for_each(|done| self.metrics.etcd.applied(done));
        storage.apply_batch_entries.observe(entries.len() as f64);
        self.dirty = true;
        self.dirty_bytes += entries.iter().map(Entry::size).sum::<usize>();
        self.compacting |= self.view.pruned() < self.view.compact_revision();
        if self.reports.is_watched() {
            // Before the requests are answered: a watch created after its client's write begins after it.
            let outcomes = applied.results.iter_mut().filter_map(|entry| entry.outcome.as_mut());
            let changes = outcomes.flat_map(|outcome| std::mem::take(&mut outcome.changes)).collect();
            self.reports.changed(Batch { changes, ..self.unknown_changes(before) });
        }
        let results = applied.results.into_iter().filter_map(|entry| {
            let (origin, session, sequence) = entry.origin?;
            let outcome = entry.outcome?;
            self.metrics.lease.applied(&outcome);
            Some(AppliedResult { index: entry.index, origin, session, sequence, outcome })
        });
        let summary = AppliedSummary { results: results.collect(), state: self.applied_state() };
        self.reports.applied(summary);
        Ok(())
    }

    /// What is to be read back if somebody wants to know it.
    fn unknown_changes(&self, before: Revision) -> Batch {
        let (through, compacted) = (self.view.revision(), self.view.compact_revision());
        Batch { before, through, compacted, changes: Vec::new() }
    }

    /// Where the state stands, as the node counts it.
    fn applied_state(&self) -> AppliedState {
        let position = self.store.position();
        AppliedState {
            index: position.index,
            term: position.term,
            revision: self.view.revision(),
            digest: self.view.digest().1,
            leases: self.view.lease_summary(),
        }
    }

    fn install(&mut self, meta: &SnapshotMeta, installed: &mpsc::Sender<AppliedState>) -> Result<(), Failure> {
        let image = self.kept.take().ok_or_else(|| "an image is to be installed that was never received".to_owned())?;
        self.store.install(*image)?;
        if self.reports.is_watched() {
            self.reports.changed(self.unknown_changes(self.view.revision()));
        }
        let state = self.applied_state();
        assert_eq!(state.index, meta.index, "the installed image is the one consensus knows");
        self.dirty = false;
        self.dirty_bytes = 0;
        self.compacting = true;
        // The log writer has ended only if the node has.
        let _ = installed.send(state);
        Ok(())
    }

    /// When something is to do without any job.
    fn next_duty(&self) -> Instant {
        let look = self.looked_at + CHECKPOINT_INTERVAL;
        if self.dirty { look.min(self.checkpoint_at + CHECKPOINT_INTERVAL) } else { look }
    }

    fn housekeeping(&mut self, idle: bool, wakes: u32) -> Result<(), Failure> {
        if self.is_checkpoint_due() {
            self.checkpoint()?;
        }
        if self.looked_at.elapsed() >= CHECKPOINT_INTERVAL {
            self.looked_at = Instant::now();
            self.reports.look_at_space(&self.store);
            // A compaction that was held up by a snapshot, or for want of room, goes on.
            self.compacting |= self.view.pruned() < self.view.compact_revision();
        }
        if self.compacting && (idle || wakes.is_multiple_of(COMPACT_EVERY_WAKES)) {
            let pruned = self.view.pruned();
            self.compacting = self.store.compact_step(COMPACT_STEP_KEYS)?;
            // Held up, it has changed nothing.
            self.dirty |= self.compacting || self.view.pruned() != pruned;
        }
        Ok(())
    }

    fn is_checkpoint_due(&self) -> bool {
        self.dirty && (self.checkpoint_at.elapsed() >= CHECKPOINT_INTERVAL || self.dirty_bytes >= MAX_DIRTY_BYTES)
    }

    fn checkpoint(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        self.checkpoint_at = begun;
        let durable = match self.store.checkpoint() {
            Ok(durable) => durable,
            Err(error @ WriteError::DiskFull { .. }) => {
                // Nothing is lost: the log keeps what the state file cannot take. Writes are refused meanwhile.
                tracing::error!("checkpoint: {error}");
                self.dirty_bytes = 0;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.metrics.storage.state_commit_seconds.observe(begun.elapsed().as_secs_f64());
        self.dirty = false;
        self.dirty_bytes = 0;
        self.checkpoint_at = Instant::now();
        self.reports.checkpoint_done(durable);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use quorate_kv::{Actor, Command, PutRequest};
    use quorate_raft::{Incarnation, NodeId, Payload, Term};
    use quorate_store::testing::FaultyDisk;
    use quorate_store::{Disk, RealDisk, StateOptions, StoreOptions};
    use quorate_wire::{Envelope, encode_envelope};
    use tempfile::TempDir;

    use super::*;

    const CLUSTER: u128 = 0xC1;

    /// Nobody listens.
    struct Unheard;

    impl StateReports for Unheard {
        fn is_watched(&self) -> bool {
            false
        }

        fn changed(&self, _: Batch) {}

        fn applied(&self, _: AppliedSummary) {}

        fn checkpoint_done(&self, _: LogIndex) {}

        fn look_at_space(&self, _: &StateStore) {}

        fn state_failed(&self, failure: Failure) {
            panic!("{failure:?}");
        }
    }

    fn state(directory: &TempDir) -> StateStore {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(directory.path()).expect("a folder"));
        let mut state = StoreOptions::default().open(&disk, Incarnation(7)).expect("empty").state;
        state.set_cluster_id(CLUSTER).expect("no fault");
        state
    }

    /// Asks for a place for an image.
    fn place(jobs: &Mailbox<StateJob>) -> Result<SnapshotSink, String> {
        let (reply, sink) = oneshot::channel();
        jobs.send(StateJob::OpenSink { expected: CLUSTER, reply }).expect("open");
        sink.blocking_recv().expect("answered")
    }

    fn receive(mut sink: SnapshotSink, chunks: &[bytes::Bytes]) -> Box<ReceivedSnapshot> {
        chunks.iter().for_each(|chunk| sink.push(chunk).expect("whole"));
        Box::new(sink.finish().expect("whole"))
    }

    /// A writer at work, and an image that it may take in.
    fn with_writer(test: impl FnOnce(&Mailbox<StateJob>, &[bytes::Bytes])) {
        let (here, elsewhere) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
        let chunks = state(&elsewhere).snapshot().expect("of a cluster").map(|chunk| chunk.expect("readable"));
        let chunks: Vec<bytes::Bytes> = chunks.collect();
        let (store, jobs) = (state(&here), Mailbox::new());
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| run(store, &jobs, &Unheard, &Arc::default()));
            test(&jobs, &chunks);
            jobs.close();
            assert!(writer.join().expect("no panic").is_some());
        });
    }

    fn put(index: u64, bytes: usize) -> Entry {
        let put = PutRequest { key: "key".into(), value: vec![7; bytes].into(), ..PutRequest::default() };
        let payload = Payload::Command(encode_envelope(&Envelope {
            origin: NodeId(1),
            incarnation: Incarnation(3),
            sequence: index,
            actor: Actor::Node,
            command: Command::Put(put),
        }));
        Entry { term: Term(1), index: LogIndex(index), payload }
    }

    #[test]
    fn a_backlog_is_made_durable_before_its_checkpoint_stops_fitting() {
        let disk = FaultyDisk::new();
        let options = StateOptions { reserve_bytes: 512 << 10, ..StateOptions::default() };
        let store = StateStore::open(Arc::new(disk.clone()), options).expect("empty");
        // For all of it at once a checkpoint wants 3.4 MiB. Little, so that it is applied before one is due by the clock.
        disk.set_limit_bytes(Some(disk.used_bytes() + (3 << 20)));
        let jobs = Mailbox::new();
        for index in 1..=6 {
            jobs.send(StateJob::Apply { entries: vec![put(index, 250 << 10)] }).expect("open");
        }
        let store = std::thread::scope(|scope| {
            let writer = scope.spawn(|| run(store, &jobs, &Unheard, &Arc::default()));
            jobs.close();
            writer.join().expect("no panic").expect("no failure")
        });
        assert_eq!(store.position().index, LogIndex(6));
        store.close().expect("the rest fits");
    }

    #[test]
    fn an_image_that_is_about_to_be_installed_keeps_its_place() {
        with_writer(|jobs, chunks| {
            let image = receive(place(jobs).expect("free"), chunks);
            let meta = image.meta();
            jobs.send(StateJob::Keep { image }).expect("open");
            let refused = place(jobs).expect_err("consensus has not decided yet");
            assert_eq!(refused, "another snapshot waits to be installed");
            let (installed, switched) = mpsc::channel();
            jobs.send(StateJob::Install { meta: meta.clone(), installed }).expect("open");
            assert_eq!(switched.recv().expect("it was still there").index, meta.index);
            place(jobs).expect("free again");
        });
    }

    #[test]
    fn an_image_that_consensus_declines_leaves_its_place_to_the_next() {
        with_writer(|jobs, chunks| {
            let image = receive(place(jobs).expect("free"), chunks);
            jobs.send(StateJob::Keep { image }).expect("open");
            jobs.send(StateJob::Decline).expect("open");
            let image = receive(place(jobs).expect("free again"), chunks);
            let meta = image.meta();
            jobs.send(StateJob::Keep { image }).expect("open");
            let (installed, switched) = mpsc::channel();
            jobs.send(StateJob::Install { meta, installed }).expect("open");
            switched.recv().expect("the first one took nothing with it");
        });
    }
}
