//! The log writer: one thread that owns the [`LogStore`] and makes everything queued durable with one sync.
//!
//! Invariants:
//! 1. a write is reported only after the sync that covers it;
//! 2. jobs are carried out in the order they came, so a write never overtakes the reset before it;
//! 3. after a failed write nothing is written and nothing is reported;
//! 4. a prefix that may go does go, also under load that leaves no idle moment: a report may queue the next write before
//!    the queue is looked at again.
//!
//! A full disk is no failure: nothing was written, so the same is tried again until there is room.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use quorate_node::AppliedState;
use quorate_raft::{LogIndex, SnapshotMeta, WriteSeq};
use quorate_store::{LogStore, LogWrite, NodeMark, TRUNCATE_STEP_ENTRIES, WriteError};

use super::mailbox::{Mailbox, Wake};
use crate::metrics::Metrics;

/// The pause before the log is cut again that found no room for it on a full disk.
const CUT_RETRY: Duration = Duration::from_secs(5);
/// The pause before a write is tried again on a full disk.
const FULL_DISK_RETRY: Duration = Duration::from_millis(200);
/// Under constant load one step of a removal is squeezed in after this many wakes, or as many entries as it removes: a log
/// that grows faster than it is cut would never be short again.
const TRUNCATE_EVERY_WAKES: u64 = 16;

/// What the log writer is asked to do.
#[derive(Debug)]
pub(crate) enum LogJob {
    /// Make it durable, then report `seq`.
    Write { seq: WriteSeq, write: LogWrite },
    /// Start anew at an image. Waits until the state writer has switched to it, so that the log is never ahead of the state;
    /// a closed channel means that the state writer failed.
    Reset { seq: WriteSeq, meta: SnapshotMeta, installed: mpsc::Receiver<AppliedState> },
    /// Remove a prefix, step by step between writes.
    TruncatePrefix { up_to: LogIndex },
    /// Record a verdict on this node.
    Mark(NodeMark),
}

/// What the log writer reports.
pub(crate) trait LogReports: Send + 'static {
    /// These writes are durable.
    fn log_written(&self, seqs: &[WriteSeq]);
    /// State and log are those of an image.
    fn snapshot_installed(&self, seq: WriteSeq, state: AppliedState);
    /// The disk has, or has no longer, room for the log.
    fn log_full(&self, full: bool);
    /// Nothing can be written any more: the node must stop.
    fn log_failed(&self, error: String);
}

/// Runs until `jobs` is closed; gives the store back for a node that starts again.
pub(crate) fn run<R: LogReports>(
    mut store: LogStore,
    jobs: &Mailbox<LogJob>,
    reports: &R,
    metrics: &Arc<Metrics>,
) -> LogStore {
    let mut writer = Writer {
        reports,
        jobs,
        metrics,
        truncate_to: None,
        truncate_at: Instant::now(),
        written_since_step: 0,
        batch: Vec::new(),
        seqs: Vec::new(),
    };
    let mut taken = Vec::new();
    loop {
        // With a prefix left to remove, only look; without, wait for work.
        let deadline = writer.truncate_to.map(|_| writer.truncate_at);
        let wake = jobs.take(deadline, &mut taken);
        let goes_on = match wake {
            Wake::Closed => false,
            Wake::Items => writer.carry_out(&mut store, &mut taken),
            Wake::Deadline => true,
        };
        if !(goes_on && writer.housekeeping(&mut store, wake == Wake::Deadline)) {
            return store;
        }
    }
}

struct Writer<'a, R> {
    reports: &'a R,
    jobs: &'a Mailbox<LogJob>,
    metrics: &'a Arc<Metrics>,
    truncate_to: Option<LogIndex>,
    /// Not before this is a step of the removal tried.
    truncate_at: Instant,
    /// Entries written since the last step. A wake counts for more than it wrote, so that steps keep up with wakes, too.
    written_since_step: u64,
    batch: Vec<LogWrite>,
    /// Numbers of the writes in `batch`.
    seqs: Vec<WriteSeq>,
}

