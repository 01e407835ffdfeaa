//! Rights as the committed log makes them: a second, plain implementation of access control, written without a look at the
//! first. It walks every permission for every key interval of every request.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_kv::auth::{AuthError, AuthResponse, PermissionKind, ROOT};
use quorate_kv::{
    Actor, AuthCommand, AuthState, Command, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use super::lease_model::LeaseModel;

#[derive(Debug, Clone)]
struct User {
    has_password: bool,
    password_revision: u64,
    roles: BTreeSet<String>,
}

/// Users with their roles, roles with what they allow, and the switch.
#[derive(Debug, Clone)]
pub(super) struct Rights {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, BTreeMap<(Bytes, Bytes), PermissionKind>>,
}

impl Default for Rights {
    fn default() -> Self {
        Rights { enabled: false, revision: 1, users: BTreeMap::new(), roles: BTreeMap::new() }
    }
}

/// The end of the keys from `key` to `range_end`; None = there is none.
fn end_of(key: &Bytes, range_end: &Bytes) -> Option<Vec<u8>> {
    match &range_end[..] {
        [] => Some([&key[..], &[0]].concat()),
        [0] => None,
        end => Some(end.to_vec()),
    }
}

/// What one user may.
struct Judge<'a> {
    rights: &'a Rights,
    user: &'a User,
    leases: &'a LeaseModel,
}

impl Judge<'_> {
    /// Walks from the first key to the end, each time as far as some permission carries.
    fn may(&self, write: bool, key: &Bytes, range_end: &Bytes) -> bool {
        let unwanted = if write { PermissionKind::Read } else { PermissionKind::Write };
        let held = self.user.roles.iter().filter_map(|role| self.rights.roles.get(role)).flatten();
        let spans: Vec<(&Bytes, Option<Vec<u8>>)> =
            held.filter(|(_, kind)| **kind != unwanted).map(|((first, end), _)| (first, end_of(first, end))).collect();
        let wanted = end_of(key, range_end);
        let mut at = key.to_vec();
        loop {
            let carrying = spans
                .iter()
                .filter(|(first, end)| first[..] <= at[..] && end.as_ref().is_none_or(|end| at[..] < end[..]));
            // No end is beyond every end.
            let Some(next) = carrying.map(|(_, end)| (end.is_none(), end.clone())).max() else { return false };
            match (next.1, &wanted) {
                (None, _) => return true,
                (Some(next), Some(wanted)) if next >= *wanted => return true,
                (Some(next), _) => at = next,
            }
        }
    }

    fn may_put(&self, put: &PutRequest) -> bool {
        let one = Bytes::new();
        self.may(true, &put.key, &one)
            && self.leases.keys_of(put.lease).iter().all(|key| self.may(true, key, &one))
            && (!put.prev_kv || self.may(false, &put.key, &one))
    }

    fn may_delete(&self, delete: &DeleteRangeRequest) -> bool {
        self.may(true, &delete.key, &delete.range_end)
            && (!delete.prev_kv || self.may(false, &delete.key, &delete.range_end))
    }

    fn may_transact(&self, txn: &TxnRequest) -> bool {
        txn.compare.iter().all(|compare| self.may(false, &compare.key, &compare.range_end))
            && txn.success.iter().chain(&txn.failure).all(|operation| match operation {
                RequestOp::Range(range) => self.may(false, &range.key, &range.range_end),
                RequestOp::Put(put) => self.may_put(put),
                RequestOp::DeleteRange(delete) => self.may_delete(delete),
                RequestOp::Txn(nested) => self.may_transact(nested),
            })
    }
}

impl Rights {
    /// Whose rights count; none if nothing is asked of the actor.
    fn whose(&self, actor: &Actor) -> Result<Option<&User>, AuthError> {
        let (name, auth_revision) = match actor {
            _ if !self.enabled => return Ok(None),
            Actor::Node => return Ok(None),
            Actor::Anonymous => return Err(AuthError::UserEmpty),
            Actor::User { name, auth_revision } => (name, auth_revision),
        };
        if *auth_revision != self.revision {
            return Err(AuthError::OldRevision);
        }
        let user = self.users.get(name).ok_or(AuthError::PermissionDenied)?;
        Ok(Some(user).filter(|user| !user.roles.contains(ROOT)))
    }

