//! Leases that are granted, renewed, revoked and left to run out, with keys attached, moved to another lease and detached; many
//! at once in storms.
//!
//! Owns I-20, by true time, which no node knows: a lease that was granted or renewed with an answer lives at least its whole
//! time from the moment the client asked, whoever leads; when it has ended no key of it is left and nothing renews it; and
//! nothing gives a lease time that no client asked for. That it ends in time is asked when the world is healed: cluster time
//! stands still without a leader, so before that nothing can be said.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_kv::{Actor, Command, KvError, LeaseGrantRequest, PutRequest, RangeRequest, Response};
use quorate_node::{Answer, ClientOp};
use quorate_raft::{LogIndex, NodeId};
use quorate_store::StateView;

use super::{Committed, Workload, confirmed_read, value, written};
use crate::clock::Instant;
use crate::coverage::{Coverage, Reached};
use crate::plan::Plan;
use crate::random::Random;

/// Numbers of this workload's values, apart from all others.
const NUMBERS: u64 = 1 << 60;
/// Ids of this workload's leases begin here, and end far below those of others.
const FIRST_ID: i64 = 1_000;
const ID_END: i64 = 1 << 32;
/// Longest time to live, in seconds.
const LONGEST_TTL: u64 = 8;
/// Leases of a storm.
const STORM: u64 = 30;
/// Expiries in a row that make one.
const STORM_ROW: u64 = 4;
/// The cluster clock counts whole milliseconds: one is lost at each end.
const CLOCK_GRAIN: Duration = Duration::from_millis(2);

/// What clients know of a lease.
#[derive(Debug, Default)]
struct Known {
    ttl_seconds: i64,
    /// It was granted again under this id so many times.
    generation: u64,
    /// When the last grant or keepalive that was acknowledged was asked for.
    held_since: Option<Instant>,
    /// Somebody asked for its end, which may come at any time.
    revoking: bool,
    /// Its end was seen.
    ended: bool,
}

/// What a call without an answer is about.
#[derive(Debug, Clone)]
enum Call {
    Grant {
        id: i64,
        generation: u64,
        at: Instant,
    },
    Attach {
        id: i64,
        was: Was,
        generation: u64,
    },
    /// A put that names no lease: the key is detached, or keeps what it has.
    Detach,
    Renew {
        ids: Vec<(i64, u64, Was)>,
        at: Instant,
    },
    Revoke {
        id: i64,
        was: Was,
        generation: u64,
    },
    Look {
        id: i64,
        was: Was,
        generation: u64,
    },
}

/// What clients knew of a lease when a call about it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Was {
    /// Its grant had no answer yet, and may be overtaken by the call.
    Unsure,
    /// Its grant was acknowledged.
    Held,
    /// Its end was seen.
    Over,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Leases {
    next: u64,
    next_id: i64,
    calls: BTreeMap<u64, Call>,
    known: BTreeMap<i64, Known>,
    /// Renewals that clients asked for and that are not in the log.
    asked: BTreeMap<Vec<i64>, u64>,
    /// The last expiry, and how many there were in a row.
    row: (LogIndex, u64),
    /// Clocks promise what leases rely on, and run this much too fast at most.
    clock_ppm: Option<u32>,
}

fn is_own(id: i64) -> bool {
    (FIRST_ID..ID_END).contains(&id.abs())
}

fn prefix(id: i64) -> String {
    format!("lease/{id:x}/")
}

/// The keys of all leases of this workload, and those that were detached.
fn all_keys() -> RangeRequest {
    let (key, range_end) = (Bytes::from_static(b"lease/"), Bytes::from_static(b"lease0"));
    RangeRequest { key, range_end, ..RangeRequest::default() }
}

impl Leases {
    pub(super) fn new(plan: &Plan) -> Leases {
        Leases {
            next: 0,
            next_id: FIRST_ID,
            calls: BTreeMap::new(),
            known: BTreeMap::new(),
            asked: BTreeMap::new(),
            row: (LogIndex(0), 0),
            clock_ppm: plan.clocks_bounded.then_some(plan.clock_ppm),
        }
    }

    fn call(&mut self, call: Call, command: Command) -> (u64, ClientOp) {
        let op = ClientOp::Write { actor: Actor::Node, command };
        (self.note(call), op)
    }

