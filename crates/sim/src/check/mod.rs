//! The checkers: one file a property, each fed with what every node does and able to see all of them.
//!
//! A broken property is a panic whose text starts with its number in the list of invariants. Checkers decide nothing in a
//! run: they hold no randomness and change no event, so a run is the same with and without them.

pub(crate) mod black_box;
mod commit;
mod consent;
mod history;
mod leadership;
mod lease;
mod log_bounds;
mod log_matching;
mod membership;
mod monotonic;
mod one_leader;
mod one_vote;
mod progress;
mod promise;
mod reads;
mod silence;

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_raft::{LogIndex, Membership, Message, NodeId, SnapshotMeta, Status, Term};

use crate::clock::{Clock, Instant};
use crate::log_model::{Chain, LogModel, LogWrite};
use crate::network::{HostId, Network};
use crate::plan::Plan;

pub(crate) use promise::Promise;

/// All logs of the world and who they belong to.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    /// The log of each host.
    pub(crate) logs: Vec<LogModel>,
    /// The node that lives on each host.
    pub(crate) nodes: Vec<NodeId>,
    /// On which host each node id ever given lives or lived.
    pub(crate) directory: BTreeMap<NodeId, HostId>,
    /// The logs of nodes whose disk is lost, as they were: what was durable counted when it was acknowledged.
    pub(crate) lost: BTreeMap<NodeId, LogModel>,
}

impl Cluster {
    /// The log of a node; if its disk is lost, as it last was.
    pub(crate) fn log(&self, node: NodeId) -> Option<&LogModel> {
        let host = self.directory.get(&node)?;
        if self.nodes[host.0] == node { Some(&self.logs[host.0]) } else { self.lost.get(&node) }
    }
}

/// A node right after a step, before it performs the effects.
#[derive(Debug)]
pub(crate) struct View<'a> {
    /// True time.
    pub(crate) now: Instant,
    /// Where the node lives.
    pub(crate) host: HostId,
    /// The node.
    pub(crate) node: NodeId,
    /// Its clock.
    pub(crate) clock: &'a Clock,
    /// What its core says of itself.
    pub(crate) status: &'a Status,
}

/// All checkers of one run.
#[derive(Debug)]
pub(crate) struct Oracle {
    history: history::History,
    one_leader: one_leader::OneLeader,
    one_vote: one_vote::OneVote,
    log_matching: log_matching::LogMatching,
    commit: commit::Commit,
    monotonic: monotonic::Monotonic,
    consent: consent::Consent,
    followers: progress::Followers,
    leadership: leadership::Leadership,
    membership: membership::MembershipChanges,
    lease: Option<lease::Lease>,
    silence: Option<silence::Silence>,
    staleness_promised: bool,
    catch_up_entries: u64,
    election_timeout_us: u64,
}

impl Oracle {
    /// Checkers for a run of `plan`.
    pub(crate) fn new(plan: &Plan) -> Oracle {
        Oracle {
            history: history::History::default(),
            one_leader: one_leader::OneLeader::default(),
            one_vote: one_vote::OneVote::default(),
            log_matching: log_matching::LogMatching::default(),
            commit: commit::Commit::default(),
            monotonic: monotonic::Monotonic::default(),
            consent: consent::Consent::default(),
            followers: progress::Followers::default(),
            leadership: leadership::Leadership::new(plan.raft.election_timeout, plan.network.replay > 0),
            membership: membership::MembershipChanges::default(),
            lease: plan.clocks_bounded.then(lease::Lease::default),
            silence: plan.clocks_bounded.then(|| silence::Silence::new(plan.clock_ppm)),
            staleness_promised: plan.clocks_bounded,
            catch_up_entries: plan.raft.catch_up_entries,
            election_timeout_us: plan.timeout_us(),
        }
    }

    /// A write was asked for.
    pub(crate) fn issued(&mut self, write: &LogWrite, log: &LogModel) {
        if let LogWrite::Append { entries, .. } = write {
            for entry in entries {
                let (_, chain) = log.issued().at(entry.index).expect("just written");
                self.log_matching.appended(entry.index, entry.term, chain);
            }
        }
    }

