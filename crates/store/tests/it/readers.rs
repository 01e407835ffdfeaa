//! Reads from other threads while batches are applied.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use quorate_kv::{Command, KeyValue, PutRequest, RequestOp, Revision, TxnRequest};
use quorate_raft::{Entry, Incarnation, LogIndex, NodeId, Payload, Term};
use quorate_store::testing::FaultyDisk;
use quorate_wire::{Envelope, encode_envelope};

use crate::fixture::{CLUSTER, Reference, entries, everything, member};
use crate::snapshots::{compaction, image};

/// Writes the same number under two keys in one transaction.
fn pair(index: u64) -> Entry {
    let value = Bytes::from(index.to_string());
    let put = |key: &'static str| {
        RequestOp::Put(PutRequest { key: key.into(), value: value.clone(), ..PutRequest::default() })
    };
    let txn = TxnRequest { success: vec![put("a"), put("b")], ..TxnRequest::default() };
    let envelope = Envelope {
        origin: NodeId(1),
        incarnation: Incarnation(3),
        sequence: index,
        actor: quorate_kv::Actor::Anonymous,
        command: Command::Txn(txn),
    };
    Entry { term: Term(1), index: LogIndex(index), payload: Payload::Command(encode_envelope(&envelope)) }
}

#[test]
fn a_reader_sees_all_of_a_batch_or_none_and_never_goes_back() {
    let mut node = member(&FaultyDisk::new());
    node.state.apply(&[pair(1)]).expect("no fault");
    let view = node.state.view();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (view, done) = (&view, &done);
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(move || {
                    let (mut reads, mut before) = (0_u64, 0);
                    while !done.load(Ordering::Relaxed) || reads == 0 {
                        let applied = view.applied();
                        let answer = view.range(&everything(0)).expect("sound").expect("readable");
                        let numbers: Vec<u64> = answer
                            .kvs
                            .iter()
                            .map(|kv| std::str::from_utf8(&kv.value).unwrap().parse().unwrap())
                            .collect();
                        assert_eq!(numbers.len(), 2);
                        assert_eq!(numbers[0], numbers[1], "half of a transaction");
                        assert!(numbers[0] == 1 || numbers[0].is_multiple_of(10), "half of a batch: {}", numbers[0]);
                        assert!(numbers[0] >= before && numbers[0] >= applied.0, "went back");
                        before = numbers[0];
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        for batch in 0..300_u64 {
            let first = if batch == 0 { 2 } else { batch * 10 + 1 };
            let entries: Vec<Entry> = (first..=batch * 10 + 10).map(pair).collect();
            node.state.apply(&entries).expect("no fault");
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().expect("no assertion failed") > 0);
        }
    });
}

/// A small range notes where it reads under the index lock, and reads afterwards: from the file it looked into, also if that was
/// replaced meanwhile by one that has none of those records.
#[test]
fn a_small_range_reads_one_state_while_images_replace_it() {
    const IMAGES: u64 = 300;
    let mut sender = member(&FaultyDisk::new());
    let mut node = member(&FaultyDisk::new());
    let view = node.state.view();
    let mut replace = |index: u64| {
        sender.state.apply(&[pair(index)]).expect("no fault");
        let revision = sender.state.view().revision().0;
        sender.state.apply(&[Entry { term: Term(1), ..compaction(index + 1, revision) }]).expect("no fault");
        while sender.state.compact_step(1000).expect("no fault") {}
        let mut sink = node.state.receive_snapshot(CLUSTER).expect("no fault");
        image(&sender.state).iter().for_each(|chunk| sink.push(chunk).expect("whole"));
        node.state.install(sink.finish().expect("whole")).expect("no fault");
    };
    replace(1);
    std::thread::scope(|scope| {
        let replacing = scope.spawn(|| (1..IMAGES).for_each(|image| replace(2 * image + 1)));
        let mut seen = BTreeSet::new();
        while !replacing.is_finished() {
            let answer = view.range_if_small(&everything(0), &|_| true).expect("sound").expect("small");
            let answer = answer.expect("readable");
            let [a, b] = answer.kvs.as_slice() else { panic!("two keys, not {:?}", answer.kvs) };
            assert_eq!((&a.value, a.mod_revision), (&b.value, answer.revision.0), "of another state");
            seen.insert(answer.revision);
        }
        assert!(seen.len() > 1, "it never met another image");
    });
}

#[test]
fn a_stream_gives_what_a_range_gives_while_writes_go_on() {
    let mut node = member(&FaultyDisk::new());
    node.state.apply(&entries(6, 1..=60)).expect("no fault");
    let mut reference = Reference::new(6);
    reference.advance(60);
    reference.assert_same(&node.state.view());
    let view = node.state.view();
    let whole = view.range(&everything(0)).expect("sound").expect("readable");
    let mut stream = view.stream(&everything(0)).expect("readable");
    let (mut kvs, mut index) = (Vec::new(), 60);
    while let Some(chunk) = stream.next_chunk().expect("sound") {
        let chunk = chunk.expect("no compaction");
        kvs.extend(chunk.kvs);
        if let Some(end) = chunk.end {
            assert_eq!((end.revision, end.count), (whole.revision, whole.count));
        }
        index += 1;
        node.state.apply(&[pair_at(index)]).expect("no fault");
    }
    assert_eq!(kvs, whole.kvs);
}

fn pair_at(index: u64) -> Entry {
    Entry { term: Term(9), ..pair(index) }
}

#[test]
fn former_versions_end_with_the_revision_that_reaches_the_size_asked_for() {
    const REVISIONS: u64 = 300;
    let mut node = member(&FaultyDisk::new());
    let entries: Vec<Entry> = (1..=REVISIONS).map(pair).collect();
    node.state.apply(&entries).expect("no fault");
    let view = node.state.view();
    // Entry 1 made revision 2; two keys each, more than are looked for in the index at once.
    let wanted: Vec<(Bytes, Revision)> =
        (2..2 + REVISIONS as i64).flat_map(|at| ["a", "b"].map(|key| (Bytes::from(key), Revision(at)))).collect();
    let value = |version: Option<KeyValue>| version.map(|version| version.value);
    let numbers: Vec<_> = (1..=REVISIONS).flat_map(|at| [at, at]).map(|at| Some(Bytes::from(at.to_string()))).collect();
    // A key of one byte and a number of one digit are two bytes, as long as the number has one digit.
    for (max_bytes, revisions) in [(0, 1), (1, 1), (4, 1), (5, 2), (8, 2), (36, 9), (37, 10), (usize::MAX, 300)] {
        let versions = view.versions(&wanted, max_bytes).expect("readable");
        let found: Vec<_> = versions.into_iter().map(value).collect();
        assert_eq!(found, numbers[..2 * revisions], "{max_bytes} bytes");
    }
    // What is not there has no size.
    let missing: Vec<(Bytes, Revision)> = (2..600).map(|at| (Bytes::from("c"), Revision(at))).collect();
    assert_eq!(view.versions(&missing, 1).expect("readable").len(), missing.len());
    assert_eq!(view.versions(&[], 0).expect("readable"), []);
}
