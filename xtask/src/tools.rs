//! The Go programs that run beside Quorate: etcd to compare with, etcdctl as a client.
//!
//! Owns `quorate/tools` in the user's cache folder. Builds from `tests/tools/`, whose go.sum fixes every byte; never takes a
//! program from the machine.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::failure::Failure;
use crate::process::{self, cache_folder, root};

/// Name of the binary, and the package it is built from.
const TOOLS: [(&str, &str); 2] = [("etcd", "go.etcd.io/etcd/server/v3"), ("etcdctl", "go.etcd.io/etcd/etcdctl/v3")];

/// Builds what is missing for the present pins.
///
/// # Errors
/// [`Failure::Skipped`] where there is no Go.
pub(crate) fn build() -> Result<(), Failure> {
    let module = root().join("tests/tools");
    for (name, package) in TOOLS {
        let binary = path(name)?;
        if binary.exists() {
            continue;
        }
        if !process::exists("go", "version") {
            return Err(Failure::Skipped(format!(
                "{name} is built from its Go module, and there is no `go` on this machine"
            )));
        }
        let folder = binary.parent().expect("a binary is in a folder");
        fs::create_dir_all(folder).map_err(Failure::file(folder))?;
        // Built beside its place and then renamed: a build that was cut short is no binary.
        let partial = binary.with_extension("partial");
        let mut build = Command::new("go");
        build.current_dir(&module).args(["build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o"]);
        process::run(build.arg(&partial).arg(package))?;
        fs::rename(&partial, &binary).map_err(Failure::file(&partial))?;
    }
    Ok(())
}

/// Where [`build`] puts the program: other pins are another folder.
///
/// # Errors
/// [`Failure`] if the pins cannot be read or there is no cache folder.
pub(crate) fn path(name: &str) -> Result<PathBuf, Failure> {
    let pins = root().join("tests/tools/go.sum");
    let bytes = fs::read(&pins).map_err(Failure::file(&pins))?;
    // FNV-1a: a name for what is built, nothing that anybody would forge.
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    Ok(cache_folder("tools")?.join(format!("{hash:016x}")).join(name))
}
