//! Differences that are meant. Each has a line in docs/etcd-compatibility.md.

use quorate_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use tonic::Code;

use super::{Action, Answer};

/// Why the answers may differ; `None` if they may not.
pub(super) fn reason(action: &Action, etcd: &Answer, quorate: &Answer) -> Option<&'static str> {
    if etcd.code() == Some(Code::InvalidArgument) && quorate.code() == Some(Code::InvalidArgument) {
        return Some("a request with several mistakes may be told any of them");
    }
    match action {
        Action::RangeStream(range)
            if range.sort_order() == SortOrder::None && range.sort_target() != SortTarget::Key =>
        {
            Some("etcd sorts each chunk of a stream by itself and so loses keys; Quorate streams in key order")
        }
        _ => None,
    }
}
