//! The rules of etcd's key space, one module a subject, and a naive model the key space must agree with.

mod alarms;
mod answers;
mod auth;
mod auth_checks;
mod clock;
mod compaction;
mod history;
mod image;
mod leases;
mod model;
mod properties;
mod ranges;
mod store;
mod streams;
mod transactions;
mod validation;
