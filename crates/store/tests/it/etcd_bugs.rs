//! Correctness bugs that etcd's own robustness tests found in its storage, each as a test of this one. The list of all:
//! docs/testing.md.

use std::sync::Arc;

use bytes::Bytes;
use quorate_kv::{Command, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use quorate_raft::{Entry, LogIndex};
use quorate_store::testing::FaultyDisk;
use quorate_store::{Disk, OpenedStores, ReceivedSnapshot, StateStore};

use crate::dice::Dice;
use crate::fixture::{CLUSTER, INCARNATION, Reference, entries, everything, member, options};
use crate::snapshots::{compaction, image};
use crate::space::command;
use crate::state_crash::{Run, Stopped};

/// Runs `work` on a node that has a history, with the power cut after its first storage call, its second, and so on until
/// it ends by itself. After each cut the node must come back whole.
fn cut_at_each_call(seed: u64, work: impl Fn(&mut Run) -> Result<(), Stopped>) {
    let mut cuts = 0;
    for cut_after in 1.. {
        let mut run = Run::new(seed);
        for _ in 0..8 {
            run.append().expect("no fault");
            run.apply().expect("no fault");
        }
        run.checkpoint().expect("no fault");
        run.disk.cut_power_after(cut_after);
        let ended = work(&mut run).is_ok();
        run.crash();
        run.assert_recovered();
        if ended {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 3, "only {cuts} storage calls");
}

/// etcd saved its applied index apart from the data: after a crash it left entries out or applied them twice.
#[test]
fn etcd_13766_the_applied_index_and_its_data_survive_a_crash_together() {
    cut_at_each_call(13766, |run| {
        for _ in 0..3 {
            run.append()?;
            run.apply()?;
            run.checkpoint()?;
        }
        Ok(())
    });
}

/// A crash while etcd defragmented its file left an applied index without its data. Here space is given back by pruning
/// and by cutting the log.
#[test]
fn etcd_14685_a_crash_while_space_is_given_back_loses_nothing() {
    cut_at_each_call(14685, |run| {
        run.append()?;
        run.apply()?;
        while run.node().state.compact_step(3)? {}
        run.checkpoint()?;
        let durable = run.node().state.stats().durable_applied;
        while run.node().log.truncate_prefix(durable)? {}
        Ok(())
    });
}

/// After a crash etcd's file had pages of another kind than their references said.
#[test]
fn etcd_20271_a_crash_at_any_call_of_a_checkpoint_leaves_sound_pages() {
    for seed in 0..4 {
        cut_at_each_call(seed, |run| {
            run.append()?;
            run.apply()?;
            run.node().state.view().write_index_image()?;
            run.checkpoint()
        });
    }
}

fn put(index: u64, key: &'static str) -> Entry {
    let value = Bytes::from(index.to_string());
    command(index, Command::Put(PutRequest { key: key.into(), value, ..PutRequest::default() }))
}

fn delete(index: u64, key: &'static str) -> Entry {
    command(index, Command::DeleteRange(DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() }))
}

/// The newest revision was a deletion, the history up to it was forgotten, and a crash followed: etcd took its revision from
/// the newest record left, and gave out the same ones again.
#[test]
fn etcd_17780_a_crash_while_history_is_pruned_does_not_take_the_revision_back() {
    for cut_after in 1.. {
        let disk = FaultyDisk::new();
        let mut node = member(&disk);
        let history = [put(1, "a"), put(2, "b"), put(3, "a"), delete(4, "a"), delete(5, "b")];
        node.state.apply(&history).expect("no fault");
        node.state.checkpoint().expect("no fault");
        let revision = node.state.view().revision();
        disk.cut_power_after(cut_after);
        let ended = prune(&mut node, revision.0).is_ok();
        disk.crash(&mut Dice::new(cut_after));
        drop(node);
        disk.call_off_faults();
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let node = options().open(&disk, INCARNATION).expect("sound");
        assert_eq!(node.state.view().revision(), revision, "cut after {cut_after}");
        node.state.check();
        if ended {
            assert!(cut_after > 3, "only {cut_after} storage calls");
            break;
        }
    }
}

fn prune(node: &mut OpenedStores, revision: i64) -> Result<(), Stopped> {
    node.state.apply(&[compaction(6, revision)])?;
    while node.state.compact_step(1)? {}
    node.state.checkpoint()?;
    Ok(())
}

fn received(receiver: &mut StateStore, chunks: &[Bytes]) -> ReceivedSnapshot {
    let mut sink = receiver.receive_snapshot(CLUSTER).expect("no fault");
    chunks.iter().for_each(|chunk| sink.push(chunk).expect("whole"));
    sink.finish().expect("whole")
}

/// etcd panicked when a second image came right after the first. That the second is refused as long as the first waits to be
/// taken in is the server's affair; here it comes in the very next moment.
#[test]
fn etcd_18055_two_images_close_together_leave_the_later_one() {
    let mut sender = member(&FaultyDisk::new());
    sender.state.apply(&entries(18055, 1..=100)).expect("no fault");
    let first = image(&sender.state);
    sender.state.apply(&entries(18055, 101..=150)).expect("no fault");
    let second = image(&sender.state);
    let disk = FaultyDisk::new();
    let mut receiver = member(&disk);
    for (chunks, index) in [(first, 100), (second, 150)] {
        let image = received(&mut receiver.state, &chunks);
        assert_eq!(receiver.state.install(image).expect("no fault").index, LogIndex(index));
    }
    let mut reference = Reference::new(18055);
    reference.advance(150);
    reference.assert_same(&receiver.state.view());
    // Nothing of the first is left to be found by a start.
    drop(receiver);
    disk.kill();
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let reopened = options().open(&disk, INCARNATION).expect("sound");
    reference.assert_same(&reopened.state.view());
}

/// A transaction that reads a revision which is compacted was judged by what each etcd had pruned so far: one executed it,
/// another refused it, and their data differed from then on.
#[test]
fn etcd_18667_nodes_that_pruned_differently_judge_a_transaction_alike() {
    let (mut ahead, mut behind) = (member(&FaultyDisk::new()), member(&FaultyDisk::new()));
    let history = [put(1, "a"), put(2, "a"), delete(3, "a"), put(4, "b"), compaction(5, 4)];
    let read = |revision| {
        RequestOp::Range(RangeRequest { key: Bytes::from_static(b"a"), revision, ..RangeRequest::default() })
    };
    let write = |key: &'static str| RequestOp::Put(PutRequest { key: key.into(), ..PutRequest::default() });
    let txn = |index, revision, key| {
        let success = vec![read(revision), write(key)];
        command(index, Command::Txn(TxnRequest { compare: Vec::new(), success, failure: Vec::new() }))
    };
    for node in [&mut ahead, &mut behind] {
        node.state.apply(&history).expect("no fault");
    }
    while ahead.state.compact_step(100).expect("no fault") {}
    assert_ne!(ahead.state.view().pruned(), behind.state.view().pruned(), "one pruned, the other did not");
    for (index, revision) in (6..).zip([2, 3, 4, 5]) {
        for node in [&mut ahead, &mut behind] {
            node.state.apply(&[txn(index, revision, "c")]).expect("no fault");
        }
        assert_eq!(ahead.state.view().digest(), behind.state.view().digest(), "a read of revision {revision}");
    }
    let read = |node: &OpenedStores| node.state.view().range(&everything(0)).expect("sound").expect("readable");
    assert_eq!(read(&ahead), read(&behind));
    assert_eq!(ahead.state.view().revision().0, 7, "revisions 4 and 5 are readable, 2 and 3 are not");
}
