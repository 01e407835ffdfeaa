//! The parsers, what sound input for each looks like, and what must hold for whatever they read.

use std::fmt::Display;
use std::hint::black_box;

use bytes::Bytes;
use prost::Message;
use quorate_kv::{
    Actor, Command, KeySpace, KeySpaceMeta, KvError, Record, RecordKey, Revision, Row, Table, validate, validate_range,
    validate_stream,
};
use quorate_proto::etcdserverpb as etcd;
use quorate_proto::quorate::log::v1 as log;
use quorate_proto::quorate::peer::v1 as peer;
use quorate_raft::{Incarnation, LogIndex, Member, Membership, NodeId, SnapshotMeta, Term};
use quorate_server::auto_compaction::AutoCompaction;
use quorate_server::duration::parse_duration;
use quorate_server::query::{Query, decode_path};
use quorate_wire::peer::{Hello, PeerIdentity, from_frame};
use quorate_wire::record::{Place, seal};
use quorate_wire::snapshot::{Header, ImageDecoder, ImageEncoder};
use quorate_wire::{
    Envelope, decode_entry, decode_envelope, decode_hard_state, decode_membership, decode_peer, encode_entry,
    encode_envelope, encode_hard_state, encode_membership, encode_peer, identity,
};

use crate::calls;
use crate::random::Random;

/// One parser, or a few of a kind.
pub struct Target {
    /// On the command line, and the folder of its corpus.
    pub name: &'static str,
    /// Sound inputs to begin with.
    pub samples: fn(&mut Random) -> Vec<Vec<u8>>,
    /// Panics if the input shows a bug.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "requests", samples: request_samples, run: requests },
    Target { name: "peer", samples: peer_samples, run: peer_messages },
    Target { name: "snapshot", samples: snapshot_samples, run: snapshot },
    Target { name: "records", samples: record_samples, run: records },
    Target { name: "envelope", samples: envelope_samples, run: envelope },
    Target { name: "rows", samples: row_samples, run: rows },
    Target { name: "texts", samples: text_samples, run: texts },
    Target { name: "calls", samples: calls::call_samples, run: calls::calls },
    Target { name: "http", samples: calls::http_samples, run: calls::http },
    Target { name: "tokens", samples: calls::token_samples, run: calls::tokens },
    Target { name: "peers", samples: calls::peer_call_samples, run: calls::peers },
    Target { name: "connections", samples: calls::connection_samples, run: calls::connections },
];

/// A refusal says what was refused: its text is made of the input, too.
fn read<T, E: Display>(result: Result<T, E>) -> Option<T> {
    result.inspect_err(|error| _ = black_box(error.to_string())).ok()
}

fn check_command(command: Result<Command, KvError>) {
    let Some(command) = read(command) else { return };
    if read(validate(&command, &quorate_kv::Limits::default())).is_some() {
        round_trip_envelope(command);
    }
}

fn round_trip_envelope(command: Command) {
    let envelope =
        Envelope { origin: NodeId(7), incarnation: Incarnation(9), sequence: 3, actor: Actor::Node, command };
    let read = decode_envelope(&encode_envelope(&envelope)).expect("what was written can be read");
    assert_eq!(read, envelope, "a command changes on its way through the log");
}

/// The first byte chooses the request.
fn requests(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else { return };
    match first % 5 {
        0 => {
            let put = read(etcd::PutRequest::decode(rest)).map(quorate_wire::etcd::decode_put);
            put.into_iter().for_each(|put| check_command(Ok(Command::Put(put))));
        }
        1 => {
            let delete = read(etcd::DeleteRangeRequest::decode(rest)).map(quorate_wire::etcd::decode_delete_range);
            delete.into_iter().for_each(|delete| check_command(Ok(Command::DeleteRange(delete))));
        }
        2 => {
            let txn = read(etcd::TxnRequest::decode(rest)).map(quorate_wire::etcd::decode_txn);
            txn.into_iter().for_each(|txn| check_command(txn.map(Command::Txn)));
        }
        3 => {
            let range = read(etcd::RangeRequest::decode(rest)).map(quorate_wire::etcd::decode_range);
            if let Some(range) = range.and_then(read) {
                read(validate_range(&range));
                read(validate_stream(&range));
            }
        }
        _ => {
            let compact = read(etcd::CompactionRequest::decode(rest)).map(quorate_wire::etcd::decode_compaction);
            compact.into_iter().for_each(|compact| check_command(Ok(Command::Compact(compact))));
        }
    }
}

