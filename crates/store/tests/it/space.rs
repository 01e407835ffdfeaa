//! Space is used again: neither file grows under steady load.

use bytes::Bytes;
use quorate_kv::{Command, CompactRequest, PutRequest};
use quorate_raft::{Entry, HardState, Incarnation, LogIndex, NodeId, Payload, Term};
use quorate_store::testing::FaultyDisk;
use quorate_store::{LogStore, LogWrite, OpenedStores, StateStore};
use quorate_wire::{Envelope, encode_envelope};

use crate::fixture::{INCARNATION, entries, member, options, write};

pub(crate) fn command(index: u64, command: Command) -> Entry {
    let envelope = Envelope {
        origin: NodeId(1),
        incarnation: Incarnation(3),
        sequence: index,
        actor: quorate_kv::Actor::Anonymous,
        command,
    };
    Entry { term: Term(1), index: LogIndex(index), payload: Payload::Command(encode_envelope(&envelope)) }
}

fn put(index: u64) -> Entry {
    let key = Bytes::from(format!("key-{:03}", index % 500));
    command(index, Command::Put(PutRequest { key, value: vec![index as u8; 256].into(), ..PutRequest::default() }))
}

#[test]
fn the_log_stays_small_while_it_is_cut_behind_the_writes() {
    let disk = FaultyDisk::new();
    let (mut log, _) = LogStore::open(std::sync::Arc::new(disk.clone()), INCARNATION, options().log).expect("empty");
    let mut lengths = Vec::new();
    for batch in 0..600_u64 {
        let entries: Vec<Entry> = (batch * 32 + 1..=batch * 32 + 32).map(put).collect();
        let commit = LogIndex(batch * 32 + 32);
        log.append(&[LogWrite {
            hard_state: HardState { term: Term(1), vote: None, commit, ..HardState::default() },
            entries,
        }])
        .expect("no fault");
        if batch >= 60 && batch % 20 == 0 {
            while log.truncate_prefix(LogIndex(commit.0 - 1500)).expect("no fault") {}
        }
        lengths.push(log.stats().file.len_bytes);
    }
    assert_eq!(lengths[150], lengths[599], "the file grew from {} to {} bytes", lengths[150], lengths[599]);
}

#[test]
fn the_state_stays_small_while_its_history_is_compacted() {
    let disk = FaultyDisk::new();
    let mut node = member(&disk);
    let mut lengths = Vec::new();
    let mut index = 0;
    for round in 0..120 {
        let mut entries: Vec<Entry> = (0..200)
            .map(|_| {
                index += 1;
                put(index)
            })
            .collect();
        index += 1;
        let revision = node.state.view().revision().0 + 200;
        entries.push(command(index, Command::Compact(CompactRequest { revision, physical: false })));
        node.state.apply(&entries).expect("no fault");
        while node.state.compact_step(64).expect("no fault") {}
        if round % 2 == 0 {
            node.state.checkpoint().expect("no fault");
        }
        lengths.push(node.state.stats().file.len_bytes);
    }
    assert_eq!(node.state.stats().totals.count, 500, "one record a key is left");
    assert_eq!(lengths[40], lengths[119], "the file grew from {} to {} bytes", lengths[40], lengths[119]);
    let allocated = node.state.measure_allocated_bytes().expect("no fault");
    assert!(allocated < lengths[119], "{allocated} bytes of pages in {} bytes", lengths[119]);
}

/// A clean stop leaves an image of the index, and the next start reads no record that it covers.
#[test]
fn a_start_after_a_clean_stop_reads_the_index_image() {
    let disk = FaultyDisk::new();
    let mut node = member(&disk);
    node.state.apply(&(1..=2000).map(put).collect::<Vec<_>>()).expect("no fault");
    node.state.view().write_index_image().expect("no fault");
    node.state.apply(&(2001..=2010).map(put).collect::<Vec<_>>()).expect("no fault");
    node.state.checkpoint().expect("no fault");
    let keys = node.state.view().key_count();
    let digest = node.state.view().digest();
    let record_bytes = node.state.stats().totals.bytes;
    drop(node);

    let with_image = read_bytes_of_open(&disk, keys, digest);
    // A damaged image is as good as none.
    disk.flip_bit("index.image", 200, 3);
    let without_image = read_bytes_of_open(&disk, keys, digest);
    // What redb itself reads, all of the file in a debug build, is the same in both.
    let records_read = without_image - with_image;
    assert!(records_read > record_bytes * 3 / 4, "{records_read} of {record_bytes} bytes less read with the image");
}

fn read_bytes_of_open(disk: &FaultyDisk, keys: usize, digest: (LogIndex, quorate_kv::Digest)) -> u64 {
    let before = disk.read_bytes();
    let state = StateStore::open(std::sync::Arc::new(disk.clone()), options().state).expect("sound");
    assert_eq!((state.view().key_count(), state.view().digest()), (keys, digest));
    state.check();
    drop(state);
    disk.read_bytes() - before
}

/// One row a batch would fill megabytes with what nobody asks for any more.
#[test]
fn revisions_of_entries_go_with_the_entries_when_no_crash_can_bring_those_back() {
    let disk = FaultyDisk::new();
    let mut stores = member(&disk);
    let add = |stores: &mut OpenedStores, first: u64| {
        let batch = entries(7, first..=first + 9);
        stores.log.append(&[write(batch.clone())]).expect("no fault");
        stores.state.apply(&batch).expect("no fault");
    };
    let oldest = |stores: &OpenedStores| {
        let revisions = stores.state.view().applied_revisions().expect("no fault");
        *revisions.first_key_value().expect("some were applied").0
    };
    (0..10).for_each(|batch| add(&mut stores, batch * 10 + 1));
    assert_eq!(oldest(&stores), LogIndex(1));
    while stores.log.truncate_prefix(LogIndex(55)).expect("no fault") {}
    stores.state.apply(&[]).expect("no fault");
    // What comes with the next batch is not durable yet either.
    let batch = entries(7, 101..=110);
    stores.state.apply(&batch).expect("no fault");
    stores.state.checkpoint().expect("no fault");
    assert_eq!(oldest(&stores), LogIndex(1), "a crash now brings the entries back");
    stores.log.append(&[write(batch)]).expect("no fault");
    (11..13).for_each(|batch| add(&mut stores, batch * 10 + 1));
    assert_eq!(oldest(&stores), LogIndex(51), "entry 56 is in the row that begins at 51");
}
