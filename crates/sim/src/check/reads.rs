//! I-12: a linearizable read sees everything committed before it began, and nothing uncommitted. A stale read is no
//! staler than it says.

use quorate_raft::{LogIndex, NodeId};

use super::history::History;
use crate::clock::Instant;

pub(super) fn check_linearizable(node: NodeId, floor: LogIndex, index: LogIndex, committed: LogIndex) {
    assert!(index >= floor, "I-12: node {node} serves a read at {index}; {floor} was committed before it began");
    assert!(index <= committed, "I-12: node {node} serves a read at {index}; only {committed} is committed");
}

pub(super) fn check_staleness(
    history: &History,
    node: NodeId,
    now: Instant,
    applied: LogIndex,
    staleness_us: u64,
    clock_ppm: u32,
) {
    // The node's clock may run fast by its bound, and truncates to microseconds.
    let true_us = staleness_us + staleness_us * u64::from(clock_ppm) / 500_000 + 2;
    let then = Instant(now.0.saturating_sub(true_us));
    let committed = history.committed_when(then);
    assert!(
        applied >= committed,
        "staleness: node {node} has applied {applied} and says it lags by {staleness_us} us; {committed} was committed then"
    );
}
