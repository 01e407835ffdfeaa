//! Messages of a stream, taken apart and looked at without decoding them: the load generator shares the machine with what it
//! measures.
//!
//! Never judges what a message says.

use bytes::{Buf, BytesMut};
use h2::RecvStream;
use http::header::HeaderMap;
use prost::encoding::{WireType, decode_key, decode_varint};
use tonic::{Code, Status};

use super::transport::{CallError, PREFIX, broken};

/// The answers of one call.
#[derive(Debug)]
pub(super) struct Answers {
    headers: HeaderMap,
    body: RecvStream,
    rest: BytesMut,
}

/// One field of an encoded message. `bytes` is empty for a number, `number` is the length of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) tag: u32,
    pub(super) number: u64,
    pub(super) bytes: &'a [u8],
}

impl Answers {
    pub(super) fn new(headers: HeaderMap, body: RecvStream) -> Answers {
        Answers { headers, body, rest: BytesMut::new() }
    }

    /// The next message; `None` once the server has ended the call without an error.
    pub(super) async fn next(&mut self) -> Result<Option<BytesMut>, CallError> {
        loop {
            if let Some(message) = next_message(&mut self.rest) {
                return Ok(Some(message));
            }
            let Some(chunk) = self.body.data().await else { return self.finish().await.map(|()| None) };
            let chunk = chunk.map_err(broken)?;
            // A stream that ended meanwhile says so with the next chunk.
            let _ = self.body.flow_control().release_capacity(chunk.len());
            self.rest.extend_from_slice(&chunk);
        }
    }

    async fn finish(&mut self) -> Result<(), CallError> {
        let trailers = self.body.trailers().await.map_err(broken)?;
        // An answer without a message carries its status in the headers.
        let status = trailers.as_ref().and_then(Status::from_header_map);
        match status.or_else(|| Status::from_header_map(&self.headers)) {
            Some(status) if status.code() == Code::Ok && self.rest.is_empty() => Ok(()),
            Some(status) if status.code() == Code::Ok => Err(CallError::Broken("half a message".to_owned())),
            Some(status) => Err(CallError::Refused(status)),
            None => Err(CallError::Broken("answer without a gRPC status".to_owned())),
        }
    }
}

/// Takes one whole message off the front.
fn next_message(bytes: &mut BytesMut) -> Option<BytesMut> {
    let length = u32::from_be_bytes(*bytes.get(1..PREFIX)?.first_chunk()?) as usize;
    if bytes.len() < PREFIX + length {
        bytes.reserve(PREFIX + length - bytes.len());
        return None;
    }
    bytes.advance(PREFIX);
    Some(bytes.split_to(length))
}

/// Shows each field to `see`; `None` if it is no message, or if `see` says so.
pub(super) fn each_field<'a>(mut message: &'a [u8], mut see: impl FnMut(Field<'a>) -> Option<()>) -> Option<()> {
    while !message.is_empty() {
        let (tag, kind) = decode_key(&mut message).ok()?;
        let number = decode_varint(&mut message).ok()?;
        let mut bytes: &[u8] = &[];
        if kind == WireType::LengthDelimited {
            (bytes, message) = message.split_at_checked(usize::try_from(number).ok()?)?;
        }
        see(Field { tag, number, bytes })?;
    }
    Some(())
}

/// The last field with this tag; `None` if there is none.
pub(super) fn field(message: &[u8], tag: u32) -> Option<Field<'_>> {
    let mut found = None;
    each_field(message, |field| {
        if field.tag == tag {
            found = Some(field);
        }
        Some(())
    })?;
    found
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use quorate_proto::etcdserverpb::{ResponseHeader, WatchResponse};
    use quorate_proto::mvccpb::Event;

    use super::super::transport::frame;
    use super::*;

    #[test]
    fn messages_are_taken_off_whole() {
        let header = Some(ResponseHeader { revision: 9, ..ResponseHeader::default() });
        let created = WatchResponse { header, created: true, ..WatchResponse::default() };
        let told = WatchResponse { header, watch_id: 7, events: vec![Event::default(); 3], ..WatchResponse::default() };
        let mut bytes = BytesMut::new();
        for message in [&created, &told] {
            bytes.extend_from_slice(&frame(message));
        }
        bytes.truncate(bytes.len() - 1);
        let first = next_message(&mut bytes).expect("whole");
        assert_eq!(first, created.encode_to_vec());
        assert_eq!(next_message(&mut bytes), None, "the last byte is missing");
    }

    #[test]
    fn fields_are_found_without_decoding() {
        let header = Some(ResponseHeader { revision: 9, ..ResponseHeader::default() });
        let told = WatchResponse { header, watch_id: 7, events: vec![Event::default(); 3], ..WatchResponse::default() };
        let bytes = told.encode_to_vec();
        assert_eq!(field(&bytes, 2).map(|field| field.number), Some(7));
        let revision = field(&bytes, 1).and_then(|header| field(header.bytes, 3)).map(|field| field.number);
        assert_eq!(revision, Some(9));
        let mut events = 0;
        each_field(&bytes, |field| {
            events += usize::from(field.tag == 11);
            Some(())
        })
        .expect("a message");
        assert_eq!(events, 3);
        assert_eq!(each_field(&[0xff], |_| Some(())), None);
        assert_eq!(each_field(&bytes[..bytes.len() - 1], |_| Some(())), None);
    }
}
