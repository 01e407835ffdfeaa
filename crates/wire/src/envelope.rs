//! What a command entry of the log holds: the command, and which request of which node it answers.

mod auth;
mod command;

use bytes::{Bytes, BytesMut};
use prost::Message;
use quorate_kv::{Actor, Command};
use quorate_proto::quorate::log::v1 as pb;
use quorate_raft::{Incarnation, NodeId};

use crate::DecodeError;
use crate::entry::MAX_COMMAND_BYTES;
use crate::identity::check_version;

pub use command::MAX_TXN_DEPTH;

const WHAT: &str = "command envelope";

/// The version every command of today needs; a command that older builds cannot apply takes a higher one.
const VERSION: u32 = 1;

/// A command and the request it answers. The three names in front of it make the request unique for ever, so that a node
/// recognises its own write among all it applies and a leader recognises a second copy of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// Node that took the request.
    pub origin: NodeId,
    /// The run of that node, a random name drawn at each start of the process: sequences start anew with every run, and an
    /// answer is owed only by the run that took the request.
    pub incarnation: Incarnation,
    /// Number of the request within the run.
    pub sequence: u64,
    /// Who asked.
    pub actor: Actor,
    /// What to apply.
    pub command: Command,
}

/// The bytes of a command entry.
pub fn encode_envelope(envelope: &Envelope) -> Bytes {
    let message = pb::Envelope {
        version: VERSION,
        origin: envelope.origin.0,
        session_high: (envelope.incarnation.0 >> 64) as u64,
        session_low: envelope.incarnation.0 as u64,
        sequence: envelope.sequence,
        actor: auth::to_actor(&envelope.actor),
        command: Some(command::to_command(&envelope.command)),
    };
    let mut out = BytesMut::with_capacity(message.encoded_len());
    message.encode(&mut out).expect("a buffer grows");
    out.freeze()
}

/// The inverse of [`encode_envelope`]. Keys and values are slices of `bytes`: whoever keeps one for long copies it.
///
/// # Errors
/// [`DecodeError::UnknownVersion`] and [`DecodeError::UnknownCommand`] mean a newer build wrote it; a node that meets one in
/// its log stops. [`DecodeError::Malformed`] and [`DecodeError::TooLarge`] otherwise.
pub fn decode_envelope(bytes: &Bytes) -> Result<Envelope, DecodeError> {
    if bytes.len() > MAX_COMMAND_BYTES {
        return Err(DecodeError::TooLarge { what: WHAT, size: bytes.len(), limit: MAX_COMMAND_BYTES });
    }
    let message = pb::Envelope::decode(bytes.clone()).map_err(|error| DecodeError::malformed(WHAT, error))?;
    check_version(WHAT, message.version)?;
    if message.origin == 0 {
        return Err(DecodeError::malformed(WHAT, "the origin is 0"));
    }
    Ok(Envelope {
        origin: NodeId(message.origin),
        incarnation: join_session(message.session_high, message.session_low),
        sequence: message.sequence,
        actor: auth::from_actor(message.actor)?,
        command: command::from_command(message.command.ok_or(DecodeError::UnknownCommand)?)?,
    })
}

pub(crate) fn join_session(high: u64, low: u64) -> Incarnation {
    Incarnation(u128::from(high) << 64 | u128::from(low))
}
