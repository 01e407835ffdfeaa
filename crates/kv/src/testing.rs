//! Records and rows in memory: for tests, and for simulations that need no disk.

use std::collections::BTreeMap;
use std::convert::Infallible;

use crate::record::Record;
use crate::records::{ReadRecords, ReadRows, VisitRow, WriteRecords};
use crate::revision::RecordKey;
use crate::row::Table;

/// Records and rows in sorted maps. Cannot fail, so an index that names a record it lacks is a panic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryRecords {
    records: BTreeMap<RecordKey, Record>,
    rows: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
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

    /// All rows in order.
    pub fn rows(&self) -> impl Iterator<Item = (Table, &[u8], &[u8])> {
        self.rows.iter().map(|((table, key), value)| (*table, key.as_slice(), value.as_slice()))
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

impl ReadRows for MemoryRecords {
    fn scan_rows(&self, table: Table, visit: VisitRow<'_>) -> Result<(), Infallible> {
        for (of, key, value) in self.rows() {
            if of == table {
                visit(key, value).unwrap_or_else(|error| panic!("{error}"));
            }
        }
        Ok(())
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

    fn put_row(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Infallible> {
        self.rows.insert((table, key.to_vec()), value.to_vec());
        Ok(())
    }

    fn remove_row(&mut self, table: Table, key: &[u8]) -> Result<(), Infallible> {
        let removed = self.rows.remove(&(table, key.to_vec()));
        assert!(removed.is_some(), "the row {key:02x?} of {table:?} is removed and was not there");
        Ok(())
    }
}
