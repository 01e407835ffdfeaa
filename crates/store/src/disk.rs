//! The file layer: everything this crate does to a data directory goes through [`Disk`].
//!
//! Owns the trait, the names of the files, and the counters of what was done to a file. Knows nothing of what the
//! files hold.
//!
//! Rule: a name that was created, renamed or removed is durable only after [`Disk::sync_dir`], the bytes of a file
//! only after its own sync. `testing::FaultyDisk` loses whatever was not made durable in this way.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::StorageBackend;

/// The Raft log, term, vote and identity.
pub const LOG_FILE: &str = "log.redb";
/// A log file in the making: renamed once it holds a whole empty log.
pub(crate) const LOG_FILE_NEW: &str = "log.new";
/// The key space and the applied index.
pub const STATE_FILE: &str = "state.redb";
/// A state file in the making: a fresh one, or a snapshot being received.
pub(crate) const STATE_FILE_NEW: &str = "state.new";
/// The image of the key index that makes a start fast.
pub const INDEX_FILE: &str = "index.image";
/// An index image in the making.
pub(crate) const INDEX_FILE_NEW: &str = "index.new";

/// How [`Disk::open`] treats the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// The file must exist.
    Existing,
    /// An existing file is emptied, a missing one created.
    Fresh,
}

/// A directory of files, as the stores need it.
///
/// Implemented by [`crate::RealDisk`] and, for crash tests and the simulator, by `testing::FaultyDisk`.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Opens one file for reading and writing.
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn StorageBackend>>;
    /// Whether the directory has this name.
    fn exists(&self, name: &str) -> io::Result<bool>;
    /// All names, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Removes a name. A file that is still open stays readable through its handle.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, replacing what had that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes all earlier creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Bytes that can still be written.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// Removes `name` if it is there.
pub(crate) fn remove_if_present(disk: &dyn Disk, name: &str) -> io::Result<bool> {
    let present = disk.exists(name)?;
    if present {
        disk.remove(name)?;
    }
    Ok(present)
}

/// Removes what was left half done, before anything is opened: an image that was on its way in may hold the room that the rest wants.
pub(crate) fn remove_leftovers(disk: &dyn Disk) -> io::Result<()> {
    [LOG_FILE_NEW, STATE_FILE_NEW, INDEX_FILE_NEW].iter().try_for_each(|name| remove_if_present(disk, name).map(drop))
}

/// What was done to one file since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileCounts {
    /// Calls that made data durable.
    pub syncs: u64,
    /// Write calls.
    pub writes: u64,
    /// Bytes of those calls.
    pub written_bytes: u64,
    /// Length of the file now. It is sparse and grows by doubling: what the disk gave for it may be far less.
    pub len_bytes: u64,
}

/// The live side of [`FileCounts`], shared between a file and its store.
#[derive(Debug, Default)]
pub(crate) struct FileCounters {
    syncs: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    len_bytes: AtomicU64,
}

impl FileCounters {
    pub(crate) fn read(&self) -> FileCounts {
        FileCounts {
            syncs: self.syncs.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
            len_bytes: self.len_bytes.load(Ordering::Relaxed),
        }
    }
}

/// A file of a [`Disk`] that counts what is done to it: the form in which redb gets every file.
#[derive(Debug)]
pub(crate) struct CountedFile {
    file: Box<dyn StorageBackend>,
    counters: Arc<FileCounters>,
}

impl CountedFile {
    pub(crate) fn new(file: Box<dyn StorageBackend>, counters: Arc<FileCounters>) -> Self {
        Self { file, counters }
    }
}

impl StorageBackend for CountedFile {
    fn len(&self) -> io::Result<u64> {
        let len = self.file.len()?;
        self.counters.len_bytes.store(len, Ordering::Relaxed);
        Ok(len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.counters.len_bytes.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.counters.writes.fetch_add(1, Ordering::Relaxed);
        self.counters.written_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
