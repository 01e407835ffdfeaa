//! What the key space answers.

use bytes::Bytes;

use crate::alarm::Alarm;
use crate::auth::AuthResponse;
use crate::error::KvError;
use crate::record::{KeyValue, Record};
use crate::revision::{RecordKey, Revision};

/// Everything one applied command brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The answer. A refusal changed nothing.
    pub result: Result<Response, KvError>,
    /// Revision of the store after the command.
    pub revision: Revision,
    /// Changes in order, all of one revision: what watchers are told.
    pub changes: Vec<Change>,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where its record is.
    pub at: RecordKey,
    /// The record itself.
    pub record: Record,
}

impl Change {
    /// The key changed.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        &self.record.key
    }
}

/// Answer to a [`crate::Command`], variant by variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To `Put`.
    Put(PutResponse),
    /// To `DeleteRange`.
    DeleteRange(DeleteRangeResponse),
    /// To `Txn`.
    Txn(TxnResponse),
    /// To `Compact`.
    Compact,
    /// To `Clock`.
    Clock,
    /// To `Auth`.
    Auth(AuthResponse),
    /// To `Alarm`: the alarm raised, also if it was before, or cleared; none if there was none to clear.
    Alarm(Vec<Alarm>),
    /// To `LeaseGrant`.
    LeaseGrant(LeaseGrantResponse),
    /// To `LeaseRevoke`.
    LeaseRevoke,
    /// To `LeaseRenew`.
    LeaseRenew {
        /// Time to live of each lease, in the order asked for; 0 = there is none.
        ttls_seconds: Vec<i64>,
    },
    /// To `LeaseExpire`.
    LeaseExpire {
        /// The lease ended here; else the expiry was void.
        expired: bool,
    },
    /// To a `Put`, `DeleteRange` or `Txn` that was done, and of whose answer there is more than an [`crate::AnswerRoom`] has
    /// room for.
    Withheld,
}

impl Response {
    /// Memory that the records in it take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Response::Put(put) => put.bytes(),
            Response::DeleteRange(delete) => delete.bytes(),
            Response::Txn(txn) => txn.bytes(),
            _ => 0,
        }
    }
}

/// Result of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeResponse {
    /// The keys, in the order asked for.
    pub kvs: Vec<KeyValue>,
    /// The limit cut the result.
    pub more: bool,
    /// Keys in the interval, whatever limit and bounds.
    pub count: i64,
    /// Current revision of the store when the range was read, for the header; never the revision asked for.
    pub revision: Revision,
}

/// Result of a put.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutResponse {
    /// The version replaced, if asked for and there was one.
    pub prev_kv: Option<KeyValue>,
}

impl PutResponse {
    fn bytes(&self) -> usize {
        bytes_of(self.prev_kv.as_slice())
    }
}

/// Result of a deletion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeleteRangeResponse {
    /// Keys deleted.
    pub deleted: i64,
    /// What they held, if asked for, in key order.
    pub prev_kvs: Vec<KeyValue>,
}

impl DeleteRangeResponse {
    fn bytes(&self) -> usize {
        bytes_of(&self.prev_kvs)
    }
}

/// Result of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnResponse {
    /// Every compare held.
    pub succeeded: bool,
    /// One answer for each operation of the branch taken.
    pub responses: Vec<ResponseOp>,
}

impl TxnResponse {
    fn bytes(&self) -> usize {
        let answers = self.responses.iter().map(|op| match &op.body {
            ResponseBody::Range(range) => bytes_of(&range.kvs),
            ResponseBody::Put(put) => put.bytes(),
            ResponseBody::DeleteRange(delete) => delete.bytes(),
            ResponseBody::Txn(nested) => nested.bytes(),
        });
        answers.sum()
    }
}

fn bytes_of(kvs: &[KeyValue]) -> usize {
    kvs.iter().map(KeyValue::answer_bytes).sum()
}

/// A lease that was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeaseGrantResponse {
    /// Its id.
    pub id: i64,
    /// Its time to live.
    pub ttl_seconds: i64,
}

/// Answer to one operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseOp {
    /// Revision for the nested header: what the operation saw, or made. etcd leaves it 0 in a nested transaction.
    pub revision: i64,
    /// The answer itself.
    pub body: ResponseBody,
}

/// The kinds of nested answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseBody {
    /// To a range.
    Range(RangeResponse),
    /// To a put.
    Put(PutResponse),
    /// To a deletion.
    DeleteRange(DeleteRangeResponse),
    /// To a nested transaction.
    Txn(TxnResponse),
}
