//! Users, roles and the rights they give: etcd's access control as replicated state.
//!
//! Owns [`AuthState`], which is a function of the log like everything here, and the one set of rules that says what a
//! caller may do with it ([`check`](self)). Passwords come here as hashes made elsewhere: hashing is slow, and its salt is
//! random.
//!
//! Invariants, checked by [`AuthState::check_invariants`]:
//! 1. every role of a user exists, `root` apart, which needs no record to be granted;
//! 2. the rights of a user are those of its roles, merged, at every moment;
//! 3. while the switch is on, the user `root` exists and has the role `root`;
//! 4. the revision rises with every change that can take a right away or give one.

mod apply;
mod check;
mod command;
mod error;
mod grants;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;

pub use check::{Actor, AttachedKeys, Caller, NoLeases};
pub use command::{AuthCommand, AuthResponse};
pub use error::AuthError;
pub use grants::{Permission, PermissionKind, Right};

use grants::Grants;

/// The user and the role that may do everything.
pub const ROOT: &str = "root";

/// A password as it is stored: never the password, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(pub Bytes);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

/// One user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// `None`: no password lets this user in.
    pub password: Option<PasswordHash>,
    /// The auth revision at which the user was made or got this password. A login made before it is void.
    pub password_revision: u64,
    /// Names, in order.
    pub roles: BTreeSet<String>,
}

/// One role: what it allows, by key and range end. `root` allows everything whatever it holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Role {
    permissions: BTreeMap<(Bytes, Bytes), PermissionKind>,
}

impl Role {
    /// Its permissions in key order.
    pub fn permissions(&self) -> impl Iterator<Item = Permission> {
        self.permissions.iter().map(|((key, range_end), kind)| Permission {
            kind: *kind,
            key: key.clone(),
            range_end: range_end.clone(),
        })
    }
}

/// All of it: see the module's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthState {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Role>,
    /// The rights of each user, merged: asked for with every request, made anew with every change.
    grants: BTreeMap<String, Grants>,
}

impl Default for AuthState {
    fn default() -> Self {
        AuthState {
            enabled: false,
            revision: FIRST_REVISION,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            grants: BTreeMap::new(),
        }
    }
}

/// etcd counts from 1; 0 stands for "no user was named".
const FIRST_REVISION: u64 = 1;

impl AuthState {
    /// Whether rights are asked for at all.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Rises with every change of users, roles and rights.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The user of this name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// The role of this name.
    #[must_use]
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name)
    }

    /// The names of all users, in order.
    pub fn user_names(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// The names of all roles, in order.
    pub fn role_names(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// Whether `name` is a user who may do everything.
    #[must_use]
    pub fn is_root(&self, name: &str) -> bool {
        self.users.get(name).is_some_and(|user| user.roles.contains(ROOT))
    }

    /// Panics if an invariant is broken.
    pub fn check_invariants(&self) {
        assert!(self.revision >= FIRST_REVISION);
        for (name, user) in &self.users {
            let known = |role: &String| role == ROOT || self.roles.contains_key(role);
            assert!(user.roles.iter().all(known), "user {name} has a role that does not exist: {:?}", user.roles);
            assert!(user.password_revision <= self.revision, "the password of {name} is of a later revision");
        }
        assert!(!self.enabled || self.is_root(ROOT), "rights are asked for and nobody is root");
        assert_eq!(self.grants, self.all_grants(), "merged rights are not those of the roles");
    }

    fn all_grants(&self) -> BTreeMap<String, Grants> {
        self.users.iter().map(|(name, user)| (name.clone(), self.grants_of(user))).collect()
    }

    fn grants_of(&self, user: &User) -> Grants {
        Grants::merged(user.roles.iter().filter_map(|role| self.roles.get(role)).flat_map(Role::permissions))
    }
}
