//! Watch: what clients ask, and events in their encoded form.
//!
//! An event is encoded once for all who are told of it, as the `events` field of a `WatchResponse` with its tag and length:
//! a response is then a head, and such fields one after another.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, message};
use quorate_kv::{Change, KeyValue};
use quorate_proto::{etcdserverpb as pb, mvccpb};

use super::response::{Header, key_value};
use quorate_kv::Revision;

/// Field numbers of `WatchResponse` that are written here.
const HEADER: u32 = 1;
const WATCH_ID: u32 = 2;
const FRAGMENT: u32 = 7;
const EVENTS: u32 = 11;

/// The most bytes a response has beside its events: header, id, flags.
pub const WATCH_HEAD_BYTES: usize = 64;

/// One request on a watch stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchRequest {
    /// Begin to watch.
    Create(WatchCreate),
    /// End one watch.
    Cancel {
        /// Its id.
        id: i64,
    },
    /// Say how far all watches of the stream are.
    Progress,
}

/// What to watch, and how to tell of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchCreate {
    /// First key. Never empty: a request without one means the lowest there is.
    pub key: Bytes,
    /// As in a range: empty for one key, `"\0"` for every key from the first on.
    pub range_end: Bytes,
    /// First revision of interest; 0 for what comes from now on.
    pub start_revision: i64,
    /// Say now and then how far the watch is, though nothing happened.
    pub progress_notify: bool,
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletions.
    pub no_delete: bool,
    /// Tell what a key held before.
    pub prev_kv: bool,
    /// The id the client wants; 0 for any.
    pub watch_id: i64,
    /// Split what is too large for one message.
    pub fragment: bool,
}

/// What a request asks; `None` if it asks nothing.
#[must_use]
pub fn decode_watch(request: pb::WatchRequest) -> Option<WatchRequest> {
    use pb::watch_create_request::FilterType;
    use pb::watch_request::RequestUnion;
    Some(match request.request_union? {
        RequestUnion::CancelRequest(cancel) => WatchRequest::Cancel { id: cancel.watch_id },
        RequestUnion::ProgressRequest(_) => WatchRequest::Progress,
        RequestUnion::CreateRequest(create) => {
            let filtered = |kind: FilterType| create.filters.contains(&(kind as i32));
            WatchRequest::Create(WatchCreate {
                no_put: filtered(FilterType::Noput),
                no_delete: filtered(FilterType::Nodelete),
                key: if create.key.is_empty() { Bytes::from_static(&[0]) } else { create.key },
                range_end: create.range_end,
                start_revision: create.start_revision,
                progress_notify: create.progress_notify,
                prev_kv: create.prev_kv,
                watch_id: create.watch_id,
                fragment: create.fragment,
            })
        }
    })
}

/// The `events` field of one change. A deletion shows the key and its revision alone.
#[must_use]
pub fn encode_event(change: &Change, previous: Option<&KeyValue>) -> Bytes {
    let kind = if change.record.tombstone { mvccpb::event::EventType::Delete } else { mvccpb::event::EventType::Put };
    let event = mvccpb::Event {
        r#type: kind as i32,
        kv: Some(key_value(change.record.clone().into_key_value(change.at))),
        prev_kv: previous.cloned().map(key_value),
    };
    let mut out = BytesMut::with_capacity(message::encoded_len(EVENTS, &event));
    message::encode(EVENTS, &event, &mut out);
    out.freeze()
}

/// The events in the `events` fields of `body`.
///
/// # Errors
/// If `body` is not made of [`encode_event`]'s bytes.
pub fn decode_events(body: Bytes) -> Result<Vec<mvccpb::Event>, prost::DecodeError> {
    pb::WatchResponse::decode(body).map(|response| response.events)
}

/// The header field of a response at `revision`.
#[must_use]
pub fn encode_watch_head(header: Header, revision: Revision) -> Bytes {
    let header = header.at(revision);
    let mut out = BytesMut::with_capacity(message::encoded_len(HEADER, &header));
    message::encode(HEADER, &header, &mut out);
    out.freeze()
}

/// Writes the response that tells watch `id` of the events in `body`.
pub fn encode_watch_events(head: &Bytes, id: i64, fragment: bool, body: &Bytes, out: &mut impl BufMut) {
    out.put_slice(head);
    if id != 0 {
        encode_key(WATCH_ID, WireType::Varint, out);
        encode_varint(id as u64, out);
    }
    if fragment {
        encode_key(FRAGMENT, WireType::Varint, out);
        encode_varint(1, out);
    }
    out.put_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_kv::{Record, RecordKey};

    fn put(key: &'static [u8], revision: i64) -> Change {
        let record = Record {
            key: Bytes::from_static(key),
            value: Bytes::from_static(b"value"),
            create_revision: 3,
            version: 2,
            lease: 7,
            tombstone: false,
        };
        Change { at: RecordKey { revision, sub: 0 }, record }
    }

    #[test]
    fn a_response_of_parts_is_the_response() {
        let previous = KeyValue {
            key: Bytes::from_static(b"a"),
            create_revision: 3,
            mod_revision: 3,
            version: 1,
            value: Bytes::from_static(b"before"),
            lease: 0,
        };
        let deletion =
            Change { at: RecordKey { revision: 9, sub: 1 }, record: Record::tombstone(Bytes::from_static(b"b")) };
        let body = [encode_event(&put(b"a", 9), Some(&previous)), encode_event(&deletion, None)].concat();
        let header = Header { cluster_id: 1, member_id: 2, raft_term: 3 };
        for (id, fragment) in [(0, false), (5, true), (-1, false)] {
            let mut out = Vec::new();
            let head = encode_watch_head(header, Revision(12));
            encode_watch_events(&head, id, fragment, &Bytes::from(body.clone()), &mut out);
            let response = pb::WatchResponse::decode(&out[..]).expect("decodes");
            assert_eq!((response.watch_id, response.fragment), (id, fragment));
            assert_eq!(response.header, Some(header.at(Revision(12))));
            let [first, second] = &response.events[..] else { panic!("{response:?}") };
            assert_eq!((first.r#type, first.prev_kv.as_ref().map(|kv| &kv.value[..])), (0, Some(&b"before"[..])));
            let bare = mvccpb::KeyValue { key: Bytes::from_static(b"b"), mod_revision: 9, ..Default::default() };
            assert_eq!((second.r#type, second.kv.clone(), second.prev_kv.clone()), (1, Some(bare), None));
        }
    }

    #[test]
    fn a_request_without_a_key_watches_from_the_lowest() {
        use pb::watch_request::RequestUnion;
        let create = pb::WatchCreateRequest { filters: vec![1, 7], ..Default::default() };
        let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let Some(WatchRequest::Create(create)) = decode_watch(request) else { panic!("a create request") };
        assert_eq!((&create.key[..], create.no_put, create.no_delete), (&[0][..], false, true));
        assert_eq!(decode_watch(pb::WatchRequest { request_union: None }), None);
    }
}
