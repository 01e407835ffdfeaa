//! The generator itself: compiles `proto/` into a scratch folder and compares or copies.
//!
//! Never writes into the work tree before the whole output is there, and removes files there that no .proto file gives any more.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::failure::Failure;
use crate::process::root;

/// Descriptors of all files, for gRPC reflection.
const DESCRIPTOR: &str = "descriptor.bin";
/// The module tree, one module a protobuf package.
const MODULES: &str = "modules.rs";

/// File name to content.
type Files = BTreeMap<String, Vec<u8>>;

pub(super) fn run(check: bool) -> Result<(), Failure> {
    let target = root().join("crates/proto/src/generated");
    let wanted = generate()?;
    let found = read_folder(&target)?;
    let stale: Vec<&String> =
        wanted.keys().chain(found.keys()).filter(|name| wanted.get(*name) != found.get(*name)).collect();
    if check {
        if stale.is_empty() {
            eprintln!("xtask: generated code is up to date ({} files)", wanted.len());
            return Ok(());
        }
        let mut names = stale.into_iter().cloned().collect::<Vec<_>>();
        names.dedup();
        let names = names.join(", ");
        return Err(Failure::Broken(format!(
            "generated code differs from proto/ in {names}: run `cargo xtask codegen`"
        )));
    }
    fs::create_dir_all(&target).map_err(Failure::file(&target))?;
    for name in found.keys().filter(|name| !wanted.contains_key(*name)) {
        fs::remove_file(target.join(name)).map_err(Failure::file(target.join(name)))?;
    }
    for (name, content) in &wanted {
        if found.get(name) != Some(content) {
            fs::write(target.join(name), content).map_err(Failure::file(target.join(name)))?;
            eprintln!("xtask: wrote {name}");
        }
    }
    Ok(())
}

fn generate() -> Result<Files, Failure> {
    let proto = root().join("proto");
    let mut sources = Vec::new();
    find_sources(&proto, &mut sources)?;
    sources.sort();
    let mut descriptors = protox::compile(&sources, [&proto])
        .map_err(|error| Failure::Broken(format!("proto/ does not compile: {error:?}")))?;

    let scratch = tempfile::tempdir().map_err(Failure::file(std::env::temp_dir()))?;
    tonic_prost_build::configure()
        .out_dir(scratch.path())
        .include_file(MODULES)
        .bytes(".")
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors.clone())
        .map_err(Failure::file(&proto))?;
    let mut files = read_folder(scratch.path())?;

    // Comments and positions are half the size and no reflection client asks for them.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    files.insert(DESCRIPTOR.to_owned(), descriptors.encode_to_vec());
    Ok(files)
}

fn find_sources(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    for entry in fs::read_dir(folder).map_err(Failure::file(folder))? {
        let path = entry.map_err(Failure::file(folder))?.path();
        if path.is_dir() {
            find_sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

/// Empty for a folder that does not exist.
fn read_folder(folder: &Path) -> Result<Files, Failure> {
    let mut files = Files::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(Failure::file(folder)(error)),
    };
    for entry in entries {
        let path = entry.map_err(Failure::file(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(name, fs::read(&path).map_err(Failure::file(&path))?);
    }
    Ok(files)
}
