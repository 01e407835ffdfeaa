//! What clients and administrators ask of a process, and what it answers them.

use quorate_kv::{Actor, Command, CompactRequest};
use quorate_node::{AdminOperation, Answer, ClientOp, Consistency, Input, NodeError, ReadOptions};
use quorate_raft::{RequestId, RoleKind, Term};

use super::clients::{Asked, Pending, PendingRead, PendingWrite, refused, written};
use super::config::{ANSWER_SLACK_TIMEOUTS, request_timeout};
use super::{Event, FullTier, Process};
use crate::check::black_box::Operation;
use crate::context::Context;
use crate::coverage::Reached;
use crate::tier::{Ask, Killed, Tier};

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
            Ask::Transfer { to } => {
                let term = self.node.as_ref().map_or(Term(0), |node| node.status(since).raft.term);
                (Asked::Transfer { to, term }, ClientOp::Admin(AdminOperation::TransferLeader { to }))
            }
            Ask::UpdateMember { id, member } => {
                (Asked::Admin, ClientOp::Admin(AdminOperation::UpdateMember { id, member }))
            }
            Ask::ChangeMember(change) => (Asked::Admin, ClientOp::Admin(AdminOperation::ChangeMember(change))),
            Ask::RaiseVersion => {
                let version = <FullTier as Tier>::NEWEST_VERSION;
                (Asked::Admin, ClientOp::Admin(AdminOperation::RaiseVersion { version }))
            }
            // The replica refuses to campaign by itself, where its mark says so.
            Ask::StopCampaigning { .. } | Ask::Verify | Ask::Diverge | Ask::LoseClients => return Ok(()),
            Ask::PeerLost { id } => return self.step(context, Input::PeerLost { id }),
            Ask::Stop => return self.step(context, Input::Stop),
            Ask::Workload => return self.ask_workload(context),
            Ask::Compact => {
                let clients = &mut context.clients;
                let (newest, compacted) = clients.model.newest();
                let revision = *clients.prune_to.get_or_insert(newest);
                if compacted >= revision {
                    return Ok(());
                }
                let command = Command::Compact(CompactRequest { revision, physical: false });
                (Asked::Gone, ClientOp::Write { actor: Actor::Node, command })
            }
            Ask::Settle => {
                self.move_watchers(context, true);
                return Ok(());
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

    pub(super) fn submit(
        &mut self,
        context: &mut Context<FullTier>,
        pending: Pending,
        op: ClientOp,
    ) -> Result<(), Killed> {
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
        self.step(context, Input::Cancel { request })?;
        if self.has_queued() {
            self.cancelled.insert(request);
        }
        Ok(())
    }

    /// Clients are cut off and go elsewhere: what they asked here goes on, with an outcome that they never learn.
    pub(super) fn lose_clients(&mut self, context: &mut Context<FullTier>) {
        for pending in self.pending.values_mut() {
            let gone = Pending { since: pending.since, what: Asked::Gone };
            let lost = std::mem::replace(pending, gone);
            context.clients.lost(lost, context.queue.now(), &mut context.coverage);
        }
    }

    /// What a request waited for its turn, perhaps while the process stood still, is no time that the replica had for it.
    pub(super) fn begin_requests(&mut self, context: &Context<FullTier>, inputs: &[Input]) {
        for input in inputs {
            if let Input::Client { request, .. } = input
                && let Some(pending) = self.pending.get_mut(request)
            {
                pending.since = context.local();
            }
        }
    }

    /// L-7: no request waits much longer than its own time.
    pub(super) fn check_answers(&self, context: &Context<FullTier>) {
        let slack = context.plan.raft.election_timeout * (2 + ANSWER_SLACK_TIMEOUTS);
        let allowed = request_timeout(&context.plan) + slack;
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
        let Some(pending) = self.pending.remove(&request) else {
            assert!(self.cancelled.remove(&request), "node {} answers {request:?} again", context.node);
            return Ok(());
        };
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
            (Asked::Transfer { to, term }, Answer::Transferred) => {
                assert!(
                    context.oracle.has_led_since(to, term),
                    "L-6: node {} says that leadership went to {to:?}, which was asked for in term {term}",
                    context.node
                );
                context.coverage.hit(Reached::Transferred);
                Ok(())
            }
            (Asked::Transfer { .. }, Answer::Refused(NodeError::TransferFailed(_))) => {
                context.coverage.hit(Reached::TransferFailed);
                Ok(())
            }
            (Asked::Admin, Answer::Accepted { .. } | Answer::Refused(_))
            | (Asked::Transfer { .. }, Answer::Refused(_))
            | (Asked::Gone, _) => Ok(()),
            (Asked::Workload { number, call }, answer) => {
                let now = context.now();
                let view = self.state.view();
                context.clients.workloads[number].answered(call, now, &answer, &view, &mut context.coverage);
                Ok(())
            }
            (what, answer) => panic!("{answer:?} is no answer to {what:?}"),
        }
    }
}
