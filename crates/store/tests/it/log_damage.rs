//! A log that cannot be trusted is refused with a diagnosis, and left as it is.

use std::sync::Arc;

use bytes::Bytes;
use quorate_raft::{Entry, HardState, Incarnation, LogIndex, Payload, Term};
use quorate_store::testing::{Choices, FaultyDisk};
use quorate_store::{Disk, LOG_FILE, LogOptions, LogStore, LogWrite, OpenError, OpenMode};
use redb::{Builder, Database, ReadableTable, TableDefinition};

use crate::dice::Dice;

const ENTRIES: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

fn open(disk: &FaultyDisk) -> Result<LogStore, OpenError> {
    LogStore::open(Arc::new(disk.clone()), Incarnation(7), LogOptions::default()).map(|(log, _)| log)
}

/// A disk with a log of a hundred entries, cleanly closed.
fn disk_with_log() -> FaultyDisk {
    let disk = FaultyDisk::new();
    let mut log = open(&disk).expect("empty");
    let entries = (1..=100).map(|index| Entry {
        term: Term(1 + index / 50),
        index: LogIndex(index),
        payload: Payload::Command(Bytes::from(vec![index as u8; 200])),
    });
    let hard_state = HardState { term: Term(3), vote: None, commit: LogIndex(90), ..HardState::default() };
    log.append(&[LogWrite { hard_state, entries: entries.collect() }]).expect("no fault");
    drop(log);
    disk
}

fn tamper(disk: &FaultyDisk, change: impl FnOnce(&redb::WriteTransaction)) {
    tamper_with(disk, LOG_FILE, change);
}

/// Changes the tables of a file behind the store's back.
pub(crate) fn tamper_with(disk: &FaultyDisk, file: &str, change: impl FnOnce(&redb::WriteTransaction)) {
    let file = disk.open(file, OpenMode::Existing).expect("there");
    let database: Database = Builder::new().create_with_backend(Passed(file)).expect("sound");
    let transaction = database.begin_write().expect("idle");
    change(&transaction);
    transaction.commit().expect("no fault");
}

#[derive(Debug)]
struct Passed(Box<dyn redb::StorageBackend>);

impl redb::StorageBackend for Passed {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }
}

#[track_caller]
fn assert_refused(disk: &FaultyDisk, diagnosis: &str) {
    let error = open(disk).expect_err("a damaged log is refused").to_string();
    assert!(error.contains(diagnosis), "{error}");
    assert!(error.contains("quorate ctl reset"), "says what to do: {error}");
    let again = open(disk).expect_err("and not healed by the attempt").to_string();
    assert_eq!(again, error);
}

#[test]
fn a_missing_entry_is_refused() {
    let disk = disk_with_log();
    tamper(&disk, |transaction| {
        transaction.open_table(ENTRIES).expect("there").remove(40).expect("no fault");
    });
    assert_refused(&disk, "entry 40 is missing");
}

#[test]
fn a_lost_tail_below_the_commit_index_is_refused() {
    let disk = disk_with_log();
    tamper(&disk, |transaction| {
        transaction.open_table(ENTRIES).expect("there").retain(|index, _| index < 80).expect("no fault");
    });
    assert_refused(&disk, "entries up to 90 are known to be committed, but the last one is 79");
}

/// Entries after the commit index may have been cut off by a leader.
#[test]
fn a_log_may_end_after_the_commit_index() {
    let log = open(&disk_with_log()).expect("sound");
    assert_eq!(indexes(&log, 96), 96..101);
    assert_eq!(indexes(&log, 101), 0..0);
    assert_eq!(indexes(&log, 500), 0..0);
}

