//! Images of the state: consistent while writes go on, and taken in only if whole and of this cluster.

use std::sync::Arc;

use bytes::Bytes;
use quorate_kv::{Command, CompactRequest, PutRequest};
use quorate_raft::{Entry, Incarnation, LogIndex, NodeId, Payload, Term};
use quorate_store::testing::{Choices, FaultyDisk};
use quorate_store::{
    Disk, OpenMode, ReadError, STATE_FILE, SnapshotError, StateOptions, StateStore, StoreOptions, WriteError,
};
use quorate_wire::{Envelope, encode_envelope};

use crate::dice::Dice;
use crate::fixture::{CLUSTER, INCARNATION, Reference, entries, entry, member, options, write};
use crate::space::command;

/// The file of an image on its way in.
const IN_THE_MAKING: &str = "state.new";

pub(crate) fn image(state: &StateStore) -> Vec<Bytes> {
    state.snapshot().expect("a member").collect::<Result<_, ReadError>>().expect("sound")
}

/// What a member of [`CLUSTER`] sends that has applied 120 entries.
fn image_of_120() -> Vec<Bytes> {
    let mut sender = member(&FaultyDisk::new());
    sender.state.apply(&entries(5, 1..=120)).expect("no fault");
    image(&sender.state)
}

pub(crate) fn compaction(index: u64, revision: i64) -> Entry {
    let payload = Payload::Command(encode_envelope(&Envelope {
        origin: NodeId(1),
        incarnation: Incarnation(3),
        sequence: index,
        actor: quorate_kv::Actor::Anonymous,
        command: Command::Compact(CompactRequest { revision, physical: true }),
    }));
    Entry { term: Term(1 + index / 40), index: LogIndex(index), payload }
}

#[test]
fn an_image_is_of_one_moment_though_writes_and_compaction_go_on() {
    let mut sender = member(&FaultyDisk::new());
    sender.state.apply(&entries(9, 1..=300)).expect("no fault");
    let mut at_start = Reference::new(9);
    at_start.advance(300);

    // Header, rows and the first of many frames of records.
    let mut source = sender.state.snapshot().expect("a member").in_frames_of(300);
    let mut chunks: Vec<_> = source.by_ref().take(8).map(|chunk| chunk.expect("sound")).collect();
    sender.state.apply(&entries(9, 301..=420)).expect("no fault");
    let revision = sender.state.view().revision().0;
    sender.state.apply(&[compaction(421, revision - 1)]).expect("no fault");
    while sender.state.compact_step(1000).expect("no fault") {}
    chunks.extend(source.by_ref().map(|chunk| chunk.expect("sound")));
    assert_eq!(source.meta().index, LogIndex(300));
    assert!(chunks.len() > 30, "{} frames", chunks.len());

    let mut receiver = member(&FaultyDisk::new());
    let mut sink = receiver.state.receive_snapshot(CLUSTER).expect("no fault");
    chunks.iter().for_each(|chunk| sink.push(chunk).expect("whole"));
    receiver.state.install(sink.finish().expect("whole")).expect("no fault");
    at_start.assert_same(&receiver.state.view());
    assert_eq!(receiver.state.stats().durable_applied, LogIndex(300));

    // Nothing is held up once the source is gone.
    drop(source);
    let before = sender.state.stats().totals;
    while sender.state.compact_step(1000).expect("no fault") {}
    assert!(sender.state.stats().totals.count < before.count);
    assert_eq!(sender.state.view().pruned().0, revision - 1);
}

#[test]
fn a_receiver_goes_on_from_the_image() {
    let mut sender = member(&FaultyDisk::new());
    sender.state.apply(&entries(4, 1..=200)).expect("no fault");
    let mut receiver = member(&FaultyDisk::new());
    let view = receiver.state.view();
    let mut stream = view.stream(&crate::fixture::everything(0)).expect("readable");
    let mut sink = view.receive_snapshot(CLUSTER).expect("no fault");
    image(&sender.state).iter().for_each(|chunk| sink.push(chunk).expect("whole"));
    receiver.state.install(sink.finish().expect("whole")).expect("no fault");
    // A stream of the replaced state ends; the view itself goes on with the new one.
    assert!(stream.next_chunk().expect("sound").expect("an end").is_err());
    assert!(stream.next_chunk().expect("sound").is_none());
    receiver.state.apply(&entries(4, 201..=260)).expect("no fault");
    let mut reference = Reference::new(4);
    reference.advance(260);
    reference.assert_same(&view);
}

