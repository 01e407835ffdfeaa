//! What the scenario scripts and the random schedules share: nodes with a model of a disk and a state machine.

pub(crate) mod node;
pub(crate) mod oracle;
mod quorums;
pub(crate) mod random;
pub(crate) mod schedule;
pub(crate) mod script;
pub(crate) mod transcript;
