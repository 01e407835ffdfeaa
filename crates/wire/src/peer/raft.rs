//! Consensus messages. Entries of an append carry no index: it follows from their place.

use std::time::Duration;

use quorate_proto::quorate::peer::v1 as pb;
use quorate_raft::{AppendResult, Body, Echo, LogIndex, Message, NodeId, ReadId, Round, Term, Time};

use crate::DecodeError;
use crate::bounds::{from_index, from_term};
use crate::entry::{from_entry, to_entry, to_micros};

const WHAT: &str = "consensus message";

/// An append carries at most this many entries.
const MAX_APPEND_ENTRIES: usize = 65_536;

pub(super) fn to_raft(message: &Message) -> pb::Raft {
    pb::Raft { from: message.from.0, to: message.to.0, term: message.term.0, body: Some(to_body(&message.body)) }
}

fn to_body(body: &Body) -> pb::raft::Body {
    use pb::raft::Body as Wire;
    match body {
        Body::RequestVote { pre, last_index, last_term, transfer } => Wire::RequestVote(pb::RequestVote {
            pre: *pre,
            last_index: last_index.0,
            last_term: last_term.0,
            transfer: *transfer,
        }),
        Body::VoteReply { pre, granted } => Wire::VoteReply(pb::VoteReply { pre: *pre, granted: *granted }),
        Body::Append { round, prev_index, prev_term, entries, commit, echo } => Wire::Append(pb::Append {
            round: round.0,
            prev_index: prev_index.0,
            prev_term: prev_term.0,
            entries: entries.iter().map(to_entry).collect(),
            commit: commit.0,
            echo: echo.map(|echo| pb::Echo { probe_us: echo.probe.0, leased: echo.leased }),
        }),
        Body::AppendReply { round, result, probe, promise } => Wire::AppendReply(pb::AppendReply {
            round: round.0,
            probe_us: probe.0,
            promise_us: to_micros(*promise),
            result: Some(to_append_result(result)),
        }),
        Body::TimeoutNow => Wire::TimeoutNow(pb::TimeoutNow {}),
        Body::ReadIndex { read } => Wire::ReadIndex(pb::ReadIndex { read: read.0 }),
        Body::ReadIndexReply { read, index } => {
            Wire::ReadIndexReply(pb::ReadIndexReply { read: read.0, index: index.map(|index| index.0) })
        }
    }
}

fn to_append_result(result: &AppendResult) -> pb::append_reply::Result {
    match result {
        AppendResult::Matched { up_to } => pb::append_reply::Result::Matched(up_to.0),
        AppendResult::Conflict { hint_index, hint_term, last_index } => {
            pb::append_reply::Result::Conflict(pb::Conflict {
                hint_index: hint_index.0,
                hint_term: hint_term.0,
                last_index: last_index.0,
            })
        }
    }
}

pub(super) fn from_raft(message: pb::Raft) -> Result<Message, DecodeError> {
    if message.from == 0 || message.to == 0 {
        return Err(DecodeError::malformed(WHAT, "a node id is 0"));
    }
    let term = from_term(WHAT, message.term)?;
    let body = message.body.ok_or_else(|| DecodeError::missing(WHAT, "the body"))?;
    Ok(Message { from: NodeId(message.from), to: NodeId(message.to), term, body: from_body(body)? })
}

fn from_body(body: pb::raft::Body) -> Result<Body, DecodeError> {
    use pb::raft::Body as Wire;
    Ok(match body {
        Wire::RequestVote(vote) => Body::RequestVote {
            pre: vote.pre,
            last_index: LogIndex(vote.last_index),
            last_term: Term(vote.last_term),
            transfer: vote.transfer,
        },
        Wire::VoteReply(reply) => Body::VoteReply { pre: reply.pre, granted: reply.granted },
        Wire::Append(append) => from_append(append)?,
        Wire::AppendReply(reply) => Body::AppendReply {
            round: Round(reply.round),
            result: from_append_result(reply.result)?,
            probe: Time(reply.probe_us),
            promise: Duration::from_micros(reply.promise_us),
        },
        Wire::TimeoutNow(_) => Body::TimeoutNow,
        Wire::ReadIndex(read) => Body::ReadIndex { read: ReadId(read.read) },
        Wire::ReadIndexReply(reply) => {
            Body::ReadIndexReply { read: ReadId(reply.read), index: reply.index.map(LogIndex) }
        }
    })
}

fn from_append(append: pb::Append) -> Result<Body, DecodeError> {
    if append.entries.len() > MAX_APPEND_ENTRIES {
        let size = append.entries.len();
        return Err(DecodeError::TooLarge { what: "append", size, limit: MAX_APPEND_ENTRIES });
    }
    // An index that cannot exist would wrap in the core's arithmetic.
    from_index("append", append.prev_index, append.entries.len())?;
    let mut entries = Vec::with_capacity(append.entries.len());
    let mut term = append.prev_term;
    for (offset, entry) in append.entries.into_iter().enumerate() {
        if entry.term < term {
            return Err(DecodeError::malformed("append", "terms go down"));
        }
        term = entry.term;
        entries.push(from_entry(LogIndex(append.prev_index + 1 + offset as u64), entry)?);
    }
    Ok(Body::Append {
        round: Round(append.round),
        prev_index: LogIndex(append.prev_index),
        prev_term: Term(append.prev_term),
        entries,
        commit: LogIndex(append.commit),
        echo: append.echo.map(|echo| Echo { probe: Time(echo.probe_us), leased: echo.leased }),
    })
}

fn from_append_result(result: Option<pb::append_reply::Result>) -> Result<AppendResult, DecodeError> {
    Ok(match result.ok_or_else(|| DecodeError::missing("append reply", "the result"))? {
        pb::append_reply::Result::Matched(up_to) => AppendResult::Matched { up_to: LogIndex(up_to) },
        pb::append_reply::Result::Conflict(conflict) => AppendResult::Conflict {
            hint_index: LogIndex(conflict.hint_index),
            hint_term: Term(conflict.hint_term),
            last_index: LogIndex(conflict.last_index),
        },
    })
}
