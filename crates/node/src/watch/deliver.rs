//! How changes reach watches: as they are published, or read back from the store by those that were behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_kv::{Change, KeyValue, Revision};

use super::answer::{Answer, Events, Outlet};
use super::groups::GroupId;
use super::hub::{Hub, StreamId};
use super::pack::Encoder;
use super::subject::Subject;

/// Changes that became visible to readers together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The revision before the first change.
    pub before: Revision,
    /// The revision after the last. Whatever lies between and is not in `changes` is read back from the store.
    pub through: Revision,
    /// The oldest revision there is.
    pub compacted: Revision,
    /// In order.
    pub changes: Vec<Change>,
}

/// A part of the history that watches wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed {
    /// The first revision.
    pub from: Revision,
    /// The last.
    pub to: Revision,
}

/// Where former versions of keys come from.
pub trait Previous {
    /// A storage failure, which is fatal for the node.
    type Error;

    /// What a read of each key at its revision sees: `None` if the key is not alive there, or if that is forgotten.
    ///
    /// `wanted` is in the order of the revisions. The answers are for the first of it, all of one revision or none: they end
    /// with the revision that reaches `max_bytes`.
    ///
    /// # Errors
    /// The storage's own.
    fn previous(&self, wanted: &[(Bytes, Revision)], max_bytes: usize) -> Result<Vec<Option<KeyValue>>, Self::Error>;
}

impl Batch {
    /// Appends the batch that follows; gives it back if it does not follow.
    ///
    /// # Errors
    /// `next` itself.
    pub fn extend(&mut self, next: Batch) -> Result<(), Batch> {
        if next.before != self.through {
            return Err(next);
        }
        self.through = next.through;
        self.compacted = next.compacted;
        self.changes.extend(next.changes);
        Ok(())
    }
}

impl<O: Outlet> Hub<O> {
    /// Tells all synced watches what changed. Those whose outlets have no room fall behind.
    ///
    /// What was published before is not told again; what lies between the last batch and this one is read back.
    ///
    /// # Errors
    /// The storage's.
    pub fn publish<P: Previous>(&mut self, mut batch: Batch, records: &P) -> Result<(), P::Error> {
        let (before, through) = (batch.before.0, batch.through.0);
        self.compacted = self.compacted.max(batch.compacted.0);
        if through > self.revision {
            let next = self.revision + 1;
            if before > self.revision || (batch.changes.is_empty() && before < through) {
                self.all_fall_behind(if mutant!(WatchBackAfterImage) { self.compacted.max(1) } else { next });
            } else {
                batch.changes.retain(|change| change.at.revision >= next);
                self.tell_all(&batch.changes, through, records)?;
            }
            self.revision = through;
            self.begin_those_ahead(through);
        }
        self.end_compacted();
        Ok(())
    }

    /// Tells changes part by part: together with their former versions they may be far more than outlets have room for.
    fn tell_all<P: Previous>(&mut self, mut changes: &[Change], through: i64, records: &P) -> Result<(), P::Error> {
        loop {
            // One that begins within the part reads its own back.
            self.begin_those_ahead(self.revision + 1);
            let told = self.tell(first_part(changes, self.limits.part_bytes), through, records)?;
            changes = &changes[told..];
            let Some(next) = changes.first() else { return Ok(()) };
            self.revision = next.at.revision - 1;
        }
    }

    /// Tells the first of `changes`, whole revisions always; answers how many.
    fn tell<P: Previous>(&mut self, changes: &[Change], through: i64, records: &P) -> Result<usize, P::Error> {
        let mut concerned = self.concerned(changes);
        if concerned.is_empty() {
            return Ok(changes.len());
        }
        let previous = self.fetch_previous(changes, &concerned, records)?;
        let told = previous.len();
        concerned.retain(|_, wanted| {
            wanted.truncate(wanted.partition_point(|at| *at < told));
            !wanted.is_empty()
        });
        let changes = &changes[..told];
        let mut encoder = Encoder::new(changes, previous);
        let splits = self.splits();
        for (id, wanted) in concerned {
            let group = self.groups.get_mut(id);
            let packed = encoder.pack(&wanted, &group.subject, splits);
            let mut full = Vec::new();
            for (stream, members) in &mut group.synced {
                let outlet = &mut self.streams.get_mut(stream).expect("a member's stream is open").outlet;
                if !outlet.has_room() {
                    full.push(*stream);
                    continue;
                }
                members.told = true;
                self.figures.events_told += put_all(outlet, &members.ids, &packed, Revision(through));
            }
            for stream in full {
                self.members_fall_behind(id, stream, self.revision + 1);
            }
        }
        Ok(told)
    }

