//! Why a node cannot go on, by what becomes of it.

use quorate_store::{ApplyError, ReadError, WriteError};

/// See the module documentation.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A file fails its checksum. The node bars itself, for good, and its process stays up to say so: started again it would
    /// only find the same, and end again.
    Damaged(String),
    /// A disk that fails now, or a bug. The process ends; its next start reads what is really there.
    Ended(String),
}

impl From<String> for Failure {
    fn from(error: String) -> Failure {
        Failure::Ended(error)
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Failure {
        Failure::Ended(error.to_string())
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        match error {
            ReadError::Damaged { .. } => Failure::Damaged(error.to_string()),
            ReadError::Storage { .. } => Failure::Ended(error.to_string()),
        }
    }
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Failure {
        match error {
            ApplyError::Read(error) => error.into(),
            error => Failure::Ended(error.to_string()),
        }
    }
}
