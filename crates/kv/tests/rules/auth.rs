//! Users, roles and the switch: what changes them, what refuses a change, and that a start finds them again.

use std::sync::Arc;

use quorate_kv::auth::{PasswordHash, Permission, PermissionKind, ROOT};
use quorate_kv::{AuthCommand, AuthError, AuthResponse, AuthState, Command, KeySpace, KvError, Response, Table};

use crate::store::{Store, bytes};

pub(crate) fn permission(kind: PermissionKind, key: &str, range_end: &str) -> Permission {
    Permission { kind, key: bytes(key), range_end: bytes(range_end) }
}

pub(crate) fn user_add(name: &str) -> AuthCommand {
    AuthCommand::UserAdd { name: name.into(), password: Some(PasswordHash(bytes("hash"))) }
}

pub(crate) fn role_add(name: &str) -> AuthCommand {
    AuthCommand::RoleAdd { name: name.into() }
}

pub(crate) fn give(user: &str, role: &str) -> AuthCommand {
    AuthCommand::UserGrantRole { user: user.into(), role: role.into() }
}

pub(crate) fn grant(role: &str, permission: Permission) -> AuthCommand {
    AuthCommand::RoleGrantPermission { role: role.into(), permission }
}

impl Store {
    pub(crate) fn auth(&mut self, change: AuthCommand) -> Result<AuthResponse, AuthError> {
        // Before the switch is on anybody may, after it a node stands in for root.
        let outcome = self.apply_for(&quorate_kv::Actor::Node, &Command::Auth(change));
        assert!(outcome.changes.is_empty(), "a change of rights makes no revision");
        self.space.check();
        match outcome.result {
            Ok(Response::Auth(response)) => Ok(response),
            Ok(other) => panic!("a change of rights is answered with {other:?}"),
            Err(KvError::Auth(refused)) => Err(refused),
            Err(other) => panic!("a change of rights is refused with {other}"),
        }
    }

    #[track_caller]
    pub(crate) fn change(&mut self, change: AuthCommand) {
        assert_eq!(self.auth(change), Ok(AuthResponse::Done));
    }

    pub(crate) fn state(&self) -> Arc<AuthState> {
        Arc::clone(self.space.auth())
    }

    /// Root, and the switch on.
    #[track_caller]
    pub(crate) fn guarded() -> Store {
        let mut store = Store::default();
        store.change(user_add(ROOT));
        store.change(give(ROOT, ROOT));
        store.change(AuthCommand::Enable);
        store
    }
}

#[track_caller]
fn refused(store: &mut Store, change: AuthCommand, error: AuthError) {
    let before = (store.state(), store.space.digest());
    assert_eq!(store.auth(change), Err(error));
    assert_eq!((store.state(), store.space.digest()), before, "a refusal changes nothing");
}

#[test]
fn the_switch_needs_a_root_with_its_role() {
    let mut store = Store::default();
    refused(&mut store, AuthCommand::Enable, AuthError::RootUserNotExist);
    store.change(user_add(ROOT));
    refused(&mut store, AuthCommand::Enable, AuthError::RootRoleNotExist);
    store.change(give(ROOT, ROOT));
    store.change(AuthCommand::Enable);
    assert!(store.state().is_enabled());
    store.change(AuthCommand::Enable);
    store.change(AuthCommand::Disable);
    assert!(!store.state().is_enabled());
}

#[test]
fn root_stays_in_charge_while_the_switch_is_on() {
    let mut store = Store::guarded();
    store.change(role_add(ROOT));
    let revoke = AuthCommand::UserRevokeRole { user: ROOT.into(), role: ROOT.into() };
    for change in
        [AuthCommand::UserDelete { name: ROOT.into() }, AuthCommand::RoleDelete { name: ROOT.into() }, revoke.clone()]
    {
        refused(&mut store, change, AuthError::InvalidManagement);
    }
    store.change(AuthCommand::Disable);
    store.change(revoke);
    store.change(AuthCommand::UserDelete { name: ROOT.into() });
}

#[test]
fn what_does_not_exist_and_what_exists_already_is_refused() {
    let mut store = Store::default();
    let name = || "x".to_owned();
    refused(&mut store, user_add(""), AuthError::UserEmpty);
    refused(&mut store, role_add(""), AuthError::RoleEmpty);
    refused(&mut store, AuthCommand::UserDelete { name: name() }, AuthError::UserNotFound);
    let password = PasswordHash(bytes("other"));
    refused(&mut store, AuthCommand::UserChangePassword { name: name(), password }, AuthError::UserNotFound);
    refused(&mut store, give("x", ROOT), AuthError::UserNotFound);
    refused(&mut store, AuthCommand::RoleDelete { name: name() }, AuthError::RoleNotFound);
    store.change(user_add("x"));
    refused(&mut store, user_add("x"), AuthError::UserExists);
    refused(&mut store, give("x", "r"), AuthError::RoleNotFound);
    let revoke = AuthCommand::UserRevokeRole { user: name(), role: "r".into() };
    refused(&mut store, revoke, AuthError::RoleNotGranted);
    let all = permission(PermissionKind::Read, "a", "\0");
    refused(&mut store, grant("r", all.clone()), AuthError::RoleNotFound);
    store.change(role_add("r"));
    refused(&mut store, role_add("r"), AuthError::RoleExists);
    let revoke = |key| AuthCommand::RoleRevokePermission { role: "r".into(), key: bytes(key), range_end: bytes("\0") };
    refused(&mut store, revoke("a"), AuthError::PermissionNotGranted);
    store.change(grant("r", all));
    refused(&mut store, revoke("b"), AuthError::PermissionNotGranted);
    store.change(revoke("a"));
}

