//! Why a request is refused. The texts are etcd's, without its `etcdserver: ` prefix; codes belong to the wire.

use crate::auth::AuthError;

/// A refusal that every node reaches alike, from the request and the state at its place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The revision asked for, or compacted to, lies before the compact revision.
    #[error("mvcc: required revision has been compacted")]
    Compacted,
    /// The revision was not reached yet.
    #[error("mvcc: required revision is a future revision")]
    FutureRevision,
    /// An operation or a compare without a key.
    #[error("key is not provided")]
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a missing key; also an operation of a transaction that says nothing.
    #[error("key not found")]
    KeyNotFound,
    /// `ignore_value` together with a value.
    #[error("value is provided")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("lease is provided")]
    LeaseProvided,
    /// A put or a revoke names a lease that is not there; so does a grant of lease 0.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// A grant of an id that is in use.
    #[error("lease already exists")]
    LeaseExists,
    /// A time to live past [`crate::MAX_LEASE_TTL_SECONDS`].
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    /// There are [`crate::MAX_LEASES`] leases. etcd knows no such bound.
    #[error("too many leases")]
    TooManyLeases,
    /// A transaction past [`crate::Limits`], by operations or by depth.
    #[error("too many operations in txn request")]
    TooManyOps,
    /// One transaction would change one key twice.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// A sort order or target that does not exist.
    #[error("invalid sort option")]
    InvalidSortOption,
    /// A compare result or target that does not exist. etcd lets such a compare pass; nothing a client means is lost by
    /// refusing it.
    #[error("invalid compare in txn request")]
    InvalidCompare,
    /// A streamed range asked for a sort order.
    #[error("RangeStream does not support custom sort orders")]
    StreamSorted,
    /// A streamed range asked for revision bounds.
    #[error("RangeStream does not support revision filters")]
    StreamFiltered,
    /// The alarm of a full store stands: deletes, compaction and reads go on.
    #[error("mvcc: database space exceeded")]
    NoSpace,
    /// The alarm of a member that went astray stands.
    #[error("corrupt cluster")]
    Corrupt,
    /// Access control refuses.
    #[error(transparent)]
    Auth(#[from] AuthError),
}
