//! Compaction: what it hides at once, and what it takes away in its own time.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use quorate_kv::auth::PermissionKind;
use quorate_kv::{
    Actor, Alarm, AlarmCommand, AlarmKind, AuthCommand, ClusterTime, Command, KvError, LeaseGrantRequest, PutRequest,
    RequestOp, Response, Revision, Step, Table,
};

use crate::auth::{give, grant, permission, role_add, user_add};
use crate::store::{Store, always, at, delete, everything, put};

const COMPACTED: &str = "mvcc: required revision has been compacted";

#[test]
fn the_compact_revision_itself_stays_readable() {
    let mut store = Store::of("a=1 a=2 a=3 -a");
    assert_eq!(store.compact(4), Ok(Response::Compact));
    let check = |store: &Store| {
        assert_eq!(store.range(&at(3, everything())), COMPACTED);
        assert_eq!(store.range(&at(4, everything())), "5: a=3[2,4,3] (1)");
        assert_eq!(store.range(&at(5, everything())), "5:  (0)");
        assert_eq!(store.range(&everything()), "5:  (0)");
    };
    check(&store);
    store.prune();
    check(&store);
    assert_eq!(store.places(), "4.0 5.0");
}

#[test]
fn compacting_again_or_ahead_is_refused() {
    let mut store = Store::of("a=1 a=2 a=3");
    let cases = [
        (-1, Err(KvError::Compacted)),
        (5, Err(KvError::FutureRevision)),
        (3, Ok(Response::Compact)),
        (3, Err(KvError::Compacted)),
        (2, Err(KvError::Compacted)),
        (4, Ok(Response::Compact)),
    ];
    for (revision, answer) in cases {
        assert_eq!(store.compact(revision), answer, "compacting to {revision}");
    }
    assert_eq!(store.space.revision(), Revision(4), "a compaction makes no revision");
    assert_eq!(Store::default().compact(0), Ok(Response::Compact), "etcd lets a new store be compacted to 0");
}

#[test]
fn what_no_readable_revision_needs_is_taken_away() {
    let cases = [
        ("a=1 a=2 a=3", 3, "3.0 4.0"),
        ("a=1 a=2 a=3", 4, "4.0"),
        ("a=1 b=1 a=2", 3, "2.0 3.0 4.0"),
        ("a=1 -a b=1", 4, "4.0"),
        ("a=1 -a b=1", 3, "3.0 4.0"),
        ("a=1 -a a=2 b=1", 3, "3.0 4.0 5.0"),
        ("a=1 -a a=2 b=1", 4, "4.0 5.0"),
        ("a=1 b=1 - c=1", 4, "4.0 4.1 5.0"),
        ("a=1 b=1 - c=1", 5, "5.0"),
    ];
    for (commands, revision, left) in cases {
        let mut store = Store::of(commands);
        store.compact(revision).expect("not compacted yet");
        store.prune();
        assert_eq!(store.places(), left, "{commands} compacted to {revision}");
        assert_eq!(store.space.pruned(), Revision(revision));
    }
}

#[test]
fn a_tombstone_kept_at_one_compaction_goes_at_the_next() {
    let mut store = Store::of("a=1 -a b=1");
    store.compact(3).expect("not compacted yet");
    store.prune();
    assert_eq!((store.places().as_str(), store.space.key_count()), ("3.0 4.0", 2));
    store.compact(4).expect("not compacted yet");
    store.prune();
    assert_eq!((store.places().as_str(), store.space.key_count()), ("4.0", 1));
}

/// etcd 3.7.3 keeps the tombstone in place of the new value, which is gone; the next read that meets it ends the process.
#[test]
fn a_key_deleted_and_put_again_in_one_transaction_outlives_a_compaction_at_its_revision() {
    let mut store = Store::of("a=1 b=old");
    store.txn(always(vec![RequestOp::DeleteRange(delete("a", "\0")), RequestOp::Put(put("b", "new"))]));
    store.compact(4).expect("not compacted yet");
    let check = |store: &Store| {
        assert_eq!(store.range(&at(4, everything())), "4: b=new[4,4,1] (1)");
        assert_eq!(store.range(&everything()), "4: b=new[4,4,1] (1)");
    };
    check(&store);
    store.prune();
    check(&store);
    store.run("c=1");
    store.compact(5).expect("not compacted yet");
    store.prune();
    assert_eq!(store.range(&everything()), "5: b=new[4,4,1] c=1[5,5,1] (2)");
}

#[test]
fn numbers_of_a_key_go_on_after_its_history_is_gone() {
    let mut store = Store::of("a=1 a=2 a=3");
    store.compact(4).expect("not compacted yet");
    store.prune();
    store.run("a=4");
    assert_eq!(store.range(&everything()), "5: a=4[2,5,4] (1)");
}

#[test]
fn steps_are_bounded_and_another_compaction_may_come_between() {
    let mut store = Store::of("a=1 b=1 c=1 a=2 b=2 c=2");
    store.compact(5).expect("not compacted yet");
    assert_eq!(store.prune_some(1), Step::More);
    assert_eq!(store.places(), "3.0 4.0 5.0 6.0 7.0");
    store.compact(7).expect("not compacted yet");
    assert_eq!(store.prune_some(100), Step::More, "the first compaction is done, the second waits");
    assert_eq!(store.space.pruned(), Revision(5));
    assert_eq!(store.prune_some(100), Step::Done);
    assert_eq!((store.space.pruned(), store.places().as_str()), (Revision(7), "5.0 6.0 7.0"));
    assert_eq!(store.prune_some(100), Step::Done);
}

