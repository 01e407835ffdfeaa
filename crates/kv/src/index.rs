//! The key index: for every key, where its records are.
//!
//! Lives in memory on every node, so its size decides the memory of the store: a key with one version takes a boxed key
//! and 24 bytes; only a key with history pays for a list.

mod versions;

use std::collections::BTreeMap;

use crate::interval::Interval;
use crate::revision::RecordKey;

pub(crate) use versions::{KeyVersions, Lineage, Live, Stamp};

/// All keys that have a record, in key order.
#[derive(Debug, Default)]
pub(crate) struct KeyIndex {
    keys: BTreeMap<Box<[u8]>, KeyVersions>,
}

/// Whether a bounded walk saw the whole interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Walked {
    /// Up to and including this key.
    Until(Box<[u8]>),
    /// To the end.
    All,
}

impl KeyIndex {
    /// Keys with at least one record, tombstones included.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The version of `key` that a read at `revision` sees.
    pub(crate) fn find(&self, key: &[u8], revision: i64) -> Option<Live> {
        self.keys.get(key)?.live_at(revision)
    }

    /// Notes a put at `at` and tells the new version's lineage.
    pub(crate) fn put(&mut self, key: &[u8], at: RecordKey) -> Lineage {
        if let Some(versions) = self.keys.get_mut(key) {
            return versions.put(at);
        }
        let created = Lineage::created(at);
        self.keys.insert(key.into(), KeyVersions::first(at, created));
        created
    }

    /// The keys of `interval` with their versions, for noting tombstones.
    pub(crate) fn interval_mut<'a>(
        &'a mut self,
        interval: Interval<'a>,
    ) -> impl Iterator<Item = (&'a [u8], &'a mut KeyVersions)> {
        let found = interval.bounds(None).map(|bounds| self.keys.range_mut::<[u8], _>(bounds));
        found.into_iter().flatten().map(|(key, versions)| (&**key, versions))
    }

    /// Shows `visit` each key of `interval` after `after` that is alive at `revision`, until it returns false or
    /// `max_visits` keys, dead ones included, were looked at.
    pub(crate) fn walk(
        &self,
        interval: Interval<'_>,
        after: Option<&[u8]>,
        revision: i64,
        max_visits: usize,
        mut visit: impl FnMut(&[u8], Live) -> bool,
    ) -> Walked {
        assert!(max_visits > 0, "a walk of no keys never ends");
        if let (Interval::One(key), None) = (interval, after) {
            if let Some(live) = self.find(key, revision) {
                visit(key, live);
            }
            return Walked::All;
        }
        let Some(bounds) = interval.bounds(after) else { return Walked::All };
        for (visited, (key, versions)) in self.keys.range::<[u8], _>(bounds).enumerate() {
            let go_on = versions.live_at(revision).is_none_or(|live| visit(key, live));
            if !go_on || visited + 1 == max_visits {
                return Walked::Until(key.clone());
            }
        }
        Walked::All
    }

    /// Visits up to `max_keys` keys after `after`, whatever their versions.
    pub(crate) fn walk_all(
        &self,
        after: Option<&[u8]>,
        max_keys: usize,
        mut visit: impl FnMut(&[u8], &KeyVersions),
    ) -> Walked {
        assert!(max_keys > 0, "a walk of no keys never ends");
        let bounds = Interval::From(b"").bounds(after).expect("an open interval is never empty");
        for (visited, (key, versions)) in self.keys.range::<[u8], _>(bounds).enumerate() {
            visit(key, versions);
            if visited + 1 == max_keys {
                return Walked::Until(key.clone());
            }
        }
        Walked::All
    }

    /// Drops from up to `max_keys` keys after `after` the versions that a compaction at `target` lets go, and names
    /// their records.
    pub(crate) fn prune(&mut self, after: Option<&[u8]>, target: i64, max_keys: usize) -> (Vec<RecordKey>, Walked) {
        assert!(max_keys > 0, "a walk of no keys never ends");
        let bounds = Interval::From(b"").bounds(after).expect("an open interval is never empty");
        let mut gone = Vec::new();
        let mut dead: Vec<Box<[u8]>> = Vec::new();
        let mut walked = Walked::All;
        for (visited, (key, versions)) in self.keys.range_mut::<[u8], _>(bounds).enumerate() {
            if !versions.prune(target, &mut gone) {
                dead.push(key.clone());
            }
            if visited + 1 == max_keys {
                walked = Walked::Until(key.clone());
                break;
            }
        }
        for key in dead {
            self.keys.remove(&key);
        }
        (gone, walked)
    }

    /// Notes a record read back from storage; they come in record order.
    pub(crate) fn restore(&mut self, key: &[u8], stamp: Stamp, lineage: Lineage) {
        match self.keys.get_mut(key) {
            Some(versions) => versions.restore(stamp, lineage),
            None => {
                self.keys.insert(key.into(), KeyVersions::from_stamps(vec![stamp], lineage));
            }
        }
    }

    /// An index of keys in order: building it at once fills its nodes, which inserting in order leaves half empty.
    pub(crate) fn from_sorted(keys: Vec<(Box<[u8]>, KeyVersions)>) -> KeyIndex {
        KeyIndex { keys: keys.into_iter().collect() }
    }

    /// Panics if an invariant is broken.
    pub(crate) fn check(&self, newest: i64) {
        for (key, versions) in &self.keys {
            assert!(!key.is_empty(), "an empty key is in the index");
            versions.check(newest);
        }
    }
}
