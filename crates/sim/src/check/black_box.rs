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
        Operation::Swap { to, matched: None, .. } => call.returned.is_some() || met.contains(&Some(to)),
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

/// Whether an operation changes nothing where it may happen, and is sure to have happened: it may as well come at once.
fn leaves(value: Value, call: &Call) -> bool {
    call.returned.is_some()
        && match call.operation {
            Operation::Read(seen) => seen == value,
            Operation::Swap { from, matched: Some(false), .. } => from != value,
            Operation::Write(_) | Operation::Swap { .. } => false,
        }
}

/// What a call that is sure to have happened wants to find, if it wants something.
fn wants(call: &Call) -> Option<u64> {
    match call.operation {
        Operation::Read(seen) => seen,
        Operation::Swap { from, matched: Some(true), .. } => from,
        Operation::Write(_) | Operation::Swap { .. } => None,
    }
    .filter(|_| call.returned.is_some())
}

struct Step {
    /// The call that was put next.
    call: usize,
    /// The value before it.
    before: Value,
    /// No call before this one was open.
    first: usize,
}

struct Search<'a> {
    calls: &'a [Call],
    /// A set of calls is known by the sum of its members' random names.
    names: Vec<u64>,
    placed: Vec<bool>,
    /// All calls before it are placed.
    first: usize,
    /// Calls not placed yet that have to be.
    open: usize,
    /// How many of them want to find a value that no two calls write: it cannot go before they have come.
    wanted: BTreeMap<u64, usize>,
    seen: HashSet<(u64, Value)>,
    path: Vec<Step>,
    set: u64,
    value: Value,
}

fn search(calls: &[Call]) -> Found {
    let mut calls = relevant(calls);
    calls.sort_by_key(|call| call.invoked);
    Search::new(&calls).run()
}