#[test]
fn a_damaged_cut_or_foreign_image_is_refused_and_the_state_stays() {
    let bytes: Vec<u8> = image_of_120().concat();
    let mut receiver = member(&FaultyDisk::new());
    receiver.state.apply(&entries(5, 1..=10)).expect("no fault");
    let before = receiver.state.view().digest();

    let mut dice = Dice::new(3);
    for _ in 0..60 {
        let mut damaged = bytes.clone();
        let bit = dice.below(bytes.len() as u64 * 8) as usize;
        damaged[bit / 8] ^= 1 << (bit % 8);
        let mut sink = receiver.state.receive_snapshot(CLUSTER).expect("no fault");
        let taken = sink.push(&damaged).and_then(|()| sink.finish());
        assert!(matches!(taken, Err(SnapshotError::Refused(_) | SnapshotError::Unknown(_))), "bit {bit}");
    }
    for cut in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        let mut sink = receiver.state.receive_snapshot(CLUSTER).expect("no fault");
        let taken = sink.push(&bytes[..cut]).and_then(|()| sink.finish());
        assert!(matches!(taken, Err(SnapshotError::Refused(_))), "cut at {cut}");
    }
    let mut sink = receiver.state.receive_snapshot(CLUSTER + 1).expect("no fault");
    let error = sink.push(&bytes).expect_err("another cluster").to_string();
    assert!(error.contains("000000000000000000000000000000c1"), "{error}");
    assert_eq!(receiver.state.view().digest(), before);
}

#[test]
fn an_image_given_up_does_not_touch_the_next_one() {
    let chunks = image_of_120();
    let disk = FaultyDisk::new();
    let mut receiver = member(&disk);
    let mut given_up = receiver.state.receive_snapshot(CLUSTER).expect("no fault");
    given_up.push(&chunks[0]).expect("whole");
    let mut sink = receiver.state.receive_snapshot(CLUSTER).expect("no fault");
    chunks.iter().for_each(|chunk| sink.push(chunk).expect("whole"));
    let received = sink.finish().expect("whole");
    drop(given_up);
    assert!(disk.exists(IN_THE_MAKING).expect("no fault"), "it is the other's now");
    receiver.state.install(received).expect("no fault");
    let mut reference = Reference::new(5);
    reference.advance(120);
    reference.assert_same(&receiver.state.view());
}

/// Votes and entries of the log want its room.
#[test]
fn an_image_given_up_at_any_point_leaves_nothing_on_the_disk() {
    let chunks = image_of_120();
    let disk = FaultyDisk::new();
    let receiver = member(&disk);
    let begin = |taken: usize| {
        let mut sink = receiver.state.receive_snapshot(CLUSTER).expect("no fault");
        chunks[..taken].iter().for_each(|chunk| sink.push(chunk).expect("whole"));
        assert!(disk.exists(IN_THE_MAKING).expect("no fault"));
        sink
    };
    let assert_gone = |when: &str| assert!(!disk.exists(IN_THE_MAKING).expect("no fault"), "{when}");
    drop(begin(1));
    assert_gone("broken off");
    begin(1).finish().expect_err("not whole");
    assert_gone("ended early");
    begin(0).push(b"not an image").expect_err("not an image");
    assert_gone("refused");
    drop(begin(chunks.len()).finish().expect("whole"));
    assert_gone("declined");
}

