//! The faulty disk itself: what tests of everything above it rest on.

use quorate_store::testing::FaultyDisk;
use quorate_store::{Disk, OpenMode};
use redb::StorageBackend;

fn read(file: &dyn StorageBackend) -> [u8; 3] {
    let mut bytes = [0; 3];
    file.read(0, &mut bytes).expect("three bytes are there");
    bytes
}

fn written_and_failed() -> (FaultyDisk, Box<dyn StorageBackend>) {
    let disk = FaultyDisk::new();
    let file = disk.open("file", OpenMode::Fresh).expect("an empty disk takes a file");
    disk.sync_dir().expect("no fault is planned");
    file.write(0, b"old").expect("no fault is planned");
    file.sync_data().expect("no fault is planned");
    file.write(0, b"new").expect("no fault is planned");
    disk.fail_sync(1);
    assert!(file.sync_data().is_err());
    (disk, file)
}

fn after_a_crash(disk: &FaultyDisk) -> [u8; 3] {
    disk.crash(&mut |_| 0);
    read(&*disk.open("file", OpenMode::Existing).expect("the name is durable"))
}

#[test]
fn pages_of_a_failed_sync_count_as_clean_and_are_lost() {
    let (disk, file) = written_and_failed();
    assert_eq!(&read(&*file), b"new", "the page cache has it");
    file.sync_data().expect("there is nothing left to write");
    assert_eq!(&after_a_crash(&disk), b"old");
}

#[test]
fn page_that_is_written_again_after_a_failed_sync_is_saved_by_the_next() {
    let (disk, file) = written_and_failed();
    file.write(0, b"new").expect("no fault is planned");
    file.sync_data().expect("no fault is planned");
    assert_eq!(&after_a_crash(&disk), b"new");
}

#[test]
fn planned_read_error_comes_once() {
    let (disk, file) = written_and_failed();
    disk.fail_read(1);
    assert!(file.read(0, &mut [0; 3]).is_err());
    assert_eq!(&read(&*file), b"new");
    assert_eq!(disk.failures(), 2);
}
