//! Small replicated state beside the records: rows of a few named tables, the seam for leases, users, roles and alarms.
//!
//! Owns the names of the tables and the form of a row's value: a version byte, then fields. What a row means belongs to
//! the module that owns its table, which holds all of them in memory and reads them back at a start.
//!
//! Invariant: every change of a row goes through [`RowWriter`], which folds it into the digest, so that nodes compare
//! these tables too.

use bytes::Bytes;

use crate::digest::Digest;
use crate::records::WriteRecords;

/// A table of rows. The numbers are part of every stored format: none is changed or used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// One row with an empty key: the cluster clock.
    Clock = 1,
    /// Leases by id.
    Lease = 2,
    /// Keys attached to leases, by lease and key.
    Attachment = 3,
    /// Users by name.
    User = 4,
    /// Roles by name.
    Role = 5,
    /// One row with an empty key: whether authentication is on, and its revision.
    AuthMeta = 6,
    /// Alarms by kind and member.
    Alarm = 7,
}

impl Table {
    /// Every table.
    pub const ALL: [Table; 7] =
        [Table::Clock, Table::Lease, Table::Attachment, Table::User, Table::Role, Table::AuthMeta, Table::Alarm];

    /// The stored number.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The table of a stored number; `None` if a later release made it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Table> {
        Table::ALL.into_iter().find(|table| table.number() == number)
    }
}

/// One row, as images carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its table.
    pub table: Table,
    /// Its key: one row each in a table.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
}

/// A stored row that its owner cannot read: damaged, or written by a later release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the row {key:02x?} of table {table:?} {what}")]
pub struct RowError {
    /// Its table.
    pub table: Table,
    /// Its key.
    pub key: Vec<u8>,
    /// What is wrong with it.
    pub what: String,
}

impl RowError {
    /// What `read` says of a row, as an error that names it.
    ///
    /// # Errors
    /// If `read` fails.
    pub fn name<T>(table: Table, key: &[u8], read: Result<T, FieldError>) -> Result<T, RowError> {
        read.map_err(|error| RowError { table, key: key.to_vec(), what: error.to_string() })
    }
}

/// A row's bytes that do not hold the fields asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// A field runs past the end, or is no such field.
    #[error("ends within a field or holds an impossible one")]
    Cut,
    /// More bytes than the version has fields.
    #[error("has bytes after its last field")]
    Trailing,
    /// Another version than its reader knows.
    #[error("has version {found}, this release reads {known}")]
    UnknownVersion {
        /// The row's.
        found: u8,
        /// The reader's.
        known: u8,
    },
}

/// Makes a row's key or value, field by field. Numbers of a key sort as they compare.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowBytes(pub Vec<u8>);

impl RowBytes {
    /// A value: its version comes first.
    #[must_use]
    pub fn value(version: u8) -> RowBytes {
        RowBytes(vec![version])
    }

    /// A key: nothing comes first.
    #[must_use]
    pub fn key() -> RowBytes {
        RowBytes::default()
    }

    /// One byte.
    #[must_use]
    pub fn byte(mut self, value: u8) -> RowBytes {
        self.0.push(value);
        self
    }

    /// Eight bytes, big-endian with the sign turned, so that they sort as the numbers do.
    #[must_use]
    pub fn long(mut self, value: i64) -> RowBytes {
        self.0.extend((value ^ i64::MIN).to_be_bytes());
        self
    }

    /// 7 bits a byte, least significant first.
    #[must_use]
    pub fn varint(mut self, mut value: u64) -> RowBytes {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    /// A length and the bytes.
    #[must_use]
    pub fn bytes(self, value: &[u8]) -> RowBytes {
        self.varint(value.len() as u64).rest(value)
    }

    /// The bytes alone: only as the last field.
    #[must_use]
    pub fn rest(mut self, value: &[u8]) -> RowBytes {
        self.0.extend_from_slice(value);
        self
    }
}

/// Takes the fields of a row's key or value off its front.
#[derive(Debug)]
pub struct RowFields<'a>(&'a [u8]);

