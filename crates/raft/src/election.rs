//! Elections: when a node campaigns, whom it votes for, and how it changes roles.
//!
//! Owns terms and votes. A vote and a campaign leave this node only once term and vote are durable. Never touches
//! anybody's progress.
//!
//! Pre-vote (thesis 9.6) keeps a node that could not win from raising terms; the promise to a leader heard within an
//! election timeout keeps it from disturbing one that works (thesis 4.2.3) and is what leases rest on; check-quorum makes a
//! leader that hears no majority step back. None of the three replaces another. Nodes with a lower term are always
//! answered, or a node that waits and one that is behind could ignore each other for ever (etcd#8243).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::effect::{Effect, ReadRefused};
use crate::ids::{LogIndex, NodeId, Round, Term};
use crate::message::{AppendResult, Body};
use crate::raft::Raft;
use crate::role::{Ballot, Follower, Role};

impl Raft {
    /// Campaigns if no leader was heard for the election timeout; asks again those that did not answer.
    pub(crate) fn campaign_if_due(&mut self) {
        if self.now >= self.election_deadline {
            if self.may_campaign() {
                self.ask_pre_votes();
            } else {
                // Whoever led is gone, also for a node that may not take its place.
                self.become_follower(self.term, None);
                self.reset_election_timer();
            }
            return;
        }
        let (Role::PreCandidate(ballot) | Role::Candidate(ballot)) = &mut self.role else { return };
        if self.now >= ballot.ask_again_at {
            ballot.ask_again_at = self.now + self.config.heartbeat_interval;
            self.ask_for_votes();
        }
    }

    /// Whether this node has a place in a configuration that counts, and a disk that can hold a promise.
    ///
    /// A node whose removal is in its log but not committed may be the only one that holds that entry: the others then
    /// need it to win, lead without counting itself, commit the entry and step back (thesis 4.2.2). Were it silent, nodes
    /// still in the joint phase would wait for its vote for ever, which it refuses them for their shorter logs.
    pub(crate) fn may_campaign(&self) -> bool {
        (self.log.may_lead(self.id) || mutant!(LearnerCampaigns))
            && !self.stopped
            && !self.writes.is_installing()
            && !self.disk_is_stalled()
    }

    /// A leader's word that this node should campaign now.
    pub(crate) fn told_to_campaign(&mut self, from: NodeId) {
        let from_leader = matches!(&self.role, Role::Follower(follower) if follower.leader.is_none_or(|id| id == from));
        if from_leader && self.may_campaign() {
            self.campaign(true);
        }
    }

    fn ask_pre_votes(&mut self) {
        if mutant!(NoPreVote) {
            return self.campaign(false);
        }
        self.become_follower(self.term, None);
        let ballot = self.new_ballot(BTreeMap::from([(self.id, true)]), false);
        self.role = Role::PreCandidate(ballot);
        self.reset_election_timer();
        self.ask_for_votes();
        self.count_votes();
    }

    /// Raises the term and votes for this node. The own vote counts, and the others are asked, once that is durable.
    pub(crate) fn campaign(&mut self, transfer: bool) {
        self.become_follower(self.term.next(), None);
        self.vote = Some(self.id);
        self.hard_state_changed();
        let ballot = self.new_ballot(BTreeMap::new(), transfer);
        self.role = Role::Candidate(ballot);
        self.reset_election_timer();
        self.ask_for_votes();
    }

    fn new_ballot(&self, votes: BTreeMap<NodeId, bool>, transfer: bool) -> Ballot {
        Ballot { votes, transfer, ask_again_at: self.now + self.config.heartbeat_interval }
    }

    /// Asks every voter, of both halves in a joint phase, that has not answered.
    fn ask_for_votes(&mut self) {
        let (ballot, pre) = match &self.role {
            Role::PreCandidate(ballot) => (ballot, true),
            Role::Candidate(ballot) => (ballot, false),
            Role::Follower(_) | Role::Leader(_) => return,
        };
        let (last_index, last_term) = (self.log.last(), self.log.last_term());
        let body = Body::RequestVote { pre, last_index, last_term, transfer: ballot.transfer };
        let membership = &self.log.membership().1;
        let asked: Vec<NodeId> =
            membership.all_voters().filter(|id| *id != self.id && !ballot.votes.contains_key(id)).collect();
        for to in asked {
            let mut message = self.message(to, body.clone());
            if pre {
                message.term = self.term.next();
                self.effects.push(Effect::Send(message));
            } else {
                self.send_after(self.hard_state_write, message);
            }
        }
    }

    /// Counts a candidate's vote for itself once its disk holds it.
    pub(crate) fn count_own_vote(&mut self) {
        let durable = self.hard_state_is_durable();
        if let Role::Candidate(ballot) = &mut self.role
            && durable
        {
            ballot.votes.insert(self.id, true);
            self.count_votes();
        }
    }

    fn count_votes(&mut self) {
        let (ballot, pre) = match &self.role {
            Role::PreCandidate(ballot) => (ballot, true),
            Role::Candidate(ballot) => (ballot, false),
            Role::Follower(_) | Role::Leader(_) => return,
        };
        let membership = &self.log.membership().1;
        // Votes of others can arrive before the word that the own write is done.
        let may_win = pre || self.hard_state_is_durable();
        if may_win && membership.quorum_reached(|id| ballot.votes.get(&id) == Some(&true)) {
            if pre {
                self.campaign(false);
            } else {
                self.become_leader();
            }
        } else if membership.quorum_impossible(|id| ballot.votes.get(&id) == Some(&false)) {
            self.become_follower(self.term, None);
        }
    }

