//! The ranges of keys that are watched, and which of them hold a key.
//!
//! Ranges are kept in the order of their first keys, in blocks that know their furthest end: a look-up skips every block that
//! ends before the key, and stops at the first that begins after it. Watches of disjoint prefixes, the usual case, cost a
//! look-up one block.

use std::cmp::Ordering;

use bytes::Bytes;

use super::groups::GroupId;

/// Ranges of a block; a fuller one is split.
const BLOCK_RANGES: usize = 64;

/// Where a range ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// Before this key.
    Before(Bytes),
    /// Nowhere.
    Never,
}

#[derive(Debug)]
struct Range {
    first: Bytes,
    end: End,
    group: GroupId,
}

#[derive(Debug)]
struct Block {
    /// In the order of first key and group; never empty.
    ranges: Vec<Range>,
    furthest: End,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct RangeIndex {
    blocks: Vec<Block>,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => key < &end[..] || (mutant!(WatchEndIncluded) && key == &end[..]),
            End::Never => true,
        }
    }
}

impl PartialOrd for End {
    fn partial_cmp(&self, other: &End) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for End {
    fn cmp(&self, other: &End) -> Ordering {
        match (self, other) {
            (End::Before(one), End::Before(other)) => one.cmp(other),
            (End::Before(_), End::Never) => Ordering::Less,
            (End::Never, End::Before(_)) => Ordering::Greater,
            (End::Never, End::Never) => Ordering::Equal,
        }
    }
}

impl Block {
    fn new(ranges: Vec<Range>) -> Block {
        let furthest = ranges.iter().map(|range| &range.end).max().expect("a block holds ranges").clone();
        Block { ranges, furthest }
    }
}

impl RangeIndex {
    /// Adds the range of a group, which has no other.
    pub(super) fn insert(&mut self, first: Bytes, end: End, group: GroupId) {
        let at = self.blocks.partition_point(|block| block.ranges[0].first <= first).saturating_sub(1);
        let range = Range { first, end, group };
        let Some(block) = self.blocks.get_mut(at) else {
            self.blocks.push(Block::new(vec![range]));
            return;
        };
        block.furthest = block.furthest.clone().max(range.end.clone());
        let place = block.ranges.partition_point(|other| (&other.first, other.group) < (&range.first, range.group));
        block.ranges.insert(place, range);
        if block.ranges.len() > BLOCK_RANGES {
            let upper = block.ranges.split_off(BLOCK_RANGES / 2);
            *block = Block::new(std::mem::take(&mut block.ranges));
            self.blocks.insert(at + 1, Block::new(upper));
        }
    }

    /// Removes what [`RangeIndex::insert`] added.
    pub(super) fn remove(&mut self, first: &Bytes, group: GroupId) {
        // Ranges of one first key may fill several blocks, from the last one backwards.
        let beyond = self.blocks.partition_point(|block| block.ranges[0].first <= *first);
        for at in (0..beyond).rev() {
            let ranges = &mut self.blocks[at].ranges;
            if let Some(place) = ranges.iter().position(|range| range.group == group) {
                ranges.remove(place);
                if ranges.is_empty() {
                    self.blocks.remove(at);
                } else {
                    self.blocks[at] = Block::new(std::mem::take(ranges));
                }
                return;
            }
        }
        unreachable!("{group:?} has a range");
    }

    /// Shows `visit` the group of each range that holds `key`.
    pub(super) fn holding(&self, key: &[u8], mut visit: impl FnMut(GroupId)) {
        for block in &self.blocks {
            if block.ranges[0].first > *key {
                return;
            }
            if !block.furthest.is_after(key) {
                continue;
            }
            for range in &block.ranges {
                if range.first > *key {
                    return;
                }
                if range.end.is_after(key) {
                    visit(range.group);
                }
            }
        }
    }

    /// Panics if an invariant is broken.
    pub(super) fn check(&self) {
        let ranges = || self.blocks.iter().flat_map(|block| &block.ranges);
        assert!(ranges().is_sorted_by(|one, next| one.first <= next.first), "ranges are in order");
        for block in &self.blocks {
            assert!(!block.ranges.is_empty() && block.ranges.len() <= BLOCK_RANGES);
            assert_eq!(block.ranges.iter().map(|range| &range.end).max(), Some(&block.furthest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Bytes {
        Bytes::from(number.to_be_bytes().to_vec())
    }

    #[test]
    fn a_key_is_found_in_exactly_the_ranges_that_hold_it() {
        let mut index = RangeIndex::default();
        let mut ranges = Vec::new();
        let mut state = 1_u32;
        let mut draw = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        for number in 0..1_000 {
            let first = draw(500);
            let end = if draw(10) == 0 { End::Never } else { End::Before(key(first + 1 + draw(40))) };
            index.insert(key(first), end.clone(), GroupId(number));
            ranges.push((key(first), end, GroupId(number)));
            if draw(3) == 0 {
                let (first, _, group) = ranges.remove(draw(ranges.len() as u32) as usize);
                index.remove(&first, group);
            }
            index.check();
            let asked = key(draw(600));
            let mut found = Vec::new();
            index.holding(&asked, |group| found.push(group));
            found.sort_unstable();
            let mut expected: Vec<GroupId> = ranges
                .iter()
                .filter(|(first, end, _)| *first <= asked && end.is_after(&asked))
                .map(|(_, _, group)| *group)
                .collect();
            expected.sort_unstable();
            assert_eq!(found, expected);
        }
    }
}
