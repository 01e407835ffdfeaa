//! Transactions within transactions, with conditions on keys and on intervals, and requests at the limits of what is taken: one
//! below, the limit itself, and one past it.
//!
//! Each request goes through the same door as in a server, `quorate_kv::validate`. Whether it must be let in is counted here a
//! second time; what it does is compared with the replay like everything else.

use bytes::Bytes;
use quorate_kv::{
    Actor, Command, Compare, CompareResult, CompareTarget, DeleteRangeRequest, KvError, Limits, PutRequest,
    RangeRequest, RequestOp, TxnRequest, validate,
};
use quorate_node::{Answer, ClientOp};
use quorate_store::StateView;

use super::{Workload, value, written};
use crate::clock::Instant;
use crate::coverage::{Coverage, Reached};
use crate::random::Random;

/// Numbers of this workload's values, apart from all others.
const NUMBERS: u64 = 1 << 57;
const KEYS: u64 = 6;
/// Depth of what is drawn at random.
const DEPTH: u64 = 4;
/// Most transactions within each other that a node applies; part of the log's format.
const DEEPEST: usize = 24;
/// Most operations that the door lets into a transaction.
const MOST_OPERATIONS: usize = 128;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Trees {
    next: u64,
    values: u64,
    /// The newest revision that was told.
    revision: i64,
    /// What the limits that were met came to, not counted yet.
    met: Vec<Reached>,
}

fn key(random: &mut Random) -> Bytes {
    format!("tree/{}", random.below(KEYS)).into()
}

fn interval(random: &mut Random) -> (Bytes, Bytes) {
    let first = random.below(KEYS);
    let end = if random.coin() { Bytes::new() } else { format!("tree/{}", first + random.between(1, KEYS)).into() };
    (format!("tree/{first}").into(), end)
}

impl Trees {
    fn put(&mut self, key: Bytes, random: &mut Random) -> RequestOp {
        self.values += 1;
        let value = value(NUMBERS | self.values, b"");
        RequestOp::Put(PutRequest { key, value, prev_kv: random.coin(), ..PutRequest::default() })
    }

    fn compare(&self, random: &mut Random, revision: i64) -> Compare {
        let (key, range_end) = interval(random);
        let near = revision - random.below(12) as i64;
        let target = match random.below(6) {
            0 => CompareTarget::Version(random.below(4) as i64),
            1 => CompareTarget::Create(near),
            2 => CompareTarget::Mod(near),
            3 => CompareTarget::Lease(random.below(2) as i64),
            4 => CompareTarget::Mod(0),
            _ => CompareTarget::Value(value(NUMBERS | random.below(self.values + 1), b"")),
        };
        let results = [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];
        Compare { key, range_end, target, result: *random.pick(&results).expect("choices") }
    }

    fn operation(&mut self, random: &mut Random, depth: u64, revision: i64) -> RequestOp {
        match random.below(8) {
            0..=2 => {
                let key = key(random);
                self.put(key, random)
            }
            3 => {
                let (key, range_end) = interval(random);
                RequestOp::DeleteRange(DeleteRangeRequest { key, range_end, prev_kv: random.coin() })
            }
            4 | 5 if depth > 1 => RequestOp::Txn(self.tree(random, depth - 1, revision)),
            _ => {
                let (key, range_end) = interval(random);
                let limit = random.below(3) as i64;
                RequestOp::Range(RangeRequest { key, range_end, limit, ..RangeRequest::default() })
            }
        }
    }

    fn tree(&mut self, random: &mut Random, depth: u64, revision: i64) -> TxnRequest {
        let compare = (0..random.below(3)).map(|_| self.compare(random, revision)).collect();
        let mut branch = || (0..random.below(4)).map(|_| self.operation(random, depth, revision)).collect();
        let (success, failure) = (branch(), branch());
        TxnRequest { compare, success, failure }
    }

