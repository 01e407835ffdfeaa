//! What a caller may do: the one set of rules, asked when a request comes in and again when its entry is applied.
//!
//! A request is judged whole, transactions to their last nesting, in both branches: a branch that is not taken would still
//! tell by its absence what a compare found. Nothing here is decided by default: a new kind of command does not compile
//! until its right is named.

use super::{AuthCommand, AuthError, AuthState, Right};
use crate::requests::{Command, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

/// Who asks, as the log carries it beside each command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Actor {
    /// Nobody named a user. All there is while the switch is off; nothing is allowed to it while it is on.
    #[default]
    Anonymous,
    /// A user, known by a password, a token or a certificate.
    User {
        /// Its name.
        name: String,
        /// [`AuthState::revision`] by which the request was judged where it came in.
        auth_revision: u64,
    },
    /// A node of the cluster, by itself: housekeeping that no client asked for.
    Node,
}

/// The keys that hang on a lease. Whoever ends the lease deletes them, and whoever attaches a key to it gives that key
/// into the hands of everybody who may.
pub trait AttachedKeys {
    /// Whether `test` holds for every key attached to `lease`; true if there is none, or no such lease.
    fn all_attached(&self, lease: i64, test: &mut dyn FnMut(&[u8]) -> bool) -> bool;

    /// The same for every key of several leases.
    fn all_attached_to(&self, leases: &[i64], test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        leases.iter().all(|lease| self.all_attached(*lease, test))
    }
}

/// No lease has a key: for requests that cannot name one.
#[derive(Debug, Clone, Copy)]
pub struct NoLeases;

impl AttachedKeys for NoLeases {
    fn all_attached(&self, _: i64, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        true
    }
}

impl AuthState {
    /// Whether a request judged by `actor`'s revision may still be judged by this state, and by whose rights.
    ///
    /// # Errors
    /// [`AuthError::UserEmpty`] without a name, [`AuthError::OldRevision`] if anything changed since,
    /// [`AuthError::PermissionDenied`] if there is no such user.
    pub fn admit<'a>(&'a self, actor: &'a Actor) -> Result<Caller<'a>, AuthError> {
        let user = match actor {
            _ if !self.enabled => None,
            Actor::Node => None,
            Actor::Anonymous => return Err(AuthError::UserEmpty),
            Actor::User { auth_revision, .. } if *auth_revision != self.revision && !mutant!(OldRightsServe) => {
                return Err(AuthError::OldRevision);
            }
            Actor::User { name, .. } if !self.users.contains_key(name) => return Err(AuthError::PermissionDenied),
            Actor::User { name, .. } if self.is_root(name) => None,
            Actor::User { name, .. } => Some(name.as_str()),
        };
        Ok(Caller { state: self, user })
    }

    /// Judges a command where it is applied.
    pub(crate) fn judge(&self, actor: &Actor, command: &Command, leases: &dyn AttachedKeys) -> Result<(), AuthError> {
        match command {
            // This is how a name is come by: it carries what was shown for it.
            Command::Auth(AuthCommand::Login { .. }) => Ok(()),
            command => self.admit(actor)?.may_submit(command, leases),
        }
    }
}

/// Somebody who was admitted.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    state: &'a AuthState,
    /// `None`: may do everything.
    user: Option<&'a str>,
}

