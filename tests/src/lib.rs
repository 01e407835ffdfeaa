//! Runs the real `quorate` binary as processes over loopback, does to them what machines do to servers, and checks what
//! clients saw.
//!
//! Owns: child processes, their data directories and the history of every call made to them. Each process is ended, by
//! its own id, when its handle is dropped.
//! Never: reads a node's files or memory while it runs; the checks see what a client sees.

pub mod clients;
pub mod cluster;
pub mod companions;
pub mod differential;
pub mod history;
pub mod hostile;
pub mod load;
pub mod namespaces;
pub mod node;
pub mod proxy;