fn request_samples(random: &mut Random) -> Vec<Vec<u8>> {
    let key = |random: &mut Random| Bytes::from(random.bytes(12));
    let put = etcd::PutRequest { key: key(random), value: key(random), lease: 5, ..Default::default() };
    let range = etcd::RangeRequest { key: key(random), range_end: key(random), limit: 3, ..Default::default() };
    let delete = etcd::DeleteRangeRequest { key: key(random), prev_kv: true, ..Default::default() };
    let op = |request| etcd::RequestOp { request: Some(request) };
    let inner = etcd::TxnRequest {
        compare: vec![etcd::Compare {
            key: key(random),
            target_union: Some(etcd::compare::TargetUnion::Version(1)),
            ..Default::default()
        }],
        success: vec![op(etcd::request_op::Request::RequestPut(put.clone()))],
        failure: vec![op(etcd::request_op::Request::RequestRange(range.clone()))],
    };
    let outer = etcd::TxnRequest {
        success: vec![
            op(etcd::request_op::Request::RequestTxn(inner)),
            op(etcd::request_op::Request::RequestDeleteRange(delete.clone())),
        ],
        ..Default::default()
    };
    let compact = etcd::CompactionRequest { revision: 7, physical: true };
    let with = |first: u8, message: Vec<u8>| [&[first][..], &message].concat();
    vec![
        with(0, put.encode_to_vec()),
        with(1, delete.encode_to_vec()),
        with(2, outer.encode_to_vec()),
        with(3, range.encode_to_vec()),
        with(4, compact.encode_to_vec()),
    ]
}

fn peer_messages(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    if let Some(message) = read(decode_peer(bytes.clone())) {
        let again = decode_peer(encode_peer(&message)).expect("what was written can be read");
        assert_eq!(again, message, "a message changes on its way");
    }
    if let Some(frame) = read(peer::Frame::decode(bytes.clone())) {
        read(frame.hello.clone().map(Hello::from_wire).transpose());
        read(from_frame(frame));
    }
    read(peer::IdentifyResponse::decode(bytes)).map(PeerIdentity::from_wire).and_then(read);
}

fn peer_samples(random: &mut Random) -> Vec<Vec<u8>> {
    use quorate_wire::peer::{Forward, PeerMessage};
    let forward = Forward {
        term: quorate_raft::Term(3),
        session: Incarnation(random.next().into()),
        settled_below: 4,
        writes: vec![(4, Bytes::from(random.bytes(20))), (5, Bytes::new())],
    };
    let digest = PeerMessage::Digest { index: LogIndex(9), digest: quorate_kv::Digest(random.next().into()) };
    let messages = [PeerMessage::Forward(forward), digest].map(|message| encode_peer(&message).to_vec());
    let frame = peer::Frame::default().encode_to_vec();
    // Every number of a message kind with an empty body, to begin somewhere.
    let shells = (1..32_u8).map(|number| vec![number << 3 | 2, 0]);
    messages.into_iter().chain([frame]).chain(shells).collect()
}

/// The first byte says in how many bytes at a time the rest comes, and whether its checksums are made sound before.
fn snapshot(input: &[u8]) {
    let Some((step, rest)) = input.split_first() else { return };
    let rest = if step % 2 == 0 { rest.to_vec() } else { sealed_image(rest) };
    let mut image = ImageDecoder::new();
    for chunk in rest.chunks(1 + usize::from(*step)) {
        if read(image.push(chunk)).is_none() {
            return;
        }
        loop {
            match read(image.next_part()) {
                Some(Some(_)) => {}
                Some(None) => break,
                None => return,
            }
        }
    }
    black_box(image.ended());
}

