//! A disk in memory that keeps only what was synced, and fails on command.
//!
//! Owns [`FaultyDisk`]. Deterministic: what it does follows from the calls made to it and from the [`Choices`] its
//! caller hands to [`FaultyDisk::crash`]; it draws nothing itself and knows no time.
//!
//! Invariant: a name survives a crash for sure only if the directory was synced after it appeared, bytes only if
//! their file was synced after they were written.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;
use xxhash_rust::xxh3::xxh3_64;

use super::faulty_file::{FaultyFile, PAGE_BYTES};
use crate::disk::{Disk, OpenMode};

/// What a write says that does not fit.
pub const NO_SPACE: &str = "no space left on the disk";

/// The caller's source of decisions: the same choices give the same disk.
pub trait Choices {
    /// A number in `0..bound`; `bound` is at least 1.
    fn below(&mut self, bound: u64) -> u64;
}

impl<F: FnMut(u64) -> u64> Choices for F {
    fn below(&mut self, bound: u64) -> u64 {
        self(bound)
    }
}

/// Calls that change the disk, counted since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StorageCalls {
    /// Writes and changes of length.
    pub writes: u64,
    /// Syncs of a file.
    pub syncs: u64,
    /// Creations, renames, removals and syncs of the directory.
    pub directory: u64,
}

impl StorageCalls {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.writes + self.syncs + self.directory
    }
}

/// What a call that changes the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Write,
    Sync,
    Directory,
}

#[derive(Debug, Clone)]
enum DirectoryChange {
    Link(String, FileId),
    Unlink(String),
    Rename { from: String, to: String, file: FileId },
}

type FileId = u64;

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<FileId, FaultyFile>,
    names: BTreeMap<String, FileId>,
    durable_names: BTreeMap<String, FileId>,
    changes: Vec<DirectoryChange>,
    next_file: FileId,
    /// Handles of an earlier start are dead: the process that held them is.
    start: u64,
    calls: StorageCalls,
    read_bytes: u64,
    power_cut_at: Option<u64>,
    write_error_at: Option<u64>,
    sync_error_at: Option<u64>,
    read_error_at: Option<u64>,
    directory_error_at: Option<u64>,
    reads: u64,
    /// Calls that failed by a planned fault, but for power cuts.
    failures: u64,
    /// The syncs among them.
    failed_syncs: u64,
    limit_bytes: Option<u64>,
    decays: u64,
}

/// The disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

