//! Signed tokens: every family of methods there and back, and what must not pass.

use std::io::Write;

use base64::engine::general_purpose::STANDARD;
use ring::signature::KeyPair as _;
use tempfile::NamedTempFile;

use super::*;

fn file(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(content).expect("written");
    file
}

fn pem(label: &str, der: &[u8]) -> NamedTempFile {
    file(format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der)).as_bytes())
}

fn option(method: &str, private: Option<&NamedTempFile>, public: Option<&NamedTempFile>) -> JwtOption {
    let path = |file: &NamedTempFile| file.path().to_path_buf();
    JwtOption {
        public_key: public.map(path),
        private_key: private.map(path),
        method: method.to_owned(),
        ttl: Duration::from_secs(300),
    }
}

fn hs256(secret: &str) -> Jwt {
    Jwt::new(&option("HS256", Some(&file(secret.as_bytes())), None)).expect("a secret")
}

/// An element of DER around `parts`; short enough for one byte of length.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag, u8::try_from(content.len()).expect("short")];
    assert!(out[1] < 0x80, "longer than one byte of length can say");
    out.extend_from_slice(&content);
    out
}

/// A SubjectPublicKeyInfo around a key of Ed25519.
fn subject_info(key: &[u8]) -> Vec<u8> {
    let algorithm = element(0x30, &[&[0x06, 0x03, 0x2b, 0x65, 0x70]]);
    element(0x30, &[&algorithm, &element(0x03, &[&[0], key])])
}

/// A certificate of nobody's about the key of `info`, with what stands before it in one.
fn certificate(version: &[u8], info: &[u8]) -> Vec<u8> {
    let sequence = element(0x30, &[]);
    let serial = element(0x02, &[&[1]]);
    let fields = element(0x30, &[version, &serial, &sequence, &sequence, &sequence, &sequence, info]);
    element(0x30, &[&fields, &sequence, &element(0x03, &[&[0]])])
}

#[track_caller]
fn check_there_and_back(giving: &Jwt, taking: &Jwt) {
    let token = giving.sign("u", 7).expect("a private key");
    assert_eq!(taking.verify(&token), Some(Claims { username: "u".to_owned(), revision: 7 }));
    let other = giving.sign("u", 8).expect("a private key");
    let (signed, _) = token.rsplit_once('.').expect("three parts");
    let (_, foreign) = other.rsplit_once('.').expect("three parts");
    assert_eq!(taking.verify(&format!("{signed}.{foreign}")), None, "the signature of another token");
}

#[test]
fn secrets_sign_and_check() {
    check_there_and_back(&hs256("s"), &hs256("s"));
    let token = hs256("s").sign("u", 7).expect("a secret");
    assert_eq!(hs256("t").verify(&token), None, "another secret");
}

#[test]
fn the_private_key_gives_tokens_and_the_public_one_only_takes_them() {
    let random = SystemRandom::new();
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
    let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key");
    let private = pem("PRIVATE KEY", pkcs8.as_ref());
    let public = pem("PUBLIC KEY", &subject_info(key.public_key().as_ref()));
    let giving = Jwt::new(&option("EdDSA", Some(&private), Some(&public))).expect("a pair");
    let taking = Jwt::new(&option("EdDSA", None, Some(&public))).expect("a public key");
    check_there_and_back(&giving, &taking);
    assert!(matches!(taking.sign("u", 7), Err(ApiError::NoSigningKey)));

    let other = Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
    let mismatch = Jwt::new(&option("EdDSA", Some(&pem("PRIVATE KEY", other.as_ref())), Some(&public)));
    assert!(matches!(mismatch, Err(TokenOptionError::KeyMismatch)));
}