    fn note(&mut self, call: Call) -> u64 {
        self.next += 1;
        let number = NUMBERS | self.next;
        self.calls.insert(number, call);
        number
    }

    fn grant(&mut self, now: Instant, id: i64, ttl_seconds: i64) -> (u64, ClientOp) {
        let known = self.known.entry(id).or_default();
        // What was known of an earlier lease of this id says nothing of this one.
        *known = Known { ttl_seconds, generation: known.generation + 1, ..Known::default() };
        let generation = known.generation;
        // A copy of an end that was asked for may come late.
        known.revoking = generation > 1;
        self.call(Call::Grant { id, generation, at: now }, Command::LeaseGrant(LeaseGrantRequest { id, ttl_seconds }))
    }

    fn fresh_id(&mut self, random: &mut Random) -> i64 {
        self.next_id += 1;
        // Ids are any numbers but 0.
        if random.chance(100_000) { -self.next_id } else { self.next_id }
    }

    fn renew(&mut self, now: Instant, ids: Vec<i64>) -> (u64, ClientOp) {
        *self.asked.entry(ids.clone()).or_default() += 1;
        let generation = |id| self.known.get(id).map_or(0, |known| known.generation);
        let of = ids.iter().map(|id| (*id, generation(id), self.was(*id))).collect();
        self.call(Call::Renew { ids: of, at: now }, Command::LeaseRenew { ids })
    }

    /// A key that began with lease `id` is put under it, moved to another lease, detached, or put with a part of it kept.
    fn put(&mut self, random: &mut Random, id: i64, ids: &[i64]) -> (u64, ClientOp) {
        let mut put = PutRequest {
            key: format!("{}{}", prefix(id), random.below(4)).into(),
            value: value(NUMBERS | (self.next + 1), b""),
            lease: id,
            prev_kv: random.chance(100_000),
            ..PutRequest::default()
        };
        match random.below(12) {
            0 | 1 => put.lease = *random.pick(ids).expect("one was picked"),
            2 => put.lease = 0,
            3 => (put.lease, put.ignore_lease) = (0, true),
            _ => {}
        }
        if random.chance(100_000) {
            (put.value, put.ignore_value) = (Bytes::new(), true);
        }
        let id = put.lease;
        let generation = self.known.get(&id).map_or(0, |known| known.generation);
        let call = if id == 0 { Call::Detach } else { Call::Attach { id, was: self.was(id), generation } };
        self.call(call, Command::Put(put))
    }

    /// A key is put under a lease, and right behind put again with a part of it kept.
    fn put_and_keep(&mut self, id: i64, generation: u64, was: Was, random: &mut Random) -> Vec<(u64, ClientOp)> {
        let key = Bytes::from(format!("{}{}", prefix(id), random.below(4)));
        let first = value(NUMBERS | (self.next + 1), b"");
        let put = PutRequest { key: key.clone(), value: first, lease: id, ..PutRequest::default() };
        let mut moves = vec![self.call(Call::Attach { id, was, generation }, Command::Put(put))];
        let mut again = PutRequest { key, ignore_lease: true, prev_kv: random.coin(), ..PutRequest::default() };
        if random.coin() {
            again.ignore_value = true;
        } else {
            again.value = value(NUMBERS | (self.next + 1), b"");
        }
        moves.push(self.call(Call::Detach, Command::Put(again)));
        moves
    }

    fn was(&self, id: i64) -> Was {
        match self.known.get(&id) {
            Some(known) if !known.ended && known.held_since.is_none() => Was::Unsure,
            Some(known) if !known.ended => Was::Held,
            // A copy of an earlier grant may come late, and grant once more.
            Some(known) if known.generation > 1 => Was::Unsure,
            _ => Was::Over,
        }
    }

    /// What was known when a call was made, of the lease that it can have met: the end of an earlier one says nothing of one that
    /// was granted under the same id while the call was under way.
    fn still(&self, id: i64, was: Was, generation: u64) -> Was {
        let granted_again = self.known.get(&id).is_some_and(|known| known.generation != generation);
        if was == Was::Over && granted_again { Was::Unsure } else { was }
    }

    fn known(&mut self, id: i64, generation: u64) -> Option<&mut Known> {
        self.known.get_mut(&id).filter(|known| known.generation == generation)
    }

