//! The moves of the workloads that stand apart, and of clients that watch, as a process is asked for them.

use quorate_kv::{Command, Outcome, Response};
use quorate_node::{Answer, ClientOp};

use super::clients::{Asked, Clients, Pending};
use super::watchers::Move;
use super::watching::WatchJob;
use super::{Event, FullTier, Process};
use crate::context::Context;
use crate::tier::Killed;

impl Process {
    /// The workload whose turn it is makes its move; those that watch take turns with them.
    pub(super) fn ask_workload(&mut self, context: &mut Context<FullTier>) -> Result<(), Killed> {
        if context.clients.workloads.is_empty() || context.random.chance(400_000) {
            self.move_watchers(context, false);
            return Ok(());
        }
        let now = context.now();
        let clients = &mut context.clients;
        clients.turn = (clients.turn + 1) % clients.workloads.len();
        let number = clients.turn;
        let mut drawn = clients.workloads[number].draw(&mut context.random, now).into_iter();
        while let Some((call, op)) = drawn.next() {
            if let Err(killed) = self.submit_for_workload(context, number, call, op) {
                drawn.for_each(|(call, _)| context.clients.workloads[number].lost(call, now));
                return Err(killed);
            }
        }
        Ok(())
    }

    fn submit_for_workload(
        &mut self,
        context: &mut Context<FullTier>,
        number: usize,
        call: u64,
        op: ClientOp,
    ) -> Result<(), Killed> {
        let (now, since) = (context.now(), context.local());
        if mutant!(KeepAliveOfDeposed)
            && let Some(answer) = self.keep_alive_of_own_word(&op)
        {
            let view = self.state.view();
            context.clients.workloads[number].answered(call, now, &answer, &view, &mut context.coverage);
            return self.submit(context, Pending { since, what: Asked::Gone }, op);
        }
        self.submit(context, Pending { since, what: Asked::Workload { number, call } }, op)
    }

    /// What a node that takes itself for the leader would say of a keepalive without asking anybody.
    fn keep_alive_of_own_word(&self, op: &ClientOp) -> Option<Answer> {
        let ClientOp::Write { command: Command::LeaseRenew { ids }, .. } = op else { return None };
        let view = self.state.view();
        self.node.as_ref()?.leads()?;
        let ttl = |id: &i64| view.lease(*id).map_or(0, |lease| lease.ttl_seconds);
        let result = Ok(Response::LeaseRenew { ttls_seconds: ids.iter().map(ttl).collect() });
        Some(Answer::Written(Outcome { result, revision: view.revision(), changes: Vec::new() }))
    }

    /// A client that watches at this node makes a move; with `settle`, all of them do what settles them.
    pub(super) fn move_watchers(&mut self, context: &mut Context<FullTier>, settle: bool) {
        if self.has_strayed() {
            return;
        }
        let (now, seen) = (context.now(), self.state.view().revision().0);
        let Clients { watchers: Some(watchers), model, workloads, .. } = &mut context.clients else { return };
        for followed in workloads.iter_mut().filter_map(|workload| workload.followed()) {
            watchers.follow(followed, model, &mut context.coverage);
        }
        let (random, node) = (&mut context.random, context.node);
        let moves = if settle {
            watchers.settle(node, seen, now, random)
        } else {
            let (timeout_us, keys) = (context.plan.timeout_us(), context.plan.load.keys);
            watchers.draw(random, node, (seen, now, timeout_us), keys, model, &mut context.coverage)
        };
        for it in moves {
            let job = match it {
                Move::Open { stream, line } => WatchJob::Open { stream, line },
                Move::Create { stream, create } => WatchJob::Create { stream, create },
                Move::Cancel { stream, id } => WatchJob::Cancel { stream, id },
                Move::Progress { stream } => WatchJob::Progress { stream },
                Move::Close { stream } => WatchJob::Close { stream },
                Move::ReadLater { delay_us } => {
                    context.later(delay_us, Event::WatchTurn);
                    continue;
                }
            };
            self.watch(context, job);
        }
    }
}
