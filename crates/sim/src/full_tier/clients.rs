//! Clients of the full tier: what they ask, what they are answered, and what must follow from the answers.
//!
//! Two checkers are fed from here that know nothing of each other: the replay of the committed log ([`Model`]) and the
//! black-box search over what clients saw.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_kv::{Digest, KeyValue, Outcome, RangeRequest, Response, Revision};
use quorate_node::{Effect, NodeError, ReadGrant, ReadOptions};
use quorate_raft::{Entry, LogIndex, NodeId, Term, Time};
use quorate_store::{RevisionHash, StateStore, StateView};

use super::FullTier;
use super::model::{Model, ranges, value_id};
use super::side_reads::revisions_of;
use super::watchers::Watchers;
use super::workload::{self, Committed, Workload};
use crate::check::black_box::{CallId, ClientHistory, Operation};
use crate::clock::Instant;
use crate::context::Context;
use crate::coverage::{Coverage, Reached};
use crate::plan::Plan;
use crate::random::Random;

/// First byte of every key; the interval of all keys ends at the next one.
const PREFIX: u8 = b'k';

/// A request without an answer.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) since: Time,
    pub(super) what: Asked,
}

#[derive(Debug, Clone)]
pub(super) enum Asked {
    Write(PendingWrite),
    Read(PendingRead),
    Admin,
    /// Leadership was to move, to this node or to anybody; asked for in this term.
    Transfer {
        to: Option<NodeId>,
        term: Term,
    },
    /// Whoever asked will not hear the answer.
    Gone,
    /// Of the workload of this number, which knows it by that.
    Workload {
        number: usize,
        call: u64,
    },
}

#[derive(Debug, Clone)]
pub(super) struct PendingWrite {
    pub(super) calls: Vec<(CallId, Operation)>,
    /// Numbers of the values it writes.
    pub(super) ids: Vec<u64>,
    pub(super) forwarded: bool,
}

#[derive(Debug, Clone)]
pub(super) struct PendingRead {
    pub(super) options: ReadOptions,
    pub(super) key: Option<u64>,
    pub(super) call: Option<CallId>,
    /// What was committed when it began.
    pub(super) floor: LogIndex,
}

/// A read whose answer waits a moment: a process may be stopped between reading and answering.
#[derive(Debug, Clone)]
pub(crate) struct FinishedRead {
    pub(super) request: PendingRead,
    pub(super) grant: ReadGrant,
    pub(super) kvs: Vec<KeyValue>,
}

/// What clients remember, and the checkers they feed.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(super) workloads: Vec<Box<dyn Workload>>,
    /// Whose turn it is among them.
    pub(super) turn: usize,
    /// Clients that watch, in a part of the seeds.
    pub(super) watchers: Option<Watchers>,
    pub(super) next_id: u64,
    pub(super) model: Model,
    pub(super) history: ClientHistory,
    /// Numbers of values that were acknowledged, and the revision they were told.
    acknowledged: Vec<(u64, i64)>,
    /// Numbers of values whose write was refused for certain.
    refused: Vec<u64>,
    pub(super) last_seen: BTreeMap<u64, u64>,
    pub(super) last_revision: i64,
    states: BTreeMap<LogIndex, (Term, Revision, Digest)>,
    /// Hashes of records, by the revision they are of and the compact revision.
    hashes: BTreeMap<(i64, i64), u32>,
    /// When everything is healed, what came before this revision is forgotten.
    pub(super) prune_to: Option<i64>,
}

pub(super) fn key_name(key: u64) -> Bytes {
    Bytes::from(format!("{}{key:03}", char::from(PREFIX)))
}

pub(super) fn all_keys() -> (Bytes, Bytes) {
    (Bytes::copy_from_slice(&[PREFIX]), Bytes::copy_from_slice(&[PREFIX + 1]))
}

impl Clients {
    pub(super) fn new(plan: &Plan) -> Clients {
        Clients {
            workloads: workload::all(plan),
            turn: 0,
            watchers: Random::new(plan.seed ^ 0x5741_5443_4845_5253).chance(600_000).then(Watchers::default),
            next_id: 0,
            model: Model::default(),
            history: ClientHistory::default(),
            acknowledged: Vec::new(),
            refused: Vec::new(),
            last_seen: BTreeMap::new(),
            last_revision: 0,
            states: BTreeMap::new(),
            hashes: BTreeMap::new(),
            prune_to: None,
        }
    }

