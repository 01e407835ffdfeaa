//! I-4: two logs that hold the same index and term are equal up to there.

use std::collections::HashMap;

use quorate_raft::{LogIndex, Term};

use crate::log_model::Chain;

/// Hash of the log that first held each index and term. Looked up only, never iterated.
#[derive(Debug, Default)]
pub(super) struct LogMatching {
    known: HashMap<(LogIndex, Term), Chain>,
}

impl LogMatching {
    pub(super) fn appended(&mut self, index: LogIndex, term: Term, chain: Chain) {
        let first = *self.known.entry((index, term)).or_insert(chain);
        assert!(first == chain, "I-4: two logs hold {index} of term {term} and differ up to there");
    }
}
