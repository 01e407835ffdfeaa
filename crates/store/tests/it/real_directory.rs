//! The real disk: who may read it, and that one process at a time has it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use quorate_raft::Incarnation;
use quorate_store::{DirectoryError, LOG_FILE, LogOptions, LogStore, RealDisk};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[test]
fn only_the_owner_reads_a_data_directory() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let directory = root.path().join("node/data");
    let disk = Arc::new(RealDisk::new(&directory).expect("free"));
    let (log, _) = LogStore::open(disk, Incarnation(1), LogOptions::default()).expect("empty");
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join(LOG_FILE)), 0o600);
    drop(log);

    // What a careless copy left open is closed again.
    std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o755)).expect("ours");
    std::fs::set_permissions(directory.join(LOG_FILE), PermissionsExt::from_mode(0o644)).expect("ours");
    let disk = Arc::new(RealDisk::new(&directory).expect("free"));
    let (_log, _) = LogStore::open(disk, Incarnation(1), LogOptions::default()).expect("sound");
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join(LOG_FILE)), 0o600);
}

#[test]
fn a_directory_in_use_is_refused_until_it_is_free() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let first = RealDisk::new(root.path()).expect("free");
    let error = RealDisk::new(root.path()).expect_err("in use");
    assert!(matches!(error, DirectoryError::InUse(_)));
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(first);
    RealDisk::new(root.path()).expect("free again");
}

#[test]
fn a_data_directory_is_made_with_all_that_leads_to_it() {
    let root = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o755)).expect("ours");
    let directory = root.path().join("a/b/c");
    let disk = RealDisk::new(&directory).expect("free");
    assert_eq!(disk.path(), directory);
    assert_eq!(["a", "a/b", "a/b/c"].map(|made| mode(&root.path().join(made))), [0o700; 3]);
    assert_eq!(mode(root.path()), 0o755, "what was there is as it was");
}

/// A service's user need not be able to list the directory that its own lies in.
#[test]
fn a_parent_that_cannot_be_read_keeps_no_node_from_its_directory() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let (parent, directory) = (root.path().join("parent"), root.path().join("parent/data"));
    std::fs::create_dir(&parent).expect("ours");
    for directory_exists in [false, true] {
        // Not to be listed; to be written to only where the directory has to be made.
        let closed = if directory_exists { 0o111 } else { 0o311 };
        std::fs::set_permissions(&parent, PermissionsExt::from_mode(closed)).expect("ours");
        let disk = RealDisk::new(&directory).expect("free");
        assert_eq!((mode(&parent), mode(&directory)), (closed, 0o700));
        drop(disk);
    }
    std::fs::set_permissions(&parent, PermissionsExt::from_mode(0o700)).expect("ours");
}
