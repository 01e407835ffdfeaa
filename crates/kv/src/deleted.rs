//! The keys that a transaction deletes: intervals in, "is this key among them?" out.
//!
//! A request of 1.5 MiB has room for some 90,000 deletions and as many puts in nested transactions, and every node holds them
//! against each other under the lock of its state. With a list of intervals that would be 10^10 comparisons; here a
//! question costs the logarithm of what was inserted.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::swap;
use std::ops::Bound;

use crate::interval::Interval;

/// A set of keys that is built of intervals.
#[derive(Debug, Default)]
pub(crate) struct Deleted<'a> {
    /// Keys that were named one by one. A span may hold them, too.
    keys: BTreeSet<&'a [u8]>,
    /// Where each span ends, by its first key. None is empty, and between any two there is a gap.
    spans: BTreeMap<&'a [u8], SpanEnd<'a>>,
}

/// The end of a span, ordered by how far it reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum SpanEnd<'a> {
    /// This key is the first that is not inside.
    Before(&'a [u8]),
    /// Every later key is inside.
    Never,
}

impl<'a> Deleted<'a> {
    pub(crate) fn insert(&mut self, interval: Interval<'a>) {
        match interval {
            Interval::One(key) => {
                self.keys.insert(key);
            }
            Interval::Between(first, end) if first < end => self.insert_span(first, SpanEnd::Before(end)),
            Interval::Between(..) => {}
            Interval::From(first) => self.insert_span(first, SpanEnd::Never),
        }
    }

    /// Adds all keys of `other`.
    pub(crate) fn absorb(&mut self, mut other: Deleted<'a>) {
        unite(&mut self.keys, other.keys);
        if self.spans.len() < other.spans.len() {
            swap(&mut self.spans, &mut other.spans);
        }
        other.spans.into_iter().for_each(|(first, end)| self.insert_span(first, end));
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        let nearest = self.spans.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        self.keys.contains(key) || nearest.is_some_and(|(_, end)| *end > SpanEnd::Before(key))
    }

    /// Merges the span with those it overlaps or touches: each of them goes for good, so an insertion costs the logarithm,
    /// too, taken over all of them.
    fn insert_span(&mut self, mut first: &'a [u8], mut end: SpanEnd<'a>) {
        let nearest = self.spans.range(..=first).next_back();
        if let Some((start, _)) = nearest.filter(|(_, its_end)| **its_end >= SpanEnd::Before(first)) {
            first = start;
        }
        while let Some((start, its_end)) = self.spans.range(first..).next().map(|(start, end)| (*start, *end))
            && SpanEnd::Before(start) <= end
        {
            self.spans.remove(start);
            end = end.max(its_end);
        }
        self.spans.insert(first, end);
    }
}

/// Adds all of `other` to `set`. The smaller of the two is moved, so that a key that comes up from the innermost of nested
/// transactions is moved a logarithmic number of times, not once a level.
pub(crate) fn unite<'a>(set: &mut BTreeSet<&'a [u8]>, mut other: BTreeSet<&'a [u8]>) {
    if set.len() < other.len() {
        swap(set, &mut other);
    }
    set.extend(other);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![1 => Just("\0".to_owned()), 9 => "[abcd]{1,2}"]
    }

    fn interval(range: &(String, Option<String>)) -> Interval<'_> {
        Interval::new(range.0.as_bytes(), range.1.as_ref().map_or(b"", |end| end.as_bytes()))
    }

    #[track_caller]
    fn check_spans(deleted: &Deleted<'_>) {
        let spans: Vec<_> = deleted.spans.iter().collect();
        assert!(spans.iter().all(|(first, end)| **end > SpanEnd::Before(first)), "{spans:?}");
        assert!(spans.windows(2).all(|pair| *pair[0].1 < SpanEnd::Before(pair[1].0)), "{spans:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_key_is_inside_if_one_of_the_intervals_has_it(
            left in vec((text(), proptest::option::of(text())), 0..12),
            right in vec((text(), proptest::option::of(text())), 0..12),
            keys in vec("[abcde]{1,3}", 1..20),
        ) {
            let mut deleted = Deleted::default();
            let mut other = Deleted::default();
            left.iter().for_each(|range| deleted.insert(interval(range)));
            right.iter().for_each(|range| other.insert(interval(range)));
            deleted.absorb(other);
            check_spans(&deleted);
            for key in keys.iter().chain(left.iter().chain(&right).flat_map(|(key, end)| end.iter().chain([key]))) {
                let wanted = left.iter().chain(&right).any(|range| interval(range).contains(key.as_bytes()));
                prop_assert_eq!(deleted.contains(key.as_bytes()), wanted, "{:?} in {:?}", key, deleted);
            }
        }
    }

    #[test]
    fn spans_that_touch_become_one() {
        let mut deleted = Deleted::default();
        for (first, end) in [("a", "b"), ("c", "d"), ("e", "f"), ("b", "c")] {
            deleted.insert(Interval::Between(first.as_bytes(), end.as_bytes()));
        }
        assert_eq!(deleted.spans.len(), 2, "{deleted:?}");
        deleted.insert(Interval::From(b"a"));
        assert_eq!(deleted.spans.len(), 1, "{deleted:?}");
        assert!(deleted.contains(b"z") && !deleted.contains(b"A"));
    }
}
