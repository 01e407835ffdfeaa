//! Signed tokens that an issuer beside the node makes, good ones and others.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use quorate_server::TokenOption;
use ring::hmac;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

/// A secret that node and issuer share, in a file.
pub(crate) struct Secret {
    file: NamedTempFile,
    bytes: Vec<u8>,
}

impl Secret {
    pub(crate) fn new(text: &str) -> Secret {
        Secret::of_bytes(text.as_bytes())
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Secret {
        let file = NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), bytes).expect("written");
        Secret { file, bytes: bytes.to_vec() }
    }

    /// What a node is started with.
    pub(crate) fn option(&self) -> TokenOption {
        let option = format!("jwt,sign-method=HS256,priv-key={}", self.file.path().display());
        option.parse().expect("sound")
    }

    /// A token that says this, with the node's own method.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.signed("HS256", hmac::HMAC_SHA256, claims)
    }

    /// One that says which method it is signed by, and is signed by another or the same.
    pub(crate) fn signed(&self, named: &str, method: hmac::Algorithm, claims: &Value) -> String {
        let encode = |value: &Value| BASE64URL.encode(value.to_string());
        let said = format!("{}.{}", encode(&json!({ "alg": named, "typ": "JWT" })), encode(claims));
        let signature = hmac::sign(&hmac::Key::new(method, &self.bytes), said.as_bytes());
        format!("{said}.{}", BASE64URL.encode(signature))
    }
}

/// Good for an hour.
pub(crate) fn claims(username: &str, revision: u64) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    json!({ "username": username, "revision": revision, "exp": now + 3600 })
}
