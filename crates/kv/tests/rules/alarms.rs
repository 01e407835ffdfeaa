//! Alarms: what they refuse, and that a start finds them again.

use quorate_kv::{
    Actor, Alarm, AlarmCommand, AlarmKind, Command, CompactRequest, KeySpace, KvError, Raised, RequestOp, Response,
    TxnRequest,
};

use crate::store::{Store, delete, everything, put, range};

const FULL: Alarm = Alarm { kind: AlarmKind::NoSpace, member: 7 };
const ASTRAY: Alarm = Alarm { kind: AlarmKind::Corrupt, member: 7 };

#[track_caller]
fn change(store: &mut Store, command: AlarmCommand, answer: &[Alarm]) {
    let outcome = store.apply(&Command::Alarm(command));
    assert_eq!(outcome.result, Ok(Response::Alarm(answer.to_vec())));
    assert!(outcome.changes.is_empty());
}

fn txn(op: RequestOp) -> Command {
    // The put hides in a branch that is not taken, one level down.
    let nested = TxnRequest { failure: vec![op], ..TxnRequest::default() };
    Command::Txn(TxnRequest { success: vec![RequestOp::Txn(nested)], ..TxnRequest::default() })
}

#[test]
fn a_full_store_takes_only_what_makes_room() {
    let mut store = Store::of("a=1 b=2");
    change(&mut store, AlarmCommand::Raise(FULL), &[FULL]);
    for refused in [Command::Put(put("c", "3")), txn(RequestOp::Put(put("c", "3")))] {
        assert_eq!(store.apply(&refused).result, Err(KvError::NoSpace));
    }
    let compact = Command::Compact(CompactRequest { revision: 2, physical: false });
    for taken in [Command::DeleteRange(delete("a", "")), txn(RequestOp::Range(range("a", ""))), compact] {
        assert!(store.apply(&taken).result.is_ok(), "{taken:?}");
    }
    let Ok(read) = store.space.range(&store.records, &everything());
    assert_eq!(read.expect("reads go on").count, 1);
    change(&mut store, AlarmCommand::Clear(FULL), &[FULL]);
    assert!(store.apply(&Command::Put(put("c", "3"))).result.is_ok());
}

#[test]
fn a_store_gone_astray_takes_no_write_at_all() {
    let mut store = Store::of("a=1 b=2");
    change(&mut store, AlarmCommand::Raise(ASTRAY), &[ASTRAY]);
    let compact = Command::Compact(CompactRequest { revision: 2, physical: false });
    for refused in [Command::Put(put("c", "3")), Command::DeleteRange(delete("a", "")), compact] {
        assert_eq!(store.apply(&refused).result, Err(KvError::Corrupt), "{refused:?}");
    }
    change(&mut store, AlarmCommand::Clear(ASTRAY), &[ASTRAY]);
    assert!(store.apply(&Command::DeleteRange(delete("a", ""))).result.is_ok());
}

#[test]
fn exactly_the_named_alarm_is_cleared() {
    let mut store = Store::default();
    let other = Alarm { member: 8, ..FULL };
    change(&mut store, AlarmCommand::Raise(FULL), &[FULL]);
    change(&mut store, AlarmCommand::Raise(FULL), &[FULL]);
    change(&mut store, AlarmCommand::Clear(other), &[]);
    change(&mut store, AlarmCommand::Clear(Alarm { kind: AlarmKind::Corrupt, ..FULL }), &[]);
    change(&mut store, AlarmCommand::Raise(other), &[other]);
    change(&mut store, AlarmCommand::Clear(FULL), &[FULL]);
    assert_eq!(store.space.alarms().iter().collect::<Vec<_>>(), [other]);
    assert_eq!(store.apply(&Command::Put(put("c", "3"))).result, Err(KvError::NoSpace), "another member is full");
}

#[test]
fn an_alarm_tells_whether_a_node_or_a_hand_raised_it() {
    let mut store = Store::default();
    change(&mut store, AlarmCommand::Raise(FULL), &[FULL]);
    assert!(store.apply_for(&Actor::Node, &Command::Alarm(AlarmCommand::Raise(ASTRAY))).result.is_ok());
    assert!(store.apply_for(&Actor::Node, &Command::Alarm(AlarmCommand::Raise(FULL))).result.is_ok());
    let alarms = store.space.alarms();
    assert_eq!(alarms.raised(FULL), Some(Raised::ByHand), "the first to raise it stays its owner");
    assert_eq!(alarms.raised(ASTRAY), Some(Raised::ByNode));
    assert_eq!(alarms.raised(Alarm { member: 8, ..FULL }), None);
    let Ok(again) = KeySpace::rebuild(store.space.meta(), &store.records);
    assert_eq!(again.alarms(), alarms);
}

#[test]
fn a_start_finds_the_alarms_that_stand() {
    let mut store = Store::of("a=1");
    change(&mut store, AlarmCommand::Raise(ASTRAY), &[ASTRAY]);
    change(&mut store, AlarmCommand::Raise(FULL), &[FULL]);
    change(&mut store, AlarmCommand::Clear(ASTRAY), &[ASTRAY]);
    let Ok(again) = KeySpace::rebuild(store.space.meta(), &store.records);
    assert_eq!(again.alarms().iter().collect::<Vec<_>>(), [FULL]);
    assert_eq!(again.digest(), store.space.digest());
}