impl<R: LogReports> Writer<'_, R> {
    /// Carries out everything taken; `false` after a failure.
    fn carry_out(&mut self, store: &mut LogStore, taken: &mut Vec<LogJob>) -> bool {
        for job in taken.drain(..) {
            if let LogJob::Write { seq, write } = job {
                self.seqs.push(seq);
                self.batch.push(write);
                continue;
            }
            if !self.write_batch(store) {
                return false;
            }
            let goes_on = match job {
                LogJob::Write { .. } => unreachable!("writes are batched above"),
                LogJob::Reset { seq, meta, installed } => {
                    let Ok(state) = installed.recv() else { return false };
                    self.truncate_to = None;
                    let is_reset = self.until_room(|| store.reset_to(&meta));
                    if is_reset {
                        self.reports.snapshot_installed(seq, state);
                    }
                    is_reset
                }
                LogJob::TruncatePrefix { up_to } => {
                    self.truncate_to = self.truncate_to.max(Some(up_to));
                    true
                }
                LogJob::Mark(mark) => self.until_room(|| store.set_mark(mark.clone())),
            };
            if !goes_on {
                return false;
            }
        }
        self.write_batch(store)
    }

    fn write_batch(&mut self, store: &mut LogStore) -> bool {
        if self.seqs.is_empty() {
            return true;
        }
        let begun = Instant::now();
        if !self.until_room(|| store.append(&self.batch)) {
            return false;
        }
        self.reports.log_written(&self.seqs);
        self.seqs.clear();
        let storage = &self.metrics.storage;
        storage.log_sync_seconds.observe(begun.elapsed().as_secs_f64());
        let (entries, bytes) = self
            .batch
            .iter()
            .flat_map(|write| &write.entries)
            .fold((0_u64, 0), |(count, bytes), entry| (count + 1, bytes + entry.size() as u64));
        storage.log_batch_entries.observe(entries as f64);
        storage.log_appended_bytes_total.inc_by(bytes);
        self.written_since_step += entries.max(TRUNCATE_STEP_ENTRIES / TRUNCATE_EVERY_WAKES);
        self.batch.clear();
        true
    }

    /// Tries until the disk has room; `false` after a failure, which is reported, or if the node stops before that.
    fn until_room(&self, mut attempt: impl FnMut() -> Result<(), WriteError>) -> bool {
        let mut full = false;
        loop {
            match attempt() {
                Err(error @ WriteError::DiskFull { .. }) => {
                    if !full {
                        tracing::error!("log: {error}");
                        self.reports.log_full(true);
                        full = true;
                    }
                    if self.jobs.is_closed() {
                        return false;
                    }
                    std::thread::sleep(FULL_DISK_RETRY);
                }
                Ok(()) => break,
                Err(error) => {
                    self.reports.log_failed(error.to_string());
                    return false;
                }
            }
        }
        if full {
            tracing::info!("log: there is room again");
            self.reports.log_full(false);
        }
        true
    }

    /// What is left for idle moments, and for every so many of the others; `false` after a failure.
    fn housekeeping(&mut self, store: &mut LogStore, idle: bool) -> bool {
        let Some(up_to) = self.truncate_to else { return true };
        let due = idle || self.written_since_step >= TRUNCATE_STEP_ENTRIES;
        if !due || Instant::now() < self.truncate_at {
            return true;
        }
        self.written_since_step = 0;
        let before = store.stats().base.0;
        let stepped = store.truncate_prefix(up_to);
        let removed = store.stats().base.0 - before;
        self.metrics.storage.log_compacted_entries_total.inc_by(removed);
        self.note_step(stepped)
    }

    /// How a step of the removal ended: with more left or not, or not at all.
    fn note_step(&mut self, step: Result<bool, WriteError>) -> bool {
        match step {
            Ok(true) => {}
            Ok(false) => self.truncate_to = None,
            Err(error @ WriteError::DiskFull { .. }) => {
                tracing::warn!("log: its oldest entries stay for now: {error}");
                self.truncate_at = Instant::now() + CUT_RETRY;
            }
            Err(error) => {
                self.reports.log_failed(error.to_string());
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use quorate_raft::{Entry, HardState, Incarnation, Payload, Term};
    use quorate_store::{Disk, RealDisk, StoreOptions};
    use tempfile::TempDir;

    use super::*;

    /// Entries that are there before anybody is busy.
    const OLD: u64 = 50;

    /// A node that queues a write with each report of one, so that its log writer has no idle moment, for so many writes.
    struct Busy {
        jobs: Arc<Mailbox<LogJob>>,
        next: AtomicU64,
        last: u64,
    }

    impl LogReports for Busy {
        fn log_written(&self, _: &[WriteSeq]) {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index > self.last {
                self.jobs.close();
            } else {
                self.jobs.send(write(index..=index)).expect("open");
            }
        }

        fn snapshot_installed(&self, _: WriteSeq, _: AppliedState) {
            unreachable!("no image is sent");
        }

        fn log_full(&self, _: bool) {}

        fn log_failed(&self, error: String) {
            panic!("{error}");
        }
    }

    fn write(indexes: std::ops::RangeInclusive<u64>) -> LogJob {
        let commit = LogIndex(*indexes.end());
        let entry = |index| Entry { term: Term(1), index: LogIndex(index), payload: Payload::Noop };
        let write = LogWrite {
            hard_state: HardState { term: Term(1), vote: None, commit, ..HardState::default() },
            entries: indexes.map(entry).collect(),
        };
        LogJob::Write { seq: WriteSeq(commit.0), write }
    }

    fn store(directory: &TempDir) -> LogStore {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(directory.path()).expect("a folder"));
        StoreOptions::default().open(&disk, Incarnation(7)).expect("empty").log
    }

    #[test]
    fn the_log_is_cut_while_one_write_follows_the_other() {
        let directory = TempDir::new().expect("a temporary folder");
        let jobs = Arc::new(Mailbox::new());
        let last = OLD + 2 * TRUNCATE_EVERY_WAKES;
        let busy = Busy { jobs: Arc::clone(&jobs), next: AtomicU64::new(OLD + 1), last };
        jobs.send(write(1..=OLD)).expect("open");
        jobs.send(LogJob::TruncatePrefix { up_to: LogIndex(OLD - 10) }).expect("open");
        let store = run(store(&directory), &jobs, &busy, &Arc::default());
        assert_eq!(store.stats().base, LogIndex(OLD - 10), "there was no idle moment, and none was waited for");
        assert_eq!(store.stats().last, LogIndex(last));
    }

    #[test]
    fn a_cut_that_finds_no_room_is_made_later_and_ends_nothing() {
        let jobs = Arc::new(Mailbox::new());
        let busy = Busy { jobs: Arc::clone(&jobs), next: AtomicU64::new(1), last: 0 };
        let metrics = Arc::default();
        let before = Instant::now();
        let mut writer = Writer {
            reports: &busy,
            jobs: &jobs,
            metrics: &metrics,
            truncate_to: Some(LogIndex(7)),
            truncate_at: before,
            written_since_step: 0,
            batch: Vec::new(),
            seqs: Vec::new(),
        };
        assert!(writer.note_step(Err(WriteError::DiskFull { file: "log.redb", free_bytes: 0, needed_bytes: 1 })));
        assert_eq!(writer.truncate_to, Some(LogIndex(7)));
        assert!(writer.truncate_at >= before + CUT_RETRY, "not in a loop that is busy with nothing else");
        assert!(writer.note_step(Ok(false)));
        assert_eq!(writer.truncate_to, None);
    }
}
