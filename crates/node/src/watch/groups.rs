//! Watches by what they are about: one group for each subject, and the synced members of it by stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::hub::StreamId;
use super::ranges::{End, RangeIndex};
use super::subject::{Keys, Subject};

/// Number of a group; used again after the group is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupId(pub(super) u32);

/// All watches with one subject.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) subject: Arc<Subject>,
    /// Watches that count on this group, synced or not.
    watches: usize,
    /// Those that are told of changes as they come.
    pub(super) synced: BTreeMap<StreamId, Members>,
}

/// The synced watches of one stream in one group; never empty.
#[derive(Debug)]
pub(super) struct Members {
    /// In order. Shared with answers on their way.
    pub(super) ids: Arc<Vec<i64>>,
    /// Events went to them since the last look by [`super::Hub::tick`].
    pub(super) told: bool,
}

/// All groups, found by subject and by key.
#[derive(Debug, Default)]
pub(super) struct Groups {
    slots: Vec<Option<Group>>,
    free: Vec<GroupId>,
    by_subject: BTreeMap<Arc<Subject>, GroupId>,
    by_key: BTreeMap<Bytes, Vec<GroupId>>,
    ranges: RangeIndex,
}

impl Groups {
    /// Counts one more watch of `subject`.
    pub(super) fn join(&mut self, subject: Subject) -> GroupId {
        if let Some(id) = self.by_subject.get(&subject) {
            let id = *id;
            self.get_mut(id).watches += 1;
            return id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            GroupId(u32::try_from(self.slots.len() - 1).expect("fewer groups than 2^32: watches are limited"))
        });
        match &subject.keys {
            Keys::One(key) => self.by_key.entry(key.clone()).or_default().push(id),
            Keys::Between(first, end) => self.ranges.insert(first.clone(), End::Before(end.clone()), id),
            Keys::From(first) => self.ranges.insert(first.clone(), End::Never, id),
        }
        let subject = Arc::new(subject);
        self.by_subject.insert(Arc::clone(&subject), id);
        self.slots[id.0 as usize] = Some(Group { subject, watches: 1, synced: BTreeMap::new() });
        id
    }

    /// One watch less, which is not synced any more; the last takes the group with it.
    pub(super) fn leave(&mut self, id: GroupId) {
        let group = self.get_mut(id);
        group.watches -= 1;
        if group.watches > 0 {
            return;
        }
        assert!(group.synced.is_empty(), "a group without watches has none that are synced");
        let group = self.slots[id.0 as usize].take().expect("the group is there");
        self.free.push(id);
        self.by_subject.remove(&group.subject);
        match &group.subject.keys {
            Keys::One(key) => {
                let groups = self.by_key.get_mut(key).expect("a watched key is known");
                groups.retain(|other| *other != id);
                if groups.is_empty() {
                    self.by_key.remove(key);
                }
            }
            Keys::Between(first, _) | Keys::From(first) => self.ranges.remove(first, id),
        }
    }

    /// Makes a watch one of those that are told of changes as they come.
    pub(super) fn add_synced(&mut self, id: GroupId, stream: StreamId, watch: i64, told: bool) {
        let members = self.get_mut(id).synced.entry(stream).or_insert_with(|| Members { ids: Arc::default(), told });
        members.told |= told;
        let ids = Arc::make_mut(&mut members.ids);
        let place = ids.binary_search(&watch).expect_err("a watch is synced once");
        ids.insert(place, watch);
    }

    /// Ends what [`Groups::add_synced`] began.
    pub(super) fn remove_synced(&mut self, id: GroupId, stream: StreamId, watch: i64) {
        let group = self.get_mut(id);
        let members = group.synced.get_mut(&stream).expect("a synced watch is in its group");
        let ids = Arc::make_mut(&mut members.ids);
        ids.remove(ids.binary_search(&watch).expect("a synced watch is in its group"));
        if ids.is_empty() {
            group.synced.remove(&stream);
        }
    }

    /// Takes out the synced watches of one stream in one group.
    pub(super) fn take_synced(&mut self, id: GroupId, stream: StreamId) -> Arc<Vec<i64>> {
        self.get_mut(id).synced.remove(&stream).map(|members| members.ids).unwrap_or_default()
    }

    /// Takes out all synced watches of all groups.
    pub(super) fn take_all_synced(&mut self) -> Vec<(StreamId, Arc<Vec<i64>>)> {
        let groups = self.slots.iter_mut().flatten();
        let members = groups.flat_map(|group| std::mem::take(&mut group.synced));
        members.map(|(stream, members)| (stream, members.ids)).collect()
    }

    /// Shows `visit` each group that a change of `key` concerns.
    pub(super) fn holding(&self, key: &[u8], mut visit: impl FnMut(GroupId)) {
        for id in self.by_key.get(key).into_iter().flatten() {
            visit(*id);
        }
        self.ranges.holding(key, visit);
    }

    pub(super) fn get(&self, id: GroupId) -> &Group {
        self.slots[id.0 as usize].as_ref().expect("a group stays while a watch counts on it")
    }

    pub(super) fn get_mut(&mut self, id: GroupId) -> &mut Group {
        self.slots[id.0 as usize].as_mut().expect("a group stays while a watch counts on it")
    }

    /// Panics if an invariant is broken.
    pub(super) fn check(&self) {
        self.ranges.check();
        assert_eq!(self.by_subject.len() + self.free.len(), self.slots.len());
        for group in self.slots.iter().flatten() {
            let synced: usize = group.synced.values().map(|members| members.ids.len()).sum();
            assert!(synced <= group.watches && group.watches > 0);
            assert!(group.synced.values().all(|members| !members.ids.is_empty() && members.ids.is_sorted()));
        }
    }
}
