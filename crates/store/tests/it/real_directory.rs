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
