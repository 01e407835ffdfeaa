//! Quorum arithmetic: the deployment table, and properties of both halves of a joint configuration.

use std::collections::BTreeSet;

use proptest::prelude::*;
use quorate_raft::*;

use super::schedule::bootstrap;

fn halves(incoming: &BTreeSet<u64>, outgoing: &BTreeSet<u64>) -> Membership {
    let mut membership = bootstrap(incoming.union(outgoing).copied());
    membership.voters = incoming.iter().copied().map(NodeId).collect();
    membership.outgoing = outgoing.iter().copied().map(NodeId).collect();
    if membership.is_joint() {
        membership.target = Some(membership.voters.clone());
    }
    membership.check();
    membership
}

/// M2: nodes, quorum, failures tolerated.
#[test]
fn quorum_sizes_are_those_of_the_deployment_table() {
    for (voters, quorum, failures) in [(1, 1, 0), (2, 2, 0), (3, 2, 1), (4, 3, 1), (5, 3, 2), (6, 4, 2), (7, 4, 3)] {
        assert_eq!(quorum_size(voters), quorum);
        let membership = bootstrap(1..=voters as u64);
        assert_eq!(membership.failures_tolerated(), failures);
        let reached = |up: usize| membership.quorum_reached(|id| id.0 <= up as u64);
        assert!(reached(quorum) && !reached(quorum - 1));
        assert!(reached(voters - failures) && !reached(voters - failures - 1));
    }
}

#[test]
fn a_cluster_without_voters_agrees_on_nothing() {
    let empty = Membership::default();
    assert!(!empty.quorum_reached(|_| true));
    assert_eq!(empty.committed_index(|_| LogIndex(9)), LogIndex(0));
}

fn voter_set() -> impl Strategy<Value = BTreeSet<u64>> {
    proptest::collection::btree_set(1u64..9, 1..8)
}

fn old_half() -> impl Strategy<Value = BTreeSet<u64>> {
    proptest::collection::btree_set(1u64..9, 0..8)
}

proptest! {
    /// The definition, without sorting: the largest index that a quorum has reached.
    #[test]
    fn the_committed_index_is_the_largest_that_a_quorum_holds(
        incoming in voter_set(), outgoing in old_half(), durable in proptest::collection::vec(0u64..20, 9),
    ) {
        let membership = halves(&incoming, &outgoing);
        let at = |id: NodeId| LogIndex(durable[id.0 as usize]);
        let by_definition =
            (0..20).rev().map(LogIndex).find(|index| membership.quorum_reached(|id| at(id) >= *index));
        prop_assert_eq!(Some(membership.committed_index(at)), by_definition);
    }

    /// Two quorums of one configuration share a voter, in each half.
    #[test]
    fn two_quorums_share_a_voter(
        incoming in voter_set(), outgoing in old_half(), first in 0u32..512, second in 0u32..512,
    ) {
        let membership = halves(&incoming, &outgoing);
        let agrees = |set: u32| move |id: NodeId| set & (1 << id.0) != 0;
        if membership.quorum_reached(agrees(first)) && membership.quorum_reached(agrees(second)) {
            let both = agrees(first & second);
            prop_assert!(membership.voters.iter().any(|id| both(*id)));
            prop_assert!(outgoing.is_empty() || membership.outgoing.iter().any(|id| both(*id)));
        }
    }

    /// What overlaps makes the change safe: a quorum of the joint configuration shares a voter with every quorum of the
    /// old one and of the new one (M3).
    #[test]
    fn a_joint_quorum_meets_those_before_and_after(
        old in voter_set(), new in voter_set(), joint in 0u32..512, other in 0u32..512,
    ) {
        let both = halves(&new, &old);
        let agrees = |set: u32| move |id: NodeId| set & (1 << id.0) != 0;
        for half in [halves(&old, &BTreeSet::new()), halves(&new, &BTreeSet::new())] {
            if both.quorum_reached(agrees(joint)) && half.quorum_reached(agrees(other)) {
                prop_assert!(half.voters.iter().any(|id| agrees(joint & other)(*id)));
            }
        }
    }

    #[test]
    fn a_quorum_is_out_of_reach_exactly_when_those_left_are_none(
        incoming in voter_set(), outgoing in old_half(), refused in 0u32..512,
    ) {
        let membership = halves(&incoming, &outgoing);
        let refuses = |id: NodeId| refused & (1 << id.0) != 0;
        prop_assert_eq!(membership.quorum_impossible(refuses), !membership.quorum_reached(|id| !refuses(id)));
    }
}
