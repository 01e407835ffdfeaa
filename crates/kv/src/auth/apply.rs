//! Changes of users, roles and the switch, applied. What refuses a change refuses it before anything is touched.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{AuthCommand, AuthError, AuthResponse, AuthState, Permission, ROOT, Role, User};

/// What a change touched, so that it can be stored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) users: BTreeSet<String>,
    pub(crate) roles: BTreeSet<String>,
    /// The switch or the revision.
    pub(crate) meta: bool,
}

impl AuthState {
    /// Applies one change; says what has to be stored.
    pub(crate) fn apply(&mut self, command: &AuthCommand) -> Result<(AuthResponse, Touched), AuthError> {
        let mut touched = Touched::default();
        let is_new = match command {
            AuthCommand::Enable => self.enable(&mut touched)?,
            AuthCommand::Disable => self.disable(&mut touched),
            AuthCommand::UserAdd { name, password } => {
                if name.is_empty() {
                    return Err(AuthError::UserEmpty);
                }
                if self.users.contains_key(name) {
                    return Err(AuthError::UserExists);
                }
                let password_revision = self.revision + 1;
                let user = User { password: password.clone(), password_revision, roles: BTreeSet::new() };
                self.users.insert(name.clone(), user);
                touched.users.insert(name.clone());
                true
            }
            AuthCommand::UserDelete { name } => {
                self.keeps_root(name == ROOT)?;
                self.users.remove(name).ok_or(AuthError::UserNotFound)?;
                touched.users.insert(name.clone());
                true
            }
            AuthCommand::UserChangePassword { name, password } => {
                let password_revision = self.revision + 1;
                let user = self.users.get_mut(name).ok_or(AuthError::UserNotFound)?;
                if user.password.is_some() {
                    user.password = Some(password.clone());
                    user.password_revision = password_revision;
                }
                touched.users.insert(name.clone());
                true
            }
            AuthCommand::UserGrantRole { user, role } => self.grant_role(user, role, &mut touched)?,
            AuthCommand::UserRevokeRole { user, role } => {
                self.keeps_root(user == ROOT && role == ROOT)?;
                let of = self.users.get_mut(user).ok_or(AuthError::UserNotFound)?;
                if !of.roles.remove(role) {
                    return Err(AuthError::RoleNotGranted);
                }
                touched.users.insert(user.clone());
                true
            }
            AuthCommand::RoleAdd { name } => {
                if name.is_empty() {
                    return Err(AuthError::RoleEmpty);
                }
                if self.roles.contains_key(name) {
                    return Err(AuthError::RoleExists);
                }
                self.roles.insert(name.clone(), Role::default());
                touched.roles.insert(name.clone());
                true
            }
            AuthCommand::RoleDelete { name } => {
                self.keeps_root(name == ROOT)?;
                self.delete_role(name, &mut touched)?;
                true
            }
            AuthCommand::RoleGrantPermission { role, permission } => {
                self.grant_permission(role, permission, &mut touched)?;
                true
            }
            AuthCommand::RoleRevokePermission { role, key, range_end } => {
                self.revoke_permission(role, key, range_end, &mut touched)?;
                true
            }
            AuthCommand::Login { user, password_revision, token } => {
                self.confirm_login(user, *password_revision)?;
                let (user, token, password_revision) = (user.clone(), token.clone(), *password_revision);
                return Ok((AuthResponse::LoggedIn { user, password_revision, token }, touched));
            }
        };
        if is_new {
            self.revision += 1;
            touched.meta = true;
            self.refresh(&touched);
        }
        Ok((AuthResponse::Done, touched))
    }

    /// The switch does not count as a change of rights, as in etcd: writes of callers without a name are refused by what
    /// they lack, not by their age.
    fn enable(&mut self, touched: &mut Touched) -> Result<bool, AuthError> {
        if self.enabled {
            return Ok(false);
        }
        let root = self.users.get(ROOT).ok_or(AuthError::RootUserNotExist)?;
        if !root.roles.contains(ROOT) {
            return Err(AuthError::RootRoleNotExist);
        }
        self.enabled = true;
        touched.meta = true;
        Ok(false)
    }

