//! Changes of users, roles and the switch, as the log carries them.

use bytes::Bytes;

use super::{PasswordHash, Permission};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthCommand {
    /// Turns the switch on.
    Enable,
    /// Turns it off.
    Disable,
    /// Makes a user; without a password, none lets it in.
    UserAdd {
        /// Its name.
        name: String,
        /// Hashed by the node that took the request.
        password: Option<PasswordHash>,
    },
    /// Takes a user away.
    UserDelete {
        /// Its name.
        name: String,
    },
    /// Gives a user another password. One made without keeps none.
    UserChangePassword {
        /// Its name.
        name: String,
        /// Hashed by the node that took the request.
        password: PasswordHash,
    },
    /// Gives a user a role.
    UserGrantRole {
        /// The user.
        user: String,
        /// The role.
        role: String,
    },
    /// Takes a role from a user.
    UserRevokeRole {
        /// The user.
        user: String,
        /// The role.
        role: String,
    },
    /// Makes a role that allows nothing.
    RoleAdd {
        /// Its name.
        name: String,
    },
    /// Takes a role away, also from its users.
    RoleDelete {
        /// Its name.
        name: String,
    },
    /// Adds a permission to a role, or changes the one on the same interval.
    RoleGrantPermission {
        /// The role.
        role: String,
        /// The permission.
        permission: Permission,
    },
    /// Takes a permission from a role.
    RoleRevokePermission {
        /// The role.
        role: String,
        /// Its first key.
        key: Bytes,
        /// Its range end, as it was granted.
        range_end: Bytes,
    },
    /// Somebody showed the password of a user. Changes nothing here: every node learns of the token, if the password is
    /// still the one that was shown.
    Login {
        /// The user.
        user: String,
        /// [`super::User::password_revision`] of the password that was shown.
        password_revision: u64,
        /// A hash of the token, by which nodes know it again: the log must not let its reader in.
        token: Bytes,
    },
}

/// What a change came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthResponse {
    /// It is done, or was the state already.
    Done,
    /// To `Login`: the token is good for this user.
    LoggedIn {
        /// The user.
        user: String,
        /// As in the command, like the next.
        password_revision: u64,
        /// The token's hash.
        token: Bytes,
    },
}
