//! A file with the content of a store: for its owner alone, and there under its name once it is whole.
//!
//! Owns [`PrivateFile`]. Never touches a file that was there before.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// It holds every value, and the hash of every password.
const FILE_MODE: u32 = 0o600;

/// A file that is being written under the name `FILE.partial`; what was cut off must not look like the whole. Removed again
/// unless it is finished.
#[derive(Debug)]
pub(super) struct PrivateFile {
    out: File,
    name: PathBuf,
    partial: PathBuf,
    is_finished: bool,
}

impl PrivateFile {
    /// Begins the file that is to be `name`.
    ///
    /// # Errors
    /// [`Failure`], also where something of that name is there, or of the name it has until it is finished. One that was left by
    /// a process that was killed cannot be told from one that another process is writing, so it is for a person to remove.
    pub(super) fn begin(name: &Path) -> Result<Self, Failure> {
        if name.symlink_metadata().is_ok() {
            return Err(Failure::new(format_args!("{} exists", name.display())).advise("another name"));
        }
        let partial = name.with_added_extension("partial");
        match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&partial) {
            Ok(out) => Ok(PrivateFile { out, name: name.to_owned(), partial, is_finished: false }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Failure::new(format_args!(
                "{} exists",
                partial.display()
            ))
            .advise(
                "another name; or, unless it is being written right now, remove it: it was left by one that was killed",
            )),
            Err(error) => Err(cannot_write(&partial, &error)),
        }
    }

    /// Adds to it.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.out.write_all(data).map_err(|error| cannot_write(&self.partial, &error))
    }

    /// Gives it its name, once `verify` has nothing against what can be read of it.
    ///
    /// # Errors
    /// [`Failure`], and that of `verify`.
    pub(super) fn finish(mut self, verify: impl FnOnce(&Path) -> Result<(), Failure>) -> Result<(), Failure> {
        self.out.sync_all().map_err(|error| cannot_write(&self.partial, &error))?;
        verify(&self.partial)?;
        std::fs::rename(&self.partial, &self.name).map_err(|error| cannot_write(&self.name, &error))?;
        self.is_finished = true;
        sync_name(&self.name).map_err(|error| {
            Failure::new(format_args!(
                "{} is written, but its name may not outlive a loss of power: {error}",
                self.name.display()
            ))
        })
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        if !self.is_finished {
            // There is nobody to tell: whatever goes wrong here, something else went wrong before.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

/// Makes the name of a file durable.
fn sync_name(file: &Path) -> io::Result<()> {
    let above = file.parent().filter(|above| !above.as_os_str().is_empty());
    File::open(above.unwrap_or(Path::new(".")))?.sync_all()
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format_args!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).expect("a folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }

    #[test]
    fn it_is_its_owners_alone_from_its_first_byte_and_has_its_name_once_it_is_whole() {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let name = directory.path().join("a.db");
        let mut file = PrivateFile::begin(&name).expect("begun");
        file.write(b"some").expect("written");
        assert_eq!(names(directory.path()), ["a.db.partial"]);
        let mode = |path: &Path| path.metadata().expect("is there").permissions().mode() & 0o777;
        assert_eq!(mode(&directory.path().join("a.db.partial")), FILE_MODE);
        file.write(b" more").expect("written");
        file.finish(|path| {
            assert_eq!(std::fs::read(path).expect("read"), b"some more");
            Ok(())
        })
        .expect("finished");
        assert_eq!((names(directory.path()), mode(&name)), (vec!["a.db".to_owned()], FILE_MODE));
    }

    #[test]
    fn what_is_not_finished_or_found_bad_is_gone() {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let name = directory.path().join("a.db");
        drop(PrivateFile::begin(&name).expect("begun"));
        let file = PrivateFile::begin(&name).expect("nothing was left");
        file.finish(|_| Err(Failure::new("bad"))).expect_err("refused");
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn two_names_that_differ_by_their_end_do_not_meet_and_what_was_there_stays() {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let other = directory.path().join("a.partial");
        std::fs::write(&other, "a stranger's").expect("written");
        let files = ["a.db", "a.bak", "a"].map(|name| PrivateFile::begin(&directory.path().join(name)));
        let [db, bak, bare] = files;
        let refused = bare.expect_err("the name is taken").to_string();
        assert!(refused.contains("a.partial exists") && refused.contains("remove it"), "{refused}");
        drop((db.expect("begun"), bak.expect("begun")));
        assert_eq!(std::fs::read(&other).expect("read"), b"a stranger's");
        assert_eq!(names(directory.path()), ["a.partial"]);
    }
}
