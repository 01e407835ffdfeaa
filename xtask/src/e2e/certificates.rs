//! Keys and certificates of one run: an authority, the API server's certificate, the key that signs service account tokens.

use std::fs;
use std::process::Command;

use super::place::{self, API_SERVICE, HOST};
use crate::failure::Failure;
use crate::process;

/// Makes all of them with openssl.
pub(super) fn make() -> Result<(), Failure> {
    let names = format!(
        "subjectAltName=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,\
         DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:{HOST},IP:{API_SERVICE}\n\
         basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n"
    );
    let extensions = place::path("pki/server.ext");
    fs::write(&extensions, names).map_err(Failure::file(&extensions))?;
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=quorate-e2e",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
        "-keyout",
        "ca.key",
        "-out",
        "ca.crt",
    ])?;
    openssl(&[
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=kube-apiserver",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
    ])?;
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "server.ext",
        "-out",
        "server.crt",
    ])?;
    openssl(&["genrsa", "-out", "accounts.key", "2048"])
}

fn openssl(arguments: &[&str]) -> Result<(), Failure> {
    let mut openssl = Command::new("openssl");
    let output = openssl.current_dir(place::path("pki")).args(arguments).output().map_err(Failure::file("openssl"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Failure::Program { command: process::describe(&openssl), problem: said })
}
