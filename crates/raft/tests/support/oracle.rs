//! Sees every node at once and knows what no node may do.
//!
//! Owns the invariants over the whole history: election safety, log matching, leader completeness, commit durability,
//! votes, linearizable reads, leases, staleness.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_raft::*;

use super::node::TestNode;

#[derive(Default)]
pub(crate) struct Oracle {
    leaders: BTreeMap<Term, NodeId>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// Every entry that was ever in a log: its payload and the term before it.
    entries: BTreeMap<(LogIndex, Term), (Payload, Term)>,
    /// Digest of the state after each applied index.
    digests: BTreeMap<LogIndex, u64>,
    /// Term of each committed entry, and the term it was committed in.
    committed: BTreeMap<LogIndex, (Term, Term)>,
    /// When the newest commit index anywhere rose to what, in true microseconds.
    commits: Vec<(u64, LogIndex)>,
    commit_seen: BTreeMap<NodeId, LogIndex>,
    /// Configuration in force at each node before its current step.
    in_force: BTreeMap<NodeId, Arc<Membership>>,
    reads: BTreeMap<ReadId, LogIndex>,
    pub(crate) reads_answered: u64,
    pub(crate) elections: u64,
    pub(crate) joint_phases: u64,
    pub(crate) images: u64,
    pub(crate) leased: u64,
    pub(crate) fresh: u64,
}

impl Oracle {
    pub(crate) fn newest_commit(&self) -> LogIndex {
        self.commits.last().map_or(LogIndex(0), |(_, index)| *index)
    }

    /// The newest commit index known to anybody at a true time.
    fn commit_at(&self, time_us: u64) -> LogIndex {
        let after = self.commits.partition_point(|(at, _)| *at <= time_us);
        after.checked_sub(1).map_or(LogIndex(0), |at| self.commits[at].1)
    }

    pub(crate) fn read_asked(&mut self, read: ReadId) {
        self.reads.insert(read, self.newest_commit());
    }

    /// Looks at an effect of `node` as it comes out.
    pub(crate) fn effect(&mut self, node: &TestNode, effect: &Effect) {
        match effect {
            Effect::RoleChanged { role: RoleKind::Leader, term, .. } => {
                let known = *self.leaders.entry(*term).or_insert(node.id);
                assert_eq!(known, node.id, "two leaders in term {term}");
                self.elections += 1;
                // A late leader of an older term need not know what newer ones have committed.
                for (index, (entry_term, _)) in self.committed.iter().filter(|(_, (_, in_term))| in_term < term) {
                    let held = node.memory.entry(*index).map(|entry| entry.term);
                    assert!(
                        *index <= node.memory.base.0 || held == Some(*entry_term),
                        "leader {} lacks committed entry {index}/{entry_term}",
                        node.id
                    );
                }
            }
            Effect::Persist { entries, .. } => {
                for entry in entries {
                    let before = entry.index.previous();
                    let prev_term = node.memory.entry(before).map_or(node.memory.base.1, |entry| entry.term);
                    let key = (entry.index, entry.term);
                    let known = self.entries.entry(key).or_insert_with(|| (entry.payload.clone(), prev_term));
                    assert_eq!(known, &(entry.payload.clone(), prev_term), "two entries at {key:?}");
                    if let Payload::Membership(membership) = &entry.payload
                        && membership.is_joint()
                    {
                        self.joint_phases += 1;
                    }
                }
            }
            Effect::InstallSnapshot { .. } => self.images += 1,
            Effect::ReadReady { read, index } => {
                let asked = self.reads[read];
                assert!(*index >= asked, "read {read} at {index} misses entry {asked} that was committed before it");
                self.reads_answered += 1;
            }
            _ => {}
        }
    }

