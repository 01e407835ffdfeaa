//! Leases as the committed log makes them: the part of the plain replay that knows clocks, deadlines and attached keys.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_kv::{ClusterTime, DueLease};
use quorate_raft::NodeId;
use quorate_store::StateView;

#[derive(Debug, Clone, Copy)]
struct Lease {
    ttl_seconds: i64,
    deadline_ms: u64,
}

/// The clock, the leases, and the lease of each key that has one.
#[derive(Debug, Default)]
pub(super) struct LeaseModel {
    clock_ms: u64,
    leases: BTreeMap<i64, Lease>,
    holders: BTreeMap<Bytes, i64>,
}

impl LeaseModel {
    pub(super) fn set_clock(&mut self, now: ClusterTime) {
        self.clock_ms = self.clock_ms.max(now.0);
    }

    /// Whether a put may name this lease; 0 names none.
    pub(super) fn is_known(&self, lease: i64) -> bool {
        lease == 0 || self.leases.contains_key(&lease)
    }

    fn deadline_ms(&self, ttl_seconds: i64) -> u64 {
        self.clock_ms + ttl_seconds.cast_unsigned() * 1000
    }

    /// False if the id is in use.
    pub(super) fn grant(&mut self, id: i64, ttl_seconds: i64) -> bool {
        if self.leases.contains_key(&id) {
            return false;
        }
        let deadline_ms = self.deadline_ms(ttl_seconds);
        self.leases.insert(id, Lease { ttl_seconds, deadline_ms });
        true
    }

    /// Time to live of each, 0 if there is none.
    pub(super) fn renew(&mut self, ids: &[i64]) -> Vec<i64> {
        let mut out = Vec::new();
        for id in ids {
            let ttl_seconds = self.leases.get(id).map_or(0, |lease| lease.ttl_seconds);
            let deadline_ms = self.deadline_ms(ttl_seconds);
            if let Some(lease) = self.leases.get_mut(id) {
                lease.deadline_ms = deadline_ms;
            }
            out.push(ttl_seconds);
        }
        out
    }

    pub(super) fn has_run_out(&self, due: DueLease) -> bool {
        self.leases
            .get(&due.id)
            .is_some_and(|lease| lease.deadline_ms == due.deadline.0 && lease.deadline_ms <= self.clock_ms)
    }

    /// Takes a lease away; the keys that go with it.
    pub(super) fn end(&mut self, id: i64) -> Vec<Bytes> {
        self.leases.remove(&id);
        self.keys_of(id)
    }

    /// A put of this key named this lease; 0 also if it was deleted.
    pub(super) fn attach(&mut self, key: &Bytes, lease: i64) {
        if lease == 0 {
            self.holders.remove(key);
        } else {
            self.holders.insert(key.clone(), lease);
        }
    }

    /// Ids of the leases there are.
    pub(super) fn ids(&self) -> impl Iterator<Item = i64> {
        self.leases.keys().copied()
    }

    /// The keys of a lease, in order.
    pub(super) fn keys_of(&self, id: i64) -> Vec<Bytes> {
        let of = |(key, holder): (&Bytes, &i64)| (*holder == id).then(|| key.clone());
        self.holders.iter().filter_map(of).collect()
    }

    /// I-14: a node that has applied everything holds the same leases, to the same deadlines, with the same keys.
    pub(super) fn check(&self, node: NodeId, view: &StateView) {
        let mut theirs = view.leases_by_deadline();
        theirs.sort_unstable();
        assert!(theirs.iter().eq(self.leases.keys()), "I-14: node {node} holds leases {theirs:?}, the replay {self:?}");
        for (id, lease) in &self.leases {
            let held = view.lease(*id).expect("just seen");
            let agrees = (held.ttl_seconds, held.deadline) == (lease.ttl_seconds, ClusterTime(lease.deadline_ms))
                && held.keys.iter().map(|key| &key[..]).eq(self.keys_of(*id).iter().map(|key| &key[..]));
            assert!(agrees, "I-14: node {node} holds {held:?}, the replay {lease:?} with {:?}", self.keys_of(*id));
        }
    }
}
