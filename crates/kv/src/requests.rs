//! What clients ask of the key space, decoded.

use bytes::Bytes;

use crate::alarm::AlarmCommand;
use crate::auth::AuthCommand;
use crate::clock::ClusterTime;
use crate::lease::DueLease;

/// A write, as the log carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Sets one key.
    Put(PutRequest),
    /// Deletes the keys of an interval.
    DeleteRange(DeleteRangeRequest),
    /// Compares, then does one of two lists of operations in one revision.
    Txn(TxnRequest),
    /// Forgets history.
    Compact(CompactRequest),
    /// Sets the cluster clock forward; what would set it back changes nothing. Leaders write it, no client does.
    Clock(ClusterTime),
    /// Changes users, roles or the switch.
    Auth(AuthCommand),
    /// Raises or clears an alarm.
    Alarm(AlarmCommand),
    /// Makes a lease.
    LeaseGrant(LeaseGrantRequest),
    /// Ends a lease and deletes the keys attached to it.
    LeaseRevoke {
        /// Which.
        id: i64,
    },
    /// Gives leases their whole time again. Many keepalives share one.
    LeaseRenew {
        /// Which; one may come twice.
        ids: Vec<i64>,
    },
    /// Ends a lease whose deadline has come, as a revoke does; void if it was renewed since. Leaders write it, no client
    /// does.
    LeaseExpire(DueLease),
}

/// Order of a range's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortOrder {
    /// Key order; ascending by the target if that is not the key.
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// What a range's result is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortTarget {
    /// The key's bytes.
    #[default]
    Key,
    /// Version.
    Version,
    /// Create revision.
    Create,
    /// Mod revision.
    Mod,
    /// The value's bytes.
    Value,
}

/// Reads the keys of an interval at one revision.
///
/// `range_end` is empty for the one key `key`, and `"\0"` for every key from `key` on; so it is in all requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeRequest {
    /// First key.
    pub key: Bytes,
    /// End of the interval, exclusive.
    pub range_end: Bytes,
    /// Most keys to return; 0 or less = all.
    pub limit: i64,
    /// Revision to read at; 0 or less = the current one (in a transaction only 0).
    pub revision: i64,
    /// See [`SortOrder`].
    pub sort_order: SortOrder,
    /// See [`SortTarget`].
    pub sort_target: SortTarget,
    /// The contacted node may answer from its own state.
    pub serializable: bool,
    /// Leave the values out.
    pub keys_only: bool,
    /// Return only the count.
    pub count_only: bool,
    /// Smallest mod revision returned; 0 = any. The four bounds are inclusive.
    pub min_mod_revision: i64,
    /// Largest mod revision returned; 0 = any.
    pub max_mod_revision: i64,
    /// Smallest create revision returned; 0 = any.
    pub min_create_revision: i64,
    /// Largest create revision returned; 0 = any.
    pub max_create_revision: i64,
}

/// Sets one key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutRequest {
    /// Never empty in a valid request.
    pub key: Bytes,
    /// New value.
    pub value: Bytes,
    /// Lease to attach; 0 detaches.
    pub lease: i64,
    /// Return the version replaced.
    pub prev_kv: bool,
    /// Keep the present value.
    pub ignore_value: bool,
    /// Keep the present lease.
    pub ignore_lease: bool,
}

/// Deletes the keys of an interval.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeleteRangeRequest {
    /// First key.
    pub key: Bytes,
    /// End of the interval, as in [`RangeRequest`].
    pub range_end: Bytes,
    /// Return what was deleted.
    pub prev_kv: bool,
}

/// Compares against the state before the transaction, then one branch in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TxnRequest {
    /// All must hold for `success`; none at all holds, too.
    pub compare: Vec<Compare>,
    /// Done if every compare holds.
    pub success: Vec<RequestOp>,
    /// Done otherwise.
    pub failure: Vec<RequestOp>,
}

impl TxnRequest {
    /// True if neither branch holds anything but ranges: it is then served as a read. A nested transaction counts as a
    /// write whatever it holds, as in etcd.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.operations().all(|op| matches!(op, RequestOp::Range(_)))
    }

    /// True if every operation is a serializable range, so that the contacted node may answer alone.
    #[must_use]
    pub fn is_serializable(&self) -> bool {
        self.operations().all(|op| matches!(op, RequestOp::Range(range) if range.serializable))
    }

    fn operations(&self) -> impl Iterator<Item = &RequestOp> {
        self.success.iter().chain(&self.failure)
    }
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestOp {
    /// Read.
    Range(RangeRequest),
    /// Write.
    Put(PutRequest),
    /// Delete.
    DeleteRange(DeleteRangeRequest),
    /// A transaction within.
    Txn(TxnRequest),
}

/// How a key's field must stand to the operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CompareResult {
    /// `==`
    #[default]
    Equal,
    /// `>`
    Greater,
    /// `<`
    Less,
    /// `!=`
    NotEqual,
}

/// The field compared, with the operand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompareTarget {
    /// Version; 0 = the key does not exist.
    Version(i64),
    /// Create revision; 0 = the key does not exist.
    Create(i64),
    /// Mod revision; 0 = the key does not exist.
    Mod(i64),
    /// Value. False for a missing key, whatever the result asked for.
    Value(Bytes),
    /// Lease.
    Lease(i64),
}

/// One condition; with an interval, every key of it must satisfy it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// First key.
    pub key: Bytes,
    /// End of the interval, as in [`RangeRequest`].
    pub range_end: Bytes,
    /// Left and right side.
    pub target: CompareTarget,
    /// The relation.
    pub result: CompareResult,
}

/// Forgets the versions that no read at `revision` or later needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompactRequest {
    /// Oldest revision that stays readable.
    pub revision: i64,
    /// The answer waits until the records are gone from this node's storage.
    pub physical: bool,
}

/// Makes a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeaseGrantRequest {
    /// Its id, chosen by the client or the node that took the request; never 0.
    pub id: i64,
    /// Its time to live; what is less than 1 is 1.
    pub ttl_seconds: i64,
}
