//! Records in memory: for tests, and for simulations that need no disk.

use std::collections::BTreeMap;
use std::convert::Infallible;

use crate::record::Record;
use crate::records::{ReadRecords, WriteRecords};
use crate::revision::RecordKey;

/// Records in a sorted map. Cannot fail, so an index that names a record it lacks is a panic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryRecords {
    records: BTreeMap<RecordKey, Record>,
}

impl MemoryRecords {
    /// No records.
    #[must_use]
    pub fn new() -> MemoryRecords {
        MemoryRecords::default()
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// True if there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// All records in order.
    pub fn iter(&self) -> impl Iterator<Item = (RecordKey, &Record)> {
        self.records.iter().map(|(at, record)| (*at, record))
    }
}

impl ReadRecords for MemoryRecords {
    type Error = Infallible;

    fn get(&self, at: RecordKey) -> Result<Option<Record>, Infallible> {
        Ok(self.records.get(&at).cloned())
    }

    fn scan(&self, from: RecordKey, visit: &mut dyn FnMut(RecordKey, Record) -> bool) -> Result<(), Infallible> {
        for (at, record) in self.records.range(from..) {
            if !visit(*at, record.clone()) {
                break;
            }
        }
        Ok(())
    }

    fn missing(at: RecordKey) -> Infallible {
        panic!("the index names a record at {at} that does not exist")
    }
}

impl WriteRecords for MemoryRecords {
    fn insert(&mut self, at: RecordKey, record: &Record) -> Result<(), Infallible> {
        let replaced = self.records.insert(at, record.clone());
        assert!(replaced.is_none(), "two records at {at}");
        Ok(())
    }

    fn remove(&mut self, at: RecordKey) -> Result<(), Infallible> {
        self.records.remove(&at);
        Ok(())
    }
}
