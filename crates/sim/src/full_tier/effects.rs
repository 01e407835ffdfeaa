//! Performs a replica's effects in order, and brings it what its stores have finished.

use std::mem;

use quorate_kv::{Change, Revision};
use quorate_node::watch::Batch;
use quorate_node::{Answer, AppliedResult, AppliedSummary, Effect, Input, Node};
use quorate_raft::{Entry, LogIndex, NodeId, RoleKind};
use quorate_store::{LogWrite as StoreWrite, NodeMark, WriteError};
use quorate_wire::peer::NodeState;

use super::reading::look_between;
use super::{Course, Event, FullTier, LogJob, Process, StateJob, jitter, power, storage};
use crate::context::Context;
use crate::coverage::{Handler, Reached, Struck};
use crate::log_model::LogWrite;
use crate::tier::Killed;

/// How many of a million checkpoints come with a reading of both files from end to end.
const VERIFIED_PER_MILLION: u32 = 10_000;

/// Keys that a step of pruning looks at when everything is healed.
const HEALED_STEP_KEYS: usize = 100;

/// What an effect is, for the table of coverage.
fn handler(effect: &Effect) -> Handler {
    match effect {
        Effect::WriteLog { .. } => Handler::LogWrite,
        Effect::TruncateLog { .. } => Handler::LogTruncate,
        Effect::InstallSnapshot { .. } => Handler::InstallStep,
        Effect::Send { .. } => Handler::SendStep,
        Effect::Apply { .. } => Handler::ApplyStep,
        Effect::ReadEntries { .. } => Handler::ReadBack,
        _ => Handler::OtherStep,
    }
}

/// What an effect will do to the log, for the checkers.
fn issue(context: &mut Context<FullTier>, effect: &Effect) {
    match effect {
        Effect::WriteLog { seq, hard_state, entries } => {
            context.issue(LogWrite::Append { seq: *seq, hard_state: *hard_state, entries: entries.clone() });
        }
        Effect::InstallSnapshot { seq, meta } => {
            let (_, chain) = context.oracle.committed_at(meta.index).expect("checked when it was received");
            context.issue(LogWrite::Reset { seq: *seq, meta: meta.clone(), chain });
        }
        Effect::TruncateLog { up_to } => context.issue(LogWrite::Truncate { up_to: *up_to }),
        _ => {}
    }
}

/// I-14: who is fenced or removed grants no read. What it granted before it learned that it is, in the same batch, stands.
fn check_grant(id: NodeId, node: &Node, effect: &Effect) {
    let may_grant = !matches!(node.state(), NodeState::Fenced | NodeState::Removed);
    let granted = matches!(effect, Effect::Answer { answer: Answer::ReadAt(_), .. });
    assert!(may_grant || !granted, "I-14: node {id} is {:?} and grants a read", node.state());
}

impl Process {
    /// Something for the replica: it takes it at once or, where it is behind, with all that comes until its next turn.
    pub(super) fn step(&mut self, context: &mut Context<FullTier>, input: Input) -> Result<(), Killed> {
        if self.node.is_none() {
            return Ok(());
        }
        if context.plan.turn_us == 0 {
            return self.step_batch(context, vec![input]);
        }
        if self.queued.is_empty() {
            let delay = context.random.below(context.plan.turn_us);
            context.later(delay, Event::Turn);
        }
        self.queued.push(input);
        Ok(())
    }

    /// Whether something waits for the replica's next turn.
    pub(super) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// The replica takes everything that has come for it, as the runtime's driver does.
    fn take_queued(&mut self, context: &mut Context<FullTier>) -> Result<(), Killed> {
        let mut inputs = mem::take(&mut self.queued);
        let first = inputs.first().map(mem::discriminant);
        if inputs.iter().any(|input| Some(mem::discriminant(input)) != first) {
            context.coverage.hit(Reached::InputsBatched);
        }
        if self.node.as_ref().is_some_and(|node| node.next_deadline() <= context.local()) {
            inputs.push(Input::Tick { jitter: jitter(context) });
        }
        self.begin_requests(context, &inputs);
        self.step_batch(context, inputs)?;
        self.cancelled.clear();
        self.check_answers(context);
        Ok(())
    }

