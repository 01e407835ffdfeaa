//! What a client asks for next.
//!
//! Owns the choice of keys and values. Does no IO; the same seed, client and sequence numbers give the same requests.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, compare, request_op};

use super::options::{Consistency, Plan};

/// Values are windows into one random block of this many bytes more than a value, so no value costs a copy and no two
/// neighbouring ones are equal.
const VALUE_VARIETY: usize = 4096;
/// Keys one client updates by transactions. Few, since the first update of a key only learns its revision.
const UPDATED_KEYS: u64 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Put { sequential: bool },
    Range { consistency: Consistency },
    Mixed { consistency: Consistency, read_percent: u8 },
    Txn,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Put { .. } => "put",
            Kind::Range { .. } => "range",
            Kind::Mixed { .. } => "mixed",
            Kind::Txn => "txn",
        }
    }

    pub(super) fn consistency(self) -> Option<Consistency> {
        match self {
            Kind::Range { consistency } | Kind::Mixed { consistency, .. } => Some(consistency),
            Kind::Put { .. } | Kind::Txn => None,
        }
    }
}

/// The key space: `count` different keys of `size` bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) count: u64,
    pub(super) size: usize,
}

impl Keys {
    /// The key with this number: its decimal digits, with a filler before them.
    pub(super) fn key(self, number: u64) -> Bytes {
        debug_assert!(number <= self.count);
        let mut key = vec![b'k'; self.size];
        let mut rest = number;
        for digit in key.iter_mut().rev().take(8) {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        Bytes::from(key)
    }
}

/// One request, and what its answer has to be told to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operation {
    Put(PutRequest),
    Range(RangeRequest),
    /// `number` names the key to [`Generator::learn`].
    Txn {
        request: TxnRequest,
        number: u64,
    },
}

/// The requests of one client.
#[derive(Debug)]
pub(super) struct Generator {
    kind: Kind,
    keys: Keys,
    value_size: usize,
    block: Bytes,
    random: Random,
    /// This client's number, and how many there are.
    client: u64,
    clients: u64,
    /// Last known mod revision of keys this client updated.
    known: BTreeMap<u64, i64>,
}

impl Generator {
    /// The requests of `client`, one of the plan's clients.
    pub(super) fn new(plan: &Plan, client: u64) -> Self {
        let mut random = Random::new(plan.seed ^ client.wrapping_mul(0xd134_2543_de82_ef95));
        let block: Vec<u8> = (0..plan.value_size + VALUE_VARIETY).map(|_| random.next() as u8).collect();
        Generator {
            kind: plan.kind,
            keys: plan.keys,
            value_size: plan.value_size,
            block: block.into(),
            random,
            client,
            clients: plan.clients as u64,
            known: BTreeMap::new(),
        }
    }

    /// `sequence` is the operation's number over all clients.
    pub(super) fn next(&mut self, sequence: u64) -> Operation {
        match self.kind {
            Kind::Put { sequential: true } => self.put(sequence % self.keys.count),
            Kind::Put { sequential: false } => {
                let number = self.pick();
                self.put(number)
            }
            Kind::Range { consistency } => self.range(consistency),
            Kind::Mixed { consistency, read_percent } => {
                if self.random.below(100) < u64::from(read_percent) {
                    self.range(consistency)
                } else {
                    let number = self.pick();
                    self.put(number)
                }
            }
            Kind::Txn => self.update(),
        }
    }

    /// The key `number` was last changed at `mod_revision` (0 = it does not exist).
    pub(super) fn learn(&mut self, number: u64, mod_revision: i64) {
        self.known.insert(number, mod_revision);
    }

    fn pick(&mut self) -> u64 {
        self.random.below(self.keys.count)
    }

    fn put(&mut self, number: u64) -> Operation {
        Operation::Put(self.put_request(number))
    }

    fn put_request(&mut self, number: u64) -> PutRequest {
        let from = self.random.below(VALUE_VARIETY as u64) as usize;
        let value = self.block.slice(from..from + self.value_size);
        PutRequest { key: self.keys.key(number), value, ..PutRequest::default() }
    }

