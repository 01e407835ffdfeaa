//! A second, plain implementation of the key space: what the committed log must have come to, written without a look at
//! the first.
//!
//! Keeps everything for ever, so that any answer, any refusal and any read at any revision can be compared with it (stale
//! reads included), whole: not only whether something happened, but all that is said about it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use quorate_kv::{
    Command, CompactRequest, Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, KeyValue,
    KvError, LeaseGrantResponse, Outcome, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, Response,
    ResponseBody, ResponseOp, TxnRequest, TxnResponse,
};
use quorate_raft::{Entry, Incarnation, LogIndex, NodeId, Payload};
use quorate_store::StateView;
use quorate_wire::decode_envelope;

use super::key_model::{KeyEvent, KeyModel, holds};
use super::lease_model::LeaseModel;
use super::rights::Rights;

/// What one entry came to.
#[derive(Debug, Clone)]
struct Effects {
    revision: i64,
    compact_revision: i64,
    /// None = it is no command, or one whose answer the model does not know.
    result: Option<Result<Response, KvError>>,
    /// Its changes, among all.
    events: Range<usize>,
}

/// The key space as the committed log makes it.
#[derive(Debug)]
pub(super) struct Model {
    revision: i64,
    compact_revision: i64,
    keys: KeyModel,
    leases: LeaseModel,
    rights: Rights,
    /// What each entry came to, from index 1 on.
    effects: Vec<Effects>,
    requests: BTreeSet<(NodeId, Incarnation, u64)>,
    /// Values ever written, by the number in front of them.
    written: BTreeMap<u64, (i64, Bytes)>,
}

