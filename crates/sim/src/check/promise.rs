//! I-8: a message that promises durability leaves only when what it promises is on the sender's disk.

use quorate_raft::{AppendResult, Body, LogIndex, Message, NodeId, Term};

use super::Cluster;
use super::one_leader::OneLeader;

/// What a message promises about its sender's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// The vote of this term is given.
    Vote {
        /// Its term.
        term: Term,
        /// Who gets it.
        candidate: NodeId,
    },
    /// The log of the leader of this term is stored up to here.
    Stored {
        /// The leader's term.
        term: Term,
        /// Last index stored.
        up_to: LogIndex,
    },
}

impl Promise {
    /// What a message of the core promises, if anything.
    pub(crate) fn of(message: &Message) -> Option<Promise> {
        let term = message.term;
        match message.body {
            Body::VoteReply { pre: false, granted: true } => Some(Promise::Vote { term, candidate: message.to }),
            Body::AppendReply { result: AppendResult::Matched { up_to }, .. } => Some(Promise::Stored { term, up_to }),
            _ => None,
        }
    }
}

pub(super) fn check(node: NodeId, promise: &Promise, cluster: &Cluster, leaders: &OneLeader) {
    let durable = cluster.log(node).expect("a node that sends has a disk").durable();
    match *promise {
        Promise::Vote { term, candidate } => {
            let stored = durable.hard_state;
            let kept = stored.term > term || (stored.term == term && stored.vote == Some(candidate));
            assert!(kept, "I-8: node {node} votes for {candidate} in term {term}; its disk says {stored:?}");
        }
        Promise::Stored { term, up_to } => {
            // It held it once, in that term: an answer that comes late, after a newer leader overwrote the entry, still
            // tells the older leader the truth.
            if durable.hard_state.term > term {
                return;
            }
            assert!(
                durable.hard_state.term == term,
                "I-8: node {node} acknowledges {up_to} to the leader of term {term}; its disk is in term {}",
                durable.hard_state.term
            );
            assert!(
                durable.last() >= up_to,
                "I-8: node {node} acknowledges {up_to} to the leader of term {term}; its disk ends at {}",
                durable.last()
            );
            let leader = leaders.leader_of(term).and_then(|leader| cluster.log(leader));
            let Some(leader) = leader.filter(|log| log.issued().hard_state.term == term) else { return };
            if let (Some(mine), Some(theirs)) = (durable.at(up_to), leader.issued().at(up_to)) {
                assert!(
                    mine == theirs,
                    "I-8: node {node} acknowledges {up_to} to the leader of term {term} and holds something else there"
                );
            }
        }
    }
}
