//! Keys that stand in line under a prefix, one a lease: what locks and elections are made of.
//!
//! Who has the lowest create revision under the prefix holds it. A claim lives as long as its lease; a caller that goes
//! away while it waits takes its claim back. Everything is done by calls of KV, Watch and Lease with the caller's own
//! token, so nobody gets a right by way of a lock.
//!
//! The create revision of a claim is its fencing token: it only rises from one holder to the next. Holding a claim says
//! nothing about the moment after the answer, because the lease may end at any time; whatever is guarded must compare
//! the token.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::etcdserverpb::response_op::Response as OpResponse;
use quorate_proto::etcdserverpb::watch_client::WatchClient;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::mvccpb::{Event, KeyValue};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status, Streaming};

use crate::inside::Inside;

/// Seconds of the lease that is made for a caller who names none, as etcd does.
const DEFAULT_TTL: i64 = 60;
/// A claim that is taken back by nobody goes with its lease; trying for longer than this is no use.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(5);

/// The services, as one caller may use them.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    inside: Inside,
    metadata: MetadataMap,
}

/// One key in line.
#[derive(Debug)]
pub(super) struct Claim {
    caller: Caller,
    prefix: Bytes,
    /// The key.
    pub(super) key: Bytes,
    /// Its create revision.
    pub(super) revision: i64,
    /// What the key lives by.
    pub(super) lease: i64,
    /// The header of the answer that made it.
    pub(super) header: Option<pb::ResponseHeader>,
    /// What stood under the key before, if the claim was there already.
    pub(super) found: Option<KeyValue>,
    /// Set once the claim is to outlive this value.
    kept: bool,
}

impl Caller {
    /// A caller with the credentials of a request.
    pub(super) fn new(inside: Inside, metadata: &MetadataMap) -> Caller {
        let mut credentials = MetadataMap::new();
        for name in ["token", "authorization"] {
            if let Some(value) = metadata.get(name) {
                credentials.insert(name, value.clone());
            }
        }
        Caller { inside, metadata: credentials }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request
    }

    /// Puts a key in line under `name`, or finds the one that is there by this lease. 0 makes a lease.
    pub(super) async fn claim(&self, name: &Bytes, lease: i64, value: Bytes) -> Result<Claim, Status> {
        let lease = if lease == 0 { self.grant().await? } else { lease };
        let prefix = Bytes::from([&name[..], b"/"].concat());
        let key = Bytes::from([&prefix[..], hex(lease).as_bytes()].concat());
        let answer = self
            .txn(pb::TxnRequest {
                compare: vec![created_at(&key, 0)],
                success: vec![put(&key, value, lease)],
                failure: vec![get(&key)],
            })
            .await?;
        let found = first_found(&answer);
        let revision = match &found {
            Some(found) => found.create_revision,
            None => answer.header.as_ref().map_or(0, |header| header.revision),
        };
        let caller = self.clone();
        Ok(Claim { caller, prefix, key, revision, lease, header: answer.header, found, kept: false })
    }

    async fn grant(&self) -> Result<i64, Status> {
        let request = self.request(pb::LeaseGrantRequest { ttl: DEFAULT_TTL, id: 0 });
        let granted = LeaseClient::new(self.inside.clone()).lease_grant(request).await.map_err(as_etcd)?;
        Ok(granted.into_inner().id)
    }

    /// A transaction.
    pub(super) async fn txn(&self, txn: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        let answer = KvClient::new(self.inside.clone()).txn(self.request(txn)).await;
        Ok(answer.map_err(as_etcd)?.into_inner())
    }

    /// A deletion of one key.
    pub(super) async fn delete(&self, key: Bytes) -> Result<pb::DeleteRangeResponse, Status> {
        let request = self.request(pb::DeleteRangeRequest { key, ..pb::DeleteRangeRequest::default() });
        Ok(KvClient::new(self.inside.clone()).delete_range(request).await.map_err(as_etcd)?.into_inner())
    }

    /// A linearizable read.
    pub(super) async fn range(&self, range: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        Ok(KvClient::new(self.inside.clone()).range(self.request(range)).await.map_err(as_etcd)?.into_inner())
    }

    /// Who is first in line under `name`.
    pub(super) async fn first(&self, name: &Bytes) -> Result<pb::RangeResponse, Status> {
        let prefix = Bytes::from([&name[..], b"/"].concat());
        self.range(pb::RangeRequest {
            limit: 1,
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            range_end: end_of(&prefix),
            key: prefix,
            ..pb::RangeRequest::default()
        })
        .await
    }

    /// Changes from `start_revision` on, of one key or of all under a prefix.
    pub(super) async fn watch(&self, key: Bytes, range_end: Bytes, start_revision: i64) -> Result<Changes, Status> {
        let create = pb::WatchCreateRequest { key, range_end, start_revision, ..pb::WatchCreateRequest::default() };
        let (requests, receiver) = mpsc::channel(1);
        let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.try_send(create).expect("the channel is empty");
        let request = self.request(ReceiverStream::new(receiver));
        let answers = WatchClient::new(self.inside.clone()).watch(request).await.map_err(as_etcd)?.into_inner();
        Ok(Changes { answers, _open: requests })
    }
}

