//! Random requests that are likely to meet: few keys, revisions around those that matter, and now and then nonsense. Here
//! those of KV; all others are in `services` and `lines`.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;

use super::random::Random;
use super::{Action, Answer, Call};

const KEYS: [&str; 10] = ["a", "aa", "ab", "b", "ba", "bb", "c", "ca", "d", "e"];
const VALUES: [&str; 4] = ["", "x", "y", "z"];
/// Levels of transactions in transactions.
const MAX_DEPTH: u32 = 2;

/// Makes the requests of one episode from its seed and from what etcd answered so far.
#[derive(Debug)]
pub(super) struct Generator {
    pub(super) random: Random,
    /// The newest revision any answer told.
    pub(super) revision: i64,
    compacted: i64,
    with: With,
    /// Create revisions of who became leader, by the number of the call.
    pub(super) candidates: BTreeMap<usize, i64>,
    /// The alarm that stands.
    pub(super) alarm: Option<i32>,
}

/// What is asked for in an episode beside everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum With {
    /// Users and their rights.
    Users,
    /// Locks and elections for which several wait. Nothing is compacted: etcd ends the wait of who has not yet begun to
    /// watch, which is a matter of the moment.
    Lines,
    Compactions,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Generator {
        let with = match seed % 3 {
            0 => With::Users,
            1 => With::Lines,
            _ => With::Compactions,
        };
        Generator {
            random: Random::new(seed),
            revision: 1,
            compacted: -1,
            with,
            candidates: BTreeMap::new(),
            alarm: None,
        }
    }

    /// Takes note of what a request has changed.
    pub(super) fn learn(&mut self, action: &Action, answer: &Answer) {
        let Answer::Message { revision, .. } = answer else { return };
        self.revision = self.revision.max(revision.unwrap_or(0));
        if let Call::Compact(request) = &action.call {
            self.compacted = request.revision;
        }
        if let Call::Alarm(request) = &action.call {
            match request.action() {
                AlarmAction::Activate if request.alarm != 0 => self.alarm = Some(request.alarm),
                AlarmAction::Deactivate if self.alarm == Some(request.alarm) => self.alarm = None,
                _ => {}
            }
        }
        self.learn_of_candidates(&action.call, answer);
    }

    pub(super) fn next(&mut self) -> Action {
        let node = usize::try_from(self.random.below(3)).expect("a small number");
        let call = match (self.random.below(20), self.alarm, self.with) {
            // So that an alarm hinders what follows for a while, and not all that does.
            (0, Some(alarm), _) => change_alarm(AlarmAction::Deactivate, alarm),
            (0..=9, ..) => self.keys(),
            (10..=13, _, With::Users) => self.users(),
            (10..=13, _, With::Lines) => self.line(),
            (14..=15, ..) => self.live_watch(),
            _ => self.service(),
        };
        let user = if self.with == With::Users { self.somebody() } else { None };
        Action { node, user, call }
    }

    fn keys(&mut self) -> Call {
        match self.random.below(43) {
            0..=13 => Call::Range(self.range()),
            14..=23 => Call::Put(self.put()),
            24..=27 => Call::DeleteRange(self.delete_range()),
            28..=37 => Call::Txn(survivable(self.txn(MAX_DEPTH))),
            38 if self.with != With::Lines => Call::Compact(self.compaction()),
            _ => Call::RangeStream(self.streamed_range()),
        }
    }

    pub(super) fn key(&mut self) -> Bytes {
        match self.random.below(50) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"\0"),
            2 => Bytes::from_static(b"\xff\xfe"),
            _ => Bytes::from_static(self.random.pick(&KEYS).as_bytes()),
        }
    }

    pub(super) fn range_end(&mut self) -> Bytes {
        match self.random.below(7) {
            0..=2 => Bytes::new(),
            3 => Bytes::from_static(b"\0"),
            _ => self.key(),
        }
    }

    pub(super) fn value(&mut self) -> Bytes {
        Bytes::from_static(self.random.pick(&VALUES).as_bytes())
    }

    pub(super) fn some_revision(&mut self) -> i64 {
        match self.random.below(10) {
            0..=4 => 0,
            5 => -self.random.below(3),
            6 => self.revision + 1,
            7 => self.compacted - 1 + self.random.below(3),
            _ => {
                let oldest = self.compacted.max(1);
                oldest + self.random.below(self.revision - oldest + 3)
            }
        }
    }

    fn compaction(&mut self) -> pb::CompactionRequest {
        let keeps_most = self.random.chance(70);
        let revision = if keeps_most { self.revision - self.random.below(20) } else { self.some_revision() };
        pb::CompactionRequest { revision, physical: self.random.chance(50) }
    }

    fn filter(&mut self) -> i64 {
        if self.random.chance(90) { 0 } else { self.revision - 30 + self.random.below(32) }
    }

    pub(super) fn range(&mut self) -> pb::RangeRequest {
        let nonsense = self.random.chance(1);
        pb::RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            limit: self.random.below(6) - 1,
            revision: self.some_revision(),
            sort_order: if nonsense { 7 } else { self.random.below(3) as i32 },
            sort_target: if self.random.chance(1) { 9 } else { self.random.below(5) as i32 },
            serializable: self.random.chance(30),
            keys_only: self.random.chance(10),
            count_only: self.random.chance(10),
            min_mod_revision: self.filter(),
            max_mod_revision: self.filter(),
            min_create_revision: self.filter(),
            max_create_revision: self.filter(),
        }
    }

    /// Mostly what a stream allows.
    fn streamed_range(&mut self) -> pb::RangeRequest {
        let range = self.range();
        if self.random.chance(20) {
            return range;
        }
        pb::RangeRequest {
            sort_order: 0,
            sort_target: 0,
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
            ..range
        }
    }

    pub(super) fn put(&mut self) -> pb::PutRequest {
        pb::PutRequest {
            key: self.key(),
            value: self.value(),
            lease: if self.random.chance(15) { self.lease() } else { 0 },
            prev_kv: self.random.chance(50),
            ignore_value: self.random.chance(6),
            ignore_lease: self.random.chance(6),
        }
    }

    pub(super) fn delete_range(&mut self) -> pb::DeleteRangeRequest {
        let one_key = self.random.chance(60);
        pb::DeleteRangeRequest {
            key: self.key(),
            range_end: if one_key { Bytes::new() } else { self.range_end() },
            prev_kv: self.random.chance(50),
        }
    }

    fn compare(&mut self) -> pb::Compare {
        use pb::compare::TargetUnion;
        let near = self.revision - 10 + self.random.below(11);
        let revision = if self.random.chance(40) { 0 } else { near };
        let target = self.random.below(5) as i32;
        // A union of another kind than the target says is read as if it were not there.
        let kind = if self.random.chance(10) { self.random.below(5) as i32 } else { target };
        let union = match kind {
            0 => TargetUnion::Version(self.random.below(4)),
            1 => TargetUnion::CreateRevision(revision),
            2 => TargetUnion::ModRevision(revision),
            3 => TargetUnion::Value(self.value()),
            _ => TargetUnion::Lease(if self.random.chance(50) { 0 } else { self.lease() }),
        };
        pb::Compare {
            result: self.random.below(4) as i32,
            target,
            key: self.key(),
            range_end: self.range_end(),
            target_union: if self.random.chance(5) { None } else { Some(union) },
        }
    }

    fn operation(&mut self, depth: u32) -> pb::RequestOp {
        use pb::request_op::Request;
        let request = match self.random.below(12) {
            0..=3 => Some(Request::RequestRange(self.range())),
            8 | 9 => Some(Request::RequestDeleteRange(self.delete_range())),
            10 if depth > 0 => Some(Request::RequestTxn(self.txn(depth - 1))),
            11 if self.random.chance(10) => None,
            _ => Some(Request::RequestPut(self.put())),
        };
        pb::RequestOp { request }
    }

    fn operations(&mut self, depth: u32, only_reads: bool) -> Vec<pb::RequestOp> {
        let count = self.random.below(4);
        let mut make = || {
            if only_reads {
                let range = pb::request_op::Request::RequestRange(self.range());
                return pb::RequestOp { request: Some(range) };
            }
            self.operation(depth)
        };
        (0..count).map(|_| make()).collect()
    }

    fn txn(&mut self, depth: u32) -> pb::TxnRequest {
        let only_reads = self.random.chance(15);
        let compares = self.random.below(3);
        pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.operations(depth, only_reads),
            failure: self.operations(depth, only_reads),
        }
    }
}

