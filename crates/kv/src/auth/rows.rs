//! Users, roles and the switch as stored rows.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::apply::Touched;
use super::{AuthState, PasswordHash, PermissionKind, Role, User};
use crate::records::{ReadRows, WriteRecords};
use crate::row::{FieldError, RowBytes, RowError, RowFields, RowWriter, Table};

/// Version of each of the three kinds of rows.
const VERSION: u8 = 1;

impl AuthState {
    /// Stores what a change touched.
    pub(crate) fn store<W: WriteRecords>(
        &self,
        touched: &Touched,
        rows: &mut RowWriter<'_, W>,
    ) -> Result<(), W::Error> {
        for name in &touched.users {
            store_one(rows, Table::User, name, self.users.get(name).map(user_row))?;
        }
        for name in &touched.roles {
            store_one(rows, Table::Role, name, self.roles.get(name).map(role_row))?;
        }
        if touched.meta {
            let row = RowBytes::value(VERSION).byte(u8::from(self.enabled)).varint(self.revision);
            rows.put(Table::AuthMeta, &RowBytes::key(), &row)?;
        }
        Ok(())
    }

    /// Reads everything back.
    pub(crate) fn load<R: ReadRows>(rows: &R) -> Result<AuthState, R::Error> {
        let mut state = AuthState::default();
        rows.scan_rows(Table::AuthMeta, &mut |key, value| {
            (state.enabled, state.revision) = RowError::name(Table::AuthMeta, key, read_meta(value))?;
            Ok(())
        })?;
        rows.scan_rows(Table::User, &mut |key, value| {
            let (name, user) =
                RowError::name(Table::User, key, name(key).and_then(|name| Ok((name, read_user(value)?))))?;
            state.users.insert(name, user);
            Ok(())
        })?;
        rows.scan_rows(Table::Role, &mut |key, value| {
            let (name, role) =
                RowError::name(Table::Role, key, name(key).and_then(|name| Ok((name, read_role(value)?))))?;
            state.roles.insert(name, role);
            Ok(())
        })?;
        state.grants = state.all_grants();
        Ok(state)
    }
}

fn store_one<W: WriteRecords>(
    rows: &mut RowWriter<'_, W>,
    table: Table,
    name: &str,
    row: Option<RowBytes>,
) -> Result<(), W::Error> {
    let key = RowBytes::key().rest(name.as_bytes());
    match row {
        Some(row) => rows.put(table, &key, &row),
        None => rows.remove(table, &key),
    }
}

fn user_row(user: &User) -> RowBytes {
    let hash = user.password.as_ref().map_or(&b""[..], |hash| &hash.0);
    let row = RowBytes::value(VERSION).byte(u8::from(user.password.is_some())).bytes(hash);
    let row = row.varint(user.password_revision).varint(user.roles.len() as u64);
    user.roles.iter().fold(row, |row, role| row.bytes(role.as_bytes()))
}

fn role_row(role: &Role) -> RowBytes {
    let row = RowBytes::value(VERSION).varint(role.permissions.len() as u64);
    role.permissions.iter().fold(row, |row, ((key, range_end), kind)| {
        let kind = match kind {
            PermissionKind::Read => 0,
            PermissionKind::Write => 1,
            PermissionKind::ReadWrite => 2,
        };
        row.byte(kind).bytes(key).bytes(range_end)
    })
}

fn name(key: &[u8]) -> Result<String, FieldError> {
    String::from_utf8(key.to_vec()).map_err(|_| FieldError::Cut)
}

fn read_meta(value: &[u8]) -> Result<(bool, u64), FieldError> {
    let mut fields = RowFields::value(value, VERSION)?;
    let meta = (fields.byte()? != 0, fields.varint()?);
    fields.end()?;
    Ok(meta)
}

fn read_user(value: &[u8]) -> Result<User, FieldError> {
    let mut fields = RowFields::value(value, VERSION)?;
    let has_password = fields.byte()? != 0;
    let hash = PasswordHash(Bytes::copy_from_slice(fields.bytes()?));
    let password_revision = fields.varint()?;
    let mut roles = BTreeSet::new();
    for _ in 0..fields.varint()? {
        roles.insert(name(fields.bytes()?)?);
    }
    fields.end()?;
    Ok(User { password: has_password.then_some(hash), password_revision, roles })
}

fn read_role(value: &[u8]) -> Result<Role, FieldError> {
    let mut fields = RowFields::value(value, VERSION)?;
    let mut permissions = BTreeMap::new();
    for _ in 0..fields.varint()? {
        let kind = match fields.byte()? {
            0 => PermissionKind::Read,
            1 => PermissionKind::Write,
            2 => PermissionKind::ReadWrite,
            _ => return Err(FieldError::Cut),
        };
        let key = Bytes::copy_from_slice(fields.bytes()?);
        permissions.insert((key, Bytes::copy_from_slice(fields.bytes()?)), kind);
    }
    fields.end()?;
    Ok(Role { permissions })
}