    /// The numbers of the changes that each group with synced watches wants.
    fn concerned(&self, changes: &[Change]) -> BTreeMap<GroupId, Vec<usize>> {
        let mut concerned: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
        for (number, change) in changes.iter().enumerate() {
            self.groups.holding(change.key(), |id| {
                let group = self.groups.get(id);
                if !group.synced.is_empty() && group.subject.wants(&change.record) {
                    concerned.entry(id).or_default().push(number);
                }
            });
        }
        concerned
    }

    /// The former version of each change that is told together with it, for the first of `changes`: whole revisions, one at
    /// least, and no more of them than reach the size of a part.
    fn fetch_previous<P: Previous>(
        &self,
        changes: &[Change],
        concerned: &BTreeMap<GroupId, Vec<usize>>,
        records: &P,
    ) -> Result<Vec<Option<KeyValue>>, P::Error> {
        let mut previous = vec![None; changes.len()];
        let mut numbers: Vec<usize> = Vec::new();
        for (id, wanted) in concerned {
            if self.groups.get(*id).subject.prev_kv {
                // A created key was nothing before.
                let created = |at: usize| changes[at].record.create_revision == changes[at].at.revision;
                numbers.extend(wanted.iter().filter(|at| !created(**at)));
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.is_empty() {
            return Ok(previous);
        }
        let asked: Vec<(Bytes, Revision)> =
            numbers.iter().map(|at| (changes[*at].key().clone(), Revision(changes[*at].at.revision - 1))).collect();
        let found = records.previous(&asked, self.limits.part_bytes)?;
        if let Some(missing) = numbers.get(found.len()) {
            let reached = changes[*missing].at.revision;
            previous.truncate(changes.partition_point(|change| change.at.revision < reached));
        }
        let answered = numbers.partition_point(|at| *at < previous.len());
        assert!(answered > 0 && answered == found.len(), "one answer for each key of some whole revisions");
        for (at, version) in numbers.into_iter().zip(found) {
            previous[at] = version;
        }
        Ok(previous)
    }

    /// The part of the history to read back next: what a watch whose turn it is, among those with room, waits for.
    pub fn behind(&mut self) -> Option<Missed> {
        let (streams, turns) = (&mut self.streams, &self.turns);
        let begins = self.lagging.iter().filter_map(|id| {
            let stream = streams.get_mut(id).expect("a lagging stream is open");
            stream.outlet.has_room().then(|| turns.begin_for(&stream.behind))?
        });
        let from = turns.choose(begins)?;
        Some(Missed { from: Revision(from), to: Revision(self.revision) })
    }

    /// The history before `compacted` is forgotten: ends the watches that wait for it.
    pub fn forget(&mut self, compacted: Revision) {
        self.compacted = self.compacted.max(compacted.0);
        self.end_compacted();
    }

    /// Tells the watches that are behind what was read back: all changes from `missed.from` to `missed.to`, which may be
    /// less than [`Hub::behind`] asked for, but ends with a whole revision. It is told as far as former versions that are
    /// told with it make a part. Watches that find no room stay where they are; one at least is told.
    ///
    /// # Errors
    /// The storage's.
    ///
    /// # Panics
    /// If the changes do not lie there, or reach beyond what was published: they would be told twice (etcd#17247).
    pub fn catch_up<P: Previous>(&mut self, missed: Missed, changes: &[Change], records: &P) -> Result<(), P::Error> {
        let (from, to) = (missed.from.0, missed.to.0);
        assert!(from <= to && to <= self.revision, "{missed:?} at revision {}", self.revision);
        assert!(changes.iter().all(|change| (from..=to).contains(&change.at.revision)));
        let served = self.served(from, to);
        let mut concerned = BTreeMap::new();
        for (number, change) in changes.iter().enumerate() {
            self.groups.holding(change.key(), |id| {
                let next = served.get(&id).and_then(|watches| watches.first_key_value()).map(|(next, _)| *next);
                let is_told = next.is_some_and(|next| next <= change.at.revision);
                if is_told && self.groups.get(id).subject.wants(&change.record) {
                    concerned.entry(id).or_insert_with(Vec::new).push(number);
                }
            });
        }
        let previous = self.fetch_previous(changes, &concerned, records)?;
        let through = changes.get(previous.len()).map_or(to, |next| next.at.revision - 1);
        let changes = &changes[..previous.len()];
        let mut encoder = Encoder::new(changes, previous);
        let splits = self.splits();
        let current = Revision(self.revision);
        for (group, watches) in served {
            let subject: Arc<Subject> = Arc::clone(&self.groups.get(group).subject);
            let mut wanted = concerned.remove(&group).unwrap_or_default();
            wanted.truncate(wanted.partition_point(|at| *at < changes.len()));
            for (next, mut by_stream) in watches.into_iter().take_while(|(next, _)| *next <= through) {
                let first = wanted.partition_point(|at| changes[*at].at.revision < next);
                let wanted = &wanted[first..];
                // Other watches of the stream may just have taken its room; those left without it stay where they are.
                by_stream.retain(|(stream, _)| {
                    let outlet = &mut self.streams.get_mut(stream).expect("a lagging stream is open").outlet;
                    wanted.is_empty() || outlet.has_room()
                });
                if by_stream.is_empty() {
                    continue;
                }
                let packed = encoder.pack(wanted, &subject, splits);
                for (stream, ids) in by_stream {
                    let outlet = &mut self.streams.get_mut(&stream).expect("a lagging stream is open").outlet;
                    self.figures.events_told += put_all(outlet, &ids, &packed, current);
                    for watch in ids.iter() {
                        if through == self.revision {
                            self.caught_up(stream, *watch, !packed.is_empty());
                        } else {
                            self.fall_behind(stream, *watch, through + i64::from(!mutant!(EventsTwice)));
                        }
                    }
                }
            }
        }
        self.turns.end(from, through, self.revision);
        Ok(())
    }

    /// The watches that wait for something from `from` to `through` and have room, by group, revision and stream.
    #[expect(clippy::type_complexity, reason = "three keys, each of which is looked through in order")]
    fn served(&mut self, from: i64, through: i64) -> BTreeMap<GroupId, BTreeMap<i64, Vec<(StreamId, Arc<Vec<i64>>)>>> {
        let mut served: BTreeMap<GroupId, BTreeMap<i64, BTreeMap<StreamId, Vec<i64>>>> = BTreeMap::new();
        for id in self.lagging.clone() {
            let stream = self.streams.get_mut(&id).expect("a lagging stream is open");
            if !stream.outlet.has_room() {
                continue;
            }
            for (next, watch) in self.streams[&id].behind.range((from, i64::MIN)..=(through, i64::MAX)) {
                let group = self.group_of(id, *watch);
                served.entry(group).or_default().entry(*next).or_default().entry(id).or_default().push(*watch);
            }
        }
        let shared = |by_stream: BTreeMap<StreamId, Vec<i64>>| {
            by_stream.into_iter().map(|(id, watches)| (id, Arc::new(watches))).collect()
        };
        let by_next = |watches: BTreeMap<i64, BTreeMap<StreamId, Vec<i64>>>| {
            watches.into_iter().map(|(next, by_stream)| (next, shared(by_stream))).collect()
        };
        served.into_iter().map(|(group, watches)| (group, by_next(watches))).collect()
    }
}

/// The first of `changes`, whole revisions, up to the one that reaches `part_bytes`.
fn first_part(changes: &[Change], part_bytes: usize) -> &[Change] {
    let mut bytes = 0;
    let mut last = None;
    let end = changes.iter().position(|change| {
        let revision_ends = last.replace(change.at.revision).is_some_and(|last| last < change.at.revision);
        let is_full = revision_ends && bytes >= part_bytes;
        bytes += change.record.encoded_len();
        is_full
    });
    &changes[..end.unwrap_or(changes.len())]
}

/// Tells some watches of one stream the same; answers how many events that makes.
fn put_all<O: Outlet>(outlet: &mut O, ids: &Arc<Vec<i64>>, packed: &[Arc<[Events]>], revision: Revision) -> u64 {
    let mut told = 0;
    for parts in packed {
        told += parts.iter().map(|part| u64::from(part.count)).sum::<u64>() * ids.len() as u64;
        outlet.put(Answer::Events { ids: Arc::clone(ids), revision, parts: Arc::clone(parts) });
    }
    told
}