impl Default for Model {
    fn default() -> Self {
        Model {
            revision: 1,
            compact_revision: -1,
            keys: KeyModel::default(),
            leases: LeaseModel::default(),
            rights: Rights::default(),
            effects: Vec::new(),
            requests: BTreeSet::new(),
            written: BTreeMap::new(),
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

    /// The revision and the compact revision it has come to.
    pub(super) fn newest(&self) -> (i64, i64) {
        (self.revision, self.compact_revision)
    }

    /// All changes there ever were, in order.
    pub(super) fn events(&self) -> &[KeyEvent] {
        self.keys.events()
    }

    /// Takes in the next committed entry; gives its command and what that came to. Earlier ones are known.
    pub(super) fn apply(&mut self, entry: &Entry) -> Option<(Command, Option<Result<Response, KvError>>)> {
        if entry.index <= self.applied() {
            return None;
        }
        assert!(entry.index == self.applied().next(), "the model misses {}", self.applied().next());
        let first = self.keys.events().len();
        let mut command = None;
        if let Payload::Command(bytes) = &entry.payload {
            let envelope = decode_envelope(bytes).expect("a committed command can be read");
            let request = (envelope.origin, envelope.incarnation, envelope.sequence);
            let fresh = self.requests.insert(request);
            assert!(fresh, "I-19: request {request:?} takes effect again at {}", entry.index);
            let result = match self.rights.refuse(&envelope.actor, &envelope.command, &self.leases) {
                Some(refused) => Some(Err(refused.into())),
                None => self.execute(&envelope.command),
            };
            command = Some((envelope.command, result));
        }
        let events = first..self.keys.events().len();
        self.revision += i64::from(!events.is_empty());
        let result = command.as_ref().and_then(|(_, result)| result.clone());
        let (revision, compact_revision) = (self.revision, self.compact_revision);
        self.effects.push(Effects { revision, compact_revision, result, events });
        command
    }

    fn execute(&mut self, command: &Command) -> Option<Result<Response, KvError>> {
        Some(match command {
            Command::Put(put) => match self.check_put(put) {
                Ok(()) => Ok(Response::Put(self.put(put))),
                Err(refused) => Err(refused),
            },
            Command::DeleteRange(delete) => Ok(Response::DeleteRange(self.delete(delete))),
            Command::Txn(txn) => match self.check_txn(txn) {
                Ok(()) => {
                    let before = self.keys.events().len();
                    Ok(Response::Txn(self.transact(txn, before)))
                }
                Err(refused) => Err(refused),
            },
            Command::Compact(compact) => self.compact(*compact),
            Command::Auth(change) => self.rights.change(change).map(Response::Auth).map_err(KvError::Auth),
            // Quota and decay are no matter of the log alone.
            Command::Alarm(_) => return None,
            Command::Clock(now) => {
                self.leases.set_clock(*now);
                Ok(Response::Clock)
            }
            Command::LeaseGrant(grant) => match self.leases.grant(grant.id, grant.ttl_seconds) {
                true => Ok(Response::LeaseGrant(LeaseGrantResponse { id: grant.id, ttl_seconds: grant.ttl_seconds })),
                false => Err(KvError::LeaseExists),
            },
            Command::LeaseRenew { ids } => Ok(Response::LeaseRenew { ttls_seconds: self.leases.renew(ids) }),
            Command::LeaseRevoke { id } if !self.leases.is_known(*id) => Err(KvError::LeaseNotFound),
            Command::LeaseRevoke { id } => {
                self.end_lease(*id);
                Ok(Response::LeaseRevoke)
            }
            Command::LeaseExpire(due) => {
                let expired = self.leases.has_run_out(*due);
                if expired {
                    self.end_lease(due.id);
                }
                Ok(Response::LeaseExpire { expired })
            }
        })
    }

    fn compact(&mut self, compact: CompactRequest) -> Result<Response, KvError> {
        if compact.revision <= self.compact_revision {
            return Err(KvError::Compacted);
        }
        if compact.revision > self.revision {
            return Err(KvError::FutureRevision);
        }
        self.compact_revision = compact.revision;
        Ok(Response::Compact)
    }

    fn check_put(&self, put: &PutRequest) -> Result<(), KvError> {
        if !self.leases.is_known(put.lease) {
            return Err(KvError::LeaseNotFound);
        }
        let keeps = put.ignore_value || put.ignore_lease;
        let missing = keeps && self.keys.at(&put.key, self.revision).is_none();
        if missing { Err(KvError::KeyNotFound) } else { Ok(()) }
    }

    /// What refuses a transaction, looked for in the branches that would be taken.
    fn check_txn(&self, txn: &TxnRequest) -> Result<(), KvError> {
        self.check_ops(txn, &mut Vec::new())
    }

    /// `deleted` is what operations before have deleted: of such a key nothing is left that a put could keep.
    fn check_ops<'a>(&self, txn: &'a TxnRequest, deleted: &mut Vec<&'a DeleteRangeRequest>) -> Result<(), KvError> {
        self.branch(txn).1.iter().try_for_each(|operation| match operation {
            RequestOp::Range(range) if range.revision > self.revision => Err(KvError::FutureRevision),
            RequestOp::Range(range) if range.revision != 0 && range.revision < self.compact_revision => {
                Err(KvError::Compacted)
            }
            RequestOp::Put(put) => {
                self.check_put(put)?;
                let gone = |delete: &&DeleteRangeRequest| holds(&delete.key, &delete.range_end, &put.key);
                let keeps = put.ignore_value || put.ignore_lease;
                if keeps && deleted.iter().any(gone) { Err(KvError::KeyNotFound) } else { Ok(()) }
            }
            RequestOp::Txn(nested) => self.check_ops(nested, deleted),
            RequestOp::DeleteRange(delete) => {
                deleted.push(delete);
                Ok(())
            }
            RequestOp::Range(_) => Ok(()),
        })
    }

    /// By the state before the command, nested transactions too.
    fn branch<'a>(&self, txn: &'a TxnRequest) -> (bool, &'a [RequestOp]) {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        (succeeded, if succeeded { &txn.success } else { &txn.failure })
    }

    /// A condition on an interval is one on each of its keys, or on none that is there.
    fn holds(&self, compare: &Compare) -> bool {
        let mut keys = self.keys.alive(&compare.key, &compare.range_end, self.revision).peekable();
        match keys.peek() {
            None => holds_of(compare, None),
            Some(_) => keys.all(|kv| holds_of(compare, Some(kv))),
        }
    }

    fn transact(&mut self, txn: &TxnRequest, before: usize) -> TxnResponse {
        let (succeeded, operations) = self.branch(txn);
        let mut responses = Vec::new();
        for operation in operations {
            let body = match operation {
                RequestOp::Range(range) => {
                    let current = self.seen_within(before);
                    let revision = if range.revision > 0 { range.revision } else { current };
                    ResponseBody::Range(self.keys.range(range, revision, current))
                }
                RequestOp::Put(put) => ResponseBody::Put(self.put(put)),
                RequestOp::DeleteRange(delete) => ResponseBody::DeleteRange(self.delete(delete)),
                RequestOp::Txn(nested) => ResponseBody::Txn(self.transact(nested, before)),
            };
            let revision = if matches!(body, ResponseBody::Txn(_)) { 0 } else { self.seen_within(before) };
            responses.push(ResponseOp { revision, body });
        }
        TxnResponse { succeeded, responses }
    }

    /// The revision within a command before which there were so many changes.
    fn seen_within(&self, before: usize) -> i64 {
        self.revision + i64::from(self.keys.events().len() > before)
    }

