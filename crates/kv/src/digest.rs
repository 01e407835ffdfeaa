//! The running hash by which nodes compare their key spaces.
//!
//! Every change is folded in when it is applied: a record with its place, each compaction, each row put or removed.
//! Physical removal is not, so nodes that clean up at different paces agree.

use std::fmt;

use xxhash_rust::xxh3::xxh3_128;

use crate::record::Record;
use crate::revision::{RecordKey, Revision};
use crate::row::Table;

/// Hash of the whole history applied so far: equal on two nodes at one applied index unless one of them went astray.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest(pub u128);

const RECORD: u8 = 1;
const COMPACTION: u8 = 2;
const ROW_PUT: u8 = 3;
const ROW_REMOVED: u8 = 4;

impl Digest {
    /// Folds in one stored record.
    ///
    /// Key and value are hashed first, so that the chained block has a fixed size and nothing is copied or allocated.
    #[must_use]
    pub(crate) fn with_record(self, at: RecordKey, record: &Record) -> Digest {
        let mut block = [0; 16 + 1 + 8 + 4 + 8 + 8 + 8 + 1 + 16 + 16];
        let mut rest = &mut block[..];
        let mut push = |bytes: &[u8]| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(bytes.len());
            head.copy_from_slice(bytes);
            rest = tail;
        };
        push(&self.0.to_le_bytes());
        push(&[RECORD]);
        push(&at.revision.to_le_bytes());
        push(&at.sub.to_le_bytes());
        push(&record.create_revision.to_le_bytes());
        push(&record.version.to_le_bytes());
        push(&record.lease.to_le_bytes());
        push(&[u8::from(record.tombstone)]);
        push(&xxh3_128(&record.key).to_le_bytes());
        push(&xxh3_128(&record.value).to_le_bytes());
        Digest(xxh3_128(&block))
    }

    /// Folds in a compaction.
    #[must_use]
    pub(crate) fn with_compaction(self, revision: Revision) -> Digest {
        let mut block = [0; 16 + 1 + 8];
        block[..16].copy_from_slice(&self.0.to_le_bytes());
        block[16] = COMPACTION;
        block[17..].copy_from_slice(&revision.0.to_le_bytes());
        Digest(xxh3_128(&block))
    }

    /// Folds in one row that was put, or removed.
    #[must_use]
    pub(crate) fn with_row(self, table: Table, key: &[u8], value: Option<&[u8]>) -> Digest {
        let mut block = [0; 16 + 1 + 1 + 16 + 16];
        block[..16].copy_from_slice(&self.0.to_le_bytes());
        block[16] = if value.is_some() { ROW_PUT } else { ROW_REMOVED };
        block[17] = table.number();
        block[18..34].copy_from_slice(&xxh3_128(key).to_le_bytes());
        block[34..].copy_from_slice(&xxh3_128(value.unwrap_or_default()).to_le_bytes());
        Digest(xxh3_128(&block))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
