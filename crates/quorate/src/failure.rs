//! How a command that failed tells a person: what happened and where, and what to do about it.

use std::fmt;

/// Ends a command with a message and exit code 1.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    advice: Option<String>,
}

impl Failure {
    /// What happened, and where.
    pub(crate) fn new(what: impl fmt::Display) -> Self {
        Failure { what: what.to_string(), advice: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub(crate) fn advise(mut self, advice: impl fmt::Display) -> Self {
        self.advice = Some(advice.to_string());
        self
    }

    /// The answer of a server that refused.
    pub(crate) fn answered(endpoint: &str, status: &tonic::Status) -> Self {
        let failure = Failure::new(format_args!("{endpoint} answered: {} ({:?})", status.message(), status.code()));
        match status.code() {
            tonic::Code::Unauthenticated => failure.advise("pass the node's token with --admin-token-file"),
            tonic::Code::Unavailable => {
                failure.advise("a majority of the voters must run: look at `quorate ctl status` of each node")
            }
            tonic::Code::Unimplemented => failure.advise("is this a Quorate client port, and of this version?"),
            _ => failure,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if let Some(advice) = &self.advice {
            write!(f, "\n  try: {advice}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
