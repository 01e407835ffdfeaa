//! One file of a [`super::FaultyDisk`]: sparse pages, and what a crash may do to them.
//!
//! Owns the contents and the list of what was done since the last sync. Costs of a write: the pages it touches; of
//! a sync: the pages touched since the last one; never the size of the file.
//!
//! Invariant: `current` is the synced image plus `pending`, in order; undoing `synced_pages` gives the synced image.

use std::collections::BTreeMap;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::faulty_disk::Choices;

pub(super) const PAGE_BYTES: usize = 4096;
/// A write is torn at this size: a sector is written whole or not at all.
const SECTOR_BYTES: usize = 512;

type Page = Arc<[u8; PAGE_BYTES]>;

/// Something done since the last sync.
#[derive(Debug, Clone)]
enum Pending {
    /// Bytes within one page, from `start` on.
    Write {
        page: u64,
        start: usize,
        data: Arc<[u8]>,
    },
    SetLen(u64),
}

/// What becomes of a file's unsynced writes. The extremes are as likely as the mixtures: a machine that loses power long
/// after a write has most often written it out, and one that dies at once has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Survival {
    None,
    All,
    Mixed,
}

#[derive(Debug, Default, Clone)]
pub(super) struct FaultyFile {
    pages: BTreeMap<u64, Page>,
    len: u64,
    pending: Vec<Pending>,
    /// What the pages touched since the last sync held at that sync. `None`: not there.
    synced_pages: BTreeMap<u64, Option<Page>>,
    synced_len: u64,
    /// Pages of a failed sync, as the medium still has them. They count as clean: only writing them again saves them.
    lost_pages: BTreeMap<u64, Option<Page>>,
    /// What the last sync that wrote a page replaced there.
    replaced_pages: BTreeMap<u64, Page>,
}

impl FaultyFile {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn allocated_bytes(&self) -> u64 {
        (self.pages.len() * PAGE_BYTES) as u64
    }

    /// Bytes the disk must find to store this write: pages that are not there yet.
    pub(super) fn new_bytes(&self, offset: u64, len: usize) -> u64 {
        let new_pages = spans(offset, len).filter(|(page, ..)| !self.pages.contains_key(page)).count();
        (new_pages * PAGE_BYTES) as u64
    }

    /// `false` if the range is beyond the end.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> bool {
        if offset + out.len() as u64 > self.len {
            return false;
        }
        for (page, start, within) in spans(offset, out.len()) {
            let part = &mut out[within.clone()];
            match self.pages.get(&page) {
                Some(bytes) => part.copy_from_slice(&bytes[start..start + within.len()]),
                None => part.fill(0),
            }
        }
        true
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for (page, start, within) in spans(offset, data.len()) {
            let part: Arc<[u8]> = data[within].into();
            self.remember(page);
            put(&mut self.pages, page, start, &part);
            self.pending.push(Pending::Write { page, start, data: part });
        }
        // Writing past the end extends a file; redb sets the length first, an index image does not.
        if offset + data.len() as u64 > self.len {
            self.len = offset + data.len() as u64;
            self.pending.push(Pending::SetLen(self.len));
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let cut: Vec<u64> = self.pages.range(len / PAGE_BYTES as u64..).map(|(page, _)| *page).collect();
        for page in cut {
            self.remember(page);
        }
        truncate(&mut self.pages, len);
        self.len = len;
        self.pending.push(Pending::SetLen(len));
    }

    /// A sync that fails: nothing of what it covered reaches the medium, and nobody remembers that it should.
    pub(super) fn fail_sync(&mut self) {
        self.pending.clear();
        for (page, on_medium) in std::mem::take(&mut self.synced_pages) {
            self.lost_pages.entry(page).or_insert(on_medium);
        }
        self.synced_len = self.len;
    }

    pub(super) fn sync(&mut self) {
        self.pending.clear();
        for (page, replaced) in std::mem::take(&mut self.synced_pages) {
            // A page is written out whole.
            self.lost_pages.remove(&page);
            if let Some(replaced) = replaced {
                self.replaced_pages.insert(page, replaced);
            }
        }
        self.synced_len = self.len;
    }