/// A reset opens another state in the directory, and does not wait for those that still write an image for the old one.
#[test]
fn an_image_that_outlives_its_state_does_not_touch_one_for_the_next_state() {
    let disk = FaultyDisk::new();
    let before = member(&disk);
    let outlived = before.state.receive_snapshot(CLUSTER).expect("no fault");
    drop(before);
    let shared: Arc<dyn Disk> = Arc::new(disk);
    let mut receiver = options().open(&shared, INCARNATION).expect("sound");
    let mut sink = receiver.state.receive_snapshot(CLUSTER).expect("no fault");
    drop(outlived);
    image_of_120().iter().for_each(|chunk| sink.push(chunk).expect("whole"));
    receiver.state.install(sink.finish().expect("whole")).expect("no fault");
    assert_eq!(receiver.state.position().index, LogIndex(120));
}

/// It may hold the room without which nothing opens.
#[test]
fn a_start_removes_an_image_that_was_left_before_it_opens_the_state() {
    let disk = FaultyDisk::new();
    drop(member(&disk));
    disk.open(IN_THE_MAKING, OpenMode::Fresh).expect("no fault");
    disk.zero_sector(STATE_FILE, 0);
    StateStore::open(Arc::new(disk.clone()), options().state).expect_err("damaged");
    assert!(!disk.exists(IN_THE_MAKING).expect("no fault"));
}

#[test]
fn a_node_without_a_cluster_gives_no_image() {
    let state = StateStore::open(std::sync::Arc::new(FaultyDisk::new()), options().state).expect("empty");
    assert!(matches!(state.snapshot(), Err(SnapshotError::Refused(_))));
}

#[test]
fn a_full_disk_ends_an_image_on_its_way_in_but_not_the_node() {
    let disk = FaultyDisk::new();
    let mut receiver = member(&disk);
    disk.set_limit_bytes(Some(disk.used_bytes() + (1 << 20)));
    let mut sink = receiver.state.receive_snapshot(CLUSTER).expect("the file fits");
    let taken = image_of_120().iter().try_for_each(|chunk| sink.push(chunk));
    assert!(matches!(taken, Err(SnapshotError::Write(_))), "{taken:?}");
    drop(sink);
    receiver.state.apply(&[entry(5, 1)]).expect("the node goes on");
}

/// Pages that are not written yet count: with the last sync they would take what votes and entries of the log need.
#[test]
fn an_image_leaves_its_reserve_free() {
    const RESERVE_BYTES: u64 = 12 << 20;
    let put = |index| {
        let (key, value) = (format!("key-{index}").into(), vec![index as u8; 256 << 10].into());
        command(index, Command::Put(PutRequest { key, value, ..PutRequest::default() }))
    };
    let mut sender = member(&FaultyDisk::new());
    sender.state.apply(&(1..=24).map(put).collect::<Vec<_>>()).expect("no fault");
    let chunks = image(&sender.state);

    let disk = FaultyDisk::new();
    let node = member(&disk);
    drop(node);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    // A cache that writes nothing early.
    let state = StateOptions { cache_bytes: 64 << 20, image_reserve_bytes: RESERVE_BYTES, ..StateOptions::default() };
    let mut receiver = StoreOptions { state, ..options() }.open(&shared, INCARNATION).expect("sound");
    for (free_mib, fits) in [(18, false), (25, true)] {
        disk.set_limit_bytes(Some(disk.used_bytes() + (free_mib << 20)));
        let mut sink = receiver.state.receive_snapshot(CLUSTER).expect("the file fits");
        let pushed = chunks.iter().try_for_each(|chunk| sink.push(chunk));
        let taken = pushed.and_then(|()| sink.finish());
        let full = matches!(taken, Err(SnapshotError::Write(WriteError::DiskFull { .. })));
        assert!(if fits { taken.is_ok() } else { full }, "of {free_mib} MiB: {taken:?}");
        let free = disk.free_bytes().expect("known");
        assert!(free >= RESERVE_BYTES, "{free} bytes are left of {free_mib} MiB");
        let next = receiver.log.stats().last.0 + 1;
        receiver.log.append(&[write(vec![entry(5, next)])]).expect("the log has room");
    }
}
