//! What is stored for one change of one key, and its bytes.

use bytes::{BufMut, Bytes};

use crate::revision::RecordKey;

/// One change as it is stored under its [`RecordKey`], whose revision is the record's `mod_revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Never empty.
    pub key: Bytes,
    /// Empty in a tombstone.
    pub value: Bytes,
    /// Revision that created the key; 0 in a tombstone.
    pub create_revision: i64,
    /// Puts since creation, from 1; 0 in a tombstone.
    pub version: i64,
    /// Lease given with the put; 0 = none.
    pub lease: i64,
    /// The key was deleted here.
    pub tombstone: bool,
}

/// One version of a key as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// Never empty.
    pub key: Bytes,
    /// Revision that created the key.
    pub create_revision: i64,
    /// Revision of this version's put.
    pub mod_revision: i64,
    /// Puts since creation, from 1.
    pub version: i64,
    /// Empty if only keys were asked for.
    pub value: Bytes,
    /// Lease given with the put; 0 = none.
    pub lease: i64,
}

/// What a record of an answer takes in memory beside its key and its value, on a machine of 64 bits: its [`KeyValue`], the
/// head of the bytes that key and value share, the count of who shares them, what an allocator takes to note and round up
/// both blocks, and its place in the plan of the range. Where values are small this is most of an answer.
pub const RECORD_OVERHEAD_BYTES: usize = 192;

impl KeyValue {
    /// Bytes of the key and the value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.key.len() + self.value.len()
    }

    /// Memory it takes in an answer.
    #[must_use]
    pub fn answer_bytes(&self) -> usize {
        RECORD_OVERHEAD_BYTES + self.bytes()
    }
}

/// Stored bytes that are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes do not hold a record: the key length or the flags do not fit")]
pub struct RecordError(pub usize);

/// Fixed head of an encoded record: flags, create revision, version, lease, key length.
const HEAD: usize = 1 + 8 + 8 + 8 + 4;
const TOMBSTONE: u8 = 1;

impl Record {
    /// The record of a deletion of `key`.
    #[must_use]
    pub fn tombstone(key: Bytes) -> Record {
        Record { key, value: Bytes::new(), create_revision: 0, version: 0, lease: 0, tombstone: true }
    }

    /// What clients see of this record, stored under `at`.
    #[must_use]
    pub fn into_key_value(self, at: RecordKey) -> KeyValue {
        KeyValue {
            key: self.key,
            create_revision: self.create_revision,
            mod_revision: at.revision,
            version: self.version,
            value: self.value,
            lease: self.lease,
        }
    }

    /// Memory it takes in an answer.
    #[must_use]
    pub fn answer_bytes(&self) -> usize {
        RECORD_OVERHEAD_BYTES + self.key.len() + self.value.len()
    }

    /// Bytes [`Record::encode`] will write.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        HEAD + self.key.len() + self.value.len()
    }

    /// Appends the record's bytes: integers are big-endian, the value runs to the end.
    ///
    /// # Panics
    /// If the key is 4 GiB or longer; requests are bounded far below.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(if self.tombstone { TOMBSTONE } else { 0 });
        out.put_i64(self.create_revision);
        out.put_i64(self.version);
        out.put_i64(self.lease);
        out.put_u32(u32::try_from(self.key.len()).expect("keys are bounded by the request size"));
        out.put_slice(&self.key);
        out.put_slice(&self.value);
    }

    /// Reads what [`Record::encode`] wrote; key and value share `bytes`.
    ///
    /// # Errors
    /// [`RecordError`] if the bytes cannot be a record.
    pub fn decode(bytes: &Bytes) -> Result<Record, RecordError> {
        let broken = || RecordError(bytes.len());
        let head: &[u8; HEAD] = bytes.first_chunk().ok_or_else(broken)?;
        let long = |at: usize| i64::from_be_bytes(head[at..at + 8].try_into().expect("eight bytes of a fixed head"));
        let key_len = u32::from_be_bytes(head[25..].try_into().expect("four bytes of a fixed head")) as usize;
        let key_end = HEAD.checked_add(key_len).filter(|end| *end <= bytes.len()).ok_or_else(broken)?;
        if key_len == 0 || head[0] > TOMBSTONE {
            return Err(broken());
        }
        Ok(Record {
            key: bytes.slice(HEAD..key_end),
            value: bytes.slice(key_end..),
            create_revision: long(1),
            version: long(9),
            lease: long(17),
            tombstone: head[0] == TOMBSTONE,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        Record {
            key: Bytes::from_static(b"key"),
            value: Bytes::from_static(b"value"),
            create_revision: 7,
            version: 3,
            lease: -1,
            tombstone: false,
        }
    }

    #[test]
    fn a_record_survives_its_bytes() {
        for record in [sample(), Record::tombstone(Bytes::from_static(b"gone"))] {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            assert_eq!(bytes.len(), record.encoded_len());
            assert_eq!(Record::decode(&Bytes::from(bytes)), Ok(record));
        }
    }

    #[test]
    fn the_overhead_of_a_record_is_what_its_parts_take() {
        /// What an allocator notes of a block.
        const NOTED: usize = 8;
        // A block is rounded up to 16 bytes: half of that on average, and nothing for the other block, which fits.
        let buffer = HEAD + NOTED + 8;
        // What `Bytes` keeps of a buffer that is shared: where it is, its capacity, how many share it.
        let shared = 3 * size_of::<usize>() + NOTED;
        let parts = size_of::<KeyValue>() + buffer + shared + size_of::<RecordKey>();
        assert!(parts.abs_diff(RECORD_OVERHEAD_BYTES) <= 8, "{parts} bytes");
    }

    #[test]
    fn cut_or_odd_bytes_are_refused() {
        let mut bytes = Vec::new();
        sample().encode(&mut bytes);
        for len in 0..HEAD + 3 {
            assert_eq!(Record::decode(&Bytes::copy_from_slice(&bytes[..len])), Err(RecordError(len)));
        }
        bytes[0] = 2;
        assert!(Record::decode(&Bytes::from(bytes)).is_err());
    }

    #[test]
    fn record_keys_sort_as_their_bytes() {
        let keys = [(0, 0), (1, 0), (1, 1), (2, 0), (256, 3), (i64::MAX, u32::MAX)];
        let keys: Vec<RecordKey> = keys.iter().map(|&(revision, sub)| RecordKey { revision, sub }).collect();
        let bytes: Vec<_> = keys.iter().map(|key| key.to_bytes()).collect();
        assert!(bytes.is_sorted());
        assert!(keys.iter().zip(&bytes).all(|(key, bytes)| RecordKey::from_bytes(*bytes) == *key));
    }
}
