//! What clients saw, and whether a strictly serializable store could have shown it to them.
//!
//! The store numbers its states: every answer carries the revision it was made at. That gives the order, so the check
//! needs no search. It holds if and only if
//! 1. no two acknowledged writes took one revision;
//! 2. an operation that began after another ended was made at no lower revision, and a write at a higher one;
//! 3. a read shows the newest write of its key at its own revision (acknowledged writes and, by their distinct values,
//!    writes whose outcome the client never learned).

use std::collections::BTreeMap;
use std::time::Instant;

/// One finished call of one client.
#[derive(Debug, Clone)]
pub struct Operation {
    /// When the client sent it.
    pub began: Instant,
    /// When the client had the answer.
    pub ended: Instant,
    /// The key it was about.
    pub key: String,
    /// What was done and seen.
    pub event: Event,
}

/// What an operation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `value` was written and acknowledged at `revision`.
    Written {
        /// What was written; values are never used twice.
        value: String,
        /// The header's revision: this write's own.
        revision: i64,
    },
    /// `value` was sent and no answer came: it may have been written, at any later time.
    Unknown {
        /// What was sent.
        value: String,
    },
    /// A linearizable read.
    Read {
        /// The value and its `mod_revision`; `None` if the key was absent.
        seen: Option<(String, i64)>,
        /// The header's revision: the state the read was made at.
        revision: i64,
    },
}

impl Event {
    fn revision(&self) -> Option<i64> {
        match self {
            Event::Written { revision, .. } | Event::Read { revision, .. } => Some(*revision),
            Event::Unknown { .. } => None,
        }
    }
}

/// Every operation of a run, in any order.
#[derive(Debug, Default, Clone)]
pub struct History {
    /// The operations.
    pub operations: Vec<Operation>,
}

