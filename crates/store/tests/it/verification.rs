//! Verification of open files: whatever decays in any table is found, and sound files pass.

use std::sync::Arc;

use bytes::Bytes;
use quorate_kv::auth::AuthCommand;
use quorate_kv::{Actor, Command, CompactRequest, PutRequest, Revision};
use quorate_raft::{Entry, Incarnation, LogIndex, Member, Membership, NodeId, Payload, Term};
use quorate_store::testing::FaultyDisk;
use quorate_store::{
    Disk, LOG_FILE, LogOptions, OpenError, OpenMode, OpenedStores, ReadError, STATE_FILE, SnapshotError, StateOptions,
    StatePlace, StateStore, StoreOptions,
};
use quorate_wire::{Envelope, encode_envelope};

use crate::fixture::{CLUSTER, INCARNATION, identity, write};

/// Bytes that stand in one kind of row alone.
const NAME_OF_MEMBER: &str = "a-member-like-no-other";
const VALUE: &str = "a-value-like-no-other";
const USER: &str = "a-user-like-no-other";
/// More than there is to verify.
const MAX_STEPS: u32 = 10_000;
/// Bytes of a page of redb.
const PAGE_BYTES: usize = 4096;

fn command(index: u64, command: Command) -> Entry {
    let envelope =
        Envelope { origin: NodeId(1), incarnation: Incarnation(3), sequence: index, actor: Actor::Node, command };
    Entry { term: Term(1), index: LogIndex(index), payload: Payload::Command(encode_envelope(&envelope)) }
}

/// Files with something in each table, open, and without a cache: every read comes from the disk.
fn open_stores(disk: &FaultyDisk) -> OpenedStores {
    let options = StoreOptions {
        log: LogOptions { cache_bytes: 0, ..LogOptions::default() },
        state: StateOptions { cache_bytes: 0, ..StateOptions::default() },
    };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut stores = options.open(&shared, INCARNATION).expect("empty");
    let member = Member { incarnation: INCARNATION, name: NAME_OF_MEMBER.to_owned(), ..Member::default() };
    let id = identity().node_id;
    let membership = Arc::new(Membership {
        voters: [id].into(),
        members: [(id, member)].into(),
        cluster_version: 1,
        ..Membership::default()
    });
    stores.log.bootstrap(identity(), membership.clone()).expect("no fault");
    stores.state.set_cluster_id(CLUSTER).expect("no fault");
    let put =
        PutRequest { key: Bytes::from_static(b"k"), value: Bytes::from_static(VALUE.as_bytes()), ..Default::default() };
    let user = AuthCommand::UserAdd { name: USER.to_owned(), password: Default::default() };
    let entries = vec![
        Entry { term: Term(1), index: LogIndex(1), payload: Payload::Membership(membership) },
        command(2, Command::Put(put)),
        command(3, Command::Auth(user)),
    ];
    stores.log.append(&[write(entries.clone())]).expect("no fault");
    stores.state.apply(&entries).expect("no fault");
    stores.state.checkpoint().expect("no fault");
    stores
}

/// Both files, in steps as small as they come.
fn verify(stores: &OpenedStores) -> Result<(), ReadError> {
    let (mut place, mut steps) = (Some(StatePlace::START), 0);
    while let Some(from) = place {
        place = stores.state.view().verify(from, 1)?.1;
        steps += 1;
        assert!(steps < MAX_STEPS, "the verification of so little has no end");
    }
    let (mut place, mut steps) = (Some(LogIndex(0)), 0);
    while let Some(from) = place {
        place = stores.log.reader().verify(from, 1)?.1;
        steps += 1;
        assert!(steps < MAX_STEPS, "the verification of so little has no end");
    }
    Ok(())
}

fn bytes_of(disk: &FaultyDisk, file: &str) -> Vec<u8> {
    let backend = disk.open(file, OpenMode::Existing).expect("there");
    let mut bytes = vec![0; backend.len().expect("no fault") as usize];
    backend.read(0, &mut bytes).expect("no fault");
    bytes
}

/// Flips a bit in every copy of `text` in a file.
fn rot(disk: &FaultyDisk, file: &str, text: &str) {
    let bytes = bytes_of(disk, file);
    let places = (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text.as_bytes()));
    let places: Vec<usize> = places.collect();
    assert!(!places.is_empty(), "{text} is not in {file}");
    places.iter().for_each(|at| disk.flip_bit(file, *at as u64, 0));
}

#[test]
fn sound_files_pass() {
    let disk = FaultyDisk::new();
    verify(&open_stores(&disk)).expect("sound");
}

