//! The hash of the records at a revision: a function of the revision and the compact revision, whatever else a node did.

use std::collections::BTreeSet;

use quorate_kv::{KvError, Revision};
use quorate_raft::LogIndex;
use quorate_store::testing::FaultyDisk;
use quorate_store::{RevisionHash, RevisionHasher, StateStore, StateView};

use crate::fixture::{Reference, entries, entry, member};
use crate::snapshots::compaction;

const SEED: u64 = 12;

fn finish(mut hasher: RevisionHasher) -> Result<RevisionHash, KvError> {
    loop {
        if let Some(end) = hasher.step().expect("sound") {
            return end;
        }
    }
}

fn hash(view: &StateView, revision: i64) -> Result<RevisionHash, KvError> {
    finish(view.hash_at(revision).expect("sound")?)
}

/// The history up to entry 420, then a compaction at `compacted`.
fn state(compacted: i64) -> StateStore {
    let mut state = member(&FaultyDisk::new()).state;
    state.apply(&entries(SEED, 1..=420)).expect("no fault");
    state.apply(&[compaction(421, compacted)]).expect("no fault");
    state
}

fn newest() -> i64 {
    let mut reference = Reference::new(SEED);
    reference.advance(420);
    reference.after(LogIndex(420)).1.0
}

#[test]
fn nodes_agree_at_every_revision_however_far_compaction_has_come() {
    let newest = newest();
    let compacted = newest - 20;
    let (mut tidy, untidy) = (state(compacted), state(compacted));
    let mut half = state(compacted);
    half.compact_step(10).expect("no fault");
    while tidy.compact_step(1000).expect("no fault") {}
    assert!(tidy.stats().totals.count < half.stats().totals.count, "the nodes differ in what they hold");
    assert!(half.stats().totals.count < untidy.stats().totals.count, "the nodes differ in what they hold");
    let mut hashes = BTreeSet::new();
    for revision in compacted..=newest {
        let expected = hash(&untidy.view(), revision).expect("readable");
        assert_eq!((expected.revision, expected.compact_revision), (Revision(revision), Revision(compacted)));
        assert_eq!(hash(&tidy.view(), revision), Ok(expected));
        assert_eq!(hash(&half.view(), revision), Ok(expected));
        hashes.insert(expected.hash);
    }
    assert_eq!(hashes.len(), 21, "each revision has changes of its own");
    for now in [0, -1] {
        assert_eq!(hash(&tidy.view(), now), hash(&untidy.view(), newest));
    }
    assert_eq!(hash(&tidy.view(), compacted - 1), Err(KvError::Compacted));
    assert_eq!(hash(&tidy.view(), newest + 1), Err(KvError::FutureRevision));
}

#[test]
fn what_is_not_a_record_is_not_in_the_hash() {
    // Clocks and renewals come and go between two writes; members are asked one after the other.
    let mut state = member(&FaultyDisk::new()).state;
    let (mut last, mut quiet) = (None, 0);
    for index in 1..=200 {
        state.apply(&[entry(SEED, index)]).expect("no fault");
        let view = state.view();
        let now = (hash(&view, 0).expect("readable"), view.digest().1);
        if let Some((before, digest)) = last.replace(now)
            && (now.0.revision, now.0.compact_revision) == (before.revision, before.compact_revision)
        {
            assert_eq!(now.0.hash, before.hash, "entry {index}");
            quiet += u32::from(digest != now.1);
        }
    }
    assert!(quiet > 5, "{quiet} entries changed the state and no record");
}

#[test]
fn a_hash_under_way_is_of_its_beginning() {
    let newest = newest();
    let mut state = state(newest - 20);
    let expected = hash(&state.view(), newest - 10).expect("readable");
    let hasher = state.view().hash_at(newest - 10).expect("sound").expect("readable");
    state.apply(&[compaction(422, newest - 5)]).expect("no fault");
    while state.compact_step(1000).expect("no fault") {}
    assert_eq!(finish(hasher), Ok(expected));
    // Nothing is held up afterwards.
    while state.compact_step(1000).expect("no fault") {}
    assert_eq!(state.view().pruned(), Revision(newest - 5));
}
