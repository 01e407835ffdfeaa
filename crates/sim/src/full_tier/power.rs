//! The power goes in the middle of a call to the disk.

use super::{FullTier, Process};
use crate::context::Context;
use crate::coverage::{Handler, Struck};
use crate::tier::Killed;

/// How many of a million calls that are often made meet a loss of power,
pub(super) const OFTEN: u32 = 1_000;
/// and how many of those that are seldom made.
pub(super) const SELDOM: u32 = 75_000;

/// Calls to the storage from which on a cut comes, at most: few calls make more.
const MOST_STORAGE_CALLS: u64 = 20;

impl Process {
    /// The power may go at one of the storage calls of what comes next, which [`Process::power_is_on`] ends.
    pub(super) fn may_lose_power(&self, context: &mut Context<FullTier>, per_million: u32) {
        // What rotten files do to a write is for redb to say.
        if context.faulty && !self.has_doubtful_disk() && context.random.chance(per_million) {
            self.files.cut_power_after(context.random.between(1, MOST_STORAGE_CALLS));
        }
    }

    /// The power went while something was written.
    pub(super) fn power_is_on(&self, context: &mut Context<FullTier>, call: Handler) -> Result<(), Killed> {
        if self.files.is_power_cut() {
            context.coverage.struck(Struck::Killed, call);
            return Err(Killed);
        }
        self.files.call_off_power_cut();
        Ok(())
    }
}
