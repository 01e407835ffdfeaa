//! The JSON lines, as the documentation promises them.

use std::sync::Arc;

use bytes::Bytes;
use quorate_kv::{
    ClusterTime, Command, CompactRequest, Compare, CompareResult, CompareTarget, DeleteRangeRequest, DueLease,
    LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use quorate_raft::{Entry, Incarnation, LogIndex, Membership, NodeId, Payload, Term};
use quorate_wire::{Envelope, dump, encode_envelope};

fn line(payload: Payload) -> String {
    let entry = Entry { term: Term(2), index: LogIndex(5), payload };
    dump::Printer::default().line(&entry, 4).expect("a sound entry")
}

fn command(command: Command) -> String {
    let envelope = Envelope {
        origin: NodeId(1),
        incarnation: Incarnation(2),
        sequence: 3,
        actor: quorate_kv::Actor::Anonymous,
        command,
    };
    line(Payload::Command(encode_envelope(&envelope)))
}

#[track_caller]
fn check(line: &str, expected: &str) {
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    assert_eq!(parse(line), parse(expected));
    assert!(line.starts_with(r#"{"index":5,"term":2,"revision":4,"request":"#), "{line}");
    assert!(!line.contains('\n'));
}

#[test]
fn a_transaction_is_shown_whole() {
    let compare = Compare {
        key: "a".into(),
        range_end: Bytes::new(),
        target: CompareTarget::Mod(2),
        result: CompareResult::Equal,
    };
    let put = PutRequest { key: "a".into(), value: "3".into(), lease: 7, ..PutRequest::default() };
    let range = |key: &str| RequestOp::Range(RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() });
    let txn = TxnRequest {
        compare: vec![compare],
        success: vec![RequestOp::Put(put), range("b")],
        failure: vec![range("a")],
    };
    check(
        &command(Command::Txn(txn)),
        r#"{"index":5,"term":2,"revision":4,"request":{"type":"txn","compare":[{"key":"a","target":"mod","result":"equal","mod_revision":2}],"success":[{"type":"put","key":"a","value":"3","lease":7},{"type":"range","key":"b"}],"failure":[{"type":"range","key":"a"}]}}"#,
    );
}

#[test]
fn bytes_that_are_no_text_are_shown_in_base64() {
    let put = PutRequest { key: vec![0xff, 0xfe].into(), value: vec![0x80].into(), ..PutRequest::default() };
    check(
        &command(Command::Put(put)),
        r#"{"index":5,"term":2,"revision":4,"request":{"type":"put","key_b64":"//4=","value_b64":"gA=="}}"#,
    );
    let compare = Compare {
        key: vec![0xff].into(),
        range_end: vec![0xfe].into(),
        target: CompareTarget::Value(vec![0x80].into()),
        result: CompareResult::NotEqual,
    };
    check(
        &command(Command::Txn(TxnRequest { compare: vec![compare], ..TxnRequest::default() })),
        r#"{"index":5,"term":2,"revision":4,"request":{"type":"txn","compare":[{"key_b64":"/w==","range_end_b64":"/g==","target":"value","result":"not_equal","value_b64":"gA=="}],"success":[],"failure":[]}}"#,
    );
}

#[test]
fn deletes_and_compactions_are_shown() {
    let delete = DeleteRangeRequest { key: "a".into(), range_end: "b".into(), prev_kv: true };
    check(
        &command(Command::DeleteRange(delete)),
        r#"{"index":5,"term":2,"revision":4,"request":{"type":"delete_range","key":"a","range_end":"b"}}"#,
    );
    check(
        &command(Command::Compact(CompactRequest { revision: 3, physical: true })),
        r#"{"index":5,"term":2,"revision":4,"request":{"type":"compact","revision":3}}"#,
    );
}

#[test]
fn leases_are_shown_and_one_that_ran_out_is_revoked() {
    let shown = |command: Command, request: &str| {
        check(&self::command(command), &format!(r#"{{"index":5,"term":2,"revision":4,"request":{request}}}"#));
    };
    let grant = LeaseGrantRequest { id: 7, ttl_seconds: 10 };
    shown(Command::LeaseGrant(grant), r#"{"type":"lease_grant","id":7,"ttl":10}"#);
    shown(Command::LeaseRevoke { id: -7 }, r#"{"type":"lease_revoke","id":-7}"#);
    shown(Command::LeaseRenew { ids: vec![7, 8] }, r#"{"type":"lease_keepalive","ids":[7,8]}"#);
    let due = DueLease { id: 7, deadline: ClusterTime(10_000) };
    shown(Command::LeaseExpire(due), r#"{"type":"lease_revoke","id":7,"expired":true}"#);
    shown(Command::Clock(ClusterTime(5)), r#"{"type":"clock","milliseconds":5}"#);
}

/// What the log says of the last command, after each of which the store is at the revision beside it.
fn last_of(commands: &[(Command, i64)]) -> serde_json::Value {
    let mut printer = dump::Printer::default();
    let mut last = String::new();
    for (index, (command, revision)) in (1..).zip(commands) {
        let command = command.clone();
        let envelope = Envelope {
            origin: NodeId(1),
            incarnation: Incarnation(2),
            sequence: 3,
            actor: quorate_kv::Actor::Anonymous,
            command,
        };
        let payload = Payload::Command(encode_envelope(&envelope));
        let entry = Entry { term: Term(2), index: LogIndex(index), payload };
        last = printer.line(&entry, *revision).expect("a sound entry");
    }
    serde_json::from_str::<serde_json::Value>(&last).expect("JSON")["request"]["type"].clone()
}

#[test]
fn an_expiry_that_a_renewal_made_void_is_no_revoke() {
    let clock = |seconds: u64| (Command::Clock(ClusterTime(seconds * 1000)), 4);
    let grant = (Command::LeaseGrant(LeaseGrantRequest { id: 7, ttl_seconds: 10 }), 4);
    let renew = (Command::LeaseRenew { ids: vec![7] }, 4);
    let expire = |seconds: u64, revision| {
        (Command::LeaseExpire(DueLease { id: 7, deadline: ClusterTime(seconds * 1000) }), revision)
    };
    assert_eq!(last_of(&[grant.clone(), clock(10), expire(10, 4)]), "lease_revoke");
    assert_eq!(last_of(&[grant.clone(), clock(10), renew.clone(), expire(10, 4)]), "other");
    assert_eq!(last_of(&[grant.clone(), clock(10), renew.clone(), clock(20), expire(20, 4)]), "lease_revoke");
    // The grant is no longer in the log.
    assert_eq!(last_of(&[clock(10), expire(10, 4)]), "lease_revoke");
    assert_eq!(last_of(&[clock(10), renew.clone(), expire(10, 4)]), "other");
    assert_eq!(last_of(&[clock(10), renew, clock(20), expire(20, 5)]), "lease_revoke");
}

#[test]
fn entries_of_consensus_are_shown_too() {
    check(&line(Payload::Noop), r#"{"index":5,"term":2,"revision":4,"request":{"type":"noop"}}"#);
    let membership = Membership {
        voters: [NodeId(u64::MAX)].into(),
        learners: [NodeId(2)].into(),
        cluster_version: 1,
        ..Membership::default()
    };
    check(
        &line(Payload::Membership(Arc::new(membership))),
        r#"{"index":5,"term":2,"revision":4,"request":{"type":"conf_change","voters":["18446744073709551615"],"outgoing":[],"learners":["2"],"cluster_version":1}}"#,
    );
}

#[test]
fn an_entry_that_cannot_be_read_is_an_error_not_a_line() {
    let entry = Entry { term: Term(2), index: LogIndex(5), payload: Payload::Command(Bytes::from_static(b"\xff")) };
    assert!(dump::Printer::default().line(&entry, 4).is_err());
}
