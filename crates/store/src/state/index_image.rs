//! The file that holds an image of the key index, so that a start reads only the records that came after it.
//!
//! A help, never a source: whatever is wrong with it, the index is built from the records instead.
//!
//! Invariant: it is of the state file beside it. What it says of its origin tells it from a snapshot of the same history, but not
//! from a state that began empty too, or from the same backup: so it is gone, durably, before such a one gets its name.
//!
//! Form: index the state file was born at (8 bytes), xxh3-64 of those, the image of `quorate_kv` with its own checksum.

use std::io;

use quorate_kv::{IndexEncoder, KeySpace, Step};
use quorate_raft::LogIndex;
use xxhash_rust::xxh3::xxh3_64;

use super::rows::StateRows;
use super::tables::StateReader;
use super::view::Shared;
use crate::disk::{Disk, INDEX_FILE, INDEX_FILE_NEW, OpenMode, remove_if_present};
use crate::error::ReadError;

const HEAD_BYTES: usize = 16;

/// Keys encoded under one hold of the index lock.
const STEP_KEYS: usize = 4096;

/// Writes the image of the index as it is now, in steps between which writers and readers go on.
pub(super) fn write(disk: &dyn Disk, shared: &Shared) -> io::Result<()> {
    let (born_at, mut encoder) = {
        let inner = shared.read();
        (inner.rows.origin.born_at, IndexEncoder::new(&inner.key_space))
    };
    let file = disk.open(INDEX_FILE_NEW, OpenMode::Fresh)?;
    let mut piece = born_at.0.to_le_bytes().to_vec();
    piece.extend(xxh3_64(&piece).to_le_bytes());
    let mut offset = 0;
    loop {
        let step = {
            let inner = shared.read();
            if inner.rows.origin.born_at != born_at {
                // A snapshot was installed meanwhile; half an image of each is none.
                drop(inner);
                return disk.remove(INDEX_FILE_NEW);
            }
            encoder.step(&inner.key_space, STEP_KEYS, &mut piece)
        };
        file.write(offset, &piece)?;
        offset += piece.len() as u64;
        piece.clear();
        if step == Step::Done {
            break;
        }
    }
    file.sync_data()?;
    file.close()?;
    disk.rename(INDEX_FILE_NEW, INDEX_FILE)?;
    disk.sync_dir()
}

/// Removes the image: the state it describes is about to be replaced.
pub(super) fn remove(disk: &dyn Disk) -> io::Result<()> {
    remove_if_present(disk, INDEX_FILE).map(|_| ())
}

/// Removes the image durably: a state of another history is about to get its name.
pub(crate) fn forget(disk: &dyn Disk) -> io::Result<()> {
    remove(disk)?;
    // Also where there is none: whoever removed it may have died before that was durable.
    disk.sync_dir()
}

/// The key space of a state file: by its image and the records after it, or by all records.
pub(super) fn load(disk: &dyn Disk, rows: &StateRows, records: &StateReader) -> Result<KeySpace, ReadError> {
    let meta = rows.position.key_space;
    match read(disk, rows.origin.born_at) {
        Ok(None) => {}
        Ok(Some(bytes)) => match KeySpace::decode_index(&bytes, &meta) {
            Ok(image) => return KeySpace::rebuild_on(image, meta, records),
            Err(reason) => tracing::info!(%reason, "the index image is not used; the index is built from all records"),
        },
        Err(error) => tracing::info!(%error, "the index image cannot be read; the index is built from all records"),
    }
    records.key_space(rows)
}

fn read(disk: &dyn Disk, born_at: LogIndex) -> io::Result<Option<Vec<u8>>> {
    if !disk.exists(INDEX_FILE)? {
        return Ok(None);
    }
    let file = disk.open(INDEX_FILE, OpenMode::Existing)?;
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read(0, &mut bytes)?;
    let Some((head, image)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Err(io::Error::other(format!("{len} bytes are too few")));
    };
    let (born, sum) = head.split_at(8);
    if xxh3_64(born).to_le_bytes() != sum || born != born_at.0.to_le_bytes() {
        return Err(io::Error::other("it is the image of another state file"));
    }
    Ok(Some(image.to_vec()))
}
