//! Leases: who holds one, until when, and which keys go with it.
//!
//! Owns [`Leases`], held whole in memory and stored as rows of [`Table::Lease`] and [`Table::Attachment`]. A lease ends by
//! a command alone: reaching its deadline changes nothing until the log says so.
//!
//! Invariants, checked by [`Leases::check`]:
//! 1. every lease is in `by_deadline` once, under its own deadline;
//! 2. a key is attached to one lease at most, which knows it, and is alive.

mod apply;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::alarm::AlarmKind;
use crate::auth::AttachedKeys;
use crate::clock::ClusterTime;
use crate::index::KeyIndex;
use crate::keyspace::KeySpace;
use crate::rationed::RationedReadError;
use crate::records::ReadRows;
use crate::row::{FieldError, RowBytes, RowError, RowFields, Table};

/// Longest time to live a lease can be granted.
pub const MAX_LEASE_TTL_SECONDS: i64 = 9_000_000_000;

/// Most leases at once, about 100 bytes of memory each. Part of the log's format: a grant past it is refused when it is
/// applied.
pub const MAX_LEASES: usize = 4_000_000;

/// Version of a lease's row.
const LEASE_VERSION: u8 = 1;
/// Version of an attachment's row.
const ATTACHMENT_VERSION: u8 = 1;

/// A lease as readers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseView {
    /// Its id.
    pub id: i64,
    /// The time to live it was granted.
    pub ttl_seconds: i64,
    /// When it runs out unless it is renewed.
    pub deadline: ClusterTime,
    /// Keys attached to it, in order, if they were asked for.
    pub keys: Vec<Arc<[u8]>>,
}

/// A lease at its deadline: what an expiry names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueLease {
    /// Its id.
    pub id: i64,
    /// The deadline that was seen. A lease renewed since has another.
    pub deadline: ClusterTime,
}

/// What a leader has to know of the leases at an applied index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeaseSummary {
    /// The cluster clock.
    pub clock: ClusterTime,
    /// When the first lease runs out; `None` if none does.
    pub next_deadline: Option<ClusterTime>,
}

/// All leases, and the keys attached to them.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_id: BTreeMap<i64, Lease>,
    by_deadline: BTreeSet<(ClusterTime, i64)>,
    /// The lease of each attached key.
    attached: BTreeMap<Arc<[u8]>, i64>,
}

#[derive(Debug)]
struct Lease {
    ttl_seconds: i64,
    deadline: ClusterTime,
    keys: BTreeSet<Arc<[u8]>>,
}

impl Lease {
    fn row(&self) -> RowBytes {
        RowBytes::value(LEASE_VERSION).varint(self.ttl_seconds.cast_unsigned()).varint(self.deadline.0)
    }

    fn time_to_live(&self) -> Duration {
        Duration::from_secs(self.ttl_seconds.cast_unsigned())
    }
}

fn lease_key(id: i64) -> RowBytes {
    RowBytes::key().long(id)
}

fn attachment_key(id: i64, key: &[u8]) -> RowBytes {
    RowBytes::key().long(id).rest(key)
}

impl Leases {
    /// Whether this lease was granted and has not ended.
    pub(crate) fn contains(&self, id: i64) -> bool {
        self.by_id.contains_key(&id)
    }

    fn insert(&mut self, id: i64, ttl_seconds: i64, deadline: ClusterTime) -> &Lease {
        let new = self.by_deadline.insert((deadline, id));
        assert!(new, "lease {id} is granted twice");
        self.by_id.entry(id).or_insert(Lease { ttl_seconds, deadline, keys: BTreeSet::new() })
    }

    /// Moves the deadline of a lease that is there.
    fn move_deadline(&mut self, id: i64, deadline: ClusterTime) -> &Lease {
        let lease = self.by_id.get_mut(&id).expect("a renewed lease is there");
        self.by_deadline.remove(&(lease.deadline, id));
        self.by_deadline.insert((deadline, id));
        lease.deadline = deadline;
        lease
    }

    /// Forgets a lease that has no keys any more.
    fn remove(&mut self, id: i64) {
        let lease = self.by_id.remove(&id).expect("a lease that ends is there");
        assert!(lease.keys.is_empty(), "lease {id} ends before its keys are gone");
        self.by_deadline.remove(&(lease.deadline, id));
    }

    fn load_lease(&mut self, key: &[u8], value: &[u8]) -> Result<(), FieldError> {
        let mut place = RowFields::key(key);
        let id = place.long()?;
        place.end()?;
        let mut fields = RowFields::value(value, LEASE_VERSION)?;
        let ttl_seconds = fields.varint()?.cast_signed();
        let deadline = ClusterTime(fields.varint()?);
        fields.end()?;
        if ttl_seconds <= 0 || self.contains(id) {
            return Err(FieldError::Cut);
        }
        self.insert(id, ttl_seconds, deadline);
        Ok(())
    }

