//! The state's thread: batches are applied and images installed in order, and what is applied is made durable now and then.

use quorate_kv::{Change, Revision};
use quorate_node::watch::Batch;
use quorate_node::{AppliedResult, AppliedSummary, Input};
use quorate_raft::{Entry, LogIndex};
use quorate_store::WriteError;

use super::reading::look_between;
use super::{Course, Event, FullTier, LogJob, Process, StateJob, power, storage};
use crate::context::Context;
use crate::coverage::{Handler, Reached, Struck};
use crate::tier::Killed;

/// How many of a million checkpoints come with a reading of both files from end to end.
const VERIFIED_PER_MILLION: u32 = 10_000;

/// Keys that a step of pruning looks at when everything is healed.
const HEALED_STEP_KEYS: usize = 100;

impl Process {
    pub(super) fn start_applying(&mut self, context: &mut Context<FullTier>) {
        if self.applying || self.state_jobs.is_empty() {
            return;
        }
        self.applying = true;
        let latency = context.apply_latency_us();
        context.later(latency, Event::StateDone);
    }

    pub(super) fn state_done(&mut self, context: &mut Context<FullTier>) -> Result<(), Killed> {
        self.applying = false;
        let job = self.state_jobs.pop_front().expect("a job was under way");
        let result = match job {
            StateJob::Apply { entries } => self.apply(context, &entries),
            StateJob::Install { meta } => {
                let image = self.received.take().expect("an image is installed that was received");
                self.may_lose_power(context, power::SELDOM);
                let installed = self.state.install(image);
                self.power_is_on(context, Handler::ReceiveImage)?;
                let installed = self.healthy(context, Handler::InstallStep, installed)?;
                assert_eq!(installed, meta, "I-15: another image is installed than was announced");
                self.state.check();
                if let Some(streamed) = &mut self.streamed {
                    streamed.replaced = true;
                }
                self.dirty = false;
                self.course = Course::True;
                context.clients.check_state(context.node, meta.index, meta.term, &self.state.view());
                if self.is_watched() {
                    context.coverage.hit(Reached::WatchedInstall);
                }
                self.publish(context, self.changed(self.state.view().revision(), Vec::new()));
                self.switched(meta.index);
                self.start_writing(context);
                if context.faulty && context.random.chance(100_000) {
                    context.coverage.hit(Reached::KilledAfterSwitch);
                    return Err(Killed);
                }
                Ok(())
            }
        };
        self.start_applying(context);
        result
    }

    /// The state is an image's: the log may follow.
    fn switched(&mut self, index: LogIndex) {
        let applied = storage::applied_state(&self.state);
        for job in &mut self.log_jobs {
            if let LogJob::Reset { meta, state, .. } = job
                && meta.index == index
                && state.is_none()
            {
                *state = Some(applied);
                return;
            }
        }
        unreachable!("the state switched to an image that the log knows nothing of");
    }

    fn apply(&mut self, context: &mut Context<FullTier>, entries: &[Entry]) -> Result<(), Killed> {
        for entry in entries {
            let committed = context.oracle.committed_at(entry.index).map(|(term, _)| term);
            assert!(
                committed == Some(entry.term),
                "I-14: node {} applies {} of term {}; committed there: {committed:?}",
                context.node,
                entry.index,
                entry.term
            );
            let now = context.now();
            context.clients.committed(entry, now, &mut context.coverage);
        }
        let (before, compacted) = (self.state.view().revision(), self.state.view().compact_revision());
        let strays = self.course != Course::True;
        self.may_lose_power(context, power::OFTEN);
        let batch = if strays {
            self.apply_straying(context, entries)
        } else {
            let (model, node) = (&context.clients.model, context.node);
            let number = entries.last().map_or(0, |entry| entry.index.0);
            self.state.apply_seen(entries, |state| look_between(&state.view(), model, node, number))
        };
        self.power_is_on(context, Handler::ApplyStep)?;
        let batch = self.healthy(context, Handler::ApplyStep, batch)?;
        self.dirty = true;
        let (mut results, mut changes) = (Vec::new(), Vec::new());
        for result in batch.results {
            let Some(mut outcome) = result.outcome else { continue };
            if !self.has_strayed() {
                context.clients.check_outcome(context.node, result.index, &outcome, &mut context.coverage);
            }
            changes.append(&mut outcome.changes);
            if let Some((origin, session, sequence)) = result.origin {
                results.push(AppliedResult { index: result.index, origin, session, sequence, outcome });
            }
        }
        if self.has_strayed() {
            // What it would tell is of no use to anybody.
            self.end_watches(context);
            self.compare_course(context, batch.last, batch.term);
        } else {
            context.clients.check_state(context.node, batch.last, batch.term, &self.state.view());
            context.clients.applied(context.node, &self.state.view(), context.queue.now());
            // Before anything is answered: a watch that is created after a write of its client begins after it.
            let changed = self.changed(before, changes);
            if changed.through > before || changed.compacted > compacted {
                self.publish(context, changed);
            }
        }
        let state = storage::applied_state(&self.state);
        self.step(context, Input::Applied(AppliedSummary { state, results }))
    }

    /// What those that watch are told: with no changes, what they have to read back.
    fn changed(&self, before: Revision, changes: Vec<Change>) -> Batch {
        let view = self.state.view();
        Batch { before, through: view.revision(), compacted: view.compact_revision(), changes }
    }

    pub(super) fn checkpoint(&mut self, context: &mut Context<FullTier>) -> Result<(), Killed> {
        let stalled = context.stalled_us(Handler::Checkpoint);
        if stalled > 0 {
            context.later(stalled, Event::Checkpoint);
            return Ok(());
        }
        let delay = context.plan.disk.checkpoint_us;
        context.later(delay, Event::Checkpoint);
        if context.random.chance(VERIFIED_PER_MILLION) && !self.has_doubtful_disk() {
            self.verify(context)?;
        }
        // In small steps history would take as long to go as it took to come.
        let keys = context.plan.load.compact_step_keys;
        let keys = if context.faulty { keys } else { keys.max(HEALED_STEP_KEYS) };
        let pruned = self.state.view().pruned();
        self.may_lose_power(context, power::OFTEN);
        let compacted = self.state.compact_step(keys);
        self.power_is_on(context, Handler::Checkpoint)?;
        self.dirty |= self.healthy(context, Handler::Checkpoint, compacted)? || self.state.view().pruned() != pruned;
        if !self.dirty {
            return Ok(());
        }
        let durable_applied = match self.state.checkpoint() {
            Err(WriteError::DiskFull { .. }) => {
                // Nothing is lost: the log keeps what the state file cannot take.
                context.coverage.struck(Struck::Full, Handler::Checkpoint);
                return Ok(());
            }
            written => self.healthy(context, Handler::Checkpoint, written)?,
        };
        self.dirty = false;
        context.coverage.hit(Reached::Checkpointed);
        if context.random.chance(50_000) {
            // An image that cannot be written costs time at the next start, nothing else.
            let _ = self.state.view().write_index_image();
        }
        self.step(context, Input::CheckpointDone { durable_applied })
    }
}
