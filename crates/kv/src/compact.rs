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

/// Keeps every record that a snapshot in progress still has to read. Given back with [`KeySpace::unpin`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a pin that is not given back holds up compaction for ever"]
pub struct Pin(());

impl KeySpace {
    /// Removes what the compact revision hides for up to `max_keys` keys of the index, with their records.
    ///
    /// To be called only when every applied change is visible to readers: then no reader needs what goes. Does nothing,
    /// and is done, while there is a pin.
    ///
    /// # Errors
    /// The storage's; key space and records are then of no use any more.
    pub fn compact_step<W: WriteRecords>(&mut self, records: &mut W, max_keys: usize) -> Result<Step, W::Error> {
        if self.pins > 0 {
            return Ok(Step::Done);
        }
        let Some(pass) = self.pass.take().or_else(|| self.next_pass()) else { return Ok(Step::Done) };
        self.meta.pruning = self.meta.pruning.max(pass.target);
        let (gone, walked) = self.index.prune(pass.after.as_deref(), pass.target.0, max_keys);
        for at in gone {
            records.remove(at)?;
        }
        match walked {
            Walked::Until(key) => self.pass = Some(Pass { after: Some(key), ..pass }),
            Walked::All if mutant!(PassClaimsNewest) => {
                self.meta.pruned = self.meta.compact_revision;
                self.meta.pruning = self.meta.pruned;
            }
            Walked::All => self.meta.pruned = pass.target,
        }
        Ok(if self.pass.is_some() || self.next_pass().is_some() { Step::More } else { Step::Done })
    }

    /// Compaction carried out so far: what a physical compact request waits for.
    #[must_use]
    pub fn pruned(&self) -> Revision {
        self.meta.pruned
    }

    /// Stops physical compaction, also a pass under way: a snapshot reads record by record in many transactions, and if
    /// a tombstone went before it was read while the put before it had been, the snapshot would bring the key back.
    pub fn pin(&mut self) -> Pin {
        self.pins += 1;
        Pin(())
    }

    /// Ends a pin.
    ///
    /// # Panics
    /// If there is none.
    pub fn unpin(&mut self, pin: Pin) {
        let Pin(()) = pin;
        self.pins = self.pins.checked_sub(1).expect("a pin is given back to the key space that gave it");
    }

    fn next_pass(&self) -> Option<Pass> {
        let target = self.meta.compact_revision;
        (target > self.meta.pruned).then_some(Pass { target, after: None })
    }

    /// Oldest revision the index can still be read at: versions before may be gone, or be going.
    pub(crate) fn floor(&self) -> Revision {
        self.meta.pruning
    }
}
