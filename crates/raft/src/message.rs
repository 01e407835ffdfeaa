//! What nodes say to each other. Owns the shapes; every message may be lost, repeated, late or out of order.

use std::time::Duration;

use crate::entry::Entry;
use crate::ids::{LogIndex, NodeId, ReadId, Round, Term, Time};

/// One message between two nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Sender.
    pub from: NodeId,
    /// Receiver.
    pub to: NodeId,
    /// The sender's term; of a pre-vote request the term it would campaign in, of a granted pre-vote that same term.
    pub term: Term,
    /// What is said.
    pub body: Body,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A candidate asks for a vote, or (`pre`) whether it would get one.
    RequestVote {
        /// Only asking: no term is raised, no vote is bound.
        pre: bool,
        /// The candidate's last entry.
        last_index: LogIndex,
        /// Its term.
        last_term: Term,
        /// The leader itself asked for this campaign, so its lease does not stand in the way.
        transfer: bool,
    },
    /// The answer to a request for a vote.
    VoteReply {
        /// Which of the two questions is answered.
        pre: bool,
        /// Yes or no.
        granted: bool,
    },
    /// The leader's entries, commit index and sign of life.
    Append {
        /// The broadcast this belongs to.
        round: Round,
        /// The entry before `entries`.
        prev_index: LogIndex,
        /// Its term.
        prev_term: Term,
        /// Consecutive from `prev_index + 1`; empty in a heartbeat.
        entries: Vec<Entry>,
        /// The leader's commit index, never above what this append lets the follower know to match.
        commit: LogIndex,
        /// Answer to the follower's newest probe.
        echo: Option<Echo>,
    },
    /// The answer to an append.
    AppendReply {
        /// The round that is answered.
        round: Round,
        /// What became of it.
        result: AppendResult,
        /// The follower's own clock as it answered; comes back in [`Echo`].
        probe: Time,
        /// How long the follower votes for nobody, on its own clock, from when the append came.
        promise: Duration,
    },
    /// The leader wants the receiver to campaign at once.
    TimeoutNow,
    /// A follower asks at which index a linearizable read may be served.
    ReadIndex {
        /// The asking node's handle.
        read: ReadId,
    },
    /// The leader's answer.
    ReadIndexReply {
        /// The asking node's handle.
        read: ReadId,
        /// None if the leader could not confirm it.
        index: Option<LogIndex>,
    },
}

/// Answer to a follower's probe; lets it measure how stale it is on its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// The clock reading the follower sent.
    pub probe: Time,
    /// Whether the leader held its lease when it sent this: only then was its commit index the newest.
    pub leased: bool,
}

/// What a follower did with an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendResult {
    /// The logs agree.
    Matched {
        /// Up to here they agree and the follower's disk holds it.
        up_to: LogIndex,
    },
    /// The entry before the append is missing or of another term.
    Conflict {
        /// Where the leader should look next: an index of the follower at which the logs may agree.
        hint_index: LogIndex,
        /// Term of the follower's entry there.
        hint_term: Term,
        /// The follower's last entry.
        last_index: LogIndex,
    },
}
