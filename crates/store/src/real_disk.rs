//! A directory of the operating system.
//!
//! Owns [`RealDisk`]: the modes of the directory and its files, and the lock that keeps a second process out.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::StorageBackend;

use crate::disk::{Disk, OpenMode};

/// Only the owner reads a data directory: it holds every value, and later keys and tokens.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// The file whose lock keeps a second process out. It must stay under this name as long as anybody works on the
/// directory: a lock belongs to the file, so one that is moved guards nothing.
pub const LOCK_FILE: &str = "lock";

/// Why a data directory could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process works on this directory.
    #[error("data directory {0} is in use by another process: stop that process first, or choose another --data-dir")]
    InUse(PathBuf),
    /// The operating system refused.
    #[error("data directory {directory}: {source}")]
    Io {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A data directory, locked for this process for as long as the value lives.
#[derive(Debug)]
pub struct RealDisk {
    directory: PathBuf,
    /// Kept for its sync and its lock alone.
    handle: File,
    _lock: File,
}

impl RealDisk {
    /// Creates the directory if need be, closes it to others, and locks it.
    ///
    /// # Errors
    /// [`DirectoryError::InUse`] while another process (or another value in this one) holds it.
    pub fn new(directory: impl Into<PathBuf>) -> Result<Self, DirectoryError> {
        let directory = directory.into();
        match Self::lock(&directory) {
            Ok(Some((handle, lock))) => Ok(Self { directory, handle, _lock: lock }),
            Ok(None) => Err(DirectoryError::InUse(directory)),
            Err(source) => Err(DirectoryError::Io { directory, source }),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    fn lock(directory: &Path) -> io::Result<Option<(File, File)>> {
        create_durably(directory)?;
        std::fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))?;
        let lock = open_private(&directory.join(LOCK_FILE), true, false)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some((File::open(directory)?, lock))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Makes the directory and all that leads to it, and each name on the way durable: a loss of power would else take the directory
/// with everything that was acknowledged in it, however well its files were synced.
fn create_durably(directory: &Path) -> io::Result<()> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<&Path> = directory.ancestors().take_while(is_missing).collect();
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)?;
    for made in &missing {
        match sync_name(made) {
            // To make it took no such right: whoever runs this does not mean the process to look into the directory above.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => warn_of(made, &error),
            synced => synced?,
        }
    }
    if missing.is_empty() {
        // A process that died may have made it and not come to this. What is above may be anything, and owes this one nothing.
        sync_name(directory).unwrap_or_else(|error| warn_of(directory, &error));
    }
    Ok(())
}

/// Makes the name of a directory durable, and all others beside it.
fn sync_name(directory: &Path) -> io::Result<()> {
    let above = directory.parent().unwrap_or(directory);
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    File::open(above)?.sync_all()
}

fn warn_of(directory: &Path, error: &io::Error) {
    tracing::warn!(directory = %directory.display(), %error, "the name of the data directory may not outlive a loss of power");
}

/// Opens a file that only its owner may read. The mode is set again after creation: a umask can only take bits
/// away, but a file left by a copy or an older release may have too many.
fn open_private(path: &Path, create: bool, truncate: bool) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create(create).truncate(truncate).mode(FILE_MODE).open(path)?;
    if file.metadata()?.permissions().mode() & 0o7777 != FILE_MODE {
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    }
    Ok(file)
}

impl Disk for RealDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn StorageBackend>> {
        let fresh = mode == OpenMode::Fresh;
        Ok(Box::new(RealFile(open_private(&self.directory.join(name), fresh, fresh)?)))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.directory.join(name).try_exists()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.directory.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let system = rustix::fs::fstatvfs(&self.handle)?;
        Ok(system.f_bavail.saturating_mul(system.f_frsize))
    }
}

/// One open file. The directory's lock already keeps other processes out, so redb's own locks are left unsupported.
#[derive(Debug)]
struct RealFile(File);

impl StorageBackend for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// No file system here can be told to fail, and a sync that never reached one looks like one that did: but the system
    /// refuses to sync a pipe, which tells whether it was asked.
    #[test]
    fn the_system_is_asked_for_every_sync() {
        let pipe = || File::from(OwnedFd::from(std::io::pipe().expect("two descriptors").0));
        assert!(pipe().sync_data().is_err(), "a system that syncs pipes shows nothing");
        assert!(RealFile(pipe()).sync_data().is_err(), "a file's content");

        let root = tempfile::tempdir().expect("a temporary folder");
        let mut disk = RealDisk::new(root.path()).expect("free");
        let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let synced = disk.handle.metadata().expect("open");
        assert_eq!(place(synced), place(root.path().metadata().expect("there")), "the names of another directory");
        disk.sync_dir().expect("a directory can be synced");
        disk.handle = pipe();
        assert!(disk.sync_dir().is_err(), "a directory's names");
    }
}
