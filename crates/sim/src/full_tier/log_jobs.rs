//! The log's thread: what it is asked for is done in order, consecutive writes under one sync.

use std::mem;

use quorate_node::Input;
use quorate_raft::WriteSeq;
use quorate_store::{LogWrite as StoreWrite, WriteError};

use super::{Event, FullTier, LogJob, Process, power};
use crate::context::Context;
use crate::coverage::{Handler, Reached, Struck};
use crate::tier::Killed;

impl Process {
    pub(super) fn start_writing(&mut self, context: &mut Context<FullTier>) {
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

    /// Carries out the first `jobs` of the log: consecutive writes share a sync.
    pub(super) fn log_done(&mut self, context: &mut Context<FullTier>, mut jobs: usize) -> Result<(), Killed> {
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
                if !self.write_together(context, &seqs, &writes)? {
                    let jobs = seqs.into_iter().zip(writes).rev();
                    jobs.for_each(|(seq, write)| self.log_jobs.push_front(LogJob::Write { seq, write }));
                    return self.log_full(context, reports);
                }
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

    /// Writes under one sync; false if there is no room.
    fn write_together(
        &mut self,
        context: &mut Context<FullTier>,
        seqs: &[WriteSeq],
        writes: &[StoreWrite],
    ) -> Result<bool, Killed> {
        self.may_lose_power(context, power::OFTEN);
        self.in_doubt = seqs.len();
        let written = self.log.append(writes);
        self.power_is_on(context, Handler::LogWrite)?;
        let is_full = matches!(written, Err(WriteError::DiskFull { .. }));
        if !is_full {
            self.healthy(context, Handler::LogWrite, written)?;
            seqs.iter().for_each(|_| drop(context.sync_one()));
        }
        self.in_doubt = 0;
        Ok(!is_full)
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

    fn is_late(&self, context: &mut Context<FullTier>) -> bool {
        let late = context.faulty && context.random.chance(context.plan.disk.late_report);
        if late {
            context.coverage.hit(Reached::CompletionReordered);
        }
        late
    }
}
