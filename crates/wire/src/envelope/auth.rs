//! Who asked, and changes of users, roles, rights and alarms, as protobuf.

use bytes::Bytes;
use quorate_kv::auth::{PasswordHash, Permission, PermissionKind};
use quorate_kv::{Actor, Alarm, AlarmCommand, AlarmKind, AuthCommand};
use quorate_proto::quorate::log::v1 as pb;

use crate::DecodeError;

pub(super) fn to_actor(actor: &Actor) -> Option<pb::Actor> {
    use pb::actor::Who;
    let who = match actor {
        Actor::Anonymous => return None,
        Actor::User { name, auth_revision } => {
            Who::User(pb::UserActor { name: name.clone(), auth_revision: *auth_revision })
        }
        Actor::Node => Who::Node(pb::NodeActor {}),
    };
    Some(pb::Actor { who: Some(who) })
}

/// An actor that this build does not know must not pass for one without rights to lose: the node stops, as for an unknown
/// command.
pub(super) fn from_actor(actor: Option<pb::Actor>) -> Result<Actor, DecodeError> {
    use pb::actor::Who;
    let Some(actor) = actor else { return Ok(Actor::Anonymous) };
    Ok(match actor.who.ok_or(DecodeError::UnknownCommand)? {
        Who::User(user) => Actor::User { name: user.name, auth_revision: user.auth_revision },
        Who::Node(pb::NodeActor {}) => Actor::Node,
    })
}

pub(super) fn to_auth(command: &AuthCommand) -> pb::AuthChange {
    use pb::auth_change::Change;
    let user_role = |user: &String, role: &String| pb::UserRole { user: user.clone(), role: role.clone() };
    let change = match command {
        AuthCommand::Enable => Change::Enable(pb::AuthEnable {}),
        AuthCommand::Disable => Change::Disable(pb::AuthDisable {}),
        AuthCommand::UserAdd { name, password } => Change::UserAdd(pb::UserAdd {
            name: name.clone(),
            password_hash: password.as_ref().map(|hash| hash.0.clone()),
        }),
        AuthCommand::UserDelete { name } => Change::UserDelete(pb::UserDelete { name: name.clone() }),
        AuthCommand::UserChangePassword { name, password } => {
            Change::UserChangePassword(pb::UserChangePassword { name: name.clone(), password_hash: password.0.clone() })
        }
        AuthCommand::UserGrantRole { user, role } => Change::UserGrantRole(user_role(user, role)),
        AuthCommand::UserRevokeRole { user, role } => Change::UserRevokeRole(user_role(user, role)),
        AuthCommand::RoleAdd { name } => Change::RoleAdd(pb::RoleAdd { name: name.clone() }),
        AuthCommand::RoleDelete { name } => Change::RoleDelete(pb::RoleDelete { name: name.clone() }),
        AuthCommand::RoleGrantPermission { role, permission } => Change::RoleGrantPermission(pb::RolePermission {
            role: role.clone(),
            kind: kind_number(permission.kind),
            key: permission.key.clone(),
            range_end: permission.range_end.clone(),
        }),
        AuthCommand::RoleRevokePermission { role, key, range_end } => {
            Change::RoleRevokePermission(pb::RolePermission {
                role: role.clone(),
                kind: 0,
                key: key.clone(),
                range_end: range_end.clone(),
            })
        }
        AuthCommand::Login { user, password_revision, token } => {
            Change::Login(pb::Login { user: user.clone(), password_revision: *password_revision, token: token.clone() })
        }
    };
    pb::AuthChange { change: Some(change) }
}

pub(super) fn from_auth(change: pb::AuthChange) -> Result<AuthCommand, DecodeError> {
    use pb::auth_change::Change;
    // What is kept must not hold on to the whole entry.
    let copy = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
    Ok(match change.change.ok_or(DecodeError::UnknownCommand)? {
        Change::Enable(pb::AuthEnable {}) => AuthCommand::Enable,
        Change::Disable(pb::AuthDisable {}) => AuthCommand::Disable,
        Change::UserAdd(user) => {
            AuthCommand::UserAdd { name: user.name, password: user.password_hash.map(|hash| PasswordHash(copy(hash))) }
        }
        Change::UserDelete(user) => AuthCommand::UserDelete { name: user.name },
        Change::UserChangePassword(user) => {
            AuthCommand::UserChangePassword { name: user.name, password: PasswordHash(copy(user.password_hash)) }
        }
        Change::UserGrantRole(grant) => AuthCommand::UserGrantRole { user: grant.user, role: grant.role },
        Change::UserRevokeRole(grant) => AuthCommand::UserRevokeRole { user: grant.user, role: grant.role },
        Change::RoleAdd(role) => AuthCommand::RoleAdd { name: role.name },
        Change::RoleDelete(role) => AuthCommand::RoleDelete { name: role.name },
        Change::RoleGrantPermission(grant) => AuthCommand::RoleGrantPermission {
            role: grant.role,
            permission: Permission {
                kind: from_kind_number(grant.kind)?,
                key: copy(grant.key),
                range_end: copy(grant.range_end),
            },
        },
        Change::RoleRevokePermission(grant) => AuthCommand::RoleRevokePermission {
            role: grant.role,
            key: copy(grant.key),
            range_end: copy(grant.range_end),
        },
        Change::Login(login) => AuthCommand::Login {
            user: login.user,
            password_revision: login.password_revision,
            token: copy(login.token),
        },
    })
}

pub(super) fn to_alarm(command: AlarmCommand) -> pb::AlarmChange {
    let (raise, alarm) = match command {
        AlarmCommand::Raise(alarm) => (true, alarm),
        AlarmCommand::Clear(alarm) => (false, alarm),
    };
    pb::AlarmChange { raise, kind: alarm.kind as u32, member: alarm.member }
}

pub(super) fn from_alarm(change: pb::AlarmChange) -> Result<AlarmCommand, DecodeError> {
    let kind = AlarmKind::from_number(change.kind).ok_or(DecodeError::UnknownCommand)?;
    let alarm = Alarm { kind, member: change.member };
    Ok(if change.raise { AlarmCommand::Raise(alarm) } else { AlarmCommand::Clear(alarm) })
}

fn kind_number(kind: PermissionKind) -> u32 {
    match kind {
        PermissionKind::Read => 0,
        PermissionKind::Write => 1,
        PermissionKind::ReadWrite => 2,
    }
}

fn from_kind_number(kind: u32) -> Result<PermissionKind, DecodeError> {
    Ok(match kind {
        0 => PermissionKind::Read,
        1 => PermissionKind::Write,
        2 => PermissionKind::ReadWrite,
        _ => return Err(DecodeError::UnknownCommand),
    })
}
