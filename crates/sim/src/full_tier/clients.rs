//! Clients of the full tier: what they ask, what they are answered, and what must follow from the answers.
//!
//! Two checkers are fed from here that know nothing of each other: the replay of the committed log ([`Model`]) and the
//! black-box search over what clients saw.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_kv::{
    Actor, Command, CompactRequest, Compare, CompareResult, CompareTarget, DeleteRangeRequest, Digest, KeyValue,
    Outcome, PutRequest, RangeRequest, RequestOp, Response, Revision, TxnRequest,
};
use quorate_node::{
    AdminOperation, Answer, ClientOp, Consistency, Effect, Input, NodeError, OnStale, ReadGrant, ReadOptions,
};
use quorate_raft::{Entry, LogIndex, NodeId, RequestId, RoleKind, Term, Time};
use quorate_store::StateView;

use super::config::{ANSWER_SLACK_TIMEOUTS, node_config};
use super::model::{Model, ranges, value_id};
use super::workload::{self, Workload};
use super::{Event, FullTier, Process};
use crate::check::black_box::{CallId, ClientHistory, Operation};
use crate::clock::Instant;
use crate::context::Context;
use crate::coverage::{Coverage, Handler, Reached};
use crate::plan::Plan;
use crate::random::Random;
use crate::tier::{Ask, Killed, Tier};

/// First byte of every key; the interval of all keys ends at the next one.
const PREFIX: u8 = b'k';

/// A request without an answer.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    since: Time,
    what: Asked,
}

#[derive(Debug, Clone)]
enum Asked {
    Write(PendingWrite),
    Read(PendingRead),
    Admin,
    /// Whoever asked will not hear the answer.
    Gone,
    /// Of the workload of this number, which knows it by that.
    Workload {
        number: usize,
        call: u64,
    },
}

#[derive(Debug, Clone)]
struct PendingWrite {
    calls: Vec<(CallId, Operation)>,
    /// Numbers of the values it writes.
    ids: Vec<u64>,
    forwarded: bool,
}

#[derive(Debug, Clone)]
struct PendingRead {
    options: ReadOptions,
    key: Option<u64>,
    call: Option<CallId>,
    /// What was committed when it began.
    floor: LogIndex,
}

/// A read whose answer waits a moment: a process may be stopped between reading and answering.
#[derive(Debug, Clone)]
pub(crate) struct FinishedRead {
    request: PendingRead,
    grant: ReadGrant,
    kvs: Vec<KeyValue>,
}

/// What clients remember, and the checkers they feed.
#[derive(Debug)]
pub(crate) struct Clients {
    workloads: Vec<Box<dyn Workload>>,
    /// Whose turn it is among them.
    turn: usize,
    next_id: u64,
    model: Model,
    history: ClientHistory,
    /// Numbers of values that were acknowledged, and the revision they were told.
    acknowledged: Vec<(u64, i64)>,
    /// Numbers of values whose write was refused for certain.
    refused: Vec<u64>,
    last_seen: BTreeMap<u64, u64>,
    last_revision: i64,
    states: BTreeMap<LogIndex, (Term, Revision, Digest)>,
}

fn key_name(key: u64) -> Bytes {
    Bytes::from(format!("{}{key:03}", char::from(PREFIX)))
}

fn all_keys() -> (Bytes, Bytes) {
    (Bytes::copy_from_slice(&[PREFIX]), Bytes::copy_from_slice(&[PREFIX + 1]))
}

impl Clients {
    pub(super) fn new(plan: &Plan) -> Clients {
        Clients {
            workloads: workload::all(plan),
            turn: 0,
            next_id: 0,
            model: Model::default(),
            history: ClientHistory::default(),
            acknowledged: Vec::new(),
            refused: Vec::new(),
            last_seen: BTreeMap::new(),
            last_revision: 0,
            states: BTreeMap::new(),
        }
    }

