//! Objects as Kubernetes keeps them: created if absent, updated and deleted by their mod revision with the present object in the
//! failure branch, listed in pages at one revision, and followed from there by a watch; and events, each with a lease.
//!
//! What has no outcome is asked again elsewhere, as it was: the guard of the first attempt makes that safe. Owns what clients
//! of an API server rely on: no update is lost (one generation of an object is written once), a guard that failed shows why,
//! and all pages of a list are the objects of its revision, no more and no less.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_kv::{
    Actor, Command, Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyValue, KvError, LeaseGrantRequest,
    PutRequest, RangeRequest, RequestOp, Response, ResponseBody, TxnRequest, TxnResponse,
};
use quorate_node::{Answer, ClientOp, Consistency, NodeError, ReadOptions};
use quorate_raft::NodeId;
use quorate_store::StateView;

use super::super::model::value_id;
use super::{Committed, Followed, Workload, value, written};
use crate::clock::Instant;
use crate::coverage::{Coverage, Reached};
use crate::random::Random;

/// Numbers of this workload's values, apart from all others.
const NUMBERS: u64 = 1 << 58;
/// Ids of this workload's leases begin here.
const FIRST_LEASE: i64 = 1 << 41;
const PODS: &str = "registry/pods/";
const PODS_END: &str = "registry/pods0";
const OBJECTS: u64 = 7;
/// Attempts at one write.
const MOST_ATTEMPTS: u32 = 4;

/// An object as a client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    revision: i64,
    uid: u64,
    generation: u64,
}

/// A guarded write.
#[derive(Debug, Clone)]
struct Attempt {
    object: u64,
    /// None = the object is to be absent.
    guard: Option<Seen>,
    /// What it becomes: number of the value, uid and generation. None = nothing.
    becomes: Option<(u64, u64, u64)>,
    attempts: u32,
}

/// What a call without an answer is about.
#[derive(Debug, Clone)]
enum Call {
    Guarded(Attempt),
    Page { from: Bytes, limit: i64 },
    Grant { lease: i64 },
    Event,
}

/// A list that is being read, page by page.
#[derive(Debug, Default)]
struct List {
    /// Set by the first page.
    revision: Option<i64>,
    seen: Vec<(Bytes, i64)>,
    waits: bool,
    next: Bytes,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Objects {
    next: u64,
    next_lease: i64,
    calls: BTreeMap<u64, Call>,
    /// What clients saw last of each object.
    cache: BTreeMap<u64, Seen>,
    /// Writes without an outcome, to be asked again.
    again: Vec<Attempt>,
    /// Leases granted to events that are not written yet.
    leases: Vec<i64>,
    list: List,
    /// Revisions that a watch goes on from.
    listed: Vec<i64>,
    /// Which value took a generation, by acknowledged writes.
    took: BTreeMap<(u64, u64), u64>,
    /// Uids whose deletion was asked for.
    deleting: BTreeSet<u64>,
    /// The objects by the committed log: mod revision of each version; None = deleted.
    history: BTreeMap<Bytes, Vec<(i64, Option<i64>)>>,
}

fn pod(object: u64) -> Bytes {
    format!("{PODS}{object:03}").into()
}

fn seen(kv: &KeyValue) -> Seen {
    let number = |at: usize| u64::from_le_bytes(kv.value[at..at + 8].try_into().expect("a whole object"));
    Seen { revision: kv.mod_revision, uid: number(8), generation: number(16) }
}

fn found(txn: &TxnResponse) -> Option<&KeyValue> {
    match &txn.responses.first()?.body {
        ResponseBody::Range(range) => range.kvs.first(),
        _ => None,
    }
}

/// Whether a refusal leaves open what came of a write.
fn is_open(error: &NodeError) -> bool {
    !matches!(error, NodeError::NoLeader | NodeError::TooManyRequests | NodeError::TooLarge | NodeError::NoSpace)
}

impl Attempt {
    fn command(&self) -> Command {
        let key = pod(self.object);
        let guard = Compare {
            key: key.clone(),
            range_end: Bytes::new(),
            target: CompareTarget::Mod(self.guard.map_or(0, |seen| seen.revision)),
            result: CompareResult::Equal,
        };
        let change = match self.becomes {
            Some((number, uid, generation)) => {
                let rest = [uid.to_le_bytes(), generation.to_le_bytes()].concat();
                RequestOp::Put(PutRequest {
                    key: key.clone(),
                    value: value(number, &rest),
                    prev_kv: generation % 3 == 2,
                    ..PutRequest::default()
                })
            }
            None => {
                RequestOp::DeleteRange(DeleteRangeRequest { key: key.clone(), prev_kv: true, ..Default::default() })
            }
        };
        let read = RequestOp::Range(RangeRequest { key, ..RangeRequest::default() });
        Command::Txn(TxnRequest { compare: vec![guard], success: vec![change], failure: vec![read] })
    }
}

impl Objects {
    fn call(&mut self, call: Call, op: ClientOp) -> Vec<(u64, ClientOp)> {
        self.next += 1;
        let number = NUMBERS | self.next;
        self.calls.insert(number, call);
        vec![(number, op)]
    }

