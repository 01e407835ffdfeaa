//! The replicated key space: etcd's revisions, transactions, historical reads and compaction, as a function of the log.
//!
//! Owns [`KeySpace`], the in-memory key index with the revision counters. Holds no records itself: it reads and writes
//! them through [`ReadRecords`] and [`WriteRecords`], which the storage crate implements. Small state beside the records
//! is held whole and stored as rows of a [`Table`], in the same transaction.
//!
//! Never does IO, reads a clock, draws a random number or iterates a hash map: an outcome depends on the commands
//! applied so far alone, so every node that applied the same log gives the same answers and the same [`Digest`].

#[macro_use]
mod mutant;

mod alarm;
mod apply;
pub mod auth;
mod clock;
mod compact;
mod compare;
mod deleted;
mod digest;
mod error;
mod image;
mod index;
mod interval;
mod keyspace;
mod lease;
mod precheck;
mod range;
mod rationed;
mod read_txn;
mod record;
mod records;
mod requests;
mod responses;
mod revision;
mod room;
mod row;
mod stream;
pub mod testing;
mod validate;

pub use alarm::{Alarm, AlarmCommand, AlarmKind, Alarms, Raised, needs_space};
pub use auth::{Actor, AuthCommand, AuthError, AuthResponse, AuthState};
pub use clock::ClusterTime;
pub use compact::Pin;
pub use digest::Digest;
pub use error::KvError;
pub use image::{ImageError, IndexEncoder, IndexImage};
pub use keyspace::{KeySpace, KeySpaceMeta};
pub use lease::{DueLease, LeaseSummary, LeaseView, MAX_LEASE_TTL_SECONDS, MAX_LEASES};
pub use range::{RangePlan, Step};
pub use rationed::{RationedReadError, RationedReader};
pub use read_txn::{Overtaken, TxnPlan};
pub use record::{KeyValue, RECORD_OVERHEAD_BYTES, Record, RecordError};
pub use records::{ReadRecords, ReadRows, VisitRow, WriteRecords};
pub use requests::{
    Command, CompactRequest, Compare, CompareResult, CompareTarget, DeleteRangeRequest, LeaseGrantRequest, PutRequest,
    RangeRequest, RequestOp, SortOrder, SortTarget, TxnRequest,
};
pub use responses::{
    Change, DeleteRangeResponse, LeaseGrantResponse, Outcome, PutResponse, RangeResponse, Response, ResponseBody,
    ResponseOp, TxnResponse,
};
pub use revision::{RecordKey, Revision};
pub use room::AnswerRoom;
pub use row::{FieldError, Row, RowBytes, RowError, RowFields, Table};
pub use stream::{ChunkPlan, ChunkSize, RangeStream, StreamEnd};
pub use validate::{Limits, MAX_TXN_DEPTH, validate, validate_range, validate_stream, validate_txn};
