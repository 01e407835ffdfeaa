//! I-5: what a leader commits is of its own term and durable on a majority of each half of its configuration, read from
//! the disks. Nobody ever commits something else at an index. I-6: a new leader holds everything committed before.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_raft::{LogIndex, Membership, NodeId, Payload, RoleKind, Term};

use super::history::History;
use super::{Cluster, View};
use crate::log_model::LogModel;

/// What is remembered of every running node.
#[derive(Debug, Default)]
pub(super) struct Commit {
    nodes: BTreeMap<NodeId, Checked>,
}

/// One node after its last step.
#[derive(Debug)]
struct Checked {
    /// Its commit index was checked up to here.
    commit: LogIndex,
    /// The configuration in force.
    membership: Arc<Membership>,
    /// The term it leads.
    leads: Option<Term>,
}

impl Commit {
    pub(super) fn died(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    pub(super) fn check(&mut self, view: &View<'_>, cluster: &Cluster, history: &mut History) {
        let status = view.status;
        let leads = (status.role == RoleKind::Leader).then_some(status.term);
        let first_seen = || Checked { commit: LogIndex(0), membership: Arc::clone(&status.membership), leads };
        let checked = self.nodes.entry(view.node).or_insert_with(first_seen);
        let led = std::mem::replace(&mut checked.leads, leads);
        let moved = !Arc::ptr_eq(&checked.membership, &status.membership);
        let before = moved.then(|| std::mem::replace(&mut checked.membership, Arc::clone(&status.membership)));
        if status.commit <= checked.commit {
            return;
        }
        let from = std::mem::replace(&mut checked.commit, status.commit);
        let log = cluster.logs[view.host.0].issued();
        let fresh = status.commit > history.committed();
        for index in (from.0 + 1..=status.commit.0).map(LogIndex) {
            // What lies below an installed image cannot be looked at any more.
            let Some((term, chain)) = log.at(index) else { continue };
            match history.at(index) {
                Some(first) => assert!(
                    first == (term, chain),
                    "I-5: node {} commits an entry of term {term} at {index}, where one of term {} was committed",
                    view.node,
                    first.0
                ),
                None => {
                    assert!(
                        history.committed().0 + 1 == index.0,
                        "I-5: node {} commits {index} and what lies before was never committed",
                        view.node
                    );
                    let membership = log.entry(index).and_then(|entry| match &entry.payload {
                        Payload::Membership(membership) => Some(membership),
                        _ => None,
                    });
                    history.push(view.now, status.term, (term, chain), membership);
                }
            }
        }
        if fresh {
            // A leader that commits its own removal stops leading in the same step.
            let leads = leads.is_some() || led == Some(status.term);
            assert!(leads, "I-5: node {} leads nothing and is the first to commit {}", view.node, status.commit);
            check_quorum(view, cluster, before.as_deref().unwrap_or(&status.membership));
        }
    }

    /// I-6, when `view` shows a node that has just become leader.
    pub(super) fn check_new_leader(&self, view: &View<'_>, log: &LogModel, history: &History) {
        // Who wins a term late, when newer ones have leaders already, owes nothing to those.
        let committed = history.committed_before(view.status.term);
        if log.issued().base.0 > committed {
            return;
        }
        assert!(
            log.issued().at(committed) == history.at(committed),
            "I-6: node {} leads term {} with a log that ends at {} and lacks the committed {committed}",
            view.node,
            view.status.term,
            log.issued().last()
        );
    }
}

/// `before` is the configuration before this step: a leader may commit under it and then, in the same step, change it.
fn check_quorum(view: &View<'_>, cluster: &Cluster, before: &Membership) {
    let status = view.status;
    let index = status.commit;
    let own = cluster.logs[view.host.0].issued().at(index).expect("a leader holds what it commits");
    assert!(own.0 == status.term, "I-5: the leader of term {} commits {index} of term {}", status.term, own.0);
    let durable = |node: NodeId| {
        cluster.log(node).is_some_and(|log| log.durable().base.0 > index || log.durable().at(index) == Some(own))
    };
    assert!(
        has_majorities(&status.membership, durable) || has_majorities(before, durable),
        "I-5: node {} commits {index} in term {}, durable on {:?} alone; voters {:?}, outgoing {:?}",
        view.node,
        status.term,
        cluster.nodes.iter().filter(|&&node| durable(node)).collect::<Vec<_>>(),
        status.membership.voters,
        status.membership.outgoing
    );
}

/// A majority of each half, counted here: the code under test must not be its own judge.
pub(super) fn has_majorities(membership: &Membership, holds: impl Fn(NodeId) -> bool) -> bool {
    [&membership.voters, &membership.outgoing].into_iter().all(|half| {
        let held = half.iter().filter(|node| holds(**node)).count();
        half.is_empty() || 2 * held > half.len()
    })
}
