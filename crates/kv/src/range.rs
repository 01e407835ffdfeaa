//! Ranges, in two parts: a walk of the index that decides which records are wanted, and the fetch of those records.
//!
//! The first part needs the index, so its holder can bound it by keys and go on later at the same revision; the second
//! needs only records. Count, limit, key order, and bounds and order by mod revision are decided in the first; values,
//! versions and create revisions are known in the second.

use std::cmp::Ordering;

use crate::error::KvError;
use crate::index::Walked;
use crate::interval::Interval;
use crate::keyspace::KeySpace;
use crate::read_txn::Overtaken;
use crate::record::KeyValue;
use crate::records::ReadRecords;
use crate::requests::{RangeRequest, SortOrder, SortTarget};
use crate::responses::RangeResponse;
use crate::revision::{RecordKey, Revision};

/// Whether a piece of work bounded by a budget is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "work that is not done goes on with another step"]
pub enum Step {
    /// Nothing is left.
    Done,
    /// Call again.
    More,
}

/// A range whose index part is under way or done.
#[derive(Debug)]
pub struct RangePlan {
    request: RangeRequest,
    /// Revision the keys are read at.
    at: Revision,
    /// Current revision, for the answer's header.
    current: Revision,
    records: Vec<RecordKey>,
    count: i64,
    more: bool,
    position: Position,
}

/// How far a walk over an interval has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Position {
    Start,
    After(Box<[u8]>),
    End,
}

impl Position {
    pub(crate) fn key(&self) -> Option<&[u8]> {
        match self {
            Position::After(key) => Some(key),
            Position::Start | Position::End => None,
        }
    }
}

impl From<Walked> for Position {
    fn from(walked: Walked) -> Position {
        match walked {
            Walked::Until(key) => Position::After(key),
            Walked::All => Position::End,
        }
    }
}

impl RangePlan {
    pub(crate) fn new(request: RangeRequest, at: Revision, current: Revision) -> RangePlan {
        let at = if mutant!(OldRangeOfToday) { current } else { at };
        RangePlan { request, at, current, records: Vec::new(), count: 0, more: false, position: Position::Start }
    }

    /// A range of a transaction whose revision was checked; unlike in a bare range, only 0 means the current one.
    pub(crate) fn within_txn(request: &RangeRequest, visible: Revision) -> RangePlan {
        let at = if request.revision > 0 { Revision(request.revision) } else { visible };
        RangePlan::new(request.clone(), at, visible)
    }

    /// Revision the keys are read at.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.at
    }

    /// Looks at up to `max_keys` more keys of the index.
    ///
    /// The view of the records for [`RangePlan::finish`] must be opened no later than the first step's lock is
    /// released; it then serves for all steps. If a physical compaction began to take versions away since, a range of
    /// the current revision begins anew at `visible`.
    ///
    /// # Errors
    /// [`KvError::Compacted`] if that happened to a range of an explicit revision.
    pub fn advance(&mut self, space: &KeySpace, visible: Revision, max_keys: usize) -> Result<Step, KvError> {
        if self.at < space.floor() {
            if self.request.revision > 0 {
                return Err(KvError::Compacted);
            }
            *self = RangePlan::new(std::mem::take(&mut self.request), space.read_revision(0, visible)?, visible);
        }
        Ok(self.step(space, max_keys))
    }

    /// The same for one of several ranges that are read at one revision, which cannot begin anew alone.
    pub(crate) fn advance_at_once(&mut self, space: &KeySpace, max_keys: usize) -> Result<Step, Overtaken> {
        if self.at < space.floor() { Err(Overtaken) } else { Ok(self.step(space, max_keys)) }
    }

    fn step(&mut self, space: &KeySpace, max_keys: usize) -> Step {
        if self.position != Position::End {
            self.walk(space, max_keys);
        }
        if self.position == Position::End { Step::Done } else { Step::More }
    }

    /// Records that [`RangePlan::finish`] fetches.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// The whole walk, at a revision that the caller has checked.
    pub(crate) fn walk_all(&mut self, space: &KeySpace) {
        self.walk(space, usize::MAX);
    }

    fn walk(&mut self, space: &KeySpace, max_keys: usize) {
        let RangePlan { request, records, count, current, .. } = self;
        let kept = if request.count_only { 0 } else { kept_while_walking(request) };
        let interval = Interval::new(&request.key, &request.range_end);
        let walked = space.index.walk(interval, self.position.key(), self.at.0, max_keys, |key, live| {
            if mutant!(DeletedSinceLeftOut) && space.index.find(key, current.0).is_none() {
                return true;
            }
            *count += i64::from(records.len() < kept || !mutant!(CountStopsAtLimit));
            if records.len() < kept && mod_revision_is_wanted(request, live.at.revision) {
                records.push(live.at);
            }
            true
        });
        self.position = walked.into();
        if self.position == Position::End {
            self.close();
        }
    }

    /// Orders and cuts what the index alone can order and cut, so that only wanted records are fetched.
    fn close(&mut self) {
        if self.request.count_only {
            return;
        }
        if is_cut_in_key_order(&self.request) && self.request.sort_target == SortTarget::Key {
            self.more = limit(&self.request).is_some_and(|limit| self.count > i64::try_from(limit).unwrap_or(i64::MAX));
        } else if !needs_records(&self.request) {
            sort(&mut self.records, &self.request, |a, b| match self.request.sort_target {
                SortTarget::Mod => a.revision.cmp(&b.revision),
                _ => Ordering::Equal,
            });
            self.more = cut(&mut self.records, &self.request);
        }
    }

    /// Fetches the records and makes the answer.
    ///
    /// # Errors
    /// The storage's.
    ///
    /// # Panics
    /// If the walk is not done.
    pub fn finish<R: ReadRecords>(mut self, records: &R) -> Result<RangeResponse, R::Error> {
        assert!(self.position == Position::End, "a range is answered before its walk of the index was done");
        let mut kvs = fetch(records, &self.records)?;
        if needs_records(&self.request) {
            let request = &self.request;
            kvs.retain(|kv| create_revision_is_wanted(request, kv.create_revision));
            sort(&mut kvs, request, |a, b| match request.sort_target {
                SortTarget::Key => Ordering::Equal,
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            });
            self.more = cut(&mut kvs, request);
        }
        if self.request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        Ok(RangeResponse { kvs, more: self.more, count: self.count, revision: self.current })
    }
}

