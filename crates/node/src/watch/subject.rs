//! What a watch is about: a set of neighbouring keys, which changes of them, and in which form.

use bytes::Bytes;
use quorate_kv::Record;
use quorate_wire::etcd::WatchCreate;

/// The keys of a watch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Keys {
    /// Exactly this one.
    One(Bytes),
    /// From the first to before the second.
    Between(Bytes, Bytes),
    /// This one and all later ones.
    From(Bytes),
}

/// Watches with equal subjects are told the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    pub(super) keys: Keys,
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
    pub(super) prev_kv: bool,
    pub(super) fragment: bool,
}

impl Keys {
    /// `None` if no key can be in the range.
    pub(super) fn new(key: Bytes, range_end: Bytes) -> Option<Keys> {
        match &range_end[..] {
            [] => Some(Keys::One(key)),
            [0] => Some(Keys::From(key)),
            end => (key[..] < *end).then_some(Keys::Between(key, range_end)),
        }
    }
}

impl Subject {
    /// `None` if no key can be in the range.
    pub(super) fn of(create: WatchCreate) -> Option<Subject> {
        let WatchCreate { key, range_end, no_put, no_delete, prev_kv, fragment, .. } = create;
        let keys = Keys::new(key, range_end)?;
        Some(Subject { keys, no_put, no_delete, prev_kv, fragment })
    }

    /// Whether a change of one of the keys is of interest.
    pub(super) fn wants(&self, record: &Record) -> bool {
        if record.tombstone { !self.no_delete } else { !self.no_put }
    }
}
