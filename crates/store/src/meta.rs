//! The table `meta` that both files have: one sealed row a name, and the format version in the row `format`.

use std::sync::Arc;

use bytes::Bytes;
use quorate_raft::{LogIndex, Membership};
use quorate_wire::DecodeError;
use redb::{ReadTransaction, ReadableTable, Table, TableDefinition};

use crate::error::{OpenError, ReadError};
use crate::fields::{Fields, PutFields};
use crate::seal;

pub(crate) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

/// The row that every release reads first.
pub(crate) const FORMAT: &str = "format";

/// Seals and stores one row begun with [`seal::unsealed`].
pub(crate) fn put_meta(
    table: &mut Table<'_, &'static str, &'static [u8]>,
    name: &str,
    mut row: Vec<u8>,
) -> Result<(), redb::Error> {
    seal::seal(name.as_bytes(), &mut row);
    table.insert(name, row.as_slice())?;
    Ok(())
}

/// Stores the format version.
pub(crate) fn put_format(table: &mut Table<'_, &'static str, &'static [u8]>, version: u32) -> Result<(), redb::Error> {
    let mut row = seal::unsealed();
    row.put_u32(version);
    put_meta(table, FORMAT, row)
}

/// The rows of one file, read in one transaction.
pub(crate) struct MetaRows<T> {
    file: &'static str,
    table: T,
}

impl MetaRows<redb::ReadOnlyTable<&'static str, &'static [u8]>> {
    pub(crate) fn open(file: &'static str, transaction: &ReadTransaction) -> Result<Self, ReadError> {
        let table = transaction.open_table(META).map_err(|error| match error {
            redb::TableError::TableDoesNotExist(name) => ReadError::damaged(file, format!("table {name} is missing")),
            error => ReadError::from_redb(file, error),
        })?;
        Ok(Self { file, table })
    }
}

impl<T: ReadableTable<&'static str, &'static [u8]>> MetaRows<T> {
    /// Decodes a row, if it is there.
    pub(crate) fn get<R>(&self, name: &str, decode: impl FnOnce(&[u8]) -> Option<R>) -> Result<Option<R>, ReadError> {
        let row = self.table.get(name).map_err(|error| ReadError::from_redb(self.file, error))?;
        let Some(row) = row else { return Ok(None) };
        match seal::open(name.as_bytes(), row.value()).map(decode) {
            Some(Some(row)) => Ok(Some(row)),
            Some(None) => Err(ReadError::damaged(self.file, format!("the row `{name}` cannot be decoded"))),
            None => Err(ReadError::damaged(self.file, format!("the row `{name}` fails its checksum"))),
        }
    }

    /// Decodes a row that every whole file has.
    pub(crate) fn require<R>(&self, name: &str, decode: impl FnOnce(&[u8]) -> Option<R>) -> Result<R, ReadError> {
        self.get(name, decode)?.ok_or_else(|| ReadError::damaged(self.file, format!("the row `{name}` is missing")))
    }

    /// Verifies every row, those of later releases too; gives their bytes.
    pub(crate) fn verify(&self) -> Result<usize, ReadError> {
        let failed = |error: redb::StorageError| ReadError::from_redb(self.file, error);
        let mut bytes = 0;
        for row in self.table.range::<&str>(..).map_err(failed)? {
            let (name, row) = row.map_err(failed)?;
            let (name, row) = (name.value(), row.value());
            bytes += row.len();
            if seal::open(name.as_bytes(), row).is_none() {
                return Err(ReadError::damaged(self.file, format!("the row `{name}` fails its checksum")));
            }
        }
        Ok(bytes)
    }

    /// Refuses a file of a later format.
    pub(crate) fn check_format(&self, supported: u32) -> Result<(), OpenError> {
        // Only the version is read: what else the row holds is for the release that wrote it.
        let found = self.require(FORMAT, |row| Fields(row).u32())?;
        if found > supported {
            return Err(OpenError::NewerFormat { file: self.file, found, supported });
        }
        if found == 0 {
            return Err(OpenError::damaged(self.file, "format version 0"));
        }
        Ok(())
    }
}

/// A configuration and the index it was logged at, as fields of a row.
pub(crate) fn put_membership(row: &mut Vec<u8>, (index, membership): &(LogIndex, Arc<Membership>)) {
    row.put_u64(index.0);
    row.put_bytes(&quorate_wire::encode_membership(*index, membership));
}

/// What [`put_membership`] wrote, not decoded yet: a newer release's configuration is not damage.
pub(crate) struct StoredMembership {
    index: LogIndex,
    record: Bytes,
}

impl StoredMembership {
    pub(crate) fn take(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { index: LogIndex(fields.u64()?), record: Bytes::copy_from_slice(fields.bytes()?) })
    }

    pub(crate) fn decode(self, file: &'static str) -> Result<(LogIndex, Arc<Membership>), OpenError> {
        let membership = quorate_wire::decode_membership(self.index, self.record).map_err(|error| match error {
            DecodeError::UnknownVersion { found, supported, .. } => OpenError::NewerFormat { file, found, supported },
            error => OpenError::damaged(file, format!("the configuration of entry {}: {error}", self.index)),
        })?;
        Ok((self.index, Arc::new(membership)))
    }
}
