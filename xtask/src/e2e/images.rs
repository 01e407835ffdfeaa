//! The images of a run: Quorate's own, and the one that holds a pod's namespaces open.
//!
//! No registry is asked.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::node::{PAUSE_IMAGE, ctr};
use super::place;
use crate::failure::Failure;
use crate::image::Builder;
use crate::process;

/// Image name without its tag.
pub(super) const IMAGE: &str = "localhost/quorate";
/// Two tags of one image: a roll-out from one to the other changes every pod template.
pub(super) const TAGS: [&str; 2] = ["e2e-1", "e2e-2"];

const PAUSE_SOURCE: &str = "fn main() { loop { std::thread::park() } }";

/// Builds the images and gives them to containerd.
pub(super) fn import(binaries: &Path) -> Result<(), Failure> {
    let builder = Builder::new(&place::path("buildah"));
    let names: Vec<String> = TAGS.iter().map(|tag| format!("{IMAGE}:{tag}")).collect();
    builder.build(&names, binaries)?;
    for name in &names {
        load(&builder, name)?;
    }
    pause(&builder)?;
    builder.remove()
}

fn pause(builder: &Builder) -> Result<(), Failure> {
    let folder = place::path("image/pause");
    fs::create_dir_all(&folder).map_err(Failure::file(&folder))?;
    let source = folder.join("pause.rs");
    fs::write(&source, PAUSE_SOURCE).map_err(Failure::file(&source))?;
    let dockerfile = folder.join("Dockerfile");
    let content = "FROM scratch\nCOPY pause /pause\nENTRYPOINT [\"/pause\"]\n";
    fs::write(&dockerfile, content).map_err(Failure::file(&dockerfile))?;
    let mut rustc = Command::new("rustc");
    rustc.current_dir(&folder).args(["-C", "target-feature=+crt-static", "-O", "pause.rs"]);
    process::run(&mut rustc)?;
    builder.bud(&[PAUSE_IMAGE.to_owned()], &["--file", "Dockerfile"], &folder)?;
    load(builder, PAUSE_IMAGE)
}

fn load(builder: &Builder, name: &str) -> Result<(), Failure> {
    let archive = place::path("image/archive.tar");
    builder.save(name, &archive)?;
    process::run(ctr(&["images", "import"]).arg(&archive))
}