/// The records at `places`, in that order.
pub(crate) fn fetch<R: ReadRecords>(records: &R, places: &[RecordKey]) -> Result<Vec<KeyValue>, R::Error> {
    places
        .iter()
        .map(|&at| {
            let record = records.get(at)?.ok_or_else(|| R::missing(at))?;
            Ok(record.into_key_value(at))
        })
        .collect()
}

fn limit(request: &RangeRequest) -> Option<usize> {
    (request.limit > 0).then(|| usize::try_from(request.limit).unwrap_or(usize::MAX))
}

fn has_revision_bounds(request: &RangeRequest) -> bool {
    let bounds =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    bounds.iter().any(|bound| *bound != 0)
}

/// The limit may cut while walking. An order of NONE counts even if a target is named: etcd cuts such a range in key
/// order and sorts what is left.
fn is_cut_in_key_order(request: &RangeRequest) -> bool {
    let in_order = match request.sort_order {
        SortOrder::None => true,
        SortOrder::Ascend => request.sort_target == SortTarget::Key,
        SortOrder::Descend => false,
    };
    in_order && !has_revision_bounds(request)
}

/// How many records to note. etcd sorts the limit's keys and one more if a target is named without an order.
fn kept_while_walking(request: &RangeRequest) -> usize {
    match limit(request) {
        Some(limit) if is_cut_in_key_order(request) && request.sort_target == SortTarget::Key => limit,
        Some(limit) if is_cut_in_key_order(request) => limit.saturating_add(1),
        _ => usize::MAX,
    }
}

/// Order or bounds depend on what only the records say.
fn needs_records(request: &RangeRequest) -> bool {
    let by_index = matches!(request.sort_target, SortTarget::Key | SortTarget::Mod);
    !by_index || request.min_create_revision != 0 || request.max_create_revision != 0
}

fn mod_revision_is_wanted(request: &RangeRequest, revision: i64) -> bool {
    within(revision, request.min_mod_revision, request.max_mod_revision)
}

fn create_revision_is_wanted(request: &RangeRequest, revision: i64) -> bool {
    within(revision, request.min_create_revision, request.max_create_revision)
}

fn within(revision: i64, min: i64, max: i64) -> bool {
    (min == 0 || revision >= min) && (max == 0 || revision <= max)
}

/// Sorts items that are in key order, so `by` calls equal what is ordered by key.
fn sort<T>(items: &mut [T], request: &RangeRequest, by: impl Fn(&T, &T) -> Ordering) {
    match (request.sort_order, request.sort_target) {
        (SortOrder::None | SortOrder::Ascend, SortTarget::Key) => {}
        (SortOrder::Descend, SortTarget::Key) => items.reverse(),
        (SortOrder::None | SortOrder::Ascend, _) => items.sort_by(by),
        (SortOrder::Descend, _) => items.sort_by(|a, b| by(b, a)),
    }
}

/// Cuts to the limit; true if something was cut off.
fn cut<T>(items: &mut Vec<T>, request: &RangeRequest) -> bool {
    match limit(request) {
        Some(limit) if items.len() > limit => {
            items.truncate(limit);
            true
        }
        _ => false,
    }
}