    /// An entry is about to be applied somewhere.
    pub(super) fn committed(&mut self, entry: &Entry, now: Instant) {
        let Some(command) = self.model.apply(entry) else { return };
        for workload in &mut self.workloads {
            workload.committed(entry.index, &command, now);
        }
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

    /// What the others had as their state here, if any was seen.
    pub(super) fn state_at(&self, index: LogIndex) -> Option<(Term, Revision, Digest)> {
        self.states.get(&index).copied()
    }

    /// The process that took a request died: nobody will answer it.
    pub(super) fn lost(&mut self, pending: Pending, now: Instant, coverage: &mut Coverage) {
        match pending.what {
            Asked::Write(_) => coverage.hit(Reached::WriteUnknown),
            Asked::Workload { number, call } => self.workloads[number].lost(call, now),
            Asked::Read(_) | Asked::Admin | Asked::Gone => {}
        }
    }

    /// L-10: every acknowledged write is in the replay where its client was told, and every node holds what it says.
    pub(super) fn check_durable(&self, views: &[(NodeId, StateView)]) {
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
        let (key, range_end) = all_keys();
        for (node, view) in views {
            let request = RangeRequest { key: key.clone(), range_end: range_end.clone(), ..RangeRequest::default() };
            let response = view.range(&request).expect("a healthy disk can be read").expect("a current range");
            assert_eq!(view.applied(), self.model.applied(), "L-10: node {node} has not applied everything");
            self.model.check_range(*node, &request, &response);
        }
        for workload in &self.workloads {
            workload.check_durable(views);
        }
        self.history.check();
    }

    fn new_value(&mut self, random: &mut Random) -> (u64, Bytes) {
        self.next_id += 1;
        let mut value = self.next_id.to_le_bytes().to_vec();
        let most = if random.chance(20_000) { 5_000 } else { 30 };
        value.resize(8 + random.below(most) as usize, 0);
        (self.next_id, Bytes::from(value))
    }

    fn put(&mut self, random: &mut Random, key: u64) -> (u64, PutRequest) {
        let (id, value) = self.new_value(random);
        (id, PutRequest { key: key_name(key), value, ..PutRequest::default() })
    }

    /// Draws a write; with it, what it does to each key as far as clients can tell.
    fn draw_write(&mut self, random: &mut Random, keys: u64) -> (Command, Vec<(u64, Operation)>, Vec<u64>) {
        let key = random.below(keys);
        match random.below(21) {
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
                let revision = self.last_revision - random.below(20) as i64;
                (Command::Compact(CompactRequest { revision, physical: false }), Vec::new(), Vec::new())
            }
        }
    }

    /// A transaction that reads at an old revision, perhaps a compacted one, and writes a key that nobody else looks at.
    fn draw_old_read(&mut self, random: &mut Random, key: u64) -> Command {
        let revision = (self.last_revision - random.below(30) as i64).max(1);
        let read = RangeRequest { key: key_name(key), revision, ..RangeRequest::default() };
        let (_, value) = self.new_value(random);
        let put = PutRequest { key: Bytes::from_static(b"unread"), value, ..PutRequest::default() };
        let success = vec![RequestOp::Range(read), RequestOp::Put(put)];
        Command::Txn(TxnRequest { compare: Vec::new(), success, failure: Vec::new() })
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

    fn draw_read(&self, random: &mut Random, timeout_us: u64) -> ReadOptions {
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
            min_revision: random.chance(200_000).then_some(self.last_revision),
        }
    }
}

impl Process {
    /// A client or an administrator asks.
    pub(super) fn ask(&mut self, context: &mut Context<FullTier>, ask: Ask) -> Result<(), Killed> {
        if self.node.is_none() {
            return Ok(());
        }
        let since = context.local();
        let (what, op) = match ask {
            Ask::Write => self.draw_write(context),
            Ask::Read => {
                let options = context.clients.draw_read(&mut context.random, context.plan.timeout_us());
                return self.ask_read(context, options);
            }
            Ask::SetVoters { target, expected } => {
                (Asked::Admin, ClientOp::Admin(AdminOperation::SetVoters { target, expected }))
            }
            Ask::Transfer { to } => (Asked::Admin, ClientOp::Admin(AdminOperation::TransferLeader { to })),
            Ask::UpdateMember { id, member } => {
                (Asked::Admin, ClientOp::Admin(AdminOperation::UpdateMember { id, member }))
            }
            Ask::RaiseVersion => {
                let version = <FullTier as Tier>::NEWEST_VERSION;
                (Asked::Admin, ClientOp::Admin(AdminOperation::RaiseVersion { version }))
            }
            // The replica refuses to campaign by itself, where its mark says so.
            Ask::StopCampaigning { .. } | Ask::Verify | Ask::Diverge | Ask::LoseClients => return Ok(()),
            Ask::PeerLost { id } => return self.step(context, Input::PeerLost { id }),
            Ask::Stop => return self.step(context, Input::Stop),
            Ask::Workload => {
                let now = context.now();
                let clients = &mut context.clients;
                clients.turn = (clients.turn + 1) % clients.workloads.len();
                let number = clients.turn;
                let drawn = clients.workloads[number].draw(&mut context.random, now);
                let Some((call, mut op)) = drawn else { return Ok(()) };
                // One workload turns rights on; the others are not about them, and act as who needs none.
                if let ClientOp::Write { actor: actor @ Actor::Anonymous, .. } = &mut op {
                    *actor = Actor::Node;
                }
                (Asked::Workload { number, call }, op)
            }
        };
        self.submit(context, Pending { since, what }, op)
    }

