//! The admin token: a secret in a file, for whoever runs the cluster and is no user of it.

use std::hint::black_box;
use std::path::PathBuf;

use super::Denied;

/// Where the secret is, if there is one.
#[derive(Debug, Clone)]
pub(super) struct AdminToken {
    file: Option<PathBuf>,
}

impl AdminToken {
    pub(super) fn new(file: Option<PathBuf>) -> AdminToken {
        AdminToken { file }
    }

    /// Whether `sent` is the secret; false also where none is configured.
    ///
    /// # Errors
    /// [`Denied`] if there is one, and this is not it.
    pub(super) fn check(&self, sent: Option<&str>) -> Result<bool, Denied> {
        let Some(path) = &self.file else { return Ok(false) };
        // Read at each call: admin calls are rare, and a rotated secret counts from the next call on.
        let denied = |reason: String| Denied::NoTokenFile { path: path.display().to_string(), reason };
        let file = std::fs::read_to_string(path).map_err(|error| denied(error.to_string()))?;
        let expected = file.trim();
        if expected.is_empty() {
            return Err(denied("it is empty".to_string()));
        }
        let sent = sent.ok_or(Denied::NoToken)?;
        if equal_in_constant_time(sent.as_bytes(), expected.as_bytes()) { Ok(true) } else { Err(Denied::WrongToken) }
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

    use super::*;

    #[test]
    fn the_token_is_that_of_the_file_as_it_is_now() {
        let mut file = NamedTempFile::new().expect("a temporary file");
        writeln!(file, "first").expect("written");
        let token = AdminToken::new(Some(file.path().to_path_buf()));
        assert_eq!(token.check(None), Err(Denied::NoToken));
        for wrong in ["firs", "firstfirst", ""] {
            assert_eq!(token.check(Some(wrong)), Err(Denied::WrongToken), "{wrong}");
        }
        assert_eq!(token.check(Some("first")), Ok(true));
        std::fs::write(file.path(), "second").expect("written");
        assert_eq!(token.check(Some("first")), Err(Denied::WrongToken));
        assert_eq!(token.check(Some("second")), Ok(true));
    }

    #[test]
    fn a_token_file_without_a_token_lets_nobody_in() {
        let file = NamedTempFile::new().expect("a temporary file");
        let token = AdminToken::new(Some(file.path().to_path_buf()));
        assert!(matches!(token.check(Some("")), Err(Denied::NoTokenFile { .. })));
    }

    #[test]
    fn without_a_file_there_is_no_token() {
        assert_eq!(AdminToken::new(None).check(Some("anything")), Ok(false));
    }
}
