//! How a developer command fails.
//!
//! Owns the one error type of this program. Every variant says what to do next, since a person reads it at the end of a run.

use std::path::PathBuf;
use std::process::ExitCode;

/// Why a command ended without success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A program could not be started or ended with an error.
    #[error("`{command}` {problem}")]
    Program { command: String, problem: String },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    /// Something the repository promises does not hold.
    #[error("{0}")]
    Broken(String),
    /// The command cannot run on this machine.
    #[error("skipped: {0}")]
    Skipped(String),
}

impl Failure {
    /// 77 is the usual exit code of a test that cannot run where it was started.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Skipped(_) => ExitCode::from(77),
            _ => ExitCode::FAILURE,
        }
    }

    /// For `map_err` on an operation on `path`.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Failure {
        let path = path.into();
        move |source| Failure::File { path, source }
    }
}
