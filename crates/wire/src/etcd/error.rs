//! etcd's errors: the gRPC code and the exact text of each, in one table.
//!
//! Clients tell errors apart by the whole text, so no letter of it may change.

use quorate_kv::{AuthError, KvError};

/// A gRPC status code, by its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum Code {
    /// The caller gave up.
    Canceled = 1,
    /// Nothing better fits.
    Unknown = 2,
    /// The request is wrong whatever the state.
    InvalidArgument = 3,
    /// Time ran out.
    DeadlineExceeded = 4,
    /// Something named does not exist.
    NotFound = 5,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A limit or quota is reached.
    ResourceExhausted = 8,
    /// The state does not allow it.
    FailedPrecondition = 9,
    /// A number is outside what exists.
    OutOfRange = 11,
    /// Not offered.
    Unimplemented = 12,
    /// A retry may succeed.
    Unavailable = 14,
    /// State is damaged.
    DataLoss = 15,
    /// The caller is not known.
    Unauthenticated = 16,
}

impl Code {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }
}

macro_rules! etcd_errors {
    ($($code:ident { $($name:ident $text:literal)+ })+) => {
        /// Every error of etcd's client API; the texts say what each means.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
        pub enum EtcdError {
            $($(#[doc = concat!("`", $text, "`")] #[error($text)] $name,)+)+
        }

        impl EtcdError {
            /// All of them, by code.
            pub const ALL: &[EtcdError] = &[$($(EtcdError::$name,)+)+];

            /// The status code.
            #[must_use]
            pub const fn code(self) -> Code {
                match self {
                    $($(EtcdError::$name)|+ => Code::$code,)+
                }
            }

            /// The exact text.
            #[must_use]
            pub const fn message(self) -> &'static str {
                match self {
                    $($(EtcdError::$name => $text,)+)+
                }
            }
        }
    };
}

etcd_errors! {
    InvalidArgument {
        EmptyKey "etcdserver: key is not provided"
        KeyNotFound "etcdserver: key not found"
        ValueProvided "etcdserver: value is provided"
        LeaseProvided "etcdserver: lease is provided"
        TooManyOps "etcdserver: too many operations in txn request"
        DuplicateKey "etcdserver: duplicate key given in txn request"
        InvalidCompare "etcdserver: invalid compare in txn request"
        InvalidClientApiVersion "etcdserver: invalid client api version"
        InvalidSortOption "etcdserver: invalid sort option"
        MemberBadUrls "etcdserver: given member URLs are invalid"
        RequestTooLarge "etcdserver: request is too large"
        UserEmpty "etcdserver: user name is empty"
        RoleEmpty "etcdserver: role name is empty"
        AuthFailed "etcdserver: authentication failed, invalid user ID or password"
        PermissionNotGiven "etcdserver: permission not given"
        InvalidAuthManagement "etcdserver: invalid auth management"
        AuthOldRevision "etcdserver: revision of auth store is old"
        WrongDowngradeVersionFormat "etcdserver: wrong downgrade target version format"
        InvalidDowngradeTargetVersion "etcdserver: invalid downgrade target version"
    }
    OutOfRange {
        Compacted "etcdserver: mvcc: required revision has been compacted"
        FutureRevision "etcdserver: mvcc: required revision is a future revision"
        LeaseTtlTooLarge "etcdserver: too large lease TTL"
    }
    ResourceExhausted {
        NoSpace "etcdserver: mvcc: database space exceeded"
        TooManyRequests "etcdserver: too many requests"
        TooManyLeases "etcdserver: too many leases"
    }
    NotFound {
        LeaseNotFound "etcdserver: requested lease not found"
        MemberNotFound "etcdserver: member not found"
    }
    FailedPrecondition {
        LeaseExists "etcdserver: lease already exists"
        MemberExists "etcdserver: member ID already exist"
        PeerUrlExists "etcdserver: Peer URLs already exists"
        MemberNotEnoughStarted "etcdserver: re-configuration failed due to not enough started members"
        MemberNotLearner "etcdserver: can only promote a learner member"
        LearnerNotReady "etcdserver: can only promote a learner member which is in sync with leader"
        TooManyLearners "etcdserver: too many learner members in cluster"
        ClusterIdMismatch "etcdserver: cluster ID mismatch"
        RootUserNotExist "etcdserver: root user does not exist"
        RootRoleNotExist "etcdserver: root user does not have root role"
        UserAlreadyExists "etcdserver: user name already exists"
        UserNotFound "etcdserver: user name not found"
        RoleAlreadyExists "etcdserver: role name already exists"
        RoleNotFound "etcdserver: role name not found"
        RoleNotGranted "etcdserver: role is not granted to the user"
        PermissionNotGranted "etcdserver: permission is not granted to the role"
        AuthNotEnabled "etcdserver: authentication is not enabled"
        NotLeader "etcdserver: not leader"
        NotCapable "etcdserver: not capable"
        NotSupportedForLearner "etcdserver: rpc not supported for learner"
        BadLeaderTransferee "etcdserver: bad leader transferee"
        ClusterVersionUnavailable "etcdserver: cluster version not found during downgrade"
        DowngradeInProgress "etcdserver: cluster has a downgrade job in progress"
        NoInflightDowngrade "etcdserver: no inflight downgrade job"
    }
    PermissionDenied {
        PermissionDenied "etcdserver: permission denied"
    }
    Unauthenticated {
        InvalidAuthToken "etcdserver: invalid auth token"
    }
    Unavailable {
        NoLeader "etcdserver: no leader"
        LeaderChanged "etcdserver: leader changed"
        Stopped "etcdserver: server stopped"
        Timeout "etcdserver: request timed out"
        TimeoutDueToLeaderFail "etcdserver: request timed out, possibly due to previous leader failure"
        TimeoutDueToConnectionLost "etcdserver: request timed out, possibly due to connection lost"
        TimeoutWaitAppliedIndex "etcdserver: request timed out, waiting for the applied index took too long"
        Unhealthy "etcdserver: unhealthy cluster"
    }
    DataLoss {
        Corrupt "etcdserver: corrupt cluster"
    }
    Canceled {
        WatchCanceled "etcdserver: watch canceled"
        RequestCanceled "etcdserver: request canceled"
    }
    DeadlineExceeded {
        DeadlineExceeded "etcdserver: context deadline exceeded"
    }
    Unimplemented {
        StreamSorted "RangeStream does not support custom sort orders"
        StreamFiltered "RangeStream does not support revision filters"
    }
}

impl EtcdError {
    /// The error with this exact text, as a client finds out what it was told.
    #[must_use]
    pub fn from_message(message: &str) -> Option<EtcdError> {
        Self::ALL.iter().copied().find(|error| error.message() == message)
    }
}

impl From<KvError> for EtcdError {
    fn from(error: KvError) -> EtcdError {
        match error {
            KvError::Compacted => EtcdError::Compacted,
            KvError::FutureRevision => EtcdError::FutureRevision,
            KvError::EmptyKey => EtcdError::EmptyKey,
            KvError::KeyNotFound => EtcdError::KeyNotFound,
            KvError::ValueProvided => EtcdError::ValueProvided,
            KvError::LeaseProvided => EtcdError::LeaseProvided,
            KvError::LeaseNotFound => EtcdError::LeaseNotFound,
            KvError::LeaseExists => EtcdError::LeaseExists,
            KvError::LeaseTtlTooLarge => EtcdError::LeaseTtlTooLarge,
            KvError::TooManyLeases => EtcdError::TooManyLeases,
            KvError::TooManyOps => EtcdError::TooManyOps,
            KvError::DuplicateKey => EtcdError::DuplicateKey,
            KvError::InvalidSortOption => EtcdError::InvalidSortOption,
            KvError::InvalidCompare => EtcdError::InvalidCompare,
            KvError::StreamSorted => EtcdError::StreamSorted,
            KvError::StreamFiltered => EtcdError::StreamFiltered,
            KvError::NoSpace => EtcdError::NoSpace,
            KvError::Corrupt => EtcdError::Corrupt,
            KvError::Auth(error) => error.into(),
        }
    }
}

impl From<AuthError> for EtcdError {
    fn from(error: AuthError) -> EtcdError {
        match error {
            AuthError::UserEmpty => EtcdError::UserEmpty,
            AuthError::RoleEmpty => EtcdError::RoleEmpty,
            AuthError::PermissionDenied => EtcdError::PermissionDenied,
            AuthError::OldRevision => EtcdError::AuthOldRevision,
            AuthError::Failed => EtcdError::AuthFailed,
            AuthError::RootUserNotExist => EtcdError::RootUserNotExist,
            AuthError::RootRoleNotExist => EtcdError::RootRoleNotExist,
            AuthError::UserExists => EtcdError::UserAlreadyExists,
            AuthError::UserNotFound => EtcdError::UserNotFound,
            AuthError::RoleExists => EtcdError::RoleAlreadyExists,
            AuthError::RoleNotFound => EtcdError::RoleNotFound,
            AuthError::RoleNotGranted => EtcdError::RoleNotGranted,
            AuthError::PermissionNotGranted => EtcdError::PermissionNotGranted,
            AuthError::PermissionNotGiven => EtcdError::PermissionNotGiven,
            AuthError::InvalidManagement => EtcdError::InvalidAuthManagement,
            AuthError::NotEnabled => EtcdError::AuthNotEnabled,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Written out apart from the table above, code by number and text by text: what clients hold the server to.
    const WIRE: &[(i32, &[&str])] = &[
        (
            3,
            &[
                "key is not provided",
                "key not found",
                "value is provided",
                "lease is provided",
                "too many operations in txn request",
                "duplicate key given in txn request",
                "invalid client api version",
                "invalid sort option",
                "given member URLs are invalid",
                "request is too large",
                "user name is empty",
                "role name is empty",
                "authentication failed, invalid user ID or password",
                "permission not given",
                "invalid auth management",
                "revision of auth store is old",
                "wrong downgrade target version format",
                "invalid downgrade target version",
            ],
        ),
        (
            11,
            &[
                "mvcc: required revision has been compacted",
                "mvcc: required revision is a future revision",
                "too large lease TTL",
            ],
        ),
        (8, &["mvcc: database space exceeded", "too many requests"]),
        (5, &["requested lease not found", "member not found"]),
        (
            9,
            &[
                "lease already exists",
                "member ID already exist",
                "Peer URLs already exists",
                "re-configuration failed due to not enough started members",
                "can only promote a learner member",
                "can only promote a learner member which is in sync with leader",
                "too many learner members in cluster",
                "cluster ID mismatch",
                "root user does not exist",
                "root user does not have root role",
                "user name already exists",
                "user name not found",
                "role name already exists",
                "role name not found",
                "role is not granted to the user",
                "permission is not granted to the role",
                "authentication is not enabled",
                "not leader",
                "not capable",
                "rpc not supported for learner",
                "bad leader transferee",
                "cluster version not found during downgrade",
                "cluster has a downgrade job in progress",
                "no inflight downgrade job",
            ],
        ),
        (7, &["permission denied"]),
        (16, &["invalid auth token"]),
        (
            14,
            &[
                "no leader",
                "leader changed",
                "server stopped",
                "request timed out",
                "request timed out, possibly due to previous leader failure",
                "request timed out, possibly due to connection lost",
                "request timed out, waiting for the applied index took too long",
                "unhealthy cluster",
            ],
        ),
        (15, &["corrupt cluster"]),
        (1, &["watch canceled", "request canceled"]),
        (4, &["context deadline exceeded"]),
    ];

    /// The errors that etcd has without its prefix, or not at all.
    const APART: &[EtcdError] =
        &[EtcdError::StreamSorted, EtcdError::StreamFiltered, EtcdError::InvalidCompare, EtcdError::TooManyLeases];

    #[test]
    fn every_error_of_etcd_has_its_code_and_exact_text() {
        for (code, texts) in WIRE {
            for text in *texts {
                let message = format!("etcdserver: {text}");
                let error = EtcdError::from_message(&message).unwrap_or_else(|| panic!("nothing says {message:?}"));
                assert_eq!(error.code().number(), *code, "{message}");
                assert_eq!(error.to_string(), message);
            }
        }
    }

    #[test]
    fn no_error_is_there_that_etcd_does_not_have() {
        let known: BTreeSet<String> =
            WIRE.iter().flat_map(|(_, texts)| texts.iter().map(|text| format!("etcdserver: {text}"))).collect();
        for error in EtcdError::ALL.iter().filter(|error| !APART.contains(error)) {
            assert!(known.contains(error.message()), "{error:?}");
        }
        assert_eq!(known.len() + APART.len(), EtcdError::ALL.len());
    }

    #[test]
    fn refusals_of_streams_carry_no_prefix() {
        for error in [EtcdError::StreamSorted, EtcdError::StreamFiltered] {
            assert_eq!(error.code().number(), 12);
            assert!(error.message().starts_with("RangeStream does not support "));
        }
    }

    #[test]
    fn the_key_space_and_the_wire_say_the_same() {
        let errors = [
            KvError::Compacted,
            KvError::FutureRevision,
            KvError::EmptyKey,
            KvError::KeyNotFound,
            KvError::ValueProvided,
            KvError::LeaseProvided,
            KvError::LeaseNotFound,
            KvError::LeaseExists,
            KvError::LeaseTtlTooLarge,
            KvError::TooManyLeases,
            KvError::TooManyOps,
            KvError::DuplicateKey,
            KvError::InvalidSortOption,
            KvError::InvalidCompare,
            KvError::StreamSorted,
            KvError::StreamFiltered,
            KvError::NoSpace,
            KvError::Corrupt,
        ];
        for error in errors.into_iter().chain(AuthError::ALL.map(KvError::Auth)) {
            let message = EtcdError::from(error).message();
            assert_eq!(message.strip_prefix("etcdserver: ").unwrap_or(message), error.to_string());
        }
    }
}