    /// Looks at a message of `node` as it leaves.
    pub(crate) fn message(&mut self, node: &TestNode, message: &Message) {
        let promised = node.disk.hard_state;
        match &message.body {
            Body::VoteReply { pre: false, granted: true } => self.vote(node, message.term, message.to),
            Body::RequestVote { pre: false, .. } => self.vote(node, message.term, node.id),
            Body::AppendReply { result: AppendResult::Matched { up_to }, .. } => {
                assert!(promised.term >= message.term, "{} answers in a term its disk does not hold", node.id);
                assert!(node.disk.last() >= *up_to, "{} acknowledges {up_to} that its disk does not hold", node.id);
            }
            _ => {}
        }
    }

    fn vote(&mut self, node: &TestNode, term: Term, candidate: NodeId) {
        let HardState { term: durable, vote, .. } = node.disk.hard_state;
        assert!(durable > term || (durable == term && vote == Some(candidate)), "{} votes off its disk", node.id);
        let known = *self.votes.entry((node.id, term)).or_insert(candidate);
        assert_eq!(known, candidate, "{} votes twice in term {term}", node.id);
    }

    /// Looks at `node` after a step. `others` are all the disks, those of crashed nodes too.
    pub(crate) fn stepped(
        &mut self,
        now_us: u64,
        node: &TestNode,
        disk_holds: impl Fn(NodeId, LogIndex, Term) -> bool,
    ) {
        let digest = *self.digests.entry(node.state.applied).or_insert(node.state.digest);
        assert_eq!(digest, node.state.digest, "states differ at {}", node.state.applied);
        let commit = node.raft.commit();
        let seen = self.commit_seen.insert(node.id, commit).unwrap_or_default();
        if commit > seen {
            if node.raft.role() == RoleKind::Leader {
                // A step may commit first and append the next configuration after that.
                let (_, in_force) = node.raft.membership();
                let reached =
                    |membership: &Membership| membership.quorum_reached(|id| disk_holds(id, commit, node.raft.term()));
                let before = self.in_force.get(&node.id).unwrap_or(in_force);
                assert!(
                    reached(before) || reached(in_force),
                    "{} commits {commit} that no quorum of disks holds in term {}",
                    node.id,
                    node.raft.term()
                );
            }
            for index in (seen.0 + 1..=commit.0).map(LogIndex) {
                let Some(entry) = node.memory.entry(index) else { continue };
                let (known, _) = *self.committed.entry(index).or_insert((entry.term, node.raft.term()));
                assert_eq!(known, entry.term, "two entries committed at {index}");
            }
        }
        self.in_force.insert(node.id, node.raft.membership().1.clone());
        if commit > self.newest_commit() {
            self.commits.push((now_us, commit));
        }
    }

    pub(crate) fn crashed(&mut self, id: NodeId) {
        self.commit_seen.remove(&id);
    }

    /// No leader may hold a lease while another leads a newer term.
    pub(crate) fn leases<'a>(&mut self, nodes: impl Iterator<Item = (&'a TestNode, Time)> + Clone) {
        for (holder, now) in nodes.clone() {
            if !holder.raft.lease_valid(now) {
                continue;
            }
            self.leased += 1;
            for (other, _) in nodes.clone() {
                let usurper = other.raft.role() == RoleKind::Leader && other.raft.term() > holder.raft.term();
                assert!(!usurper, "{} leads a newer term while {} holds a lease", other.id, holder.id);
            }
        }
    }

    /// What a node serves is no older than it says. `slack` covers the drift of its clock.
    pub(crate) fn staleness(&mut self, now_us: u64, node: &TestNode, now: Time, slack_ppm: u64) {
        let Some(age) = node.raft.staleness(now) else { return };
        self.fresh += 1;
        let age_us = age.as_micros() as u64;
        let since = now_us.saturating_sub(age_us + age_us * slack_ppm / 1_000_000 + 1);
        let needed = self.commit_at(since);
        assert!(node.state.applied >= needed, "{} is staler than {age:?}: {} of {needed}", node.id, node.state.applied);
    }
}
