//! Whole replicas in one process, over loopback, with real files.
//!
//! No test sleeps: each waits for a state it can name, for at most [`cluster::PATIENCE`].

mod cluster;
mod identity;
mod limits;
mod membership;
mod ports;
mod replication;