/// Puts that keep a field are made whole where the transaction has an open-ended deletion. etcd looks for such a put's key
/// before the transaction only and takes an open end for an empty interval in its search for duplicate keys: it lets the
/// two meet, does not find the key when the put's turn comes, and panics. Quorate refuses the transaction.
fn survivable(mut txn: pb::TxnRequest) -> pb::TxnRequest {
    if deletes_to_the_end(&txn) {
        fill_in(&mut txn);
    }
    txn
}

fn deletes_to_the_end(txn: &pb::TxnRequest) -> bool {
    use pb::request_op::Request;
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Request::RequestDeleteRange(delete)) => delete.range_end == b"\0".as_slice(),
        Some(Request::RequestTxn(inner)) => deletes_to_the_end(inner),
        _ => false,
    })
}

fn fill_in(txn: &mut pb::TxnRequest) {
    use pb::request_op::Request;
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestPut(put)) => (put.ignore_value, put.ignore_lease) = (false, false),
            Some(Request::RequestTxn(inner)) => fill_in(inner),
            _ => {}
        }
    }
}

/// Of the one member that both sides take for another.
pub(super) fn change_alarm(action: AlarmAction, alarm: i32) -> Call {
    Call::Alarm(pb::AlarmRequest { action: action.into(), member_id: 1, alarm })
}
