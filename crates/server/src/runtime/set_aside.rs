//! Data that must not run any more, kept: it moves into a sub-folder, and the node starts empty.
//!
//! Never deletes anything. The caller holds the folder's lock and has no file of it open.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use quorate_raft::Incarnation;
use quorate_store::{Disk, LOCK_FILE, LOG_FILE, LogOptions, LogStore};

/// Sub-folders with data that was set aside begin with this.
const SET_ASIDE: &str = "set-aside-";

/// Sets the data aside if it is a node's of a cluster that is retired: another cluster was recovered from one of its nodes, and
/// if enough of the others came back they would go on beside it. Files that do not say whose they are stay.
pub(super) fn set_aside_retired(disk: &Arc<dyn Disk>, folder: &Path, retired: &BTreeSet<u128>) -> std::io::Result<()> {
    if retired.is_empty() || !disk.exists(LOG_FILE)? {
        return Ok(());
    }
    // The log alone says it: an interrupted recovery has the new cluster's id in the state already.
    let log = LogStore::open(Arc::clone(disk), Incarnation(0), LogOptions::default());
    let identity = log.ok().and_then(|(_, recovered)| recovered.identity);
    if let Some(identity) = identity.filter(|identity| retired.contains(&identity.cluster_id)) {
        let aside = set_aside(folder)?;
        tracing::warn!(
            cluster = format!("{:032x}", identity.cluster_id),
            "a retired cluster: data set aside in {aside}"
        );
    }
    Ok(())
}

/// Moves every file of the folder, except its lock, into a new sub-folder named after the moment.
pub(super) fn set_aside(folder: &Path) -> std::io::Result<String> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let aside = (0..)
        .map(|number| folder.join(format!("{SET_ASIDE}{seconds}-{number}")))
        .find(|path| !path.exists())
        .expect("numbers do not end");
    std::fs::create_dir(&aside)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.file_name() != LOCK_FILE {
            std::fs::rename(entry.path(), aside.join(entry.file_name()))?;
        }
    }
    std::fs::File::open(&aside)?.sync_all()?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(aside.display().to_string())
}