    fn write(&mut self, call: Call, command: Command) -> Vec<(u64, ClientOp)> {
        self.call(call, ClientOp::Write { actor: Actor::Node, command })
    }

    fn attempt(&mut self, attempt: Attempt) -> Vec<(u64, ClientOp)> {
        if let (None, Some(guard)) = (attempt.becomes, attempt.guard) {
            self.deleting.insert(guard.uid);
        }
        let command = attempt.command();
        self.write(Call::Guarded(attempt), command)
    }

    fn change(&mut self, random: &mut Random) -> Vec<(u64, ClientOp)> {
        let object = random.below(OBJECTS);
        let number = NUMBERS | (self.next + 1);
        // Now and then a client that has seen nothing of the object.
        let guard = self.cache.get(&object).copied().filter(|_| !random.chance(80_000));
        let becomes = match guard {
            None => Some((number, number, 1)),
            Some(_) if random.chance(150_000) => None,
            Some(seen) => Some((number, seen.uid, seen.generation + 1)),
        };
        self.attempt(Attempt { object, guard, becomes, attempts: 1 })
    }

    fn page(&mut self, random: &mut Random) -> Vec<(u64, ClientOp)> {
        if std::mem::replace(&mut self.list.waits, true) {
            return Vec::new();
        }
        let (from, limit) = match self.list.revision {
            Some(_) => (self.list.next.clone(), random.between(1, 3) as i64),
            None => (Bytes::from_static(PODS.as_bytes()), random.between(1, 4) as i64),
        };
        let options = ReadOptions {
            consistency: Consistency::Consistent,
            min_revision: self.list.revision,
            ..ReadOptions::default()
        };
        self.call(Call::Page { from, limit }, ClientOp::Read(options))
    }

    fn event(&mut self, random: &mut Random) -> Vec<(u64, ClientOp)> {
        let Some(lease) = self.leases.pop() else {
            self.next_lease += 1;
            let lease = FIRST_LEASE + self.next_lease;
            let grant = LeaseGrantRequest { id: lease, ttl_seconds: random.between(1, 6) as i64 };
            return self.write(Call::Grant { lease }, Command::LeaseGrant(grant));
        };
        let key = Bytes::from(format!("registry/events/{lease:x}"));
        let absent = Compare {
            key: key.clone(),
            range_end: Bytes::new(),
            target: CompareTarget::Create(0),
            result: CompareResult::Equal,
        };
        let put = PutRequest { key, value: value(NUMBERS | (self.next + 1), b"event"), lease, ..PutRequest::default() };
        let txn = TxnRequest { compare: vec![absent], success: vec![RequestOp::Put(put)], failure: Vec::new() };
        self.write(Call::Event, Command::Txn(txn))
    }

    fn done(&mut self, attempt: &Attempt, txn: &TxnResponse, coverage: &mut Coverage) {
        let object = attempt.object;
        if !txn.succeeded {
            coverage.hit(Reached::ObjectConflict);
            let now = found(txn).map(seen);
            assert!(
                now.map(|now| now.revision) != attempt.guard.map(|guard| guard.revision),
                "objects: {attempt:?} was refused by its guard, and finds {now:?}"
            );
            let own = found(txn).zip(attempt.becomes).is_some_and(|(kv, (number, ..))| value_id(&kv.value) == number);
            if own {
                assert!(attempt.attempts > 1, "objects: {attempt:?} failed, and its value is there");
                coverage.hit(Reached::RetryFoundDone);
            }
            match now {
                Some(now) => self.cache.insert(object, now),
                None => self.cache.remove(&object),
            };
            return;
        }
        let revision = txn.responses[0].revision;
        let Some((number, uid, generation)) = attempt.becomes else {
            coverage.hit(Reached::ObjectDeleted);
            self.cache.remove(&object);
            return;
        };
        coverage.hit(if generation == 1 { Reached::ObjectCreated } else { Reached::ObjectUpdated });
        let before = self.took.insert((uid, generation), number);
        assert!(
            before.is_none(),
            "objects: generation {generation} of {uid:x} was written by {before:x?} and {number:x}"
        );
        let newest = self.cache.get(&object).is_none_or(|cached| cached.revision < revision);
        if newest {
            self.cache.insert(object, Seen { revision, uid, generation });
        }
    }

    /// It may have been done, and is asked again as it is.
    fn unknown(&mut self, mut attempt: Attempt) {
        if attempt.attempts < MOST_ATTEMPTS {
            attempt.attempts += 1;
            self.again.push(attempt);
        }
    }

    /// Names and mod revisions of all objects at a revision, from `from` on.
    fn at(&self, revision: i64, from: &[u8]) -> Vec<(Bytes, i64)> {
        let alive = self.history.iter().filter(|(key, _)| key[..] >= *from).filter_map(|(key, versions)| {
            let newest = versions.iter().rev().find(|(at, _)| *at <= revision)?;
            newest.1.map(|at| (key.clone(), at))
        });
        alive.collect()
    }