    fn put(&mut self, put: &PutRequest) -> PutResponse {
        let revision = self.revision + 1;
        let kept = self.keys.at(&put.key, revision);
        let lease = if put.ignore_lease { kept.map_or(0, |kv| kv.lease) } else { put.lease };
        let value =
            if put.ignore_value { kept.map_or_else(Bytes::new, |kv| kv.value.clone()) } else { put.value.clone() };
        self.leases.attach(&put.key, lease);
        if !put.ignore_value {
            self.written.insert(value_id(&value), (revision, value.clone()));
        }
        let before = self.keys.put(revision, &put.key, &value, lease);
        PutResponse { prev_kv: before.filter(|_| put.prev_kv) }
    }

    fn delete(&mut self, delete: &DeleteRangeRequest) -> DeleteRangeResponse {
        let deleted = self.keys.delete(self.revision + 1, &delete.key, &delete.range_end);
        for kv in &deleted {
            self.leases.attach(&kv.key, 0);
        }
        let count = deleted.len() as i64;
        DeleteRangeResponse { deleted: count, prev_kvs: if delete.prev_kv { deleted } else { Vec::new() } }
    }

    fn end_lease(&mut self, id: i64) {
        for key in self.leases.end(id) {
            let deleted = self.delete(&DeleteRangeRequest { key, ..DeleteRangeRequest::default() });
            assert_eq!(deleted.deleted, 1, "a key of a lease is alive");
        }
    }

    /// I-14 and I-18: what a node made of an entry is what the model made of it, to the last word.
    pub(super) fn check_outcome(&self, node: NodeId, index: LogIndex, outcome: &Outcome) {
        let effects = &self.effects[index.0 as usize - 1];
        assert!(
            outcome.revision.0 == effects.revision,
            "I-18: node {node} is at revision {} after {index}, the replay at {}",
            outcome.revision,
            effects.revision
        );
        if let Some(result) = &effects.result {
            assert!(
                outcome.result == *result,
                "I-14: node {node} answers {:?} at {index}, the replay {result:?}",
                outcome.result
            );
        }
        let events = &self.keys.events()[effects.events.clone()];
        let changes = &outcome.changes;
        let agrees = events.len() == changes.len()
            && events.iter().zip(changes).enumerate().all(|(sub, (event, change))| event.is(change, sub));
        assert!(agrees, "I-14: node {node} changes {changes:?} at {index}, the replay {events:?}");
    }

    /// Revision and compact revision after an entry.
    pub(super) fn revisions(&self, index: LogIndex) -> (i64, i64) {
        if index.0 == 0 {
            return (1, -1);
        }
        let effects = &self.effects[index.0 as usize - 1];
        (effects.revision, effects.compact_revision)
    }

    /// What a node answers to a range at any revision while it is at `current` and compacted to `compacted`.
    pub(super) fn check_range(
        &self,
        node: NodeId,
        (current, compacted): (i64, i64),
        request: &RangeRequest,
        answer: &Result<RangeResponse, KvError>,
    ) {
        let expected = match request.revision {
            revision if revision > current => Err(KvError::FutureRevision),
            revision if revision > 0 && revision < compacted => Err(KvError::Compacted),
            revision => Ok(self.keys.range(request, if revision > 0 { revision } else { current }, current)),
        };
        assert!(
            *answer == expected,
            "I-14: node {node} answers {request:?} at revision {current} with {answer:?}, the replay {expected:?}"
        );
    }

    /// Records of a node that has applied everything and pruned all that may go.
    pub(super) fn records(&self) -> u64 {
        self.keys.records_from(self.compact_revision)
    }

    /// The leases of a node that has applied everything.
    pub(super) fn check_leases(&self, node: NodeId, view: &StateView) {
        self.leases.check(node, view);
    }

    /// Ids of the leases there are.
    pub(super) fn leases(&self) -> impl Iterator<Item = i64> {
        self.leases.ids()
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

/// Whether a condition holds of one key; a missing one has no value, and its numbers are 0.
fn holds_of(compare: &Compare, now: Option<&KeyValue>) -> bool {
    let number = |left: Option<i64>, right: &i64| Some(left.unwrap_or(0).cmp(right));
    let order = match &compare.target {
        CompareTarget::Version(right) => number(now.map(|it| it.version), right),
        CompareTarget::Create(right) => number(now.map(|it| it.create_revision), right),
        CompareTarget::Mod(right) => number(now.map(|it| it.mod_revision), right),
        CompareTarget::Lease(right) => number(now.map(|it| it.lease), right),
        CompareTarget::Value(right) => now.map(|it| it.value.cmp(right)),
    };
    order.is_some_and(|order| match compare.result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::NotEqual => order.is_ne(),
    })
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