    /// Whether nothing can have ended the lease by now.
    fn must_live(&self, id: i64, generation: u64, now: Instant) -> bool {
        let Some(known) = self.known.get(&id).filter(|known| known.generation == generation) else { return false };
        !known.revoking && self.is_early(known, now)
    }

    /// Whether the lease was held for less than its time.
    fn is_early(&self, known: &Known, now: Instant) -> bool {
        let (Some(ppm), Some(since)) = (self.clock_ppm, known.held_since) else { return false };
        let fast = f64::from(1_000_000 + ppm) / 1e6;
        let least = Duration::from_secs(known.ttl_seconds.cast_unsigned()).div_f64(fast);
        now.since(since) + CLOCK_GRAIN < least
    }

    /// A call that found the lease `was` is told that there is none.
    fn gone(&self, id: i64, was: Was, generation: u64, now: Instant, told: &str) {
        assert!(
            was != Was::Held || !self.must_live(id, generation, now),
            "I-20: {told} that lease {id} is gone, at {now}: {:?}",
            self.known.get(&id)
        );
    }

    fn expired(&mut self, index: LogIndex, id: i64, now: Instant, coverage: &mut Coverage) {
        coverage.hit(Reached::LeaseExpired);
        self.row = if index == self.row.0.next() { (index, self.row.1 + 1) } else { (index, 1) };
        if self.row.1 == STORM_ROW {
            coverage.hit(Reached::LeaseStorm);
        }
        let Some(known) = self.known.get(&id) else { return };
        // Of an id that was granted twice, a late copy of the first grant may be what ran out.
        let early = known.generation == 1 && self.is_early(known, now);
        assert!(!early, "I-20: lease {id} runs out early, at {now}: {known:?}");
    }

    /// Whether a node holds the lease, and then with the keys that it shows. None if its disk has failed, and its process is
    /// about to.
    fn look(id: i64, was: Was, view: &StateView) -> Option<bool> {
        let held = view.lease(id);
        let mut keys = view.range(&all_keys()).ok()?.expect("a current range").kvs;
        keys.retain(|kv| kv.lease == id);
        let Some(held) = held else {
            assert!(keys.is_empty(), "I-20: lease {id} is gone, and its keys are there: {keys:?}");
            return Some(false);
        };
        assert!(was != Was::Over, "I-20: lease {id} had ended before it was looked at, and is there: {held:?}");
        let names: Vec<&[u8]> = keys.iter().map(|kv| &kv.key[..]).collect();
        assert!(held.keys.iter().map(|key| &key[..]).eq(names.iter().copied()), "I-20: {held:?} has the keys {keys:?}");
        Some(true)
    }

    fn renewed(&mut self, ids: &[(i64, u64, Was)], at: Instant, now: Instant, ttls: &[i64]) -> u64 {
        let mut ended = 0;
        for ((id, generation, was), ttl) in ids.iter().zip(ttls) {
            if *ttl == 0 {
                self.gone(*id, *was, *generation, now, "a keepalive says");
                ended += 1;
            } else {
                let was = self.still(*id, *was, *generation);
                assert!(was != Was::Over, "I-20: lease {id} had ended, and a keepalive answers {ttl}");
            }
            if let Some(known) = self.known(*id, *generation) {
                if *ttl == 0 {
                    known.ended |= *was == Was::Held;
                } else {
                    known.held_since = known.held_since.max(Some(at));
                }
            }
        }
        ended
    }
}

impl Workload for Leases {
    fn draw(&mut self, random: &mut Random, now: Instant) -> Vec<(u64, ClientOp)> {
        let ids: Vec<i64> = self.known.keys().copied().rev().take(40).collect();
        let some = random.pick(&ids).copied();
        let ttl = random.between(1, LONGEST_TTL) as i64;
        let Some(id) = some.filter(|_| !random.chance(200_000)) else {
            let id = some.filter(|_| random.chance(100_000));
            let id = id.unwrap_or_else(|| self.fresh_id(random));
            return vec![self.grant(now, id, ttl)];
        };
        let generation = self.known[&id].generation;
        let was = self.was(id);
        match random.below(20) {
            // A storm: many leases, brought to one deadline by one renewal.
            0 => (0..random.between(5, STORM))
                .map(|_| {
                    let id = self.fresh_id(random);
                    self.grant(now, id, ttl)
                })
                .collect(),
            1 | 2 => vec![self.renew(now, ids)],
            3..=6 => vec![self.renew(now, vec![id])],
            7..=11 => vec![self.put(random, id, &ids)],
            12 => self.put_and_keep(id, generation, was, random),
            13 | 14 => {
                self.known.get_mut(&id).expect("just picked").revoking = true;
                vec![self.call(Call::Revoke { id, was, generation }, Command::LeaseRevoke { id })]
            }
            _ => vec![(self.note(Call::Look { id, was, generation }), confirmed_read())],
        }
    }

