//! Who belongs to the cluster, who votes, and when a set of nodes is enough.
//!
//! Owns the configuration as a value and the quorum arithmetic of both its halves (thesis 4.3). Never decides when a
//! configuration changes: that is `change`.
//!
//! Invariants, checked by [`Membership::check`]:
//! 1. a learner is in neither half of the voters;
//! 2. `members` describes exactly the voters of both halves and the learners;
//! 3. a removed node is no member;
//! 4. in a joint phase the target is the incoming half;
//! 5. a member whose data directory is not known yet is a standing learner: it has no voice and is sent nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Incarnation, LogIndex, NodeId};

/// Removed ids that are remembered. Ids are random and never given out twice, so forgetting the oldest beyond this
/// many only costs a removed node a clear answer; each one that is remembered takes about nine bytes in every configuration of the
/// log, and in what each batch of the state writes.
pub const MAX_REMOVED: usize = 128;

/// What the cluster knows of one member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// The data directory that was admitted under this id; [`Incarnation::UNKNOWN`] until the first one is found at the
    /// address of a member that was added before it was started.
    pub incarnation: Incarnation,
    /// Name for people.
    pub name: String,
    /// Where other nodes reach it, HOST:PORT, resolved at each dial.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_addresses: Vec<String>,
    /// Newest format and cluster version this member supports.
    pub max_version: u32,
}

impl Member {
    /// Whether the data directory behind the id is known. Before that the member is a promise: nothing is sent to it.
    pub fn is_bound(&self) -> bool {
        self.incarnation != Incarnation::UNKNOWN
    }
}

/// A whole configuration of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// Voters; in a joint phase the incoming half.
    pub voters: BTreeSet<NodeId>,
    /// The outgoing half of a joint phase, else empty.
    pub outgoing: BTreeSet<NodeId>,
    /// Members that receive the log and count for nothing.
    pub learners: BTreeSet<NodeId>,
    /// Learners that were added one by one. They stay learners until they are promoted or removed; other learners come and
    /// go with a target.
    pub standing: BTreeSet<NodeId>,
    /// Standing learners that become voters by themselves once they have caught up.
    pub rising: BTreeSet<NodeId>,
    /// The voters asked for, while a change is in flight: before the joint phase and during it.
    pub target: Option<BTreeSet<NodeId>>,
    /// Everybody above.
    pub members: BTreeMap<NodeId, Member>,
    /// Ids that left and must not come back, in the order in which they left. With the next one that leaves they are at most
    /// [`MAX_REMOVED`].
    pub removed: Vec<NodeId>,
    /// Version that the log and the wire may use; rises only when every member supports it.
    pub cluster_version: u32,
}

/// Smallest majority of `voters` nodes.
pub const fn quorum_size(voters: usize) -> usize {
    voters / 2 + 1
}

impl Membership {
    /// The configuration of a node that knows of no cluster yet.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether both halves are in force.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `id` votes, in either half.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Whether `id` receives the log, as voter or learner.
    pub fn is_member(&self, id: NodeId) -> bool {
        self.members.contains_key(&id)
    }

    /// Whether `id` decides everything alone.
    pub fn is_only_voter(&self, id: NodeId) -> bool {
        !self.is_joint() && self.voters.len() == 1 && self.voters.contains(&id)
    }

