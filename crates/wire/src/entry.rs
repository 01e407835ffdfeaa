//! Log entries and the hard state as records of the log file.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use quorate_proto::quorate::log::v1 as pb;
use quorate_raft::{Entry, HardState, LogIndex, NodeId, Payload, Term};

use crate::DecodeError;
use crate::membership::{from_membership, to_membership};
use crate::record::{Place, seal, unseal};

/// Largest command an entry may hold. Far above any request limit a server may be configured with.
pub const MAX_COMMAND_BYTES: usize = 32 << 20;

/// Appends the record of `entry`, to be stored under its index, to `out`.
pub fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    out.reserve(entry.size() + 32);
    seal(Place::Entry(entry.index.0), out, |body| {
        to_entry(entry).encode(body).expect("a vector grows");
    });
}

/// The inverse of [`encode_entry`]. A command's bytes are a slice of `record`, not a copy.
///
/// # Errors
/// Any [`DecodeError`]; [`DecodeError::Damaged`] also if the record was written for another index.
pub fn decode_entry(index: LogIndex, record: Bytes) -> Result<Entry, DecodeError> {
    let place = Place::Entry(index.0);
    let entry =
        pb::Entry::decode(unseal(place, record)?).map_err(|error| DecodeError::malformed(place.name(), error))?;
    from_entry(index, entry)
}

/// A record of the log file.
pub fn encode_hard_state(state: &HardState) -> Vec<u8> {
    let mut out = Vec::with_capacity(48);
    seal(Place::HardState, &mut out, |body| {
        let state = pb::HardState {
            term: state.term.0,
            vote: state.vote.map_or(0, |id| id.0),
            commit: state.commit.0,
            promise_us: to_micros(state.promise),
        };
        state.encode(body).expect("a vector grows");
    });
    out
}

/// The inverse of [`encode_hard_state`].
///
/// # Errors
/// Any [`DecodeError`].
pub fn decode_hard_state(record: Bytes) -> Result<HardState, DecodeError> {
    let state = pb::HardState::decode(unseal(Place::HardState, record)?)
        .map_err(|error| DecodeError::malformed(Place::HardState.name(), error))?;
    Ok(HardState {
        term: Term(state.term),
        vote: to_node(state.vote),
        commit: LogIndex(state.commit),
        promise: Duration::from_micros(state.promise_us),
    })
}

pub(crate) fn to_micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

pub(crate) fn to_node(id: u64) -> Option<NodeId> {
    (id != 0).then_some(NodeId(id))
}

pub(crate) fn to_entry(entry: &Entry) -> pb::Entry {
    let payload = match &entry.payload {
        Payload::Noop => pb::entry::Payload::Noop(pb::Noop {}),
        Payload::Command(command) => pb::entry::Payload::Command(command.clone()),
        Payload::Membership(membership) => pb::entry::Payload::Membership(to_membership(membership)),
    };
    pb::Entry { term: entry.term.0, payload: Some(payload) }
}

pub(crate) fn from_entry(index: LogIndex, entry: pb::Entry) -> Result<Entry, DecodeError> {
    let payload = match entry.payload.ok_or(DecodeError::UnknownCommand)? {
        pb::entry::Payload::Noop(_) => Payload::Noop,
        pb::entry::Payload::Command(command) if command.len() > MAX_COMMAND_BYTES => {
            let what = Place::Entry(index.0).name();
            return Err(DecodeError::TooLarge { what, size: command.len(), limit: MAX_COMMAND_BYTES });
        }
        pb::entry::Payload::Command(command) => Payload::Command(command),
        pb::entry::Payload::Membership(membership) => Payload::Membership(Arc::new(from_membership(membership)?)),
    };
    Ok(Entry { term: Term(entry.term), index, payload })
}
