//! A record of the log or of the state that is wrong in a page that is right.

use redb::{ReadableTable, ReadableTableMetadata};

use super::{Choices, FaultyDisk};
use crate::database::{Commit, Database};
use crate::disk::{LOG_FILE, STATE_FILE};
use crate::error::OpenError;
use crate::log::ENTRIES;
use crate::state::RECORDS;

const CACHE_BYTES: usize = 1 << 20;

/// Flips one bit of one log entry under a sound page, as if it had flipped in memory after the record was sealed and before its page
/// was: no checksum of redb can tell. False if the log holds no entry. No process may have the file open.
///
/// # Errors
/// If the file cannot be opened or written.
pub fn rot_log_record(disk: &FaultyDisk, choices: &mut dyn Choices) -> Result<bool, OpenError> {
    let database = Database::open(disk, LOG_FILE, CACHE_BYTES)?;
    let rotten = database.write(Commit::Durable, |transaction| {
        let mut table = transaction.open_table(ENTRIES)?;
        let first = table.first()?.map(|(index, _)| index.value());
        let last = table.last()?.map(|(index, _)| index.value());
        let (Some(first), Some(last)) = (first, last) else { return Ok(false) };
        let index = first + choices.below(last - first + 1);
        let Some(mut record) = table.get(index)?.map(|record| record.value().to_vec()) else { return Ok(false) };
        flip_bit(&mut record, choices);
        table.insert(index, record.as_slice())?;
        Ok(true)
    })?;
    Ok(rotten)
}

/// The same with one record of the key space. False if the state holds none.
///
/// # Errors
/// If the file cannot be opened or written.
pub fn rot_state_record(disk: &FaultyDisk, choices: &mut dyn Choices) -> Result<bool, OpenError> {
    let database = Database::open(disk, STATE_FILE, CACHE_BYTES)?;
    let rotten = database.write(Commit::Durable, |transaction| {
        let mut table = transaction.open_table(RECORDS)?;
        let count = table.len()?;
        if count == 0 {
            return Ok(false);
        }
        let victim = choices.below(count) as usize;
        let Some(row) = table.iter()?.nth(victim) else { return Ok(false) };
        let (at, mut record) = row.map(|(at, record)| (at.value(), record.value().to_vec()))?;
        flip_bit(&mut record, choices);
        table.insert(at, record.as_slice())?;
        Ok(true)
    })?;
    Ok(rotten)
}

fn flip_bit(record: &mut [u8], choices: &mut dyn Choices) {
    let bit = choices.below(record.len() as u64 * 8) as usize;
    record[bit / 8] ^= 1 << (bit % 8);
}
