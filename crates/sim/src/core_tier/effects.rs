//! Performs the core's effects in order, and brings it what its disk and state machine have finished.

use std::collections::BTreeSet;

use quorate_raft::{Effect, Entry, Input, LogIndex, Message, Payload, ReadId, SnapshotMeta, WriteSeq};

use super::transfer::Packet;
use super::{CoreTier, Disk, Event, Process, tracing};
use crate::context::Context;
use crate::coverage::{Handler, Reached, Struck};
use crate::log_model::LogWrite;
use crate::tier::Killed;

/// Reported completions, which may come in any order.
#[derive(Debug, Default)]
pub(super) struct Reports {
    through: WriteSeq,
    beyond: BTreeSet<WriteSeq>,
}

impl Reports {
    fn add(&mut self, seq: WriteSeq) {
        self.beyond.insert(seq);
        while self.beyond.remove(&self.through.next()) {
            self.through = self.through.next();
        }
    }

    /// Every write up to `seq` has been reported.
    fn include(&self, seq: WriteSeq) -> bool {
        seq <= self.through
    }
}

impl Process {
    /// One step of the core, with everything that follows from it.
    pub(super) fn step(
        &mut self,
        context: &mut Context<CoreTier>,
        disk: &mut Disk,
        input: Input,
    ) -> Result<(), Killed> {
        tracing::input(&mut context.trace, &input);
        context.trace.line(context.now(), || format!("host {} <- {input:?}", context.host.0));
        let effects = self.raft.step(context.local(), input);
        self.raft.check();
        let pending = context.log().pending();
        for effect in &effects {
            match effect {
                Effect::Persist { seq, hard_state, entries } => {
                    context.issue(LogWrite::Append { seq: *seq, hard_state: *hard_state, entries: entries.clone() })
                }
                Effect::InstallSnapshot { seq, meta } => self.issue_reset(context, *seq, meta),
                Effect::TruncatePrefix { up_to } => context.issue(LogWrite::Truncate { up_to: *up_to }),
                _ => {}
            }
        }
        let status = self.raft.status();
        context.stepped(&status);
        let mut performed_writes = 0;
        for effect in effects {
            if let Err(killed) = context.survive(handler(&effect)) {
                // What the process had not asked its disk for yet never reaches it.
                context.log().forget_after(pending + performed_writes);
                return Err(killed);
            }
            tracing::effect(&mut context.trace, &effect);
            context.trace.line(context.now(), || format!("host {} -> {effect:?}", context.host.0));
            performed_writes += usize::from(matches!(
                effect,
                Effect::Persist { .. } | Effect::InstallSnapshot { .. } | Effect::TruncatePrefix { .. }
            ));
            self.perform(context, effect);
        }
        let _ = disk;
        Ok(())
    }

    fn issue_reset(&mut self, context: &mut Context<CoreTier>, seq: WriteSeq, meta: &SnapshotMeta) {
        let image = self.received.take().expect("an image is installed that was received");
        assert!(image.meta() == *meta, "another image is installed than was received");
        assert!(
            context.oracle.committed_at(meta.index) == Some((image.term, image.chain)),
            "I-15: the image at {} differs from what was committed",
            meta.index
        );
        context.oracle.judge_image(context.node, meta);
        context.issue(LogWrite::Reset { seq, meta: meta.clone(), chain: image.chain });
        self.installing = Some(image);
    }

