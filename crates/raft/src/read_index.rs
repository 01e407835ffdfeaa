//! Linearizable reads without a log write (thesis 6.4).
//!
//! Owns the reads that wait. A read gets the commit index of the moment a round starts that was not yet under way when
//! the read came, once a majority has answered that very round. An answer to an earlier round proves nothing about it: the
//! leader may have been deposed between the two. Before an entry of this term is committed the commit index may be an old
//! one, so reads wait for that first.

use std::collections::VecDeque;

use crate::effect::{Effect, ReadRefused};
use crate::ids::{LogIndex, NodeId, ReadId, Round};
use crate::message::Body;
use crate::raft::Raft;
use crate::role::{ConfirmedRound, Role};

/// Reads that may wait on one node. Past it a leader refuses new ones; a follower gives up the oldest, whose answer was
/// most likely lost.
const MAX_WAITING_READS: usize = 65_536;

#[derive(Debug, Clone, Copy)]
struct ReadRequest {
    read: ReadId,
    /// The follower that asked; None = this node.
    from: Option<NodeId>,
}

/// Reads that wait on a leader.
#[derive(Debug, Default)]
pub(crate) struct LeaderReads {
    /// Came since the newest round started.
    waiting: Vec<ReadRequest>,
    /// Wait for the answers to a round; oldest first.
    open: VecDeque<(Round, LogIndex, Vec<ReadRequest>)>,
    count: usize,
}

impl LeaderReads {
    /// The reads that wait, of this node and of others.
    pub(crate) fn into_requests(self) -> (VecDeque<ReadId>, Vec<(NodeId, ReadId)>) {
        let mut local = VecDeque::new();
        let mut remote = Vec::new();
        let open = self.open.into_iter().flat_map(|(_, _, requests)| requests);
        for ReadRequest { read, from } in open.chain(self.waiting) {
            match from {
                None => local.push_back(read),
                Some(from) => remote.push((from, read)),
            }
        }
        (local, remote)
    }

    /// Panics if an invariant is broken. A count that is too high would refuse reads for the rest of the reign.
    pub(crate) fn check(&self) {
        let open: usize = self.open.iter().map(|(_, _, requests)| requests.len()).sum();
        assert_eq!(self.count, self.waiting.len() + open, "the count of waiting reads is off");
        assert!(self.count <= MAX_WAITING_READS, "more reads wait than may");
        assert!(self.open.iter().is_sorted_by(|(a, ..), (b, ..)| a < b), "rounds of reads are out of order");
    }

    /// A round starts now, with this commit index: what waits, waits for its answers.
    pub(crate) fn round_started(&mut self, round: Round, commit: LogIndex) {
        if !self.waiting.is_empty() {
            self.open.push_back((round, commit, std::mem::take(&mut self.waiting)));
        }
    }
}

impl Raft {
    /// A read on this node.
    pub(crate) fn read_index(&mut self, read: ReadId) {
        if self.role.leader().is_some() {
            self.enqueue_read(ReadRequest { read, from: None });
            return;
        }
        let Some(leader) = self.leader() else {
            self.effects.push(Effect::ReadFailed { read, reason: ReadRefused::NoLeader });
            return;
        };
        let Role::Follower(follower) = &mut self.role else { unreachable!("a node that knows its leader follows it") };
        let oldest = if follower.reads.len() >= MAX_WAITING_READS { follower.reads.pop_front() } else { None };
        follower.reads.push_back(read);
        if let Some(read) = oldest {
            self.effects.push(Effect::ReadFailed { read, reason: ReadRefused::TooManyReads });
        }
        self.send(leader, Body::ReadIndex { read });
    }

    /// A follower's read.
    pub(crate) fn read_index_asked(&mut self, from: NodeId, read: ReadId) {
        if self.role.leader().is_some() {
            self.enqueue_read(ReadRequest { read, from: Some(from) });
        } else {
            self.send(from, Body::ReadIndexReply { read, index: None });
        }
    }

    /// The leader's answer to a read of this node.
    pub(crate) fn read_index_answered(&mut self, from: NodeId, read: ReadId, index: Option<LogIndex>) {
        let Role::Follower(follower) = &mut self.role else { return };
        if follower.leader != Some(from) {
            return;
        }
        let Some(position) = follower.reads.iter().position(|waiting| *waiting == read) else { return };
        follower.reads.remove(position);
        self.effects.push(match index {
            Some(index) => Effect::ReadReady { read, index },
            None => Effect::ReadFailed { read, reason: ReadRefused::LeaderChanged },
        });
    }

    fn enqueue_read(&mut self, request: ReadRequest) {
        let Role::Leader(leader) = &mut self.role else { unreachable!("only a leader queues reads") };
        if leader.reads.count < MAX_WAITING_READS {
            leader.reads.count += 1;
            leader.reads.waiting.push(request);
        } else {
            self.refuse_read(request);
        }
    }

    fn refuse_read(&mut self, request: ReadRequest) {
        match request.from {
            None => self.effects.push(Effect::ReadFailed { read: request.read, reason: ReadRefused::TooManyReads }),
            Some(from) => self.send(from, Body::ReadIndexReply { read: request.read, index: None }),
        }
    }

    /// Answers the reads whose round a majority has answered, and starts a round for those that wait, unless one is under
    /// way: so reads gather into one round per round trip.
    pub(crate) fn serve_reads(&mut self) {
        self.answer_confirmed_reads();
        let own_term_committed = self.own_term_committed() || mutant!(ReadBeforeOwnTerm);
        let commit = self.log.commit();
        let Role::Leader(leader) = &mut self.role else { return };
        if mutant!(ReadJoinsOpenRound)
            && let Some((round, _, _)) = leader.rounds.open.front().copied()
        {
            leader.reads.round_started(round, commit);
        }
        if own_term_committed && !leader.reads.waiting.is_empty() && leader.reads.open.is_empty() {
            self.start_round();
            self.confirm_rounds();
            self.answer_confirmed_reads();
        }
    }

    fn answer_confirmed_reads(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(ConfirmedRound { round: confirmed, .. }) = leader.rounds.confirmed else { return };
        let mut answered = Vec::new();
        while let Some((_, index, requests)) = leader.reads.open.pop_front_if(|(round, _, _)| *round <= confirmed) {
            leader.reads.count -= requests.len();
            answered.extend(requests.into_iter().map(|request| (request, index)));
        }
        for (ReadRequest { read, from }, index) in answered {
            match from {
                None => self.effects.push(Effect::ReadReady { read, index }),
                Some(from) => self.send(from, Body::ReadIndexReply { read, index: Some(index) }),
            }
        }
    }

    pub(crate) fn fail_reads(&mut self, reads: impl IntoIterator<Item = ReadId>, reason: ReadRefused) {
        self.effects.extend(reads.into_iter().map(|read| Effect::ReadFailed { read, reason }));
    }
}