    fn range(&mut self, consistency: Consistency) -> Operation {
        let number = self.pick();
        Operation::Range(RangeRequest {
            key: self.keys.key(number),
            serializable: consistency == Consistency::Serializable,
            ..RangeRequest::default()
        })
    }

    /// Clients keep to keys of their own as long as the key space has enough of them.
    fn update(&mut self) -> Operation {
        let own = (self.keys.count / self.clients).clamp(1, UPDATED_KEYS);
        let number = (self.client + self.clients * self.random.below(own)) % self.keys.count;
        let key = self.keys.key(number);
        let expected = self.known.get(&number).copied().unwrap_or(0);
        let unchanged = Compare {
            result: compare::CompareResult::Equal.into(),
            target: compare::CompareTarget::Mod.into(),
            key: key.clone(),
            range_end: Bytes::new(),
            target_union: Some(compare::TargetUnion::ModRevision(expected)),
        };
        let put = request_op::Request::RequestPut(self.put_request(number));
        let read = request_op::Request::RequestRange(RangeRequest { key, ..RangeRequest::default() });
        let request = TxnRequest {
            compare: vec![unchanged],
            success: vec![RequestOp { request: Some(put) }],
            failure: vec![RequestOp { request: Some(read) }],
        };
        Operation::Txn { request, number }
    }
}

/// SplitMix64: enough for choosing keys, and no dependency.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, by a multiplication; its bias is far below what a benchmark could see.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const KEYS: Keys = Keys { count: 1000, size: 16 };

    fn generator(kind: Kind, client: u64) -> Generator {
        Generator::new(&Plan { kind, keys: KEYS, ..Plan::sample() }, client)
    }

    #[test]
    fn sequential_puts_visit_every_key_once() {
        let mut source = generator(Kind::Put { sequential: true }, 0);
        let keys: BTreeSet<Bytes> = (0..KEYS.count)
            .map(|sequence| match source.next(sequence) {
                Operation::Put(put) => put.key,
                other => panic!("not a put: {other:?}"),
            })
            .collect();
        assert_eq!(keys.len() as u64, KEYS.count);
    }

    #[test]
    fn random_puts_reach_most_of_the_key_space() {
        let mut source = generator(Kind::Put { sequential: false }, 0);
        let mut keys = BTreeSet::new();
        for sequence in 0..4 * KEYS.count {
            let Operation::Put(put) = source.next(sequence) else { panic!("not a put") };
            assert_eq!((put.key.len(), put.value.len()), (16, 64));
            keys.insert(put.key);
        }
        // 1 - e^-4 of the keys are expected; 95 % is eight deviations below.
        assert!(keys.len() as u64 > KEYS.count * 95 / 100, "only {} keys", keys.len());
    }

    #[test]
    fn same_seed_and_client_ask_for_the_same() {
        let kind = Kind::Mixed { consistency: Consistency::Linearizable, read_percent: 50 };
        let (mut first, mut again, mut other) = (generator(kind, 3), generator(kind, 3), generator(kind, 4));
        let run = |source: &mut Generator| (0..50).map(|n| source.next(n)).collect::<Vec<_>>();
        let expected = run(&mut first);
        assert_eq!(expected, run(&mut again));
        assert_ne!(expected, run(&mut other));
    }

    #[test]
    fn updaters_keep_to_their_own_keys() {
        let mut owners = BTreeMap::new();
        for client in 0..Plan::sample().clients as u64 {
            let mut source = generator(Kind::Txn, client);
            for sequence in 0..500 {
                let Operation::Txn { number, .. } = source.next(sequence) else { panic!("not a txn") };
                assert_eq!(*owners.entry(number).or_insert(client), client, "key {number}");
            }
        }
    }

    #[test]
    fn update_expects_the_revision_it_learnt() {
        let mut source = generator(Kind::Txn, 0);
        for number in 0..KEYS.count {
            source.learn(number, number as i64 + 5);
        }
        let Operation::Txn { request, number } = source.next(0) else { panic!("not a txn") };
        let expected = compare::TargetUnion::ModRevision(number as i64 + 5);
        assert_eq!(request.compare[0].target_union, Some(expected));
    }
}