    /// Voters of both halves, each once, in order.
    pub fn all_voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.voters.union(&self.outgoing).copied()
    }

    /// Whether the nodes for which `agrees` holds are a majority of each half. No voters at all agree on nothing.
    pub fn quorum_reached(&self, agrees: impl Fn(NodeId) -> bool) -> bool {
        let majority =
            |half: &BTreeSet<NodeId>| half.iter().filter(|id| agrees(**id)).count() >= quorum_size(half.len());
        if mutant!(JointElectionByIncoming) {
            return majority(&self.voters);
        }
        majority(&self.voters) && (self.outgoing.is_empty() || majority(&self.outgoing))
    }

    /// Whether the nodes for which `refuses` holds keep a quorum out of reach for ever.
    pub fn quorum_impossible(&self, refuses: impl Fn(NodeId) -> bool) -> bool {
        !self.quorum_reached(|id| !refuses(id))
    }

    /// Highest value that a majority of each half has reached. `reached` may be any measure that only rises: durable log
    /// index, round, time of last contact. The default value without voters.
    pub fn quorum_value<T: Ord + Copy + Default>(&self, reached: impl Fn(NodeId) -> T) -> T {
        // By the definition rather than by sorting: halves are a few nodes, this runs with every answer, and a vector that
        // somebody forgets to sort commits what the leader alone holds (openraft#1802).
        let half_value = |half: &BTreeSet<NodeId>| {
            let values: Vec<T> = half.iter().chain(self.miscounted()).map(|id| reached(*id)).collect();
            let is_reached =
                |value: &T| values.iter().filter(|other| *other >= value).count() >= quorum_size(half.len());
            values.iter().copied().filter(is_reached).max().unwrap_or_default()
        };
        if mutant!(QuorumOfUnsorted) {
            return self.voters.iter().map(|id| reached(*id)).nth(self.voters.len() / 2).unwrap_or_default();
        }
        let incoming = half_value(&self.voters);
        if self.outgoing.is_empty() || mutant!(JointCommitByIncoming) {
            return incoming;
        }
        incoming.min(half_value(&self.outgoing))
    }

    /// Whom a mutant counts beside the voters, whose majority stays as small as it is.
    fn miscounted(&self) -> impl Iterator<Item = &NodeId> {
        let learners = mutant!(LearnersCount).then_some(&self.learners);
        let departed = mutant!(DepartedCount).then_some(&self.removed);
        learners.into_iter().flatten().chain(departed.into_iter().flatten())
    }

    /// Highest index that is durable on a majority of each half.
    pub fn committed_index(&self, durable: impl Fn(NodeId) -> LogIndex) -> LogIndex {
        self.quorum_value(durable)
    }

    /// Voters that may fail before the cluster can no longer commit: of the weaker half in a joint phase.
    pub fn failures_tolerated(&self) -> usize {
        let half = |half: &BTreeSet<NodeId>| half.len().saturating_sub(quorum_size(half.len()));
        let incoming = half(&self.voters);
        if self.outgoing.is_empty() { incoming } else { incoming.min(half(&self.outgoing)) }
    }

    /// Bytes counted for the configuration in an entry.
    pub fn size(&self) -> usize {
        const ID_BYTES: usize = 9;
        const MEMBER_BYTES: usize = 40;
        let sets = [&self.voters, &self.outgoing, &self.learners, &self.standing, &self.rising];
        let ids: usize = sets.iter().map(|ids| ids.len()).sum::<usize>() + self.removed.len();
        let target = self.target.as_ref().map_or(0, BTreeSet::len);
        let members: usize = self
            .members
            .values()
            .map(|member| {
                let clients: usize = member.client_addresses.iter().map(|address| address.len() + 2).sum();
                MEMBER_BYTES + member.name.len() + member.peer_address.len() + clients
            })
            .sum();
        (ids + target) * ID_BYTES + members
    }

    /// Panics if the configuration contradicts itself.
    pub fn check(&self) {
        assert!(self.learners.iter().all(|id| !self.is_voter(*id)), "a learner votes: {self:?}");
        // By counting, without a set of them all: this runs after every step of a simulation.
        let described = self.all_voters().count() + self.learners.len();
        let each_described = self.members.keys().all(|id| self.is_voter(*id) || self.learners.contains(id));
        assert!(each_described && described == self.members.len(), "members are not voters and learners: {self:?}");
        assert!(self.members.keys().all(|id| !self.removed.contains(id)), "a removed node is a member: {self:?}");
        assert!(!self.voters.is_empty() || self.is_empty(), "members but no voters: {self:?}");
        assert!(self.standing.is_subset(&self.learners), "a standing learner is no learner: {self:?}");
        assert!(self.rising.is_subset(&self.standing), "who rises by itself is no standing learner: {self:?}");
        let unbound = self.members.iter().filter(|(_, member)| !member.is_bound());
        assert!(unbound.map(|(id, _)| id).all(|id| self.standing.contains(id)), "nobody knows whose voice: {self:?}");
        if self.is_joint() {
            assert_eq!(self.target.as_ref(), Some(&self.voters), "a joint phase leads elsewhere than its target");
        }
        if let Some(target) = &self.target {
            assert!(target.iter().all(|id| self.is_member(*id)), "a target is no member: {self:?}");
            assert!(!target.is_empty(), "an empty target");
        }
    }
}
