//! Keys of signed tokens, as etcd's option names them: PEM files, or for the HS methods the secret itself.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use ring::{hmac, rsa};

use super::{JwtOption, Scheme, Signer, TokenOptionError, Verifier};

// Tags of DER.
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
/// The version in a certificate, `[0]`.
const VERSION: u8 = 0xa0;

/// What an option's files give; no signer without the private key.
pub(super) fn load(option: &JwtOption, scheme: &Scheme) -> Result<(Option<Signer>, Verifier), TokenOptionError> {
    if let Scheme::Hmac(algorithm) = scheme {
        let path = option.private_key.as_deref().ok_or_else(|| TokenOptionError::NoKey(option.method.clone()))?;
        let secret = read(path)?;
        if secret.is_empty() {
            return Err(unusable(option, path, "it is empty"));
        }
        let key = hmac::Key::new(**algorithm, &secret);
        return Ok((Some(Signer::Hmac(key.clone())), Verifier::Hmac(key)));
    }
    let algorithm: &'static dyn signature::VerificationAlgorithm = match scheme {
        Scheme::Rsa(_, verifying) => *verifying,
        Scheme::Ecdsa(_, verifying) => *verifying,
        Scheme::Ed25519 | Scheme::Hmac(_) => &signature::ED25519,
    };
    let private = match &option.private_key {
        Some(path) => Some(private_key(option, path, scheme)?),
        None => None,
    };
    let public = match &option.public_key {
        Some(path) => Some(public_key(option, path)?),
        None => None,
    };
    match (private, public) {
        (Some((_, own)), Some(given)) if own != given => Err(TokenOptionError::KeyMismatch),
        (Some((signer, public)), _) => Ok((Some(signer), Verifier::Public(algorithm, public))),
        (None, Some(public)) => Ok((None, Verifier::Public(algorithm, public))),
        (None, None) => Err(TokenOptionError::NoKey(option.method.clone())),
    }
}

/// The key and its public half.
fn private_key(option: &JwtOption, path: &Path, scheme: &Scheme) -> Result<(Signer, Vec<u8>), TokenOptionError> {
    let (label, der) = read_pem(option, path)?;
    let rejected = |reason: ring::error::KeyRejected| unusable(option, path, reason);
    if label != "PRIVATE KEY" && !(label == "RSA PRIVATE KEY" && matches!(scheme, Scheme::Rsa(..))) {
        let reason = format!("it is {label}; openssl pkcs8 -topk8 -nocrypt makes a PRIVATE KEY of it");
        return Err(unusable(option, path, reason));
    }
    Ok(match scheme {
        Scheme::Rsa(encoding, _) => {
            let key = if label == "PRIVATE KEY" { RsaKeyPair::from_pkcs8(&der) } else { RsaKeyPair::from_der(&der) };
            let key = key.map_err(rejected)?;
            let public = rsa::KeyPair::public(&key).as_ref().to_vec();
            (Signer::Rsa(Box::new(key), *encoding), public)
        }
        Scheme::Ecdsa(signing, _) => {
            let key = EcdsaKeyPair::from_pkcs8(signing, &der, &SystemRandom::new()).map_err(rejected)?;
            let public = key.public_key().as_ref().to_vec();
            (Signer::Ecdsa(Box::new(key)), public)
        }
        Scheme::Ed25519 | Scheme::Hmac(_) => {
            let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(rejected)?;
            let public = key.public_key().as_ref().to_vec();
            (Signer::Ed25519(Box::new(key)), public)
        }
    })
}

/// The key in the form ring takes: without the envelope that names its algorithm.
fn public_key(option: &JwtOption, path: &Path) -> Result<Vec<u8>, TokenOptionError> {
    let (label, der) = read_pem(option, path)?;
    let key = match label.as_str() {
        "RSA PUBLIC KEY" => return Ok(der),
        "PUBLIC KEY" => subject_public_key(&der),
        "CERTIFICATE" => certified_key(&der),
        other => return Err(unusable(option, path, format!("it is {other}, not PUBLIC KEY or CERTIFICATE"))),
    };
    key.ok_or_else(|| unusable(option, path, "it is cut or not what it says it is"))
}

fn read(path: &Path) -> Result<Vec<u8>, TokenOptionError> {
    std::fs::read(path)
        .map_err(|error| TokenOptionError::Unreadable { path: path.to_owned(), reason: error.to_string() })
}

fn unusable(option: &JwtOption, path: &Path, reason: impl ToString) -> TokenOptionError {
    TokenOptionError::Key { path: path.to_owned(), method: option.method.clone(), reason: reason.to_string() }
}

/// Label and content of the first block that is or holds a key: openssl writes parameters before some.
fn read_pem(option: &JwtOption, path: &Path) -> Result<(String, Vec<u8>), TokenOptionError> {
    let text = String::from_utf8(read(path)?).map_err(|_| unusable(option, path, "it is not PEM"))?;
    let mut rest = text.as_str();
    while let Some((_, from_label)) = rest.split_once("-----BEGIN ") {
        let Some((label, body)) = from_label.split_once("-----") else { break };
        let Some((body, after)) = body.split_once("-----END ") else { break };
        if label.ends_with("KEY") || label == "CERTIFICATE" {
            let body: String = body.chars().filter(|character| !character.is_whitespace()).collect();
            let der = STANDARD.decode(body).map_err(|error| unusable(option, path, error))?;
            return Ok((label.to_owned(), der));
        }
        rest = after;
    }
    Err(unusable(option, path, "it holds no PEM block of a key"))
}

/// The key that a certificate is about (RFC 5280, 4.1). Nobody's signature on it is looked at, as etcd looks at none: the
/// file is the operator's.
fn certified_key(der: &[u8]) -> Option<Vec<u8>> {
    let (certificate, rest) = element(der, SEQUENCE)?;
    let (fields, _) = element(certificate, SEQUENCE)?;
    // The version is left out where it is the first.
    let fields = element(fields, VERSION).map_or(fields, |(_, after)| after);
    let (_, mut fields) = element(fields, INTEGER)?;
    for _of in ["algorithm", "issuer", "validity", "subject"] {
        (_, fields) = element(fields, SEQUENCE)?;
    }
    let (_, after) = element(fields, SEQUENCE)?;
    let info = &fields[..fields.len() - after.len()];
    if rest.is_empty() { subject_public_key(info) } else { None }
}

/// The bits within a SubjectPublicKeyInfo (RFC 5280, 4.1): a sequence of the algorithm and a bit string.
fn subject_public_key(der: &[u8]) -> Option<Vec<u8>> {
    let (info, rest) = element(der, SEQUENCE)?;
    let (_, bits) = element(info, SEQUENCE)?;
    let (bits, after) = element(bits, BIT_STRING)?;
    let (unused, key) = bits.split_first()?;
    (*unused == 0 && rest.is_empty() && after.is_empty()).then(|| key.to_vec())
}

/// Content of the element at the front, which must have this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    if *found != tag {
        return None;
    }
    let (len, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        // Keys are far below the 64 KiB that two bytes can say.
        let (bytes, rest) = rest.split_at_checked(usize::from(*first & 0x7f)).filter(|(bytes, _)| bytes.len() <= 2)?;
        (bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
    };
    rest.split_at_checked(len)
}
