//! Linearizability of each key from what clients saw alone: no log index, no revision, no other inside knowledge.
//!
//! Keys are independent registers, so each key's history is searched by itself (Wing and Gong, with Lowe's memory of
//! states seen). An operation of unknown outcome may have taken effect at any time after it began, or never. The search
//! gives up after a fixed number of steps; that is counted, and too many of them are a failure of the whole (`summary`).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::clock::Instant;
use crate::coverage::{Coverage, Reached};
use crate::random::Random;

/// What a key holds: the number of a write, or nothing.
pub(crate) type Value = Option<u64>;

/// What a client did to one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// It read this.
    Read(Value),
    /// It wrote this, or deleted the key.
    Write(Value),
    /// It wrote `to` if the key held `from`; `matched` says whether it did, if known.
    Swap {
        /// Wanted before.
        from: Value,
        /// Written then.
        to: u64,
        /// What the answer said.
        matched: Option<bool>,
    },
}

/// An operation with its time.
#[derive(Debug, Clone, Copy)]
struct Call {
    invoked: Instant,
    /// None = the outcome is unknown.
    returned: Option<Instant>,
    operation: Operation,
}

/// Handle of an operation that has not returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallId(u64, usize);

/// What all clients saw.
#[derive(Debug, Default)]
pub(crate) struct ClientHistory {
    keys: BTreeMap<u64, Vec<Option<Call>>>,
}

/// How a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// An order that explains everything.
    Order,
    /// There is none.
    Contradiction,
    /// It took too long.
    Nothing,
}

const STEPS: usize = 200_000;

impl ClientHistory {
    /// A client begins an operation on `key`; for a read, what it will return is told later.
    pub(crate) fn invoke(&mut self, key: u64, now: Instant, operation: Operation) -> CallId {
        let calls = self.keys.entry(key).or_default();
        calls.push(Some(Call { invoked: now, returned: None, operation }));
        CallId(key, calls.len() - 1)
    }

    /// It got its answer; `operation` holds what the answer said.
    pub(crate) fn returned(&mut self, id: CallId, now: Instant, operation: Operation) {
        let call = self.keys.get_mut(&id.0).and_then(|calls| calls[id.1].as_mut()).expect("it was invoked");
        call.returned = Some(now);
        call.operation = operation;
    }

    /// It certainly had no effect.
    pub(crate) fn never_happened(&mut self, id: CallId) {
        self.keys.get_mut(&id.0).expect("it was invoked")[id.1] = None;
    }

    /// Checks every key; counts those whose search was decided and those where it was not.
    ///
    /// # Panics
    /// If no order of some key's operations explains what clients saw.
    pub(crate) fn check(&self, coverage: &mut Coverage) {
        for (key, calls) in &self.keys {
            let calls: Vec<Call> = calls.iter().flatten().copied().collect();
            let found = search(&calls);
            assert!(
                found != Found::Contradiction,
                "linearizability: what clients saw of key {key} has no explanation: {calls:?}"
            );
            let decided = found == Found::Order;
            coverage.hit(if decided { Reached::HistoryDecided } else { Reached::HistoryUndecided });
        }
    }
}

/// Leaves out what no one can have seen: reads without an answer, and unknown writes of values that nobody met.
fn relevant(calls: &[Call]) -> Vec<Call> {
    let mut met: BTreeSet<Value> = BTreeSet::new();
    for call in calls {
        match call.operation {
            Operation::Read(value) if call.returned.is_some() => {
                met.insert(value);
            }
            Operation::Swap { from, matched: Some(true), .. } | Operation::Swap { from, matched: None, .. } => {
                met.insert(from);
            }
            // A swap that did not match met any value but the one it wanted; keep everything then.
            Operation::Swap { matched: Some(false), .. } => return without_open_reads(calls),
            _ => {}
        }
    }
    let mut kept = without_open_reads(calls);
    kept.retain(|call| match call.operation {
        Operation::Write(value) => call.returned.is_some() || met.contains(&value),
        Operation::Swap { to, matched: None, .. } => met.contains(&Some(to)),
        _ => true,
    });
    kept
}

fn without_open_reads(calls: &[Call]) -> Vec<Call> {
    let open_read = |call: &Call| call.returned.is_none() && matches!(call.operation, Operation::Read(_));
    calls.iter().filter(|call| !open_read(call)).copied().collect()
}

