//! Rows of the key space's tables in the state file: leases, users and the like, beside the records.
//!
//! `rows`: number of the table, then the row's key, so that a table's rows stand together in their order -> sealed value.
//! What a row means is the key space's to know; here it is bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_kv::{KeySpace, ReadRecords, ReadRows, Record, RecordKey, Row, Table, VisitRow};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};

use super::records::RecordReader;
use super::rows::StateRows;
use crate::disk::STATE_FILE;
use crate::error::ReadError;
use crate::seal;

pub(crate) const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");

/// What a batch did to the rows: `None` is a removal. Keys are those of the table [`ROWS`].
pub(crate) type RowBatch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The key of a row in [`ROWS`].
pub(crate) fn row_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(1 + key.len());
    raw.push(table.number());
    raw.extend_from_slice(key);
    raw
}

/// Rows as of one commit of the file.
pub(crate) struct RowReader {
    /// `None` in a file in which no release kept rows yet.
    table: Option<ReadOnlyTable<&'static [u8], &'static [u8]>>,
}

impl RowReader {
    pub(crate) fn new(transaction: &ReadTransaction) -> Result<Self, ReadError> {
        match transaction.open_table(ROWS) {
            Ok(table) => Ok(Self { table: Some(table) }),
            Err(TableError::TableDoesNotExist(_)) => Ok(Self { table: None }),
            Err(error) => Err(ReadError::from_redb(STATE_FILE, error)),
        }
    }

    /// Visits the rows of one table, in order.
    fn visit(&self, of: Table, mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), ReadError>) -> Result<(), ReadError> {
        let Some(table) = &self.table else { return Ok(()) };
        let failed = |error: redb::StorageError| ReadError::from_redb(STATE_FILE, error);
        let (first, end) = ([of.number()], [of.number() + 1]);
        for row in ReadableTable::range::<&[u8]>(table, &first[..]..&end[..]).map_err(failed)? {
            let (raw, sealed) = row.map_err(failed)?;
            let raw = raw.value();
            visit(&raw[1..], open_row(raw, sealed.value())?)?;
        }
        Ok(())
    }

    /// Reads rows from `from` on until they were `max_bytes`, and verifies them. Gives the bytes read and where to go on;
    /// `None` at the end.
    pub(crate) fn verify(&self, from: &[u8], max_bytes: usize) -> Result<(usize, Option<Vec<u8>>), ReadError> {
        let Some(table) = &self.table else { return Ok((0, None)) };
        let failed = |error: redb::StorageError| ReadError::from_redb(STATE_FILE, error);
        let mut bytes = 0;
        for row in ReadableTable::range::<&[u8]>(table, from..).map_err(failed)? {
            let (raw, sealed) = row.map_err(failed)?;
            let again = raw.value() == from && bytes > 0;
            if raw.value() < from || again {
                // As with records, this would have no end.
                return Err(ReadError::damaged(
                    STATE_FILE,
                    format!("the row {:02x?} stands out of order", raw.value()),
                ));
            }
            if bytes >= max_bytes {
                return Ok((bytes, Some(raw.value().to_vec())));
            }
            bytes += sealed.value().len();
            open_row(raw.value(), sealed.value())?;
        }
        Ok((bytes, None))
    }

    /// Every row, in the order of an image.
    pub(crate) fn all(&self) -> Result<Vec<Row>, ReadError> {
        let mut rows = Vec::new();
        for table in Table::ALL {
            self.visit(table, |key, value| {
                rows.push(Row { table, key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) });
                Ok(())
            })?;
        }
        Ok(rows)
    }
}

fn open_row<'a>(raw: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], ReadError> {
    let damaged = || ReadError::damaged(STATE_FILE, format!("the row {raw:02x?} fails its checksum"));
    seal::open(raw, sealed).ok_or_else(damaged)
}

/// Everything that a start reads of one commit: records and rows.
pub(crate) struct StateReader {
    records: RecordReader,
    rows: RowReader,
}

impl StateReader {
    pub(crate) fn new(transaction: &ReadTransaction) -> Result<Self, ReadError> {
        Ok(Self { records: RecordReader::new(transaction)?, rows: RowReader::new(transaction)? })
    }

    /// The key space by all records, which must be as many as the file says of itself: redb takes a page that went back to an
    /// older version for the newer one, and what that lacks would be gone without a word.
    pub(crate) fn key_space(&self, rows: &StateRows) -> Result<KeySpace, ReadError> {
        let key_space = KeySpace::rebuild(rows.position.key_space, self)?;
        let (found, stored) = (key_space.record_count(), rows.position.totals.count);
        if found != stored {
            return Err(ReadError::damaged(STATE_FILE, format!("it holds {found} records, and {stored} were stored")));
        }
        Ok(key_space)
    }
}

impl ReadRecords for StateReader {
    type Error = ReadError;

    fn get(&self, at: RecordKey) -> Result<Option<Record>, ReadError> {
        self.records.get(at)
    }

    fn scan(&self, from: RecordKey, visit: &mut dyn FnMut(RecordKey, Record) -> bool) -> Result<(), ReadError> {
        self.records.scan(from, visit)
    }

    fn missing(at: RecordKey) -> ReadError {
        RecordReader::missing(at)
    }
}

impl ReadRows for StateReader {
    fn scan_rows(&self, table: Table, visit: VisitRow<'_>) -> Result<(), ReadError> {
        self.rows.visit(table, |key, value| {
            visit(key, value).map_err(|error| ReadError::damaged(STATE_FILE, error.to_string()))
        })
    }
}

/// Stores what a batch did to the rows.
pub(crate) fn store_rows(transaction: &WriteTransaction, batch: &RowBatch) -> Result<(), redb::Error> {
    if batch.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(ROWS)?;
    for (raw, change) in batch {
        match change {
            // A row that came and went within one batch was never stored.
            None => drop(table.remove(raw.as_slice())?),
            Some(value) => store_row(&mut table, raw, value)?,
        }
    }
    Ok(())
}

/// Stores the rows of an image.
pub(crate) fn store_image_rows(transaction: &WriteTransaction, rows: &[Row]) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(ROWS)?;
    rows.iter().try_for_each(|row| store_row(&mut table, &row_key(row.table, &row.key), &row.value))
}

fn store_row(
    table: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    raw: &[u8],
    value: &[u8],
) -> Result<(), redb::Error> {
    let mut sealed = seal::unsealed();
    sealed.extend_from_slice(value);
    seal::seal(raw, &mut sealed);
    table.insert(raw, sealed.as_slice())?;
    Ok(())
}
