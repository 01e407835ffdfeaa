//! The Go programs that run beside Quorate: etcd to compare with, etcdctl as a client.
//!
//! Owns `target/tools/`. Builds from `tests/tools/`, whose go.sum fixes every byte; never takes a program from the machine.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::failure::Failure;
use crate::process::{self, root};

/// Name of the binary, and the package it is built from.
const TOOLS: [(&str, &str); 2] = [("etcd", "go.etcd.io/etcd/server/v3"), ("etcdctl", "go.etcd.io/etcd/etcdctl/v3")];

/// Builds what is missing or older than its pins.
///
/// # Errors
/// [`Failure::Skipped`] where there is no Go.
pub(crate) fn build() -> Result<(), Failure> {
    let module = root().join("tests/tools");
    let pins = module.join("go.sum");
    let pinned = fs::metadata(&pins).and_then(|meta| meta.modified()).map_err(Failure::file(&pins))?;
    for (name, package) in TOOLS {
        let binary = path(name);
        if fs::metadata(&binary).and_then(|meta| meta.modified()).is_ok_and(|built| built > pinned) {
            continue;
        }
        if !process::exists("go", "version") {
            return Err(Failure::Skipped(format!(
                "{name} is built from its Go module, and there is no `go` on this machine"
            )));
        }
        let mut build = Command::new("go");
        build.current_dir(&module).args(["build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o"]);
        process::run(build.arg(&binary).arg(package))?;
    }
    Ok(())
}

/// Where [`build`] puts the program.
pub(crate) fn path(name: &str) -> PathBuf {
    root().join("target/tools").join(name)
}