    /// One step of the replica, with everything that follows from it.
    pub(super) fn step_batch(&mut self, context: &mut Context<FullTier>, inputs: Vec<Input>) -> Result<(), Killed> {
        for input in &inputs {
            context.trace.line(context.now(), || format!("host {} <- {input:?}", context.host.0));
        }
        let local = context.local();
        let Some(node) = self.node.as_mut() else { return Ok(()) };
        let pending = context.log().pending();
        let mut seen = 0;
        let effects = node.step_batch_seen(local, inputs, |node, effects| {
            for effect in &effects[seen..] {
                issue(context, effect);
                check_grant(context.node, node, effect);
            }
            seen = effects.len();
            context.stepped(&node.status(local).raft);
        });
        node.check();
        let mut performed_writes = 0;
        for effect in effects {
            if let Err(killed) = context.survive(handler(&effect)) {
                // What the process had not asked its disk for yet never reaches it.
                context.log().forget_after(pending + performed_writes);
                return Err(killed);
            }
            context.trace.line(context.now(), || format!("host {} -> {effect:?}", context.host.0));
            performed_writes += usize::from(matches!(
                effect,
                Effect::WriteLog { .. } | Effect::InstallSnapshot { .. } | Effect::TruncateLog { .. }
            ));
            self.perform(context, effect)?;
        }
        Ok(())
    }

    fn perform(&mut self, context: &mut Context<FullTier>, effect: Effect) -> Result<(), Killed> {
        if context.clients.effect(context.node, &effect, context.queue.now()) {
            return Ok(());
        }
        match effect {
            Effect::WriteLog { seq, hard_state, entries } => {
                context.trace.record(&[50, seq.0, hard_state.term.0, entries.len() as u64]);
                self.log_jobs.push_back(LogJob::Write { seq, write: StoreWrite { hard_state, entries } });
                self.start_writing(context);
            }
            Effect::Send { to, message } => self.send(context, to, &message),
            Effect::Apply { entries } => {
                self.state_jobs.push_back(StateJob::Apply { entries });
                self.start_applying(context);
            }
            Effect::Answer { request, answer } => {
                context.trace.bytes(format!("{answer:?}").as_bytes());
                self.answered(context, request, answer)?;
            }
            Effect::ReadEntries { to, from, max_bytes } => {
                let delay = context.read_latency_us(Handler::ReadBack);
                context.later(delay, Event::ReadEntries { to, from, max_bytes });
            }
            Effect::FindDueLeases { until, max } => {
                let delay = 1 + context.random.exponential(context.plan.disk.apply_mean_us);
                context.later(delay, Event::FindDueLeases { until, max });
            }
            Effect::SendSnapshot { to, term } => self.send_image(context, to, term)?,
            Effect::InstallSnapshot { seq, meta } => {
                context.coverage.hit(Reached::SnapshotInstalled);
                self.state_jobs.push_back(StateJob::Install { meta: meta.clone() });
                self.log_jobs.push_back(LogJob::Reset { seq, meta, state: None });
                self.start_applying(context);
            }
            Effect::TruncateLog { up_to } => {
                context.coverage.hit(Reached::PrefixTruncated);
                self.log_jobs.push_back(LogJob::Truncate { up_to });
                self.start_writing(context);
            }
            Effect::MembershipChanged { membership, committed, .. } => {
                if committed {
                    self.lifecycle.configuration_committed(&membership);
                    let reached = if membership.is_joint() { Reached::JointCommitted } else { Reached::JointLeft };
                    context.coverage.hit(reached);
                    if membership.cluster_version > 1 {
                        context.coverage.hit(Reached::VersionRaised);
                    }
                }
                self.membership = membership;
            }
            Effect::RoleChanged { role, .. } => {
                if role == RoleKind::Leader {
                    context.coverage.hit(Reached::Elected);
                }
            }
            Effect::StateChanged { state, reason } => {
                context.coverage.hit(Reached::CampaignsStopped);
                let mark = if state == NodeState::Fenced {
                    assert!(self.has_strayed(), "I-14: node {} is fenced: {reason}", context.node);
                    context.coverage.hit(Reached::FencedItself);
                    NodeMark::Fenced { reason: reason.clone() }
                } else {
                    NodeMark::Removed
                };
                self.lifecycle.bar(state, reason);
                self.end_watches(context);
                self.log_jobs.push_back(LogJob::Mark(mark));
                self.start_writing(context);
            }
            Effect::Stopped => {
                // What is checkpointed need not be replayed; a stop that cannot write it is a kill.
                let _ = self.state.checkpoint();
                return Err(Killed);
            }
        }
        Ok(())
    }

