//! Ranges as gRPC sends them, without a copy of what is large in them.
//!
//! An encoder that writes one message into one buffer copies every value, and holds a large answer twice until it has
//! left. Here a message is a list of pieces: values of some size stand in it as they were read, and only what is between
//! them is written anew. The bytes are the ones that prost would write.

use std::mem::take;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use quorate_kv::{KeyValue, RangeResponse, StreamEnd};
use quorate_proto::{etcdserverpb as pb, mvccpb};

use super::response::{Header, key_value};

/// Field numbers of `RangeStreamResponse`, `RangeResponse` and `KeyValue` that are written here.
const RANGE_RESPONSE: u32 = 1;
const KVS: u32 = 2;
const VALUE: u32 = 5;

/// Values from this size on are pieces of their own. It is the size of an HTTP/2 frame: a smaller piece would be a frame,
/// and a system call, that a copy saves.
const APART_BYTES: usize = 16 * 1024;
/// Bytes of a buffer for what is written anew, which is passed on half full, so that it rarely has to grow.
const BUFFER_BYTES: usize = 64 * 1024;

/// A message with its gRPC prefix, in the order of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(pub Vec<Bytes>);

/// A message that does not fit its frame: the length is a number of 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an answer of {0} bytes is larger than gRPC can send: ask for a part of it with limit")]
pub struct FrameTooLarge(pub usize);

/// The frame of [`super::range_response`].
///
/// # Errors
/// [`FrameTooLarge`].
pub fn range_frame(header: Header, range: RangeResponse) -> Result<Frame, FrameTooLarge> {
    let RangeResponse { kvs, more, count, revision } = range;
    let mut pieces = Pieces::new();
    pieces.range(Some(header.at(revision)), kvs, more, count);
    pieces.frame(None)
}

/// One message of a streamed range: header, more and count come with the last.
///
/// # Errors
/// [`FrameTooLarge`].
pub fn stream_frame(header: Header, kvs: Vec<KeyValue>, end: Option<StreamEnd>) -> Result<Frame, FrameTooLarge> {
    let mut pieces = Pieces::new();
    let (more, count) = end.map_or((false, 0), |end| (end.more, end.count));
    pieces.range(end.map(|end| header.at(end.revision)), kvs, more, count);
    pieces.frame(Some(RANGE_RESPONSE))
}

/// A message in the making.
struct Pieces {
    done: Vec<Bytes>,
    /// Bytes of `done`.
    len: usize,
    written: BytesMut,
}

impl Pieces {
    fn new() -> Self {
        Self { done: Vec::new(), len: 0, written: BytesMut::with_capacity(BUFFER_BYTES) }
    }

    fn range(&mut self, header: Option<pb::ResponseHeader>, kvs: Vec<KeyValue>, more: bool, count: i64) {
        // Fields of a message may be encoded one part after the other.
        self.part(&pb::RangeResponse { header, ..Default::default() });
        for kv in kvs {
            self.key_value(kv);
        }
        self.part(&pb::RangeResponse { more, count, ..Default::default() });
    }

    fn key_value(&mut self, kv: KeyValue) {
        let mut before = key_value(kv);
        let (value, lease) = (take(&mut before.value), take(&mut before.lease));
        let after = mvccpb::KeyValue { lease, ..Default::default() };
        let value_len = match value.len() {
            0 => 0,
            len => key_len(VALUE) + encoded_len_varint(len as u64) + len,
        };
        encode_key(KVS, WireType::LengthDelimited, &mut self.written);
        encode_varint((before.encoded_len() + value_len + after.encoded_len()) as u64, &mut self.written);
        self.part(&before);
        if !value.is_empty() {
            encode_key(VALUE, WireType::LengthDelimited, &mut self.written);
            encode_varint(value.len() as u64, &mut self.written);
            self.value(value);
        }
        self.part(&after);
        if self.written.len() >= BUFFER_BYTES / 2 {
            self.pass_on();
        }
    }

    fn part(&mut self, message: &impl prost::Message) {
        message.encode(&mut self.written).expect("the buffer grows");
    }

