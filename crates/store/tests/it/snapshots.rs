//! Images of the state: consistent while writes go on, and taken in only if whole and of this cluster.

use bytes::Bytes;
use quorate_kv::{Command, CompactRequest};
use quorate_raft::{Entry, Incarnation, LogIndex, NodeId, Payload, Term};
use quorate_store::testing::{Choices, FaultyDisk};
use quorate_store::{ReadError, SnapshotError, StateStore};
use quorate_wire::{Envelope, encode_envelope};

use crate::dice::Dice;
use crate::fixture::{CLUSTER, Reference, entries, entry, member, options};

pub(crate) fn image(state: &StateStore) -> Vec<Bytes> {
    state.snapshot().expect("a member").collect::<Result<_, ReadError>>().expect("sound")
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
    let mut sender = member(&FaultyDisk::new());
    sender.state.apply(&entries(5, 1..=120)).expect("no fault");
    let bytes: Vec<u8> = image(&sender.state).concat();
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
    let mut sender = member(&FaultyDisk::new());
    sender.state.apply(&entries(5, 1..=120)).expect("no fault");
    let chunks = image(&sender.state);
    let mut receiver = member(&FaultyDisk::new());
    let mut given_up = receiver.state.receive_snapshot(CLUSTER).expect("no fault");
    given_up.push(&chunks[0]).expect("whole");
    let mut sink = receiver.state.receive_snapshot(CLUSTER).expect("no fault");
    chunks.iter().for_each(|chunk| sink.push(chunk).expect("whole"));
    let received = sink.finish().expect("whole");
    drop(given_up);
    receiver.state.install(received).expect("no fault");
    let mut reference = Reference::new(5);
    reference.advance(120);
    reference.assert_same(&receiver.state.view());
}

#[test]
fn a_node_without_a_cluster_gives_no_image() {
    let state = StateStore::open(std::sync::Arc::new(FaultyDisk::new()), options().state).expect("empty");
    assert!(matches!(state.snapshot(), Err(SnapshotError::Refused(_))));
}

#[test]
fn a_full_disk_ends_an_image_on_its_way_in_but_not_the_node() {
    let mut sender = member(&FaultyDisk::new());
    sender.state.apply(&entries(5, 1..=120)).expect("no fault");
    let disk = FaultyDisk::new();
    let mut receiver = member(&disk);
    disk.set_limit_bytes(Some(disk.used_bytes() + (1 << 20)));
    let mut sink = receiver.state.receive_snapshot(CLUSTER).expect("the file fits");
    let taken = image(&sender.state).iter().try_for_each(|chunk| sink.push(chunk));
    assert!(matches!(taken, Err(SnapshotError::Write(_))), "{taken:?}");
    drop(sink);
    receiver.state.apply(&[entry(5, 1)]).expect("the node goes on");
}
