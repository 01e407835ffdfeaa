//! The key index as bytes: what a start reads instead of every record.
//!
//! An image is stamped with the revision it describes and with the compaction its index had gone through; a start adds
//! the records that came later. It can be made in steps while writes go on: versions after its revision are left out,
//! and what a write meanwhile changed in a key's newest version is set right by those later records.
//!
//! Layout: magic, version, revision, pruned revision; each key as `shared prefix, rest, create revision, version,
//! number of records, records` in varints, revisions as differences; an empty key; the number of keys; xxh3-128 of
//! everything before.

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::index::{KeyIndex, KeyVersions, Lineage, Stamp, Walked};
use crate::keyspace::{KeySpace, KeySpaceMeta};
use crate::range::Step;
use crate::revision::Revision;

const MAGIC: [u8; 4] = *b"QKIX";
const VERSION: u8 = 1;
const HEAD: usize = MAGIC.len() + 1 + 8 + 8;
const COUNT: usize = 8;
const SUM: usize = 16;

/// Why bytes are no usable image of an index. The node then reads all records instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Cut, damaged or not an image at all.
    #[error("the index image is damaged: it does not match its checksum or its layout")]
    Damaged,
    /// Written by another version.
    #[error("the index image has format version {0}, this build reads {VERSION}")]
    UnknownVersion(u8),
    /// The records it describes were never made durable.
    #[error("the index image is of revision {image}, newer than the store at {store}")]
    Newer {
        /// Revision of the image.
        image: Revision,
        /// Revision of the store.
        store: Revision,
    },
    /// A compaction began to take away later tombstones, so the image would bring deleted keys back.
    #[error("the index image is of revision {image}, and the history after it was compacted to {pruning}")]
    Outdated {
        /// Revision of the image.
        image: Revision,
        /// Revision the compaction was carried to, or begun for.
        pruning: Revision,
    },
}

/// A decoded image, for [`KeySpace::rebuild_on`].
#[derive(Debug)]
pub struct IndexImage {
    pub(crate) index: KeyIndex,
    pub(crate) revision: Revision,
    pub(crate) pruned: Revision,
}

impl IndexImage {
    /// Revision the image describes.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }
}

/// Makes an image in steps.
pub struct IndexEncoder {
    revision: Revision,
    position: Option<Box<[u8]>>,
    /// Last key written: the next one leaves out what it shares with it.
    previous: Vec<u8>,
    keys: u64,
    hasher: Box<Xxh3>,
    started: bool,
}

impl IndexEncoder {
    /// An image of `space` as it is now.
    #[must_use]
    pub fn new(space: &KeySpace) -> IndexEncoder {
        IndexEncoder {
            revision: space.meta.revision,
            position: None,
            previous: Vec::new(),
            keys: 0,
            hasher: Box::new(Xxh3::new()),
            started: false,
        }
    }

    /// Appends the next `max_keys` keys to `out`, and what comes before the first and after the last.
    pub fn step(&mut self, space: &KeySpace, max_keys: usize, out: &mut Vec<u8>) -> Step {
        let from = out.len();
        if !self.started {
            self.started = true;
            out.extend(MAGIC);
            out.push(VERSION);
            out.extend(self.revision.0.to_be_bytes());
            // Keys encoded later may be pruned further; a start then prunes once more than needed.
            out.extend(space.meta.pruned.0.to_be_bytes());
        }
        let position = self.position.take();
        let walked = space.index.walk_all(position.as_deref(), max_keys, |key, versions| self.key(key, versions, out));
        match walked {
            Walked::Until(key) => {
                self.position = Some(key);
                self.hasher.update(&out[from..]);
                Step::More
            }
            Walked::All => {
                out.extend([0, 0]);
                out.extend(self.keys.to_be_bytes());
                self.hasher.update(&out[from..]);
                out.extend(self.hasher.digest128().to_be_bytes());
                Step::Done
            }
        }
    }

    fn key(&mut self, key: &[u8], versions: &KeyVersions, out: &mut Vec<u8>) {
        let known = || versions.stamps().take_while(|stamp| stamp.revision <= self.revision.0);
        let records = known().count();
        if records == 0 {
            return;
        }
        let shared = self.previous.iter().zip(key).take_while(|(a, b)| a == b).count();
        put_varint(out, shared as u64);
        put_varint(out, (key.len() - shared) as u64);
        out.extend(&key[shared..]);
        let lineage = versions.lineage();
        put_varint(out, lineage.create_revision.cast_unsigned());
        put_varint(out, lineage.version.cast_unsigned());
        put_varint(out, records as u64);
        let mut last = 0;
        for stamp in known() {
            put_varint(out, (stamp.revision - last).cast_unsigned());
            put_varint(out, u64::from(stamp.sub) << 1 | u64::from(stamp.tombstone));
            last = stamp.revision;
        }
        self.previous.truncate(shared);
        self.previous.extend(&key[shared..]);
        self.keys += 1;
    }
}