#[test]
fn a_file_that_is_noise_behind_its_header_is_damaged_and_ends_nobody() {
    for file in [STATE_FILE, LOG_FILE] {
        for noise in [0xA5, 0x00, 0x01, 0xFF] {
            let disk = FaultyDisk::new();
            drop(open_stores(&disk));
            let backend = disk.open(file, OpenMode::Existing).expect("there");
            let length = backend.len().expect("no fault") as usize;
            backend.write(4096, &vec![noise; length - 4096]).expect("no fault");
            backend.close().expect("no fault");
            let opening = StoreOptions::default().open(&(Arc::new(disk) as Arc<dyn Disk>), Incarnation(1));
            let error = opening.err().unwrap_or_else(|| panic!("{file} of {noise:#x} opened"));
            assert!(matches!(error, OpenError::Damaged { .. }), "{file} of {noise:#x}: {error:?}");
        }
    }
}

#[test]
fn decay_in_any_table_of_an_open_file_is_found() {
    for (file, text, row) in [
        (STATE_FILE, VALUE, "record"),
        (STATE_FILE, USER, "row"),
        (STATE_FILE, NAME_OF_MEMBER, "`membership`"),
        (LOG_FILE, VALUE, "entry 2"),
        (LOG_FILE, USER, "entry 3"),
        (LOG_FILE, NAME_OF_MEMBER, "`base`"),
    ] {
        let disk = FaultyDisk::new();
        let stores = open_stores(&disk);
        rot(&disk, file, text);
        let error = verify(&stores).expect_err(text).to_string();
        assert!(error.contains(row), "{text} in {file}: {error}");
    }
}

/// An image is read record by record, and whoever gets it seals it anew: what is rotten would be spread as sound.
#[test]
fn a_state_with_a_rotten_record_or_row_gives_no_image() {
    for (text, found) in [(VALUE, "record"), (USER, "the row")] {
        let disk = FaultyDisk::new();
        let stores = open_stores(&disk);
        let image = || -> Result<Vec<Bytes>, SnapshotError> { Ok(stores.state.snapshot()?.collect::<Result<_, _>>()?) };
        image().expect("sound");
        rot(&disk, STATE_FILE, text);
        let error = image().expect_err(text).to_string();
        assert!(error.contains(found) && error.contains("fails its checksum"), "{text}: {error}");
    }
}

#[test]
fn decay_of_what_the_log_says_of_its_base_is_found() {
    let disk = FaultyDisk::new();
    let mut stores = open_stores(&disk);
    // Only the row `base` holds the configuration then.
    while stores.log.truncate_prefix(LogIndex(2)).expect("no fault") {}
    rot(&disk, LOG_FILE, NAME_OF_MEMBER);
    let error = verify(&stores).expect_err("the row `base` is rotten").to_string();
    assert!(error.contains("`base`"), "{error}");
}

/// A thousand entries, each with a value of its own, of 80 bytes and more, on a hundred keys in turn.
fn open_large_stores(disk: &FaultyDisk) -> OpenedStores {
    let mut stores = open_stores(disk);
    let value = |index: u64| format!("value-{index:05}-{}", "x".repeat(80));
    let entries = (4..1000).map(|index| {
        let key = format!("k{:02}", index % 100).into();
        command(index, Command::Put(PutRequest { key, value: value(index).into(), ..Default::default() }))
    });
    let entries: Vec<Entry> = entries.collect();
    stores.log.append(&[write(entries.clone())]).expect("no fault");
    stores.state.apply(&entries).expect("no fault");
    stores.state.checkpoint().expect("no fault");
    stores
}

/// Every page is sound by itself, and a reader that goes on after the last key it saw would come by the old ones for ever.
#[test]
fn a_page_of_others_in_the_place_of_a_page_is_found() {
    let (early, late) = ("value-00200-", "value-00800-");
    for (file, stray, hit, found) in [
        (STATE_FILE, early, late, "stands out of order"),
        (LOG_FILE, early, late, "stands in the place of entry"),
        (LOG_FILE, late, early, "stands in the place of entry"),
    ] {
        let disk = FaultyDisk::new();
        let stores = open_large_stores(&disk);
        verify(&stores).expect("sound");

        let bytes = bytes_of(&disk, file);
        let page_of = |text: &str| {
            let mut pages = bytes.chunks(PAGE_BYTES).enumerate().filter(|(_, page)| holds(page, text.as_bytes()));
            let page = pages.next().expect("it was stored");
            assert!(pages.next().is_none(), "{text} is stored once");
            page
        };
        let ((_, page), (place, _)) = (page_of(stray), page_of(hit));
        let backend = disk.open(file, OpenMode::Existing).expect("there");
        backend.write((place * PAGE_BYTES) as u64, page).expect("no fault");

        let error = verify(&stores).expect_err("the order is broken").to_string();
        assert!(error.contains(found), "{file}, {stray} in the place of {hit}: {error}");
        if file == LOG_FILE {
            let missing = if hit == late { 800 } else { 200 };
            assert_unreadable(&stores, 1..=999, found);
            // Those that stand there may all lie beyond the range.
            assert_unreadable(&stores, missing..=missing + 199, "is damaged: entry");
        }
    }
}