    /// Ends all logins, as etcd does: nobody is let in by one from before when rights are switched on again.
    fn disable(&mut self, touched: &mut Touched) -> bool {
        if !std::mem::take(&mut self.enabled) {
            return false;
        }
        for (name, user) in &mut self.users {
            user.password_revision = self.revision + 1;
            touched.users.insert(name.clone());
        }
        true
    }

    fn keeps_root(&self, takes_root_away: bool) -> Result<(), AuthError> {
        if self.enabled && takes_root_away { Err(AuthError::InvalidManagement) } else { Ok(()) }
    }

    fn grant_role(&mut self, user: &str, role: &str, touched: &mut Touched) -> Result<bool, AuthError> {
        let of = self.users.get_mut(user).ok_or(AuthError::UserNotFound)?;
        if role != ROOT && !self.roles.contains_key(role) {
            return Err(AuthError::RoleNotFound);
        }
        let is_new = of.roles.insert(role.to_owned());
        if is_new {
            touched.users.insert(user.to_owned());
        }
        Ok(is_new)
    }

    fn delete_role(&mut self, name: &str, touched: &mut Touched) -> Result<(), AuthError> {
        // `root` can be held without a record, and its record can then be taken away from those who hold it.
        self.roles.remove(name).ok_or(AuthError::RoleNotFound)?;
        touched.roles.insert(name.to_owned());
        for (user, of) in &mut self.users {
            if of.roles.remove(name) {
                touched.users.insert(user.clone());
            }
        }
        Ok(())
    }

    fn grant_permission(&mut self, role: &str, permission: &Permission, out: &mut Touched) -> Result<(), AuthError> {
        if !permission.is_valid() {
            return Err(AuthError::InvalidManagement);
        }
        let of = self.roles.get_mut(role).ok_or(AuthError::RoleNotFound)?;
        of.permissions.insert((permission.key.clone(), permission.range_end.clone()), permission.kind);
        out.roles.insert(role.to_owned());
        Ok(())
    }

    fn revoke_permission(
        &mut self,
        role: &str,
        key: &Bytes,
        range_end: &Bytes,
        touched: &mut Touched,
    ) -> Result<(), AuthError> {
        let of = self.roles.get_mut(role).ok_or(AuthError::RoleNotFound)?;
        let interval = (key.clone(), range_end.clone());
        of.permissions.remove(&interval).ok_or(AuthError::PermissionNotGranted)?;
        touched.roles.insert(role.to_owned());
        Ok(())
    }

    /// The password that was shown must still be the user's here, whatever was changed on the way.
    fn confirm_login(&self, user: &str, password_revision: u64) -> Result<(), AuthError> {
        if !self.enabled {
            return Err(AuthError::NotEnabled);
        }
        let user = self.users.get(user).ok_or(AuthError::Failed)?;
        if user.password.is_none() {
            return Err(AuthError::Failed);
        }
        if user.password_revision != password_revision && !mutant!(LoginUnchecked) {
            return Err(AuthError::OldRevision);
        }
        Ok(())
    }

    /// Merges the rights of the touched users, and of the users of touched roles, anew.
    fn refresh(&mut self, touched: &Touched) {
        let concerned = |(name, user): &(&String, &User)| {
            let of_role = !mutant!(RevokedRightLives);
            touched.users.contains(*name) || of_role && user.roles.iter().any(|role| touched.roles.contains(role))
        };
        let fresh: Vec<_> =
            self.users.iter().filter(concerned).map(|(name, user)| (name.clone(), self.grants_of(user))).collect();
        self.grants.extend(fresh);
        self.grants.retain(|name, _| self.users.contains_key(name));
    }
}