impl<'a> RowFields<'a> {
    /// The fields of a value of version `known`.
    ///
    /// # Errors
    /// [`FieldError::UnknownVersion`] if it is of another.
    pub fn value(value: &'a [u8], known: u8) -> Result<RowFields<'a>, FieldError> {
        match value.split_first() {
            Some((found, rest)) if *found == known => Ok(RowFields(rest)),
            Some((found, _)) => Err(FieldError::UnknownVersion { found: *found, known }),
            None => Err(FieldError::Cut),
        }
    }

    /// The fields of a key.
    #[must_use]
    pub fn key(key: &'a [u8]) -> RowFields<'a> {
        RowFields(key)
    }

    /// [`RowBytes::byte`].
    ///
    /// # Errors
    /// [`FieldError::Cut`].
    pub fn byte(&mut self) -> Result<u8, FieldError> {
        let (byte, rest) = self.0.split_first().ok_or(FieldError::Cut)?;
        self.0 = rest;
        Ok(*byte)
    }

    /// [`RowBytes::long`].
    ///
    /// # Errors
    /// [`FieldError::Cut`].
    pub fn long(&mut self) -> Result<i64, FieldError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(FieldError::Cut)?;
        self.0 = rest;
        Ok(i64::from_be_bytes(*bytes) ^ i64::MIN)
    }

    /// [`RowBytes::varint`].
    ///
    /// # Errors
    /// [`FieldError::Cut`], also if it is longer than any number.
    pub fn varint(&mut self) -> Result<u64, FieldError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(FieldError::Cut)
    }

    /// [`RowBytes::bytes`].
    ///
    /// # Errors
    /// [`FieldError::Cut`].
    pub fn bytes(&mut self) -> Result<&'a [u8], FieldError> {
        let len = usize::try_from(self.varint()?).map_err(|_| FieldError::Cut)?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(FieldError::Cut)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// [`RowBytes::rest`].
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Ends a row whose fields are all read.
    ///
    /// # Errors
    /// [`FieldError::Trailing`].
    pub fn end(self) -> Result<(), FieldError> {
        if self.0.is_empty() { Ok(()) } else { Err(FieldError::Trailing) }
    }
}

/// The one way to change rows while a command is applied.
pub(crate) struct RowWriter<'a, W> {
    pub(crate) records: &'a mut W,
    pub(crate) digest: &'a mut Digest,
}

impl<W: WriteRecords> RowWriter<'_, W> {
    /// Stores a row, in the place of the one under its key.
    pub(crate) fn put(&mut self, table: Table, key: &RowBytes, value: &RowBytes) -> Result<(), W::Error> {
        *self.digest = self.digest.with_row(table, &key.0, Some(&value.0));
        self.records.put_row(table, &key.0, &value.0)
    }

    /// Removes a row, which must be there.
    pub(crate) fn remove(&mut self, table: Table, key: &RowBytes) -> Result<(), W::Error> {
        *self.digest = self.digest.with_row(table, &key.0, None);
        self.records.remove_row(table, &key.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_as_they_went_in() {
        let row = RowBytes::value(3).byte(7).long(-5).varint(300).bytes(b"abc").varint(u64::MAX).rest(b"tail");
        let mut fields = RowFields::value(&row.0, 3).expect("the version it has");
        assert_eq!(fields.byte(), Ok(7));
        assert_eq!(fields.long(), Ok(-5));
        assert_eq!(fields.varint(), Ok(300));
        assert_eq!(fields.bytes(), Ok(&b"abc"[..]));
        assert_eq!(fields.varint(), Ok(u64::MAX));
        assert_eq!(fields.rest(), b"tail");
    }

    #[test]
    fn a_cut_row_a_long_one_and_one_of_another_version_are_told_apart() {
        assert_eq!(RowFields::value(&[], 1).err(), Some(FieldError::Cut));
        assert_eq!(RowFields::value(&[2], 1).err(), Some(FieldError::UnknownVersion { found: 2, known: 1 }));
        let whole = RowBytes::value(1).long(1).bytes(b"abc");
        for len in 1..whole.0.len() {
            let mut fields = RowFields::value(&whole.0[..len], 1).expect("the version is there");
            assert_eq!(fields.long().and_then(|_| fields.bytes()), Err(FieldError::Cut), "{len} bytes");
        }
        assert_eq!(RowFields::key(&[0xff; 11]).varint(), Err(FieldError::Cut));
        assert_eq!(RowFields::key(&[1]).end(), Err(FieldError::Trailing));
    }

    #[test]
    fn longs_sort_as_numbers_do() {
        let rows: Vec<_> =
            [i64::MIN, -1, 0, 1, i64::MAX].into_iter().map(|long| RowBytes::key().long(long).0).collect();
        assert!(rows.is_sorted());
    }

    #[test]
    fn a_table_has_its_number_and_the_number_its_table() {
        for table in Table::ALL {
            assert_eq!(Table::from_number(table.number()), Some(table));
        }
        assert_eq!(Table::from_number(0), None);
    }
}
