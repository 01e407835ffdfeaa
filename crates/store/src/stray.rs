//! A state machine that goes its own way, for the simulator and for tests of the real binary: what a bug, or memory that
//! went bad, does to one node alone.

use quorate_kv::Command;
use quorate_raft::{Entry, LogIndex, Payload};
use quorate_wire::{decode_envelope, encode_envelope};

/// Makes another write of the first entry that puts one key, and says where. `None` if there is no such entry.
pub fn stray(entries: &mut [Entry]) -> Option<LogIndex> {
    entries.iter_mut().find_map(|entry| {
        entry.payload = another(&entry.payload)?;
        Some(entry.index)
    })
}

/// The same put with another value.
fn another(payload: &Payload) -> Option<Payload> {
    let Payload::Command(bytes) = payload else { return None };
    let mut envelope = decode_envelope(bytes).ok()?;
    let Command::Put(put) = &mut envelope.command else { return None };
    if put.ignore_value {
        // With a value it would be refused, which changes nothing.
        return None;
    }
    let mut value = put.value.to_vec();
    value.push(0xee);
    put.value = value.into();
    Some(Payload::Command(encode_envelope(&envelope)))
}
