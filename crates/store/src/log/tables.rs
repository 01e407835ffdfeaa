//! The tables of the log file and the form of their rows.
//!
//! `entries`: index -> record of the entry, as `quorate_wire::entry` seals it. `meta`: name -> sealed row, one for each
//! [`MetaKey`].

use std::sync::Arc;

use bytes::Bytes;
use quorate_raft::{Entry, HardState, Incarnation, LogIndex, Membership, NodeId, Term};
use quorate_wire::{DecodeError, Identity};
use redb::{ReadableTable, TableDefinition, WriteTransaction};

use crate::disk::LOG_FILE;
use crate::error::{OpenError, ReadError};
use crate::fields::{Fields, PutFields};
use crate::meta::{META, MetaRows, StoredMembership, put_membership, put_meta};
use crate::seal;

pub(crate) const ENTRIES: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("entries");

/// Version of the log file. Raised when a release writes something that an older one would misread.
pub(crate) const LOG_FORMAT: u32 = 1;

/// A durable verdict on this node that outlives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NodeMark {
    /// Nothing against it.
    #[default]
    None,
    /// The cluster has removed it.
    Removed,
    /// Its state differs from the cluster's: it serves nothing.
    Fenced {
        /// What differed.
        reason: String,
    },
    /// Its data cannot be trusted: it neither votes nor serves.
    Damaged {
        /// What was found.
        reason: String,
    },
}

/// The names of the rows of `meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetaKey {
    Node,
    HardState,
    Base,
}

impl MetaKey {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::HardState => "hard_state",
            Self::Base => "base",
        }
    }
}

/// The row [`MetaKey::Node`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeRow {
    pub(crate) incarnation: Incarnation,
    pub(crate) identity: Option<Identity>,
    pub(crate) mark: NodeMark,
}

/// The row [`MetaKey::Base`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseRow {
    pub(crate) base: (LogIndex, Term),
    pub(crate) membership: (LogIndex, Arc<Membership>),
}

impl NodeRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = seal::unsealed();
        row.put_u128(self.incarnation.0);
        let (cluster_id, node_id) = self.identity.map_or((0, 0), |own| (own.cluster_id, own.node_id.0));
        row.put_u8(u8::from(self.identity.is_some()));
        row.put_u128(cluster_id);
        row.put_u64(node_id);
        let (mark, reason) = match &self.mark {
            NodeMark::None => (0, ""),
            NodeMark::Removed => (1, ""),
            NodeMark::Fenced { reason } => (2, reason.as_str()),
            NodeMark::Damaged { reason } => (3, reason.as_str()),
        };
        row.put_u8(mark);
        row.put_bytes(reason.as_bytes());
        row
    }

    pub(crate) fn decode(row: &[u8]) -> Option<Self> {
        let mut fields = Fields(row);
        let incarnation = Incarnation(fields.u128()?);
        let known = fields.u8()? != 0;
        let identity = Identity { cluster_id: fields.u128()?, node_id: NodeId(fields.u64()?) };
        let mark = fields.u8()?;
        let reason = String::from_utf8(fields.bytes()?.to_vec()).ok()?;
        fields.end()?;
        let mark = match mark {
            0 => NodeMark::None,
            1 => NodeMark::Removed,
            2 => NodeMark::Fenced { reason },
            3 => NodeMark::Damaged { reason },
            _ => return None,
        };
        Some(Self { incarnation, identity: known.then_some(identity), mark })
    }
}

impl BaseRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = seal::unsealed();
        row.put_u64(self.base.0.0);
        row.put_u64(self.base.1.0);
        put_membership(&mut row, &self.membership);
        row
    }

    pub(crate) fn decode<T>(rows: &MetaRows<T>) -> Result<Self, OpenError>
    where
        T: ReadableTable<&'static str, &'static [u8]>,
    {
        let (base, membership) = rows.require(MetaKey::Base.name(), |row| {
            let mut fields = Fields(row);
            let base = (LogIndex(fields.u64()?), Term(fields.u64()?));
            let membership = StoredMembership::take(&mut fields)?;
            fields.end()?;
            Some((base, membership))
        })?;
        Ok(Self { base, membership: membership.decode(LOG_FILE)? })
    }
}

/// The row [`MetaKey::HardState`].
pub(crate) fn hard_state<T>(rows: &MetaRows<T>) -> Result<HardState, ReadError>
where
    T: ReadableTable<&'static str, &'static [u8]>,
{
    rows.require(MetaKey::HardState.name(), |row| quorate_wire::decode_hard_state(Bytes::copy_from_slice(row)).ok())
}

/// Stores one row of the log's `meta` table.
pub(crate) fn put(transaction: &WriteTransaction, key: MetaKey, row: Vec<u8>) -> Result<(), redb::Error> {
    put_meta(&mut transaction.open_table(META)?, key.name(), row)
}

/// Why a record is no entry.
#[derive(Debug)]
pub(crate) enum EntryError {
    Damaged(String),
    Unknown(DecodeError),
}

/// The entry in a record of `entries`.
pub(crate) fn decode_entry(index: LogIndex, record: &[u8]) -> Result<Entry, EntryError> {
    quorate_wire::decode_entry(index, Bytes::copy_from_slice(record)).map_err(|error| match error {
        DecodeError::UnknownVersion { .. } | DecodeError::UnknownCommand => EntryError::Unknown(error),
        error => EntryError::Damaged(format!("entry {index}: {error}")),
    })
}
