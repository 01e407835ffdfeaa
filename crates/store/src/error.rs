//! What can go wrong with stored data, one enum an operation, split by what the caller does next.

use std::io;

use quorate_raft::LogIndex;
use quorate_wire::DecodeError;

/// What a user does about a file that cannot be trusted; every diagnosis ends with it.
pub(crate) const RESEED: &str = "this node must not vote or serve from it: set its data aside with `quorate ctl reset` (or move the data \
     directory away) and let the cluster seed it again";

/// Why a data directory could not be opened. Nothing was changed in any of these cases.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is too little room to bring a file in order after a crash. The same data opens once there is some.
    #[error(
        "{file}: the disk is full, and opening the file after an unclean stop takes room: free some space and start again"
    )]
    DiskFull {
        /// The file.
        file: &'static str,
    },
    /// The operating system refused, or redb could not read its own structure.
    #[error("{file}: {source}")]
    Storage {
        /// The file.
        file: &'static str,
        /// What failed.
        source: Box<redb::Error>,
    },
    /// What is stored contradicts itself or its checksums. Never healed by cutting something off: that could drop
    /// acknowledged entries.
    #[error("{file} is damaged: {detail}; {advice}", advice = RESEED)]
    Damaged {
        /// The file.
        file: &'static str,
        /// What was found, and where.
        detail: String,
    },
    /// Written by a release that knows more.
    #[error(
        "{file} has format version {found}, this release reads up to {supported}: start a release that supports format \
         version {found}"
    )]
    NewerFormat {
        /// The file.
        file: &'static str,
        /// Its version.
        found: u32,
        /// The newest this build reads.
        supported: u32,
    },
    /// The first files of an empty directory, or what brings two files into line, could not be written.
    #[error(transparent)]
    Write(WriteError),
    /// An entry holds something this build does not know.
    #[error("entry {index} of the log cannot be read by this release: {source}; start the release that wrote it")]
    UnknownEntry {
        /// Its index.
        index: LogIndex,
        /// What is unknown.
        source: DecodeError,
    },
}

impl OpenError {
    pub(crate) fn damaged(file: &'static str, detail: impl Into<String>) -> Self {
        Self::Damaged { file, detail: detail.into() }
    }

    /// An error of redb while opening: a broken structure is damage, all else is the system's.
    pub(crate) fn from_redb(file: &'static str, source: impl Into<redb::Error>) -> Self {
        match source.into() {
            redb::Error::Corrupted(detail) => Self::damaged(file, detail),
            source if is_disk_full(&source) => Self::DiskFull { file },
            source => Self::Storage { file, source: Box::new(source) },
        }
    }

    pub(crate) fn io(file: &'static str, source: io::Error) -> Self {
        Self::from_redb(file, redb::Error::Io(source))
    }
}

/// Whether the system had no room for what was written.
fn is_disk_full(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull)
}

impl From<WriteError> for OpenError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::DiskFull { file, .. } => Self::DiskFull { file },
            WriteError::Failed { file, source } if is_disk_full(&source) => Self::DiskFull { file },
            error => Self::Write(error),
        }
    }
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged { file, detail } => Self::damaged(file, detail),
            ReadError::Storage { file, source } => Self::from_redb(file, *source),
        }
    }
}

/// Why a write did not become durable.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is too little room. Nothing was written; the same call may succeed later.
    #[error("{file}: the disk has {free_bytes} bytes left and this write wants {needed_bytes}: free some space")]
    DiskFull {
        /// The file.
        file: &'static str,
        /// What is left.
        free_bytes: u64,
        /// What must be left for this write to be tried.
        needed_bytes: u64,
    },
    /// The write or its sync failed. It may or may not be on the disk, and no later write can be trusted: the node
    /// must stop before it promises anything more.
    #[error("{file}: write failed: {source}; the node stops, since what is on the disk is unknown")]
    Failed {
        /// The file.
        file: &'static str,
        /// What failed.
        source: Box<redb::Error>,
    },
    /// An earlier write failed; this one was not tried.
    #[error("{file}: not written, because an earlier write failed: {cause}")]
    Poisoned {
        /// The file.
        file: &'static str,
        /// The first failure.
        cause: String,
    },
}

/// Why stored data could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A record fails its checksum or cannot be decoded.
    #[error("{file} is damaged: {detail}; {advice}", advice = RESEED)]
    Damaged {
        /// The file.
        file: &'static str,
        /// What was found, and where.
        detail: String,
    },
    /// The storage failed.
    #[error("{file}: {source}")]
    Storage {
        /// The file.
        file: &'static str,
        /// What failed.
        source: Box<redb::Error>,
    },
}

/// Why an answer of limited size could not be read.
pub type RationedReadError = quorate_kv::RationedReadError<ReadError>;

impl ReadError {
    pub(crate) fn damaged(file: &'static str, detail: impl Into<String>) -> Self {
        Self::Damaged { file, detail: detail.into() }
    }

    pub(crate) fn from_redb(file: &'static str, source: impl Into<redb::Error>) -> Self {
        match source.into() {
            redb::Error::Corrupted(detail) => Self::damaged(file, detail),
            source => Self::Storage { file, source: Box::new(source) },
        }
    }
}

/// Why committed entries could not be applied. All of these stop the node.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A committed entry holds something this build does not know. Skipping it would make this node's state differ.
    #[error("entry {index} cannot be applied by this release: {source}; start the release that wrote it")]
    UnknownEntry {
        /// Its index.
        index: LogIndex,
        /// What is unknown.
        source: DecodeError,
    },
    /// A record that the state needs cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The state file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why a snapshot could not be sent, or was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The image is not whole, not of this cluster, or not what it says it is. The node's own state is untouched.
    #[error("the snapshot is refused: {0}")]
    Refused(String),
    /// The image is in a format this build does not know.
    #[error("the snapshot is refused: {0}")]
    Unknown(#[source] DecodeError),
    /// Reading the sender's state failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Writing the receiver's new state failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}
