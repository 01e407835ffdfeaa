//! Why access control refuses. The texts are etcd's, without its `etcdserver: ` prefix.

/// A refusal that every node reaches alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum AuthError {
    /// A caller without a name, or a user without one.
    #[error("user name is empty")]
    UserEmpty,
    /// A role without a name.
    #[error("role name is empty")]
    RoleEmpty,
    /// The caller has not the right.
    #[error("permission denied")]
    PermissionDenied,
    /// Users, roles or rights changed between the check and its use: ask again.
    #[error("revision of auth store is old")]
    OldRevision,
    /// Wrong name or password; which of the two is not said.
    #[error("authentication failed, invalid user ID or password")]
    Failed,
    /// The switch needs the user `root`.
    #[error("root user does not exist")]
    RootUserNotExist,
    /// The switch needs the user `root` to have the role `root`.
    #[error("root user does not have root role")]
    RootRoleNotExist,
    /// A second user of one name.
    #[error("user name already exists")]
    UserExists,
    /// No such user.
    #[error("user name not found")]
    UserNotFound,
    /// A second role of one name.
    #[error("role name already exists")]
    RoleExists,
    /// No such role.
    #[error("role name not found")]
    RoleNotFound,
    /// The user has not the role that is taken away.
    #[error("role is not granted to the user")]
    RoleNotGranted,
    /// The role has not the permission that is taken away.
    #[error("permission is not granted to the role")]
    PermissionNotGranted,
    /// A grant of nothing.
    #[error("permission not given")]
    PermissionNotGiven,
    /// What would leave nobody in charge, or a permission on no key.
    #[error("invalid auth management")]
    InvalidManagement,
    /// A login while the switch is off.
    #[error("authentication is not enabled")]
    NotEnabled,
}

impl AuthError {
    /// All of them.
    pub const ALL: [AuthError; 16] = [
        AuthError::UserEmpty,
        AuthError::RoleEmpty,
        AuthError::PermissionDenied,
        AuthError::OldRevision,
        AuthError::Failed,
        AuthError::RootUserNotExist,
        AuthError::RootRoleNotExist,
        AuthError::UserExists,
        AuthError::UserNotFound,
        AuthError::RoleExists,
        AuthError::RoleNotFound,
        AuthError::RoleNotGranted,
        AuthError::PermissionNotGranted,
        AuthError::PermissionNotGiven,
        AuthError::InvalidManagement,
        AuthError::NotEnabled,
    ];
}
