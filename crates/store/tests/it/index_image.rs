//! An index image that outlives its state, as where an operator removes the two databases alone, is not used by the next one.

use std::sync::Arc;

use quorate_raft::{Incarnation, Member};
use quorate_store::offline::{NewCluster, restore};
use quorate_store::testing::FaultyDisk;
use quorate_store::{Disk, INDEX_FILE, LOG_FILE, STATE_FILE, StateStore};

use crate::dice::Dice;
use crate::fixture::{INCARNATION, Reference, entries, member, options};
use crate::snapshots::image;

/// Two histories whose keys are not written at the same revisions.
const BEFORE: u64 = 21;
const AFTER: u64 = 22;

fn shared(disk: &FaultyDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

fn state(disk: &FaultyDisk) -> StateStore {
    options().open(&shared(disk), INCARNATION).expect("sound").state
}

/// Stops a node in good order and removes its databases.
#[track_caller]
fn leave_index_image_alone(disk: &FaultyDisk, state: StateStore) {
    state.close().expect("no fault");
    for name in [LOG_FILE, STATE_FILE] {
        disk.remove(name).expect("there");
    }
    disk.sync_dir().expect("no fault");
    assert_eq!(disk.list().expect("no fault"), [INDEX_FILE]);
}

/// A directory without a node's data, but for an index image.
fn with_index_image_alone() -> FaultyDisk {
    let disk = FaultyDisk::new();
    let mut node = member(&disk);
    node.state.apply(&entries(BEFORE, 1..=60)).expect("no fault");
    drop(node.log);
    leave_index_image_alone(&disk, node.state);
    disk
}

#[test]
fn a_state_that_begins_empty_does_not_take_the_image_of_an_earlier_one() {
    let disk = with_index_image_alone();
    let mut node = member(&disk);
    node.state.apply(&entries(AFTER, 1..=120)).expect("no fault");
    node.state.checkpoint().expect("no fault");
    disk.kill();
    drop(node);
    let mut reference = Reference::new(AFTER);
    reference.advance(120);
    let found = state(&disk);
    found.check();
    reference.assert_same(&found.view());
}

#[test]
fn a_state_restored_twice_from_one_backup_does_not_take_the_image_of_the_first() {
    let mut sender = member(&FaultyDisk::new());
    sender.state.apply(&entries(BEFORE, 1..=20)).expect("no fault");
    let backup = image(&sender.state);
    let disk = FaultyDisk::new();
    let restored = |cluster_id, incarnation| {
        let member = Member { name: "n1".to_owned(), max_version: 1, ..Member::default() };
        let new = NewCluster { cluster_id, member, revision_bump: 0 };
        restore(shared(&disk), backup.iter().cloned().map(Ok), new, Incarnation(incarnation)).expect("whole");
        state(&disk)
    };
    let mut first = restored(0xD2, 71);
    first.apply(&entries(BEFORE, 21..=60)).expect("no fault");
    leave_index_image_alone(&disk, first);

    let mut second = restored(0xD3, 72);
    second.apply(&entries(AFTER, 21..=120)).expect("no fault");
    second.checkpoint().expect("no fault");
    let view = second.view();
    let everything = || view.range(&crate::fixture::everything(0)).expect("sound").expect("readable");
    let (written, keys) = (everything(), view.key_count());
    disk.kill();
    drop(second);
    let found = state(&disk);
    found.check();
    let read = found.view().range(&crate::fixture::everything(0)).expect("sound").expect("readable");
    assert_eq!((read, found.view().key_count()), (written, keys));
}

/// The name of the image must be gone from the disk, and not only from the directory, before the new state's is there.
#[test]
fn no_crash_leaves_a_new_state_beside_an_earlier_image() {
    let (mut with_image, mut with_state) = (0, 0);
    for cut_after in 1.. {
        for seed in 0..8 {
            let disk = with_index_image_alone();
            disk.cut_power_after(cut_after);
            let ended = StateStore::open(shared(&disk), options().state).is_ok_and(|_| !disk.is_power_cut());
            disk.crash(&mut Dice::new(seed));
            let [image, state] = [INDEX_FILE, STATE_FILE].map(|name| disk.exists(name).expect("no fault"));
            assert!(!(image && state), "cut after {cut_after}, seed {seed}");
            with_image += u32::from(image);
            with_state += u32::from(state);
            if ended {
                assert!(with_image > 0 && with_state > 0, "{with_image} and {with_state}");
                return;
            }
        }
    }
}
