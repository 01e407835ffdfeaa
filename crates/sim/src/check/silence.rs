//! I-13: who told a leader to vote for nobody for so long keeps to it, after a restart too, and for itself as well as for others.
//!
//! A lease rests on these promises. One that is broken seldom meets a lease that needs just this one, so each is held to its
//! word by itself, and each lease to the promises that it rests on.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_raft::{Body, Message, NodeId, Term};

use super::View;
use super::commit::has_majorities;
use crate::clock::{Clock, Instant};

/// Microseconds that are lost where times are rounded.
const GRAIN: Duration = Duration::from_micros(2);

/// Until when, in true time, each node votes for nobody, by the term of the leader that it promised it to.
#[derive(Debug)]
pub(super) struct Silence {
    until: BTreeMap<NodeId, BTreeMap<Term, Instant>>,
    /// Some leader told a successor to campaign in this term: from before, nobody has a lease any more, whoever still answers.
    given_up: Term,
    /// Clocks run this much too fast at most, also after a restart.
    clock_ppm: u32,
}

impl Silence {
    pub(super) fn new(clock_ppm: u32) -> Silence {
        Silence { until: BTreeMap::new(), given_up: Term(0), clock_ppm }
    }

    /// A message leaves a node.
    pub(super) fn sent(&mut self, now: Instant, clock: &Clock, message: &Message) {
        let (node, term) = (message.from, message.term);
        match &message.body {
            Body::AppendReply { probe, promise, .. } if term >= self.given_up => {
                let fast = f64::from(1_000_000 + self.clock_ppm) / 1e6;
                let until = clock.when(*probe) + promise.div_f64(fast).saturating_sub(GRAIN);
                let promised = self.until.entry(node).or_default().entry(term).or_insert(until);
                *promised = until.max(*promised);
            }
            // Its leader has given up the lease.
            Body::RequestVote { pre: false, transfer: true, .. } => {
                self.given_up = self.given_up.max(term);
                self.until.values_mut().for_each(|promised| promised.retain(|of, _| *of >= term));
            }
            Body::RequestVote { pre: false, transfer: false, .. } | Body::VoteReply { pre: false, granted: true } => {
                self.voted(now, node, term);
            }
            _ => {}
        }
    }

    /// A lease ends no later than the silence of a quorum of each half, as promised in its term. What was appended since, and is
    /// not committed, may have voters that the lease does not rest on.
    pub(super) fn check_lease(&self, view: &View<'_>) {
        let status = view.status;
        let Some(until) = status.lease_until.map(|until| view.clock.when(until)).filter(|until| *until > view.now)
        else {
            return;
        };
        let promised = |node: NodeId| self.until.get(&node).and_then(|promised| promised.get(&status.term));
        let is_silent = |node: NodeId| node == view.node || promised(node).is_some_and(|promised| *promised >= until);
        let memberships = [&status.membership, &status.committed_membership];
        assert!(
            memberships.into_iter().any(|membership| has_majorities(membership, is_silent)),
            "I-13: node {} holds a lease of term {} until {until}; voters promised {:?}, in force is {:?}",
            view.node,
            status.term,
            status.membership.all_voters().map(|node| (node, promised(node))).collect::<Vec<_>>(),
            status.membership
        );
    }

    fn voted(&mut self, now: Instant, node: NodeId, term: Term) {
        let Some(promised) = self.until.get_mut(&node) else { return };
        promised.retain(|_, until| *until > now);
        let broken = promised.range(..term).next();
        assert!(
            broken.is_none(),
            "I-13: node {node} votes in term {term} at {now}; it promised a leader to vote for nobody, by term until: {broken:?}"
        );
    }
}