    fn value(&mut self, value: Bytes) {
        if value.len() < APART_BYTES {
            self.written.put_slice(&value);
            return;
        }
        self.pass_on();
        self.len += value.len();
        self.done.push(value);
    }

    fn pass_on(&mut self) {
        if !self.written.is_empty() {
            self.len += self.written.len();
            self.done.push(self.written.split().freeze());
        }
    }

    /// The whole frame; the message is the field `within` of another, if that is given.
    fn frame(mut self, within: Option<u32>) -> Result<Frame, FrameTooLarge> {
        self.pass_on();
        let mut head = BytesMut::new();
        if let Some(tag) = within {
            encode_key(tag, WireType::LengthDelimited, &mut head);
            encode_varint(self.len as u64, &mut head);
        }
        let len = head.len() + self.len;
        let mut prefix = BytesMut::with_capacity(5 + head.len());
        // Not compressed.
        prefix.put_u8(0);
        prefix.put_u32(u32::try_from(len).map_err(|_| FrameTooLarge(len))?);
        prefix.put_slice(&head);
        self.done.insert(0, prefix.freeze());
        Ok(Frame(self.done))
    }
}

#[cfg(test)]
mod tests {
    use quorate_kv::Revision;

    use super::super::range_response;
    use super::*;

    const HEADER: Header = Header { cluster_id: u64::MAX, member_id: 2, raft_term: 3 };

    /// Values of every kind: none, one that is copied, those around the limit, one that takes many frames.
    fn kvs() -> Vec<KeyValue> {
        [0, 1, 200, APART_BYTES - 1, APART_BYTES, APART_BYTES + 1, 70_000, 0, 3]
            .iter()
            .enumerate()
            .map(|(number, &len)| KeyValue {
                key: Bytes::from(format!("key-{number}")),
                create_revision: 2,
                mod_revision: 300,
                version: number as i64,
                value: Bytes::from(vec![b'a' + number as u8; len]),
                lease: [0, 5, -7][number % 3],
            })
            .collect()
    }

    #[track_caller]
    fn check(frame: Frame, message: &impl prost::Message) {
        let bytes = frame.0.concat();
        assert_eq!(bytes[0], 0);
        assert_eq!(bytes[1..5], u32::try_from(message.encoded_len()).expect("small").to_be_bytes());
        assert!(bytes[5..] == message.encode_to_vec(), "other bytes than prost's");
    }

    #[test]
    fn the_bytes_are_those_of_the_whole_message() {
        for kvs in [Vec::new(), kvs(), vec![kvs()[1].clone(); 3000]] {
            let range = RangeResponse { kvs: kvs.clone(), more: true, count: 900, revision: Revision(7) };
            check(range_frame(HEADER, range.clone()).expect("fits"), &range_response(HEADER, range));
        }
    }

    #[test]
    fn only_the_last_chunk_of_a_stream_has_header_more_and_count() {
        let end = StreamEnd { revision: Revision(7), more: true, count: 900 };
        let sent: Vec<_> = kvs().into_iter().map(key_value).collect();
        let chunk = |range| pb::RangeStreamResponse { range_response: Some(range) };
        let first = pb::RangeResponse { kvs: sent.clone(), ..Default::default() };
        let last = pb::RangeResponse { header: Some(HEADER.at(Revision(7))), kvs: sent, more: true, count: 900 };
        check(stream_frame(HEADER, kvs(), None).expect("fits"), &chunk(first));
        check(stream_frame(HEADER, kvs(), Some(end)).expect("fits"), &chunk(last));
    }

    #[test]
    fn a_large_value_is_not_copied_and_small_ones_share_a_buffer() {
        let large = kvs()[6].clone();
        let places = |kvs: Vec<KeyValue>| {
            let range = RangeResponse { kvs, more: false, count: 1, revision: Revision(7) };
            range_frame(HEADER, range).expect("fits").0.iter().map(|piece| piece.as_ptr()).collect::<Vec<_>>()
        };
        assert!(places(vec![large.clone()]).contains(&large.value.as_ptr()));
        assert_eq!(places(vec![kvs()[1].clone(); 9]).len(), 2, "a prefix and the message");
    }
}
