//! `--auth-token`, in etcd's spelling: `simple`, or `jwt,pub-key=FILE,priv-key=FILE,sign-method=METHOD,ttl=DURATION`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::jwt::Jwt;
use crate::duration::parse_duration;

/// Which tokens a node gives and takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TokenOption {
    /// Random ones, known to the nodes.
    #[default]
    Simple,
    /// Signed ones, good on every node that has the key.
    Jwt(JwtOption),
}

/// How tokens are signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtOption {
    /// PEM; without the private one this node takes tokens and gives none.
    pub public_key: Option<PathBuf>,
    /// PEM, or for the HS methods the secret itself.
    pub private_key: Option<PathBuf>,
    /// One of [`super::jwt`]'s names.
    pub method: String,
    /// How long a token is good.
    pub ttl: Duration,
}

/// Why tokens cannot be given or taken.
#[derive(Debug, thiserror::Error)]
pub enum TokenOptionError {
    /// The option says nothing known.
    #[error("--auth-token {0}: expected simple, or jwt,sign-method=METHOD,priv-key=FILE[,pub-key=FILE][,ttl=5m]")]
    Spelling(String),
    /// A method that is not offered.
    #[error("--auth-token: sign-method {0} is not offered; there are {names}", names = super::jwt::method_names())]
    Method(String),
    /// A key file cannot be read.
    #[error("--auth-token: the key {} cannot be read: {reason}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// A key file holds no key for the method.
    #[error("--auth-token: {} holds no key for {method}: {reason}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The method.
        method: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Neither key is given, or not the one the method needs.
    #[error("--auth-token: {0} needs priv-key, or pub-key to check tokens only")]
    NoKey(String),
    /// The keys do not belong together.
    #[error("--auth-token: pub-key is not the public half of priv-key")]
    KeyMismatch,
}

impl TokenOption {
    /// Whether tokens can be given or taken with it: reads the keys that it names.
    ///
    /// # Errors
    /// [`TokenOptionError`], as the start of a node with this option.
    pub fn check(&self) -> Result<(), TokenOptionError> {
        self.jwt().map(|_| ())
    }

    /// What makes and checks signed tokens, where this option wants them.
    pub(super) fn jwt(&self) -> Result<Option<Jwt>, TokenOptionError> {
        match self {
            TokenOption::Simple => Ok(None),
            TokenOption::Jwt(option) => Jwt::new(option).map(Some),
        }
    }
}

/// etcd's default.
const DEFAULT_TTL: Duration = Duration::from_secs(300);

impl FromStr for TokenOption {
    type Err = TokenOptionError;

    fn from_str(text: &str) -> Result<TokenOption, TokenOptionError> {
        let wrong = || TokenOptionError::Spelling(text.to_owned());
        let mut parts = text.split(',');
        match parts.next() {
            Some("simple") if parts.next().is_none() => return Ok(TokenOption::Simple),
            Some("jwt") => {}
            _ => return Err(wrong()),
        }
        let mut options = BTreeMap::new();
        for part in parts {
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            let known = ["pub-key", "priv-key", "sign-method", "ttl"].contains(&name);
            if !known || value.is_empty() || options.insert(name, value).is_some() {
                return Err(wrong());
            }
        }
        let ttl = match options.get("ttl") {
            Some(ttl) => parse_duration(ttl).filter(|ttl| !ttl.is_zero()).ok_or_else(wrong)?,
            None => DEFAULT_TTL,
        };
        Ok(TokenOption::Jwt(JwtOption {
            public_key: options.get("pub-key").map(PathBuf::from),
            private_key: options.get("priv-key").map(PathBuf::from),
            method: (*options.get("sign-method").ok_or_else(wrong)?).to_owned(),
            ttl,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_spelling_is_understood() {
        assert_eq!("simple".parse::<TokenOption>().expect("understood"), TokenOption::Simple);
        let jwt = "jwt,pub-key=a.pem,priv-key=b.pem,sign-method=RS512,ttl=10m".parse::<TokenOption>();
        let expected = JwtOption {
            public_key: Some("a.pem".into()),
            private_key: Some("b.pem".into()),
            method: "RS512".to_owned(),
            ttl: Duration::from_secs(600),
        };
        assert_eq!(jwt.expect("understood"), TokenOption::Jwt(expected));
        let TokenOption::Jwt(short) = "jwt,sign-method=HS256,priv-key=s".parse().expect("understood") else {
            panic!("jwt was asked for")
        };
        assert_eq!(short.ttl, DEFAULT_TTL);
    }

    #[test]
    fn what_says_nothing_known_is_refused() {
        for text in
            ["", "simple,ttl=1m", "jwt", "jwt,sign-method", "jwt,sign-method=RS256,x=y", "jwt,ttl=0s,sign-method=HS256"]
        {
            assert!(text.parse::<TokenOption>().is_err(), "{text}");
        }
    }
}