impl History {
    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.operations.iter().filter(|o| matches!(o.event, Event::Written { .. })).count()
    }

    /// How many writes never got an answer.
    pub fn unknown(&self) -> usize {
        self.operations.iter().filter(|o| matches!(o.event, Event::Unknown { .. })).count()
    }

    /// The largest time between one acknowledged write and the next, over all clients.
    pub fn largest_gap(&self) -> std::time::Duration {
        let mut ends: Vec<Instant> =
            self.operations.iter().filter(|o| matches!(o.event, Event::Written { .. })).map(|o| o.ended).collect();
        ends.sort();
        ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Checks rules 1 to 3.
    ///
    /// # Errors
    /// The first contradiction, in words.
    pub fn check(&self) -> Result<(), String> {
        let writes = self.writes_by_revision()?;
        self.check_real_time_order()?;
        self.check_reads(&writes)
    }

    /// Rule 1; also the map that rule 3 reads.
    fn writes_by_revision(&self) -> Result<BTreeMap<i64, &Operation>, String> {
        let mut writes = BTreeMap::new();
        for operation in &self.operations {
            if let Event::Written { revision, .. } = operation.event
                && let Some(other) = writes.insert(revision, operation)
            {
                return Err(format!("two writes took revision {revision}: {other:?} and {operation:?}"));
            }
        }
        Ok(writes)
    }

    /// Rule 2, by a sweep over begins and ends in time order.
    fn check_real_time_order(&self) -> Result<(), String> {
        let mut by_begin: Vec<&Operation> = self.operations.iter().filter(|o| o.event.revision().is_some()).collect();
        let mut by_end = by_begin.clone();
        by_begin.sort_by_key(|o| o.began);
        by_end.sort_by_key(|o| o.ended);
        let mut ended = by_end.into_iter().peekable();
        let mut newest: Option<&Operation> = None;
        for operation in by_begin {
            while let Some(earlier) = ended.next_if(|e| e.ended < operation.began) {
                if newest.is_none_or(|n| n.event.revision() < earlier.event.revision()) {
                    newest = Some(earlier);
                }
            }
            let Some(before) = newest else { continue };
            let went_back = match operation.event {
                Event::Written { .. } => operation.event.revision() <= before.event.revision(),
                _ => operation.event.revision() < before.event.revision(),
            };
            if went_back {
                return Err(format!("{operation:?} began after {before:?} ended, at no later state"));
            }
        }
        Ok(())
    }

    /// Rule 3.
    fn check_reads(&self, writes: &BTreeMap<i64, &Operation>) -> Result<(), String> {
        let unknown: BTreeMap<&str, &Operation> = self
            .operations
            .iter()
            .filter_map(|o| match &o.event {
                Event::Unknown { value } => Some((value.as_str(), o)),
                _ => None,
            })
            .collect();
        for read in &self.operations {
            let Event::Read { seen, revision } = &read.event else { continue };
            let newest = writes.range(..=*revision).rev().find(|(_, w)| w.key == read.key);
            let newest_revision = newest.map_or(0, |(r, _)| *r);
            match seen {
                None if newest.is_none() => {}
                None => return Err(format!("{read:?} does not see {newest:?}")),
                Some((value, modified)) if *modified == newest_revision => {
                    let Some((_, Operation { event: Event::Written { value: written, .. }, .. })) = newest else {
                        return Err(format!("{read:?} sees a revision nobody wrote"));
                    };
                    if written != value {
                        return Err(format!("{read:?} sees another value than {newest:?}"));
                    }
                }
                // Newer than every acknowledged write: it must be one whose outcome is unknown.
                Some((value, modified)) => match unknown.get(value.as_str()) {
                    Some(write)
                        if *modified > newest_revision
                            && *modified <= *revision
                            && write.key == read.key
                            && write.began <= read.ended => {}
                    _ => return Err(format!("{read:?} sees a value that {newest:?} should have replaced")),
                },
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn history(operations: &[(u64, u64, &str, Event)]) -> History {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let operations = operations
            .iter()
            .map(|(began, ended, key, event)| Operation {
                began: at(*began),
                ended: at(*ended),
                key: (*key).to_string(),
                event: event.clone(),
            })
            .collect();
        History { operations }
    }

    fn written(value: &str, revision: i64) -> Event {
        Event::Written { value: value.to_string(), revision }
    }

    fn read(seen: Option<(&str, i64)>, revision: i64) -> Event {
        Event::Read { seen: seen.map(|(v, r)| (v.to_string(), r)), revision }
    }

    #[test]
    fn overlapping_operations_may_take_either_order() {
        let h = history(&[
            (0, 10, "a", written("1", 3)),
            (0, 10, "a", written("2", 2)),
            (0, 10, "a", read(Some(("2", 2)), 2)),
        ]);
        assert_eq!(h.check(), Ok(()));
    }

    #[test]
    fn a_stale_read_is_found() {
        let h = history(&[(0, 1, "a", written("1", 2)), (2, 3, "a", read(None, 1))]);
        assert!(h.check().unwrap_err().contains("no later state"));
    }

    #[test]
    fn a_lost_write_is_found() {
        let h = history(&[(0, 1, "a", written("1", 2)), (2, 3, "a", read(None, 5))]);
        assert!(h.check().unwrap_err().contains("does not see"));
    }

    #[test]
    fn one_revision_given_twice_is_found() {
        let h = history(&[(0, 1, "a", written("1", 2)), (0, 3, "b", written("2", 2))]);
        assert!(h.check().unwrap_err().contains("two writes took revision 2"));
    }

    #[test]
    fn a_write_of_unknown_outcome_may_be_seen_and_another_value_may_not() {
        let unknown = Event::Unknown { value: "2".to_string() };
        let good = history(&[
            (0, 1, "a", written("1", 2)),
            (2, 9, "a", unknown.clone()),
            (5, 6, "a", read(Some(("2", 3)), 3)),
        ]);
        assert_eq!(good.check(), Ok(()));
        let bad = history(&[(0, 1, "a", written("1", 2)), (2, 9, "a", unknown), (5, 6, "a", read(Some(("3", 3)), 3))]);
        assert!(bad.check().is_err());
    }
}
