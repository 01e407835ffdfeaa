//! Bytes nobody wrote, and bytes of a newer build.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use quorate_proto::quorate::log::v1 as log;
use quorate_proto::quorate::peer::v1 as peer;
use quorate_raft::LogIndex;
use quorate_wire::peer::{Hello, PeerIdentity, from_frame};
use quorate_wire::record::{Place, seal};
use quorate_wire::snapshot::ImageDecoder;
use quorate_wire::{
    DecodeError, FORMAT_VERSION, decode_entry, decode_envelope, decode_hard_state, decode_membership, decode_peer,
    encode_envelope, encode_peer, identity,
};

use crate::samples;

/// Everything that takes bytes, fed the same ones. The answers do not matter, that there is one does.
fn feed_all(bytes: &Bytes) {
    let _ = decode_entry(LogIndex(1), bytes.clone());
    let _ = decode_envelope(bytes);
    let _ = decode_hard_state(bytes.clone());
    let _ = decode_membership(LogIndex(1), bytes.clone());
    let _ = decode_peer(bytes.clone());
    let _ = identity::decode_bootstrap(bytes.clone());
    let _ = identity::decode_identity(bytes.clone());
    if let Ok(frame) = peer::Frame::decode(bytes.clone()) {
        let _ = frame.hello.clone().map(Hello::from_wire);
        let _ = from_frame(frame);
    }
    if let Ok(response) = peer::IdentifyResponse::decode(bytes.clone()) {
        let _ = PeerIdentity::from_wire(response);
    }
    let mut image = ImageDecoder::new();
    if image.push(bytes).is_ok() {
        while let Ok(Some(_)) = image.next_part() {}
    }
    // The same behind a sound checksum.
    for place in [Place::Entry(1), Place::HardState, Place::Membership(1), Place::Bootstrap, Place::Identity] {
        let mut record = Vec::new();
        seal(place, &mut record, |body| body.extend_from_slice(bytes));
        let record = Bytes::from(record);
        let _ = decode_entry(LogIndex(1), record.clone());
        let _ = decode_hard_state(record.clone());
        let _ = decode_membership(LogIndex(1), record.clone());
        let _ = identity::decode_bootstrap(record.clone());
        let _ = identity::decode_identity(record);
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        feed_all(&bytes.into());
    }

    #[test]
    fn damaged_messages_never_panic(
        message in samples::peer_message(), at: prop::sample::Index, value: u8, cut: prop::sample::Index,
    ) {
        let mut bytes = encode_peer(&message).to_vec();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = value;
            feed_all(&bytes.clone().into());
            bytes.truncate(cut.index(bytes.len()));
        }
        feed_all(&bytes.into());
    }

    #[test]
    fn damaged_envelopes_never_panic(envelope in samples::envelope(), at: prop::sample::Index, value: u8) {
        let mut bytes = encode_envelope(&envelope).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        feed_all(&bytes.into());
    }
}

fn envelope() -> log::Envelope {
    log::Envelope { version: 1, origin: 1, command: None, ..log::Envelope::default() }
}

#[test]
fn an_envelope_of_a_newer_version_is_named_as_such() {
    let newer = log::Envelope { version: FORMAT_VERSION + 1, ..envelope() };
    let error = decode_envelope(&newer.encode_to_vec().into()).expect_err("not readable");
    assert_eq!(
        error.to_string(),
        "command envelope has format version 2, but this build reads up to version 1: run a newer build"
    );
}

#[test]
fn a_command_of_a_newer_build_stops_the_reader() {
    // A command field this build has never heard of, on top of a sound envelope.
    let mut bytes = envelope().encode_to_vec();
    bytes.extend_from_slice(&[0xfa, 0x01, 0x00]);
    assert_eq!(decode_envelope(&bytes.into()), Err(DecodeError::UnknownCommand));
}

#[test]
fn a_record_of_a_newer_version_is_named_as_such() {
    let mut record = Vec::new();
    seal(Place::HardState, &mut record, |_| {});
    record[0] = 9;
    let error = decode_hard_state(record.into()).expect_err("not readable");
    assert!(matches!(error, DecodeError::UnknownVersion { found: 9, .. }), "{error}");
}

#[test]
fn messages_of_an_unknown_kind_are_skipped() {
    let frame = peer::Frame {
        messages: vec![
            peer::Message { body: None },
            peer::Message { body: Some(peer::message::Body::Removed(peer::Removed { config_index: 3 })) },
        ],
        ..peer::Frame::default()
    };
    assert_eq!(from_frame(frame).expect("readable").len(), 1);
}

#[test]
fn contradictory_configurations_are_refused() {
    let member = |id: u64| log::Member { node_id: id, incarnation: vec![1; 16].into(), ..log::Member::default() };
    let refused = [
        log::Membership { voters: vec![1], members: vec![], ..Default::default() },
        log::Membership { voters: vec![1, 1], members: vec![member(1)], ..Default::default() },
        log::Membership { voters: vec![1], learners: vec![1], members: vec![member(1)], ..Default::default() },
        log::Membership { learners: vec![1], members: vec![member(1)], ..Default::default() },
        log::Membership { voters: vec![1], removed: vec![1], members: vec![member(1)], ..Default::default() },
        log::Membership {
            voters: vec![1],
            outgoing: vec![2],
            members: vec![member(1), member(2)],
            ..Default::default()
        },
        log::Membership { voters: vec![0], members: vec![], ..Default::default() },
        log::Membership { voters: vec![1], standing: vec![1], members: vec![member(1)], ..Default::default() },
        log::Membership {
            voters: vec![1],
            learners: vec![2],
            rising: vec![2],
            members: vec![member(1), member(2)],
            ..Default::default()
        },
        log::Membership {
            voters: vec![1],
            members: vec![log::Member { incarnation: vec![0; 16].into(), ..member(1) }],
            ..Default::default()
        },
    ];
    for membership in refused {
        let mut record = Vec::new();
        seal(Place::Membership(1), &mut record, |body| membership.encode(body).expect("a vector grows"));
        assert!(decode_membership(LogIndex(1), record.into()).is_err(), "{membership:?}");
    }
}

#[test]
fn appends_whose_indexes_would_wrap_are_refused() {
    let message = |prev_index: u64| {
        let append = peer::Append { prev_index, ..Default::default() };
        let raft = peer::Raft { from: 1, to: 2, term: 3, body: Some(peer::raft::Body::Append(append)) };
        peer::Message { body: Some(peer::message::Body::Raft(raft)) }.encode_to_vec().into()
    };
    assert!(decode_peer(message(u64::MAX / 2 - 2)).is_ok());
    assert!(decode_peer(message(u64::MAX / 2 - 1)).is_ok());
    assert!(decode_peer(message(u64::MAX / 2)).is_err());
    assert!(decode_peer(message(u64::MAX - 1)).is_err());
}

#[test]
fn a_term_that_no_election_reaches_is_refused() {
    let vote = peer::raft::Body::VoteReply(peer::VoteReply::default());
    let message = |term: u64| {
        let raft = peer::Raft { from: 1, to: 2, term, body: Some(vote.clone()) };
        peer::Message { body: Some(peer::message::Body::Raft(raft)) }.encode_to_vec().into()
    };
    assert!(decode_peer(message((1 << 62) - 1)).is_ok());
    assert!(decode_peer(message(1 << 62)).is_ok());
    assert!(decode_peer(message((1 << 62) + 1)).is_err());
    assert!(decode_peer(message(u64::MAX)).is_err());
}
