//! What a caller may do: intervals against a naive model, the request tree to its last nesting, and the holes that etcd's
//! own history knows, each by its name.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use quorate_kv::auth::{AttachedKeys, NoLeases, Permission, PermissionKind, Right};
use quorate_kv::{
    Actor, Alarm, AlarmCommand, AlarmKind, AuthCommand, AuthError, Command, CompactRequest, Compare, CompareResult,
    CompareTarget, DeleteRangeRequest, KvError, PutRequest, RequestOp, TxnRequest,
};

use crate::auth::{give, grant, permission, role_add, user_add};
use crate::store::{Store, bytes, delete, put, range};

/// A user `u` with these permissions, the switch on.
fn user_with(permissions: impl IntoIterator<Item = Permission>) -> Store {
    let mut store = Store::guarded();
    for change in [user_add("u"), role_add("r"), give("u", "r")] {
        store.change(change);
    }
    for permission in permissions {
        store.change(grant("r", permission));
    }
    store
}

fn user(store: &Store) -> Actor {
    Actor::User { name: "u".into(), auth_revision: store.state().revision() }
}

#[track_caller]
fn check(store: &mut Store, command: Command, allowed: bool) {
    let actor = user(store);
    let at_the_door = store.state().admit(&actor).and_then(|caller| caller.may_submit(&command, &NoLeases));
    assert_eq!(at_the_door.is_ok(), allowed, "at the door: {command:?}");
    let applied = store.apply_for(&actor, &command).result;
    if allowed {
        assert!(!matches!(applied, Err(KvError::Auth(_))), "applied: {command:?}: {applied:?}");
    } else {
        assert_eq!(applied, Err(KvError::Auth(AuthError::PermissionDenied)), "applied: {command:?}");
    }
}

fn nested(op: RequestOp, depth: usize) -> Command {
    let mut txn = TxnRequest { failure: vec![op], ..TxnRequest::default() };
    for _ in 1..depth {
        txn = TxnRequest { success: vec![RequestOp::Txn(txn)], ..TxnRequest::default() };
    }
    Command::Txn(txn)
}

fn rw(key: &str, range_end: &str) -> Permission {
    permission(PermissionKind::ReadWrite, key, range_end)
}

fn writes(key: &str, range_end: &str) -> Permission {
    permission(PermissionKind::Write, key, range_end)
}

#[test]
fn nobody_may_do_anything_while_the_switch_is_on_and_everybody_before() {
    let mut store = Store::default();
    assert!(store.apply(&Command::Put(put("a", "1"))).result.is_ok());
    let mut store = Store::guarded();
    let compact = Command::Compact(CompactRequest { revision: 1, physical: false });
    for command in [Command::Put(put("a", "1")), Command::DeleteRange(delete("a", "")), compact] {
        assert_eq!(store.apply(&command).result, Err(KvError::Auth(AuthError::UserEmpty)), "{command:?}");
    }
    let stranger = Actor::User { name: "stranger".into(), auth_revision: store.state().revision() };
    let put = Command::Put(put("a", "1"));
    assert_eq!(store.apply_for(&stranger, &put).result, Err(KvError::Auth(AuthError::PermissionDenied)));
    assert!(store.apply_for(&Actor::Node, &put).result.is_ok(), "a node's own housekeeping goes on");
}

#[test]
fn root_may_do_everything_and_a_user_nothing_that_only_root_may() {
    let mut store = user_with([rw("\0", "\0")]);
    store.run_as_node(Command::Put(put("a", "1")));
    let alarm = Alarm { kind: AlarmKind::NoSpace, member: 1 };
    for command in [
        Command::Compact(CompactRequest { revision: 2, physical: false }),
        Command::Auth(AuthCommand::Disable),
        Command::Auth(user_add("v")),
        Command::Alarm(AlarmCommand::Clear(alarm)),
    ] {
        check(&mut store, command.clone(), false);
        let root = Actor::User { name: "root".into(), auth_revision: store.state().revision() };
        assert!(store.apply_for(&root, &command).result.is_ok(), "{command:?}");
        store.change(AuthCommand::Enable);
    }
}

#[test]
fn a_write_judged_by_older_rights_is_refused_wherever_it_is_applied() {
    let mut store = user_with([writes("a", "")]);
    let judged = user(&store);
    let command = Command::Put(put("a", "1"));
    assert!(store.apply_for(&judged, &command).result.is_ok());
    store.change(user_add("someone"));
    assert_eq!(store.apply_for(&judged, &command).result, Err(KvError::Auth(AuthError::OldRevision)));
    let again = user(&store);
    assert!(store.apply_for(&again, &command).result.is_ok());
}

