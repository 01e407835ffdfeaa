//! I-9: base <= applied <= commit <= last, and what the core thinks its log is, its log is.

use super::View;
use crate::log_model::LogModel;

pub(super) fn check(view: &View<'_>, log: &LogModel) {
    let status = view.status;
    let node = view.node;
    assert!(
        status.applied <= status.commit && status.commit <= status.last,
        "I-9: node {node} has applied {}, commit {}, last {}",
        status.applied,
        status.commit,
        status.last
    );
    assert!(
        log.issued().last() == status.last,
        "I-9: node {node} thinks its log ends at {}, its writes end at {}",
        status.last,
        log.issued().last()
    );
    assert!(
        log.issued().hard_state.term == status.term,
        "I-9: node {node} is in term {} and has not asked to store that; stored {}",
        status.term,
        log.issued().hard_state.term
    );
}