    /// A read that must be served, for the phase that checks that reads are.
    fn ask_read(&mut self, context: &mut Context<FullTier>, mut options: ReadOptions) -> Result<(), Killed> {
        if !context.faulty {
            options = ReadOptions { consistency: Consistency::Consistent, ..ReadOptions::default() };
        }
        let since = context.local();
        let key = context.random.coin().then(|| context.random.below(context.plan.load.keys));
        let call = match (key, options.consistency) {
            (Some(key), Consistency::Default | Consistency::Consistent) => {
                let now = context.now();
                Some(context.clients.history.invoke(key, now, Operation::Read(None)))
            }
            _ => None,
        };
        let floor = context.oracle.committed();
        let what = Asked::Read(PendingRead { options, key, call, floor });
        self.submit(context, Pending { since, what }, ClientOp::Read(options))
    }

    fn draw_write(&mut self, context: &mut Context<FullTier>) -> (Asked, ClientOp) {
        let keys = context.plan.load.keys;
        let (mut command, mut operations, mut ids) = context.clients.draw_write(&mut context.random, keys);
        if !context.faulty {
            // After the faults a write counts as served, so it is one that cannot be refused.
            let (id, put) = context.clients.put(&mut context.random, 0);
            (command, operations, ids) = (Command::Put(put), vec![(0, Operation::Write(Some(id)))], vec![id]);
        }
        let now = context.now();
        let history = &mut context.clients.history;
        let calls =
            operations.into_iter().map(|(key, operation)| (history.invoke(key, now, operation), operation)).collect();
        let leads = self.node.as_ref().is_some_and(|node| node.status(context.local()).raft.role == RoleKind::Leader);
        let asked = Asked::Write(PendingWrite { calls, ids, forwarded: !leads });
        (asked, ClientOp::Write { actor: Actor::Node, command })
    }

    fn submit(&mut self, context: &mut Context<FullTier>, pending: Pending, op: ClientOp) -> Result<(), Killed> {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.pending.insert(request, pending);
        if context.faulty && context.random.chance(10_000) {
            let delay = context.random.below(context.plan.timeout_us());
            context.later(delay, Event::ClientLeaves(request));
        }
        self.step(context, Input::Client { request, op })
    }

    /// A client goes away before its answer.
    pub(super) fn client_leaves(&mut self, context: &mut Context<FullTier>, request: RequestId) -> Result<(), Killed> {
        let Some(pending) = self.pending.remove(&request) else { return Ok(()) };
        context.coverage.hit(Reached::ClientLeft);
        let now = context.now();
        context.clients.lost(pending, now, &mut context.coverage);
        self.step(context, Input::Cancel { request })
    }

    /// Clients are cut off and go elsewhere: what they asked here goes on, with an outcome that they never learn.
    pub(super) fn lose_clients(&mut self, context: &mut Context<FullTier>) {
        for pending in self.pending.values_mut() {
            let gone = Pending { since: pending.since, what: Asked::Gone };
            let lost = std::mem::replace(pending, gone);
            context.clients.lost(lost, context.queue.now(), &mut context.coverage);
        }
    }

    /// L-7: no request waits much longer than its own time.
    pub(super) fn check_answers(&self, context: &Context<FullTier>) {
        let config = node_config(&context.plan, context.host, self.lifecycle.incarnation(), 1);
        let allowed = config.request_timeout + config.raft.election_timeout * (2 + ANSWER_SLACK_TIMEOUTS);
        let now = context.local();
        for (request, pending) in &self.pending {
            assert!(
                now.since(pending.since) <= allowed || !context.plan.clocks_bounded,
                "L-7: node {} has not answered {request:?} within {allowed:?}: {pending:?}",
                context.node
            );
        }
    }

    /// The replica answers.
    pub(super) fn answered(
        &mut self,
        context: &mut Context<FullTier>,
        request: RequestId,
        answer: Answer,
    ) -> Result<(), Killed> {
        let pending = self.pending.remove(&request).expect("a request is answered once");
        if self.has_strayed() {
            // What it says is of no use to anybody until it has found out.
            let now = context.now();
            context.clients.lost(pending, now, &mut context.coverage);
            return Ok(());
        }
        match (pending.what, answer) {
            (Asked::Write(write), Answer::Written(outcome)) => {
                written(context, write, &outcome);
                Ok(())
            }
            (Asked::Write(write), Answer::Refused(error)) => {
                refused(context, write, &error);
                Ok(())
            }
            (Asked::Read(read), Answer::ReadAt(grant)) => self.read(context, read, grant),
            (Asked::Read(_), Answer::Refused(error)) => {
                if matches!(error, NodeError::StaleRead { .. }) {
                    context.coverage.hit(Reached::StaleRefused);
                }
                Ok(())
            }
            (Asked::Admin, Answer::Transferred) => {
                context.coverage.hit(Reached::Transferred);
                Ok(())
            }
            (Asked::Admin, Answer::Refused(NodeError::TransferFailed(_))) => {
                context.coverage.hit(Reached::TransferFailed);
                Ok(())
            }
            (Asked::Admin, Answer::Accepted { .. } | Answer::Refused(_)) | (Asked::Gone, _) => Ok(()),
            (Asked::Workload { number, call }, answer) => {
                let now = context.now();
                context.clients.workloads[number].answered(call, now, &answer, &self.state.view());
                Ok(())
            }
            (what, answer) => panic!("{answer:?} is no answer to {what:?}"),
        }
    }

