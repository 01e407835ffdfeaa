//! The real binary: what it prints, what it exits with, and what it leaves on disk.
//!
//! No test sleeps: each waits for a line of output or for a process to end.

mod dev;
mod node;
mod offline;
mod process;