    /// Why a read is not served.
    pub(super) fn refuse_read(&self, actor: &Actor, range: &RangeRequest) -> Option<AuthError> {
        let user = match self.whose(actor) {
            Ok(user) => user?,
            Err(refused) => return Some(refused),
        };
        let judge = Judge { rights: self, user, leases: &LeaseModel::default() };
        (!judge.may(false, &range.key, &range.range_end)).then_some(AuthError::PermissionDenied)
    }

    /// Why a committed command is void: its actor has not, or not any more, the right to it.
    pub(super) fn refuse(&self, actor: &Actor, command: &Command, leases: &LeaseModel) -> Option<AuthError> {
        if matches!(command, Command::Auth(AuthCommand::Login { .. })) {
            return None;
        }
        let user = match self.whose(actor) {
            Ok(user) => user?,
            Err(refused) => return Some(refused),
        };
        let judge = Judge { rights: self, user, leases };
        let allowed = match command {
            Command::Put(put) => judge.may_put(put),
            Command::DeleteRange(delete) => judge.may_delete(delete),
            Command::Txn(txn) => judge.may_transact(txn),
            Command::LeaseRevoke { id } => leases.keys_of(*id).iter().all(|key| judge.may(true, key, &Bytes::new())),
            Command::LeaseGrant(_) | Command::LeaseRenew { .. } => true,
            _ => false,
        };
        (!allowed).then_some(AuthError::PermissionDenied)
    }

    /// Whether a node holds these rights; else what it holds otherwise.
    pub(super) fn compare(&self, state: &AuthState) -> Result<(), String> {
        let of_node = (state.is_enabled(), state.revision());
        if of_node != (self.enabled, self.revision) {
            return Err(format!(
                "the switch and the revision are {of_node:?}, not {:?}",
                (self.enabled, self.revision)
            ));
        }
        if !state.user_names().eq(self.users.keys()) || !state.role_names().eq(self.roles.keys()) {
            return Err(format!("there are {:?} and {:?}", state.user_names().collect::<Vec<_>>(), self.users));
        }
        for (name, user) in &self.users {
            let of_node = state.user(name).expect("just compared");
            let same = of_node.roles == user.roles
                && of_node.password.is_some() == user.has_password
                && of_node.password_revision == user.password_revision;
            if !same {
                return Err(format!("{name} is {of_node:?}, not {user:?}"));
            }
        }
        for (name, held) in &self.roles {
            let of_node: BTreeMap<(Bytes, Bytes), PermissionKind> = state
                .role(name)
                .expect("just compared")
                .permissions()
                .map(|permission| ((permission.key, permission.range_end), permission.kind))
                .collect();
            if of_node != *held {
                return Err(format!("{name} allows {of_node:?}, not {held:?}"));
            }
        }
        Ok(())
    }

    /// Takes in a change that was not refused for want of rights.
    pub(super) fn change(&mut self, change: &AuthCommand) -> Result<AuthResponse, AuthError> {
        if let AuthCommand::Login { user, password_revision, token } = change {
            self.log_in(user, *password_revision)?;
            let (user, password_revision, token) = (user.clone(), *password_revision, token.clone());
            return Ok(AuthResponse::LoggedIn { user, password_revision, token });
        }
        let counts = match change {
            AuthCommand::Enable => self.enable()?,
            AuthCommand::Disable => self.disable(),
            AuthCommand::RoleAdd { .. }
            | AuthCommand::RoleDelete { .. }
            | AuthCommand::RoleGrantPermission { .. }
            | AuthCommand::RoleRevokePermission { .. } => self.change_role(change)?,
            _ => self.change_user(change)?,
        };
        self.revision += u64::from(counts);
        Ok(AuthResponse::Done)
    }

