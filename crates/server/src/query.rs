//! Percent-encoding and query strings of the HTTP API.
//!
//! Keys are bytes, so nothing here needs UTF-8. A parameter nobody knows is refused: a misspelt bound that is silently
//! ignored would serve staler data than was asked for.

/// A query or a path that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// `%` without two hexadecimal digits.
    #[error("`{0}` has a % that is not followed by two hexadecimal digits")]
    BadEscape(String),
    /// Not one of the parameters of this call.
    #[error("unknown parameter `{name}`; known here: {known}")]
    UnknownParameter {
        /// As sent.
        name: String,
        /// All that are known, separated by commas.
        known: String,
    },
    /// The same parameter twice.
    #[error("parameter `{0}` is given more than once")]
    Twice(String),
    /// The value is not text.
    #[error("the value of `{0}` is not UTF-8")]
    NotText(String),
}

/// The parameters of one request, decoded.
#[derive(Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Parses what follows the question mark. `known` is every parameter this call understands.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, QueryError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = String::from_utf8(decode_form(name)?).map_err(|_| QueryError::NotText(name.to_string()))?;
            let value = String::from_utf8(decode_form(value)?).map_err(|_| QueryError::NotText(name.clone()))?;
            if !known.contains(&name.as_str()) {
                return Err(QueryError::UnknownParameter { name, known: known.join(", ") });
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(QueryError::Twice(name));
            }
            pairs.push((name, value));
        }
        Ok(Query { pairs })
    }

    /// The value of `name`, empty if it has none; `None` if it is absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Whether the parameter is there, whatever its value: `?stale`, `?raw`.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

/// Decodes `%XX` in a path. `+` stands for itself.
///
/// # Errors
/// [`QueryError::BadEscape`].
pub fn decode_path(text: &str) -> Result<Vec<u8>, QueryError> {
    let bad = || QueryError::BadEscape(text.to_string());
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let high = bytes.next().and_then(digit).ok_or_else(bad)?;
        let low = bytes.next().and_then(digit).ok_or_else(bad)?;
        decoded.push(high * 16 + low);
    }
    Ok(decoded)
}

fn decode_form(text: &str) -> Result<Vec<u8>, QueryError> {
    if text.contains('+') { decode_path(&text.replace('+', " ")) } else { decode_path(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_decode_to_bytes() {
        assert_eq!(decode_path("a%2Fb+c%FF").expect("decodes"), b"a/b+c\xff");
        for bad in ["%", "%2", "%zz", "%+1"] {
            assert_eq!(decode_path(bad), Err(QueryError::BadEscape(bad.to_string())));
        }
    }

    #[test]
    fn parameters_may_have_no_value() {
        let query = Query::parse("stale&separator=%2F&max_staleness=1+s", &["stale", "separator", "max_staleness"]);
        let query = query.expect("parses");
        assert!(query.has("stale"));
        assert_eq!(query.get("separator"), Some("/"));
        assert_eq!(query.get("max_staleness"), Some("1 s"));
        assert_eq!(query.get("raw"), None);
    }

    #[test]
    fn unknown_and_repeated_parameters_are_refused() {
        let unknown = Query::parse("max_stale=1s", &["stale", "max_staleness"]).expect_err("refused");
        assert_eq!(unknown.to_string(), "unknown parameter `max_stale`; known here: stale, max_staleness");
        assert_eq!(Query::parse("a=1&a=2", &["a"]).expect_err("refused"), QueryError::Twice("a".to_string()));
    }
}