    fn perform(&mut self, context: &mut Context<CoreTier>, effect: Effect) {
        match effect {
            Effect::Persist { .. } => self.start_writing(context),
            Effect::InstallSnapshot { .. } => {
                context.coverage.hit(Reached::SnapshotInstalled);
                self.state = self.installing.clone().expect("an image is being installed");
                self.apply_queue.clear();
                self.applying = None;
                self.start_writing(context);
            }
            Effect::Send(message) => send(context, message),
            Effect::SendAfter { after, message } => {
                if self.reports.include(after) {
                    send(context, message);
                } else {
                    self.held.push((after, message));
                }
            }
            Effect::Apply { entries } => {
                self.apply_queue.extend(entries);
                self.start_applying(context);
            }
            Effect::ReadEntries { to, from, max_bytes } => {
                let delay = context.read_latency_us(Handler::ReadBack);
                context.later(delay, Event::ReadEntries { to, from, max_bytes });
            }
            Effect::SendSnapshot { to } => self.send_image(context, to),
            Effect::TruncatePrefix { .. } => {
                context.coverage.hit(Reached::PrefixTruncated);
                self.start_writing(context);
            }
            Effect::ReadReady { read, index } => self.read_ready(context, read, index),
            Effect::ReadFailed { read, .. } => {
                self.reads.remove(&read);
            }
            Effect::Proposed { request, first, term } => {
                let ids = self.proposals.remove(&request).expect("a proposal is answered once");
                for (offset, id) in ids.into_iter().enumerate() {
                    self.unanswered.insert(LogIndex(first.0 + offset as u64), (term, id));
                }
            }
            Effect::Refused { request, .. } => {
                self.proposals.remove(&request);
            }
            Effect::TransferEnded { result, .. } => context.coverage.hit(match result {
                Ok(()) => Reached::Transferred,
                Err(_) => Reached::TransferFailed,
            }),
            Effect::MembershipChanged { membership, committed: true, .. } => {
                context.coverage.hit(if membership.is_joint() { Reached::JointCommitted } else { Reached::JointLeft });
                if membership.cluster_version == <CoreTier as crate::tier::Tier>::NEWEST_VERSION {
                    context.coverage.hit(Reached::VersionRaised);
                }
            }
            Effect::RoleChanged { role: quorate_raft::RoleKind::Leader, .. } => context.coverage.hit(Reached::Elected),
            Effect::Accepted { .. } | Effect::MembershipChanged { .. } | Effect::RoleChanged { .. } => {}
        }
    }

    fn start_writing(&mut self, context: &mut Context<CoreTier>) {
        if self.writing || context.log().pending() == 0 {
            return;
        }
        self.writing = true;
        let batch = context.log().pending();
        let latency = context.write_latency_us(Handler::LogWrite);
        context.later(latency, Event::Synced(batch));
    }

    fn start_applying(&mut self, context: &mut Context<CoreTier>) {
        if self.applying.is_some() || self.apply_queue.is_empty() {
            return;
        }
        self.applies += 1;
        self.applying = Some(self.applies);
        let latency = context.apply_latency_us();
        context.later(latency, Event::Applied(self.applies));
    }

    /// Something that the node waited for has happened.
    pub(super) fn own(&mut self, context: &mut Context<CoreTier>, disk: &mut Disk, event: Event) -> Result<(), Killed> {
        match event {
            Event::Synced(batch) => self.synced(context, disk, batch),
            Event::Reported(seq) => self.reported(context, disk, seq),
            Event::Applied(number) => {
                if self.applying != Some(number) {
                    return Ok(());
                }
                self.applied(context, disk)
            }
            Event::Checkpoint => self.checkpoint(context, disk),
            Event::ReadEntries { to, from, max_bytes } => {
                let entries = read_back(context, from, max_bytes);
                match context.answer_delay_us() {
                    0 => self.step(context, disk, Input::EntriesRead { to, from, entries }),
                    delay => {
                        context.later(delay, Event::EntriesRead { to, from, entries });
                        Ok(())
                    }
                }
            }
            Event::EntriesRead { to, from, entries } => {
                self.step(context, disk, Input::EntriesRead { to, from, entries })
            }
            Event::ImageTimedOut { to, number } => self.image_timed_out(context, disk, to, number),
        }
    }

    fn synced(&mut self, context: &mut Context<CoreTier>, disk: &mut Disk, batch: usize) -> Result<(), Killed> {
        if disk.failing {
            context.coverage.hit(Reached::StoppedByDisk);
            context.coverage.struck(Struck::Failed, Handler::LogWrite);
            return Err(Killed);
        }
        let mut now = Vec::new();
        for _ in 0..batch {
            let write = context.sync_one().expect("the batch was pending");
            if matches!(write, LogWrite::Reset { .. }) {
                disk.state = self.installing.take().expect("an image is being installed");
            }
            let Some(seq) = write.seq() else { continue };
            if context.faulty && context.random.chance(context.plan.disk.late_report) {
                context.coverage.hit(Reached::CompletionReordered);
                let delay = context.random.below(context.plan.timeout_us() / 2);
                context.later(delay, Event::Reported(seq));
            } else {
                now.push(seq);
            }
        }
        self.writing = false;
        self.start_writing(context);
        if context.plan.disk.late_report > 0 {
            context.random.shuffle(&mut now);
        }
        now.into_iter().try_for_each(|seq| self.reported(context, disk, seq))
    }

    fn reported(&mut self, context: &mut Context<CoreTier>, disk: &mut Disk, seq: WriteSeq) -> Result<(), Killed> {
        self.reports.add(seq);
        let mut i = 0;
        while i < self.held.len() {
            if self.reports.include(self.held[i].0) {
                let (_, message) = self.held.remove(i);
                context.survive(Handler::SendStep)?;
                send(context, message);
            } else {
                i += 1;
            }
        }
        self.step(context, disk, Input::Persisted { seq })
    }