/// An image whose frames are as long as they say, with sound checksums, and whose trailer tells the right sum: what mutation
/// cannot make.
fn sealed_image(bytes: &[u8]) -> Vec<u8> {
    const MAGIC_BYTES: usize = 8;
    const HEAD_BYTES: usize = 13;
    const TRAILER: u8 = 3;
    let (magic, mut rest) = bytes.split_at(bytes.len().min(MAGIC_BYTES));
    let mut out = magic.to_vec();
    let mut sum = xxhash_rust::xxh3::Xxh3::new();
    while let Some((head, behind)) = rest.split_at_checked(HEAD_BYTES) {
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (body, after) = behind.split_at(length.min(behind.len()));
        let mut body = body.to_vec();
        if let (TRAILER, Ok(trailer)) = (head[0], log::SnapshotTrailer::decode(&body[..])) {
            let checksum = Bytes::copy_from_slice(&sum.digest128().to_be_bytes());
            body = log::SnapshotTrailer { checksum, ..trailer }.encode_to_vec();
        }
        sum.update(&body);
        out.push(head[0]);
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(&body).to_le_bytes());
        out.extend_from_slice(&body);
        rest = after;
    }
    out.extend_from_slice(rest);
    out
}

fn snapshot_samples(random: &mut Random) -> Vec<Vec<u8>> {
    let voter = NodeId(1);
    let member = Member { name: "a".to_owned(), peer_address: "a:1".to_owned(), max_version: 1, ..Member::default() };
    let membership = Membership {
        voters: [voter].into(),
        members: [(voter, Member { incarnation: Incarnation(5), ..member })].into(),
        cluster_version: 1,
        ..Membership::default()
    };
    let meta = SnapshotMeta {
        index: LogIndex(9),
        term: Term(2),
        membership_index: LogIndex(1),
        membership: membership.into(),
    };
    let header = Header::new(7, meta, Revision(8), Revision(3), quorate_kv::Digest(2));
    let row = Row { table: Table::from_number(2).expect("a table"), key: vec![0; 8].into(), value: vec![0; 20].into() };
    let record =
        Record { create_revision: 5, version: 1, tombstone: false, ..Record::tombstone(Bytes::from_static(b"key")) };
    let (mut encoder, start) = ImageEncoder::start(&header);
    let rows = encoder.rows(&[row]);
    let records = encoder.records(&[(RecordKey { revision: 5, sub: 0 }, record)]);
    let whole = [start, rows, records, encoder.finish()].concat();
    let step = [201, 200, 1, random.byte()];
    let cut = random.below(whole.len());
    step.iter().map(|step| [&[*step][..], &whole].concat()).chain([whole[..cut].to_vec()]).collect()
}

/// Records of the log file, as they are and behind a sound checksum.
fn records(input: &[u8]) {
    let raw = Bytes::copy_from_slice(input);
    read(decode_entry(LogIndex(1), raw.clone()));
    read(decode_hard_state(raw));
    for place in [Place::Entry(1), Place::HardState, Place::Membership(1), Place::Bootstrap, Place::Identity] {
        let mut record = Vec::new();
        seal(place, &mut record, |body| body.extend_from_slice(input));
        read_record(place, record.into());
    }
}

fn read_record(place: Place, record: Bytes) {
    match place {
        Place::Entry(_) => {
            if let Some(entry) = read(decode_entry(LogIndex(1), record)) {
                let again = decode_entry(LogIndex(1), encoded(&entry).into());
                assert_eq!(again.as_ref(), Ok(&entry), "an entry changes on its way through the log");
            }
        }
        Place::HardState => {
            if let Some(state) = read(decode_hard_state(record)) {
                let again = decode_hard_state(encode_hard_state(&state).into());
                assert_eq!(again.as_ref(), Ok(&state), "a term or vote changes on its way through the log");
            }
        }
        Place::Membership(_) => {
            if let Some(membership) = read(decode_membership(LogIndex(1), record)) {
                let again = decode_membership(LogIndex(1), encode_membership(LogIndex(1), &membership).into());
                assert_eq!(again.as_ref(), Ok(&membership), "a configuration changes on its way through the log");
            }
        }
        Place::Bootstrap => _ = read(identity::decode_bootstrap(record)),
        Place::Identity => _ = read(identity::decode_identity(record)),
    }
}

fn encoded(entry: &quorate_raft::Entry) -> Vec<u8> {
    let mut out = Vec::new();
    encode_entry(entry, &mut out);
    out
}

fn record_samples(random: &mut Random) -> Vec<Vec<u8>> {
    let entry = quorate_raft::Entry {
        index: LogIndex(1),
        term: quorate_raft::Term(2),
        payload: quorate_raft::Payload::Command(Bytes::from(random.bytes(30))),
    };
    let hard_state = quorate_raft::HardState {
        term: quorate_raft::Term(4),
        vote: Some(NodeId(3)),
        commit: LogIndex(2),
        promise: std::time::Duration::from_secs(1),
    };
    let membership = quorate_raft::Membership::default();
    // Without the head: the target puts a sound one before them.
    let body = |record: Vec<u8>| record[9..].to_vec();
    vec![body(encoded(&entry)), body(encode_hard_state(&hard_state)), body(encode_membership(LogIndex(1), &membership))]
}

