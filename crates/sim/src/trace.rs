//! The trace: a running hash of every event and effect, and the readable lines of `--verbose`.
//!
//! Two runs of one seed must end with the same hash. Nothing that depends on an address, a thread or the machine may
//! be recorded. Lines are made only when asked for: making them would cost more than the run.

use std::fmt;

use crate::clock::Instant;

/// What is recorded about one thing that happened: a kind and up to a few numbers.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    lanes: [u64; 2],
    records: u64,
    verbose: bool,
}

const MULTIPLIERS: [u64; 2] = [0x9fb2_1c65_1e98_df25, 0xc2b2_ae3d_27d4_eb4f];

impl Trace {
    /// An empty trace; `verbose` prints lines to standard error as well.
    pub(crate) fn new(verbose: bool) -> Trace {
        Trace { lanes: [0x2d35_8dcc_aa6c_78a5, 0x8bb8_4b93_962e_acc9], records: 0, verbose }
    }

    /// Adds one number.
    pub(crate) fn number(&mut self, number: u64) {
        for (lane, multiplier) in self.lanes.iter_mut().zip(MULTIPLIERS) {
            *lane = (lane.rotate_left(29) ^ number).wrapping_mul(multiplier);
            *lane ^= *lane >> 32;
        }
    }

    /// Adds a record of several numbers.
    pub(crate) fn record(&mut self, numbers: &[u64]) {
        self.records += 1;
        for &number in numbers {
            self.number(number);
        }
    }

    /// Adds bytes, with their length.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            self.number(u64::from_le_bytes(*chunk));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.number(u64::from_le_bytes(last));
    }

    /// Prints a line if lines are asked for. Part of no hash.
    pub(crate) fn line(&self, at: Instant, line: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("{at} {}", line());
        }
    }

    /// The hash so far.
    pub(crate) fn hash(&self) -> TraceHash {
        TraceHash((u128::from(self.lanes[0]) << 64 | u128::from(self.lanes[1])) ^ u128::from(self.records))
    }
}

/// Hash of a whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceHash(pub u128);

impl fmt::Display for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_content_change_the_hash() {
        let of = |numbers: &[u64]| {
            let mut trace = Trace::new(false);
            trace.record(numbers);
            trace.hash()
        };
        assert_eq!(of(&[1, 2, 3]), of(&[1, 2, 3]));
        assert_ne!(of(&[1, 2, 3]), of(&[1, 3, 2]));
        assert_ne!(of(&[0]), of(&[0, 0]));
    }
}