    fn applied(&mut self, context: &mut Context<CoreTier>, disk: &mut Disk) -> Result<(), Killed> {
        self.applying = None;
        let batch = context.random.between(1, self.apply_queue.len() as u64);
        for _ in 0..batch {
            let entry = self.apply_queue.pop_front().expect("not empty while applying");
            self.apply(context, &entry);
        }
        self.start_applying(context);
        let index = self.state.index;
        self.ready.retain(|&(floor, wanted)| {
            if index < wanted {
                return true;
            }
            context.oracle.read(context.node, floor, index);
            context.coverage.hit(Reached::ConsistentRead);
            false
        });
        self.step(context, disk, Input::Applied { index })
    }

    fn apply(&mut self, context: &mut Context<CoreTier>, entry: &Entry) {
        self.state.apply(entry);
        assert!(
            context.oracle.committed_at(entry.index) == Some((self.state.term, self.state.chain)),
            "I-14: node {} applies {} and its state differs from that of the committed log",
            context.node,
            entry.index
        );
        let Some((term, id)) = self.unanswered.remove(&entry.index) else { return };
        if term == entry.term {
            let held = match &entry.payload {
                Payload::Command(command) => command.first_chunk().map(|id| u64::from_le_bytes(*id)),
                _ => None,
            };
            assert_eq!(held, Some(id), "the entry at {} of term {term} is another than was proposed", entry.index);
            context.clients.acknowledged.push((entry.index, entry.term));
            context.coverage.hit(Reached::WriteAcked);
        }
    }

    fn checkpoint(&mut self, context: &mut Context<CoreTier>, disk: &mut Disk) -> Result<(), Killed> {
        let delay = context.plan.disk.checkpoint_us;
        context.later(delay, Event::Checkpoint);
        // A state that is ahead of its log would lack what the log must say after a restart.
        let log = context.log().durable();
        let durable =
            log.base.0 <= self.state.index && log.at(self.state.index) == Some((self.state.term, self.state.chain));
        if self.installing.is_some() || !durable {
            return Ok(());
        }
        context.coverage.hit(Reached::Checkpointed);
        disk.state = self.state.clone();
        let load = &context.plan.load;
        // An image that has just become the state may not have been reported to the core yet.
        let applied = disk.state.index.min(self.raft.status().applied);
        let up_to = LogIndex(applied.0.saturating_sub(load.keep_entries));
        if up_to.0 >= self.compacted_at.0 + load.compact_entries {
            self.compacted_at = up_to;
            return self.step(context, disk, Input::Compact { up_to });
        }
        Ok(())
    }

    fn read_ready(&mut self, context: &mut Context<CoreTier>, read: ReadId, index: LogIndex) {
        let floor = self.reads.remove(&read).expect("a read is confirmed once");
        context.oracle.read(context.node, floor, index);
        if self.state.index >= index {
            context.coverage.hit(Reached::ConsistentRead);
        } else {
            self.ready.push((floor, index));
        }
    }
}

/// What an effect is, for the table of coverage.
fn handler(effect: &Effect) -> Handler {
    match effect {
        Effect::Persist { .. } => Handler::LogWrite,
        Effect::TruncatePrefix { .. } => Handler::LogTruncate,
        Effect::InstallSnapshot { .. } => Handler::InstallStep,
        Effect::Send(_) | Effect::SendAfter { .. } => Handler::SendStep,
        Effect::Apply { .. } => Handler::ApplyStep,
        Effect::ReadEntries { .. } => Handler::ReadBack,
        _ => Handler::OtherStep,
    }
}

/// Entries from the log as the process sees it.
fn read_back(context: &mut Context<CoreTier>, from: LogIndex, max_bytes: usize) -> Vec<Entry> {
    let log = context.log().issued();
    if from <= log.base.0 {
        return Vec::new();
    }
    let mut bytes = 0;
    let mut entries = Vec::new();
    for entry in log.entries_from(from) {
        bytes += entry.size();
        if !entries.is_empty() && bytes > max_bytes {
            break;
        }
        entries.push(entry.clone());
    }
    entries
}

/// Sends a message of the core, after a look at what it promises.
fn send(context: &mut Context<CoreTier>, message: Message) {
    context.sent(&message);
    context.send(message.to, &Packet::Raft(message));
}