    fn load_attachment(&mut self, key: &[u8], value: &[u8]) -> Result<(), FieldError> {
        let mut place = RowFields::key(key);
        let id = place.long()?;
        let name: Arc<[u8]> = place.rest().into();
        RowFields::value(value, ATTACHMENT_VERSION)?.end()?;
        let lease = self.by_id.get_mut(&id).ok_or(FieldError::Cut)?;
        lease.keys.insert(name.clone());
        self.attached.insert(name, id);
        Ok(())
    }

    /// Panics if an invariant is broken.
    pub(crate) fn check(&self, index: &KeyIndex) {
        let deadlines: BTreeSet<_> = self.by_id.iter().map(|(id, lease)| (lease.deadline, *id)).collect();
        assert_eq!(self.by_deadline, deadlines, "deadlines and leases are not the same");
        let keys: usize = self.by_id.values().map(|lease| lease.keys.len()).sum();
        assert_eq!(keys, self.attached.len(), "a key is attached twice, or to no lease");
        for (key, id) in &self.attached {
            let known = self.by_id.get(id).is_some_and(|lease| lease.keys.contains(key));
            assert!(known, "lease {id} does not know its key {key:02x?}");
            assert!(index.find(key, i64::MAX).is_some(), "the key {key:02x?} of lease {id} is not alive");
        }
    }
}

impl AttachedKeys for Leases {
    fn all_attached(&self, lease: i64, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.by_id.get(&lease).is_none_or(|lease| lease.keys.iter().all(|key| test(key)))
    }
}

impl AttachedKeys for KeySpace {
    fn all_attached(&self, lease: i64, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.leases.all_attached(lease, test)
    }
}

impl KeySpace {
    /// The clock, and when the first lease runs out: never while an alarm forbids to touch data.
    #[must_use]
    pub fn lease_summary(&self) -> LeaseSummary {
        let next_deadline = self.next_lease_deadline().filter(|_| !self.alarms.is_raised(AlarmKind::Corrupt));
        LeaseSummary { clock: self.clock, next_deadline }
    }

    /// Number of leases.
    #[must_use]
    pub fn lease_count(&self) -> usize {
        self.leases.by_id.len()
    }

    /// The lease, with its keys.
    #[must_use]
    pub fn lease(&self, id: i64) -> Option<LeaseView> {
        self.lease_without_keys(id).map(|lease| LeaseView { keys: self.keys_of_lease(id), ..lease })
    }

    /// The lease alone, however many keys are attached to it.
    #[must_use]
    pub fn lease_without_keys(&self, id: i64) -> Option<LeaseView> {
        let lease = self.leases.by_id.get(&id)?;
        Some(LeaseView { id, ttl_seconds: lease.ttl_seconds, deadline: lease.deadline, keys: Vec::new() })
    }

    /// The lease, with its keys as far as `allow` says, which is asked for the length of each.
    ///
    /// # Errors
    /// [`RationedReadError::NotAllowed`].
    pub fn lease_within<E>(
        &self,
        id: i64,
        allow: &dyn Fn(usize) -> bool,
    ) -> Result<Option<LeaseView>, RationedReadError<E>> {
        let Some(mut lease) = self.lease_without_keys(id) else { return Ok(None) };
        for key in &self.leases.by_id[&id].keys {
            if !allow(key.len()) {
                return Err(RationedReadError::NotAllowed);
            }
            lease.keys.push(Arc::clone(key));
        }
        Ok(Some(lease))
    }

    /// Ids of all leases, those first that run out first.
    #[must_use]
    pub fn leases_by_deadline(&self) -> Vec<i64> {
        self.leases.by_deadline.iter().map(|(_, id)| *id).collect()
    }

    /// The lease that a live key is attached to.
    #[must_use]
    pub fn lease_of(&self, key: &[u8]) -> Option<i64> {
        self.leases.attached.get(key).copied()
    }

    /// When the first lease runs out; `None` if there is no lease.
    #[must_use]
    pub fn next_lease_deadline(&self) -> Option<ClusterTime> {
        self.leases.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// Leases whose deadline has come by `now`, the oldest deadline first, at most `max` of them.
    #[must_use]
    pub fn due_leases(&self, now: ClusterTime, max: usize) -> Vec<DueLease> {
        let due = self.leases.by_deadline.iter().take_while(|(deadline, _)| *deadline <= now);
        due.take(max).map(|&(deadline, id)| DueLease { id, deadline }).collect()
    }

    pub(crate) fn load_leases<R: ReadRows>(&mut self, rows: &R) -> Result<(), R::Error> {
        rows.scan_rows(Table::Lease, &mut |key, value| {
            RowError::name(Table::Lease, key, self.leases.load_lease(key, value))
        })?;
        rows.scan_rows(Table::Attachment, &mut |key, value| {
            RowError::name(Table::Attachment, key, self.leases.load_attachment(key, value))
        })
    }
}
