//! What nodes of one cluster say to each other, apart from snapshots.
//!
//! Every message may be lost, repeated, late or out of order; whoever sends one that matters sends it again until it sees the
//! effect. A message travels inside a [`crate::Frame`] with others; [`encode_peer`] and [`decode_peer`] handle one alone.

mod admin;
mod hello;
mod outcome;
mod raft;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use quorate_kv::Digest;
use quorate_proto::quorate::peer::v1 as pb;
use quorate_raft::{Incarnation, LogIndex, Message, Term};

use crate::DecodeError;
use crate::entry::MAX_COMMAND_BYTES;
use crate::envelope::join_session;

pub use admin::{Admin, AdminOperation, AdminRefused, AdminReply, AdminSuccess};
pub use hello::{Hello, HelloRefused, NodeState, PeerIdentity};
pub use outcome::Outcome;

const WHAT: &str = "peer message";

/// A frame of messages is at most this large; the transport refuses more before it reads it.
pub const MAX_FRAME_BYTES: usize = 64 << 20;

/// The first message of a call is at most this large, since it comes from a stranger: a greeting alone, the header of an
/// image, or a configuration.
pub const MAX_FIRST_MESSAGE_BYTES: usize = 64 << 10;

/// A frame carries at most this many messages.
pub const MAX_FRAME_MESSAGES: usize = 16_384;

/// Everything that travels on a stream between two nodes.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerMessage {
    /// Consensus.
    Raft(Message),
    /// Writes for the leader.
    Forward(Forward),
    /// The leader will not append these.
    ForwardReply(ForwardReply),
    /// An administrator's request for the leader.
    Admin(Admin),
    /// Its answer.
    AdminReply(AdminReply),
    /// The sender's state hash, for the leader to compare.
    Digest {
        /// Applied index the hash belongs to.
        index: LogIndex,
        /// The hash.
        digest: Digest,
    },
    /// From the leader: a quorum has this hash at this index.
    Diverged {
        /// Applied index the hash belongs to.
        index: LogIndex,
        /// The quorum's hash.
        digest: Digest,
    },
    /// The receiver is not in the committed configuration at this index and is remembered as removed.
    Removed {
        /// Index of that configuration.
        config_index: LogIndex,
    },
    /// What became of a write whose origin no longer sees the log.
    Outcome(Outcome),
}

/// Writes on their way to the leader of `term`: appended in that term or never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Term of the leader they are meant for.
    pub term: Term,
    /// The sender's run, as in the envelopes.
    pub session: Incarnation,
    /// Every write of the run below this one is settled at the sender: a late copy of one needs no look.
    pub settled_below: u64,
    /// Sequence and encoded envelope of each.
    pub writes: Vec<(u64, Bytes)>,
}

/// Writes that will never be appended in `term`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardReply {
    /// The term they were stamped with.
    pub term: Term,
    /// The run of the node that forwarded them.
    pub session: Incarnation,
    /// Which ones.
    pub sequences: Vec<u64>,
    /// Why.
    pub reason: ForwardRefused,
}

/// Why a leader refuses to append forwarded writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardRefused {
    /// It has as much waiting as it may.
    TooManyRequests,
    /// Its disk or its quota is full.
    NoSpace,
}

/// One message, alone.
pub fn encode_peer(message: &PeerMessage) -> Bytes {
    let message = to_message(message);
    let mut out = BytesMut::with_capacity(message.encoded_len());
    message.encode(&mut out).expect("a buffer grows");
    out.freeze()
}

/// The inverse of [`encode_peer`]. Commands are slices of `bytes`.
///
/// # Errors
/// Any [`DecodeError`].
pub fn decode_peer(bytes: Bytes) -> Result<PeerMessage, DecodeError> {
    if bytes.len() > MAX_FRAME_BYTES {
        return Err(DecodeError::TooLarge { what: WHAT, size: bytes.len(), limit: MAX_FRAME_BYTES });
    }
    let message = pb::Message::decode(bytes).map_err(|error| DecodeError::malformed(WHAT, error))?;
    from_message(message)?.ok_or_else(|| DecodeError::missing(WHAT, "the body"))
}

/// A frame that carries these messages.
pub fn to_frame<'a>(messages: impl IntoIterator<Item = &'a PeerMessage>) -> pb::Frame {
    pb::Frame { messages: messages.into_iter().map(to_message).collect(), ..pb::Frame::default() }
}

/// The messages of a frame, in order; those of a kind this build does not know are left out.
///
/// # Errors
/// Any [`DecodeError`]; then no message of the frame is used.
pub fn from_frame(frame: pb::Frame) -> Result<Vec<PeerMessage>, DecodeError> {
    if frame.messages.len() > MAX_FRAME_MESSAGES {
        return Err(DecodeError::TooLarge {
            what: "peer frame",
            size: frame.messages.len(),
            limit: MAX_FRAME_MESSAGES,
        });
    }
    frame.messages.into_iter().filter_map(|message| from_message(message).transpose()).collect()
}

/// The first frame of a stream.
pub fn hello_frame(hello: &Hello) -> pb::Frame {
    pb::Frame { hello: Some(hello.to_wire()), ..pb::Frame::default() }
}