    fn answered(&mut self, call: u64, now: Instant, answer: &Answer, view: &StateView, coverage: &mut Coverage) {
        let call = self.calls.remove(&call).expect("every call is answered once");
        match (call, written(answer)) {
            (Call::Grant { id, generation, at }, Some(Ok(_))) => {
                coverage.hit(Reached::LeaseGranted);
                if let Some(known) = self.known(id, generation) {
                    known.held_since = known.held_since.max(Some(at));
                }
            }
            (Call::Grant { .. }, Some(Err(KvError::LeaseExists))) => coverage.hit(Reached::LeaseExisted),
            (Call::Attach { id, was, generation }, Some(result)) => match result {
                Ok(_) => {
                    let was = self.still(id, was, generation);
                    assert!(was != Was::Over, "I-20: lease {id} had ended, and a key was attached to it");
                }
                Err(KvError::KeyNotFound) => coverage.hit(Reached::NothingToKeep),
                Err(_) => self.gone(id, was, generation, now, "a put says"),
            },
            (Call::Detach, Some(Ok(_))) => coverage.hit(Reached::LeaseLeft),
            (Call::Detach, Some(Err(refused))) => {
                assert!(*refused == KvError::KeyNotFound, "I-20: a put without a lease is refused: {refused}");
                coverage.hit(Reached::NothingToKeep);
            }
            (Call::Renew { ids, at }, Some(Ok(Response::LeaseRenew { ttls_seconds }))) => {
                coverage.hit(Reached::LeaseRenewed);
                if self.renewed(&ids, at, now, ttls_seconds) > 0 {
                    coverage.hit(Reached::EndedLeaseRenewed);
                }
            }
            (Call::Revoke { id, was, generation }, Some(result)) => {
                let revoked = result.is_ok();
                if revoked {
                    coverage.hit(Reached::LeaseRevoked);
                }
                if let Some(known) = self.known(id, generation) {
                    known.ended |= revoked || was == Was::Held;
                }
            }
            (Call::Look { id, was, generation }, None)
                if matches!(answer, Answer::ReadAt(_))
                    && Self::look(id, self.still(id, was, generation), view) == Some(false) =>
            {
                self.gone(id, was, generation, now, "a read says");
            }
            _ => {}
        }
    }

    fn lost(&mut self, call: u64, _now: Instant) {
        self.calls.remove(&call).expect("every call is answered once");
    }

    fn committed(&mut self, committed: Committed<'_>, now: Instant, coverage: &mut Coverage) {
        match (committed.command, committed.result) {
            (Command::LeaseExpire(due), Some(Ok(Response::LeaseExpire { expired: true }))) => {
                self.expired(committed.index, due.id, now, coverage);
            }
            (Command::LeaseExpire(_), _) => coverage.hit(Reached::ExpiryVoid),
            (Command::LeaseRenew { ids }, _) if ids.iter().all(|id| is_own(*id)) => {
                let left = self.asked.get_mut(ids).and_then(|left| left.checked_sub(1).map(|less| *left = less));
                assert!(left.is_some(), "I-20: leases {ids:?} are given time that no client asked for");
            }
            _ => {}
        }
    }

    fn check_durable(&self, views: &[(NodeId, StateView)]) {
        for (node, view) in views {
            let response = view.range(&all_keys()).expect("a healthy disk can be read").expect("a current range");
            let held = response.kvs.iter().all(|kv| kv.lease == 0 || view.lease(kv.lease).is_some());
            assert!(held, "I-20: node {node} holds keys of leases that are gone: {response:?}");
        }
    }
}
