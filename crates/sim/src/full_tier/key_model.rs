//! Keys as the committed log makes them, with everything they ever held: the part of the plain replay that answers ranges at
//! any revision and says what watchers have to be told.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use quorate_kv::{Change, KeyValue, RangeRequest, RangeResponse, Record, RecordKey, Revision, SortOrder, SortTarget};

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyEvent {
    pub(super) revision: i64,
    pub(super) key: Bytes,
    /// None = deleted.
    pub(super) now: Option<KeyValue>,
    /// What the key held before the revision, as etcd tells it: what a transaction put and took back is not in between.
    pub(super) before: Option<KeyValue>,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct KeyModel {
    versions: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
    /// All changes, in order.
    events: Vec<KeyEvent>,
}

type Interval = (Bound<Bytes>, Bound<Bytes>);

/// The keys of a request: one, those before an end, or all from one on. None if there can be no such key.
fn interval(key: &Bytes, range_end: &Bytes) -> Option<Interval> {
    let end = match &range_end[..] {
        [] => Bound::Included(key.clone()),
        [0] => Bound::Unbounded,
        end if *end <= key[..] => return None,
        _ => Bound::Excluded(range_end.clone()),
    };
    Some((Bound::Included(key.clone()), end))
}

/// Whether the keys of a request hold `name`.
pub(super) fn holds(key: &Bytes, range_end: &Bytes, name: &Bytes) -> bool {
    use std::ops::RangeBounds;
    interval(key, range_end).is_some_and(|interval| interval.contains(name))
}

impl KeyEvent {
    /// As the node has to record it: the `sub`th change of its revision.
    pub(super) fn is(&self, change: &Change, sub: usize) -> bool {
        let at = RecordKey { revision: self.revision, sub: sub as u32 };
        let record = match &self.now {
            None => Record::tombstone(self.key.clone()),
            Some(kv) => Record {
                key: kv.key.clone(),
                value: kv.value.clone(),
                create_revision: kv.create_revision,
                version: kv.version,
                lease: kv.lease,
                tombstone: false,
            },
        };
        *change == Change { at, record }
    }
}

impl KeyModel {
    /// All changes there ever were, in order.
    pub(super) fn events(&self) -> &[KeyEvent] {
        &self.events
    }

    /// What a read of the key at `revision` sees.
    pub(super) fn at(&self, key: &Bytes, revision: i64) -> Option<&KeyValue> {
        seen(self.versions.get(key)?, revision)
    }

    /// The keys of an interval that are there at `revision`, in order.
    pub(super) fn alive(&self, key: &Bytes, range_end: &Bytes, revision: i64) -> impl Iterator<Item = &KeyValue> {
        let keys = interval(key, range_end).into_iter().flat_map(|interval| self.versions.range(interval));
        keys.filter_map(move |(_, versions)| seen(versions, revision))
    }

    /// Records that are left once everything that a compaction to `target` hides is gone.
    pub(super) fn records_from(&self, target: i64) -> u64 {
        let left = |versions: &Vec<(i64, Option<KeyValue>)>| {
            let before = versions.partition_point(|(at, _)| *at < target);
            let at_target = versions.get(before).is_some_and(|(at, _)| *at == target);
            let needed = !at_target && versions[..before].last().is_some_and(|(_, version)| version.is_some());
            (versions.len() - before) as u64 + u64::from(needed)
        };
        self.versions.values().map(left).sum()
    }

    fn push(&mut self, revision: i64, key: &Bytes, now: Option<KeyValue>) {
        let before = self.at(key, revision - 1).cloned();
        self.versions.entry(key.clone()).or_default().push((revision, now.clone()));
        self.events.push(KeyEvent { revision, key: key.clone(), now, before });
    }

    /// Sets a key; what it held.
    pub(super) fn put(&mut self, revision: i64, key: &Bytes, value: &Bytes, lease: i64) -> Option<KeyValue> {
        let before = self.at(key, revision).cloned();
        let now = KeyValue {
            key: key.clone(),
            create_revision: before.as_ref().map_or(revision, |it| it.create_revision),
            mod_revision: revision,
            version: before.as_ref().map_or(1, |it| it.version + 1),
            value: value.clone(),
            lease,
        };
        self.push(revision, key, Some(now));
        before
    }

    /// Deletes keys; what they held, in key order.
    pub(super) fn delete(&mut self, revision: i64, key: &Bytes, range_end: &Bytes) -> Vec<KeyValue> {
        let deleted: Vec<KeyValue> = self.alive(key, range_end, revision).cloned().collect();
        for kv in &deleted {
            self.push(revision, &kv.key, None);
        }
        deleted
    }

    /// What a range reads at `revision`, while the store is at `current`.
    pub(super) fn range(&self, request: &RangeRequest, revision: i64, current: i64) -> RangeResponse {
        let bounded = |number: i64, min: i64, max: i64| (min == 0 || number >= min) && (max == 0 || number <= max);
        let alive: Vec<&KeyValue> = self.alive(&request.key, &request.range_end, revision).collect();
        let count = alive.len() as i64;
        let wanted = alive.into_iter().filter(|kv| {
            bounded(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
                && bounded(kv.create_revision, request.min_create_revision, request.max_create_revision)
        });
        let mut kvs: Vec<KeyValue> = if request.count_only { Vec::new() } else { wanted.cloned().collect() };
        let limit = if request.limit > 0 { request.limit as usize } else { usize::MAX };
        let of_mod = [request.min_mod_revision, request.max_mod_revision];
        let of_create = [request.min_create_revision, request.max_create_revision];
        // etcd reads no more than the limit and one where nothing says that it must see all, and sorts that.
        if request.sort_order == SortOrder::None && (of_mod, of_create) == ([0, 0], [0, 0]) {
            kvs.truncate(limit.saturating_add(1));
        }
        sort(&mut kvs, request);
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        RangeResponse { kvs, more, count, revision: Revision(current) }
    }
}

/// By the target alone: what is equal there stays in key order, whichever way the rest is turned.
fn sort(kvs: &mut [KeyValue], request: &RangeRequest) {
    let order = |a: &KeyValue, b: &KeyValue| match request.sort_target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    kvs.sort_by(|a, b| if request.sort_order == SortOrder::Descend { order(b, a) } else { order(a, b) });
}

fn seen(versions: &[(i64, Option<KeyValue>)], revision: i64) -> Option<&KeyValue> {
    let newest = versions.iter().rev().find(|(at, _)| *at <= revision);
    newest.and_then(|(_, version)| version.as_ref())
}
