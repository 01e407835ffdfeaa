//! The one place that says whether a caller may do what it asks.
//!
//! Every protocol comes here with each decoded request before anything is done with it. One rule exists: calls of the
//! `Admin` service need the token, if one is configured. Rules about users and keys have no other place.
//! Never talks to the network, and never answers a request itself.

use std::hint::black_box;
use std::path::PathBuf;

use tonic::codegen::http::HeaderMap;
use tonic::codegen::http::header::AUTHORIZATION;

/// What a caller asks for, decoded.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    /// Reads keys.
    Read,
    /// Changes keys, or forgets history.
    Write,
    /// Looks at the cluster or at one node by an etcd call.
    Observe,
    /// Changes the cluster or one node by an etcd call.
    Maintain,
    /// Says who this node is: what an admitting node needs before it can know any token.
    Identify,
    /// Any other call of `quorate.v1.Admin`.
    Administer,
}

/// Why a caller may not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// No token, or not in the form `authorization: Bearer TOKEN`.
    #[error("this call needs the admin token: send it as the metadata `authorization: Bearer TOKEN`")]
    NoToken,
    /// The token is not the configured one.
    #[error("the admin token is not the one of this node")]
    WrongToken,
    /// The file is configured but gives no token, so nobody is let in.
    #[error("the admin token file {path} gives no token: {reason}")]
    NoTokenFile {
        /// The configured file.
        path: String,
        /// What the operating system said, or that the file is empty.
        reason: String,
    },
}

/// The rules of this node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    admin_token_file: Option<PathBuf>,
}

impl Access {
    /// With no file everybody may do everything.
    pub(crate) fn new(admin_token_file: Option<PathBuf>) -> Self {
        Access { admin_token_file }
    }

    /// Checks one request. `headers` are the request's metadata or HTTP headers.
    ///
    /// # Errors
    /// [`Denied`], with what the caller has to do.
    pub(crate) fn check(&self, headers: &HeaderMap, action: Action) -> Result<(), Denied> {
        match action {
            Action::Read | Action::Write | Action::Observe | Action::Maintain | Action::Identify => Ok(()),
            Action::Administer => self.check_admin_token(headers),
        }
    }

    fn check_admin_token(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let Some(path) = &self.admin_token_file else { return Ok(()) };
        // Read at each call: admin calls are rare, and a rotated secret counts from the next call on.
        let denied = |reason: String| Denied::NoTokenFile { path: path.display().to_string(), reason };
        let file = std::fs::read_to_string(path).map_err(|error| denied(error.to_string()))?;
        let expected = file.trim();
        if expected.is_empty() {
            return Err(denied("it is empty".to_string()));
        }
        let sent = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let sent = sent.and_then(|value| value.strip_prefix("Bearer ")).ok_or(Denied::NoToken)?;
        if equal_in_constant_time(sent.trim().as_bytes(), expected.as_bytes()) {
            Ok(())
        } else {
            Err(Denied::WrongToken)
        }
    }
}

/// Takes a time that depends on the length of `sent` alone, so that an answer's delay tells nothing about `expected`.
fn equal_in_constant_time(sent: &[u8], expected: &[u8]) -> bool {
    let mut difference = sent.len() ^ expected.len();
    for (position, byte) in sent.iter().enumerate() {
        difference |= usize::from(black_box(byte ^ expected[position % expected.len()]));
    }
    black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::NamedTempFile;

    use super::{Access, Action, Denied, HeaderMap};

    fn headers(authorization: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert("authorization", value.parse().expect("a header value"));
        }
        headers
    }

    #[track_caller]
    fn check(access: &Access, authorization: Option<&str>, expected: Result<(), Denied>) {
        assert_eq!(access.check(&headers(authorization), Action::Administer), expected);
    }

    #[test]
    fn admin_calls_need_the_token_of_the_file_as_it_is_now() {
        let mut file = NamedTempFile::new().expect("a temporary file");
        writeln!(file, "first").expect("written");
        let access = Access::new(Some(file.path().to_path_buf()));
        check(&access, None, Err(Denied::NoToken));
        check(&access, Some("first"), Err(Denied::NoToken));
        check(&access, Some("Bearer firs"), Err(Denied::WrongToken));
        check(&access, Some("Bearer firstfirst"), Err(Denied::WrongToken));
        check(&access, Some("Bearer first"), Ok(()));
        std::fs::write(file.path(), "second").expect("written");
        check(&access, Some("Bearer first"), Err(Denied::WrongToken));
        check(&access, Some("Bearer second"), Ok(()));
        assert_eq!(access.check(&headers(None), Action::Identify), Ok(()));
    }

    #[test]
    fn a_token_file_without_a_token_lets_nobody_in() {
        let file = NamedTempFile::new().expect("a temporary file");
        let access = Access::new(Some(file.path().to_path_buf()));
        assert!(matches!(access.check(&headers(Some("Bearer ")), Action::Administer), Err(Denied::NoTokenFile { .. })));
    }

    #[test]
    fn without_a_token_file_admin_calls_are_open() {
        check(&Access::default(), None, Ok(()));
    }
}
