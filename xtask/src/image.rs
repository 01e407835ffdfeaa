//! `image`: the one image with node and operator, without asking a registry for anything.
//!
//! Owns how the two static binaries are built. They take the place of the Dockerfile's build stage, so that what is shipped is
//! put together by the same last stage, with a network or without one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::failure::Failure;
use crate::process::{self, cargo, root, target_folder};

const BINARIES: [&str; 2] = ["quorate", "quorate-operator"];

/// Options of `image`.
#[derive(clap::Args)]
pub(crate) struct ImageArgs {
    /// Name and tag of the image
    #[arg(long, default_value = "quorate:latest")]
    name: String,
    /// Archive to write, for `docker load`, `podman load` or `ctr images import`; target/image/quorate.tar if not given
    #[arg(long, value_name = "FILE")]
    archive: Option<PathBuf>,
    /// Cargo profile of the binaries
    #[arg(long, default_value = "image")]
    profile: String,
}

/// # Errors
/// [`Failure::Skipped`] without buildah.
pub(crate) fn run(args: &ImageArgs) -> Result<(), Failure> {
    if !process::is_in_path("buildah") {
        return Err(Failure::Skipped("there is no buildah; install the package buildah".to_owned()));
    }
    let start = Instant::now();
    let binaries = binaries(&args.profile)?;
    let folder = target_folder().join("image");
    let builder = Builder::new(&folder.join("work"));
    let archive = args.archive.clone().unwrap_or_else(|| folder.join("quorate.tar"));
    builder.build(std::slice::from_ref(&args.name), &binaries)?;
    builder.save(&args.name, &archive)?;
    let size = fs::metadata(&archive).map_err(Failure::file(&archive))?.len();
    println!("{}: {} MB, {} s", archive.display(), size / 1_000_000, start.elapsed().as_secs());
    builder.remove()
}

/// Builds both binaries, static, and gives the folder that holds nothing else.
pub(crate) fn binaries(profile: &str) -> Result<PathBuf, Failure> {
    let folder = target_folder().join("image").join(format!("binaries-{profile}"));
    fs::create_dir_all(&folder).map_err(Failure::file(&folder))?;
    for name in BINARIES {
        let mut build = cargo();
        build.args(["rustc", "--locked", "--profile", profile, "--package", name, "--bin", name]);
        // The flag decides how the program is linked, so it is enough to give it to the last crate. All others are then the ones
        // that tests and other builds of the profile use.
        process::run(build.args(["--", "-C", "target-feature=+crt-static", "-C", "strip=debuginfo"]))?;
        let built = target_folder().join(if profile == "dev" { "debug" } else { profile }).join(name);
        fs::copy(&built, folder.join(name)).map_err(Failure::file(&built))?;
    }
    Ok(folder)
}

/// buildah with its storage in a folder of its own, so that nothing stays elsewhere.
pub(crate) struct Builder {
    folder: PathBuf,
}

impl Builder {
    pub(crate) fn new(folder: &Path) -> Builder {
        Builder { folder: folder.to_owned() }
    }

    /// The image of the Dockerfile, under each of these names.
    pub(crate) fn build(&self, names: &[String], binaries: &Path) -> Result<(), Failure> {
        let stage = format!("--build-context=build={}", binaries.display());
        self.bud(names, &[&stage, "--file", "Dockerfile"], &root())
    }

    /// The image of another Dockerfile in `folder`.
    pub(crate) fn bud(&self, names: &[String], arguments: &[&str], folder: &Path) -> Result<(), Failure> {
        fs::create_dir_all(&self.folder).map_err(Failure::file(&self.folder))?;
        let mut build = self.buildah();
        build.current_dir(folder).args(["bud", "--quiet", "--isolation", "chroot"]);
        // It leaves a lock in the folder of network configurations, even if it needs no network.
        build.arg("--cni-config-dir").arg(self.folder.join("cni")).args(arguments);
        for name in names {
            build.args(["--tag", name]);
        }
        process::run(build.arg("."))
    }

    /// Writes an archive that container engines load.
    pub(crate) fn save(&self, name: &str, archive: &Path) -> Result<(), Failure> {
        // buildah does not write over an archive.
        match fs::remove_file(archive) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Failure::file(archive)(error)),
            _ => {}
        }
        let to = format!("docker-archive:{}:{name}", archive.display());
        process::run(self.buildah().args(["push", "--quiet", name, &to]))
    }

    fn buildah(&self) -> Command {
        let mut buildah = Command::new("buildah");
        buildah.args(["--storage-driver", "vfs", "--root"]).arg(self.folder.join("storage"));
        buildah.arg("--runroot").arg(self.folder.join("run"));
        buildah
    }

    /// Removes the storage, once what was built is elsewhere.
    pub(crate) fn remove(self) -> Result<(), Failure> {
        fs::remove_dir_all(&self.folder).map_err(Failure::file(&self.folder))
    }
}
