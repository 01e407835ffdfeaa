//! The versions of one key, in 24 bytes while there is one.
//!
//! Invariants, checked by [`KeyVersions::check`]: records are in order and none lies after the store's revision; the
//! single inline version is alive; the lineage is zero exactly if the newest record is a tombstone.

use std::num::NonZeroI64;

use crate::revision::RecordKey;

/// Where the records of one key are, and what the next put needs to know of the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyVersions {
    /// One live version whose numbers fit. Create revisions are never 0, which leaves room for the other variant's tag.
    One { create_revision: NonZeroI64, revision: i64, version: u32, sub: u32 },
    /// Everything else.
    Many(Box<History>),
}

/// All known records of a key, oldest first; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct History {
    lineage: Lineage,
    stamps: Vec<Stamp>,
}

/// A record's place and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) revision: i64,
    pub(crate) sub: u32,
    pub(crate) tombstone: bool,
}

/// Create revision and version of a key's newest record; both 0 for a tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lineage {
    pub(crate) create_revision: i64,
    pub(crate) version: i64,
}

/// A version that a read sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) at: RecordKey,
    /// Known without reading the record only for a key's newest version.
    pub(crate) lineage: Option<Lineage>,
}

impl Lineage {
    const NONE: Lineage = Lineage { create_revision: 0, version: 0 };

    /// Of a key created by a put at `at`.
    pub(crate) fn created(at: RecordKey) -> Lineage {
        Lineage { create_revision: at.revision, version: 1 }
    }

    /// After one put more, at `at`.
    fn after_put(self, at: RecordKey) -> Lineage {
        if self == Lineage::NONE {
            return Lineage::created(at);
        }
        Lineage { create_revision: self.create_revision, version: self.version + 1 }
    }
}

impl Stamp {
    fn put(at: RecordKey) -> Stamp {
        Stamp { revision: at.revision, sub: at.sub, tombstone: false }
    }

    pub(crate) fn at(self) -> RecordKey {
        RecordKey { revision: self.revision, sub: self.sub }
    }
}

impl KeyVersions {
    /// A key with one live version.
    pub(crate) fn first(at: RecordKey, lineage: Lineage) -> KeyVersions {
        Self::from_stamps(vec![Stamp::put(at)], lineage)
    }

    /// A key with these records, the newest of which has `lineage`.
    pub(crate) fn from_stamps(stamps: Vec<Stamp>, lineage: Lineage) -> KeyVersions {
        if let [stamp] = stamps[..]
            && let Some(inline) = Self::inline(stamp, lineage)
        {
            return inline;
        }
        KeyVersions::Many(Box::new(History { lineage, stamps }))
    }

    fn inline(stamp: Stamp, lineage: Lineage) -> Option<KeyVersions> {
        let create_revision = NonZeroI64::new(lineage.create_revision)?;
        let version = u32::try_from(lineage.version).ok()?;
        (!stamp.tombstone).then_some(KeyVersions::One {
            create_revision,
            revision: stamp.revision,
            version,
            sub: stamp.sub,
        })
    }

    /// Lineage of the newest record.
    pub(crate) fn lineage(&self) -> Lineage {
        match self {
            KeyVersions::One { create_revision, version, .. } => {
                Lineage { create_revision: create_revision.get(), version: i64::from(*version) }
            }
            KeyVersions::Many(history) => history.lineage,
        }
    }

