//! The images: Quorate's own from the Dockerfile, and the one that holds a pod's namespaces open.
//!
//! No registry is asked. The binaries are built here, static, and take the place of the Dockerfile's build stage.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::node::{PAUSE_IMAGE, ctr};
use super::place;
use crate::failure::Failure;
use crate::process::{self, cargo, root};

/// Image name without its tag.
pub(super) const IMAGE: &str = "localhost/quorate";
/// Two tags of one image: a roll-out from one to the other changes every pod template.
pub(super) const TAGS: [&str; 2] = ["e2e-1", "e2e-2"];

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PAUSE_SOURCE: &str = "fn main() { loop { std::thread::park() } }";

/// Builds both binaries, static, and gives their folder.
pub(super) fn build_binaries() -> Result<PathBuf, Failure> {
    let target = root().join("target/e2e");
    let mut build = cargo();
    // Naming the target keeps the flag away from build scripts and procedural macros, which cannot be static.
    build.env("RUSTFLAGS", "-C target-feature=+crt-static").env("CARGO_TARGET_DIR", &target);
    build.args(["build", "--release", "--locked", "--target", TARGET]);
    process::run(build.args(["--package", "quorate", "--package", "quorate-operator"]))?;
    Ok(target.join(TARGET).join("release"))
}

/// Builds the images and gives them to containerd.
pub(super) fn import(binaries: &Path) -> Result<(), Failure> {
    let context = place::path("image/binaries");
    fs::create_dir_all(&context).map_err(Failure::file(&context))?;
    for name in ["quorate", "quorate-operator"] {
        let from = binaries.join(name);
        fs::copy(&from, context.join(name)).map_err(Failure::file(from))?;
    }
    let names: Vec<String> = TAGS.iter().map(|tag| format!("{IMAGE}:{tag}")).collect();
    let build = format!("--build-context=build={}", context.display());
    bud(&names, &[&build, "--file", "Dockerfile"], &root())?;
    for name in &names {
        load(name)?;
    }
    pause()
}

fn pause() -> Result<(), Failure> {
    let folder = place::path("image/pause");
    fs::create_dir_all(&folder).map_err(Failure::file(&folder))?;
    let source = folder.join("pause.rs");
    fs::write(&source, PAUSE_SOURCE).map_err(Failure::file(&source))?;
    let dockerfile = folder.join("Dockerfile");
    let content = "FROM scratch\nCOPY pause /pause\nENTRYPOINT [\"/pause\"]\n";
    fs::write(&dockerfile, content).map_err(Failure::file(&dockerfile))?;
    let mut rustc = Command::new("rustc");
    rustc.current_dir(&folder).args(["--target", TARGET, "-C", "target-feature=+crt-static", "-O", "pause.rs"]);
    process::run(&mut rustc)?;
    bud(&[PAUSE_IMAGE.to_owned()], &["--file", "Dockerfile"], &folder)?;
    load(PAUSE_IMAGE)
}

fn bud(names: &[String], arguments: &[&str], folder: &Path) -> Result<(), Failure> {
    let mut build = buildah();
    build.current_dir(folder).args(["bud", "--quiet", "--isolation", "chroot"]);
    // It leaves a lock in the folder of network configurations, even if it needs no network.
    build.arg("--cni-config-dir").arg(place::path("buildah-cni")).args(arguments);
    for name in names {
        build.args(["--tag", name]);
    }
    process::run(build.arg("."))
}

fn load(name: &str) -> Result<(), Failure> {
    let archive = place::path("image/archive.tar");
    // buildah does not write over an archive.
    let _ = fs::remove_file(&archive);
    process::run(
        buildah().args(["push", "--quiet", name]).arg(format!("docker-archive:{}:{name}", archive.display())),
    )?;
    process::run(ctr(&["images", "import"]).arg(&archive))
}

fn buildah() -> Command {
    let mut buildah = Command::new("buildah");
    buildah.args(["--storage-driver", "vfs", "--root"]).arg(place::path("buildah"));
    buildah.arg("--runroot").arg(place::path("buildah-run"));
    buildah
}