    /// Reads the state, and answers at once or a moment later.
    fn read(&mut self, context: &mut Context<FullTier>, request: PendingRead, grant: ReadGrant) -> Result<(), Killed> {
        let view = self.state.view();
        let (key, range_end) = request.key.map_or_else(all_keys, |key| (key_name(key), Bytes::new()));
        let limit = if context.random.coin() { 0 } else { context.random.below(5) as i64 };
        let range = RangeRequest { key: key.clone(), range_end: range_end.clone(), limit, ..RangeRequest::default() };
        let response = self.healthy(context, Handler::ReadBack, view.range(&range))?.expect("a current range");
        let (node, applied) = (context.node, view.applied());
        assert!(applied >= grant.index, "node {node} grants a read at {} and has applied {applied}", grant.index);
        context.clients.model.check_range(node, &range, &response);
        if let Some(least) = request.options.min_revision {
            assert!(response.revision.0 >= least, "node {node} reads at {}, asked for {least}", response.revision);
        }
        if grant.effective == Consistency::Stale {
            check_stale(context, &request, &grant, applied);
        }
        let finished = FinishedRead { request, grant, kvs: response.kvs };
        if context.random.chance(300_000) {
            let delay = context.random.below(context.plan.timeout_us());
            context.later(delay, Event::ReadFinished(finished));
            return Ok(());
        }
        self.finish_read(context, finished)
    }

    /// Answers a read, if its lease still holds; else it is made again, with a quorum.
    pub(super) fn finish_read(&mut self, context: &mut Context<FullTier>, read: FinishedRead) -> Result<(), Killed> {
        if self.has_strayed() {
            return Ok(());
        }
        let FinishedRead { request, grant, kvs } = read;
        let node = self.node.as_ref().expect("it granted the read");
        if let Some(fence) = grant.fence
            && !fence.holds(node.lease(), context.local())
        {
            let options = ReadOptions { consistency: Consistency::Consistent, ..request.options };
            let since = context.local();
            let what = Asked::Read(PendingRead { options, ..request });
            return self.submit(context, Pending { since, what }, ClientOp::Read(options));
        }
        context.coverage.hit(match grant.effective {
            Consistency::Default => Reached::LeaseRead,
            Consistency::Consistent => Reached::ConsistentRead,
            Consistency::Stale => Reached::StaleRead,
        });
        let seen = kvs.first().map(|kv| value_id(&kv.value));
        if let Some(key) = request.key {
            match seen {
                Some(id) => context.clients.last_seen.insert(key, id),
                None => context.clients.last_seen.remove(&key),
            };
        }
        if grant.effective == Consistency::Stale {
            return Ok(());
        }
        if grant.fence.is_none() || context.plan.clocks_bounded {
            context.oracle.read(context.node, request.floor, grant.index);
            if let Some(call) = request.call {
                let now = context.now();
                context.clients.history.returned(call, now, Operation::Read(seen));
            }
        }
        Ok(())
    }
}

fn check_stale(context: &mut Context<FullTier>, request: &PendingRead, grant: &ReadGrant, applied: LogIndex) {
    let node = context.node;
    if let Some(most) = request.options.max_staleness {
        let told = grant.staleness.expect("a bounded read says how stale it is");
        assert!(told <= most, "node {node} serves a read {told:?} old, at most {most:?} was asked for");
    }
    if let Some(staleness) = grant.staleness {
        let us = staleness.as_micros() as u64;
        context.oracle.stale_read(node, context.now(), applied, us, context.plan.clock_ppm);
    }
}

fn written(context: &mut Context<FullTier>, write: PendingWrite, outcome: &Outcome) {
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
    for kv in ranges(response) {
        if let Some(key) = std::str::from_utf8(&kv.key[1..]).ok().and_then(|key| key.parse().ok()) {
            clients.last_seen.insert(key, value_id(&kv.value));
        }
    }
}

/// What a refusal lets a client conclude.
fn refused(context: &mut Context<FullTier>, write: PendingWrite, error: &NodeError) {
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
