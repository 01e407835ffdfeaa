//! Rights as the committed log makes them: a second, plain implementation of what the `auth` workload uses, written without
//! a look at the first. It walks every permission for every write.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_kv::auth::{PermissionKind, ROOT};
use quorate_kv::{Actor, AuthCommand, Command};

/// Users with their roles, roles with what they allow, and the switch.
#[derive(Debug, Default)]
pub(super) struct Rights {
    enabled: bool,
    changes: u64,
    users: BTreeMap<String, BTreeSet<String>>,
    roles: BTreeMap<String, BTreeMap<(Bytes, Bytes), PermissionKind>>,
}

impl Rights {
    /// Whether a committed command is void because its actor has not the right to it.
    pub(super) fn refuse(&self, actor: &Actor, command: &Command) -> bool {
        let Actor::User { name, auth_revision } = actor else {
            return self.enabled && *actor == Actor::Anonymous;
        };
        if !self.enabled {
            return false;
        }
        let Some(roles) = self.users.get(name) else { return true };
        // etcd counts from 1.
        if *auth_revision != self.changes + 1 {
            return true;
        }
        let Command::Put(put) = command else { return !roles.contains(ROOT) };
        let allowed = roles.iter().filter_map(|role| self.roles.get(role)).flatten().any(|((key, end), kind)| {
            let inside = if end.is_empty() { *key == put.key } else { *key <= put.key && put.key < *end };
            inside && *kind != PermissionKind::Read
        });
        !allowed && !roles.contains(ROOT)
    }

    /// Takes in a change that was not refused for want of rights; whether it is done.
    pub(super) fn change(&mut self, change: &AuthCommand) -> bool {
        let (done, counts) = match change {
            AuthCommand::Enable => {
                let rooted = self.users.get(ROOT).is_some_and(|roles| roles.contains(ROOT));
                self.enabled |= rooted;
                (rooted, false)
            }
            AuthCommand::Disable => (true, std::mem::take(&mut self.enabled)),
            AuthCommand::UserAdd { name, .. } => {
                let new = !self.users.contains_key(name);
                self.users.entry(name.clone()).or_default();
                (new, new)
            }
            AuthCommand::RoleAdd { name } => {
                let new = !self.roles.contains_key(name);
                self.roles.entry(name.clone()).or_default();
                (new, new)
            }
            AuthCommand::UserGrantRole { user, role } => match self.users.get_mut(user) {
                Some(roles) if role == ROOT || self.roles.contains_key(role) => (true, roles.insert(role.clone())),
                _ => (false, false),
            },
            AuthCommand::RoleGrantPermission { role, permission } => match self.roles.get_mut(role) {
                Some(held) => {
                    held.insert((permission.key.clone(), permission.range_end.clone()), permission.kind);
                    (true, true)
                }
                None => (false, false),
            },
            AuthCommand::RoleRevokePermission { role, key, range_end } => {
                let held = self.roles.get_mut(role).and_then(|held| held.remove(&(key.clone(), range_end.clone())));
                (held.is_some(), held.is_some())
            }
            other => unreachable!("no workload asks for {other:?}"),
        };
        self.changes += u64::from(counts);
        done
    }
}
