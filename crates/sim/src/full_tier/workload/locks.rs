//! Locks as etcd's Lock service gives them: a key under the name that lives as long as its holder's lease, and whoever's key
//! was created first holds the lock. What it guards is a counter, written only as long as the holder's key is there.
//!
//! Owns I-21: holders follow each other with rising create revisions; a guarded write of one who held the lock before fails
//! once the next has it; so the counter never takes one number twice. Holders whose lease ran out while they waited or worked
//! are what this is about: times to live are short and renewals are often forgotten.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_kv::{
    Actor, Command, Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyValue, LeaseGrantRequest, PutRequest,
    RangeRequest, RequestOp, Response, TxnRequest,
};
use quorate_node::{Answer, ClientOp};
use quorate_store::StateView;

use super::super::model::ranges;
use super::{Workload, confirmed_read, value, written};
use crate::clock::Instant;
use crate::coverage::{Coverage, Reached};
use crate::random::Random;

/// Numbers of this workload's values, apart from all others.
const NUMBERS: u64 = 1 << 59;
/// Ids of this workload's leases begin here.
const FIRST_LEASE: i64 = 1 << 40;
const CONTENDERS: usize = 4;
const PREFIX: &str = "lock/";
const COUNTER: &[u8] = b"counter";

/// How far a contender is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// It has no lease.
    #[default]
    Idle,
    /// It has one.
    Leased,
    /// Its key was created at this revision; it waits for those before it.
    Waiting { created: i64 },
    /// It has the lock, and the counter stands here.
    Holding { created: i64, counter: u64 },
}

#[derive(Debug, Default)]
struct Contender {
    lease: i64,
    stage: Stage,
    /// A call of it has no answer yet.
    waits: bool,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Grant,
    Renew,
    Claim,
    /// `held`: the newest holder known when it was asked.
    Look {
        created: i64,
        held: i64,
    },
    /// `void`: a later holder was known when it was asked.
    Count {
        to: u64,
        void: bool,
    },
    Release,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Locks {
    next: u64,
    contenders: [Contender; CONTENDERS],
    calls: BTreeMap<u64, (usize, What)>,
    /// Create revision of the newest holder.
    held: i64,
    /// Numbers that the counter was set to, by acknowledged writes.
    counted: BTreeSet<u64>,
}

fn lock_key(lease: i64) -> Bytes {
    format!("{PREFIX}{lease:x}").into()
}

fn all_claims() -> RangeRequest {
    let range_end = Bytes::from_static(b"lock0");
    RangeRequest { key: PREFIX.into(), range_end, ..RangeRequest::default() }
}

fn created_at(lease: i64, created: i64) -> Compare {
    let target = CompareTarget::Create(created);
    Compare { key: lock_key(lease), range_end: Bytes::new(), target, result: CompareResult::Equal }
}

/// None if the disk that it is read from has failed, and its process is about to.
fn read(view: &StateView, request: &RangeRequest) -> Option<Vec<KeyValue>> {
    Some(view.range(request).ok()?.expect("a current range").kvs)
}

impl Locks {
    fn number(&self) -> u64 {
        NUMBERS | (self.next + 1)
    }

    fn call(&mut self, who: usize, what: What, op: ClientOp) -> Vec<(u64, ClientOp)> {
        self.next += 1;
        let number = NUMBERS | self.next;
        self.contenders[who].waits = true;
        self.calls.insert(number, (who, what));
        vec![(number, op)]
    }

    fn write(&mut self, who: usize, what: What, command: Command) -> Vec<(u64, ClientOp)> {
        self.call(who, what, ClientOp::Write { actor: Actor::Node, command })
    }

    fn grant(&mut self, random: &mut Random, who: usize) -> Vec<(u64, ClientOp)> {
        // Never one that was used before: its end may still be under way.
        let id = FIRST_LEASE + self.next as i64;
        self.contenders[who].lease = id;
        let ttl_seconds = random.between(1, 9) as i64;
        self.write(who, What::Grant, Command::LeaseGrant(LeaseGrantRequest { id, ttl_seconds }))
    }

    /// As the Lock service does: the key is created, or found as an earlier copy of the request created it.
    fn claim(&mut self, who: usize) -> Vec<(u64, ClientOp)> {
        let lease = self.contenders[who].lease;
        let key = lock_key(lease);
        let put = PutRequest { key: key.clone(), value: value(self.number(), b""), lease, ..PutRequest::default() };
        let txn = TxnRequest {
            compare: vec![created_at(lease, 0)],
            success: vec![RequestOp::Put(put), RequestOp::Range(all_claims())],
            failure: vec![RequestOp::Range(RangeRequest { key, ..RangeRequest::default() })],
        };
        self.write(who, What::Claim, Command::Txn(txn))
    }

    fn count(&mut self, who: usize, created: i64, to: u64) -> Vec<(u64, ClientOp)> {
        let set = PutRequest {
            key: Bytes::from_static(COUNTER),
            value: value(self.number(), &to.to_le_bytes()),
            ..PutRequest::default()
        };
        let guarded = TxnRequest {
            compare: vec![created_at(self.contenders[who].lease, created)],
            success: vec![RequestOp::Put(set)],
            failure: Vec::new(),
        };
        let void = self.held > created;
        self.write(who, What::Count { to, void }, Command::Txn(guarded))
    }

