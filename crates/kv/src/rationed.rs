//! Reading records as far as somebody allows: one answer may be larger than what memory is left.
//!
//! Never decides how much is allowed.

use crate::record::Record;
use crate::records::ReadRecords;
use crate::revision::RecordKey;

/// Records, each of which is asked for by the memory it takes before it is given out.
pub struct RationedReader<'a, R> {
    records: &'a R,
    /// Whether this many more bytes may be taken.
    allow: &'a dyn Fn(usize) -> bool,
}

/// Why an answer of limited size could not be read.
#[derive(Debug)]
pub enum RationedReadError<E> {
    /// The storage failed, or is damaged.
    Read(E),
    /// The next record is more than the reader allows.
    NotAllowed,
}

impl<E> From<E> for RationedReadError<E> {
    fn from(error: E) -> Self {
        Self::Read(error)
    }
}

impl<'a, R> RationedReader<'a, R> {
    /// Reads from `records` while `allow` says yes to the memory that the next one takes in an answer.
    pub fn new(records: &'a R, allow: &'a dyn Fn(usize) -> bool) -> Self {
        Self { records, allow }
    }
}

impl<R: ReadRecords> ReadRecords for RationedReader<'_, R> {
    type Error = RationedReadError<R::Error>;

    fn get(&self, at: RecordKey) -> Result<Option<Record>, Self::Error> {
        let record = self.records.get(at)?;
        match &record {
            Some(found) if !(self.allow)(found.answer_bytes()) => Err(RationedReadError::NotAllowed),
            _ => Ok(record),
        }
    }

    fn scan(&self, from: RecordKey, visit: &mut dyn FnMut(RecordKey, Record) -> bool) -> Result<(), Self::Error> {
        Ok(self.records.scan(from, visit)?)
    }

    fn missing(at: RecordKey) -> Self::Error {
        R::missing(at).into()
    }
}
