//! The running node: threads, sockets, clocks and metrics around `quorate_node` and `quorate_store`.
//!
//! Owns the processes' edges: the peer port, the client port (gRPC and HTTP on one accept loop) and the metrics port.
//! Never decides anything about consensus: it moves bytes, runs the node thread, the log writer and the state writer.

mod counted_stream;
mod dispatch;
pub mod listen;
pub mod metrics;
mod peer;
pub mod runtime;
