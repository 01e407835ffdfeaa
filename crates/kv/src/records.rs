//! Where records live: the seam between the key space and storage.

use crate::record::Record;
use crate::revision::RecordKey;

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

/// Records that can be changed; reads see the changes made before.
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
}
