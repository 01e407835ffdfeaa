//! The log writer: one thread that owns the [`LogStore`] and makes everything queued durable with one sync.
//!
//! Invariants:
//! 1. a write is reported only after the sync that covers it;
//! 2. jobs are carried out in the order they came, so a write never overtakes the reset before it;
//! 3. after a failed write nothing is written and nothing is reported.
//!
//! A full disk is no failure: nothing was written, so the same batch is tried again until there is room.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use quorate_node::AppliedState;
use quorate_raft::{LogIndex, SnapshotMeta, WriteSeq};
use quorate_store::{LogStore, LogWrite, NodeMark, WriteError};

use super::mailbox::{Mailbox, Wake};
use crate::metrics::Metrics;

/// The pause before a write is tried again on a full disk.
const FULL_DISK_RETRY: Duration = Duration::from_millis(200);

/// What the log writer is asked to do.
#[derive(Debug)]
pub(crate) enum LogJob {
    /// Make it durable, then report `seq`.
    Write { seq: WriteSeq, write: LogWrite },
    /// Start anew at an image. Waits until the state writer has switched to it, so that the log is never ahead of the state;
    /// a closed channel means that the state writer failed.
    Reset { seq: WriteSeq, meta: SnapshotMeta, installed: mpsc::Receiver<AppliedState> },
    /// Remove a prefix, when nothing else is to do.
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
    let mut writer = Writer { reports, jobs, metrics, truncate_to: None, batch: Vec::new(), seqs: Vec::new() };
    let mut taken = Vec::new();
    loop {
        // With a prefix left to remove, only look; without, wait for work.
        let deadline = writer.truncate_to.map(|_| Instant::now());
        match jobs.take(deadline, &mut taken) {
            Wake::Items => {}
            Wake::Deadline => {
                if !writer.truncate_step(&mut store) {
                    return store;
                }
                continue;
            }
            Wake::Closed => return store,
        }
        if !writer.carry_out(&mut store, &mut taken) {
            return store;
        }
    }
}

struct Writer<'a, R> {
    reports: &'a R,
    jobs: &'a Mailbox<LogJob>,
    metrics: &'a Arc<Metrics>,
    truncate_to: Option<LogIndex>,
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
            let done = match job {
                LogJob::Write { .. } => unreachable!("writes are batched above"),
                LogJob::Reset { seq, meta, installed } => {
                    let Ok(state) = installed.recv() else { return false };
                    self.truncate_to = None;
                    store.reset_to(&meta).map(|()| self.reports.snapshot_installed(seq, state))
                }
                LogJob::TruncatePrefix { up_to } => {
                    self.truncate_to = self.truncate_to.max(Some(up_to));
                    Ok(())
                }
                LogJob::Mark(mark) => store.set_mark(mark),
            };
            if let Err(error) = done {
                self.reports.log_failed(error.to_string());
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
        let mut full = false;
        loop {
            match store.append(&self.batch) {
                Ok(()) => break,
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
        self.batch.clear();
        true
    }

    fn truncate_step(&mut self, store: &mut LogStore) -> bool {
        let Some(up_to) = self.truncate_to else { return true };
        let before = store.stats().base.0;
        match store.truncate_prefix(up_to) {
            Ok(more) => {
                let removed = store.stats().base.0 - before;
                self.metrics.storage.log_compacted_entries_total.inc_by(removed);
                if !more {
                    self.truncate_to = None;
                }
                true
            }
            Err(error) => {
                self.reports.log_failed(error.to_string());
                false
            }
        }
    }
}