impl FaultyDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses power: unsynced bytes and names survive as `choices` says, open handles are dead, planned faults forgotten.
    pub fn crash(&self, choices: &mut dyn Choices) {
        let mut state = self.lock();
        state.stop_process();
        let mut names = std::mem::take(&mut state.durable_names);
        for change in std::mem::take(&mut state.changes) {
            if choices.below(2) == 0 {
                apply(&mut names, change);
            }
        }
        state.durable_names.clone_from(&names);
        state.names = names;
        for file in state.files.values_mut() {
            file.crash(choices);
        }
        state.drop_unnamed();
    }

    /// Kills the process: open handles are dead, but the operating system still has every write.
    pub fn kill(&self) {
        let mut state = self.lock();
        state.stop_process();
        state.drop_unnamed();
    }

    /// From the `calls`-th changing call from now on (1 = the next) every call fails, as after a power cut. The next
    /// [`FaultyDisk::crash`] or [`FaultyDisk::kill`] ends it.
    pub fn cut_power_after(&self, calls: u64) {
        let mut state = self.lock();
        state.power_cut_at = Some(state.calls.total() + calls);
    }

    /// Calls off a power cut that was planned and has not come; other faults stay planned.
    pub fn call_off_power_cut(&self) {
        self.lock().power_cut_at = None;
    }

    /// Forgets the faults that were planned and have not come.
    pub fn call_off_faults(&self) {
        let mut state = self.lock();
        state.power_cut_at = None;
        state.write_error_at = None;
        state.sync_error_at = None;
        state.read_error_at = None;
        state.directory_error_at = None;
    }

    /// Whether a planned power cut has come.
    pub fn is_power_cut(&self) -> bool {
        let state = self.lock();
        state.power_cut_at.is_some_and(|at| state.calls.total() >= at)
    }

    /// The `nth` write from now (1 = the next) fails with an I/O error.
    pub fn fail_write(&self, nth: u64) {
        let mut state = self.lock();
        state.write_error_at = Some(state.calls.writes + nth);
    }

    /// The `nth` read from now (1 = the next) fails with an I/O error.
    pub fn fail_read(&self, nth: u64) {
        let mut state = self.lock();
        state.read_error_at = Some(state.reads + nth);
    }

    /// The `nth` change of the directory from now (1 = the next), or sync of it, fails with an I/O error and changes nothing.
    pub fn fail_directory(&self, nth: u64) {
        let mut state = self.lock();
        state.directory_error_at = Some(state.calls.directory + nth);
    }

    /// Calls that failed because it was planned, power cuts and full disks apart.
    pub fn failures(&self) -> u64 {
        self.lock().failures
    }

    /// Those of them that were syncs, after which what is read is not what is on the medium. No other failure changes anything.
    pub fn failed_syncs(&self) -> u64 {
        self.lock().failed_syncs
    }

    /// Times that something was changed behind the process' back.
    pub fn decays(&self) -> u64 {
        self.lock().decays
    }

    /// The `nth` file sync from now (1 = the next) fails with an I/O error. What it covered counts as clean from then on, as
    /// Linux has it: it can be read, a later sync does not write it, and a crash loses it.
    pub fn fail_sync(&self, nth: u64) {
        let mut state = self.lock();
        state.sync_error_at = Some(state.calls.syncs + nth);
    }

    /// Bounds the bytes of all files; `None` gives the space back.
    pub fn set_limit_bytes(&self, limit: Option<u64>) {
        self.lock().limit_bytes = limit;
    }

    /// Whether the disk holds no more than a set number of bytes.
    pub fn is_limited(&self) -> bool {
        self.lock().limit_bytes.is_some()
    }

    /// Bytes that all files take.
    pub fn used_bytes(&self) -> u64 {
        self.lock().used_bytes()
    }

    /// Calls so far.
    pub fn calls(&self) -> StorageCalls {
        self.lock().calls
    }

    /// Bytes read so far.
    pub fn read_bytes(&self) -> u64 {
        self.lock().read_bytes
    }

    /// Flips a bit of a file, as decay of the medium would.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) {
        self.damage(name, |file| file.flip_bit(offset, bit)).expect("a name leads to a file");
    }

    /// Zeroes the 512 bytes around an offset of a file.
    pub fn zero_sector(&self, name: &str, offset: u64) {
        self.damage(name, |file| file.zero_sector(offset));
    }

    /// The page at this offset is again what it was before its newest version was synced, as if that write had been confirmed
    /// and lost. False if it had no earlier version.
    pub fn revert_page(&self, name: &str, offset: u64) -> bool {
        self.damage(name, |file| file.revert_page(offset / PAGE_BYTES as u64)).unwrap_or(false)
    }

    /// The newest version of the page at `meant` is at `hit` instead. False if one of them was never written.
    pub fn misdirect_page(&self, name: &str, meant: u64, hit: u64) -> bool {
        let page = |offset: u64| offset / PAGE_BYTES as u64;
        self.damage(name, |file| file.misdirect(page(meant), page(hit))).unwrap_or(false)
    }

    fn damage<T>(&self, name: &str, change: impl FnOnce(&mut FaultyFile) -> T) -> Option<T> {
        let mut state = self.lock();
        let file = *state.names.get(name)?;
        state.decays += 1;
        state.files.get_mut(&file).map(change)
    }

    /// Offsets of the 4 KiB pages of a file that were ever written; empty if there is no such file.
    pub fn written_pages(&self, name: &str) -> Vec<u64> {
        let state = self.lock();
        let Some(file) = state.names.get(name) else { return Vec::new() };
        state.files[file].written_pages().map(|page| page * PAGE_BYTES as u64).collect()
    }

    /// A hash of all that is on the disk: names, contents, and what is not synced. Equal for equal runs.
    pub fn fingerprint(&self) -> u64 {
        let state = self.lock();
        let files: Vec<_> = state.names.iter().map(|(name, file)| (name, state.files[file].fingerprint())).collect();
        xxh3_64(format!("{files:?} {:?} {:?}", state.durable_names, state.changes).as_bytes())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of a test inside a call leaves the state as consistent as the call left it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn stop_process(&mut self) {
        self.start += 1;
        self.power_cut_at = None;
        self.write_error_at = None;
        self.sync_error_at = None;
        self.read_error_at = None;
        self.directory_error_at = None;
    }

    fn drop_unnamed(&mut self) {
        let (names, durable) = (&self.names, &self.durable_names);
        self.files.retain(|file, _| names.values().chain(durable.values()).any(|named| named == file));
    }

    fn used_bytes(&self) -> u64 {
        self.files.values().map(FaultyFile::allocated_bytes).sum()
    }

    /// Counts a call and fails it if a fault is due.
    fn call(&mut self, call: Call) -> io::Result<()> {
        match call {
            Call::Write => self.calls.writes += 1,
            Call::Sync => self.calls.syncs += 1,
            Call::Directory => self.calls.directory += 1,
        }
        if self.power_cut_at.is_some_and(|at| self.calls.total() >= at) {
            return Err(io::Error::other("the power is off"));
        }
        let due = match call {
            Call::Write => self.write_error_at == Some(self.calls.writes),
            Call::Sync => self.sync_error_at == Some(self.calls.syncs),
            Call::Directory => self.directory_error_at == Some(self.calls.directory),
        };
        self.failures += u64::from(due);
        self.failed_syncs += u64::from(due && call == Call::Sync);
        if due { Err(io::Error::other("input/output error")) } else { Ok(()) }
    }

    fn link(&mut self, name: &str, file: FileId) {
        self.names.insert(name.to_owned(), file);
        self.changes.push(DirectoryChange::Link(name.to_owned(), file));
    }
}