    fn read_page(&mut self, from: &Bytes, limit: i64, view: &StateView, coverage: &mut Coverage) {
        self.list.waits = false;
        let revision = self.list.revision.unwrap_or_else(|| view.revision().0);
        let range = RangeRequest {
            key: from.clone(),
            range_end: Bytes::from_static(PODS_END.as_bytes()),
            limit,
            revision,
            ..RangeRequest::default()
        };
        let page = match view.range(&range) {
            Ok(Ok(page)) => page,
            Ok(Err(KvError::Compacted)) => {
                assert!(revision < view.compact_revision().0, "objects: revision {revision} is not compacted");
                coverage.hit(Reached::ListExpired);
                self.list = List::default();
                return;
            }
            // The disk that it was read from has failed, and its process is about to.
            Err(_) => return,
            Ok(Err(refused)) => panic!("objects: a list at {revision} is refused: {refused}"),
        };
        let left = self.at(revision, from);
        assert!(
            page.count == left.len() as i64 && page.more == (left.len() > page.kvs.len()),
            "objects: a page from {from:?} at {revision} counts {} with more: {}, there are {left:?}",
            page.count,
            page.more
        );
        self.list.revision = Some(revision);
        self.list.seen.extend(page.kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)));
        if let Some(last) = page.kvs.last().filter(|_| page.more) {
            coverage.hit(Reached::ListPaged);
            self.list.next = [&last.key[..], &[0]].concat().into();
            return;
        }
        let listed = std::mem::take(&mut self.list).seen;
        let expected = self.at(revision, b"");
        assert!(listed == expected, "objects: the pages at {revision} are {listed:?}, there were {expected:?}");
        coverage.hit(Reached::ListDone);
        self.listed.push(revision);
    }
}

impl Workload for Objects {
    fn draw(&mut self, random: &mut Random, _now: Instant) -> Vec<(u64, ClientOp)> {
        if let Some(attempt) = self.again.pop() {
            return self.attempt(attempt);
        }
        match random.below(10) {
            0..=5 => self.change(random),
            6..=8 => self.page(random),
            _ => self.event(random),
        }
    }

    fn answered(&mut self, call: u64, _now: Instant, answer: &Answer, view: &StateView, coverage: &mut Coverage) {
        match (self.calls.remove(&call).expect("every call is answered once"), answer) {
            (Call::Guarded(attempt), Answer::Refused(error)) if is_open(error) => self.unknown(attempt),
            (Call::Guarded(attempt), _) => {
                if let Some(Ok(Response::Txn(txn))) = written(answer) {
                    self.done(&attempt, txn, coverage);
                }
            }
            (Call::Page { from, limit }, Answer::ReadAt(_)) => self.read_page(&from, limit, view, coverage),
            (Call::Page { .. }, _) => self.list.waits = false,
            (Call::Grant { lease }, _) => {
                if let Some(Ok(_)) = written(answer) {
                    self.leases.push(lease);
                }
            }
            (Call::Event, _) => {
                if let Some(Ok(Response::Txn(txn))) = written(answer) {
                    assert!(txn.succeeded, "objects: an event of a new name was there");
                    coverage.hit(Reached::EventWritten);
                }
            }
        }
    }

    fn lost(&mut self, call: u64, _now: Instant) {
        match self.calls.remove(&call).expect("every call is answered once") {
            Call::Guarded(attempt) => self.unknown(attempt),
            Call::Page { .. } => self.list.waits = false,
            Call::Grant { .. } | Call::Event => {}
        }
    }

    fn committed(&mut self, committed: Committed<'_>, _now: Instant, _coverage: &mut Coverage) {
        let (Command::Txn(request), Some(Ok(Response::Txn(txn)))) = (committed.command, committed.result) else {
            return;
        };
        if !txn.succeeded {
            return;
        }
        let Some(response) = txn.responses.first() else { return };
        let (key, now) = match request.success.first() {
            Some(RequestOp::Put(put)) => (&put.key, Some(response.revision)),
            Some(RequestOp::DeleteRange(delete)) => (&delete.key, None),
            _ => return,
        };
        if key.starts_with(PODS.as_bytes()) {
            self.history.entry(key.clone()).or_default().push((response.revision, now));
        }
    }

    fn followed(&mut self) -> Option<Followed> {
        let after = self.listed.pop()?;
        self.listed.clear();
        Some(Followed {
            key: Bytes::from_static(PODS.as_bytes()),
            range_end: Bytes::from_static(PODS_END.as_bytes()),
            after,
        })
    }

    fn check_durable(&self, views: &[(NodeId, StateView)]) {
        let all = RangeRequest {
            key: Bytes::from_static(PODS.as_bytes()),
            range_end: Bytes::from_static(PODS_END.as_bytes()),
            ..RangeRequest::default()
        };
        for (node, view) in views {
            let response = view.range(&all).expect("a healthy disk can be read").expect("a current range");
            let there: BTreeMap<u64, u64> = response.kvs.iter().map(seen).map(|it| (it.uid, it.generation)).collect();
            for (uid, generation) in self.took.keys() {
                let held = there.get(uid).is_some_and(|now| now >= generation) || self.deleting.contains(uid);
                assert!(held, "objects: node {node} has lost generation {generation} of {uid:x}: {there:?}");
            }
        }
    }
}
