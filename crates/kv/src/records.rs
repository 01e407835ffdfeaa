//! Where records and rows live: the seam between the key space and storage.

use crate::record::Record;
use crate::revision::RecordKey;
use crate::row::{RowError, Table};

/// Records as one consistent view shows them.
pub trait ReadRecords {
    /// A storage failure, which is fatal for the node: never an answer to a client.
    type Error;

    /// The record at `at`, if there is one.
    ///
    /// # Errors
    /// The storage's own.
    fn get(&self, at: RecordKey) -> Result<Option<Record>, Self::Error>;

    /// Calls `visit` with every record from `from` on, in order, until it returns false.
    ///
    /// # Errors
    /// The storage's own.
    fn scan(&self, from: RecordKey, visit: &mut dyn FnMut(RecordKey, Record) -> bool) -> Result<(), Self::Error>;

    /// The error that says the key index names a record at `at` which the storage does not have: index and storage are
    /// not of one state.
    fn missing(at: RecordKey) -> Self::Error;
}

/// Takes key and value of one row; an error says that it cannot be read, and ends the scan.
pub type VisitRow<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<(), RowError>;

/// All that a start reads: the records, and the rows beside them.
pub trait ReadRows: ReadRecords {
    /// Calls `visit` with key and value of every row of `table`, in the order of the keys, until it fails.
    ///
    /// # Errors
    /// The storage's own, which also says that `visit` cannot read a row.
    fn scan_rows(&self, table: Table, visit: VisitRow<'_>) -> Result<(), Self::Error>;
}

/// Records and rows that can be changed; reads see the changes made before. All changes of one command become durable
/// together, or none.
pub trait WriteRecords: ReadRecords {
    /// Stores `record` at `at`, where none is.
    ///
    /// # Errors
    /// The storage's own.
    fn insert(&mut self, at: RecordKey, record: &Record) -> Result<(), Self::Error>;

    /// Removes the record at `at`. That there is none is no error: a removal is repeated after a start from an older
    /// index image.
    ///
    /// # Errors
    /// The storage's own.
    fn remove(&mut self, at: RecordKey) -> Result<(), Self::Error>;

    /// Stores a row, in the place of the one under its key.
    ///
    /// # Errors
    /// The storage's own.
    fn put_row(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Self::Error>;

    /// Removes a row, which is there.
    ///
    /// # Errors
    /// The storage's own.
    fn remove_row(&mut self, table: Table, key: &[u8]) -> Result<(), Self::Error>;
}