/// The value after `operation` on `value`, or none if the operation cannot have happened there.
fn after(value: Value, operation: Operation) -> Option<Value> {
    match operation {
        Operation::Read(seen) => (seen == value).then_some(value),
        Operation::Write(written) => Some(written),
        Operation::Swap { from, to, matched } => match (from == value, matched) {
            (true, Some(false)) | (false, Some(true)) => None,
            (true, _) => Some(Some(to)),
            (false, _) => Some(value),
        },
    }
}

struct Step {
    /// The call that was put next.
    call: usize,
    /// The value before it.
    before: Value,
}

fn search(calls: &[Call]) -> Found {
    let mut calls = relevant(calls);
    calls.sort_by_key(|call| call.invoked);
    // A set of calls is known by the sum of its members' random names.
    let mut random = Random::new(calls.len() as u64);
    let names: Vec<u64> = calls.iter().map(|_| random.next()).collect();
    let mut placed = vec![false; calls.len()];
    let mut open = calls.iter().filter(|call| call.returned.is_some()).count();
    let mut seen: HashSet<(u64, Value)> = HashSet::new();
    let (mut path, mut set, mut value, mut from) = (Vec::<Step>::new(), 0u64, None, 0);
    for _ in 0..STEPS {
        if open == 0 {
            return Found::Order;
        }
        match next_call(&calls, &placed, from, value, |call, next| !seen.contains(&(set ^ names[call], next))) {
            Some((call, next)) => {
                set ^= names[call];
                seen.insert((set, next));
                placed[call] = true;
                open -= usize::from(calls[call].returned.is_some());
                path.push(Step { call, before: value });
                value = next;
                from = 0;
            }
            None => {
                let Some(step) = path.pop() else { return Found::Contradiction };
                set ^= names[step.call];
                placed[step.call] = false;
                open += usize::from(calls[step.call].returned.is_some());
                value = step.before;
                from = step.call + 1;
            }
        }
    }
    Found::Nothing
}

/// The first call from `from` on that may come next: nothing unplaced returned before it began.
fn next_call(
    calls: &[Call],
    placed: &[bool],
    from: usize,
    value: Value,
    fresh: impl Fn(usize, Value) -> bool,
) -> Option<(usize, Value)> {
    let first = placed.iter().position(|placed| !placed)?;
    let mut earliest_return = Instant(u64::MAX);
    for index in first..calls.len() {
        if placed[index] {
            continue;
        }
        let call = &calls[index];
        if call.invoked > earliest_return {
            return None;
        }
        earliest_return = earliest_return.min(call.returned.unwrap_or(Instant(u64::MAX)));
        if index < from {
            continue;
        }
        if let Some(next) = after(value, call.operation)
            && fresh(index, next)
        {
            return Some((index, next));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(invoked: u64, returned: Option<u64>, operation: Operation) -> Call {
        Call { invoked: Instant(invoked), returned: returned.map(Instant), operation }
    }

    #[test]
    fn concurrent_read_may_see_either_value() {
        for seen in [None, Some(1)] {
            let calls = [call(0, Some(10), Operation::Write(Some(1))), call(5, Some(6), Operation::Read(seen))];
            assert_eq!(search(&calls), Found::Order);
        }
    }

    #[test]
    fn later_read_of_the_old_value_has_no_explanation() {
        let calls = [
            call(0, Some(1), Operation::Write(Some(1))),
            call(2, Some(3), Operation::Write(Some(2))),
            call(4, Some(5), Operation::Read(Some(1))),
        ];
        assert_eq!(search(&calls), Found::Contradiction);
    }

    #[test]
    fn unknown_write_may_appear_late_but_never_go_again() {
        let unknown = call(0, None, Operation::Write(Some(1)));
        let known = call(1, Some(2), Operation::Write(Some(2)));
        let reads = |values: &[u64]| {
            let mut calls = vec![unknown, known];
            for (i, &value) in values.iter().enumerate() {
                let at = 10 + 2 * i as u64;
                calls.push(call(at, Some(at + 1), Operation::Read(Some(value))));
            }
            search(&calls)
        };
        assert_eq!(reads(&[2, 1, 1]), Found::Order);
        assert_eq!(reads(&[2, 1, 2]), Found::Contradiction);
    }

    #[test]
    fn swap_takes_effect_once() {
        let swap = |at, matched| Operation::Swap { from: None, to: at, matched: Some(matched) };
        let both = [call(0, Some(9), swap(1, true)), call(0, Some(9), swap(2, true))];
        assert_eq!(search(&both), Found::Contradiction);
        let one = [call(0, Some(9), swap(1, true)), call(0, Some(9), swap(2, false))];
        assert_eq!(search(&one), Found::Order);
    }
}
