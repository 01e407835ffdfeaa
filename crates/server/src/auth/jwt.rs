//! Signed tokens (RFC 7519): a user name, the auth revision and an end, under a key that the nodes share.
//!
//! The frame is three base64 texts with points between; the cryptography is ring's, which TLS brings along anyway. A token
//! is taken only with the one method this node was started with: a token does not choose how it is checked.

mod keys;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm};
use ring::{hmac, rsa};
use serde_json::{Value, json};

use super::option::{JwtOption, TokenOptionError};
use crate::client_api::ApiError;

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) username: String,
    /// The auth revision it was made at: it is good until rights change.
    pub(super) revision: u64,
}

/// One row: a method's name and what stands for it.
struct Method {
    name: &'static str,
    scheme: Scheme,
}

enum Scheme {
    Hmac(&'static hmac::Algorithm),
    Rsa(&'static dyn signature::RsaEncoding, &'static signature::RsaParameters),
    Ecdsa(&'static signature::EcdsaSigningAlgorithm, &'static signature::EcdsaVerificationAlgorithm),
    Ed25519,
}

/// etcd has ES512, too; ring has not that curve.
const METHODS: [Method; 12] = [
    Method { name: "HS256", scheme: Scheme::Hmac(&hmac::HMAC_SHA256) },
    Method { name: "HS384", scheme: Scheme::Hmac(&hmac::HMAC_SHA384) },
    Method { name: "HS512", scheme: Scheme::Hmac(&hmac::HMAC_SHA512) },
    Method { name: "RS256", scheme: Scheme::Rsa(&signature::RSA_PKCS1_SHA256, &signature::RSA_PKCS1_2048_8192_SHA256) },
    Method { name: "RS384", scheme: Scheme::Rsa(&signature::RSA_PKCS1_SHA384, &signature::RSA_PKCS1_2048_8192_SHA384) },
    Method { name: "RS512", scheme: Scheme::Rsa(&signature::RSA_PKCS1_SHA512, &signature::RSA_PKCS1_2048_8192_SHA512) },
    Method { name: "PS256", scheme: Scheme::Rsa(&signature::RSA_PSS_SHA256, &signature::RSA_PSS_2048_8192_SHA256) },
    Method { name: "PS384", scheme: Scheme::Rsa(&signature::RSA_PSS_SHA384, &signature::RSA_PSS_2048_8192_SHA384) },
    Method { name: "PS512", scheme: Scheme::Rsa(&signature::RSA_PSS_SHA512, &signature::RSA_PSS_2048_8192_SHA512) },
    Method {
        name: "ES256",
        scheme: Scheme::Ecdsa(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &signature::ECDSA_P256_SHA256_FIXED),
    },
    Method {
        name: "ES384",
        scheme: Scheme::Ecdsa(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, &signature::ECDSA_P384_SHA384_FIXED),
    },
    Method { name: "EdDSA", scheme: Scheme::Ed25519 },
];

/// For people.
pub(super) fn method_names() -> String {
    METHODS.map(|method| method.name).join(", ")
}

/// Makes and checks signed tokens.
#[derive(Debug)]
pub(super) struct Jwt {
    method: &'static str,
    ttl: Duration,
    signer: Option<Signer>,
    verifier: Verifier,
    random: SystemRandom,
}

enum Signer {
    Hmac(hmac::Key),
    Rsa(Box<RsaKeyPair>, &'static dyn signature::RsaEncoding),
    Ecdsa(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(..)")
    }
}

enum Verifier {
    Hmac(hmac::Key),
    Public(&'static dyn VerificationAlgorithm, Vec<u8>),
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier(..)")
    }
}

impl Jwt {
    /// Reads the keys that `option` names.
    ///
    /// # Errors
    /// [`TokenOptionError`].
    pub(super) fn new(option: &JwtOption) -> Result<Jwt, TokenOptionError> {
        let method = METHODS.iter().find(|method| method.name == option.method);
        let method = method.ok_or_else(|| TokenOptionError::Method(option.method.clone()))?;
        let (signer, verifier) = keys::load(option, &method.scheme)?;
        Ok(Jwt { method: method.name, ttl: option.ttl, signer, verifier, random: SystemRandom::new() })
    }

    /// A token for `username`, good while the auth revision is `revision`.
    ///
    /// # Errors
    /// [`ApiError::NoSigningKey`] on a node that only checks tokens.
    pub(super) fn sign(&self, username: &str, revision: u64) -> Result<String, ApiError> {
        let signer = self.signer.as_ref().ok_or(ApiError::NoSigningKey)?;
        let expires = seconds_since_epoch() + self.ttl.as_secs();
        let header = json!({ "alg": self.method, "typ": "JWT" });
        let claims = json!({ "username": username, "revision": revision, "exp": expires });
        let mut token = format!("{}.{}", encode(&header), encode(&claims));
        let signature = signer.sign(token.as_bytes(), &self.random)?;
        token.push('.');
        BASE64URL.encode_string(signature, &mut token);
        Ok(token)
    }

    /// What the token says, if it is signed by this node's method and key and has not ended.
    pub(super) fn verify(&self, token: &str) -> Option<Claims> {
        self.verify_at(token, seconds_since_epoch())
    }

    fn verify_at(&self, token: &str, now: u64) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        if decode(header)?.get("alg")?.as_str()? != self.method {
            return None;
        }
        self.verifier.verify(signed.as_bytes(), &BASE64URL.decode(signature).ok()?)?;
        let claims = decode(claims)?;
        // One without an end would be good for ever.
        let ends = as_seconds(claims.get("exp")?)?;
        let begins = claims.get("nbf").map_or(Some(0), as_seconds)?;
        if now >= ends || now < begins {
            return None;
        }
        let username = claims.get("username")?.as_str()?.to_owned();
        Some(Claims { username, revision: as_seconds(claims.get("revision")?)? })
    }
}

impl Signer {
    fn sign(&self, message: &[u8], random: &SystemRandom) -> Result<Vec<u8>, ApiError> {
        let failed = |_| ApiError::NoRandomness;
        Ok(match self {
            Signer::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
            Signer::Rsa(key, encoding) => {
                let mut signature = vec![0; rsa::KeyPair::public(key).modulus_len()];
                key.sign(*encoding, random, message, &mut signature).map_err(failed)?;
                signature
            }
            Signer::Ecdsa(key) => key.sign(random, message).map_err(failed)?.as_ref().to_vec(),
            Signer::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        })
    }
}

impl Verifier {
    fn verify(&self, message: &[u8], signature: &[u8]) -> Option<()> {
        match self {
            Verifier::Hmac(key) => hmac::verify(key, message, signature).ok(),
            Verifier::Public(algorithm, key) => UnparsedPublicKey::new(*algorithm, key).verify(message, signature).ok(),
        }
    }
}

/// The wall clock: tokens come from other machines.
fn seconds_since_epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Issuers write whole numbers as either kind.
fn as_seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|number| *number >= 0.0).map(|number| number as u64))
}

fn encode(value: &Value) -> String {
    BASE64URL.encode(value.to_string())
}

fn decode(text: &str) -> Option<Value> {
    serde_json::from_slice(&BASE64URL.decode(text).ok()?).ok()
}

#[cfg(test)]
mod tests;
