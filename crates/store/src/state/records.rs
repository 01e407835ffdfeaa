//! Records in the state file: their form, reading them in a transaction, and collecting those of one batch.
//!
//! `records`: revision and number within it, big-endian, so that the order of the table is the order of the changes,
//! -> sealed record. Records are immutable: written once, read, one day removed by compaction.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds as _};

use bytes::Bytes;
use quorate_kv::{ReadRecords, Record, RecordKey, Table, WriteRecords};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use super::tables::{RowBatch, row_key};
use crate::disk::STATE_FILE;
use crate::error::ReadError;
use crate::seal;

/// [`RecordKey::to_bytes`].
pub(crate) type RawKey = [u8; RecordKey::ENCODED_LEN];

pub(crate) const RECORDS: TableDefinition<'static, RawKey, &[u8]> = TableDefinition::new("records");

/// The sealed form of a record.
pub(crate) fn encode_record(at: &RawKey, record: &Record, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; seal::SEAL_BYTES]);
    record.encode(out);
    seal::seal(at, out);
}

/// The record in its sealed form: one allocation, which key and value share.
pub(crate) fn decode_record(at: &RawKey, sealed: &[u8]) -> Result<Record, ReadError> {
    let damaged =
        |what: String| ReadError::damaged(STATE_FILE, format!("record {} {what}", RecordKey::from_bytes(*at)));
    let body = seal::open(at, sealed).ok_or_else(|| damaged("fails its checksum".to_owned()))?;
    Record::decode(&Bytes::copy_from_slice(body)).map_err(|error| damaged(format!("cannot be decoded: {error}")))
}

/// What a batch did, before it is in the file.
#[derive(Default)]
pub(crate) struct Batch {
    /// Records; `None` is a removal.
    pub(crate) records: BTreeMap<RecordKey, Option<Record>>,
    pub(crate) rows: RowBatch,
}

impl Batch {
    /// About the bytes that it adds to the file.
    pub(crate) fn written_bytes(&self) -> u64 {
        let records: usize = self.records.values().flatten().map(Record::encoded_len).sum();
        let rows: usize = self.rows.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
        (records + rows) as u64
    }
}

/// Records as of one commit of the file.
pub(crate) struct RecordReader {
    table: ReadOnlyTable<RawKey, &'static [u8]>,
}

impl RecordReader {
    pub(crate) fn new(transaction: &ReadTransaction) -> Result<Self, ReadError> {
        let table = transaction.open_table(RECORDS).map_err(|error| ReadError::from_redb(STATE_FILE, error))?;
        Ok(Self { table })
    }

    /// Fails if there is no record at `at`. What it holds is not looked at.
    pub(crate) fn require(&self, at: RecordKey) -> Result<(), ReadError> {
        match ReadableTable::get(&self.table, at.to_bytes()) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Self::missing(at)),
            Err(error) => Err(ReadError::from_redb(STATE_FILE, error)),
        }
    }

    /// Visits the records of the file alone, from `from` on, as they are stored.
    ///
    /// Each key is greater than the one before. redb believes a page about its place: on one that went back to an older version
    /// the order breaks, and who goes on where the last visit ended would come by the same records for ever.
    pub(crate) fn visit_stored(
        &self,
        from: Bound<RawKey>,
        mut visit: impl FnMut(RawKey, &[u8]) -> Result<bool, ReadError>,
    ) -> Result<(), ReadError> {
        let failed = |error: redb::StorageError| ReadError::from_redb(STATE_FILE, error);
        let mut after = from;
        for row in ReadableTable::range::<RawKey>(&self.table, (from, Bound::Unbounded)).map_err(failed)? {
            let (key, sealed) = row.map_err(failed)?;
            let key = key.value();
            if !(after, Bound::Unbounded).contains(&key) {
                let at = RecordKey::from_bytes(key);
                return Err(ReadError::damaged(STATE_FILE, format!("record {at} stands out of order")));
            }
            after = Bound::Excluded(key);
            if !visit(key, sealed.value())? {
                break;
            }
        }
        Ok(())
    }
}

impl ReadRecords for RecordReader {
    type Error = ReadError;

    fn get(&self, at: RecordKey) -> Result<Option<Record>, ReadError> {
        let raw = at.to_bytes();
        match ReadableTable::get(&self.table, raw) {
            Ok(Some(sealed)) => decode_record(&raw, sealed.value()).map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(ReadError::from_redb(STATE_FILE, error)),
        }
    }

    fn scan(&self, from: RecordKey, visit: &mut dyn FnMut(RecordKey, Record) -> bool) -> Result<(), ReadError> {
        self.visit_stored(Bound::Included(from.to_bytes()), |raw, sealed| {
            Ok(visit(RecordKey::from_bytes(raw), decode_record(&raw, sealed)?))
        })
    }

    fn missing(at: RecordKey) -> ReadError {
        ReadError::damaged(STATE_FILE, format!("record {at} is in the key index, but not in the file"))
    }
}

/// The records as a batch sees and changes them. Nothing reaches the file before [`store_records`].
pub(crate) struct BatchRecords {
    before: RecordReader,
    batch: Batch,
}