/// etcd #15621: a role with a permission on no key.
#[test]
fn a_permission_on_no_key_is_refused() {
    let mut store = Store::default();
    store.change(role_add("r"));
    for (key, range_end) in [("", ""), ("", "\0"), ("b", "a"), ("a", "a")] {
        let empty = permission(PermissionKind::ReadWrite, key, range_end);
        refused(&mut store, grant("r", empty), AuthError::InvalidManagement);
    }
}

#[test]
fn every_change_of_rights_raises_the_revision_and_nothing_else_does() {
    let mut store = Store::default();
    let mut revision = store.state().revision();
    assert_eq!(revision, 1);
    let on_a = || permission(PermissionKind::Read, "a", "");
    let mut step = |change: AuthCommand, rises: bool| {
        store.change(change.clone());
        revision += u64::from(rises);
        assert_eq!(store.state().revision(), revision, "{change:?}");
    };
    step(user_add(ROOT), true);
    step(role_add("r"), true);
    step(give(ROOT, ROOT), true);
    step(give(ROOT, ROOT), false);
    step(grant("r", on_a()), true);
    // Also to what it is already, as in etcd.
    step(grant("r", on_a()), true);
    step(AuthCommand::Enable, false);
    step(AuthCommand::UserChangePassword { name: ROOT.into(), password: PasswordHash(bytes("2")) }, true);
    step(AuthCommand::RoleRevokePermission { role: "r".into(), key: bytes("a"), range_end: bytes("") }, true);
    step(give(ROOT, "r"), true);
    step(AuthCommand::RoleDelete { name: "r".into() }, true);
    step(AuthCommand::Disable, true);
    step(AuthCommand::Disable, false);
    step(AuthCommand::UserDelete { name: ROOT.into() }, true);
}

#[test]
fn a_deleted_role_leaves_its_users() {
    let mut store = Store::default();
    for change in [user_add("u"), role_add("r"), role_add("s"), give("u", "r"), give("u", "s")] {
        store.change(change);
    }
    store.change(AuthCommand::RoleDelete { name: "r".into() });
    assert_eq!(store.state().user("u").expect("u").roles.iter().collect::<Vec<_>>(), ["s"]);
}

#[test]
fn a_login_holds_only_for_the_password_that_was_shown() {
    let mut store = Store::guarded();
    let login = |user: &str, password_revision| AuthCommand::Login {
        user: user.into(),
        password_revision,
        token: bytes("digest"),
    };
    let shown = store.state().user(ROOT).expect("root").password_revision;
    let token = bytes("digest");
    let good = AuthResponse::LoggedIn { user: ROOT.into(), password_revision: shown, token };
    // Nobody has a name before this.
    let by_nobody = store.apply(&Command::Auth(login(ROOT, shown))).result;
    assert_eq!(by_nobody, Ok(Response::Auth(good)));
    refused(&mut store, login("nobody", shown), AuthError::Failed);
    store.change(AuthCommand::UserChangePassword { name: ROOT.into(), password: PasswordHash(bytes("2")) });
    refused(&mut store, login(ROOT, shown), AuthError::OldRevision);
    store.change(AuthCommand::UserAdd { name: "cert".into(), password: None });
    let made = store.state().user("cert").expect("cert").password_revision;
    refused(&mut store, login("cert", made), AuthError::Failed);
    store.change(AuthCommand::UserChangePassword { name: "cert".into(), password: PasswordHash(bytes("3")) });
    assert_eq!(store.state().user("cert").expect("cert").password, None, "a user without password gets none");
    let shown = store.state().user(ROOT).expect("root").password_revision;
    store.change(AuthCommand::Disable);
    refused(&mut store, login(ROOT, shown), AuthError::NotEnabled);
    store.change(AuthCommand::Enable);
    refused(&mut store, login(ROOT, shown), AuthError::OldRevision);
}

#[test]
fn a_user_made_again_under_its_name_is_not_let_in_by_an_old_login() {
    let mut store = Store::guarded();
    store.change(user_add("u"));
    let shown = store.state().user("u").expect("u").password_revision;
    store.change(AuthCommand::UserDelete { name: "u".into() });
    store.change(user_add("u"));
    let login = AuthCommand::Login { user: "u".into(), password_revision: shown, token: bytes("digest") };
    refused(&mut store, login, AuthError::OldRevision);
}

#[test]
fn a_start_finds_users_roles_and_the_switch_as_they_were() {
    let mut store = Store::guarded();
    for change in [user_add("u"), role_add("r"), role_add("gone"), give("u", "r"), user_add("gone")] {
        store.change(change);
    }
    for kind in [PermissionKind::Read, PermissionKind::Write, PermissionKind::ReadWrite] {
        store.change(grant("r", permission(kind, &format!("{kind:?}"), "\0")));
    }
    store.change(AuthCommand::UserAdd { name: "cert".into(), password: None });
    store.change(AuthCommand::UserDelete { name: "gone".into() });
    store.change(AuthCommand::RoleDelete { name: "gone".into() });
    let Ok(again) = KeySpace::rebuild(store.space.meta(), &store.records);
    assert_eq!(again.auth(), store.space.auth());
    assert_eq!(again.digest(), store.space.digest());
    let tables: Vec<Table> = store.records.rows().map(|(table, ..)| table).collect();
    assert_eq!(tables, [Table::User, Table::User, Table::User, Table::Role, Table::AuthMeta]);
}

#[test]
fn a_hash_does_not_show_itself() {
    let shown = format!("{:?}", user_add("u"));
    assert!(shown.contains("UserAdd") && !shown.contains("hash"), "{shown}");
}