#[test]
fn a_certificate_gives_its_public_key() {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
    let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key");
    let giving = Jwt::new(&option("EdDSA", Some(&pem("PRIVATE KEY", pkcs8.as_ref())), None)).expect("a key");
    let info = subject_info(key.public_key().as_ref());
    for version in [element(0xa0, &[&element(0x02, &[&[2]])]), Vec::new()] {
        let whole = certificate(&version, &info);
        let taking = Jwt::new(&option("EdDSA", None, Some(&pem("CERTIFICATE", &whole)))).expect("a certificate");
        check_there_and_back(&giving, &taking);
        for cut in 0..whole.len() {
            let refused = Jwt::new(&option("EdDSA", None, Some(&pem("CERTIFICATE", &whole[..cut]))));
            assert!(matches!(refused, Err(TokenOptionError::Key { .. })), "the first {cut} bytes");
        }
    }
}

#[test]
fn elliptic_curves_sign_and_check() {
    let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).expect("a key");
    let jwt = Jwt::new(&option("ES256", Some(&pem("PRIVATE KEY", pkcs8.as_ref())), None)).expect("a key");
    check_there_and_back(&jwt, &jwt);
}

/// etcd #15677: a token without a user name ended the process.
#[test]
fn etcd_15677_a_token_that_lacks_a_claim_is_nobodys() {
    let jwt = hs256("s");
    let whole = json!({ "username": "u", "revision": 7.0, "exp": seconds_since_epoch() + 60 });
    let signed = |claims: &Value| {
        let text = format!("{}.{}", encode(&json!({ "alg": "HS256" })), encode(claims));
        let signature = jwt.signer.as_ref().expect("a secret").sign(text.as_bytes(), &jwt.random).expect("signed");
        format!("{text}.{}", BASE64URL.encode(signature))
    };
    assert!(jwt.verify(&signed(&whole)).is_some(), "a revision may be written as any number");
    for missing in ["username", "revision", "exp"] {
        let mut claims = whole.clone();
        claims.as_object_mut().expect("an object").remove(missing);
        assert_eq!(jwt.verify(&signed(&claims)), None, "without {missing}");
        claims[missing] = json!([]);
        assert_eq!(jwt.verify(&signed(&claims)), None, "with a list as {missing}");
    }
}

#[test]
fn a_token_does_not_choose_how_it_is_checked() {
    let jwt = hs256("s");
    let (_, claims) = ("", json!({ "username": "root", "revision": 7, "exp": u32::MAX }));
    for header in [json!({ "alg": "none" }), json!({ "alg": "HS512" }), json!({}), json!("HS256")] {
        let text = format!("{}.{}", encode(&header), encode(&claims));
        let signature = jwt.signer.as_ref().expect("a secret").sign(text.as_bytes(), &jwt.random).expect("signed");
        assert_eq!(jwt.verify(&format!("{text}.{}", BASE64URL.encode(signature))), None, "{header}");
    }
    for garbage in ["", ".", "..", "a.b", "a.b.c", "....", "\u{1f600}.x.y"] {
        assert_eq!(jwt.verify(garbage), None, "{garbage}");
    }
}

#[test]
fn a_token_ends() {
    let jwt = hs256("s");
    let token = jwt.sign("u", 7).expect("a secret");
    let now = seconds_since_epoch();
    assert!(jwt.verify_at(&token, now + 290).is_some());
    assert!(jwt.verify_at(&token, now + 310).is_none());
}

#[test]
fn what_is_no_key_for_the_method_says_so() {
    let empty = file(b"");
    assert!(matches!(Jwt::new(&option("HS256", Some(&empty), None)), Err(TokenOptionError::Key { .. })));
    assert!(matches!(Jwt::new(&option("RS256", Some(&empty), None)), Err(TokenOptionError::Key { .. })));
    assert!(matches!(Jwt::new(&option("RS256", None, None)), Err(TokenOptionError::NoKey(_))));
    assert!(matches!(Jwt::new(&option("HS1", None, None)), Err(TokenOptionError::Method(_))));
    let sec1 = pem("EC PRIVATE KEY", &[0x30, 0]);
    let refused = Jwt::new(&option("ES256", Some(&sec1), None)).expect_err("not PKCS 8").to_string();
    assert!(refused.contains("pkcs8 -topk8"), "{refused}");
}