impl Claim {
    /// Waits until everybody who came earlier has gone, and makes sure that the claim itself still stands. Gives the header
    /// of the read that saw it; `None` if the lease has ended meanwhile.
    pub(super) async fn wait(&self) -> Result<Option<pb::ResponseHeader>, Status> {
        while let Some((ahead, now)) = self.next_ahead().await? {
            let mut changes = self.caller.watch(ahead.key, Bytes::new(), now + 1).await?;
            // A watch that is cancelled, by a compaction for example, has to look again like one that saw the end.
            while let Some((_, events)) = changes.next().await? {
                if events.iter().any(|event| event.r#type() == quorate_proto::mvccpb::event::EventType::Delete) {
                    break;
                }
            }
        }
        let own = pb::RangeRequest { key: self.key.clone(), ..pb::RangeRequest::default() };
        let own = self.caller.range(own).await?;
        let stands = own.kvs.first().is_some_and(|kv| kv.create_revision == self.revision);
        Ok(if stands { own.header } else { None })
    }

    /// Who stands right before this claim, and the revision at which that was so.
    async fn next_ahead(&self) -> Result<Option<(KeyValue, i64)>, Status> {
        let ahead = self
            .caller
            .range(pb::RangeRequest {
                key: self.prefix.clone(),
                range_end: end_of(&self.prefix),
                limit: 1,
                sort_order: SortOrder::Descend.into(),
                sort_target: SortTarget::Create.into(),
                max_create_revision: self.revision - 1,
                ..pb::RangeRequest::default()
            })
            .await?;
        let revision = ahead.header.map_or(0, |header| header.revision);
        Ok(ahead.kvs.into_iter().next().map(|kv| (kv, revision)))
    }

    /// The caller has the claim now: it stays until it is deleted or its lease ends.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // A claim that was there before this call is not this call's to take back.
        if self.kept || self.found.is_some() {
            return;
        }
        let (caller, key, revision) = (self.caller.clone(), self.key.clone(), self.revision);
        tokio::spawn(async move {
            let withdrawal = pb::TxnRequest {
                compare: vec![created_at(&key, revision)],
                success: vec![delete(&key)],
                failure: Vec::new(),
            };
            // What is not taken back goes with its lease.
            let _ = tokio::time::timeout(WITHDRAW_TIMEOUT, caller.txn(withdrawal)).await;
        });
    }
}

/// A watch under way.
#[derive(Debug)]
pub(super) struct Changes {
    answers: Streaming<pb::WatchResponse>,
    /// The watch lives as long as its stream of requests.
    _open: mpsc::Sender<pb::WatchRequest>,
}

impl Changes {
    /// The next events; `None` once the watch was cancelled.
    pub(super) async fn next(&mut self) -> Result<Option<(Option<pb::ResponseHeader>, Vec<Event>)>, Status> {
        loop {
            match self.answers.message().await.map_err(as_etcd)? {
                None => return Ok(None),
                Some(answer) if answer.canceled && !answer.cancel_reason.is_empty() => {
                    return Err(Status::unknown(answer.cancel_reason));
                }
                Some(answer) if answer.canceled => return Ok(None),
                Some(answer) if answer.events.is_empty() => {}
                Some(answer) => return Ok(Some((answer.header, answer.events))),
            }
        }
    }
}

/// As Go writes it, with a sign: other implementations of locks compute the same key.
fn hex(lease: i64) -> String {
    format!("{}{:x}", if lease < 0 { "-" } else { "" }, lease.unsigned_abs())
}

/// `key` was created at `revision`; 0 = it is not there.
pub(super) fn created_at(key: &Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

/// A put that lives by `lease`.
pub(super) fn put(key: &Bytes, value: Bytes, lease: i64) -> pb::RequestOp {
    let put = pb::PutRequest { key: key.clone(), value, lease, ..pb::PutRequest::default() };
    pb::RequestOp { request: Some(Op::RequestPut(put)) }
}

/// A deletion.
pub(super) fn delete(key: &Bytes) -> pb::RequestOp {
    let delete = pb::DeleteRangeRequest { key: key.clone(), ..pb::DeleteRangeRequest::default() };
    pb::RequestOp { request: Some(Op::RequestDeleteRange(delete)) }
}

fn get(key: &Bytes) -> pb::RequestOp {
    let get = pb::RangeRequest { key: key.clone(), ..pb::RangeRequest::default() };
    pb::RequestOp { request: Some(Op::RequestRange(get)) }
}

fn first_found(answer: &pb::TxnResponse) -> Option<KeyValue> {
    match answer.responses.first()?.response.as_ref()? {
        OpResponse::ResponseRange(range) => range.kvs.first().cloned(),
        _ => None,
    }
}

/// The first key after all that begin with `prefix`, which ends in a slash.
pub(super) fn end_of(prefix: &Bytes) -> Bytes {
    let (last, rest) = prefix.split_last().expect("a prefix ends in a slash");
    Bytes::from([rest, &[last + 1]].concat())
}

/// etcd's lock and election services are clients themselves, and pass a refusal on as a text without its code. What a caller
/// may simply repeat keeps its code here.
fn as_etcd(status: Status) -> Status {
    match status.code() {
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unimplemented => status,
        _ => Status::unknown(status.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::hex;

    #[test]
    fn a_lease_is_written_as_go_does() {
        for (lease, text) in
            [(1, "1"), (i64::MAX, "7fffffffffffffff"), (-1, "-1"), (-255, "-ff"), (i64::MIN, "-8000000000000000")]
        {
            assert_eq!(hex(lease), text);
        }
    }
}
