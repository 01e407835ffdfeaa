//! Positions in the history of the key space.

use std::fmt;

/// A main revision: the number of a write request that changed something. The empty store is at 1, the first write
/// makes 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl Revision {
    /// Revision of a store nothing was ever written to.
    pub const EMPTY: Revision = Revision(1);
    /// Compact revision of a store that was never compacted: below every revision a client can name.
    pub const NEVER_COMPACTED: Revision = Revision(-1);

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Place of one record: records are kept in this order, which is the order of the changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// Main revision of the write.
    pub revision: i64,
    /// Number of the change within the revision, from 0.
    pub sub: u32,
}

impl RecordKey {
    /// Bytes of an encoded key.
    pub const ENCODED_LEN: usize = 12;

    /// The first place a record of `revision` can have.
    #[must_use]
    pub const fn first_of(revision: Revision) -> RecordKey {
        RecordKey { revision: revision.0, sub: 0 }
    }

    /// Big-endian bytes: they sort as the keys do, because no record has a negative revision.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::ENCODED_LEN] {
        assert!(self.revision >= 0, "a record cannot sit at revision {}", self.revision);
        let mut bytes = [0; Self::ENCODED_LEN];
        bytes[..8].copy_from_slice(&self.revision.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    /// The key [`RecordKey::to_bytes`] wrote.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::ENCODED_LEN]) -> RecordKey {
        let mut revision = [0; 8];
        let mut sub = [0; 4];
        revision.copy_from_slice(&bytes[..8]);
        sub.copy_from_slice(&bytes[8..]);
        RecordKey { revision: i64::from_be_bytes(revision), sub: u32::from_be_bytes(sub) }
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.revision, self.sub)
    }
}
