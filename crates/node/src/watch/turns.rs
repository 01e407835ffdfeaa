//! Whose turn it is among the watches that are behind: where the next part of the history is read.
//!
//! Every other turn goes to a sweep from the oldest revision that is waited for to the one that was the newest when it began,
//! and over again. It takes along whoever waits where it passes, so that one reading serves them all, and in time it passes
//! everybody. The turns between go to the watch least far behind, which is often there after one.
//!
//! Always to read for the one furthest behind shares as much, but starves the rest: watches that begin at an old revision, one
//! after the other, keep one that is a little behind waiting until what it waits for is forgotten. A sweep alone has it wait
//! for all of a long history.

use std::collections::BTreeSet;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Where the sweep goes on.
    sweep: i64,
    /// Where it ends. If it went on to what is new, those that fall behind there time and again would hold it there.
    goal: i64,
    /// This turn is for the watch least far behind.
    nearest: bool,
}

impl Turns {
    /// The revision that this turn begins with if it is for one of these watches, which are by the revision told next.
    pub(super) fn begin_for(&self, behind: &BTreeSet<(i64, i64)>) -> Option<i64> {
        let watch = if self.nearest {
            behind.last()
        } else {
            let onward = behind.range((self.sweep, i64::MIN)..).next();
            onward.filter(|(next, _)| self.sweeps(*next)).or_else(|| behind.first())
        };
        watch.map(|(next, _)| *next)
    }

    /// The one of these revisions that this turn begins with.
    pub(super) fn choose(&self, begins: impl Iterator<Item = i64>) -> Option<i64> {
        if self.nearest { begins.max() } else { begins.min_by_key(|next| (!self.sweeps(*next), *next)) }
    }

    /// This turn ends: what it began with, `from`, was told up to and including `through`, and `newest` is published.
    pub(super) fn end(&mut self, from: i64, through: i64, newest: i64) {
        if !self.nearest {
            if !self.sweeps(from) {
                self.goal = newest;
            }
            self.sweep = through + 1;
        }
        self.nearest = !self.nearest;
    }

    /// Whether the sweep comes there before it begins anew.
    fn sweeps(&self, next: i64) -> bool {
        (self.sweep..=self.goal).contains(&next)
    }
}