    fn start_writing(&mut self, context: &mut Context<FullTier>) {
        if self.writing {
            return;
        }
        // A log that starts over waits for the state to switch first.
        if matches!(self.log_jobs.front(), None | Some(LogJob::Reset { state: None, .. })) {
            return;
        }
        self.writing = true;
        let call = match self.log_jobs.front() {
            Some(LogJob::Reset { .. }) => Handler::LogReset,
            Some(LogJob::Truncate { .. }) => Handler::LogTruncate,
            _ => Handler::LogWrite,
        };
        let latency = context.write_latency_us(call);
        context.later(latency, Event::LogDone(self.log_jobs.len()));
    }

    fn start_applying(&mut self, context: &mut Context<FullTier>) {
        if self.applying || self.state_jobs.is_empty() {
            return;
        }
        self.applying = true;
        let latency = context.apply_latency_us();
        context.later(latency, Event::StateDone);
    }

    /// Something that the process waited for has happened.
    pub(super) fn own(&mut self, context: &mut Context<FullTier>, event: Event) -> Result<(), Killed> {
        match event {
            Event::LogDone(jobs) => self.log_done(context, jobs),
            Event::Turn => self.take_queued(context),
            Event::Late(input) => self.step(context, input),
            Event::StateDone => self.state_done(context),
            Event::Checkpoint => self.checkpoint(context),
            Event::ReadEntries { to, from, max_bytes } => {
                let entries = self.log.entries(from, max_bytes);
                let entries = self.healthy(context, Handler::ReadBack, entries)?;
                self.deliver(context, Input::EntriesRead { to, from, entries })
            }
            Event::FindDueLeases { until, max } => {
                let due = self.state.view().due_leases(until, max);
                self.deliver(context, Input::LeasesDue { due })
            }
            Event::ImageChunk { to, number } => self.image_chunk(context, to, number),
            Event::ImageTimedOut { to, number } => self.image_timed_out(context, to, number),
            Event::WatchTurn => self.watch_turn(context),
            Event::ReadFinished(read) => self.finish_read(context, read),
            Event::ClientLeaves(request) => self.client_leaves(context, request),
        }
    }

    /// Carries out the first `jobs` of the log: consecutive writes share a sync.
    fn log_done(&mut self, context: &mut Context<FullTier>, mut jobs: usize) -> Result<(), Killed> {
        let mut reports = Vec::new();
        while jobs > 0 && !matches!(self.log_jobs.front(), Some(LogJob::Reset { state: None, .. })) {
            let (mut writes, mut seqs) = (Vec::new(), Vec::new());
            while jobs > 0 {
                let Some(LogJob::Write { .. }) = self.log_jobs.front() else { break };
                let Some(LogJob::Write { seq, write }) = self.log_jobs.pop_front() else { unreachable!() };
                jobs -= 1;
                writes.push(write);
                seqs.push(seq);
            }
            if !writes.is_empty() {
                self.may_lose_power(context, power::OFTEN);
                self.in_doubt = seqs.len();
                let written = self.log.append(&writes);
                self.power_is_on(context, Handler::LogWrite)?;
                match written {
                    Err(WriteError::DiskFull { .. }) => {
                        self.in_doubt = 0;
                        let jobs = seqs.into_iter().zip(writes).rev();
                        jobs.for_each(|(seq, write)| self.log_jobs.push_front(LogJob::Write { seq, write }));
                        return self.log_full(context, reports);
                    }
                    written => self.healthy(context, Handler::LogWrite, written)?,
                }
                self.in_doubt = 0;
                seqs.iter().for_each(|_| drop(context.sync_one()));
                reports.extend(seqs.into_iter().map(|seq| Input::LogWritten { seq }));
                continue;
            }
            jobs -= 1;
            let job = self.log_jobs.pop_front().expect("as many are under way");
            if let Some(job) = self.carry_out(context, job, &mut reports)? {
                self.log_jobs.push_front(job);
                return self.log_full(context, reports);
            }
        }
        self.log.check();
        self.writing = false;
        if mem::take(&mut self.full) {
            self.step(context, Input::DiskFull { yes: false })?;
        }
        self.start_writing(context);
        self.report(context, reports)
    }