fn envelope(input: &[u8]) {
    if let Some(envelope) = read(decode_envelope(&Bytes::copy_from_slice(input))) {
        let again = decode_envelope(&encode_envelope(&envelope)).expect("what was written can be read");
        assert_eq!(again, envelope, "an envelope changes on its way");
    }
}

fn envelope_samples(random: &mut Random) -> Vec<Vec<u8>> {
    let requests = request_samples(random);
    let commands = requests.iter().filter_map(|request| match request[0] {
        0 => etcd::PutRequest::decode(&request[1..]).ok().map(|put| Command::Put(quorate_wire::etcd::decode_put(put))),
        2 => quorate_wire::etcd::decode_txn(etcd::TxnRequest::decode(&request[1..]).ok()?).ok().map(Command::Txn),
        _ => None,
    });
    let envelope =
        |command| Envelope { origin: NodeId(1), incarnation: Incarnation(2), sequence: 3, actor: Actor::Node, command };
    commands.map(|command| encode_envelope(&envelope(command)).to_vec()).collect()
}

/// Records of the state file, the numbers of its tables, its first row, and the image of its index behind a sound checksum.
fn rows(input: &[u8]) {
    black_box(input.first().and_then(|number| Table::from_number(*number)));
    if let Some(record) = read(Record::decode(&Bytes::copy_from_slice(input))) {
        let mut again = Vec::new();
        record.encode(&mut again);
        assert_eq!(Record::decode(&Bytes::from(again)).as_ref(), Ok(&record), "a record changes on its way");
        assert!(record.key.len() + record.value.len() <= input.len(), "a record is larger than its bytes");
    }
    if let Some(meta) = input.first_chunk().and_then(KeySpaceMeta::from_bytes) {
        assert_eq!(
            KeySpaceMeta::from_bytes(&meta.to_bytes()),
            Some(meta),
            "the numbers of a store change on their way"
        );
    }
    let meta = KeySpaceMeta { revision: Revision(i64::MAX), ..KeySpaceMeta::default() };
    let sum = xxhash_rust::xxh3::xxh3_128(input).to_be_bytes();
    read(KeySpace::decode_index(&[input, &sum].concat(), &meta));
}

fn row_samples(random: &mut Random) -> Vec<Vec<u8>> {
    let put = Record {
        key: Bytes::from(random.bytes(10)),
        value: Bytes::from(random.bytes(30)),
        create_revision: 3,
        version: 2,
        lease: 7,
        tombstone: false,
    };
    [put, Record::tombstone(Bytes::from_static(b"gone"))]
        .map(|record| {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            bytes
        })
        .to_vec()
}

/// What people type: addresses and flags.
fn texts(input: &[u8]) {
    query(input);
    settings(input);
}

fn text_samples(random: &mut Random) -> Vec<Vec<u8>> {
    [query_samples(random), setting_samples(random)].concat()
}

/// Paths and queries of the HTTP API.
fn query(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(path) = decode_path(&text) {
        assert!(path.len() <= text.len(), "a decoded path is longer than the encoded one");
    }
    let known = ["stale", "consistent", "max_staleness", "separator", "raw"];
    if let Ok(query) = Query::parse(&text, &known) {
        assert!(known.iter().any(|name| query.has(name)) || text.split('&').all(str::is_empty));
    }
}

fn query_samples(_: &mut Random) -> Vec<Vec<u8>> {
    ["stale&max_staleness=500ms", "raw&separator=%2F", "a%2Fb+c%FF", "consistent=1&raw", "%zz&stale=%"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

/// Durations and retentions as flags and headers carry them.
fn settings(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (mode, retention) = text.split_once(' ').unwrap_or((&text, ""));
    black_box(parse_duration(&text));
    _ = black_box(AutoCompaction::parse(mode, retention));
}

fn setting_samples(_: &mut Random) -> Vec<Vec<u8>> {
    ["500ms", "1.5s", "2h", "periodic 1", "periodic 30m", "revision 1000", "periodic 1e400h", "99999999999999999999h"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}
