//! A disk of the machine that fails as it is told, for tests of the real binary (feature `test-faults`).
//!
//! What is written stays in memory until its sync, as in a system that writes nothing back by itself. So a power cut loses
//! whatever nobody waited for; of that, any pages may have reached the disk all the same.
//!
//! Names are made and changed at once: what a crash does to those is the simulator's part.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use redb::StorageBackend;
use rustix::process::{Signal, getpid, kill_process};

use crate::disk::{Disk, OpenMode};
use crate::overlay_disk::{OverlayFile, OverlayHandle};

/// What the disk does wrong. Changed while it is at work.
#[derive(Debug, Default)]
pub struct DiskFaults {
    write_delay_micros: AtomicU64,
    sync_delay_micros: AtomicU64,
    fails_syncs: AtomicBool,
    fails_reads: AtomicBool,
    /// Held by each change of a file, and for ever by a power cut.
    power: RwLock<()>,
    files: Mutex<BTreeMap<String, Arc<OverlayFile>>>,
}

impl DiskFaults {
    /// Each write takes this much longer,
    pub fn delay_writes(&self, micros: u64) {
        self.write_delay_micros.store(micros, Ordering::Relaxed);
    }

    /// and each sync this much.
    pub fn delay_syncs(&self, micros: u64) {
        self.sync_delay_micros.store(micros, Ordering::Relaxed);
    }

    /// From now on no sync succeeds.
    pub fn fail_syncs(&self, yes: bool) {
        self.fails_syncs.store(yes, Ordering::Relaxed);
    }

    /// From now on no read succeeds.
    pub fn fail_reads(&self, yes: bool) {
        self.fails_reads.store(yes, Ordering::Relaxed);
    }

    /// Ends this process. What was not synced is lost but for some pages of it, which `seed` chooses; 0 chooses none.
    pub fn lose_power(&self, seed: u64) {
        let _off = self.power.write();
        for (name, file) in &*self.files() {
            // A disk that fails while it loses its power loses more.
            let _ = file.settle(|page| {
                let mut hasher = DefaultHasher::new();
                (seed, name, page).hash(&mut hasher);
                seed != 0 && hasher.finish().is_multiple_of(2)
            });
        }
        kill_process(getpid(), Signal::KILL).expect("a process may end itself");
        // The signal comes before the call returns, or at once after it.
        loop {
            std::thread::park();
        }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Arc<OverlayFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync(&self) -> io::Result<()> {
        wait(&self.sync_delay_micros);
        failing(&self.fails_syncs)
    }
}

fn wait(micros: &AtomicU64) {
    let micros = micros.load(Ordering::Relaxed);
    if micros > 0 {
        std::thread::sleep(Duration::from_micros(micros));
    }
}

fn failing(fails: &AtomicBool) -> io::Result<()> {
    match fails.load(Ordering::Relaxed) {
        true => Err(rustix::io::Errno::IO.into()),
        false => Ok(()),
    }
}

/// See the module documentation.
#[derive(Debug)]
pub struct HostileDisk {
    below: Arc<dyn Disk>,
    faults: Arc<DiskFaults>,
}

impl HostileDisk {
    /// A disk that has the files of `below` and does wrong what `faults` says.
    pub fn new(below: Arc<dyn Disk>, faults: Arc<DiskFaults>) -> Self {
        Self { below, faults }
    }
}

impl Disk for HostileDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn StorageBackend>> {
        let below = self.below.open(name, mode)?;
        let mut files = self.faults.files();
        let file = match files.get(name) {
            // Another handle of the same file: it sees what was written and not synced.
            Some(open) if mode == OpenMode::Existing => Arc::clone(open),
            _ => Arc::new(OverlayFile::over(below)?),
        };
        files.insert(name.to_owned(), Arc::clone(&file));
        drop(files);
        let faults = Arc::clone(&self.faults);
        Ok(Box::new(HostileFile { handle: OverlayHandle(Arc::clone(&file)), file, faults }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.below.exists(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.below.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let _on = self.faults.power.read();
        self.faults.files().remove(name);
        self.below.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let _on = self.faults.power.read();
        let mut files = self.faults.files();
        if let Some(file) = files.remove(from) {
            files.insert(to.to_owned(), file);
        }
        self.below.rename(from, to)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.faults.sync()?;
        let _on = self.faults.power.read();
        self.below.sync_dir()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.below.free_bytes()
    }
}

#[derive(Debug)]
struct HostileFile {
    file: Arc<OverlayFile>,
    handle: OverlayHandle,
    faults: Arc<DiskFaults>,
}

impl StorageBackend for HostileFile {
    fn len(&self) -> io::Result<u64> {
        self.handle.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        failing(&self.faults.fails_reads)?;
        self.handle.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let _on = self.faults.power.read();
        self.handle.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.faults.sync()?;
        let _on = self.faults.power.read();
        self.file.settle(|_| true)?;
        self.file.sync_below()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        wait(&self.faults.write_delay_micros);
        let _on = self.faults.power.read();
        self.handle.write(offset, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RealDisk;

    #[test]
    fn only_what_was_synced_is_in_the_file_below() {
        let folder = tempfile::TempDir::new().unwrap();
        let real: Arc<dyn Disk> = Arc::new(RealDisk::new(folder.path()).unwrap());
        let disk = HostileDisk::new(Arc::clone(&real), Arc::default());
        let file = disk.open("f", OpenMode::Fresh).unwrap();
        let read = |disk: &dyn Disk| {
            let file = disk.open("f", OpenMode::Existing).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read(0, &mut bytes).unwrap();
            bytes
        };
        file.set_len(10_000).unwrap();
        file.write(4090, b"over two pages").unwrap();
        assert_eq!((read(&*real).len(), read(&disk).len()), (0, 10_000));
        file.sync_data().unwrap();
        file.write(0, b"later").unwrap();
        assert_eq!(&read(&*real)[4090..4104], b"over two pages");
        assert_eq!((&read(&*real)[..5], &read(&disk)[..5]), (&[0; 5][..], &b"later"[..]));
        file.set_len(4092).unwrap();
        file.set_len(4100).unwrap();
        file.sync_data().unwrap();
        assert_eq!(read(&*real), read(&disk));
        assert_eq!(&read(&*real)[4088..], b"\0\0ov\0\0\0\0\0\0\0\0");
    }
}
