//! What the general mix of clients asks for: puts, deletions, swaps, transactions over several keys with ranges between,
//! old revisions, compaction, and reads in all modes.

use std::time::Duration;

use bytes::Bytes;
use quorate_kv::{
    Command, CompactRequest, Compare, CompareResult, CompareTarget, DeleteRangeRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest,
};
use quorate_node::{Consistency, OnStale, ReadOptions};

use super::clients::{Clients, all_keys, key_name};
use super::reading::draw_order;
use crate::check::black_box::Operation;
use crate::random::Random;

impl Clients {
    fn new_value(&mut self, random: &mut Random) -> (u64, Bytes) {
        self.next_id += 1;
        let mut value = self.next_id.to_le_bytes().to_vec();
        let most = if random.chance(20_000) { 5_000 } else { 30 };
        value.resize(8 + random.below(most) as usize, 0);
        (self.next_id, Bytes::from(value))
    }

    pub(super) fn put(&mut self, random: &mut Random, key: u64) -> (u64, PutRequest) {
        let (id, value) = self.new_value(random);
        (id, PutRequest { key: key_name(key), value, ..PutRequest::default() })
    }

    /// Draws a write; with it, what it does to each key as far as clients can tell.
    pub(super) fn draw_write(&mut self, random: &mut Random, keys: u64) -> (Command, Vec<(u64, Operation)>, Vec<u64>) {
        let key = random.below(keys);
        match random.below(21) {
            0 if random.coin() => (self.draw_touch(random, key), Vec::new(), Vec::new()),
            0..=9 => {
                let (id, put) = self.put(random, key);
                (Command::Put(put), vec![(key, Operation::Write(Some(id)))], vec![id])
            }
            10..=14 => self.draw_swap(random, key),
            15..=16 => {
                let delete = DeleteRangeRequest { key: key_name(key), ..DeleteRangeRequest::default() };
                (Command::DeleteRange(delete), vec![(key, Operation::Write(None))], Vec::new())
            }
            17 => {
                let (key, range_end) = all_keys();
                let delete = DeleteRangeRequest { key, range_end, prev_kv: false };
                let calls = (0..keys).map(|key| (key, Operation::Write(None))).collect();
                (Command::DeleteRange(delete), calls, Vec::new())
            }
            18 => {
                let (first, one) = self.put(random, key);
                let other = (key + 1) % keys;
                let mut success = vec![RequestOp::Put(one)];
                let mut calls = vec![(key, Operation::Write(Some(first)))];
                let mut ids = vec![first];
                if other != key {
                    let (second, two) = self.put(random, other);
                    success.push(RequestOp::Put(two));
                    calls.push((other, Operation::Write(Some(second))));
                    ids.push(second);
                }
                (Command::Txn(TxnRequest { compare: Vec::new(), success, failure: Vec::new() }), calls, ids)
            }
            19 => (self.draw_old_read(random, key), Vec::new(), Vec::new()),
            _ => {
                // Some are of the future, where nothing was written since, and are refused.
                let revision = self.last_revision + 2 - random.below(20) as i64;
                (Command::Compact(CompactRequest { revision, physical: false }), Vec::new(), Vec::new())
            }
        }
    }

    /// A transaction that reads at an old revision, perhaps a compacted one, and writes a key that nobody else looks at.
    fn draw_old_read(&mut self, random: &mut Random, key: u64) -> Command {
        let revision = (self.last_revision - random.below(30) as i64).max(1);
        let mut read = RangeRequest { key: key_name(key), revision, ..RangeRequest::default() };
        if random.coin() {
            // At what is current, so that it is not refused as a rule: all keys, in some order, cut somewhere.
            (read.key, read.range_end) = all_keys();
            (read.sort_order, read.sort_target) = draw_order(random);
            read.limit = random.below(4) as i64;
            read.revision = if random.coin() { revision } else { 0 };
        }
        let (_, value) = self.new_value(random);
        let put = PutRequest { key: Bytes::from_static(b"unread"), value, ..PutRequest::default() };
        let success = vec![RequestOp::Range(read), RequestOp::Put(put)];
        Command::Txn(TxnRequest { compare: Vec::new(), success, failure: Vec::new() })
    }

    /// A put that keeps the value there is, and perhaps the lease: to clients nothing has changed.
    fn draw_touch(&self, random: &mut Random, key: u64) -> Command {
        if random.chance(250_000) {
            // Of a key that an open-ended deletion before it has taken away nothing can be kept: this is refused, whole.
            let range_end = Bytes::from_static(b"\0");
            let delete = DeleteRangeRequest { key: key_name(key), range_end, prev_kv: false };
            let put = PutRequest { key: key_name(key), ignore_value: true, ..PutRequest::default() };
            let success = vec![RequestOp::DeleteRange(delete), RequestOp::Put(put)];
            return Command::Txn(TxnRequest { compare: Vec::new(), success, failure: Vec::new() });
        }
        let (ignore_lease, prev_kv) = (random.coin(), random.coin());
        let put = PutRequest { key: key_name(key), ignore_value: true, ignore_lease, prev_kv, ..PutRequest::default() };
        Command::Put(put)
    }

    fn draw_swap(&mut self, random: &mut Random, key: u64) -> (Command, Vec<(u64, Operation)>, Vec<u64>) {
        // Usually the value this client saw last, so that both branches are taken.
        let from = self.last_seen.get(&key).copied().filter(|_| !random.chance(100_000));
        let (id, put) = self.put(random, key);
        let target = match from {
            // Values differ in length, so the whole one is needed; it is known from the replay by its number.
            Some(from) => match self.model.value_of(from) {
                Some(value) => CompareTarget::Value(value),
                None => CompareTarget::Version(0),
            },
            None => CompareTarget::Version(0),
        };
        let from = from.filter(|_| matches!(target, CompareTarget::Value(_)));
        let compare = Compare { key: key_name(key), range_end: Bytes::new(), target, result: CompareResult::Equal };
        let read = RangeRequest { key: key_name(key), ..RangeRequest::default() };
        let txn = TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp::Put(put)],
            failure: vec![RequestOp::Range(read)],
        };
        (Command::Txn(txn), vec![(key, Operation::Swap { from, to: id, matched: None })], vec![id])
    }

    pub(super) fn draw_read(&self, random: &mut Random, timeout_us: u64) -> ReadOptions {
        let consistency = match random.below(10) {
            0..=3 => Consistency::Default,
            4..=6 => Consistency::Consistent,
            _ => Consistency::Stale,
        };
        let stale = consistency == Consistency::Stale;
        ReadOptions {
            consistency,
            max_staleness: (stale && random.coin()).then(|| Duration::from_micros(random.below(timeout_us * 3))),
            on_stale: *random.pick(&[OnStale::Refuse, OnStale::Wait, OnStale::Forward]).expect("choices"),
            min_revision: random.chance(200_000).then(|| self.last_revision + random.below(3) as i64),
        }
    }
}
