//! The committed log as JSON lines, for checkers outside the project. The format is documented and stable.
//!
//! Owns the shape of a line, and tells an expiry that was void from one that ended a lease; which entries are committed,
//! and the revision after each, the caller knows.

mod expiries;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use quorate_kv::auth::PermissionKind;
use quorate_kv::{
    AlarmCommand, AlarmKind, AuthCommand, Command, Compare, CompareResult, CompareTarget, DeleteRangeRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use quorate_raft::{Entry, Membership, Payload};
use serde_json::{Map, Value, json};

use crate::{DecodeError, decode_envelope};
use expiries::Expiries;

/// Prints the entries of one log.
#[derive(Debug, Default)]
pub struct Printer {
    expiries: Expiries,
}

impl Printer {
    /// The line of the next entry, without a line end. `revision` is the store's after the entry; 0 = not known.
    ///
    /// # Errors
    /// Any [`DecodeError`] if the entry's command cannot be read.
    pub fn line(&mut self, entry: &Entry, revision: i64) -> Result<String, DecodeError> {
        let command = match &entry.payload {
            Payload::Command(bytes) => Some(decode_envelope(bytes)?.command),
            Payload::Noop | Payload::Membership(_) => None,
        };
        let void = self.expiries.is_void(command.as_ref(), revision);
        let request = match (&entry.payload, &command) {
            (_, Some(Command::LeaseExpire(due))) if void => json!({ "type": "other", "void_expiry_of": due.id }),
            (_, Some(command)) => request(command),
            (Payload::Membership(membership), None) => conf_change(membership),
            (_, None) => json!({ "type": "noop" }),
        };
        let (index, term) = (entry.index.0, entry.term.0);
        // Built by hand so that the position comes first: people read these lines too.
        Ok(format!(r#"{{"index":{index},"term":{term},"revision":{revision},"request":{request}}}"#))
    }
}

fn conf_change(membership: &Membership) -> Value {
    let ids = |ids: &std::collections::BTreeSet<quorate_raft::NodeId>| -> Vec<String> {
        // As text: JSON readers that hold numbers as floats would round an id.
        ids.iter().map(|id| id.0.to_string()).collect()
    };
    json!({
        "type": "conf_change",
        "voters": ids(&membership.voters),
        "outgoing": ids(&membership.outgoing),
        "learners": ids(&membership.learners),
        "cluster_version": membership.cluster_version,
    })
}

fn request(command: &Command) -> Value {
    match command {
        Command::Put(request) => put(request),
        Command::DeleteRange(request) => delete_range(request),
        Command::Txn(request) => txn(request),
        Command::Compact(request) => json!({ "type": "compact", "revision": request.revision }),
        Command::Auth(change) => auth_change(change),
        Command::Alarm(change) => alarm_change(*change),
        Command::Clock(now) => json!({ "type": "clock", "milliseconds": now.0 }),
        Command::LeaseGrant(grant) => {
            json!({ "type": "lease_grant", "id": grant.id, "ttl": grant.ttl_seconds })
        }
        Command::LeaseRevoke { id } => json!({ "type": "lease_revoke", "id": id }),
        Command::LeaseRenew { ids } => json!({ "type": "lease_keepalive", "ids": ids }),
        Command::LeaseExpire(due) => json!({ "type": "lease_revoke", "id": due.id, "expired": true }),
    }
}

/// Hashes of passwords and tokens are left out.
fn auth_change(change: &AuthCommand) -> Value {
    let kind = |kind: &str| json!({ "type": kind });
    match change {
        AuthCommand::Enable => kind("auth_enable"),
        AuthCommand::Disable => kind("auth_disable"),
        AuthCommand::UserAdd { name, password } => {
            json!({ "type": "user_add", "user": name, "no_password": password.is_none() })
        }
        AuthCommand::UserDelete { name } => json!({ "type": "user_delete", "user": name }),
        AuthCommand::UserChangePassword { name, .. } => json!({ "type": "user_change_password", "user": name }),
        AuthCommand::UserGrantRole { user, role } => json!({ "type": "user_grant_role", "user": user, "role": role }),
        AuthCommand::UserRevokeRole { user, role } => json!({ "type": "user_revoke_role", "user": user, "role": role }),
        AuthCommand::RoleAdd { name } => json!({ "type": "role_add", "role": name }),
        AuthCommand::RoleDelete { name } => json!({ "type": "role_delete", "role": name }),
        AuthCommand::RoleGrantPermission { role, permission } => {
            let mut out = typed("role_grant_permission");
            out.insert("role".to_owned(), role.as_str().into());
            let kind = match permission.kind {
                PermissionKind::Read => "read",
                PermissionKind::Write => "write",
                PermissionKind::ReadWrite => "readwrite",
            };
            out.insert("permission".to_owned(), kind.into());
            interval(&mut out, &permission.key, &permission.range_end);
            Value::Object(out)
        }
        AuthCommand::RoleRevokePermission { role, key, range_end } => {
            let mut out = typed("role_revoke_permission");
            out.insert("role".to_owned(), role.as_str().into());
            interval(&mut out, key, range_end);
            Value::Object(out)
        }
        AuthCommand::Login { user, .. } => json!({ "type": "login", "user": user }),
    }
}

fn alarm_change(change: AlarmCommand) -> Value {
    let (kind, alarm) = match change {
        AlarmCommand::Raise(alarm) => ("alarm_raise", alarm),
        AlarmCommand::Clear(alarm) => ("alarm_clear", alarm),
    };
    let what = match alarm.kind {
        AlarmKind::NoSpace => "nospace",
        AlarmKind::Corrupt => "corrupt",
    };
    json!({ "type": kind, "alarm": what, "member": alarm.member.to_string() })
}

fn put(put: &PutRequest) -> Value {
    let mut out = typed("put");
    bytes(&mut out, "key", &put.key);
    bytes(&mut out, "value", &put.value);
    if put.lease != 0 {
        out.insert("lease".to_owned(), put.lease.into());
    }
    // Without these the value and lease written cannot be told from the line.
    if put.ignore_value {
        out.insert("ignore_value".to_owned(), true.into());
    }
    if put.ignore_lease {
        out.insert("ignore_lease".to_owned(), true.into());
    }
    Value::Object(out)
}

fn delete_range(delete: &DeleteRangeRequest) -> Value {
    let mut out = typed("delete_range");
    interval(&mut out, &delete.key, &delete.range_end);
    Value::Object(out)
}

fn range(range: &RangeRequest) -> Value {
    let mut out = typed("range");
    interval(&mut out, &range.key, &range.range_end);
    Value::Object(out)
}

fn txn(txn: &TxnRequest) -> Value {
    let mut out = typed("txn");
    let list = |ops: &[RequestOp]| Value::Array(ops.iter().map(operation).collect());
    out.insert("compare".to_owned(), Value::Array(txn.compare.iter().map(compare).collect()));
    out.insert("success".to_owned(), list(&txn.success));
    out.insert("failure".to_owned(), list(&txn.failure));
    Value::Object(out)
}

fn operation(op: &RequestOp) -> Value {
    match op {
        RequestOp::Range(request) => range(request),
        RequestOp::Put(request) => put(request),
        RequestOp::DeleteRange(request) => delete_range(request),
        RequestOp::Txn(request) => txn(request),
    }
}

fn compare(compare: &Compare) -> Value {
    let mut out = Map::new();
    interval(&mut out, &compare.key, &compare.range_end);
    let result = match compare.result {
        CompareResult::Equal => "equal",
        CompareResult::Greater => "greater",
        CompareResult::Less => "less",
        CompareResult::NotEqual => "not_equal",
    };
    out.insert("result".to_owned(), result.into());
    let (target, field, operand) = match &compare.target {
        CompareTarget::Version(version) => ("version", "version", *version),
        CompareTarget::Create(revision) => ("create", "create_revision", *revision),
        CompareTarget::Mod(revision) => ("mod", "mod_revision", *revision),
        CompareTarget::Lease(lease) => ("lease", "lease", *lease),
        CompareTarget::Value(value) => {
            out.insert("target".to_owned(), "value".into());
            bytes(&mut out, "value", value);
            return Value::Object(out);
        }
    };
    out.insert("target".to_owned(), target.into());
    out.insert(field.to_owned(), operand.into());
    Value::Object(out)
}

fn typed(kind: &str) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("type".to_owned(), kind.into());
    out
}

fn interval(out: &mut Map<String, Value>, key: &Bytes, range_end: &Bytes) {
    bytes(out, "key", key);
    if !range_end.is_empty() {
        bytes(out, "range_end", range_end);
    }
}

fn bytes(out: &mut Map<String, Value>, name: &str, value: &Bytes) {
    match std::str::from_utf8(value) {
        Ok(text) => out.insert(name.to_owned(), text.into()),
        Err(_) => out.insert(format!("{name}_b64"), BASE64.encode(value).into()),
    };
}
