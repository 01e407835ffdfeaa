//! Opening both files together, and bringing them into line where a crash left them apart.
//!
//! The state may be ahead of the log in two ways, both sound: a crash between the switch to a snapshot and the reset of
//! the log; and entries that a quorum of others made durable, applied and checkpointed here before this node's own log
//! write was done. In both, everything the state reflects is committed, so the log is reset to the state's position.
//! A log that begins after the state's position is damage: what lies between is gone.

use std::sync::Arc;

use quorate_raft::Incarnation;

use crate::database::guarded;
use crate::disk::{Disk, LOG_FILE, STATE_FILE, remove_leftovers};
use crate::error::OpenError;
use crate::log::{LogOptions, LogStore, RecoveredLog};
use crate::state::{StateOptions, StateStore};

/// How the two files of a node are opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreOptions {
    /// The log.
    pub log: LogOptions,
    /// The state.
    pub state: StateOptions,
}

/// A node's stores, agreeing with each other.
#[derive(Debug)]
pub struct OpenedStores {
    /// The log.
    pub log: LogStore,
    /// What it held; its commit index is no lower than what the state reflects.
    pub recovered: RecoveredLog,
    /// The state.
    pub state: StateStore,
}

impl StoreOptions {
    /// Opens a node's data, or makes it if the directory is empty.
    ///
    /// # Errors
    /// Any [`OpenError`]; the data is as it was.
    pub fn open(&self, disk: &Arc<dyn Disk>, new_incarnation: Incarnation) -> Result<OpenedStores, OpenError> {
        let present = |name| disk.exists(name).map_err(|error| OpenError::io(name, error));
        if present(STATE_FILE)? && !present(LOG_FILE)? {
            return Err(OpenError::damaged(LOG_FILE, format!("it is missing, but there is a {STATE_FILE}")));
        }
        remove_leftovers(&**disk).map_err(|error| OpenError::io(LOG_FILE, error))?;
        let state_was_there = present(STATE_FILE)?;
        let (mut log, recovered) = guarded(LOG_FILE, || LogStore::open(disk.clone(), new_incarnation, self.log))?;
        if !state_was_there && recovered.base.0.0 > 0 {
            let detail = format!("it is missing, but the log begins after entry {}", recovered.base.0);
            return Err(OpenError::damaged(STATE_FILE, detail));
        }
        let mut state = guarded(STATE_FILE, || StateStore::open(disk.clone(), self.state))?;
        state.follow(log.durable_base());
        check_cluster(&recovered, &mut state)?;
        reconcile(&mut log, &state)?;
        let mut recovered = log.recovered();
        recovered.hard_state.commit = recovered.hard_state.commit.max(state.position().index);
        Ok(OpenedStores { log, recovered, state })
    }
}

fn check_cluster(recovered: &RecoveredLog, state: &mut StateStore) -> Result<(), OpenError> {
    match (recovered.identity, state.cluster_id()) {
        // A crash between the adoption of the identity, which is in the log, and what follows from it.
        (Some(identity), None) => state.set_cluster_id(identity.cluster_id)?,
        (Some(identity), Some(cluster_id)) if identity.cluster_id != cluster_id => {
            let detail = format!(
                "it is of cluster {cluster_id:032x}, the log of cluster {:032x}; if `quorate recover` was interrupted, run it again",
                identity.cluster_id
            );
            return Err(OpenError::damaged(STATE_FILE, detail));
        }
        (None, Some(cluster_id)) => {
            let detail = format!("it names no cluster, but the state is of cluster {cluster_id:032x}");
            return Err(OpenError::damaged(LOG_FILE, detail));
        }
        _ => {}
    }
    Ok(())
}

fn reconcile(log: &mut LogStore, state: &StateStore) -> Result<(), OpenError> {
    let position = state.position();
    let base = log.recovered().base;
    if position.index < base.0 {
        let detail = format!("it reflects entries up to {}, but the log begins after entry {}", position.index, base.0);
        return Err(OpenError::damaged(STATE_FILE, detail));
    }
    if log.term_at(position.index) != Some(position.term) {
        tracing::info!(index = %position.index, term = %position.term, "the log is reset to the position of the state");
        log.reset_to(&position)?;
    }
    Ok(())
}