#[test]
fn a_right_that_was_taken_is_gone() {
    let mut store = user_with([writes("a", "")]);
    check(&mut store, Command::Put(put("a", "1")), true);
    store.change(AuthCommand::RoleRevokePermission { role: "r".into(), key: bytes("a"), range_end: bytes("") });
    check(&mut store, Command::Put(put("a", "1")), false);
    store.change(grant("r", writes("a", "")));
    check(&mut store, Command::Put(put("a", "1")), true);
    store.change(AuthCommand::UserRevokeRole { user: "u".into(), role: "r".into() });
    check(&mut store, Command::Put(put("a", "1")), false);
    store.change(give("u", "r"));
    check(&mut store, Command::Put(put("a", "1")), true);
    store.change(AuthCommand::RoleDelete { name: "r".into() });
    check(&mut store, Command::Put(put("a", "1")), false);
}

#[test]
fn a_former_value_is_shown_only_to_who_may_read_it() {
    let asks = |key: &str| Command::Put(PutRequest { prev_kv: true, ..put(key, "2") });
    let deletes = |key: &str| Command::DeleteRange(DeleteRangeRequest { prev_kv: true, ..delete(key, "") });
    let mut store = user_with([writes("a", ""), rw("b", "")]);
    check(&mut store, asks("a"), false);
    check(&mut store, deletes("a"), false);
    check(&mut store, asks("b"), true);
    check(&mut store, deletes("b"), true);
}

#[test]
fn a_deletion_needs_the_right_on_its_whole_interval() {
    let mut store = user_with([writes("b", "d")]);
    check(&mut store, Command::DeleteRange(delete("b", "d")), true);
    for (key, range_end) in [("a", "c"), ("b", "e"), ("b", "\0"), ("\0", "\0")] {
        check(&mut store, Command::DeleteRange(delete(key, range_end)), false);
    }
}

/// CVE-2026-33343: a transaction within a transaction was not looked into.
#[test]
fn cve_2026_33343_a_nested_transaction_is_judged_like_its_parent() {
    let mut store = user_with([rw("mine", "")]);
    for depth in 1..=4 {
        for key in ["mine", "yours"] {
            let allowed = key == "mine";
            check(&mut store, nested(RequestOp::Put(put(key, "1")), depth), allowed);
            check(&mut store, nested(RequestOp::Range(range(key, "")), depth), allowed);
            check(&mut store, nested(RequestOp::DeleteRange(delete(key, "")), depth), allowed);
            let compare = Compare {
                key: bytes(key),
                range_end: bytes(""),
                target: CompareTarget::Version(0),
                result: CompareResult::Equal,
            };
            let asks = TxnRequest { compare: vec![compare], ..TxnRequest::default() };
            check(&mut store, nested(RequestOp::Txn(asks), depth), allowed);
        }
    }
}

/// CVE-2026-44283: `prev_kv` and the lease of a put within a nested transaction were not looked at.
#[test]
fn cve_2026_44283_a_nested_put_shows_no_former_value_and_takes_no_foreign_lease() {
    let mut store = user_with([writes("a", "")]);
    let asks = RequestOp::Put(PutRequest { prev_kv: true, ..put("a", "2") });
    check(&mut store, nested(asks, 3), false);
    let attaches = nested(RequestOp::Put(PutRequest { lease: 5, ..put("a", "2") }), 3);
    let leases = Held(BTreeMap::from([(5, vec!["a", "theirs"]), (6, vec!["a"])]));
    let (state, actor) = (store.state(), user(&store));
    let caller = state.admit(&actor).expect("a user");
    assert_eq!(caller.may_submit(&attaches, &leases), Err(AuthError::PermissionDenied));
    let harmless = nested(RequestOp::Put(PutRequest { lease: 6, ..put("a", "2") }), 3);
    assert_eq!(caller.may_submit(&harmless, &leases), Ok(()));
}

/// GHSA-xg4h-6gfc-h4m8, CVE-2026-33413: the right to one key opened a watch on every key from it on.
#[test]
fn ghsa_xg4h_6gfc_h4m8_one_key_opens_no_endless_interval() {
    let store = user_with([rw("k", "")]);
    let (state, actor) = (store.state(), user(&store));
    let caller = state.admit(&actor).expect("a user");
    assert_eq!(caller.may(Right::Read, b"k", b""), Ok(()));
    for range_end in [&b"\0"[..], b"k\0\0", b"l", b"\xff"] {
        assert_eq!(caller.may(Right::Read, b"k", range_end), Err(AuthError::PermissionDenied), "{range_end:?}");
    }
    assert_eq!(caller.may(Right::Read, b"\0", b"\0"), Err(AuthError::PermissionDenied));
}