impl KeySpace {
    /// The whole image at once.
    #[must_use]
    pub fn encode_index(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let step = IndexEncoder::new(self).step(self, usize::MAX, &mut out);
        assert_eq!(step, Step::Done, "an unbounded step writes everything");
        out
    }

    /// Reads an image for the store whose numbers are `meta`. That it belongs to this store's history is the caller's
    /// to know.
    ///
    /// # Errors
    /// [`ImageError`] if it is of no use; all records must be read then.
    pub fn decode_index(bytes: &[u8], meta: &KeySpaceMeta) -> Result<IndexImage, ImageError> {
        let body_len = bytes.len().checked_sub(SUM).filter(|len| *len >= HEAD + COUNT).ok_or(ImageError::Damaged)?;
        let (body, sum) = bytes.split_at(body_len);
        if body[..MAGIC.len()] != MAGIC {
            return Err(ImageError::Damaged);
        }
        if body[MAGIC.len()] != VERSION {
            return Err(ImageError::UnknownVersion(body[MAGIC.len()]));
        }
        if sum != xxh3_128(body).to_be_bytes() {
            return Err(ImageError::Damaged);
        }
        let long =
            |at: usize| i64::from_be_bytes(body[at..at + 8].try_into().expect("eight bytes of a checked length"));
        let revision = Revision(long(MAGIC.len() + 1));
        let pruned = Revision(long(MAGIC.len() + 9));
        if revision > meta.revision {
            return Err(ImageError::Newer { image: revision, store: meta.revision });
        }
        if meta.pruning > revision {
            return Err(ImageError::Outdated { image: revision, pruning: meta.pruning });
        }
        let keys = Reader { rest: &body[HEAD..], previous: Vec::new() }.keys(revision).ok_or(ImageError::Damaged)?;
        Ok(IndexImage { index: KeyIndex::from_sorted(keys), revision, pruned })
    }
}

/// Reads keys; every method returns `None` where the bytes make no sense.
struct Reader<'a> {
    rest: &'a [u8],
    previous: Vec<u8>,
}

impl Reader<'_> {
    fn keys(mut self, revision: Revision) -> Option<Vec<(Box<[u8]>, KeyVersions)>> {
        let mut keys = Vec::new();
        while let Some(key) = self.key()? {
            keys.push((key, self.versions(revision)?));
        }
        let count = u64::try_from(keys.len()).ok()?;
        (self.rest == count.to_be_bytes()).then_some(keys)
    }

    /// The next key; the inner `None` is the end.
    fn key(&mut self) -> Option<Option<Box<[u8]>>> {
        let shared = usize::try_from(self.varint()?).ok()?;
        let len = usize::try_from(self.varint()?).ok()?;
        let (key_rest, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        if len == 0 {
            return (shared == 0).then_some(None);
        }
        let (head, tail) = self.previous.split_at_checked(shared)?;
        if key_rest <= tail {
            return None;
        }
        let key = [head, key_rest].concat();
        self.previous.clone_from(&key);
        Some(Some(key.into()))
    }

    fn versions(&mut self, newest: Revision) -> Option<KeyVersions> {
        let create_revision = self.varint()?.cast_signed();
        let version = self.varint()?.cast_signed();
        let records = usize::try_from(self.varint()?).ok().filter(|count| (1..=self.rest.len()).contains(count))?;
        let mut stamps = Vec::with_capacity(records);
        let mut revision = 0_i64;
        for _ in 0..records {
            revision = revision.checked_add(self.varint()?.cast_signed())?;
            let tagged = self.varint()?;
            stamps.push(Stamp { revision, sub: u32::try_from(tagged >> 1).ok()?, tombstone: tagged & 1 == 1 });
        }
        let in_order = stamps.is_sorted_by(|a, b| a.at() < b.at()) && revision <= newest.0;
        in_order.then(|| KeyVersions::from_stamps(stamps, Lineage { create_revision, version }))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