fn apply(names: &mut BTreeMap<String, FileId>, change: DirectoryChange) {
    match change {
        DirectoryChange::Link(name, file) => {
            names.insert(name, file);
        }
        DirectoryChange::Unlink(name) => {
            names.remove(&name);
        }
        DirectoryChange::Rename { from, to, file } => {
            names.remove(&from);
            names.insert(to, file);
        }
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

impl Disk for FaultyDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn StorageBackend>> {
        let mut state = self.lock();
        let known = state.names.get(name).copied();
        let file = match (mode, known) {
            (OpenMode::Existing, None) => return Err(not_found(name)),
            (OpenMode::Existing, Some(file)) => file,
            (OpenMode::Fresh, Some(file)) => {
                state.call(Call::Write)?;
                state.files.get_mut(&file).expect("a name leads to a file").set_len(0);
                file
            }
            (OpenMode::Fresh, None) => {
                state.call(Call::Directory)?;
                let file = state.next_file;
                state.next_file += 1;
                state.files.insert(file, FaultyFile::default());
                state.link(name, file);
                file
            }
        };
        Ok(Box::new(Handle { disk: self.clone(), file, start: state.start }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        Ok(self.lock().names.contains_key(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.call(Call::Directory)?;
        state.names.remove(name).ok_or_else(|| not_found(name))?;
        state.changes.push(DirectoryChange::Unlink(name.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.call(Call::Directory)?;
        let file = state.names.remove(from).ok_or_else(|| not_found(from))?;
        state.names.insert(to.to_owned(), file);
        state.changes.push(DirectoryChange::Rename { from: from.to_owned(), to: to.to_owned(), file });
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.call(Call::Directory)?;
        state.durable_names = state.names.clone();
        state.changes.clear();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.lock();
        Ok(state.limit_bytes.map_or(u64::MAX, |limit| limit.saturating_sub(state.used_bytes())))
    }
}

/// An open file of one start of the process.
#[derive(Debug)]
struct Handle {
    disk: FaultyDisk,
    file: FileId,
    start: u64,
}

impl Handle {
    fn with<T>(&self, call: Option<Call>, run: impl FnOnce(&mut FaultyFile) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.lock();
        if state.start != self.start {
            return Err(io::Error::other("the process that opened this file is dead"));
        }
        if let Some(call) = call {
            state.call(call)?;
        }
        run(state.files.get_mut(&self.file).ok_or_else(|| not_found("of this handle"))?)
    }

    /// Refuses a write that does not fit; a write to pages that are there already always does.
    fn check_space(&self, offset: u64, len: usize) -> io::Result<()> {
        let state = self.disk.lock();
        let Some(limit) = state.limit_bytes else { return Ok(()) };
        let new_bytes = state.files.get(&self.file).map_or(0, |file| file.new_bytes(offset, len));
        if new_bytes > 0 && state.used_bytes() + new_bytes > limit {
            return Err(io::Error::new(io::ErrorKind::StorageFull, NO_SPACE));
        }
        Ok(())
    }
}

impl Drop for Handle {
    /// The space of a removed file comes back when its handle goes. Nothing here opens one file twice at a time.
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        let named = |names: &BTreeMap<String, FileId>| names.values().any(|file| *file == self.file);
        if state.start == self.start && !named(&state.names) && !named(&state.durable_names) {
            state.files.remove(&self.file);
        }
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        self.with(None, |file| Ok(file.len()))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.read_bytes += out.len() as u64;
        state.reads += 1;
        if state.read_error_at == Some(state.reads) {
            state.failures += 1;
            return Err(io::Error::other("input/output error"));
        }
        drop(state);
        self.with(None, |file| {
            if file.read(offset, out) {
                Ok(())
            } else {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "read past the end of the file"))
            }
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(Some(Call::Write), |file| {
            file.set_len(len);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.with(Some(Call::Sync), |file| {
            file.sync();
            Ok(())
        });
        if synced.is_err() && !self.disk.is_power_cut() {
            // A dead process' handle fails here, too, and has nothing to lose.
            let _ = self.with(None, |file| {
                file.fail_sync();
                Ok(())
            });
        }
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_space(offset, data.len())?;
        self.with(Some(Call::Write), |file| {
            file.write(offset, data);
            Ok(())
        })
    }
}