    /// An entry is about to be applied somewhere.
    pub(super) fn committed(&mut self, entry: &Entry, now: Instant, coverage: &mut Coverage) {
        let Some((command, result)) = self.model.apply(entry) else { return };
        let committed = Committed { index: entry.index, command: &command, result: result.as_ref() };
        for workload in &mut self.workloads {
            workload.committed(committed, now, coverage);
        }
    }

    /// What was told to those that watch at a node, as far as they read it.
    pub(super) fn read_watches(&mut self, node: NodeId, view: &StateView, now: Instant, coverage: &mut Coverage) {
        if let Some(watchers) = &mut self.watchers {
            watchers.read(node, &self.model, view, now, coverage);
        }
    }

    /// What has not come to its end by itself, though the world is healed and nobody asks for anything: these nodes serve.
    pub(super) fn unsettled(&mut self, members: &[NodeId]) -> Option<String> {
        let leases: Vec<i64> = self.model.leases().collect();
        if !leases.is_empty() {
            return Some(format!("I-20: leases {leases:?} have not run out"));
        }
        self.watchers.as_mut().and_then(|watchers| watchers.unsettled(members, &self.model))
    }

    /// Which of these nodes still keep history that was to be forgotten, and how much.
    pub(super) fn unpruned(&self, nodes: &[(NodeId, &StateStore)]) -> Option<String> {
        let Some(goal) = self.prune_to else { return Some("L-11: nobody asks for a compaction".to_owned()) };
        // Its own word is not enough: what is left is counted.
        let records = self.model.records();
        let stale = |state: &StateStore| {
            state.view().applied() == self.model.applied() && state.stats().totals.count != records
        };
        let keeps = |state: &StateStore| state.view().pruned().0 < goal || stale(state);
        let behind: Vec<String> = nodes
            .iter()
            .filter(|(_, state)| keeps(state))
            .map(|(node, state)| {
                format!("node {node} holds {:?}, pruned to {}", state.stats().totals, state.view().pruned())
            })
            .collect();
        (!behind.is_empty()).then(|| format!("L-11: history up to {goal} is not pruned: {}", behind.join(", ")))
    }

    /// A node has applied a batch.
    pub(super) fn applied(&mut self, node: NodeId, view: &StateView, now: Instant) {
        for workload in &mut self.workloads {
            workload.applied(node, view, now);
        }
    }

    /// A process ended.
    pub(super) fn died(&mut self, node: NodeId) {
        for workload in &mut self.workloads {
            workload.died(node);
        }
        if let Some(watchers) = &mut self.watchers {
            watchers.died(node, &self.model);
        }
    }

    /// An effect that the tier does not know goes to the workload it belongs to.
    pub(super) fn effect(&mut self, node: NodeId, effect: &Effect, now: Instant) -> bool {
        self.workloads.iter_mut().any(|workload| workload.effect(node, effect, now))
    }

    /// I-14 for one entry on one node.
    pub(super) fn check_outcome(&self, node: NodeId, index: LogIndex, outcome: &Outcome, coverage: &mut Coverage) {
        self.model.check_outcome(node, index, outcome);
        match &outcome.result {
            Ok(Response::Compact) => coverage.hit(Reached::Compacted),
            Ok(Response::Txn(txn)) if !txn.succeeded => coverage.hit(Reached::CompareFailed),
            _ => {}
        }
    }

    /// I-14 and I-18: equal states at equal indexes, on all nodes and in all their lives.
    pub(super) fn check_state(&mut self, node: NodeId, index: LogIndex, term: Term, view: &StateView) {
        let (at, digest) = view.digest();
        assert_eq!(at, index, "the state of node {node} stands elsewhere than it says");
        let now = (term, view.revision(), digest);
        let first = *self.states.entry(index).or_insert(now);
        assert!(first == now, "I-14: node {node} is in state {now:?} at {index}; first there was {first:?}");
        let (revision, compact_revision) = self.model.revisions(index);
        assert!(
            view.revision().0 == revision && view.compact_revision().0 == compact_revision,
            "I-18: node {node} is at revision {} compacted to {} at {index}; the replay at {revision} and {compact_revision}",
            view.revision(),
            view.compact_revision()
        );
    }