#[test]
fn nothing_is_removed_while_there_is_a_pin() {
    let mut store = Store::of("a=1 b=1 -a -b c=1");
    store.compact(6).expect("not compacted yet");
    assert_eq!(store.prune_some(1), Step::More);
    let left = "3.0 5.0 6.0";
    assert_eq!(store.places(), left);
    let pins = [store.space.pin(), store.space.pin()];
    // A snapshot that has read 3.0 must find 5.0, too, although a pass that lets both go is under way.
    for pin in pins {
        store.prune();
        assert_eq!(store.places(), left);
        store.space.unpin(pin);
    }
    store.prune();
    assert_eq!((store.places().as_str(), store.space.pruned()), ("6.0", Revision(6)));
}

#[test]
fn the_pace_of_removal_is_not_in_the_digest() {
    let mut eager = Store::of("a=1 b=1 a=2");
    let mut lazy = Store::of("a=1 b=1 a=2");
    assert_eq!(eager.space.digest(), lazy.space.digest());
    for store in [&mut eager, &mut lazy] {
        store.compact(4).expect("not compacted yet");
    }
    eager.prune();
    assert_ne!(eager.places(), lazy.places());
    assert_eq!(eager.space.digest(), lazy.space.digest());
}

#[test]
fn every_change_is_in_the_digest() {
    let base = Store::of("a=1 b=1");
    let mut compacted = Store::of("a=1 b=1");
    compacted.compact(2).expect("not compacted yet");
    let others = [Store::of("a=1"), Store::of("b=1 a=1"), Store::of("a=1 b=2"), Store::of("a=1 -a"), compacted];
    let mut digests: Vec<_> = others.iter().chain([&base]).map(|store| store.space.digest().0).collect();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 6);
}

/// Commands that put and remove rows of every table, in one order.
fn changes_of_rows() -> Vec<Command> {
    let alarm = Alarm { kind: AlarmKind::NoSpace, member: 7 };
    let lease = |id| Command::LeaseGrant(LeaseGrantRequest { id, ttl_seconds: 10 });
    let attached = |key| Command::Put(PutRequest { lease: 7, ..put(key, "v") });
    let rights = permission(PermissionKind::Read, "a", "");
    let auth = [
        user_add("root"),
        role_add("r"),
        grant("r", rights),
        give("root", "root"),
        give("root", "r"),
        AuthCommand::Enable,
        AuthCommand::Disable,
        AuthCommand::UserRevokeRole { user: "root".into(), role: "r".into() },
        AuthCommand::RoleDelete { name: "r".into() },
        AuthCommand::UserDelete { name: "root".into() },
    ];
    let mut commands = vec![
        Command::Clock(ClusterTime(1_000)),
        lease(7),
        lease(8),
        attached("a"),
        attached("b"),
        Command::Put(put("a", "v")),
        Command::Clock(ClusterTime(2_000)),
        Command::LeaseRenew { ids: vec![8] },
        Command::LeaseRevoke { id: 8 },
        Command::LeaseRevoke { id: 7 },
        Command::Alarm(AlarmCommand::Raise(alarm)),
        Command::Alarm(AlarmCommand::Clear(alarm)),
    ];
    commands.extend(auth.map(Command::Auth));
    commands
}

/// Two nodes that differ in a lease, a right or an alarm would answer differently one day.
#[test]
fn every_change_of_a_row_is_in_the_digest() {
    type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;
    let rows = |store: &Store| -> Rows {
        store.records.rows().map(|(table, key, value)| ((table, key.to_vec()), value.to_vec())).collect()
    };
    let mut store = Store::default();
    let (mut put, mut removed, mut digests) = (BTreeSet::new(), BTreeSet::new(), HashSet::from([store.space.digest()]));
    for command in changes_of_rows() {
        let before = rows(&store);
        store.apply_for(&Actor::Node, &command).result.expect("not refused");
        let after = rows(&store);
        assert_ne!(before, after, "{command:?}");
        put.extend(after.iter().filter(|(at, value)| before.get(at) != Some(value)).map(|((table, _), _)| *table));
        removed.extend(before.keys().filter(|at| !after.contains_key(at)).map(|(table, _)| *table));
        // Also where the rows are again what they were.
        assert!(digests.insert(store.space.digest()), "{command:?}");
    }
    assert_eq!(put, BTreeSet::from(Table::ALL));
    assert_eq!(removed, BTreeSet::from([Table::Lease, Table::Attachment, Table::User, Table::Role, Table::Alarm]));
}

#[test]
fn a_row_that_differs_gives_another_digest() {
    let digest = |commands: &[Command]| {
        let mut store = Store::default();
        commands.iter().for_each(|command| drop(store.apply_for(&Actor::Node, command)));
        store.space.digest()
    };
    let commands = changes_of_rows();
    let whole = digest(&commands);
    for left_out in 0..commands.len() {
        let others: Vec<Command> = [&commands[..left_out], &commands[left_out + 1..]].concat();
        assert_ne!(digest(&others), whole, "without {:?}", commands[left_out]);
    }
    let other = |command| digest(&[command]);
    let lease = |id, ttl_seconds| Command::LeaseGrant(LeaseGrantRequest { id, ttl_seconds });
    assert_ne!(other(lease(7, 10)), other(lease(7, 11)));
    assert_ne!(other(lease(7, 10)), other(lease(8, 10)));
    let alarm = |member| Command::Alarm(AlarmCommand::Raise(Alarm { kind: AlarmKind::NoSpace, member }));
    assert_ne!(other(alarm(7)), other(alarm(8)));
    assert_ne!(other(Command::Auth(user_add("a"))), other(Command::Auth(role_add("a"))));
}

#[test]
fn reading_changes_no_digest() {
    let mut store = Store::of("a=1");
    let digest = store.space.digest();
    store.run("-x");
    assert_eq!(store.range(&everything()), "2: a=1[2,2,1] (1)");
    assert_eq!(store.space.digest(), digest);
}