/// etcd #15814: the time-to-live of a lease named the keys attached to it to everybody.
#[test]
fn etcd_15814_the_keys_of_a_lease_are_shown_to_who_may_read_them_all() {
    let store = user_with([permission(PermissionKind::Read, "a", "c"), writes("x", "")]);
    let leases = Held(BTreeMap::from([(1, vec!["a", "b"]), (2, vec!["a", "z"]), (3, vec!["x"])]));
    let (state, actor) = (store.state(), user(&store));
    let caller = state.admit(&actor).expect("a user");
    assert!(caller.may_with_lease(Right::Read, 1, &leases).is_ok());
    assert!(caller.may_with_lease(Right::Read, 2, &leases).is_err());
    assert!(caller.may_with_lease(Right::Read, 9, &leases).is_ok(), "no such lease");
    assert!(caller.may_with_lease(Right::Write, 1, &leases).is_err(), "to end it is to delete its keys");
    assert!(caller.may_with_lease(Right::Write, 3, &leases).is_ok());
    for (together, may) in [(&[][..], true), (&[1, 9], true), (&[1, 2], false), (&[2, 1], false)] {
        assert_eq!(caller.may_with_leases(Right::Read, together, &leases).is_ok(), may, "{together:?}");
    }
}

#[test]
fn a_user_sees_itself_and_its_roles() {
    let store = user_with([]);
    let (state, actor) = (store.state(), user(&store));
    let caller = state.admit(&actor).expect("a user");
    assert!(caller.may_see_user("u").is_ok() && caller.may_see_role("r").is_ok());
    assert!(caller.may_see_user("root").is_err() && caller.may_see_role("root").is_err());
}

/// Leases and their keys.
struct Held(BTreeMap<i64, Vec<&'static str>>);

impl AttachedKeys for Held {
    fn all_attached(&self, lease: i64, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.get(&lease).is_none_or(|keys| keys.iter().all(|key| test(key.as_bytes())))
    }
}

impl Store {
    fn run_as_node(&mut self, command: Command) {
        assert!(self.apply_for(&Actor::Node, &command).result.is_ok());
    }
}

/// Every key of up to three letters out of four, `\0` among them: enough for each way in which short intervals can meet.
fn all_keys() -> Vec<Vec<u8>> {
    let letters = [0, b'a', b'b', b'c'];
    let mut keys: Vec<Vec<u8>> = vec![Vec::new()];
    for len in 0..3 {
        let longer: Vec<Vec<u8>> = keys.iter().filter(|key| key.len() == len).cloned().collect();
        keys.extend(longer.iter().flat_map(|key| letters.map(|letter| [&key[..], &[letter]].concat())));
    }
    keys.retain(|key| !key.is_empty());
    keys
}

fn contains(first: &[u8], range_end: &[u8], key: &[u8]) -> bool {
    match range_end {
        [] => key == first,
        [0] => first <= key,
        end => first <= key && key < end,
    }
}

fn short_key() -> impl Strategy<Value = String> {
    "[abc]{1,2}"
}

fn range_end() -> impl Strategy<Value = String> {
    prop_oneof!["", "\0", "[abc]{1,2}", "[abc]\0"]
}

proptest! {
    #[test]
    fn rights_on_intervals_are_those_on_all_their_keys(
        permissions in vec((0..3_usize, short_key(), range_end()), 0..5),
        (key, end) in (short_key(), range_end()),
        reads in any::<bool>(),
    ) {
        let kinds = [PermissionKind::Read, PermissionKind::Write, PermissionKind::ReadWrite];
        let permissions: Vec<Permission> = permissions
            .iter()
            .map(|(kind, key, end)| permission(kinds[*kind], key, end))
            .filter(Permission::is_valid)
            .collect();
        let right = if reads { Right::Read } else { Right::Write };
        let mut store = Store::guarded();
        for change in [user_add("u"), role_add("r"), role_add("s"), give("u", "r"), give("u", "s")] {
            store.change(change);
        }
        for (number, permission) in permissions.iter().enumerate() {
            store.change(grant(if number % 2 == 0 { "r" } else { "s" }, permission.clone()));
        }
        let (state, actor) = (store.state(), user(&store));
        let allowed = state.admit(&actor).expect("a user").may(right, key.as_bytes(), end.as_bytes()).is_ok();

        // The roles' permissions on one interval replace each other, the last one stands.
        let granted: Vec<Permission> =
            ["r", "s"].iter().flat_map(|role| state.role(role).expect("a role").permissions().collect::<Vec<_>>()).collect();
        let covers = |wanted: &[u8]| {
            granted.iter().any(|one| one.kind.gives(right) && contains(&one.key, &one.range_end, wanted))
        };
        let mut wanted: Vec<Vec<u8>> =
            all_keys().into_iter().filter(|one| contains(key.as_bytes(), end.as_bytes(), one)).collect();
        // An endless interval holds keys after all the others; an empty one is judged by its first key.
        if end == "\0" {
            wanted.push(vec![0xff; 4]);
        }
        wanted.push(key.clone().into_bytes());
        prop_assert_eq!(allowed, wanted.iter().all(|one| covers(one)), "{:?} {:?} {:?}", granted, key, end);
    }
}
