//! Performs a replica's effects in order, and brings it what its stores have finished.

use std::mem;

use quorate_node::{Answer, Effect, Input, Node};
use quorate_raft::{NodeId, RoleKind};
use quorate_store::{LogWrite as StoreWrite, NodeMark};
use quorate_wire::peer::NodeState;

use super::{Event, FullTier, LogJob, Process, StateJob, jitter};
use crate::context::Context;
use crate::coverage::{Handler, Reached};
use crate::log_model::LogWrite;
use crate::tier::Killed;

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
}
