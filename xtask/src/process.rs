//! Starting other programs, and where things are in the repository.
//!
//! Owns no child beyond a call: whoever spawns a server keeps and ends it itself.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Failure;

/// The top of the work tree.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask lies one folder below the root").to_path_buf()
}

/// The folder for `purpose` in the user's cache.
pub(crate) fn cache_folder(purpose: &str) -> Result<PathBuf, Failure> {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base =
        named.or_else(home).ok_or_else(|| Failure::Skipped("HOME is not set, so there is no cache folder".into()))?;
    Ok(base.join("quorate").join(purpose))
}

/// The folder that cargo builds into.
pub(crate) fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// The cargo that started this program, so that a toolchain override carries over.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What `cargo run` told this program about its own package: build scripts that look at such variables would be run again, and
    // much with them, whenever somebody calls cargo directly in between.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command.current_dir(root());
    command
}

/// Says what is run, runs it with this program's terminal and waits for its end.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    let line = describe(command);
    eprintln!("xtask: {line}");
    let status = command.status().map_err(|source| Failure::Program {
        command: line.clone(),
        problem: format!("could not be started: {source}"),
    })?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::Program { command: line, problem: format!("failed ({status})") })
}

/// Whether `program` can be started at all.
pub(crate) fn exists(program: impl AsRef<OsStr>, probe: &str) -> bool {
    Command::new(program).arg(probe).output().is_ok_and(|output| output.status.success())
}

/// Whether a program of this name would be found.
pub(crate) fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

pub(crate) fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
