//! L-2: a leader that hears no quorum, or whose disk stands still, soon leads no more; a node that hears nobody raises no
//! term.
//!
//! Times are true ones with a margin of three election timeouts, more than what the worst clock of a run makes of two. A node
//! that made no step for half a timeout stood still: what it owed meanwhile is not asked for, its count begins anew.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_raft::{LogIndex, Membership, NodeId, RoleKind, Term};

use super::{Cluster, View};
use crate::clock::Instant;
use crate::network::Network;

/// How long a leader may go on without what it needs, and a node without hearing anybody, in election timeouts.
const MARGIN_TIMEOUTS: u32 = 3;

/// What is remembered of one running node.
#[derive(Debug, Clone, Copy)]
struct Watched {
    /// It has made steps without a long pause since.
    running_since: Instant,
    stepped: Instant,
    role: RoleKind,
    term: Term,
    /// It leads, under the same configuration, since.
    leads_since: Instant,
    configuration: LogIndex,
}

/// Every running node.
#[derive(Debug)]
pub(super) struct Leadership {
    nodes: BTreeMap<NodeId, Watched>,
    timeout: Duration,
    /// Old copies may arrive at any time: what a node heard says nothing about who is there.
    replays: bool,
}

impl Leadership {
    pub(super) fn new(timeout: Duration, replays: bool) -> Leadership {
        Leadership { nodes: BTreeMap::new(), timeout, replays }
    }

    pub(super) fn died(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    pub(super) fn check(&mut self, view: &View<'_>, cluster: &Cluster, network: &Network) {
        let status = view.status;
        let now = view.now;
        let fresh = Watched {
            running_since: now,
            stepped: now,
            role: status.role,
            term: status.term,
            leads_since: now,
            configuration: status.membership_index,
        };
        let watched = self.nodes.entry(view.node).or_insert(fresh);
        let before = *watched;
        if now.since(before.stepped) > self.timeout / 2 {
            watched.running_since = now;
        }
        watched.stepped = now;
        (watched.role, watched.term) = (status.role, status.term);
        if (before.role, before.term) != (status.role, status.term) {
            watched.leads_since = now;
        }
        if before.configuration != status.membership_index {
            // Who is new in it may not have been heard for long.
            watched.configuration = status.membership_index;
            watched.leads_since = now;
        }
        let watched = *watched;
        let margin = self.timeout * MARGIN_TIMEOUTS;
        if status.role == RoleKind::Candidate && status.term > before.term && !self.replays {
            check_campaign(view, cluster, network, margin.max(now.since(before.stepped) * 2));
        }
        if status.role == RoleKind::Leader {
            let since = watched.running_since.max(watched.leads_since);
            if now.since(since) > margin {
                check_disk(view, cluster, margin);
                // An old answer that comes again passes for a sign of life; streams bring none twice.
                if !self.replays {
                    check_quorum(view, cluster, network, margin);
                }
            }
        }
    }
}

/// A node that heard nobody for so long cannot have been told by a quorum that it would win, nor by a leader to campaign.
fn check_campaign(view: &View<'_>, cluster: &Cluster, network: &Network, margin: Duration) {
    let alone = votes_alone(&view.status.membership, view.node);
    let heard =
        cluster.nodes.iter().enumerate().any(|(host, node)| {
            *node != view.node && heard_within(view, network, crate::network::HostId(host), margin)
        });
    assert!(
        alone || heard || view.now.since(Instant(0)) < margin,
        "L-2: node {} heard nobody for {margin:?} and raises the term to {}",
        view.node,
        view.status.term
    );
}

/// The only voter needs nobody, and has nobody to give its office to.
fn is_alone(view: &View<'_>) -> bool {
    let alone = |membership: &Membership| votes_alone(membership, view.node);
    alone(&view.status.membership) || alone(&view.status.committed_membership)
}

/// Looked at here: the code under test must not be its own judge.
fn votes_alone(membership: &Membership, node: NodeId) -> bool {
    membership.outgoing.is_empty() && membership.voters.iter().eq([&node])
}

fn check_quorum(view: &View<'_>, cluster: &Cluster, network: &Network, margin: Duration) {
    let status = view.status;
    if is_alone(view) {
        return;
    }
    let here = |node: NodeId| {
        let host = cluster.directory.get(&node);
        node == view.node || host.is_some_and(|host| heard_within(view, network, *host, margin))
    };
    assert!(
        super::commit::has_majorities(&status.membership, here),
        "L-2: node {} leads term {} and has not heard a quorum for {margin:?}",
        view.node,
        status.term
    );
}

fn check_disk(view: &View<'_>, cluster: &Cluster, margin: Duration) {
    let status = view.status;
    let waiting = cluster.logs[view.host.0].oldest_pending();
    assert!(
        is_alone(view) || waiting.is_none_or(|since| view.now.since(since) <= margin),
        "L-2: node {} leads term {} and its disk has finished nothing since {waiting:?}",
        view.node,
        status.term
    );
}

fn heard_within(view: &View<'_>, network: &Network, host: crate::network::HostId, margin: Duration) -> bool {
    view.now.since(network.heard_at(host, view.host)) <= margin
}