    fn log_in(&self, user: &str, password_revision: u64) -> Result<(), AuthError> {
        if !self.enabled {
            return Err(AuthError::NotEnabled);
        }
        let user = self.users.get(user).filter(|user| user.has_password).ok_or(AuthError::Failed)?;
        if user.password_revision == password_revision { Ok(()) } else { Err(AuthError::OldRevision) }
    }

    fn enable(&mut self) -> Result<bool, AuthError> {
        if !self.enabled {
            let root = self.users.get(ROOT).ok_or(AuthError::RootUserNotExist)?;
            if !root.roles.contains(ROOT) {
                return Err(AuthError::RootRoleNotExist);
            }
            self.enabled = true;
        }
        Ok(false)
    }

    /// A login from before counts no more.
    fn disable(&mut self) -> bool {
        let counts = std::mem::take(&mut self.enabled);
        if counts {
            self.users.values_mut().for_each(|user| user.password_revision = self.revision + 1);
        }
        counts
    }

    fn change_user(&mut self, change: &AuthCommand) -> Result<bool, AuthError> {
        let password_revision = self.revision + 1;
        match change {
            AuthCommand::UserAdd { name, password } => {
                if self.users.contains_key(name) {
                    return Err(AuthError::UserExists);
                }
                let user = User { has_password: password.is_some(), password_revision, roles: BTreeSet::new() };
                self.users.insert(name.clone(), user);
                Ok(true)
            }
            AuthCommand::UserDelete { name } if self.enabled && name == ROOT => Err(AuthError::InvalidManagement),
            AuthCommand::UserDelete { name } => self.users.remove(name).map(|_| true).ok_or(AuthError::UserNotFound),
            AuthCommand::UserChangePassword { name, .. } => {
                let user = self.users.get_mut(name).ok_or(AuthError::UserNotFound)?;
                if user.has_password {
                    user.password_revision = password_revision;
                }
                Ok(true)
            }
            AuthCommand::UserGrantRole { user, role } => {
                let known = role == ROOT || self.roles.contains_key(role);
                let user = self.users.get_mut(user).ok_or(AuthError::UserNotFound)?;
                if known { Ok(user.roles.insert(role.clone())) } else { Err(AuthError::RoleNotFound) }
            }
            AuthCommand::UserRevokeRole { user, role } => {
                if self.enabled && user == ROOT && role == ROOT {
                    return Err(AuthError::InvalidManagement);
                }
                let user = self.users.get_mut(user).ok_or(AuthError::UserNotFound)?;
                if user.roles.remove(role) { Ok(true) } else { Err(AuthError::RoleNotGranted) }
            }
            other => unreachable!("{other:?} is about no user"),
        }
    }

    fn change_role(&mut self, change: &AuthCommand) -> Result<bool, AuthError> {
        match change {
            AuthCommand::RoleAdd { name } if self.roles.contains_key(name) => Err(AuthError::RoleExists),
            AuthCommand::RoleAdd { name } => {
                self.roles.insert(name.clone(), BTreeMap::new());
                Ok(true)
            }
            AuthCommand::RoleDelete { name } if self.enabled && name == ROOT => Err(AuthError::InvalidManagement),
            AuthCommand::RoleDelete { name } => {
                self.roles.remove(name).ok_or(AuthError::RoleNotFound)?;
                for user in self.users.values_mut() {
                    user.roles.remove(name);
                }
                Ok(true)
            }
            AuthCommand::RoleGrantPermission { role, permission } => {
                let held = self.roles.get_mut(role).ok_or(AuthError::RoleNotFound)?;
                held.insert((permission.key.clone(), permission.range_end.clone()), permission.kind);
                Ok(true)
            }
            AuthCommand::RoleRevokePermission { role, key, range_end } => {
                let held = self.roles.get_mut(role).ok_or(AuthError::RoleNotFound)?;
                let was = held.remove(&(key.clone(), range_end.clone()));
                was.map(|_| true).ok_or(AuthError::PermissionNotGranted)
            }
            other => unreachable!("{other:?} is about no role"),
        }
    }
}