fn to_message(message: &PeerMessage) -> pb::Message {
    use pb::message::Body;
    let body = match message {
        PeerMessage::Raft(message) => Body::Raft(raft::to_raft(message)),
        PeerMessage::Forward(forward) => Body::Forward(to_forward(forward)),
        PeerMessage::ForwardReply(reply) => Body::ForwardReply(to_forward_reply(reply)),
        PeerMessage::Admin(admin) => Body::Admin(admin.to_wire()),
        PeerMessage::AdminReply(reply) => Body::AdminReply(reply.to_wire()),
        PeerMessage::Digest { index, digest } => {
            Body::Digest(pb::Digest { index: index.0, digest: to_digest(*digest) })
        }
        PeerMessage::Diverged { index, digest } => {
            Body::Diverged(pb::Diverged { index: index.0, digest: to_digest(*digest) })
        }
        PeerMessage::Removed { config_index } => Body::Removed(pb::Removed { config_index: config_index.0 }),
        PeerMessage::Outcome(outcome) => Body::Outcome(outcome.to_wire()),
    };
    pb::Message { body: Some(body) }
}

fn from_message(message: pb::Message) -> Result<Option<PeerMessage>, DecodeError> {
    use pb::message::Body;
    let Some(body) = message.body else { return Ok(None) };
    let message = match body {
        Body::Raft(message) => PeerMessage::Raft(raft::from_raft(message)?),
        Body::Forward(forward) => PeerMessage::Forward(from_forward(forward)?),
        Body::ForwardReply(reply) => match from_forward_reply(reply) {
            Some(reply) => PeerMessage::ForwardReply(reply),
            None => return Ok(None),
        },
        Body::Admin(admin) => PeerMessage::Admin(Admin::from_wire(admin)?),
        Body::AdminReply(reply) => PeerMessage::AdminReply(AdminReply::from_wire(reply)?),
        Body::Digest(message) => {
            PeerMessage::Digest { index: LogIndex(message.index), digest: from_digest(&message.digest)? }
        }
        Body::Diverged(message) => {
            PeerMessage::Diverged { index: LogIndex(message.index), digest: from_digest(&message.digest)? }
        }
        Body::Removed(message) => PeerMessage::Removed { config_index: LogIndex(message.config_index) },
        Body::Outcome(outcome) => PeerMessage::Outcome(Outcome::from_wire(outcome)?),
    };
    Ok(Some(message))
}

fn to_forward(forward: &Forward) -> pb::Forward {
    let (session_high, session_low) = split_session(forward.session);
    pb::Forward {
        term: forward.term.0,
        session_high,
        session_low,
        settled_below: forward.settled_below,
        writes: forward
            .writes
            .iter()
            .map(|(sequence, envelope)| pb::Forwarded { sequence: *sequence, envelope: envelope.clone() })
            .collect(),
    }
}

fn from_forward(forward: pb::Forward) -> Result<Forward, DecodeError> {
    let mut writes = Vec::with_capacity(forward.writes.len());
    for write in forward.writes {
        let size = write.envelope.len();
        if size > MAX_COMMAND_BYTES {
            return Err(DecodeError::TooLarge { what: "forwarded write", size, limit: MAX_COMMAND_BYTES });
        }
        writes.push((write.sequence, write.envelope));
    }
    Ok(Forward {
        term: Term(forward.term),
        session: join_session(forward.session_high, forward.session_low),
        settled_below: forward.settled_below,
        writes,
    })
}

fn to_forward_reply(reply: &ForwardReply) -> pb::ForwardReply {
    let (session_high, session_low) = split_session(reply.session);
    let reason = match reply.reason {
        ForwardRefused::TooManyRequests => pb::ForwardRefusal::TooManyRequests,
        ForwardRefused::NoSpace => pb::ForwardRefusal::NoSpace,
    };
    pb::ForwardReply {
        term: reply.term.0,
        session_high,
        session_low,
        sequences: reply.sequences.clone(),
        reason: reason.into(),
    }
}

/// None = refused for a reason of a newer build: as a refusal it would have to be explained, as a loss it resolves itself.
fn from_forward_reply(reply: pb::ForwardReply) -> Option<ForwardReply> {
    let reason = match reply.reason() {
        pb::ForwardRefusal::TooManyRequests => ForwardRefused::TooManyRequests,
        pb::ForwardRefusal::NoSpace => ForwardRefused::NoSpace,
        pb::ForwardRefusal::Unspecified => return None,
    };
    Some(ForwardReply {
        term: Term(reply.term),
        session: join_session(reply.session_high, reply.session_low),
        sequences: reply.sequences,
        reason,
    })
}

fn split_session(session: Incarnation) -> (u64, u64) {
    ((session.0 >> 64) as u64, session.0 as u64)
}

fn to_digest(digest: Digest) -> Bytes {
    crate::identity::to_id_bytes(digest.0)
}

fn from_digest(bytes: &[u8]) -> Result<Digest, DecodeError> {
    crate::identity::from_id_bytes(WHAT, bytes).map(Digest)
}
