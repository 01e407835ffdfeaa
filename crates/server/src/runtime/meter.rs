//! Counts the messages between nodes by kind.

use quorate_raft::{AppendResult, Body};
use quorate_wire::PeerMessage;

use crate::metrics::Metrics;

/// Counts a message this node sends.
pub(super) fn sent(metrics: &Metrics, message: &PeerMessage) {
    match message {
        PeerMessage::Raft(message) => match &message.body {
            Body::Append { entries, .. } => {
                metrics.raft.appends_sent_total.inc();
                metrics.raft.append_entries_sent_total.inc_by(entries.len() as u64);
            }
            Body::AppendReply { result: AppendResult::Conflict { .. }, .. } => {
                metrics.raft.append_conflicts_total.inc();
            }
            _ => {}
        },
        PeerMessage::Forward(forward) => {
            metrics.requests.forwards_sent_total.inc_by(forward.writes.len() as u64);
        }
        _ => {}
    }
}

/// Counts a message this node received.
pub(super) fn received(metrics: &Metrics, message: &PeerMessage) {
    match message {
        PeerMessage::Raft(message) => {
            if let Body::Append { entries, .. } = &message.body {
                metrics.raft.appends_received_total.inc();
                metrics.raft.append_entries_received_total.inc_by(entries.len() as u64);
            }
        }
        PeerMessage::Forward(forward) => {
            metrics.requests.forwards_received_total.inc_by(forward.writes.len() as u64);
        }
        PeerMessage::ForwardReply(reply) => {
            metrics.requests.forwards_retried_total.inc_by(reply.sequences.len() as u64);
        }
        _ => {}
    }
}
