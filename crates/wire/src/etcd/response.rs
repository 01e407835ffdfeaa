//! Answers of the KV service.

use quorate_kv::{
    DeleteRangeResponse, KeyValue, PutResponse, RangeResponse, ResponseBody, ResponseOp, Revision, TxnResponse,
};
use quorate_proto::{etcdserverpb as pb, mvccpb};

/// What the answering node says of itself in every header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// etcd's 64 bits of the cluster's id.
    pub cluster_id: u64,
    /// The answering node.
    pub member_id: u64,
    /// Its term.
    pub raft_term: u64,
}

impl Header {
    /// The header of an answer at `revision`.
    #[must_use]
    pub fn at(self, revision: Revision) -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision: revision.0,
            raft_term: self.raft_term,
        }
    }
}

/// A key as clients see it.
#[must_use]
pub fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

/// Answer to a range; the header shows the current revision, not the one read at.
#[must_use]
pub fn range_response(header: Header, range: RangeResponse) -> pb::RangeResponse {
    let header = header.at(range.revision);
    range_body(Some(header), range)
}

/// Answer to a put; `revision` is the store's after it.
#[must_use]
pub fn put_response(header: Header, revision: Revision, put: PutResponse) -> pb::PutResponse {
    put_body(Some(header.at(revision)), put)
}

/// Answer to a deletion; `revision` is the store's after it.
#[must_use]
pub fn delete_range_response(
    header: Header,
    revision: Revision,
    delete: DeleteRangeResponse,
) -> pb::DeleteRangeResponse {
    delete_range_body(Some(header.at(revision)), delete)
}

/// Answer to a transaction; `revision` is the store's after it.
#[must_use]
pub fn txn_response(header: Header, revision: Revision, txn: TxnResponse) -> pb::TxnResponse {
    txn_body(Some(header.at(revision)), txn)
}

/// Answer to a compaction; `revision` is the store's.
#[must_use]
pub fn compaction_response(header: Header, revision: Revision) -> pb::CompactionResponse {
    pb::CompactionResponse { header: Some(header.at(revision)) }
}

fn key_values(kvs: Vec<KeyValue>) -> Vec<mvccpb::KeyValue> {
    kvs.into_iter().map(key_value).collect()
}

fn range_body(header: Option<pb::ResponseHeader>, range: RangeResponse) -> pb::RangeResponse {
    pb::RangeResponse { header, kvs: key_values(range.kvs), more: range.more, count: range.count }
}

fn put_body(header: Option<pb::ResponseHeader>, put: PutResponse) -> pb::PutResponse {
    pb::PutResponse { header, prev_kv: put.prev_kv.map(key_value) }
}

fn delete_range_body(header: Option<pb::ResponseHeader>, delete: DeleteRangeResponse) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse { header, deleted: delete.deleted, prev_kvs: key_values(delete.prev_kvs) }
}

fn txn_body(header: Option<pb::ResponseHeader>, txn: TxnResponse) -> pb::TxnResponse {
    let responses = txn.responses.into_iter().map(nested_response).collect();
    pb::TxnResponse { header, succeeded: txn.succeeded, responses }
}

/// Nested answers have a header with nothing but the revision in it.
fn nested_response(op: ResponseOp) -> pb::ResponseOp {
    use pb::response_op::Response;
    let header = Some(pb::ResponseHeader { revision: op.revision, ..Default::default() });
    let response = match op.body {
        ResponseBody::Range(range) => Response::ResponseRange(range_body(header, range)),
        ResponseBody::Put(put) => Response::ResponsePut(put_body(header, put)),
        ResponseBody::DeleteRange(delete) => Response::ResponseDeleteRange(delete_range_body(header, delete)),
        ResponseBody::Txn(txn) => Response::ResponseTxn(txn_body(header, txn)),
    };
    pb::ResponseOp { response: Some(response) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const HEADER: Header = Header { cluster_id: 1, member_id: 2, raft_term: 3 };

    fn kv() -> KeyValue {
        let value = Bytes::from(vec![b'v'; 64]);
        KeyValue { key: Bytes::from_static(b"k"), create_revision: 2, mod_revision: 3, version: 4, value, lease: 5 }
    }

    #[test]
    fn values_are_shared_not_copied() {
        let kv = kv();
        let sent = key_value(kv.clone());
        assert_eq!(sent.value.as_ptr(), kv.value.as_ptr());
        assert_eq!((sent.create_revision, sent.mod_revision, sent.version, sent.lease), (2, 3, 4, 5));
    }

    #[test]
    fn a_top_header_names_the_node_and_a_nested_one_only_the_revision() {
        let range = RangeResponse { kvs: vec![kv()], more: true, count: 9, revision: Revision(7) };
        let deleted = DeleteRangeResponse { deleted: 1, prev_kvs: vec![kv()] };
        let inner = TxnResponse { succeeded: false, responses: Vec::new() };
        let responses = vec![
            ResponseOp { revision: 7, body: ResponseBody::Range(range) },
            ResponseOp { revision: 8, body: ResponseBody::Put(PutResponse { prev_kv: Some(kv()) }) },
            ResponseOp { revision: 8, body: ResponseBody::DeleteRange(deleted) },
            ResponseOp { revision: 0, body: ResponseBody::Txn(inner) },
        ];
        let sent = txn_response(HEADER, Revision(8), TxnResponse { succeeded: true, responses });
        let top = pb::ResponseHeader { cluster_id: 1, member_id: 2, revision: 8, raft_term: 3 };
        assert_eq!(sent.header, Some(top));
        use pb::response_op::Response;
        let headers =
            sent.responses.iter().map(|op| match op.response.as_ref().expect("every answer says something") {
                Response::ResponseRange(range) => range.header,
                Response::ResponsePut(put) => put.header,
                Response::ResponseDeleteRange(delete) => delete.header,
                Response::ResponseTxn(txn) => txn.header,
            });
        let nested = |revision| Some(pb::ResponseHeader { revision, ..Default::default() });
        assert_eq!(headers.collect::<Vec<_>>(), [nested(7), nested(8), nested(8), nested(0)]);
    }
}
