//! Sealed values: every value in a table carries a checksum over its key and itself.
//!
//! redb checks its pages only while it repairs, so a bit that decays later would be served as data. A checksum that
//! covers the key also catches a value that turns up under another key.
//!
//! Form: 8 bytes little-endian xxh3-64 of the body, seeded with the xxh3-64 of the key; then the body.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Bytes before the body.
pub(crate) const SEAL_BYTES: usize = 8;

/// A value in the making: the body follows the room left for the checksum.
pub(crate) fn unsealed() -> Vec<u8> {
    vec![0; SEAL_BYTES]
}

/// Fills in the checksum of a value begun with [`unsealed`].
pub(crate) fn seal(key: &[u8], value: &mut [u8]) {
    let (checksum, body) = value.split_at_mut(SEAL_BYTES);
    checksum.copy_from_slice(&xxh3_64_with_seed(body, xxh3_64(key)).to_le_bytes());
}

/// The body, or `None` if the checksum does not fit.
pub(crate) fn open<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (checksum, body) = value.split_first_chunk::<SEAL_BYTES>()?;
    (u64::from_le_bytes(*checksum) == xxh3_64_with_seed(body, xxh3_64(key))).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_under_its_own_key_only() {
        let mut value = unsealed();
        value.extend_from_slice(b"body");
        seal(b"key", &mut value);
        assert_eq!(open(b"key", &value), Some(&b"body"[..]));
        assert_eq!(open(b"kez", &value), None);
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut value = unsealed();
        value.extend_from_slice(&[7; 40]);
        seal(b"key", &mut value);
        for bit in 0..value.len() * 8 {
            value[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(b"key", &value), None, "bit {bit}");
            value[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(open(b"key", &value[..5]), None);
    }
}