impl BatchRecords {
    /// A batch on top of the file's last commit; the one before must be in it.
    pub(crate) fn new(before: RecordReader) -> Self {
        Self { before, batch: Batch::default() }
    }

    pub(crate) fn into_batch(self) -> Batch {
        self.batch
    }
}

impl ReadRecords for BatchRecords {
    type Error = ReadError;

    fn get(&self, at: RecordKey) -> Result<Option<Record>, ReadError> {
        match self.batch.records.get(&at) {
            Some(change) => Ok(change.clone()),
            None => self.before.get(at),
        }
    }

    /// A batch adds only at the end and removes anywhere: the stored ones come first, less the removed, then its own.
    fn scan(&self, from: RecordKey, visit: &mut dyn FnMut(RecordKey, Record) -> bool) -> Result<(), ReadError> {
        let mut more = true;
        self.before.scan(from, &mut |key, record| {
            if !self.batch.records.contains_key(&key) {
                more = visit(key, record);
            }
            more
        })?;
        for (key, change) in self.batch.records.range(from..) {
            let Some(record) = change else { continue };
            if !more {
                break;
            }
            more = visit(*key, record.clone());
        }
        Ok(())
    }

    fn missing(at: RecordKey) -> ReadError {
        RecordReader::missing(at)
    }
}

impl WriteRecords for BatchRecords {
    fn insert(&mut self, at: RecordKey, record: &Record) -> Result<(), ReadError> {
        self.batch.records.insert(at, Some(record.clone()));
        Ok(())
    }

    fn remove(&mut self, at: RecordKey) -> Result<(), ReadError> {
        self.batch.records.insert(at, None);
        Ok(())
    }

    fn put_row(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), ReadError> {
        self.batch.rows.insert(row_key(table, key), Some(value.to_vec()));
        Ok(())
    }

    fn remove_row(&mut self, table: Table, key: &[u8]) -> Result<(), ReadError> {
        self.batch.rows.insert(row_key(table, key), None);
        Ok(())
    }
}

/// Records and their bytes, keys and seals included, that a state file holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordTotals {
    /// How many.
    pub count: u64,
    /// Their bytes as stored. Pages add about a third, and space freed but not yet re-used.
    pub bytes: u64,
}

/// Stores the records of a batch and keeps the totals.
pub(crate) fn store_records(
    transaction: &WriteTransaction,
    batch: &BTreeMap<RecordKey, Option<Record>>,
    totals: &mut RecordTotals,
) -> Result<(), redb::Error> {
    if batch.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(RECORDS)?;
    let removed = batch.iter().filter(|(_, change)| change.is_none());
    removed.map(|(key, _)| *key).try_for_each(|key| remove_record(&mut table, key, totals))?;
    let mut appender = RecordAppender::new(totals);
    let mut cursor = table.upper_bound_mut(Bound::<RawKey>::Unbounded)?;
    for (key, change) in batch {
        if let Some(record) = change {
            appender.append(&mut cursor, *key, record)?;
        }
    }
    cursor.close()?;
    Ok(())
}

/// Removes records and keeps the totals.
pub(crate) fn remove_records(
    transaction: &WriteTransaction,
    keys: &[RecordKey],
    totals: &mut RecordTotals,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(RECORDS)?;
    keys.iter().try_for_each(|key| remove_record(&mut table, *key, totals))
}

fn remove_record(
    table: &mut redb::Table<'_, RawKey, &'static [u8]>,
    key: RecordKey,
    totals: &mut RecordTotals,
) -> Result<(), redb::Error> {
    // One that came and went within one batch was never stored.
    if let Some(removed) = table.remove(key.to_bytes())? {
        totals.count -= 1;
        totals.bytes -= (size_of::<RawKey>() + removed.value().len()) as u64;
    }
    Ok(())
}

/// Appends records in rising order.
pub(crate) struct RecordAppender<'a> {
    sealed: Vec<u8>,
    totals: &'a mut RecordTotals,
}

impl<'a> RecordAppender<'a> {
    pub(crate) fn new(totals: &'a mut RecordTotals) -> Self {
        Self { sealed: Vec::new(), totals }
    }

    pub(crate) fn append(
        &mut self,
        cursor: &mut redb::CursorMut<'_, RawKey, &'static [u8]>,
        key: RecordKey,
        record: &Record,
    ) -> Result<(), redb::Error> {
        let raw = key.to_bytes();
        encode_record(&raw, record, &mut self.sealed);
        cursor.insert_before(raw, self.sealed.as_slice())?;
        self.totals.count += 1;
        self.totals.bytes += (size_of::<RawKey>() + self.sealed.len()) as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_stored() {
        let record = Record {
            key: Bytes::from_static(b"key"),
            value: Bytes::from_static(b"value"),
            create_revision: 300,
            version: 2,
            lease: -5,
            tombstone: false,
        };
        let at = RecordKey { revision: 301, sub: 4 }.to_bytes();
        let mut sealed = Vec::new();
        encode_record(&at, &record, &mut sealed);
        assert_eq!(decode_record(&at, &sealed).expect("sound"), record);
        let elsewhere = RecordKey { revision: 301, sub: 5 }.to_bytes();
        assert!(decode_record(&elsewhere, &sealed).unwrap_err().to_string().contains("record 301.5"));
    }
}
