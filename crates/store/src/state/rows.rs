//! The rows of the state file's `meta` table.

use std::sync::Arc;

use quorate_kv::KeySpaceMeta;
use quorate_raft::{LogIndex, Membership, SnapshotMeta, Term};
use redb::{ReadTransaction, WriteTransaction};

use super::records::RecordTotals;
use crate::disk::STATE_FILE;
use crate::error::{OpenError, ReadError};
use crate::fields::{Fields, PutFields};
use crate::meta::{META, MetaRows, StoredMembership, put_format, put_membership, put_meta};
use crate::seal;

/// Version of the state file. Raised when a release writes something that an older one would misread.
pub(crate) const STATE_FORMAT: u32 = 1;

const POSITION: &str = "position";
const MEMBERSHIP: &str = "membership";
const ORIGIN: &str = "origin";

/// What the records reflect: stored with them in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) applied: LogIndex,
    pub(crate) term: Term,
    pub(crate) key_space: KeySpaceMeta,
    pub(crate) totals: RecordTotals,
}

/// Where this file comes from. An index image of another origin says nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Origin {
    pub(crate) cluster_id: Option<u128>,
    /// Index of the snapshot the file was made from; 0 if it began empty.
    pub(crate) born_at: LogIndex,
}

/// The configuration applied last, and where it was logged.
pub(crate) type MembershipRow = (LogIndex, Arc<Membership>);

/// All rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateRows {
    pub(crate) position: Position,
    pub(crate) membership: MembershipRow,
    pub(crate) origin: Origin,
}

impl Position {
    pub(crate) fn empty() -> Self {
        Self {
            applied: LogIndex(0),
            term: Term(0),
            key_space: KeySpaceMeta::default(),
            totals: RecordTotals::default(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut row = seal::unsealed();
        row.put_u64(self.applied.0);
        row.put_u64(self.term.0);
        row.extend_from_slice(&self.key_space.to_bytes());
        row.put_u64(self.totals.count);
        row.put_u64(self.totals.bytes);
        row
    }

    fn decode(row: &[u8]) -> Option<Self> {
        let mut fields = Fields(row);
        let (applied, term) = (LogIndex(fields.u64()?), Term(fields.u64()?));
        let key_space = KeySpaceMeta::from_bytes(&fields.array()?)?;
        let totals = RecordTotals { count: fields.u64()?, bytes: fields.u64()? };
        fields.end()?;
        Some(Self { applied, term, key_space, totals })
    }
}

impl StateRows {
    pub(crate) fn empty() -> Self {
        Self { position: Position::empty(), membership: (LogIndex(0), Arc::default()), origin: Origin::default() }
    }

    /// The position in the log that these rows stand for.
    pub(crate) fn snapshot_meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            index: self.position.applied,
            term: self.position.term,
            membership: self.membership.1.clone(),
            membership_index: self.membership.0,
        }
    }

    pub(crate) fn read(transaction: &ReadTransaction) -> Result<Self, OpenError> {
        let rows = MetaRows::open(STATE_FILE, transaction)?;
        rows.check_format(STATE_FORMAT)?;
        let position = rows.require(POSITION, Position::decode)?;
        let membership = rows.require(MEMBERSHIP, split_membership)?.decode(STATE_FILE)?;
        let origin = rows.require(ORIGIN, decode_origin)?;
        if membership.0 > position.applied {
            return Err(ReadError::damaged(STATE_FILE, "its configuration is newer than its position").into());
        }
        Ok(Self { position, membership, origin })
    }

    /// Stores all rows: for a file in the making.
    pub(crate) fn store(&self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        put_format(&mut transaction.open_table(META)?, STATE_FORMAT)?;
        store_position(transaction, &self.position)?;
        store_membership(transaction, &self.membership)?;
        store_origin(transaction, &self.origin)
    }
}

pub(crate) fn store_position(transaction: &WriteTransaction, position: &Position) -> Result<(), redb::Error> {
    put_meta(&mut transaction.open_table(META)?, POSITION, position.encode())
}

pub(crate) fn store_membership(transaction: &WriteTransaction, membership: &MembershipRow) -> Result<(), redb::Error> {
    let mut row = seal::unsealed();
    put_membership(&mut row, membership);
    put_meta(&mut transaction.open_table(META)?, MEMBERSHIP, row)
}

fn split_membership(row: &[u8]) -> Option<StoredMembership> {
    let mut fields = Fields(row);
    let membership = StoredMembership::take(&mut fields)?;
    fields.end()?;
    Some(membership)
}

pub(crate) fn store_origin(transaction: &WriteTransaction, origin: &Origin) -> Result<(), redb::Error> {
    let mut row = seal::unsealed();
    row.put_u8(u8::from(origin.cluster_id.is_some()));
    row.put_u128(origin.cluster_id.unwrap_or(0));
    row.put_u64(origin.born_at.0);
    put_meta(&mut transaction.open_table(META)?, ORIGIN, row)
}

fn decode_origin(row: &[u8]) -> Option<Origin> {
    let mut fields = Fields(row);
    let known = fields.u8()? != 0;
    let cluster_id = fields.u128()?;
    let born_at = LogIndex(fields.u64()?);
    fields.end()?;
    Some(Origin { cluster_id: known.then_some(cluster_id), born_at })
}
