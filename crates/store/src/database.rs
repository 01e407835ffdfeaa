//! One redb file: how it is created, opened, committed to, and what happens after a failure.
//!
//! Owns [`Database`]. Knows nothing of tables.
//!
//! Invariants:
//! 1. a file has its name only once a whole, durable, empty store is in it, and is used only once that name is durable;
//! 2. after a failed write or sync nothing more is written: the error latches ([`WriteError::Poisoned`]). What the
//!    disk holds is unknown then, and a second sync that succeeds proves nothing (the kernel may have dropped the
//!    dirty pages with the first).

use std::sync::Arc;
use std::sync::OnceLock;

use redb::{Builder, Durability, ReadTransaction, ReadableDatabase, StorageBackend, WriteTransaction};

use crate::disk::{CountedFile, Disk, FileCounters, FileCounts, OpenMode, remove_if_present};
use crate::error::{OpenError, ReadError, WriteError};

/// What every redb file begins with.
const REDB_MAGIC: &[u8] = b"redb\x1A\x0A\xA9\x0D\x0A";

/// How far a commit goes before it returns. Figures: `examples/commit_modes.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Commit {
    /// One sync. After a crash redb walks the file, so this is for a file that stays small.
    Durable,
    /// Two syncs and the allocator's state on top: a start after a crash takes a millisecond whatever the size.
    DurableQuickStart,
    /// Visible at once, durable with the next durable commit: no storage call.
    Deferred,
}

/// A database on a [`Disk`].
pub(crate) struct Database {
    name: &'static str,
    redb: redb::Database,
    counters: Arc<FileCounters>,
    poison: OnceLock<String>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("name", &self.name).field("poison", &self.poison.get()).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens a file that must hold a database.
    pub(crate) fn open(disk: &dyn Disk, name: &'static str, cache_bytes: usize) -> Result<Self, OpenError> {
        let file = disk.open(name, OpenMode::Existing).map_err(|error| OpenError::io(name, error))?;
        // A process that died between a rename and its sync leaves a name that the next loss of power takes back, and with it
        // whatever was built on it meanwhile.
        disk.sync_dir().map_err(|error| OpenError::io(name, error))?;
        // redb makes an empty database of a file without its mark; here that mark was durable before the name was.
        let mut start = [0; REDB_MAGIC.len()];
        let len = file.len().map_err(|error| OpenError::io(name, error))?;
        if len >= start.len() as u64 {
            file.read(0, &mut start).map_err(|error| OpenError::io(name, error))?;
        }
        if start != *REDB_MAGIC {
            return Err(OpenError::damaged(name, format!("its {len} bytes do not begin as a database does")));
        }
        Self::with_file(file, name, cache_bytes)
    }

    /// Makes a database under `new_name`; [`Self::publish`] gives it its final name.
    ///
    /// What had that name is removed first, not emptied: an image given up half-way may still be open, and closing it
    /// writes.
    pub(crate) fn create(
        disk: &dyn Disk,
        new_name: &str,
        name: &'static str,
        cache_bytes: usize,
    ) -> Result<Self, OpenError> {
        let file = remove_if_present(disk, new_name)
            .and_then(|_| disk.open(new_name, OpenMode::Fresh))
            .map_err(|error| OpenError::io(name, error))?;
        Self::with_file(file, name, cache_bytes)
    }

    fn with_file(file: Box<dyn StorageBackend>, name: &'static str, cache_bytes: usize) -> Result<Self, OpenError> {
        let counters = Arc::new(FileCounters::default());
        let mut builder = Builder::new();
        builder.set_cache_size(cache_bytes).set_repair_callback(move |session| {
            tracing::info!(file = name, progress = session.progress(), "checking the file after an unclean stop");
        });
        let redb = builder
            .create_with_backend(CountedFile::new(file, counters.clone()))
            .map_err(|error| OpenError::from_redb(name, error))?;
        Ok(Self { name, redb, counters, poison: OnceLock::new() })
    }

    /// Gives the file its name, durably, replacing what had it. Everything in it must be durable already.
    pub(crate) fn publish(&self, disk: &dyn Disk, new_name: &str) -> Result<(), WriteError> {
        self.check()?;
        disk.rename(new_name, self.name)
            .and_then(|()| if mutant!(RenameNotSynced) { Ok(()) } else { disk.sync_dir() })
            .map_err(|error| self.latch(redb::Error::Io(error)))
    }

    /// Runs one transaction. Any error latches.
    pub(crate) fn write<T>(
        &self,
        commit: Commit,
        run: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, WriteError> {
        self.check()?;
        let result = (|| {
            let mut transaction = self.redb.begin_write()?;
            match commit {
                Commit::Durable => transaction.set_durability(Durability::Immediate)?,
                Commit::DurableQuickStart => transaction.set_quick_repair(true),
                Commit::Deferred => transaction.set_durability(Durability::None)?,
            }
            let value = run(&transaction)?;
            match transaction.commit() {
                Err(_) if mutant!(SyncErrorIgnored) => {}
                committed => committed?,
            }
            Ok(value)
        })();
        result.map_err(|error| self.latch(error))
    }

    /// A view of the last commit. Keep it short: pages that it sees cannot be re-used while it lives.
    pub(crate) fn read(&self) -> Result<ReadTransaction, ReadError> {
        self.redb.begin_read().map_err(|error| ReadError::from_redb(self.name, error))
    }

    /// Fails if an earlier write did.
    pub(crate) fn check(&self) -> Result<(), WriteError> {
        match self.poison.get() {
            Some(cause) => Err(WriteError::Poisoned { file: self.name, cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Refuses a write of about `bytes` that the disk could not take, before anything is written.
    pub(crate) fn check_space(&self, disk: &dyn Disk, bytes: u64) -> Result<(), WriteError> {
        let free_bytes = self.free_bytes(disk)?;
        if free_bytes < bytes {
            return Err(WriteError::DiskFull { file: self.name, free_bytes, needed_bytes: bytes });
        }
        Ok(())
    }

    /// What the disk has left.
    pub(crate) fn free_bytes(&self, disk: &dyn Disk) -> Result<u64, WriteError> {
        disk.free_bytes().map_err(|error| self.latch(redb::Error::Io(error)))
    }

    pub(crate) fn counts(&self) -> FileCounts {
        self.counters.read()
    }

    /// Bytes of pages that hold something. Walks the whole file: for tests and offline inspection.
    pub(crate) fn measure_allocated_bytes(&self) -> Result<u64, WriteError> {
        self.check()?;
        let measured = (|| {
            let transaction = self.redb.begin_write()?;
            let stats = transaction.stats()?;
            transaction.abort()?;
            Ok(stats.allocated_pages() * stats.page_size() as u64)
        })();
        measured.map_err(|error| self.latch(error))
    }

    /// Refuses all later writes: what is in memory does not fit the file any more.
    pub(crate) fn poison(&self, cause: String) {
        // Only the first cause matters: the others follow from it.
        let _ = self.poison.set(cause);
    }

    fn latch(&self, error: redb::Error) -> WriteError {
        self.poison(error.to_string());
        WriteError::Failed { file: self.name, source: Box::new(error) }
    }
}

/// redb believes what it reads of a tree's pages, and panics on some that no writer of it ever made. To whoever opens a file that is
/// damage like any other: an error that says so, where a panic would end the process at each start again.
pub(crate) fn guarded<T>(file: &'static str, open: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    // Nothing that was half opened outlives the call.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(OpenError::damaged(file, format!("it cannot be opened: {said}")))
    })
}