    fn release(&mut self, random: &mut Random, who: usize) -> Vec<(u64, ClientOp)> {
        let id = self.contenders[who].lease;
        let delete = DeleteRangeRequest { key: lock_key(id), ..DeleteRangeRequest::default() };
        let command = if random.coin() { Command::LeaseRevoke { id } } else { Command::DeleteRange(delete) };
        self.write(who, What::Release, command)
    }

    /// The next move of a contender that waits for nothing.
    fn step(&mut self, random: &mut Random, who: usize) -> Vec<(u64, ClientOp)> {
        let Contender { stage, lease, .. } = self.contenders[who];
        if stage != Stage::Idle && random.chance(250_000) {
            return self.write(who, What::Renew, Command::LeaseRenew { ids: vec![lease] });
        }
        match stage {
            Stage::Idle => self.grant(random, who),
            Stage::Leased => self.claim(who),
            Stage::Waiting { created } => {
                let held = self.held;
                self.call(who, What::Look { created, held }, confirmed_read())
            }
            Stage::Holding { created, counter } if !random.chance(300_000) => self.count(who, created, counter + 1),
            Stage::Holding { .. } => self.release(random, who),
        }
    }

    /// A contender that waits looks whether it is its turn, by a read that a quorum confirmed.
    fn look(&mut self, who: usize, created: i64, held: i64, view: &StateView, coverage: &mut Coverage) {
        let counter = RangeRequest { key: Bytes::from_static(COUNTER), ..RangeRequest::default() };
        let (Some(claims), Some(counter)) = (read(view, &all_claims()), read(view, &counter)) else { return };
        if claims.iter().any(|kv| kv.create_revision < created) {
            coverage.hit(Reached::LockAwaited);
            return;
        }
        let key = lock_key(self.contenders[who].lease);
        let is_there = claims.iter().any(|kv| kv.key == key && kv.create_revision == created);
        // Its lease may have run out while it waited (Jepsen, etcd 3.4.3).
        if !is_there && !mutant!(LockNotRechecked) {
            coverage.hit(Reached::LockLost);
            self.contenders[who].stage = Stage::Idle;
            return;
        }
        coverage.hit(Reached::LockTaken);
        assert!(held <= created, "I-21: the lock passes from the holder of revision {held} to that of {created}");
        self.held = self.held.max(created);
        let counter = counter.first().map_or(0, |kv| {
            u64::from_le_bytes(*kv.value[8..].first_chunk().expect("a counter's value ends with its number"))
        });
        self.contenders[who].stage = Stage::Holding { created, counter };
    }

    fn counted(&mut self, who: usize, to: u64, void: bool, succeeded: bool, coverage: &mut Coverage) {
        let contender = &mut self.contenders[who];
        let Stage::Holding { created, .. } = contender.stage else { unreachable!("only holders count") };
        if !succeeded {
            coverage.hit(Reached::FencedOff);
            contender.stage = Stage::Idle;
            return;
        }
        assert!(!void, "I-21: the holder of revision {created} writes, and {} has the lock", self.held);
        assert!(self.counted.insert(to), "I-21: the counter becomes {to} a second time");
        contender.stage = Stage::Holding { created, counter: to };
    }
}

impl Workload for Locks {
    fn draw(&mut self, random: &mut Random, _now: Instant) -> Vec<(u64, ClientOp)> {
        let moves = (0..CONTENDERS).filter(|who| !self.contenders[*who].waits && random.chance(600_000));
        let moves: Vec<usize> = moves.collect();
        moves.into_iter().flat_map(|who| self.step(random, who)).collect()
    }

    fn answered(&mut self, call: u64, _now: Instant, answer: &Answer, view: &StateView, coverage: &mut Coverage) {
        let (who, what) = self.calls.remove(&call).expect("every call is answered once");
        self.contenders[who].waits = false;
        if let What::Look { created, held } = what {
            if matches!(answer, Answer::ReadAt(_)) {
                self.look(who, created, held, view, coverage);
            }
            return;
        }
        let Some(Ok(response)) = written(answer) else {
            // Refused, or nobody knows: what there is of it runs out.
            self.contenders[who].stage = Stage::Idle;
            return;
        };
        match (what, response) {
            (What::Grant, _) => self.contenders[who].stage = Stage::Leased,
            (What::Renew, _) => {}
            (What::Claim, Response::Txn(txn)) => {
                let key = lock_key(self.contenders[who].lease);
                let own = ranges(response).find(|kv| kv.key == key);
                let created = own.map(|kv| kv.create_revision);
                assert!(created.is_some() || !txn.succeeded, "a key is there in the transaction that creates it");
                self.contenders[who].stage = created.map_or(Stage::Idle, |created| Stage::Waiting { created });
            }
            (What::Count { to, void }, Response::Txn(txn)) => self.counted(who, to, void, txn.succeeded, coverage),
            _ => self.contenders[who].stage = Stage::Idle,
        }
    }

    fn lost(&mut self, call: u64, _now: Instant) {
        let (who, what) = self.calls.remove(&call).expect("every call is answered once");
        let contender = &mut self.contenders[who];
        contender.waits = false;
        if !matches!(what, What::Look { .. } | What::Renew) {
            contender.stage = Stage::Idle;
        }
    }
}
