//! The running node: threads, sockets, clocks and metrics around `quorate_node` and `quorate_store`.
//!
//! Owns the processes' edges: the peer port, the client port (gRPC and HTTP on one accept loop) and the metrics port.
//! Never decides anything about consensus: it moves bytes, and runs the node, the log writer and the state writer.

mod access;
mod address;
pub mod answers;
mod arriving;
mod auth;
pub mod auto_compaction;
mod blocking;
mod client_api;
mod counted_stream;
mod dispatch;
pub mod duration;
mod encoded;
mod etcd_image;
mod framing;
mod gate;
mod gateway;
mod grpc;
mod http;
mod inside;
mod json_framing;
mod keep_alives;
mod leaving;
pub mod listen;
pub mod metrics;
mod node_state;
mod peer;
mod placed;
mod preface;
pub mod query;
mod read_choice;
mod relay;
pub mod runtime;
pub mod server;

pub use auth::{JwtOption, TokenOption, TokenOptionError};
pub use etcd_image::EtcdImage;
pub use quorate_raft::{Entry, Incarnation, Member, Payload};
pub use quorate_wire::peer::NodeState;
