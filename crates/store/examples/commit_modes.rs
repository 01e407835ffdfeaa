//! Prints what one redb commit costs: syncs, writes, bytes and time, by mode and batch.
//!
//! `cargo run --release -p quorate-store --example commit_modes [DIRECTORY]`. The choice that follows from it stands in
//! `database.rs`: the log commits with one sync, the state without any, and its checkpoints with quick repair.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate_store::{Disk, OpenMode, RealDisk};
use redb::{Builder, Database, Durability, StorageBackend, TableDefinition};

const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const ROWS_BEFORE: u64 = 20_000;
const ENTRY: [u8; 256] = [7; 256];
const COMMITS: usize = 200;

#[derive(Debug, Clone, Copy)]
enum Mode {
    Immediate,
    TwoPhase,
    QuickRepair,
    None,
}

#[derive(Debug, Default)]
struct Counts {
    syncs: AtomicU64,
    writes: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    fn take(&self) -> [u64; 3] {
        [&self.syncs, &self.writes, &self.bytes].map(|count| count.swap(0, Ordering::Relaxed))
    }
}

#[derive(Debug)]
struct Counted(Box<dyn StorageBackend>, Arc<Counts>);

impl StorageBackend for Counted {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.syncs.fetch_add(1, Ordering::Relaxed);
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.1.writes.fetch_add(1, Ordering::Relaxed);
        self.1.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.0.write(offset, data)
    }
}

fn append(database: &Database, mode: Mode, first: u64, count: u64) -> Result<(), Box<dyn std::error::Error>> {
    let mut transaction = database.begin_write()?;
    match mode {
        Mode::Immediate => {}
        Mode::TwoPhase => transaction.set_two_phase_commit(true),
        Mode::QuickRepair => transaction.set_quick_repair(true),
        Mode::None => transaction.set_durability(Durability::None)?,
    }
    {
        let mut table = transaction.open_table(LOG)?;
        let mut cursor = table.upper_bound_mut(Bound::<u64>::Unbounded)?;
        for index in first..first + count {
            cursor.insert_before(index, &ENTRY[..])?;
        }
        cursor.close()?;
        transaction.open_table(META)?.insert("hard state", &ENTRY[..32])?;
    }
    transaction.commit()?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let temporary = tempfile::tempdir()?;
    let directory = std::env::args().nth(1).map_or(temporary.path().to_owned(), Into::into);
    let disk = RealDisk::new(directory)?;
    println!("| mode | entries | syncs | writes | bytes | p50 us | p99 us |\n|---|---|---|---|---|---|---|");
    for mode in [Mode::Immediate, Mode::TwoPhase, Mode::QuickRepair, Mode::None] {
        for count in [1, 64, 512] {
            let counts = Arc::new(Counts::default());
            let file = Counted(disk.open("commit-modes.redb", OpenMode::Fresh)?, counts.clone());
            let database = Builder::new().set_cache_size(16 << 20).create_with_backend(file)?;
            append(&database, Mode::Immediate, 0, ROWS_BEFORE)?;
            counts.take();
            let mut times = Vec::with_capacity(COMMITS);
            for commit in 0..COMMITS as u64 {
                let start = Instant::now();
                append(&database, mode, ROWS_BEFORE + commit * count, count)?;
                times.push(start.elapsed());
            }
            let [syncs, writes, bytes] = counts.take().map(|total| total as f64 / COMMITS as f64);
            times.sort();
            let micros = |time: Duration| time.as_micros();
            let (p50, p99) = (micros(times[COMMITS / 2]), micros(times[COMMITS * 99 / 100]));
            println!("| {mode:?} | {count} | {syncs:.2} | {writes:.1} | {bytes:.0} | {p50} | {p99} |");
        }
    }
    disk.remove("commit-modes.redb")?;
    Ok(())
}
