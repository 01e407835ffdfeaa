//! Reads that were granted: what the state says, whether it may be said, and what checkers learn from it.

use bytes::Bytes;
use quorate_kv::{
    Compare, CompareResult, CompareTarget, RangeRequest, RequestOp, ResponseBody, SortOrder, SortTarget, TxnRequest,
};
use quorate_node::{ClientOp, Consistency, ReadGrant, ReadOptions};
use quorate_raft::{LogIndex, NodeId};
use quorate_store::StateView;

use super::clients::{Asked, FinishedRead, Pending, PendingRead, all_keys, key_name};
use super::model::{Model, value_id};
use super::side_reads::read_range;
use super::{Event, FullTier, Process};
use crate::check::black_box::Operation;
use crate::context::Context;
use crate::coverage::{Handler, Reached};
use crate::random::Random;
use crate::tier::Killed;

/// How many of a million reads come with another at an old revision.
const OLD_READS_PER_MILLION: u32 = 300_000;

impl Process {
    /// Reads the state, and answers at once or a moment later.
    pub(super) fn read(
        &mut self,
        context: &mut Context<FullTier>,
        request: PendingRead,
        grant: ReadGrant,
    ) -> Result<(), Killed> {
        let view = self.state.view();
        let (key, range_end) = request.key.map_or_else(all_keys, |key| (key_name(key), Bytes::new()));
        let limit = if context.random.coin() { 0 } else { context.random.below(5) as i64 };
        let range = RangeRequest { key: key.clone(), range_end: range_end.clone(), limit, ..RangeRequest::default() };
        let answer = self.healthy(context, Handler::ReadBack, read_range(&view, &range))?;
        let (node, applied) = (context.node, view.applied());
        assert!(applied >= grant.index, "node {node} grants a read at {} and has applied {applied}", grant.index);
        let revisions = (view.revision().0, view.compact_revision().0);
        context.clients.model.check_range(node, revisions, &range, &answer);
        let response = answer.expect("a current range");
        if context.random.chance(OLD_READS_PER_MILLION) {
            self.read_old(context, revisions)?;
        }
        self.read_aside(context, revisions)?;
        if let Some(least) = request.options.min_revision {
            assert!(response.revision.0 >= least, "node {node} reads at {}, asked for {least}", response.revision);
        }
        assert!(
            applied >= self.started_at,
            "I-12: node {node} serves a read at {applied}, and knew {} to be committed when it started",
            self.started_at
        );
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

    /// Reads at a revision of any age, with bounds of all kinds: the state answers from its own history, whatever was compacted.
    fn read_old(&self, context: &mut Context<FullTier>, revisions: (i64, i64)) -> Result<(), Killed> {
        let (current, compacted) = revisions;
        let random = &mut context.random;
        let range = draw_old(random, context.plan.load.keys, revisions);
        let answer = self.healthy(context, Handler::ReadBack, self.state.view().range(&range))?;
        context.clients.model.check_range(context.node, revisions, &range, &answer);
        context.coverage.hit(match range.revision {
            revision if revision > current => Reached::FutureRead,
            revision if revision < compacted => Reached::CompactedRead,
            _ => Reached::OldRevisionRead,
        });
        Ok(())
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

/// What somebody reads in the middle of a batch, when the key index is ahead of the file: all as it was before.
pub(super) fn look_between(view: &StateView, model: &Model, node: NodeId, number: u64) {
    let current = view.revision();
    let (key, range_end) = all_keys();
    let all = RangeRequest { key, range_end, sort_target: SortTarget::Version, ..RangeRequest::default() };
    let Ok(answer) = view.range(&all) else { return };
    model.check_range(node, (current.0, i64::MIN), &all, &answer);
    let Ok(at_once) = read_range(view, &all) else { return };
    model.check_range(node, (current.0, i64::MIN), &all, &at_once);
    let kvs = answer.expect("a current range").kvs;
    if kvs.is_empty() {
        return;
    }
    let kv = &kvs[number as usize % kvs.len()];
    let compare =
        |target| Compare { key: kv.key.clone(), range_end: Bytes::new(), target, result: CompareResult::Equal };
    let compares = vec![
        compare(CompareTarget::Version(kv.version)),
        compare(CompareTarget::Create(kv.create_revision)),
        compare(CompareTarget::Mod(kv.mod_revision)),
        compare(CompareTarget::Value(kv.value.clone())),
    ];
    let success = vec![RequestOp::Range(RangeRequest { key: kv.key.clone(), ..RangeRequest::default() })];
    let txn = TxnRequest { compare: compares, success, failure: Vec::new() };
    let Ok(answer) = view.read_txn_within(&txn, &|_| true) else { return };
    let answer = answer.expect("a current transaction");
    assert!(answer.succeeded, "I-14: node {node} reads {kv:?} at {current}, and no transaction finds it so");
    let found = match &answer.responses[0].body {
        ResponseBody::Range(range) => range.kvs.first(),
        other => panic!("I-14: node {node} answers a range with {other:?}"),
    };
    assert!(found == Some(kv), "I-14: node {node} reads {kv:?} at {current}, and {found:?} in a transaction");
}

/// A range at an old revision, at times at one that is forgotten or still to come.
fn draw_old(random: &mut Random, keys: u64, (current, compacted): (i64, i64)) -> RangeRequest {
    let revision = match random.below(8) {
        0 => current + random.between(1, 3) as i64,
        1 | 2 => (compacted - 2 + random.below(4) as i64).max(1),
        _ => {
            let oldest = compacted.max(1);
            oldest + random.below((current - oldest).max(0) as u64 + 1) as i64
        }
    };
    let (key, range_end) = match random.below(4) {
        0 => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        1 => all_keys(),
        2 => (key_name(random.below(keys)), Bytes::copy_from_slice(&key_name(keys))),
        _ => (key_name(random.below(keys)), Bytes::new()),
    };
    let mut bound = || if random.chance(150_000) { random.below(current as u64 + 1) as i64 } else { 0 };
    let (min_mod_revision, max_mod_revision) = (bound(), bound());
    let (min_create_revision, max_create_revision) = (bound(), bound());
    let (sort_order, sort_target) = draw_order(random);
    RangeRequest {
        key,
        range_end,
        revision,
        sort_order,
        sort_target,
        min_mod_revision,
        max_mod_revision,
        min_create_revision,
        max_create_revision,
        limit: random.below(4) as i64,
        keys_only: random.chance(150_000),
        count_only: random.chance(150_000),
        ..RangeRequest::default()
    }
}

/// An order of any kind, in half of the cases; a target may be named without one.
pub(super) fn draw_order(random: &mut Random) -> (SortOrder, SortTarget) {
    if random.coin() {
        return (SortOrder::None, SortTarget::Key);
    }
    let orders = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend];
    let targets = [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
    (*random.pick(&orders).expect("choices"), *random.pick(&targets).expect("choices"))
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