/// Whoever reads a follower's entries in steps may find that the next ones went meanwhile.
#[test]
fn a_front_that_goes_between_two_readings_is_no_damage() {
    let mut log = open(&disk_with_log()).expect("sound");
    let reader = log.reader();
    let step = reader.entries(LogIndex(1), 1000).expect("sound");
    let next = step.last().expect("at least one").index.next();
    assert!(next < LogIndex(50), "{next}");
    while log.truncate_prefix(LogIndex(50)).expect("no fault") {}
    for gone in [LogIndex(0), next, LogIndex(50)] {
        assert_eq!(reader.entries(gone, usize::MAX).expect("not in the log any more"), []);
        reader.visit(gone..=LogIndex(90), |entry| panic!("{}", entry.index)).expect("not in the log any more");
    }
    assert_eq!(indexes(&log, 51), 51..101);
}

/// The indexes of what a reader gets from `from` on, which follow one another.
fn indexes(log: &LogStore, from: u64) -> std::ops::Range<u64> {
    let entries = log.entries(LogIndex(from), usize::MAX).expect("sound");
    let first = entries.first().map_or(0, |entry| entry.index.0);
    assert!(entries.iter().map(|entry| entry.index.0).eq(first..first + entries.len() as u64));
    first..first + entries.len() as u64
}

#[test]
fn an_entry_under_another_index_is_refused() {
    let disk = disk_with_log();
    tamper(&disk, |transaction| {
        let mut table = transaction.open_table(ENTRIES).expect("there");
        let moved = table.get(10).expect("no fault").expect("there").value().to_vec();
        table.insert(11, moved.as_slice()).expect("no fault");
    });
    assert_refused(&disk, "entry 11");
}

#[test]
fn a_damaged_last_entry_is_not_taken_for_a_torn_tail() {
    let disk = disk_with_log();
    tamper(&disk, |transaction| {
        let mut table = transaction.open_table(ENTRIES).expect("there");
        let mut record = table.get(100).expect("no fault").expect("there").value().to_vec();
        *record.last_mut().expect("not empty") ^= 1;
        table.insert(100, record.as_slice()).expect("no fault");
    });
    assert_refused(&disk, "entry 100");
}

#[test]
fn a_later_format_is_named_with_both_versions() {
    let disk = disk_with_log();
    tamper(&disk, |transaction| {
        let mut row = [0; 12];
        row[8] = 9;
        let checksum = {
            use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};
            xxh3_64_with_seed(&row[8..], xxh3_64(b"format"))
        };
        row[..8].copy_from_slice(&checksum.to_le_bytes());
        transaction.open_table(META).expect("there").insert("format", &row[..]).expect("no fault");
    });
    let error = open(&disk).expect_err("unknown format");
    assert!(matches!(error, OpenError::NewerFormat { found: 9, supported: 1, .. }), "{error}");
}

#[test]
fn an_emptied_file_is_not_taken_for_a_new_one() {
    let disk = disk_with_log();
    disk.open(LOG_FILE, OpenMode::Fresh).expect("there");
    assert_refused(&disk, "do not begin as a database does");
}

/// Decay of the medium: whatever bit flips, the log is refused, or every entry is as it was.
#[test]
fn a_flipped_bit_is_refused_or_harmless() {
    let sound = open(&disk_with_log()).expect("sound").entries(LogIndex(1), usize::MAX).expect("sound");
    let mut dice = Dice::new(11);
    let mut refused = 0;
    for _ in 0..400 {
        let disk = disk_with_log();
        let pages = disk.written_pages(LOG_FILE);
        let page = pages[dice.below(pages.len() as u64) as usize];
        disk.flip_bit(LOG_FILE, page + dice.below(4096), dice.below(8) as u8);
        // redb asserts in debug builds where a release build reports damage; either way nothing is served.
        let opened = std::panic::catch_unwind(|| match open(&disk) {
            Ok(log) => log.entries(LogIndex(1), usize::MAX).ok(),
            Err(_) => None,
        });
        match opened {
            Ok(Some(entries)) => assert_eq!(entries, sound),
            Ok(None) | Err(_) => refused += 1,
        }
    }
    assert!(refused > 50, "{refused}");
}