    /// Loses power: keeps the synced image and, of what came later, what `choices` keeps.
    ///
    /// Any subset of the writes may survive, each torn at sectors, which covers every order in which a disk may
    /// have written them out; lengths survive as a prefix, since a file system journals them in order.
    pub(super) fn crash(&mut self, choices: &mut dyn Choices) {
        let survival = match choices.below(4) {
            0 => Survival::None,
            1 => Survival::All,
            _ => Survival::Mixed,
        };
        let pending = std::mem::take(&mut self.pending);
        for (page, synced) in std::mem::take(&mut self.synced_pages) {
            match synced {
                Some(bytes) => self.pages.insert(page, bytes),
                None => self.pages.remove(&page),
            };
        }
        for (page, on_medium) in std::mem::take(&mut self.lost_pages) {
            match on_medium {
                Some(bytes) => self.pages.insert(page, bytes),
                None => self.pages.remove(&page),
            };
        }
        self.len = self.synced_len;
        let lengths = pending.iter().filter(|one| matches!(one, Pending::SetLen(_))).count();
        let mut lengths_kept = match survival {
            Survival::None => 0,
            Survival::All => lengths as u64,
            Survival::Mixed => choices.below(lengths as u64 + 1),
        };
        for one in pending {
            match one {
                Pending::SetLen(len) if lengths_kept > 0 => {
                    lengths_kept -= 1;
                    truncate(&mut self.pages, len);
                    self.len = len;
                }
                Pending::SetLen(_) => {}
                Pending::Write { page, start, data } => match survival {
                    Survival::None => {}
                    Survival::All => put(&mut self.pages, page, start, &data),
                    Survival::Mixed => self.crash_write(page, start, &data, choices),
                },
            }
        }
        truncate(&mut self.pages, self.len);
        self.synced_len = self.len;
    }

    fn crash_write(&mut self, page: u64, start: usize, data: &[u8], choices: &mut dyn Choices) {
        match choices.below(4) {
            0 => {}
            1 | 2 => put(&mut self.pages, page, start, data),
            _ => {
                let mut at = 0;
                while at < data.len() {
                    let sector_end = (start + at) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES;
                    let end = data.len().min(sector_end - start);
                    if choices.below(2) == 0 {
                        put(&mut self.pages, page, start + at, &data[at..end]);
                    }
                    at = end;
                }
            }
        }
    }

    /// Flips one bit on the medium, under whatever was synced or not.
    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) {
        let page = offset / PAGE_BYTES as u64;
        let at = (offset % PAGE_BYTES as u64) as usize;
        let mut bytes = self.pages.get(&page).map_or([0; PAGE_BYTES], |page| **page);
        bytes[at] ^= 1 << (bit % 8);
        self.pages.insert(page, Arc::new(bytes));
    }

    /// Zeroes the sector around `offset` on the medium.
    pub(super) fn zero_sector(&mut self, offset: u64) {
        let start = (offset % PAGE_BYTES as u64) as usize / SECTOR_BYTES * SECTOR_BYTES;
        put(&mut self.pages, offset / PAGE_BYTES as u64, start, &[0; SECTOR_BYTES]);
    }

    /// The newest version of a page never got there: the medium has the one before. False if there was none.
    pub(super) fn revert_page(&mut self, page: u64) -> bool {
        let Some(replaced) = self.replaced_pages.remove(&page) else { return false };
        self.pages.insert(page, replaced);
        true
    }

    /// The newest version of page `meant` went to page `hit`. False if either was never written.
    pub(super) fn misdirect(&mut self, meant: u64, hit: u64) -> bool {
        let Some(written) = self.pages.get(&meant).filter(|_| self.pages.contains_key(&hit)).cloned() else {
            return false;
        };
        if !self.revert_page(meant) {
            // It was written once: the medium has what a new page has.
            self.pages.insert(meant, Arc::new([0; PAGE_BYTES]));
        }
        self.pages.insert(hit, written);
        true
    }

    /// The numbers of the pages that were ever written.
    pub(super) fn written_pages(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.keys().copied()
    }

    /// A hash of the contents, and how much of them is not synced.
    pub(super) fn fingerprint(&self) -> (u64, u64, usize) {
        let mut hash = Xxh3::new();
        for (page, bytes) in &self.pages {
            hash.update(&page.to_le_bytes());
            hash.update(&bytes[..]);
        }
        (hash.digest(), self.len, self.pending.len())
    }

    fn remember(&mut self, page: u64) {
        let pages = &self.pages;
        self.synced_pages.entry(page).or_insert_with(|| pages.get(&page).cloned());
    }
}

/// The pages a range covers: page number, first byte within the page, and where that part lies in the buffer.
fn spans(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let start = (at % PAGE_BYTES as u64) as usize;
        let part = (PAGE_BYTES - start).min(len - done);
        let within = done..done + part;
        done += part;
        Some((at / PAGE_BYTES as u64, start, within))
    })
}

fn put(pages: &mut BTreeMap<u64, Page>, page: u64, start: usize, data: &[u8]) {
    let bytes = Arc::make_mut(pages.entry(page).or_insert_with(|| Arc::new([0; PAGE_BYTES])));
    bytes[start..start + data.len()].copy_from_slice(data);
}

/// Drops what lies at or beyond `len`; bytes there read as zero if the file grows again.
fn truncate(pages: &mut BTreeMap<u64, Page>, len: u64) {
    let first_gone = len.div_ceil(PAGE_BYTES as u64);
    drop(pages.split_off(&first_gone));
    let kept = (len % PAGE_BYTES as u64) as usize;
    if kept != 0
        && let Some(last) = pages.get_mut(&(len / PAGE_BYTES as u64))
    {
        Arc::make_mut(last)[kept..].fill(0);
    }
}
