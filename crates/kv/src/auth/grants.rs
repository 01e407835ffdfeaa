//! Permissions on key intervals, and the rights they add up to.
//!
//! A request needs its right on every key it could touch. Permissions that touch each other add up: `[a, b)` and `[b, c)`
//! allow a range of `[a, c)`.
//!
//! Invariant of [`Spans`]: in order, and no two touch.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::interval::Interval;

/// What a permission allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PermissionKind {
    /// Reading.
    Read,
    /// Writing and deleting.
    Write,
    /// Both.
    ReadWrite,
}

impl PermissionKind {
    /// Whether it gives this right.
    #[must_use]
    pub fn gives(self, right: Right) -> bool {
        matches!(
            (self, right),
            (PermissionKind::ReadWrite, _)
                | (PermissionKind::Read, Right::Read)
                | (PermissionKind::Write, Right::Write)
        )
    }
}

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// To learn of keys and values.
    Read,
    /// To change or delete them.
    Write,
}

/// A right on the keys of an interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// Which right.
    pub kind: PermissionKind,
    /// First key; never empty in a valid permission.
    pub key: Bytes,
    /// End of the interval, as in a range request: empty for one key, `"\0"` for no end.
    pub range_end: Bytes,
}

impl Permission {
    /// Whether it says something: a first key, and an interval with room for one.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.key.is_empty()
            && match Interval::new(&self.key, &self.range_end) {
                Interval::Between(first, end) => first < end,
                Interval::One(_) | Interval::From(_) => true,
            }
    }
}

/// The rights of one user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Grants {
    read: Spans,
    write: Spans,
}

impl Grants {
    pub(super) fn merged(permissions: impl Iterator<Item = Permission>) -> Grants {
        let permissions: Vec<Permission> = permissions.collect();
        let spans = |right| Spans::merged(permissions.iter().filter(|permission| permission.kind.gives(right)));
        Grants { read: spans(Right::Read), write: spans(Right::Write) }
    }

    /// Whether the right is there on every key from `key` to `range_end`.
    pub(super) fn allow(&self, right: Right, key: &[u8], range_end: &[u8]) -> bool {
        match right {
            Right::Read => self.read.cover(key, range_end),
            Right::Write => self.write.cover(key, range_end),
        }
    }
}

/// A set of keys as separate intervals.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Spans(Vec<(Bytes, End)>);

/// Where a span ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Never,
}

impl Spans {
    fn merged<'a>(permissions: impl Iterator<Item = &'a Permission>) -> Spans {
        let mut spans: Vec<(Bytes, End)> = permissions.filter_map(span).collect();
        spans.sort();
        let mut merged: Vec<(Bytes, End)> = Vec::with_capacity(spans.len());
        for (first, end) in spans {
            match merged.last_mut() {
                Some((_, last_end)) if touches(last_end, &first) => {
                    if end > *last_end {
                        *last_end = end;
                    }
                }
                _ => merged.push((first, end)),
            }
        }
        Spans(merged)
    }

    fn cover(&self, key: &[u8], range_end: &[u8]) -> bool {
        let after = self.0.partition_point(|(first, _)| &first[..] <= key);
        let Some((_, end)) = after.checked_sub(1).map(|at| &self.0[at]) else { return false };
        let End::Before(end) = end else { return true };
        match Interval::new(key, range_end) {
            Interval::From(_) => false,
            Interval::One(key) => key < &end[..],
            // An interval with nothing in it touches no key; whoever sends it still shows the right to its first.
            Interval::Between(key, wanted) => key < &end[..] && (wanted <= &end[..] || wanted <= key),
        }
    }
}

fn span(permission: &Permission) -> Option<(Bytes, End)> {
    let end = match Interval::new(&permission.key, &permission.range_end) {
        Interval::One(key) => {
            let mut next = Vec::with_capacity(key.len() + 1);
            next.extend_from_slice(key);
            next.push(0);
            End::Before(next.into())
        }
        Interval::Between(first, end) if first.cmp(end) == Ordering::Less => End::Before(permission.range_end.clone()),
        Interval::Between(..) => return None,
        Interval::From(_) => End::Never,
    };
    Some((permission.key.clone(), end))
}

fn touches(end: &End, first: &Bytes) -> bool {
    match end {
        End::Never => true,
        End::Before(end) => end > first || (end == first && !mutant!(NeighboursApart)),
    }
}