    /// Grants a vote, or not: once a term, to a log at least as up to date, and not while a leader holds our promise.
    ///
    /// Whether the asking node is a member is not looked at: it may know a newer configuration than this node does
    /// (thesis 4.1).
    pub(crate) fn vote_requested(
        &mut self,
        from: NodeId,
        term: Term,
        pre: bool,
        candidate_last: (Term, LogIndex),
        transfer: bool,
    ) {
        if term < self.term {
            if !mutant!(LowerTermsUnanswered) {
                self.send(from, Body::VoteReply { pre, granted: false });
            }
            return;
        }
        let heard = self.now < self.promise_until && !mutant!(VoteInsideLease);
        let promised = self.role.leader().is_some() || heard;
        if promised && !transfer {
            if term == self.term {
                self.send(from, Body::VoteReply { pre, granted: false });
            }
            return;
        }
        if !pre && term > self.term {
            self.become_follower(term, None);
        }
        let mut free = term > self.term || self.vote == Some(from) || (self.vote.is_none() && self.leader().is_none());
        free |= mutant!(VotesTwice);
        let up_to_date = candidate_last >= (self.log.last_term(), self.log.last());
        let unaware = mutant!(LearnerRefusesVote) && !self.log.membership().1.is_voter(self.id);
        let barred = self.stopped && !mutant!(BarredVotes);
        let granted = free && up_to_date && !barred && !unaware;
        let mut reply = self.message(from, Body::VoteReply { pre, granted });
        if pre {
            if granted {
                reply.term = term;
            }
            self.effects.push(Effect::Send(reply));
        } else if granted {
            if self.vote.is_none() || mutant!(VotesTwice) {
                self.vote = Some(from);
                self.hard_state_changed();
            }
            self.reset_election_timer();
            if mutant!(VoteBeforeSync) {
                self.effects.push(Effect::Send(reply));
                return;
            }
            self.send_after(self.hard_state_write, reply);
        } else {
            self.effects.push(Effect::Send(reply));
        }
    }

    pub(crate) fn vote_replied(&mut self, from: NodeId, term: Term, pre: bool, granted: bool) {
        let is_own_question = pre && granted;
        if mutant!(LatePreVoteCampaigns) && is_own_question && term == self.term && self.role.leader().is_some() {
            return self.campaign(false);
        }
        if term > self.term && !is_own_question {
            self.become_follower(term, None);
            return;
        }
        let expected = if is_own_question { self.term.next() } else { self.term };
        match &mut self.role {
            Role::PreCandidate(ballot) if pre && (!granted || term == expected) => {
                ballot.votes.entry(from).or_insert(granted);
            }
            Role::Candidate(ballot) if !pre && (term == expected || mutant!(StaleVoteCounts)) => {
                ballot.votes.entry(from).or_insert(granted);
            }
            _ => return,
        }
        self.count_votes();
    }

    /// Follows whoever leads `term`; takes that term over if it is newer.
    ///
    /// The election timer is left alone, except on a leader, which has none: a newer term alone is no sign of a leader.
    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        assert!(term >= self.term, "term {} cannot fall to {term}", self.term);
        if term > self.term {
            self.term = term;
            self.vote = None;
            self.hard_state_changed();
        } else if leader.is_some() && leader == self.leader() && matches!(self.role, Role::Follower(_)) {
            return;
        }
        let before = std::mem::replace(&mut self.role, Role::Follower(Follower { leader, ..Follower::default() }));
        match before {
            Role::Follower(follower) => self.fail_reads(follower.reads, ReadRefused::LeaderChanged),
            Role::PreCandidate(_) | Role::Candidate(_) => {}
            Role::Leader(was_leader) => {
                self.reset_election_timer();
                self.retire_leader(*was_leader);
            }
        }
        self.note_transfer_outcome();
    }

    /// A leader of this term was heard: candidates step back, the timer starts anew, and the promise is renewed.
    ///
    /// # Panics
    /// If two nodes lead one term.
    pub(crate) fn follow(&mut self, from: NodeId) {
        assert!(self.leader().is_none_or(|leader| leader == from), "two leaders in term {}", self.term);
        self.become_follower(self.term, Some(from));
        // What was promised before the start may have been longer.
        self.promise_until = self.promise_until.max(self.now + self.config.election_timeout);
        self.reset_election_timer();
    }

    /// The next campaign is due when a whole timeout plus the last jitter has passed, and the promise has run out: a node that
    /// campaigns votes for itself.
    pub(crate) fn reset_election_timer(&mut self) {
        let promised = if mutant!(OwnVoteUnpromised) { self.now } else { self.promise_until };
        self.election_deadline = promised.max(self.now + self.config.election_timeout) + self.jitter;
    }

    /// Tells a sender of an older term about the newer one, where it waits for a word from this node.
    pub(crate) fn answer_stale(&mut self, from: NodeId, body: &Body) {
        if mutant!(LowerTermsUnanswered) {
            return;
        }
        match body {
            Body::Append { .. } => {
                let nothing = LogIndex(0);
                let result = AppendResult::Conflict { hint_index: nothing, hint_term: Term(0), last_index: nothing };
                let promise = Duration::ZERO;
                self.send(from, Body::AppendReply { round: Round(0), result, probe: self.now, promise });
            }
            Body::ReadIndex { read } => self.send(from, Body::ReadIndexReply { read: *read, index: None }),
            Body::RequestVote { .. }
            | Body::VoteReply { .. }
            | Body::AppendReply { .. }
            | Body::TimeoutNow
            | Body::ReadIndexReply { .. } => {}
        }
    }
}