impl<'a> Search<'a> {
    fn new(calls: &'a [Call]) -> Search<'a> {
        let mut random = Random::new(calls.len() as u64);
        let mut writers: BTreeMap<u64, usize> = BTreeMap::new();
        for call in calls {
            let (Operation::Write(Some(to)) | Operation::Swap { to, .. }) = call.operation else { continue };
            *writers.entry(to).or_default() += 1;
        }
        let mut wanted: BTreeMap<u64, usize> = BTreeMap::new();
        for value in calls.iter().filter_map(wants).filter(|value| writers.get(value) == Some(&1)) {
            *wanted.entry(value).or_default() += 1;
        }
        Search {
            calls,
            names: calls.iter().map(|_| random.next()).collect(),
            placed: vec![false; calls.len()],
            first: 0,
            open: calls.iter().filter(|call| call.returned.is_some()).count(),
            wanted,
            seen: HashSet::new(),
            path: Vec::new(),
            set: 0,
            value: None,
        }
    }

    fn run(mut self) -> Found {
        let mut from = 0;
        for _ in 0..STEPS {
            if self.open == 0 {
                return Found::Order;
            }
            from = if let Some((call, next)) = self.next_call(from) {
                self.place(call, next);
                0
            } else if let Some(step) = self.take_back() {
                // Nothing else needs to be tried in the place of a call that left all as it was.
                if leaves(step.before, &self.calls[step.call]) { self.calls.len() } else { step.call + 1 }
            } else {
                return Found::Contradiction;
            };
        }
        Found::Nothing
    }

    /// How many calls want the value that this one wants.
    fn wanted_by(&mut self, call: usize) -> Option<&mut usize> {
        wants(&self.calls[call]).and_then(|value| self.wanted.get_mut(&value))
    }

    fn place(&mut self, call: usize, next: Value) {
        self.path.push(Step { call, before: self.value, first: self.first });
        self.set ^= self.names[call];
        if !leaves(self.value, &self.calls[call]) {
            self.seen.insert((self.set, next));
        }
        self.placed[call] = true;
        self.open -= usize::from(self.calls[call].returned.is_some());
        if let Some(count) = self.wanted_by(call) {
            *count -= 1;
        }
        self.value = next;
        while self.placed.get(self.first) == Some(&true) {
            self.first += 1;
        }
    }

    fn take_back(&mut self) -> Option<Step> {
        let step = self.path.pop()?;
        self.set ^= self.names[step.call];
        self.placed[step.call] = false;
        self.open += usize::from(self.calls[step.call].returned.is_some());
        if let Some(count) = self.wanted_by(step.call) {
            *count += 1;
        }
        self.value = step.before;
        self.first = step.first;
        Some(step)
    }

    /// A call from `from` on that may come next, with the value after it: nothing unplaced returned before it began. The first
    /// that leaves all as it is, or else the first.
    fn next_call(&self, from: usize) -> Option<(usize, Value)> {
        let mut chosen = None;
        let mut earliest_return = Instant(u64::MAX);
        for index in self.first..self.calls.len() {
            if self.placed[index] {
                continue;
            }
            let call = &self.calls[index];
            if call.invoked > earliest_return {
                break;
            }
            earliest_return = earliest_return.min(call.returned.unwrap_or(Instant(u64::MAX)));
            if index < from {
                continue;
            }
            if leaves(self.value, call) {
                return Some((index, self.value));
            }
            if chosen.is_none() {
                let next = after(self.value, call.operation).filter(|next| self.is_fresh(index, *next));
                chosen = next.map(|next| (index, next));
            }
        }
        chosen
    }

    /// Whether the call leads where the search has not been, and leaves no call behind that can never come any more.
    fn is_fresh(&self, call: usize, next: Value) -> bool {
        let lost = self.value.filter(|_| next != self.value).and_then(|value| self.wanted.get(&value));
        let own = usize::from(wants(&self.calls[call]).is_some());
        lost.is_none_or(|waiting| *waiting <= own) && !self.seen.contains(&(self.set ^ self.names[call], next))
    }
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

    /// Every order, one after the other.
    fn some_order(calls: &[Call], placed: &mut Vec<usize>, value: Value) -> bool {
        let is_open = |index: &usize| !placed.contains(index);
        let open: Vec<usize> = (0..calls.len()).filter(is_open).collect();
        if open.iter().all(|index| calls[*index].returned.is_none()) {
            return true;
        }
        open.iter().any(|index| {
            let call = &calls[*index];
            let waits = |other: &usize| calls[*other].returned.is_some_and(|returned| returned < call.invoked);
            let Some(next) = after(value, call.operation).filter(|_| !open.iter().any(waits)) else { return false };
            placed.push(*index);
            let found = some_order(calls, placed, next);
            placed.pop();
            found
        })
    }

    #[test]
    fn search_finds_an_order_exactly_where_there_is_one() {
        let mut random = Random::new(1);
        let mut found = [0, 0];
        for _ in 0..20_000 {
            let calls: Vec<Call> = (1..=random.between(2, 6))
                .map(|number| {
                    let invoked = random.below(12);
                    let returned = random.chance(800_000).then(|| invoked + 1 + random.below(6));
                    let some = random.pick(&[None, Some(1), Some(2), Some(3)]).copied().expect("choices");
                    let operation = match random.below(6) {
                        0..=2 => Operation::Read(some),
                        3 => Operation::Write(Some(random.pick(&[number, number, 1]).copied().expect("choices"))),
                        4 => Operation::Write(None),
                        _ => {
                            let matched =
                                returned.and(random.pick(&[Some(true), Some(false), None]).copied().flatten());
                            Operation::Swap { from: some, to: number, matched }
                        }
                    };
                    call(invoked, returned, operation)
                })
                .collect();
            let expected = some_order(&calls, &mut Vec::new(), None);
            assert_eq!(search(&calls), if expected { Found::Order } else { Found::Contradiction }, "{calls:?}");
            found[usize::from(expected)] += 1;
        }
        assert!(found.iter().all(|count| *count > 1_000), "{found:?}");
    }

    #[test]
    fn many_readers_at_once_are_no_hard_question() {
        let mut calls: Vec<Call> = (0..20).map(|open| call(open, None, Operation::Write(Some(open)))).collect();
        for round in 0..200 {
            let at = 100 * round;
            calls.push(call(at, Some(at + 90), Operation::Write(Some(100 + round))));
            calls.extend((0..20).map(|reader| call(at + reader, Some(at + 95), Operation::Read(Some(100 + round)))));
        }
        // Each open write is met once, at the end.
        let late = |open| call(30_000 + 10 * open, Some(30_005 + 10 * open), Operation::Read(Some(open)));
        calls.extend((0..20).map(late));
        assert_eq!(search(&calls), Found::Order);
        calls.push(call(50_000, Some(50_001), Operation::Read(Some(100))));
        assert_eq!(search(&calls), Found::Contradiction);
    }
}
