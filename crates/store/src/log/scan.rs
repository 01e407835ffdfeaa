//! Reading a whole log at the start, and refusing it if it contradicts itself.
//!
//! Every record is read and its checksum verified. redb's commits are atomic, so there is no torn tail to cut here: a
//! record that fails is damage, wherever it stands, and cutting it off could drop an acknowledged entry.

use quorate_raft::{HardState, LogIndex};
use redb::ReadTransaction;

use super::shape::LogShape;
use super::tables::{self, BaseRow, ENTRIES, EntryError, LOG_FORMAT, MetaKey, NodeRow, decode_entry};
use crate::disk::LOG_FILE;
use crate::error::OpenError;
use crate::meta::MetaRows;

/// All that a log file says, but for the payloads.
pub(super) struct Scanned {
    pub(super) node: NodeRow,
    pub(super) hard_state: HardState,
    pub(super) shape: LogShape,
    pub(super) entry_bytes: u64,
}

pub(super) fn scan(transaction: &ReadTransaction) -> Result<Scanned, OpenError> {
    let rows = MetaRows::open(LOG_FILE, transaction)?;
    rows.check_format(LOG_FORMAT)?;
    let node = rows.require(MetaKey::Node.name(), NodeRow::decode)?;
    let hard_state = tables::hard_state(&rows)?;
    let base = BaseRow::decode(&rows)?;
    let mut shape = LogShape::empty(base.base, base.membership);
    let entry_bytes = push_entries(transaction, &mut shape)?;
    let commit = if mutant!(DamageCutOff) { hard_state.commit.min(shape.last) } else { hard_state.commit };
    let hard_state = HardState { commit, ..hard_state };
    check_bounds(&hard_state, &shape)?;
    Ok(Scanned { node, hard_state, shape, entry_bytes })
}

/// Adds every entry to the shape; answers their sizes, summed.
fn push_entries(transaction: &ReadTransaction, shape: &mut LogShape) -> Result<u64, OpenError> {
    let mut bytes = 0;
    let failed = |error: redb::Error| OpenError::from_redb(LOG_FILE, error);
    let table = transaction.open_table(ENTRIES).map_err(|error| failed(error.into()))?;
    for row in table.range::<u64>(..).map_err(|error| failed(error.into()))? {
        let (index, record) = row.map_err(|error| failed(error.into()))?;
        let index = LogIndex(index.value());
        let decoded = decode_entry(index, record.value());
        if mutant!(DamageCutOff) && matches!(decoded, Err(EntryError::Damaged(_))) {
            break;
        }
        let entry = decoded.map_err(|error| match error {
            EntryError::Damaged(detail) => OpenError::damaged(LOG_FILE, format!("{detail} ({})", place(index, shape))),
            EntryError::Unknown(source) => OpenError::UnknownEntry { index, source },
        })?;
        shape.push(&entry).map_err(|detail| OpenError::damaged(LOG_FILE, detail))?;
        bytes += entry.size() as u64;
    }
    Ok(bytes)
}

fn place(index: LogIndex, shape: &LogShape) -> String {
    format!("the log begins after entry {}, entries up to {} are sound", shape.base.0, LogIndex(index.0 - 1))
}

fn check_bounds(hard_state: &HardState, shape: &LogShape) -> Result<(), OpenError> {
    if hard_state.commit > shape.last {
        let detail = format!(
            "entries up to {} are known to be committed, but the last one is {}",
            hard_state.commit, shape.last
        );
        return Err(OpenError::damaged(LOG_FILE, detail));
    }
    if hard_state.commit < shape.base.0 {
        let detail =
            format!("the log begins after entry {}, but only {} is committed", shape.base.0, hard_state.commit);
        return Err(OpenError::damaged(LOG_FILE, detail));
    }
    if hard_state.term < shape.last_term() {
        let detail = format!("the last entry has term {}, the node only term {}", shape.last_term(), hard_state.term);
        return Err(OpenError::damaged(LOG_FILE, detail));
    }
    Ok(())
}