    /// A node made a step.
    pub(crate) fn stepped(&mut self, cluster: &Cluster, network: &Network, view: &View<'_>) {
        let log = &cluster.logs[view.host.0];
        log_bounds::check(view, log);
        self.monotonic.check(view);
        self.consent.check(view);
        membership::check_active(view, log);
        self.commit.check(view, cluster, &mut self.history);
        if self.one_leader.check(view) {
            self.one_vote.check_new_leader(view);
            self.commit.check_new_leader(view, log, &self.history);
            if let Some(lease) = &self.lease {
                lease.check_new_leader(view);
            }
        }
        if view.status.role == quorate_raft::RoleKind::Leader {
            self.followers.check_leader(view);
            self.membership.check_leader(view, log, self.catch_up_entries, self.election_timeout_us);
        }
        self.leadership.check(view, cluster, network);
        if let Some(lease) = &mut self.lease {
            lease.check(view, self.one_leader.newest_term());
        }
        if let Some(silence) = &self.silence {
            silence.check_lease(view);
        }
    }

    /// A write became durable.
    pub(crate) fn synced(&mut self, node: NodeId, log: &LogModel) {
        self.one_vote.durable(node, &log.durable().hard_state);
    }

    /// A node sends a message that promises something about its disk.
    pub(crate) fn promised(&mut self, node: NodeId, promise: &Promise, cluster: &Cluster) {
        promise::check(node, promise, cluster, &self.one_leader);
        if let Promise::Vote { term, candidate } = promise {
            self.one_vote.replied(node, *term, *candidate);
        }
    }

    /// A node sends a message.
    pub(crate) fn sent(&mut self, now: Instant, clock: &Clock, message: &Message) {
        if let Some(silence) = &mut self.silence {
            silence.sent(now, clock, message);
        }
    }

    /// Whether `node`, or anybody if none is named, has led since `term`: that very term too if a node is named, else a later one.
    pub(crate) fn has_led_since(&self, node: Option<NodeId>, term: Term) -> bool {
        self.one_leader.has_led_since(node, term)
    }

    /// A node's process ended.
    pub(crate) fn died(&mut self, node: NodeId) {
        self.monotonic.died(node);
        self.consent.died(node);
        self.commit.died(node);
        self.one_leader.died(node);
        self.leadership.died(node);
        if let Some(lease) = &mut self.lease {
            lease.died(node);
        }
    }

    /// The greatest index known to be committed by anyone.
    pub(crate) fn committed(&self) -> LogIndex {
        self.history.committed()
    }

    /// Term and chain of a committed index.
    pub(crate) fn committed_at(&self, index: LogIndex) -> Option<(Term, Chain)> {
        self.history.at(index)
    }

    /// An image is of what was committed: the last entry in it, and the configuration in force there.
    pub(crate) fn judge_image(&self, node: NodeId, image: &SnapshotMeta) {
        let SnapshotMeta { index, term, membership_index, membership, .. } = image;
        assert!(
            self.committed_at(*index).is_some_and(|(committed, _)| committed == *term),
            "I-15: node {node} has an image at {index} of term {term}, which is of no committed entry"
        );
        if let Some((at, committed)) = self.history.membership_at(*index) {
            assert!(
                (at, committed) == (membership_index, membership),
                "I-15: node {node} has an image at {index} with the configuration of {membership_index}, {membership:?}; in force is that \
                 of {at}, {committed:?}"
            );
        }
    }

    /// The newest committed membership and its index.
    pub(crate) fn committed_membership(&self) -> (LogIndex, Option<Arc<Membership>>) {
        self.history.membership()
    }

    /// A linearizable read that started when `floor` was committed is served at `index`.
    pub(crate) fn read(&self, node: NodeId, floor: LogIndex, index: LogIndex) {
        reads::check_linearizable(node, floor, index, self.history.committed());
    }

    /// A node that has applied `applied` says that this lags by `staleness_us` on its own clock.
    pub(crate) fn stale_read(&self, node: NodeId, now: Instant, applied: LogIndex, staleness_us: u64, clock_ppm: u32) {
        if self.staleness_promised {
            reads::check_staleness(&self.history, node, now, applied, staleness_us, clock_ppm);
        }
    }
}