impl Caller<'_> {
    /// Needs `right` on every key from `key` to `range_end`.
    ///
    /// # Errors
    /// [`AuthError::PermissionDenied`].
    pub fn may(&self, right: Right, key: &[u8], range_end: &[u8]) -> Result<(), AuthError> {
        self.holds(|user| self.state.grants.get(user).is_some_and(|grants| grants.allow(right, key, range_end)))
    }

    /// Needs the role `root`.
    ///
    /// # Errors
    /// [`AuthError::PermissionDenied`].
    pub fn may_do_everything(&self) -> Result<(), AuthError> {
        self.holds(|_| false)
    }

    /// A user is shown to itself and to root.
    ///
    /// # Errors
    /// [`AuthError::PermissionDenied`].
    pub fn may_see_user(&self, name: &str) -> Result<(), AuthError> {
        self.holds(|user| user == name)
    }

    /// A role is shown to those who have it and to root.
    ///
    /// # Errors
    /// [`AuthError::PermissionDenied`].
    pub fn may_see_role(&self, name: &str) -> Result<(), AuthError> {
        self.holds(|user| self.state.users[user].roles.contains(name))
    }

    /// Needs `right` on all keys attached to `lease`.
    ///
    /// # Errors
    /// [`AuthError::PermissionDenied`].
    pub fn may_with_lease(&self, right: Right, lease: i64, leases: &dyn AttachedKeys) -> Result<(), AuthError> {
        self.may_with_leases(right, &[lease], leases)
    }

    /// Needs `right` on all keys attached to any of `together`.
    ///
    /// # Errors
    /// [`AuthError::PermissionDenied`].
    pub fn may_with_leases(&self, right: Right, together: &[i64], leases: &dyn AttachedKeys) -> Result<(), AuthError> {
        self.holds(|_| leases.all_attached_to(together, &mut |key| self.may(right, key, b"").is_ok()))
    }

    /// Judges a range.
    ///
    /// # Errors
    /// [`AuthError::PermissionDenied`].
    pub fn may_read(&self, range: &RangeRequest) -> Result<(), AuthError> {
        self.may(Right::Read, &range.key, &range.range_end)
    }

    /// Judges a transaction, whether it is served as a read or as a write.
    ///
    /// # Errors
    /// [`AuthError::PermissionDenied`].
    pub fn may_transact(&self, txn: &TxnRequest, leases: &dyn AttachedKeys) -> Result<(), AuthError> {
        // A compare tells what it finds.
        txn.compare.iter().try_for_each(|compare| self.may(Right::Read, &compare.key, &compare.range_end))?;
        let failure = if mutant!(FailureBranchUnjudged) { &[] } else { &txn.failure[..] };
        txn.success.iter().chain(failure).try_for_each(|op| match op {
            RequestOp::Range(range) => self.may_read(range),
            RequestOp::Put(put) => self.may_put(put, leases),
            RequestOp::DeleteRange(delete) => self.may_delete(delete),
            RequestOp::Txn(nested) if mutant!(NestedCompareUnjudged) => {
                self.may_transact(&TxnRequest { compare: Vec::new(), ..nested.clone() }, leases)
            }
            RequestOp::Txn(nested) => self.may_transact(nested, leases),
        })
    }

    /// Judges a write.
    ///
    /// # Errors
    /// [`AuthError::PermissionDenied`].
    pub fn may_submit(&self, command: &Command, leases: &dyn AttachedKeys) -> Result<(), AuthError> {
        match command {
            Command::Put(put) => self.may_put(put, leases),
            Command::DeleteRange(delete) => self.may_delete(delete),
            Command::Txn(txn) => self.may_transact(txn, leases),
            Command::LeaseRevoke { .. } if mutant!(RevokeUnchecked) => Ok(()),
            Command::LeaseRevoke { id } => self.may_with_lease(Right::Write, *id, leases),
            // As in etcd: whoever is known may have a lease, and keep one alive whose id it knows.
            Command::LeaseGrant(_) | Command::LeaseRenew { .. } => Ok(()),
            Command::Compact(_)
            | Command::Clock(_)
            | Command::LeaseExpire(_)
            | Command::Auth(_)
            | Command::Alarm(_) => self.may_do_everything(),
        }
    }

    fn may_put(&self, put: &PutRequest, leases: &dyn AttachedKeys) -> Result<(), AuthError> {
        self.may(Right::Write, &put.key, b"")?;
        if put.lease != 0 {
            self.may_with_lease(Right::Write, put.lease, leases)?;
        }
        if put.prev_kv && !mutant!(PrevValueUnjudged) { self.may(Right::Read, &put.key, b"") } else { Ok(()) }
    }

    fn may_delete(&self, delete: &DeleteRangeRequest) -> Result<(), AuthError> {
        self.may(Right::Write, &delete.key, &delete.range_end)?;
        if delete.prev_kv { self.may(Right::Read, &delete.key, &delete.range_end) } else { Ok(()) }
    }

    fn holds(&self, test: impl FnOnce(&str) -> bool) -> Result<(), AuthError> {
        match self.user {
            Some(user) if !test(user) => Err(AuthError::PermissionDenied),
            _ => Ok(()),
        }
    }
}
