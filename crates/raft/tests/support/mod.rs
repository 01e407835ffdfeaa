//! What the scenario scripts and the random schedules share: nodes with a model of a disk and a state machine.

pub mod node;
pub mod oracle;
pub mod random;
pub mod schedule;
