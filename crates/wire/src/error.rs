//! Why bytes were not understood.

use std::fmt::Display;

/// Why bytes from a disk or a peer could not be turned into a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer build. Nothing is wrong with the data: stop and run that build.
    #[error("{what} has format version {found}, but this build reads up to version {supported}: run a newer build")]
    UnknownVersion {
        /// What was being read.
        what: &'static str,
        /// The version it names.
        found: u32,
        /// The newest this build knows.
        supported: u32,
    },
    /// A log entry holds a command of a newer build. Skipping it would make this node diverge: stop and run that build.
    #[error("a log entry holds a command that this build does not know: run a newer build")]
    UnknownCommand,
    /// The checksum does not fit the bytes.
    #[error("{what} is damaged: its checksum does not fit")]
    Damaged {
        /// What was being read.
        what: &'static str,
    },
    /// The checksum, if there is one, fits, but the content makes no sense.
    #[error("{what} is malformed: {problem}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Larger than anything this build writes; refused before memory was taken for it.
    #[error("{what} has {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// What was being read.
        what: &'static str,
        /// Its announced or actual size.
        size: usize,
        /// The limit it breaks.
        limit: usize,
    },
}

impl DecodeError {
    pub(crate) fn malformed(what: &'static str, problem: impl Display) -> DecodeError {
        DecodeError::Malformed { what, problem: problem.to_string() }
    }

    pub(crate) fn missing(what: &'static str, field: &'static str) -> DecodeError {
        DecodeError::Malformed { what, problem: format!("{field} is missing") }
    }
}
