//! A second, plain implementation of the part of the key space that the workload uses: what the committed log must have
//! come to, written without a look at the first.
//!
//! Keeps everything for ever, so that any read at any revision can be compared with it (stale reads included).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_kv::{
    Command, Compare, CompareResult, CompareTarget, KeyValue, LeaseGrantRequest, LeaseGrantResponse, Outcome,
    PutRequest, RangeRequest, RangeResponse, RequestOp, Response, ResponseBody, TxnRequest,
};
use quorate_raft::{Entry, Incarnation, LogIndex, NodeId, Payload};
use quorate_wire::decode_envelope;

use super::rights::Rights;

use super::lease_model::LeaseModel;

/// A key's content at some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    value: Bytes,
    create_revision: i64,
    version: i64,
}

/// What one entry came to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Effects {
    revision: i64,
    compact_revision: i64,
    answer: ModelAnswer,
}

/// The parts of an answer that the model knows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ModelAnswer {
    Nothing,
    Put,
    Deleted(i64),
    Txn {
        succeeded: bool,
    },
    Compacted,
    Clock,
    /// No key is touched.
    Aside,
    Granted(LeaseGrantResponse),
    Revoked,
    Renewed(Vec<i64>),
    Expired(bool),
    Refused,
}

/// The key space as the committed log makes it.
#[derive(Debug)]
pub(super) struct Model {
    revision: i64,
    compact_revision: i64,
    keys: BTreeMap<Bytes, Vec<(i64, Option<Version>)>>,
    leases: LeaseModel,
    /// What each entry came to, from index 1 on.
    effects: Vec<Effects>,
    requests: BTreeSet<(NodeId, Incarnation, u64)>,
    /// Values ever written, by the number in front of them.
    written: BTreeMap<u64, (i64, Bytes)>,
    rights: Rights,
}

impl Default for Model {
    fn default() -> Self {
        Model {
            revision: 1,
            compact_revision: -1,
            keys: BTreeMap::new(),
            leases: LeaseModel::default(),
            effects: Vec::new(),
            requests: BTreeSet::new(),
            written: BTreeMap::new(),
            rights: Rights::default(),
        }
    }
}

/// The number a client put in front of a value.
pub(super) fn value_id(value: &[u8]) -> u64 {
    u64::from_le_bytes(*value.first_chunk().expect("every value begins with its number"))
}

impl Model {
    /// Last entry it has seen.
    pub(super) fn applied(&self) -> LogIndex {
        LogIndex(self.effects.len() as u64)
    }

    /// Takes in the next committed entry and gives its command; earlier ones are known.
    pub(super) fn apply(&mut self, entry: &Entry) -> Option<Command> {
        if entry.index <= self.applied() {
            return None;
        }
        assert!(entry.index == self.applied().next(), "the model misses {}", self.applied().next());
        let mut command = None;
        let answer = match &entry.payload {
            Payload::Command(bytes) => {
                let envelope = decode_envelope(bytes).expect("a committed command can be read");
                let request = (envelope.origin, envelope.incarnation, envelope.sequence);
                let first = self.requests.insert(request);
                assert!(first, "I-19: request {request:?} takes effect again at {}", entry.index);
                let void = self.rights.refuse(&envelope.actor, &envelope.command);
                let answer = if void { ModelAnswer::Refused } else { self.execute(&envelope.command) };
                command = Some(envelope.command);
                answer
            }
            _ => ModelAnswer::Nothing,
        };
        let (revision, compact_revision) = (self.revision, self.compact_revision);
        self.effects.push(Effects { revision, compact_revision, answer });
        command
    }