    /// Carries out a job that is no write; gives it back if there is no room for it.
    fn carry_out(
        &mut self,
        context: &mut Context<FullTier>,
        job: LogJob,
        reports: &mut Vec<Input>,
    ) -> Result<Option<LogJob>, Killed> {
        match job {
            LogJob::Reset { seq, meta, state: Some(state) } => {
                // What is to be written behind it is under way no sooner than it is done.
                let behind = mem::take(&mut self.log_jobs);
                context.survive(Handler::InstallStep)?;
                self.in_doubt = 1;
                self.may_lose_power(context, power::SELDOM);
                let reset = self.log.reset_to(&meta);
                self.power_is_on(context, Handler::LogReset)?;
                let is_full = matches!(reset, Err(WriteError::DiskFull { .. }));
                if !is_full {
                    self.healthy(context, Handler::LogReset, reset)?;
                }
                (self.in_doubt, self.log_jobs) = (0, behind);
                if is_full {
                    return Ok(Some(LogJob::Reset { seq, meta, state: Some(state) }));
                }
                context.sync_one();
                reports.push(Input::SnapshotInstalled { seq, state });
                Ok(None)
            }
            LogJob::Truncate { up_to } => {
                self.in_doubt = 1;
                let mut more = true;
                while more {
                    self.may_lose_power(context, power::OFTEN);
                    let step = self.log.truncate_prefix(up_to);
                    self.power_is_on(context, Handler::LogTruncate)?;
                    if let Err(WriteError::DiskFull { .. }) = step {
                        self.in_doubt = 0;
                        return Ok(Some(LogJob::Truncate { up_to }));
                    }
                    more = self.healthy(context, Handler::LogTruncate, step)?;
                }
                self.in_doubt = 0;
                context.sync_one();
                Ok(None)
            }
            LogJob::Mark(mark) => {
                self.may_lose_power(context, power::SELDOM);
                let marked = self.log.set_mark(mark.clone());
                self.power_is_on(context, Handler::LogWrite)?;
                if let Err(WriteError::DiskFull { .. }) = marked {
                    return Ok(Some(LogJob::Mark(mark)));
                }
                self.healthy(context, Handler::LogWrite, marked)?;
                Ok(None)
            }
            other => unreachable!("{other:?} is no job that is done here"),
        }
    }

    /// The log has no room: what is to be written waits, and is tried again.
    fn log_full(&mut self, context: &mut Context<FullTier>, reports: Vec<Input>) -> Result<(), Killed> {
        context.coverage.struck(Struck::Full, Handler::LogWrite);
        context.later(context.plan.timeout_us() / 4, Event::LogDone(self.log_jobs.len()));
        if !mem::replace(&mut self.full, true) {
            self.step(context, Input::DiskFull { yes: true })?;
        }
        self.report(context, reports)
    }

    /// Tells the replica what is durable, some of it late and some of it out of order.
    fn report(&mut self, context: &mut Context<FullTier>, mut reports: Vec<Input>) -> Result<(), Killed> {
        if context.plan.disk.late_report > 0 {
            context.random.shuffle(&mut reports);
        }
        for report in reports {
            match report {
                Input::LogWritten { .. } if self.is_late(context) => {
                    let delay = context.random.below(context.plan.timeout_us() / 2);
                    context.later(delay, Event::Late(report));
                }
                report => self.step(context, report)?,
            }
        }
        Ok(())
    }

    /// Tells the replica what it asked for; some of that stands for a while, and may be old by then.
    fn deliver(&mut self, context: &mut Context<FullTier>, answer: Input) -> Result<(), Killed> {
        match context.answer_delay_us() {
            0 => self.step(context, answer),
            delay => {
                context.later(delay, Event::Late(answer));
                Ok(())
            }
        }
    }

    fn is_late(&self, context: &mut Context<FullTier>) -> bool {
        let late = context.faulty && context.random.chance(context.plan.disk.late_report);
        if late {
            context.coverage.hit(Reached::CompletionReordered);
        }
        late
    }

    fn state_done(&mut self, context: &mut Context<FullTier>) -> Result<(), Killed> {
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

    fn checkpoint(&mut self, context: &mut Context<FullTier>) -> Result<(), Killed> {
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
