//! How large the numbers may be that others name.
//!
//! Both rise by one at a time, so what is above these bounds is garbage. A node that took it over would run out of numbers, and
//! again at each start once it is on its disk.

use quorate_raft::{LogIndex, Term};

use crate::DecodeError;

/// Terms rise by one an election.
const MAX_TERM: u64 = 1 << 62;

/// Indexes rise by one an entry.
const MAX_INDEX: u64 = u64::MAX / 2 - 1;

/// A term that `what` names.
///
/// # Errors
/// [`DecodeError::Malformed`] if no election reaches it.
pub fn from_term(what: &'static str, term: u64) -> Result<Term, DecodeError> {
    if term > MAX_TERM {
        return Err(DecodeError::malformed(what, format_args!("term {term}")));
    }
    Ok(Term(term))
}

/// The index of an entry that is `after` places behind one that `what` names.
pub(crate) fn from_index(what: &'static str, index: u64, after: usize) -> Result<LogIndex, DecodeError> {
    let place = index.checked_add(after as u64).filter(|place| *place <= MAX_INDEX);
    place.map(LogIndex).ok_or_else(|| DecodeError::malformed(what, format_args!("index {index}")))
}