    /// As many operations as the limit, one less or one more, at the top or shared with a nested transaction.
    fn wide(&mut self, random: &mut Random) -> (TxnRequest, bool) {
        let operations = MOST_OPERATIONS - 1 + random.below(3) as usize;
        let nested = if random.coin() { random.between(1, 100) as usize } else { 0 };
        let read = || {
            let range =
                RangeRequest { key: Bytes::from_static(b"tree/0"), count_only: true, ..RangeRequest::default() };
            RequestOp::Range(range)
        };
        let inner = TxnRequest { success: (0..nested).map(|_| read()).collect(), ..TxnRequest::default() };
        let mut success: Vec<RequestOp> = (1..operations - nested).map(|_| read()).collect();
        success.push(if nested > 0 { RequestOp::Txn(inner) } else { self.put(Bytes::from_static(b"tree/0"), random) });
        let txn = TxnRequest { success, ..TxnRequest::default() };
        self.met.push(match operations.cmp(&MOST_OPERATIONS) {
            std::cmp::Ordering::Less => Reached::BelowOperationLimit,
            std::cmp::Ordering::Equal => Reached::AtOperationLimit,
            std::cmp::Ordering::Greater => Reached::PastOperationLimit,
        });
        (txn, operations <= MOST_OPERATIONS)
    }

    /// As deep as a node applies, one less or one more.
    fn deep(&mut self, random: &mut Random) -> (TxnRequest, bool) {
        let depth = DEEPEST - 1 + random.below(3) as usize;
        let first = self.put(Bytes::from_static(b"tree/1"), random);
        let mut txn = TxnRequest { success: vec![first], ..TxnRequest::default() };
        for _ in 1..depth {
            let inner = RequestOp::Txn(txn);
            txn = if random.coin() {
                TxnRequest { success: vec![inner], ..TxnRequest::default() }
            } else {
                let missing = Compare {
                    key: Bytes::from_static(b"tree/none"),
                    range_end: Bytes::new(),
                    target: CompareTarget::Version(0),
                    result: CompareResult::Greater,
                };
                TxnRequest { compare: vec![missing], success: Vec::new(), failure: vec![inner] }
            };
        }
        self.met.push(match depth.cmp(&DEEPEST) {
            std::cmp::Ordering::Less => Reached::BelowDepthLimit,
            std::cmp::Ordering::Equal => Reached::AtDepthLimit,
            std::cmp::Ordering::Greater => Reached::PastDepthLimit,
        });
        (txn, depth <= DEEPEST)
    }

    fn make_move(&mut self, random: &mut Random) -> Vec<(u64, ClientOp)> {
        let revision = self.revision;
        let (txn, let_in) = match random.below(16) {
            0 => self.wide(random),
            1 => self.deep(random),
            _ => {
                let txn = self.tree(random, DEPTH, revision);
                // Two changes of one key are refused by a rule of their own, which the door alone knows.
                let let_in = validate(&Command::Txn(txn.clone()), &Limits::default()).is_ok();
                (txn, let_in)
            }
        };
        let command = Command::Txn(txn);
        let judged = validate(&command, &Limits::default());
        let Command::Txn(txn) = command else { unreachable!("made above") };
        assert!(judged.is_ok() == let_in, "limits: {txn:?} is judged {judged:?}, and is to be let in: {let_in}");
        if let_in { self.call(txn) } else { Vec::new() }
    }

    fn call(&mut self, txn: TxnRequest) -> Vec<(u64, ClientOp)> {
        self.next += 1;
        vec![(self.next, ClientOp::Write { actor: Actor::Node, command: Command::Txn(txn) })]
    }
}

impl Workload for Trees {
    fn draw(&mut self, random: &mut Random, _now: Instant) -> Vec<(u64, ClientOp)> {
        // Many change a key twice, which the door refuses: a turn is several.
        (0..random.between(1, 4)).flat_map(|_| self.make_move(random)).collect()
    }

    fn answered(&mut self, call: u64, _now: Instant, answer: &Answer, _view: &StateView, coverage: &mut Coverage) {
        self.met.drain(..).for_each(|met| coverage.hit(met));
        let Some(result) = written(answer) else { return };
        if let Answer::Written(outcome) = answer {
            self.revision = self.revision.max(outcome.revision.0);
        }
        assert!(!matches!(result, Err(KvError::TooManyOps)), "limits: {call} was let in, and comes to {result:?}");
        if result.is_ok() {
            coverage.hit(Reached::TreeApplied);
        }
    }

    fn lost(&mut self, _call: u64, _now: Instant) {}
}
