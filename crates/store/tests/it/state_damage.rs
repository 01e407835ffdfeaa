//! A state that cannot be trusted is refused, or its damaged records are; nothing wrong is ever served.

use std::sync::Arc;

use quorate_store::testing::{Choices, FaultyDisk};
use quorate_store::{Disk, OpenMode, STATE_FILE, StateStore};

use crate::dice::Dice;
use crate::fixture::{entries, everything, member, options};

/// A cleanly stopped node's disk. With an index image a start does not read the records it covers.
fn stopped(with_image: bool) -> FaultyDisk {
    let disk = FaultyDisk::new();
    let mut node = member(&disk);
    node.state.apply(&entries(12, 1..=80)).expect("no fault");
    node.state.checkpoint().expect("no fault");
    if with_image {
        node.state.view().write_index_image().expect("no fault");
    }
    drop(node);
    disk
}

#[test]
fn a_flipped_bit_is_refused_or_harmless() {
    let open = |disk: &FaultyDisk| StateStore::open(Arc::new(disk.clone()), options().state);
    let sound = open(&stopped(false)).expect("sound").view().range(&everything(0)).expect("sound");
    let mut dice = Dice::new(21);
    let mut refused = 0;
    for round in 0..200 {
        let disk = stopped(round % 2 == 0);
        let pages = disk.written_pages(STATE_FILE);
        let page = pages[dice.below(pages.len() as u64) as usize];
        disk.flip_bit(STATE_FILE, page + dice.below(4096), dice.below(8) as u8);
        // redb asserts in debug builds where a release build reports damage; either way nothing is served.
        let answer = std::panic::catch_unwind(|| open(&disk).ok()?.view().range(&everything(0)).ok());
        match answer {
            Ok(Some(answer)) => assert_eq!(answer, sound, "round {round}"),
            Ok(None) | Err(_) => refused += 1,
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn an_emptied_file_is_not_taken_for_a_new_one() {
    let disk = stopped(true);
    disk.open(STATE_FILE, OpenMode::Fresh).expect("there");
    let error = StateStore::open(Arc::new(disk), options().state).expect_err("empty").to_string();
    assert!(error.contains("state.redb is damaged") && error.contains("quorate ctl reset"), "{error}");
}
