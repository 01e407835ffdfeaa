//! How inputs and effects read in a scenario's transcript. Entries are shown as INDEX/TERM.

use std::collections::BTreeSet;

use quorate_raft::*;

use super::node::TestNode;

/// Groups of transcript lines that a script may show or hide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Roles,
    Writes,
    Messages,
    Applies,
    Answers,
    Configs,
}

impl Kind {
    pub(crate) const ALL: [Kind; 6] =
        [Kind::Roles, Kind::Writes, Kind::Messages, Kind::Applies, Kind::Answers, Kind::Configs];

    /// The kinds a script names with one word.
    pub(crate) fn named(word: &str) -> Vec<Kind> {
        match word {
            "all" => Kind::ALL.into(),
            "nothing" => Vec::new(),
            "roles" => vec![Kind::Roles],
            "writes" => vec![Kind::Writes],
            "messages" => vec![Kind::Messages],
            "applies" => vec![Kind::Applies],
            "answers" => vec![Kind::Answers],
            "configs" => vec![Kind::Configs],
            _ => panic!("no such kind: {word}"),
        }
    }
}

pub(crate) fn message(message: &Message) -> String {
    let Message { from, to, term, body } = message;
    let body = match body {
        Body::RequestVote { pre, last_index, last_term, transfer } => {
            let what = if *pre { "would you vote?" } else { "vote?" };
            let why = if *transfer { " (told by the leader)" } else { "" };
            format!("{what} last={last_index}/{last_term}{why}")
        }
        Body::VoteReply { pre, granted } => {
            let what = if *pre { "pre-vote" } else { "vote" };
            format!("{what} {}", if *granted { "granted" } else { "refused" })
        }
        Body::Append { round, prev_index, prev_term, entries, commit, .. } if entries.is_empty() => {
            format!("heartbeat round={round} prev={prev_index}/{prev_term} commit={commit}")
        }
        Body::Append { prev_index, prev_term, entries, commit, .. } => {
            format!("append prev={prev_index}/{prev_term} entries={} commit={commit}", entry_list(entries))
        }
        Body::AppendReply { round, result: AppendResult::Matched { up_to }, .. } => {
            format!("ack up to {up_to} round={round}")
        }
        Body::AppendReply { result: AppendResult::Conflict { hint_index, hint_term, last_index }, .. } => {
            format!("conflict, look at {hint_index}/{hint_term}, last={last_index}")
        }
        Body::TimeoutNow => "campaign now".to_owned(),
        Body::ReadIndex { read } => format!("read {read}?"),
        Body::ReadIndexReply { read, index: Some(index) } => format!("read {read} at {index}"),
        Body::ReadIndexReply { read, index: None } => format!("read {read} refused"),
    };
    format!("{from}->{to}: term={term} {body}")
}

pub(crate) fn effect(effect: &Effect) -> Option<(Kind, String)> {
    let (kind, text) = match effect {
        Effect::Persist { seq, hard_state, entries } => {
            let HardState { term, vote, .. } = hard_state;
            let vote = vote.map_or_else(|| "none".to_owned(), |vote| vote.to_string());
            let entries = if entries.is_empty() { String::new() } else { format!(" entries={}", entry_list(entries)) };
            (Kind::Writes, format!("persist seq={seq} term={term} vote={vote}{entries}"))
        }
        Effect::InstallSnapshot { seq, meta } => {
            (Kind::Writes, format!("install seq={seq} image up to {}/{}", meta.index, meta.term))
        }
        Effect::TruncatePrefix { up_to } => (Kind::Writes, format!("drop the log up to {up_to}")),
        Effect::Apply { entries } => (Kind::Applies, format!("apply {}", entry_list(entries))),
        Effect::ReadEntries { to, from, .. } => (Kind::Writes, format!("read back entries from {from} for {to}")),
        Effect::SendSnapshot { to } => (Kind::Writes, format!("take an image for {to}")),
        Effect::ReadReady { read, index } => (Kind::Answers, format!("read {read} ready at {index}")),
        Effect::ReadFailed { read, reason } => (Kind::Answers, format!("read {read} failed: {reason}")),
        Effect::Proposed { first, term, .. } => (Kind::Answers, format!("proposed at {first}/{term}")),
        Effect::Refused { reason, .. } => (Kind::Answers, format!("refused: {reason}")),
        Effect::Accepted { config_index, .. } => (Kind::Answers, format!("accepted, see configuration {config_index}")),
        Effect::TransferEnded { result: Ok(()), .. } => (Kind::Answers, "transfer done".to_owned()),
        Effect::TransferEnded { result: Err(reason), .. } => (Kind::Answers, format!("transfer failed: {reason}")),
        Effect::RoleChanged { role, term, leader } => {
            let leader = leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string());
            (Kind::Roles, format!("{role:?} term={term} leader={leader}"))
        }
        Effect::MembershipChanged { index, membership, committed } => {
            let state = if *committed { "committed" } else { "in force" };
            (Kind::Configs, format!("configuration {index} {state}: {}", configuration(membership)))
        }
        Effect::Send(_) | Effect::SendAfter { .. } => return None,
    };
    Some((kind, text))
}

pub(crate) fn status(node: &TestNode, now: Time) -> String {
    let status = node.raft.status();
    let leader = status.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string());
    let lease = if node.raft.lease_valid(now) { " leased" } else { "" };
    let stale = node.raft.staleness(now).map_or_else(|| "unknown".to_owned(), |age| format!("{age:?}"));
    let stopped = if status.campaigning_stopped { " stopped" } else { "" };
    let mut text = format!(
        "{}: {:?} term={} leader={leader} log={}..{} durable={} commit={} applied={} config={}{lease} stale={stale}{stopped}",
        node.id,
        status.role,
        status.term,
        status.first,
        status.last,
        status.durable,
        status.commit,
        status.applied,
        configuration(&status.membership)
    );
    for (id, peer) in &status.peers {
        let active = if peer.recently_active { "" } else { " silent" };
        text += &format!("\n  {id}: {:?} matched={} next={}{active}", peer.state, peer.matched, peer.next);
    }
    text
}

fn configuration(membership: &Membership) -> String {
    let set = |ids: &BTreeSet<NodeId>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut text = format!("voters={}", set(&membership.voters));
    for (name, ids) in [
        ("outgoing", &membership.outgoing),
        ("learners", &membership.learners),
        ("standing", &membership.standing),
        ("rising", &membership.rising),
    ] {
        if !ids.is_empty() {
            text += &format!(" {name}={}", set(ids));
        }
    }
    if !membership.removed.is_empty() {
        let removed: Vec<String> = membership.removed.iter().map(ToString::to_string).collect();
        text += &format!(" removed={}", removed.join(","));
    }
    if let Some(target) = &membership.target {
        text += &format!(" target={}", set(target));
    }
    text
}

fn entry_list(entries: &[Entry]) -> String {
    let shown: Vec<String> = match entries {
        [first, .., last] if entries.len() > 4 => vec![entry(first), "..".to_owned(), entry(last)],
        _ => entries.iter().map(entry).collect(),
    };
    format!("[{}]", shown.join(" "))
}

fn entry(entry: &Entry) -> String {
    let place = format!("{}/{}", entry.index, entry.term);
    match &entry.payload {
        Payload::Noop => place,
        Payload::Command(command) => format!("{place}:{}", String::from_utf8_lossy(command)),
        Payload::Membership(_) => format!("{place}:config"),
    }
}
