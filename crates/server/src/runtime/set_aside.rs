//! Data that must not run any more, kept: it moves into a sub-folder, and the node starts empty.
//!
//! Never deletes anything. The caller holds the folder's lock and has no file of it open.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use quorate_store::{Disk, LOCK_FILE, LOG_FILE, LogStore};

/// Sub-folders with data that was set aside begin with this.
const SET_ASIDE: &str = "set-aside-";

/// Sets the data aside if it is a node's of a cluster that is retired: another cluster was recovered from one of its nodes, and
/// if enough of the others came back they would go on beside it. Files that do not say whose they are stay.
pub(super) fn set_aside_retired(disk: &Arc<dyn Disk>, folder: &Path, retired: &BTreeSet<u128>) -> std::io::Result<()> {
    if retired.is_empty() || !disk.exists(LOG_FILE)? {
        return Ok(());
    }
    // The log alone says it: an interrupted recovery has the new cluster's id in the state already. One that cannot be read says
    // nothing, and is dealt with when the node opens it.
    let identity = LogStore::owner(&**disk).ok().and_then(|(_, identity)| identity);
    if let Some(identity) = identity.filter(|identity| retired.contains(&identity.cluster_id)) {
        let aside = set_aside(folder)?;
        tracing::warn!(
            cluster = format!("{:032x}", identity.cluster_id),
            "a retired cluster: data set aside in {aside}"
        );
    }
    Ok(())
}

/// Moves every file of the folder, except its lock, into a new sub-folder named after the moment. The log goes last: it alone says
/// whose the files are, and what a crash leaves behind is asked again.
pub(super) fn set_aside(folder: &Path) -> std::io::Result<String> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let aside = (0..)
        .map(|number| folder.join(format!("{SET_ASIDE}{seconds}-{number}")))
        .find(|path| !path.exists())
        .expect("numbers do not end");
    fs::create_dir(&aside)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_file() && name != LOCK_FILE && name != LOG_FILE {
            fs::rename(entry.path(), aside.join(name))?;
        }
    }
    sync_both(&aside, folder)?;
    if folder.join(LOG_FILE).exists() {
        fs::rename(folder.join(LOG_FILE), aside.join(LOG_FILE))?;
        sync_both(&aside, folder)?;
    }
    Ok(aside.display().to_string())
}

fn sync_both(aside: &Path, folder: &Path) -> std::io::Result<()> {
    fs::File::open(aside)?.sync_all()?;
    fs::File::open(folder)?.sync_all()
}
