//! Processes whose data are wrong: a state machine that goes its own way, and files that rotted under a running process.
//!
//! The product finds both by itself: states by the hashes that nodes compare, files by reading them through.

use quorate_raft::{Entry, LogIndex, Term};
use quorate_store::{AppliedBatch, ApplyError, LogStore, NodeMark, ReadError, StatePlace, StateStore};

use super::{Course, FullTier, Process};
use crate::context::Context;
use crate::coverage::{Handler, Reached};
use crate::run::endure;
use crate::tier::Killed;

/// Bytes verified at a time: small, so that a reading goes on in the middle of everything.
const STEP_BYTES: usize = 4_096;

/// States remembered for a comparison later.
const MAX_REMEMBERED: usize = 500;

impl Process {
    /// Applies entries; the first write among them becomes another if the machine is about to stray.
    pub(super) fn apply_straying(
        &mut self,
        context: &mut Context<FullTier>,
        entries: &[Entry],
    ) -> Result<AppliedBatch, ApplyError> {
        let mut entries = entries.to_vec();
        if self.course == Course::Straying
            && let Some(index) = quorate_store::stray(&mut entries)
        {
            context.trace.line(context.now(), || format!("host {} strays at {index}", context.host.0));
            context.coverage.hit(Reached::Diverged);
            self.course = Course::Strayed(Vec::new());
        }
        self.state.apply(&entries)
    }

    /// A machine that strayed may be on course again: a restart replays what it did wrong.
    pub(super) fn compare_course(&mut self, context: &Context<FullTier>, index: LogIndex, term: Term) {
        let view = self.state.view();
        let own = (term, view.revision(), view.digest().1);
        let Course::Strayed(states) = &mut self.course else { return };
        states.push((index, own));
        states.retain(|(index, own)| context.clients.state_at(*index).is_none_or(|others| others == *own));
        if states.len() > MAX_REMEMBERED {
            states.remove(0);
        }
        if states.iter().any(|(index, _)| context.clients.state_at(*index).is_some()) {
            self.course = Course::True;
        }
    }

    /// Reads both files through, as the runtime does in the background; what it finds bars the node and ends it.
    pub(super) fn verify(&mut self, context: &mut Context<FullTier>) -> Result<(), Killed> {
        match verify_files(&self.log, &self.state) {
            Ok(()) => {
                context.coverage.hit(Reached::Verified);
                Ok(())
            }
            Err(Some(error)) => Err(self.read_failed(context, error)),
            Err(None) => {
                assert!(self.has_doubtful_disk(), "node {} cannot read its sound files", context.node);
                Err(Killed)
            }
        }
    }

    /// What follows when a file cannot be read: decay bars the node, and ends it as a failure does.
    pub(super) fn read_failed(&mut self, context: &mut Context<FullTier>, error: ReadError) -> Killed {
        if !(self.has_doubtful_disk() && matches!(error, ReadError::Damaged { .. })) {
            return self.stopped_by(context, Handler::ReadBack, &error);
        }
        context.trace.line(context.now(), || format!("host {} finds decay: {error}", context.host.0));
        context.coverage.hit(Reached::DecayFound);
        let mark = NodeMark::Damaged { reason: error.to_string() };
        // Where it cannot be written, the next reading finds the same.
        let _ = endure(|| self.log.set_mark(mark).is_ok());
        Killed
    }
}

/// Reads both files through. No error but a failure is a panic below the store, which rotten pages may cause.
pub(super) fn verify_files(log: &LogStore, state: &StateStore) -> Result<(), Option<ReadError>> {
    let read = || {
        let (view, reader) = (state.view(), log.reader());
        let mut place = Some(StatePlace::START);
        while let Some(from) = place {
            place = view.verify(from, STEP_BYTES)?.1;
        }
        let mut place = Some(LogIndex(0));
        while let Some(from) = place {
            place = reader.verify(from, STEP_BYTES)?.1;
        }
        Ok(())
    };
    endure(read).map_err(|_| None)?.map_err(Some)
}