    /// I-14: all nodes have one hash of their records at a revision, however much of what is compacted each still keeps.
    pub(super) fn check_hash(&mut self, node: NodeId, hash: RevisionHash, coverage: &mut Coverage) {
        let at = revisions_of(&hash);
        if let Some(first) = self.hashes.insert(at, hash.hash) {
            coverage.hit(Reached::HashesCompared);
            assert!(
                first == hash.hash,
                "I-14: node {node} has the hash {:x} at {at:?}, another had {first:x}",
                hash.hash
            );
        }
    }

    /// What the others had as their state here, if any was seen.
    pub(super) fn state_at(&self, index: LogIndex) -> Option<(Term, Revision, Digest)> {
        self.states.get(&index).copied()
    }

    /// The process that took a request died: nobody will answer it.
    pub(super) fn lost(&mut self, pending: Pending, now: Instant, coverage: &mut Coverage) {
        match pending.what {
            Asked::Write(_) => coverage.hit(Reached::WriteUnknown),
            Asked::Workload { number, call } => self.workloads[number].lost(call, now),
            Asked::Read(_) | Asked::Admin | Asked::Transfer { .. } | Asked::Gone => {}
        }
    }

    /// L-10: every acknowledged write is in the replay where its client was told, and every node holds what it says.
    pub(super) fn check_durable(&self, views: &[(NodeId, StateView)], coverage: &mut Coverage) {
        for (id, revision) in &self.acknowledged {
            let found = self.model.written_at(*id);
            assert!(
                found == Some(*revision),
                "L-10: the write of {id} was acknowledged at revision {revision}; the committed log has it at {found:?}"
            );
        }
        for id in &self.refused {
            let found = self.model.written_at(*id);
            assert!(found.is_none(), "the write of {id} was refused as never done and took effect at {found:?}");
        }
        let (key, range_end) = (Bytes::from_static(&[0]), Bytes::from_static(&[0]));
        for (node, view) in views {
            let request = RangeRequest { key: key.clone(), range_end: range_end.clone(), ..RangeRequest::default() };
            let answer = view.range(&request).expect("a healthy disk can be read");
            assert_eq!(view.applied(), self.model.applied(), "L-10: node {node} has not applied everything");
            self.model.check_range(*node, (view.revision().0, view.compact_revision().0), &request, &answer);
            self.model.check_leases(*node, view);
        }
        for workload in &self.workloads {
            workload.check_durable(views);
        }
        self.history.check(coverage);
    }
}

pub(super) fn written(context: &mut Context<FullTier>, write: PendingWrite, outcome: &Outcome) {
    context.coverage.hit(Reached::WriteAcked);
    if write.forwarded {
        context.coverage.hit(Reached::WriteForwarded);
    }
    let now = context.now();
    let clients = &mut context.clients;
    clients.last_revision = clients.last_revision.max(outcome.revision.0);
    let response = match &outcome.result {
        Ok(response) => response,
        Err(error) => {
            assert!(write.calls.is_empty(), "a write that nothing is wrong with was refused: {error}");
            return;
        }
    };
    let matched = match response {
        Response::Txn(txn) => Some(txn.succeeded),
        _ => None,
    };
    for (call, operation) in write.calls {
        let operation = match operation {
            Operation::Swap { from, to, .. } => Operation::Swap { from, to, matched },
            other => other,
        };
        clients.history.returned(call, now, operation);
    }
    if matched != Some(false) {
        clients.acknowledged.extend(write.ids.iter().map(|id| (*id, outcome.revision.0)));
    }
    // What was read for its own sake may be old.
    let reads = ranges(response).filter(|_| !write.ids.is_empty());
    for kv in reads {
        if let Some(key) = std::str::from_utf8(&kv.key[1..]).ok().and_then(|key| key.parse().ok()) {
            clients.last_seen.insert(key, value_id(&kv.value));
        }
    }
}

/// What a refusal lets a client conclude.
pub(super) fn refused(context: &mut Context<FullTier>, write: PendingWrite, error: &NodeError) {
    let never =
        matches!(error, NodeError::NoLeader | NodeError::TooManyRequests | NodeError::TooLarge | NodeError::NoSpace);
    if !never {
        context.coverage.hit(Reached::WriteUnknown);
        return;
    }
    for (call, _) in write.calls {
        context.clients.history.never_happened(call);
    }
    context.clients.refused.extend(write.ids);
}
