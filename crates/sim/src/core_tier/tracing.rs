//! What of inputs and effects goes into the trace: every number that steers the run.

use quorate_raft::{AppendResult, Body, Effect, Entry, Input, Message};

use crate::log_model::{Chain, membership_hash};
use crate::trace::Trace;

/// Records an input.
pub(super) fn input(trace: &mut Trace, input: &Input) {
    match input {
        Input::Tick { jitter } => trace.record(&[10, jitter.as_micros() as u64]),
        Input::Message(it) => message(trace, 11, it),
        Input::Persisted { seq } => trace.record(&[12, seq.0]),
        Input::Applied { index } => trace.record(&[13, index.0]),
        Input::Propose { request, commands } => trace.record(&[14, request.0, commands.len() as u64]),
        Input::ReadIndex { read } => trace.record(&[15, read.0]),
        Input::Compact { up_to } => trace.record(&[16, up_to.0]),
        Input::EntriesRead { to, from, entries } => trace.record(&[17, to.0, from.0, entries.len() as u64]),
        // Rare ones may cost more.
        other => trace.bytes(format!("{other:?}").as_bytes()),
    }
}

/// Records an effect.
pub(super) fn effect(trace: &mut Trace, effect: &Effect) {
    match effect {
        Effect::Persist { seq, hard_state, entries } => {
            let vote = hard_state.vote.map_or(0, |node| node.0);
            trace.record(&[20, seq.0, hard_state.term.0, vote, hard_state.commit.0, content(entries)]);
        }
        Effect::Send(it) => message(trace, 21, it),
        Effect::SendAfter { after, message: it } => {
            trace.record(&[22, after.0]);
            message(trace, 22, it);
        }
        Effect::Apply { entries } => trace.record(&[23, content(entries)]),
        Effect::ReadReady { read, index } => trace.record(&[24, read.0, index.0]),
        Effect::Proposed { request, first, term } => trace.record(&[25, request.0, first.0, term.0]),
        Effect::MembershipChanged { index, membership, committed } => {
            trace.record(&[26, index.0, membership_hash(membership), u64::from(*committed)]);
        }
        other => trace.bytes(format!("{other:?}").as_bytes()),
    }
}

fn content(entries: &[Entry]) -> u64 {
    let Some(first) = entries.first() else { return 0 };
    entries.iter().fold(Chain(first.index.0), Chain::extend).0
}

fn message(trace: &mut Trace, kind: u64, message: &Message) {
    trace.record(&[kind, message.from.0, message.to.0, message.term.0]);
    match &message.body {
        Body::RequestVote { pre, last_index, last_term, transfer } => {
            trace.record(&[1, u64::from(*pre), last_index.0, last_term.0, u64::from(*transfer)]);
        }
        Body::VoteReply { pre, granted } => trace.record(&[2, u64::from(*pre), u64::from(*granted)]),
        Body::Append { round, prev_index, prev_term, entries, commit, echo } => {
            let echo = echo.map_or(0, |echo| echo.probe.0 << 1 | u64::from(echo.leased));
            trace.record(&[3, round.0, prev_index.0, prev_term.0, content(entries), commit.0, echo]);
        }
        Body::AppendReply { round, result, probe, promise } => {
            let (a, b, c) = match result {
                AppendResult::Matched { up_to } => (up_to.0, u64::MAX, 0),
                AppendResult::Conflict { hint_index, hint_term, last_index } => {
                    (hint_index.0, hint_term.0, last_index.0)
                }
            };
            let promise_micros = promise.as_micros() as u64;
            trace.record(&[4, round.0, a, b, c, probe.0, promise_micros]);
        }
        Body::TimeoutNow => trace.record(&[5]),
        Body::ReadIndex { read } => trace.record(&[6, read.0]),
        Body::ReadIndexReply { read, index } => {
            trace.record(&[7, read.0, index.map_or(u64::MAX, |index| index.0)]);
        }
    }
}
