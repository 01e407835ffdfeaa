//! Reading records as far as somebody allows: the answer to one range may be larger than what memory is left.
//!
//! Never decides how much is allowed.

use quorate_kv::{ReadRecords, Record, RecordKey};

use super::records::RecordReader;
use crate::error::RationedReadError;

/// Records, each of which is asked for by its bytes before it is given out.
pub(crate) struct RationedReader<'a> {
    records: RecordReader,
    /// Whether this many more bytes may be taken.
    allow: &'a dyn Fn(usize) -> bool,
}

impl<'a> RationedReader<'a> {
    pub(crate) fn new(records: RecordReader, allow: &'a dyn Fn(usize) -> bool) -> Self {
        Self { records, allow }
    }
}

impl ReadRecords for RationedReader<'_> {
    type Error = RationedReadError;

    fn get(&self, at: RecordKey) -> Result<Option<Record>, RationedReadError> {
        let record = self.records.get(at)?;
        match &record {
            Some(found) if !(self.allow)(found.key.len() + found.value.len()) => Err(RationedReadError::NotAllowed),
            _ => Ok(record),
        }
    }

    fn scan(&self, from: RecordKey, visit: &mut dyn FnMut(RecordKey, Record) -> bool) -> Result<(), RationedReadError> {
        Ok(self.records.scan(from, visit)?)
    }

    fn missing(at: RecordKey) -> RationedReadError {
        RecordReader::missing(at).into()
    }
}