/// Lets the last page of a table of `file` go back to what it was before `change`: what is left is sound, and in order.
fn take_back_last_page(disk: &FaultyDisk, file: &str, change: impl FnOnce()) {
    let is_last = |page: &&[u8]| holds(page, b"value-00999-");
    let before = bytes_of(disk, file);
    let old = before.chunks(PAGE_BYTES).find(is_last).expect("it was stored");
    change();
    let backend = disk.open(file, OpenMode::Existing).expect("there");
    // Wherever the page lies now.
    for (place, page) in bytes_of(disk, file).chunks(PAGE_BYTES).enumerate() {
        if is_last(&page) {
            backend.write((place * PAGE_BYTES) as u64, old).expect("no fault");
        }
    }
}

/// Of a key in the midst of all.
fn last_entry() -> Entry {
    command(1000, Command::Put(PutRequest { key: "k50".into(), ..Default::default() }))
}

#[test]
fn a_last_page_that_went_back_takes_committed_entries_with_it_and_is_found() {
    let disk = FaultyDisk::new();
    let mut stores = open_large_stores(&disk);
    take_back_last_page(&disk, LOG_FILE, || {
        stores.log.append(&[write(vec![last_entry()])]).expect("no fault");
    });
    let error = verify(&stores).expect_err("the last entry is gone").to_string();
    assert!(error.contains("entry 1000 is missing"), "{error}");

    // Nor is it the end of the log to whoever reads for a follower, and would ask again for ever.
    assert_unreadable(&stores, 1000..=1000, "entry 1000 is missing");
    assert_unreadable(&stores, 500..=2000, "entry 1000 is missing");
    let mut seen = 0;
    let count = |_| {
        seen += 1;
        true
    };
    stores.log.reader().visit(LogIndex(500)..=LogIndex(998), count).expect("these are all there");
    assert_eq!(seen, 499);
}

/// No reader is given a part of these entries for all of them.
#[track_caller]
fn assert_unreadable(stores: &OpenedStores, range: std::ops::RangeInclusive<u64>, found: &str) {
    let (first, last) = (LogIndex(*range.start()), LogIndex(*range.end()));
    let error = stores.log.entries(first, usize::MAX).expect_err("entries from there on").to_string();
    assert!(error.contains(found), "{error}");
    let error = stores.log.reader().visit(first..=last, |_| true).expect_err("entries up to there").to_string();
    assert!(error.contains(found), "{error}");
}

#[test]
fn a_last_page_that_went_back_takes_records_with_it_and_is_found_before_anyone_believes_the_rest() {
    let disk = FaultyDisk::new();
    let mut stores = open_large_stores(&disk);
    take_back_last_page(&disk, STATE_FILE, || {
        stores.log.append(&[write(vec![last_entry()])]).expect("no fault");
        stores.state.apply(&[last_entry()]).expect("no fault");
        stores.state.checkpoint().expect("no fault");
    });
    let error = verify(&stores).expect_err("the last record is gone").to_string();
    assert!(error.contains("is in the key index, but not in the file"), "{error}");

    let image: Result<Vec<Bytes>, ReadError> = stores.state.snapshot().expect("of a cluster").collect();
    let error = image.expect_err("it would pass for whole").to_string();
    assert!(error.contains("an image of it has 997 records, and 998 are stored"), "{error}");

    drop(stores);
    let opening = StoreOptions::default().open(&(Arc::new(disk) as Arc<dyn Disk>), Incarnation(1));
    let error = opening.expect_err("the file lacks a record");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains("it holds 997 records, and 998 were stored"), "{error}");
}

/// The index of such a start names records that went after its image was made.
#[test]
fn a_compacted_file_is_sound_after_a_start_from_an_older_image() {
    let disk = FaultyDisk::new();
    let mut stores = open_large_stores(&disk);
    stores.state.view().write_index_image().expect("no fault");
    let compact = command(1000, Command::Compact(CompactRequest { revision: 500, physical: false }));
    stores.log.append(&[write(vec![compact.clone()])]).expect("no fault");
    stores.state.apply(&[compact]).expect("no fault");
    while stores.state.compact_step(100).expect("no fault") {}
    stores.state.checkpoint().expect("no fault");
    drop(stores);

    let stores = StoreOptions::default().open(&(Arc::new(disk) as Arc<dyn Disk>), Incarnation(1)).expect("sound");
    assert_eq!(stores.state.stats().totals.count, 599, "what compaction hides is gone");
    assert_eq!(stores.state.view().pruned(), Revision::NEVER_COMPACTED, "the index is that of the image");
    verify(&stores).expect("sound");
}

/// The key index names a record then that is not in the file yet.
#[test]
fn a_sound_file_passes_while_a_batch_is_on_its_way() {
    let disk = FaultyDisk::new();
    let mut stores = open_large_stores(&disk);
    let mut looked = false;
    let look = |state: &StateStore| {
        let mut place = Some(StatePlace::START);
        while let Some(from) = place {
            place = state.view().verify(from, 1).expect("sound").1;
        }
        looked = true;
    };
    stores.state.apply_seen(&[last_entry()], look).expect("no fault");
    assert!(looked);
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|part| part == text)
}
