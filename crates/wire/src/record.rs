//! The frame around everything a data file holds: format version, checksum, body.
//!
//! redb verifies its own pages only in a repair walk, so a flipped bit in a value would otherwise be read as data. The
//! checksum is salted with the place of the record: one that turns up under another key does not pass.
//!
//! Layout: version (1 byte), xxh3-64 of the body (8 bytes, little endian), body.

use bytes::{Buf, Bytes};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{DecodeError, FORMAT_VERSION, WRITTEN_VERSION};

const HEAD_BYTES: usize = 9;

/// What a record is, and where it stands; both go into its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Entry of the log at this index.
    Entry(u64),
    /// Term, vote and commit index.
    HardState,
    /// A whole configuration effective from this log index on.
    Membership(u64),
    /// The bootstrap configuration.
    Bootstrap,
    /// Cluster and node id.
    Identity,
}

impl Place {
    fn salt(self) -> u64 {
        // The low byte keeps kinds apart; an index is below 2^56 for any log that fits a disk.
        match self {
            Place::Entry(index) => index << 8 | 1,
            Place::HardState => 2,
            Place::Membership(index) => index << 8 | 3,
            Place::Bootstrap => 4,
            Place::Identity => 5,
        }
    }

    /// Name for error texts.
    pub fn name(self) -> &'static str {
        match self {
            Place::Entry(_) => "log entry",
            Place::HardState => "hard state",
            Place::Membership(_) => "membership",
            Place::Bootstrap => "bootstrap configuration",
            Place::Identity => "identity",
        }
    }
}

/// Appends a record to `out` whose body `write` appends.
pub fn seal(place: Place, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(WRITTEN_VERSION as u8);
    out.extend_from_slice(&[0; 8]);
    write(out);
    let checksum = xxh3_64_with_seed(&out[start + HEAD_BYTES..], place.salt());
    out[start + 1..start + HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

/// Checks a record and gives its body, without copying.
///
/// # Errors
/// [`DecodeError::UnknownVersion`], [`DecodeError::Damaged`], or [`DecodeError::Malformed`] if it is shorter than its head.
pub fn unseal(place: Place, mut record: Bytes) -> Result<Bytes, DecodeError> {
    let what = place.name();
    if record.len() < HEAD_BYTES {
        return Err(DecodeError::malformed(what, format_args!("{} bytes are too few", record.len())));
    }
    let version = record.get_u8();
    let checksum = record.get_u64_le();
    // Before the checksum: a later version may well compute another one.
    if u32::from(version) > FORMAT_VERSION {
        return Err(DecodeError::UnknownVersion { what, found: version.into(), supported: FORMAT_VERSION });
    }
    if xxh3_64_with_seed(&record, place.salt()) != checksum {
        return Err(DecodeError::Damaged { what });
    }
    if version == 0 {
        return Err(DecodeError::malformed(what, "version 0"));
    }
    Ok(record)
}
