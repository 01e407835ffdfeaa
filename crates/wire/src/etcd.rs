//! Conversions between the key space's requests and answers and those of etcd's client API, and etcd's error table.
//!
//! Keys and values are shared, not copied, both ways. What etcd refuses because of a field's number alone (a sort order
//! that does not exist, an operation that says nothing) is refused here; everything else is for `quorate_kv::validate`
//! to judge.

mod error;
mod frames;
mod request;
mod response;
mod watch;

pub use error::{Code, EtcdError};
pub use frames::{Frame, FrameTooLarge, range_frame, stream_frame};
pub use request::{decode_compaction, decode_delete_range, decode_put, decode_range, decode_txn};
pub use request::{encode_compaction, encode_delete_range, encode_put, encode_range, encode_txn};
pub use response::{
    Header, compaction_response, delete_range_response, key_value, put_response, range_response, txn_response,
};
pub use watch::{
    WATCH_HEAD_BYTES, WatchCreate, WatchRequest, decode_events, decode_watch, encode_event, encode_watch_events,
    encode_watch_head,
};
