//! Physical compaction: taking away, step by step, what the compact revision has already hidden from every client.
//!
//! A node's own matter: its pace changes neither answers nor the digest.

use crate::index::Walked;
use crate::keyspace::KeySpace;
use crate::range::Step;
use crate::records::WriteRecords;
use crate::revision::Revision;

/// One walk over the index, on behalf of one compact revision.
#[derive(Debug)]
pub(crate) struct Pass {
    target: Revision,
    after: Option<Box<[u8]>>,
}

/// Keeps records that a snapshot in progress still has to read. Given back with [`KeySpace::unpin`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a pin that is not given back holds up compaction for ever"]
pub struct Pin {
    compact_revision: Revision,
}

impl KeySpace {
    /// Removes what the compact revision hides for up to `max_keys` keys of the index, with their records.
    ///
    /// To be called only when every applied change is visible to readers: then no reader needs what goes.
    ///
    /// # Errors
    /// The storage's; key space and records are then of no use any more.
    pub fn compact_step<W: WriteRecords>(&mut self, records: &mut W, max_keys: usize) -> Result<Step, W::Error> {
        let Some(pass) = self.pass.take().or_else(|| self.next_pass()) else { return Ok(Step::Done) };
        self.meta.pruning = self.meta.pruning.max(pass.target);
        let (gone, walked) = self.index.prune(pass.after.as_deref(), pass.target.0, max_keys);
        for at in gone {
            records.remove(at)?;
        }
        match walked {
            Walked::Until(key) => self.pass = Some(Pass { after: Some(key), ..pass }),
            Walked::All => self.meta.pruned = pass.target,
        }
        Ok(if self.pass.is_some() || self.next_pass().is_some() { Step::More } else { Step::Done })
    }

    /// Compaction carried out so far: what a physical compact request waits for.
    #[must_use]
    pub fn pruned(&self) -> Revision {
        self.meta.pruned
    }

    /// Holds physical compaction where the compact revision is now: a snapshot taken now names that revision, so it may miss what
    /// is hidden already but not what a later compaction hides.
    pub fn pin(&mut self) -> Pin {
        let compact_revision = self.meta.compact_revision;
        *self.pins.entry(compact_revision).or_default() += 1;
        Pin { compact_revision }
    }

    /// Ends a pin.
    ///
    /// # Panics
    /// If it is not of this key space.
    pub fn unpin(&mut self, pin: Pin) {
        let pins = self.pins.get_mut(&pin.compact_revision).expect("a pin is given back to the key space that gave it");
        *pins -= 1;
        if *pins == 0 {
            self.pins.remove(&pin.compact_revision);
        }
    }

    fn next_pass(&self) -> Option<Pass> {
        let pinned = self.pins.keys().next().copied();
        let target = pinned.map_or(self.meta.compact_revision, |pinned| pinned.min(self.meta.compact_revision));
        (target > self.meta.pruned).then_some(Pass { target, after: None })
    }

    /// Oldest revision the index can still be read at: versions before may be gone, or be going.
    pub(crate) fn floor(&self) -> Revision {
        self.meta.pruning
    }
}