    /// All records, oldest first.
    pub(crate) fn stamps(&self) -> impl DoubleEndedIterator<Item = Stamp> + '_ {
        let (one, many) = match self {
            KeyVersions::One { revision, sub, .. } => {
                (Some(Stamp { revision: *revision, sub: *sub, tombstone: false }), None)
            }
            KeyVersions::Many(history) => (None, Some(history.stamps.iter().copied())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// The version a read at `revision` sees.
    pub(crate) fn live_at(&self, revision: i64) -> Option<Live> {
        match self {
            KeyVersions::One { revision: put, sub, .. } => (*put <= revision)
                .then(|| Live { at: RecordKey { revision: *put, sub: *sub }, lineage: Some(self.lineage()) }),
            KeyVersions::Many(history) => {
                let seen = match history.stamps.last() {
                    Some(newest) if newest.revision <= revision => history.stamps.len(),
                    _ => history.stamps.partition_point(|stamp| stamp.revision <= revision),
                };
                let stamp = history.stamps[..seen].last().filter(|stamp| !stamp.tombstone)?;
                let newest = seen == history.stamps.len() || mutant!(LineageOfNewest);
                let lineage = newest.then_some(history.lineage);
                Some(Live { at: stamp.at(), lineage })
            }
        }
    }

    /// Notes a put and tells its lineage.
    pub(crate) fn put(&mut self, at: RecordKey) -> Lineage {
        let lineage = self.lineage().after_put(at);
        self.push(Stamp::put(at), lineage);
        lineage
    }

    /// Notes a deletion of a live key.
    pub(crate) fn delete(&mut self, at: RecordKey) {
        assert!(self.lineage() != Lineage::NONE, "a dead key is deleted again at {at}");
        self.push(Stamp { revision: at.revision, sub: at.sub, tombstone: true }, Lineage::NONE);
    }

    /// Notes a record read back from storage, newer than all known ones.
    pub(crate) fn restore(&mut self, stamp: Stamp, lineage: Lineage) {
        self.push(stamp, lineage);
    }

    fn push(&mut self, stamp: Stamp, lineage: Lineage) {
        let newest = self.stamps().next_back().expect("a key has records");
        assert!(newest.at() < stamp.at(), "record {} comes after {}", stamp.at(), newest.at());
        if let KeyVersions::Many(history) = self {
            history.stamps.push(stamp);
            history.lineage = lineage;
            return;
        }
        *self = KeyVersions::Many(Box::new(History { lineage, stamps: vec![newest, stamp] }));
    }

    /// Drops what no read at `target` or later needs into `gone`; false if nothing is left of the key.
    ///
    /// Records exactly at `target` stay, tombstones too: a watch that starts there must still see them (etcd#19179).
    pub(crate) fn prune(&mut self, target: i64, gone: &mut Vec<RecordKey>) -> bool {
        // The one inline version is alive: a read at any later revision needs it.
        let KeyVersions::Many(history) = self else { return true };
        let dropped = history.hidden(target);
        gone.extend(history.stamps.drain(..dropped).map(Stamp::at));
        if dropped > 0 {
            history.stamps.shrink_to_fit();
        }
        if let [stamp] = history.stamps[..]
            && let Some(inline) = Self::inline(stamp, history.lineage)
        {
            *self = inline;
            return true;
        }
        !history.stamps.is_empty()
    }

    /// The records that no compaction up to `target` lets go, oldest first.
    pub(crate) fn kept(&self, target: i64) -> impl Iterator<Item = Stamp> + '_ {
        let hidden = match self {
            KeyVersions::One { .. } => 0,
            KeyVersions::Many(history) => history.hidden(target),
        };
        self.stamps().skip(hidden)
    }

    /// Panics if an invariant is broken.
    pub(crate) fn check(&self, newest: i64) {
        let stamps: Vec<Stamp> = self.stamps().collect();
        assert!(stamps.is_sorted_by(|a, b| a.at() < b.at()), "records out of order: {stamps:?}");
        let last = stamps.last().expect("a key has records");
        assert!(last.revision <= newest, "record {} lies after the store's revision {newest}", last.at());
        assert_eq!(last.tombstone, self.lineage() == Lineage::NONE, "lineage and newest record disagree: {self:?}");
    }
}

impl History {
    /// How many records, from the oldest on, no read at `target` or later needs.
    fn hidden(&self, target: i64) -> usize {
        let before = self.stamps.partition_point(|stamp| stamp.revision < target);
        let at_target = self.stamps.get(before).is_some_and(|stamp| stamp.revision == target);
        let newest_before_is_needed = !at_target && self.stamps[..before].last().is_some_and(|stamp| !stamp.tombstone);
        let is_taken = |stamp: &Stamp| mutant!(TombstoneAtTargetPruned) && stamp.tombstone && stamp.revision == target;
        let before = before + usize::from(self.stamps.get(before).is_some_and(is_taken));
        if newest_before_is_needed { before - 1 } else { before }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: i64) -> RecordKey {
        RecordKey { revision, sub: 0 }
    }

    /// Builds a key from `+` puts and `-` deletions at rising revisions from 2, prunes at `target`, and shows what is
    /// left.
    #[track_caller]
    fn check_prune(changes: &str, target: i64, left: &[i64]) {
        let mut versions = KeyVersions::first(at(2), Lineage::created(at(2)));
        for (revision, change) in (3..).zip(changes.chars().skip(1)) {
            match change {
                '+' => drop(versions.put(at(revision))),
                _ => versions.delete(at(revision)),
            }
        }
        let all = versions.stamps().count();
        let mut gone = Vec::new();
        let kept = versions.prune(target, &mut gone);
        let found: Vec<i64> = versions.stamps().map(|stamp| stamp.revision).collect();
        assert_eq!(found, left);
        assert_eq!(kept, !left.is_empty());
        assert_eq!(gone.len() + left.len(), all);
        if kept {
            versions.check(100);
        }
    }

    #[test]
    fn one_version_takes_24_bytes() {
        assert_eq!(size_of::<KeyVersions>(), 24);
        assert_eq!(size_of::<Stamp>(), 16);
    }

    #[test]
    fn pruning_keeps_what_a_read_at_the_target_or_later_needs() {
        check_prune("+", 9, &[2]);
        check_prune("+++", 1, &[2, 3, 4]);
        check_prune("+++", 2, &[2, 3, 4]);
        check_prune("+++", 3, &[3, 4]);
        check_prune("+++", 4, &[4]);
        check_prune("+++", 9, &[4]);
    }

    #[test]
    fn pruning_keeps_a_tombstone_exactly_at_the_target() {
        check_prune("+-", 2, &[2, 3]);
        check_prune("+-", 3, &[3]);
        check_prune("+-", 4, &[]);
        check_prune("+-+", 3, &[3, 4]);
        check_prune("+-+", 4, &[4]);
        check_prune("+-+-", 4, &[4, 5]);
        check_prune("+-+-", 6, &[]);
    }

    #[test]
    fn a_version_past_four_billion_is_counted_on() {
        let lineage = Lineage { create_revision: 2, version: i64::from(u32::MAX) };
        let mut versions = KeyVersions::first(at(9), lineage);
        assert!(matches!(versions, KeyVersions::One { .. }));
        assert_eq!(versions.put(at(10)).version, i64::from(u32::MAX) + 1);
        versions.prune(10, &mut Vec::new());
        assert!(matches!(versions, KeyVersions::Many(_)));
        assert_eq!(versions.put(at(11)).version, i64::from(u32::MAX) + 2);
    }
}
