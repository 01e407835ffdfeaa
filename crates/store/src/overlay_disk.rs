//! A disk over another one that is only read: what is written stays in memory.
//!
//! For looking at a stopped node's data. Opening a redb file after an unclean stop repairs it, which writes; with this
//! disk underneath, the code that opens, checks and replays is the node's own and the data stays as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::disk::{Disk, OpenMode};

const PAGE_BYTES: u64 = 4096;

/// The overlay. Dropping it drops all that was written.
#[derive(Debug)]
pub struct OverlayDisk {
    below: Arc<dyn Disk>,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    /// Files made or written here.
    files: BTreeMap<String, Arc<OverlayFile>>,
    /// Names below that are gone as seen from here.
    hidden: BTreeSet<String>,
}

impl OverlayDisk {
    /// An overlay without changes.
    pub fn new(below: Arc<dyn Disk>) -> Self {
        Self { below, names: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for OverlayDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn StorageBackend>> {
        let mut names = self.lock();
        if mode == OpenMode::Fresh {
            let file = Arc::new(OverlayFile::default());
            names.files.insert(name.to_owned(), file.clone());
            return Ok(Box::new(OverlayHandle(file)));
        }
        if let Some(file) = names.files.get(name) {
            return Ok(Box::new(OverlayHandle(file.clone())));
        }
        if names.hidden.contains(name) {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no file {name}")));
        }
        let file = Arc::new(OverlayFile::over(self.below.open(name, OpenMode::Existing)?)?);
        names.files.insert(name.to_owned(), file.clone());
        Ok(Box::new(OverlayHandle(file)))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        let names = self.lock();
        Ok(names.files.contains_key(name) || !names.hidden.contains(name) && self.below.exists(name)?)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = self.lock();
        let mut all: BTreeSet<String> =
            self.below.list()?.into_iter().filter(|name| !names.hidden.contains(name)).collect();
        all.extend(names.files.keys().cloned());
        Ok(all.into_iter().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut names = self.lock();
        names.files.remove(name);
        names.hidden.insert(name.to_owned());
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut names = self.lock();
        let file = names
            .files
            .remove(from)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no file {from}")))?;
        names.hidden.insert(from.to_owned());
        names.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

/// One file: the pages written here, over the file below.
#[derive(Debug, Default)]
pub(crate) struct OverlayFile {
    below: Option<Box<dyn StorageBackend>>,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    pages: BTreeMap<u64, Box<[u8]>>,
    len: u64,
    /// What of the file below still shows through: it shrinks when the file is cut, and never grows again.
    below_len: u64,
}

impl OverlayFile {
    /// Nothing is written yet.
    pub(crate) fn over(below: Box<dyn StorageBackend>) -> io::Result<OverlayFile> {
        let len = below.len()?;
        let written = Mutex::new(Written { pages: BTreeMap::new(), len, below_len: len });
        Ok(OverlayFile { below: Some(below), written })
    }

    /// Gives the file below what was written here, as far as `keeps` says so of a page, or of the length for `None`; the
    /// rest is lost.
    #[cfg(feature = "test-faults")]
    pub(crate) fn settle(&self, keeps: impl Fn(Option<u64>) -> bool) -> io::Result<()> {
        let mut written = self.lock();
        let Some(below) = &self.below else { return Ok(()) };
        if keeps(None) {
            // What was cut off and grown again is zero.
            if written.below_len < below.len()? {
                below.set_len(written.below_len)?;
            }
            below.set_len(written.len)?;
        }
        for (page, bytes) in std::mem::take(&mut written.pages) {
            let start = page * PAGE_BYTES;
            if keeps(Some(page)) && start < written.len {
                below.write(start, &bytes[..(written.len - start).min(PAGE_BYTES) as usize])?;
            }
        }
        written.len = below.len()?;
        written.below_len = written.len;
        Ok(())
    }

    /// Makes durable what the file below holds.
    #[cfg(feature = "test-faults")]
    pub(crate) fn sync_below(&self) -> io::Result<()> {
        self.below.as_ref().map_or(Ok(()), |below| below.sync_data())
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One page as it is now; bytes past the end are zero.
    fn page(&self, written: &Written, page: u64) -> io::Result<Box<[u8]>> {
        if let Some(bytes) = written.pages.get(&page) {
            return Ok(bytes.clone());
        }
        let mut bytes = vec![0; PAGE_BYTES as usize].into_boxed_slice();
        let start = page * PAGE_BYTES;
        let shown = written.below_len.saturating_sub(start).min(PAGE_BYTES) as usize;
        if let Some(below) = self.below.as_ref().filter(|_| shown > 0) {
            below.read(start, &mut bytes[..shown])?;
        }
        Ok(bytes)
    }
}

/// The part of a buffer that falls into each page: page number, start within it, and the range of the buffer.
fn parts(offset: u64, len: usize) -> Vec<(u64, usize, std::ops::Range<usize>)> {
    let mut parts = Vec::new();
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let start = (at % PAGE_BYTES) as usize;
        let part = (PAGE_BYTES as usize - start).min(len - done);
        parts.push((at / PAGE_BYTES, start, done..done + part));
        done += part;
    }
    parts
}

#[derive(Debug)]
pub(crate) struct OverlayHandle(pub(crate) Arc<OverlayFile>);

impl StorageBackend for OverlayHandle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.0.lock();
        if offset + out.len() as u64 > written.len {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "read past the end of the file"));
        }
        for (page, start, within) in parts(offset, out.len()) {
            let len = within.len();
            out[within].copy_from_slice(&self.0.page(&written, page)?[start..start + len]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.0.lock();
        let kept = len % PAGE_BYTES;
        if len < written.len && kept != 0 {
            let mut last = self.0.page(&written, len / PAGE_BYTES)?;
            last[kept as usize..].fill(0);
            written.pages.insert(len / PAGE_BYTES, last);
        }
        written.pages.split_off(&len.div_ceil(PAGE_BYTES));
        written.below_len = written.below_len.min(len);
        written.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.0.lock();
        for (page, start, within) in parts(offset, data.len()) {
            let mut bytes = self.0.page(&written, page)?;
            bytes[start..start + within.len()].copy_from_slice(&data[within]);
            written.pages.insert(page, bytes);
        }
        written.len = written.len.max(offset + data.len() as u64);
        Ok(())
    }
}
