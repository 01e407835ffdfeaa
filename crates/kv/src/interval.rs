//! Key intervals as etcd writes them: `key` and `range_end`.

use std::ops::Bound;

/// A set of neighbouring keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interval<'a> {
    /// Exactly this key.
    One(&'a [u8]),
    /// From the first to before the second; empty if they are not in order.
    Between(&'a [u8], &'a [u8]),
    /// This key and every later one.
    From(&'a [u8]),
}

/// First and last place of a search in a sorted map.
pub(crate) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

impl<'a> Interval<'a> {
    /// An empty `range_end` means one key, `"\0"` no end.
    pub(crate) fn new(key: &'a [u8], range_end: &'a [u8]) -> Interval<'a> {
        match range_end {
            [] => Interval::One(key),
            [0] => Interval::From(key),
            end => Interval::Between(key, end),
        }
    }

    /// True if `key` is inside: what searches are held against.
    #[cfg(test)]
    pub(crate) fn contains(self, key: &[u8]) -> bool {
        match self {
            Interval::One(one) => key == one,
            Interval::Between(first, end) => first <= key && key < end,
            Interval::From(first) => first <= key,
        }
    }

    /// Bounds for a search in a sorted map, starting after `after` if that is given; `None` if no key can be inside.
    pub(crate) fn bounds(self, after: Option<&'a [u8]>) -> Option<Bounds<'a>> {
        let (first, end) = match self {
            Interval::One(key) => (key, Bound::Included(key)),
            Interval::Between(key, end) => (key, Bound::Excluded(end)),
            Interval::From(key) => (key, Bound::Unbounded),
        };
        let start = match after {
            Some(after) if after >= first => Bound::Excluded(after),
            _ => Bound::Included(first),
        };
        // A sorted map panics on bounds that are not in order, or both exclude one key.
        let possible = match (start, end) {
            (Bound::Included(from), Bound::Included(to)) => from <= to,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(to) | Bound::Included(to)) => from < to,
            _ => true,
        };
        possible.then_some((start, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &str, range_end: &str, after: Option<&str>, inside: &str) {
        let interval = Interval::new(key.as_bytes(), range_end.as_bytes());
        let keys = ["a", "b", "ba", "c", "d"];
        let found: Vec<&str> = match interval.bounds(after.map(str::as_bytes)) {
            None => Vec::new(),
            Some(bounds) => {
                let set: std::collections::BTreeSet<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
                set.range::<[u8], _>(bounds).map(|key| std::str::from_utf8(key).unwrap()).collect()
            }
        };
        assert_eq!(found.join(" "), inside);
        let wanted = |key: &&str| interval.contains(key.as_bytes()) && after.is_none_or(|after| *key > after);
        assert_eq!(keys.into_iter().filter(wanted).collect::<Vec<_>>(), found);
    }

    #[test]
    fn an_interval_holds_what_etcd_says() {
        check("b", "", None, "b");
        check("bb", "", None, "");
        check("b", "c", None, "b ba");
        check("b", "\0", None, "b ba c d");
        check("\0", "\0", None, "a b ba c d");
        check("c", "b", None, "");
        check("b", "b", None, "");
    }

    #[test]
    fn a_resumed_interval_starts_after_the_last_key() {
        check("b", "d", Some("b"), "ba c");
        check("b", "\0", Some("ba"), "c d");
        check("b", "", Some("b"), "");
        check("b", "c", Some("c"), "");
        check("b", "c", Some("a"), "b ba");
    }
}