    fn execute(&mut self, command: &Command) -> ModelAnswer {
        let next = self.revision + 1;
        match command {
            Command::Put(put) if !self.leases.is_known(put.lease) => ModelAnswer::Refused,
            Command::Put(put) => {
                self.put(next, put);
                self.revision = next;
                ModelAnswer::Put
            }
            Command::DeleteRange(delete) => {
                let deleted = self.delete(next, &delete.key, &delete.range_end);
                self.revision += i64::from(deleted > 0);
                ModelAnswer::Deleted(deleted)
            }
            Command::Txn(txn) if self.reads_out_of_bounds(txn) => ModelAnswer::Refused,
            Command::Txn(txn) => {
                let (succeeded, changed) = self.transact(next, txn);
                self.revision += i64::from(changed);
                ModelAnswer::Txn { succeeded }
            }
            Command::Compact(compact) => {
                if compact.revision > self.revision || compact.revision <= self.compact_revision {
                    return ModelAnswer::Refused;
                }
                self.compact_revision = compact.revision;
                ModelAnswer::Compacted
            }
            Command::Auth(change) if self.rights.change(change) => ModelAnswer::Aside,
            Command::Auth(_) => ModelAnswer::Refused,
            Command::Alarm(_) => ModelAnswer::Aside,
            Command::Clock(now) => {
                self.leases.set_clock(*now);
                ModelAnswer::Clock
            }
            Command::LeaseGrant(LeaseGrantRequest { id, ttl_seconds }) => match self.leases.grant(*id, *ttl_seconds) {
                true => ModelAnswer::Granted(LeaseGrantResponse { id: *id, ttl_seconds: *ttl_seconds }),
                false => ModelAnswer::Refused,
            },
            Command::LeaseRenew { ids } => ModelAnswer::Renewed(self.leases.renew(ids)),
            Command::LeaseRevoke { id } if !self.leases.is_known(*id) => ModelAnswer::Refused,
            Command::LeaseRevoke { id } => {
                self.end_lease(next, *id);
                ModelAnswer::Revoked
            }
            Command::LeaseExpire(due) => {
                let expired = self.leases.has_run_out(*due);
                if expired {
                    self.end_lease(next, due.id);
                }
                ModelAnswer::Expired(expired)
            }
        }
    }

    /// Whether the branch that would be taken reads at a revision that is compacted or yet to come.
    fn reads_out_of_bounds(&self, txn: &TxnRequest) -> bool {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        branch.iter().any(|operation| match operation {
            RequestOp::Range(range) => {
                range.revision != 0 && (range.revision > self.revision || range.revision < self.compact_revision)
            }
            _ => false,
        })
    }

    fn end_lease(&mut self, next: i64, id: i64) {
        let keys = self.leases.end(id);
        for key in &keys {
            assert_eq!(self.delete(next, key, &Bytes::new()), 1, "a key of a lease is alive");
        }
        self.revision += i64::from(!keys.is_empty());
    }

    fn transact(&mut self, next: i64, txn: &TxnRequest) -> (bool, bool) {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let mut changed = false;
        for operation in if succeeded { &txn.success } else { &txn.failure } {
            match operation {
                RequestOp::Put(put) => {
                    self.put(next, put);
                    changed = true;
                }
                RequestOp::DeleteRange(delete) => changed |= self.delete(next, &delete.key, &delete.range_end) > 0,
                RequestOp::Range(_) => {}
                RequestOp::Txn(_) => unreachable!("the workload nests no transactions"),
            }
        }
        (succeeded, changed)
    }

    fn holds(&self, compare: &Compare) -> bool {
        let now = self.at(&compare.key, self.revision);
        let mod_revision = now.map_or(0, |(at, _)| at);
        let version = now.map(|(_, version)| version);
        let number = |left: i64, right: i64| match compare.result {
            CompareResult::Equal => left == right,
            CompareResult::Greater => left > right,
            CompareResult::Less => left < right,
            CompareResult::NotEqual => left != right,
        };
        match &compare.target {
            CompareTarget::Version(right) => number(version.map_or(0, |it| it.version), *right),
            CompareTarget::Create(right) => number(version.map_or(0, |it| it.create_revision), *right),
            CompareTarget::Mod(right) => number(mod_revision, *right),
            CompareTarget::Value(right) => {
                assert_eq!(compare.result, CompareResult::Equal, "the workload compares values for equality");
                version.is_some_and(|it| it.value == *right)
            }
            CompareTarget::Lease(right) => number(self.leases.holder(&compare.key), *right),
        }
    }

    fn put(&mut self, revision: i64, put: &PutRequest) {
        let (key, value) = (&put.key, &put.value);
        self.leases.attach(key, put.lease);
        let before = self.at(key, revision).map(|(_, version)| version.clone());
        let version = Version {
            value: value.clone(),
            create_revision: before.as_ref().map_or(revision, |it| it.create_revision),
            version: before.map_or(1, |it| it.version + 1),
        };
        self.written.insert(value_id(value), (revision, value.clone()));
        self.keys.entry(key.clone()).or_default().push((revision, Some(version)));
    }

    fn delete(&mut self, revision: i64, key: &Bytes, range_end: &Bytes) -> i64 {
        let keys: Vec<Bytes> = self.keys.keys().filter(|it| within(it, key, range_end)).cloned().collect();
        let mut deleted = 0;
        for key in keys {
            if self.at(&key, revision).is_some() {
                self.keys.get_mut(&key).expect("just seen").push((revision, None));
                self.leases.attach(&key, 0);
                deleted += 1;
            }
        }
        deleted
    }

