//! Conversions between the core's own types and bytes: log records, peer messages, snapshot images, dump lines.
//!
//! Owns every format that leaves a process or outlives it, and the format versions. Does no IO and holds no state but that of
//! a decoder. Everything read here is checked here: decoding never panics, whatever the bytes, and refuses sizes above the
//! named limits before it allocates for them.
//!
//! Nothing above this crate sees a protobuf type of `quorate.peer.v1` or `quorate.log.v1`, except the transport, which moves
//! [`Frame`]s.

#[macro_use]
mod mutant;

mod bounds;
pub mod dump;
pub mod entry;
pub mod envelope;
mod error;
pub mod etcd;
pub mod identity;
pub mod membership;
pub mod peer;
pub mod record;
pub mod snapshot;

pub use bounds::from_term;
pub use entry::{decode_entry, decode_hard_state, encode_entry, encode_hard_state};
pub use envelope::{Envelope, decode_envelope, encode_envelope};
pub use error::DecodeError;
pub use identity::{Bootstrap, Identity, derive_node_id};
pub use membership::{decode_membership, encode_membership};
pub use peer::{PeerMessage, decode_peer, encode_peer};
pub use quorate_proto::quorate::peer::v1::Frame;

/// Newest version of log records, peer messages, snapshot images and configurations this build reads.
///
/// The feature `next-format` builds the release after this one, as far as versions go, for the test of an upgrade.
pub const FORMAT_VERSION: u32 = if cfg!(feature = "next-format") { 2 } else { 1 };

/// The lowest version that reads what this build writes, whatever the cluster's version is: until that has risen, an older
/// build must be able to take over the files. What a later version adds is written with that version, and only in a cluster
/// whose version allows it.
pub const WRITTEN_VERSION: u32 = 1;