    fn at(&self, key: &Bytes, revision: i64) -> Option<(i64, &Version)> {
        let versions = self.keys.get(key)?;
        let (at, version) = versions.iter().rev().find(|(at, _)| *at <= revision)?;
        Some((*at, version.as_ref()?))
    }

    /// I-14 and I-18: what a node made of an entry is what the model made of it.
    pub(super) fn check_outcome(&self, node: NodeId, index: LogIndex, outcome: &Outcome) {
        let effects = &self.effects[index.0 as usize - 1];
        assert!(
            outcome.revision.0 == effects.revision,
            "I-18: node {node} is at revision {} after {index}, the replay at {}",
            outcome.revision,
            effects.revision
        );
        let agrees = match (&outcome.result, &effects.answer) {
            (Ok(Response::Put(_)), ModelAnswer::Put) | (Ok(Response::Compact), ModelAnswer::Compacted) => true,
            (Ok(Response::DeleteRange(response)), ModelAnswer::Deleted(deleted)) => response.deleted == *deleted,
            (Ok(Response::Txn(response)), ModelAnswer::Txn { succeeded }) => response.succeeded == *succeeded,
            (Ok(Response::Auth(_) | Response::Alarm(_)), ModelAnswer::Aside) => true,
            (Ok(Response::LeaseGrant(response)), ModelAnswer::Granted(granted)) => response == granted,
            (Ok(Response::LeaseRenew { ttls_seconds }), ModelAnswer::Renewed(renewed)) => ttls_seconds == renewed,
            (Ok(Response::LeaseExpire { expired }), ModelAnswer::Expired(ended)) => expired == ended,
            (Ok(Response::Clock), ModelAnswer::Clock)
            | (Ok(Response::LeaseRevoke), ModelAnswer::Revoked)
            | (Err(_), ModelAnswer::Refused) => true,
            _ => false,
        };
        assert!(agrees, "I-14: node {node} answers {:?} at {index}, the replay {:?}", outcome.result, effects.answer);
    }

    /// Revision and compact revision after an entry.
    pub(super) fn revisions(&self, index: LogIndex) -> (i64, i64) {
        if index.0 == 0 {
            return (1, -1);
        }
        let effects = &self.effects[index.0 as usize - 1];
        (effects.revision, effects.compact_revision)
    }

    /// What a range of a single key or an interval reads at the current revision, in key order.
    pub(super) fn check_range(&self, node: NodeId, request: &RangeRequest, response: &RangeResponse) {
        let (key, range_end, revision) = (&request.key, &request.range_end, response.revision.0);
        let mut expected = Vec::new();
        for name in self.keys.keys().filter(|it| within(it, key, range_end)) {
            if let Some((at, version)) = self.at(name, revision) {
                expected.push((name.clone(), at, version.clone()));
            }
        }
        let count = expected.len();
        if request.limit > 0 {
            expected.truncate(request.limit as usize);
        }
        let seen = &response.kvs;
        let cut = seen.len() < count;
        let agrees = seen.len() == expected.len()
            && (response.count, response.more) == (count as i64, cut)
            && seen.iter().zip(&expected).all(|(seen, (name, at, version))| {
                seen.key == *name
                    && seen.mod_revision == *at
                    && seen.value == version.value
                    && seen.create_revision == version.create_revision
                    && seen.version == version.version
            });
        assert!(
            agrees,
            "I-14: node {node} answers {request:?} at revision {revision} with {response:?}, the replay {count}: {expected:?}"
        );
    }

    /// The revision at which the value of this number was written, if ever.
    pub(super) fn written_at(&self, id: u64) -> Option<i64> {
        self.written.get(&id).map(|(revision, _)| *revision)
    }

    /// The whole value of this number, if it was written.
    pub(super) fn value_of(&self, id: u64) -> Option<Bytes> {
        self.written.get(&id).map(|(_, value)| value.clone())
    }
}

fn within(name: &Bytes, key: &Bytes, range_end: &Bytes) -> bool {
    if range_end.is_empty() { name == key } else { name >= key && name < range_end }
}

/// What a transaction's nested range saw.
pub(super) fn ranges(response: &Response) -> impl Iterator<Item = &KeyValue> {
    let bodies = match response {
        Response::Txn(txn) => txn.responses.as_slice(),
        _ => &[],
    };
    bodies
        .iter()
        .filter_map(|op| match &op.body {
            ResponseBody::Range(range) => Some(range.kvs.iter()),
            _ => None,
        })
        .flatten()
}
