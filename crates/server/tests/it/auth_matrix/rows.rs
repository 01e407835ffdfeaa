//! The rows: one call each, as small as can be, who may make it, and what those are told.
//!
//! Calls that change rights are such that root is told of a mistake in them: a change would end every signed token.

use prost::Message;
use quorate_proto::authpb::Permission;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::v3electionpb as election;
use quorate_proto::v3lockpb as lock;

use super::Who;
use crate::served::{put, range};

/// One call.
pub(crate) struct Row {
    pub(crate) method: &'static str,
    /// What of it this row is about.
    pub(crate) what: &'static str,
    pub(crate) message: Vec<u8>,
    pub(crate) may: &'static [Who],
    /// What those who may are told: `ok`, or a refusal as `Code: text`.
    pub(crate) done: &'static str,
}

use Who::{Nobody, Old, OnKey, OnPrefix, Reader, Root, Stranger, Writer};

const EVERYBODY: &[Who] = &Who::ALL;
const NAMED: &[Who] = &[Stranger, Reader, Writer, OnKey, OnPrefix, Root];
const READS_KEY: &[Who] = &[Reader, OnKey, OnPrefix, Root];
const WRITES_KEY: &[Who] = &[Writer, OnKey, OnPrefix, Root];
const OWNS_KEY: &[Who] = &[OnKey, OnPrefix, Root];
const READS_PREFIX: &[Who] = &[Reader, OnPrefix, Root];
const WRITES_PREFIX: &[Who] = &[Writer, OnPrefix, Root];
const OWNS_PREFIX: &[Who] = &[OnPrefix, Root];
const ROOT: &[Who] = &[Root];

const OK: &str = "ok";

fn row(
    method: &'static str,
    what: &'static str,
    message: &impl Message,
    may: &'static [Who],
    done: &'static str,
) -> Row {
    Row { method, what, message: message.encode_to_vec(), may, done }
}

/// All rows. The last turns rights off.
pub(crate) fn rows(own_peer_url: &str) -> Vec<Row> {
    let mut rows = ranges();
    rows.extend(writes());
    rows.extend(transactions());
    rows.extend(watches());
    rows.extend(leases());
    rows.extend(members(own_peer_url));
    rows.extend(maintenance());
    rows.extend(locks_and_elections());
    rows.extend(users());
    rows.extend(roles());
    rows.extend(logins());
    rows
}

/// What it is, its key and range end, who may read and who may write the whole of it.
type Interval = (&'static str, (&'static str, &'static str), &'static [Who], &'static [Who]);

fn intervals() -> [Interval; 6] {
    [
        ("a key", ("app/k", ""), READS_KEY, WRITES_KEY),
        ("the prefix", ("app/", "app0"), READS_PREFIX, WRITES_PREFIX),
        ("a part of the prefix", ("app/x", "app/y"), READS_PREFIX, WRITES_PREFIX),
        ("more than the prefix", ("app/", "app1"), ROOT, ROOT),
        ("everything from a key on", ("app/k", "\0"), ROOT, ROOT),
        ("another key", ("other", ""), ROOT, ROOT),
    ]
}

fn ranges() -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, (key, range_end), read, _) in intervals() {
        let request = pb::RangeRequest { range_end: range_end.into(), ..range(key) };
        let stale = pb::RangeRequest { serializable: true, ..request.clone() };
        rows.push(row("etcdserverpb.KV/Range", what, &request, read, OK));
        rows.push(row("etcdserverpb.KV/Range", what, &stale, read, OK));
        rows.push(row("etcdserverpb.KV/RangeStream", what, &request, read, OK));
    }
    rows
}

fn writes() -> Vec<Row> {
    let key = "app/k";
    let with_lease = |lease: i64| pb::PutRequest { lease, ..put(key, "v") };
    let mut rows = vec![
        row("etcdserverpb.KV/Put", "a key", &put(key, "v"), WRITES_KEY, OK),
        row("etcdserverpb.KV/Put", "another key", &put("other", "v"), ROOT, OK),
        row("etcdserverpb.KV/Put", "prev_kv", &pb::PutRequest { prev_kv: true, ..put(key, "v") }, OWNS_KEY, OK),
        row("etcdserverpb.KV/Put", "a lease of its keys", &with_lease(7), WRITES_KEY, OK),
        row("etcdserverpb.KV/Put", "a lease of others", &with_lease(8), ROOT, OK),
        row("etcdserverpb.KV/Put", "a lease of nobody", &with_lease(9), WRITES_KEY, OK),
        row(
            "etcdserverpb.KV/Compact",
            "",
            &pb::CompactionRequest { revision: i64::MAX, physical: false },
            ROOT,
            "OutOfRange: etcdserver: mvcc: required revision is a future revision",
        ),
    ];
    for (what, (key, range_end), _, write) in intervals() {
        let delete = pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: false };
        rows.push(row("etcdserverpb.KV/DeleteRange", what, &delete, write, OK));
        let shown = pb::DeleteRangeRequest { prev_kv: true, ..delete };
        let owns = if write == WRITES_KEY {
            OWNS_KEY
        } else if write == WRITES_PREFIX {
            OWNS_PREFIX
        } else {
            ROOT
        };
        rows.push(row("etcdserverpb.KV/DeleteRange", "prev_kv", &shown, owns, OK));
    }
    rows
}

/// Each operation where a transaction can hold it: done, not done, and within another one.
fn transactions() -> Vec<Row> {
    let key = "app/k";
    let ranged = |key: &str, range_end: &'static str| pb::RangeRequest { range_end: range_end.into(), ..range(key) };
    let deleted =
        |key: &str, prev_kv| pb::DeleteRangeRequest { key: key.to_owned().into(), prev_kv, ..Default::default() };
    let operations = [
        ("reads a key", Op::RequestRange(range(key)), READS_KEY),
        ("reads the prefix", Op::RequestRange(ranged("app/", "app0")), READS_PREFIX),
        ("reads from a key on", Op::RequestRange(ranged(key, "\0")), ROOT),
        ("writes a key", Op::RequestPut(put(key, "v")), WRITES_KEY),
        ("writes and shows", Op::RequestPut(pb::PutRequest { prev_kv: true, ..put(key, "v") }), OWNS_KEY),
        ("takes a lease of others", Op::RequestPut(pb::PutRequest { lease: 8, ..put(key, "v") }), ROOT),
        ("writes another key", Op::RequestPut(put("other", "v")), ROOT),
        ("deletes a key", Op::RequestDeleteRange(deleted(key, false)), WRITES_KEY),
        ("deletes and shows", Op::RequestDeleteRange(deleted(key, true)), OWNS_KEY),
        ("deletes another key", Op::RequestDeleteRange(deleted("other", false)), ROOT),
    ];
    let txn = "etcdserverpb.KV/Txn";
    let mut rows = Vec::new();
    for (what, operation, may) in operations {
        let op = vec![pb::RequestOp { request: Some(operation) }];
        let success = pb::TxnRequest { success: op.clone(), ..Default::default() };
        let failure = pb::TxnRequest { failure: op, ..Default::default() };
        let inner = vec![pb::RequestOp { request: Some(Op::RequestTxn(failure.clone())) }];
        let nested = pb::TxnRequest { success: inner.clone(), ..Default::default() };
        let not_done = pb::TxnRequest { failure: inner, ..Default::default() };
        rows.extend([success, failure, nested, not_done].iter().map(|request| row(txn, what, request, may, OK)));
    }
    for (what, (key, range_end), read, _) in intervals() {
        let compare = pb::Compare { key: key.into(), range_end: range_end.into(), ..Default::default() };
        let compares = pb::TxnRequest { compare: vec![compare], ..Default::default() };
        rows.push(row(txn, what, &compares, read, OK));
        let nested = vec![pb::RequestOp { request: Some(Op::RequestTxn(compares)) }];
        rows.push(row(txn, what, &pb::TxnRequest { failure: nested, ..Default::default() }, read, OK));
    }
    rows
}

fn watches() -> Vec<Row> {
    let watch = |(key, range_end): (&str, &str)| {
        let create = pb::WatchCreateRequest {
            key: key.to_owned().into(),
            range_end: range_end.to_owned().into(),
            ..Default::default()
        };
        pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) }
    };
    intervals().map(|(what, at, read, _)| row("etcdserverpb.Watch/Watch", what, &watch(at), read, OK)).into()
}

fn leases() -> Vec<Row> {
    let (grant, revoke) = ("etcdserverpb.Lease/LeaseGrant", "etcdserverpb.Lease/LeaseRevoke");
    let (keep, ttl) = ("etcdserverpb.Lease/LeaseKeepAlive", "etcdserverpb.Lease/LeaseTimeToLive");
    let mut rows = vec![row(grant, "", &pb::LeaseGrantRequest { id: 0, ttl: 600 }, NAMED, OK)];
    for (what, id, read, write) in
        [("its key", 7, READS_KEY, WRITES_KEY), ("a key of others", 8, ROOT, ROOT), ("no key", 9, NAMED, NAMED)]
    {
        rows.push(row(keep, what, &pb::LeaseKeepAliveRequest { id }, write, OK));
        rows.push(row(ttl, what, &pb::LeaseTimeToLiveRequest { id, keys: true }, read, OK));
        rows.push(row(ttl, "without keys", &pb::LeaseTimeToLiveRequest { id, keys: false }, NAMED, OK));
        rows.push(row(revoke, what, &pb::LeaseRevokeRequest { id }, write, OK));
    }
    let unknown = "NotFound: etcdserver: requested lease not found";
    rows.push(row(revoke, "none", &pb::LeaseRevokeRequest { id: 4711 }, NAMED, unknown));
    rows.push(row("etcdserverpb.Lease/LeaseLeases", "", &pb::LeaseLeasesRequest {}, ROOT, OK));
    rows
}

fn members(own_peer_url: &str) -> Vec<Row> {
    let peer_ur_ls = vec![own_peer_url.to_owned()];
    let add = pb::MemberAddRequest { peer_ur_ls: peer_ur_ls.clone(), is_learner: false };
    let update = pb::MemberUpdateRequest { id: 1, peer_ur_ls };
    let (local, current) = (false, true);
    let list = |linearizable| pb::MemberListRequest { linearizable };
    let there = "FailedPrecondition: etcdserver: Peer URLs already exists";
    let unknown = "NotFound: etcdserver: member not found";
    vec![
        row("etcdserverpb.Cluster/MemberList", "local", &list(local), NAMED, OK),
        row("etcdserverpb.Cluster/MemberList", "current", &list(current), NAMED, OK),
        row("etcdserverpb.Cluster/MemberAdd", "", &add, ROOT, there),
        row("etcdserverpb.Cluster/MemberRemove", "", &pb::MemberRemoveRequest { id: 1 }, ROOT, unknown),
        row("etcdserverpb.Cluster/MemberUpdate", "", &update, ROOT, unknown),
        row("etcdserverpb.Cluster/MemberPromote", "", &pb::MemberPromoteRequest { id: 1 }, ROOT, unknown),
    ]
}

fn maintenance() -> Vec<Row> {
    let alarm = |action: AlarmAction| pb::AlarmRequest {
        action: action.into(),
        alarm: pb::AlarmType::Nospace.into(),
        ..Default::default()
    };
    let unreadable = "InvalidArgument: etcdserver: wrong downgrade target version format";
    let transferee = "FailedPrecondition: etcdserver: bad leader transferee";
    vec![
        row("etcdserverpb.Maintenance/Status", "", &pb::StatusRequest {}, NAMED, OK),
        row("etcdserverpb.Maintenance/Alarm", "list", &alarm(AlarmAction::Get), NAMED, OK),
        row("etcdserverpb.Maintenance/Alarm", "clear", &alarm(AlarmAction::Deactivate), ROOT, OK),
        row("etcdserverpb.Maintenance/Defragment", "", &pb::DefragmentRequest {}, ROOT, OK),
        row("etcdserverpb.Maintenance/Hash", "", &pb::HashRequest {}, ROOT, OK),
        row("etcdserverpb.Maintenance/HashKV", "", &pb::HashKvRequest { revision: 0 }, ROOT, OK),
        row("etcdserverpb.Maintenance/Snapshot", "", &pb::SnapshotRequest {}, ROOT, OK),
        row("etcdserverpb.Maintenance/MoveLeader", "", &pb::MoveLeaderRequest { target_id: 1 }, ROOT, transferee),
        row("etcdserverpb.Maintenance/Downgrade", "", &pb::DowngradeRequest::default(), ROOT, unreadable),
    ]
}

fn locks_and_elections() -> Vec<Row> {
    let campaign = |name: &str| election::CampaignRequest { name: name.to_owned().into(), lease: 9, value: "v".into() };
    let leader = |name: &str| election::LeaderRequest { name: name.to_owned().into() };
    let key = |key: &str| election::LeaderKey { key: key.to_owned().into(), rev: i64::MAX, ..Default::default() };
    let proclaim = |at| election::ProclaimRequest { leader: Some(key(at)), value: "v".into() };
    let resign = |at| election::ResignRequest { leader: Some(key(at)) };
    let lock = |name: &str| lock::LockRequest { name: name.to_owned().into(), lease: 9 };
    let unlock = |key: &str| lock::UnlockRequest { key: key.to_owned().into() };
    let (not_leader, no_leader) = ("Unknown: election: not leader", "Unknown: election: no leader");
    vec![
        row("v3lockpb.Lock/Lock", "of its prefix", &lock("app/lock"), OWNS_PREFIX, OK),
        row("v3lockpb.Lock/Lock", "elsewhere", &lock("lock"), ROOT, OK),
        row("v3lockpb.Lock/Unlock", "of its prefix", &unlock("app/lock/9"), WRITES_PREFIX, OK),
        row("v3lockpb.Lock/Unlock", "elsewhere", &unlock("lock/9"), ROOT, OK),
        row("v3electionpb.Election/Campaign", "of its prefix", &campaign("app/camp"), OWNS_PREFIX, OK),
        row("v3electionpb.Election/Campaign", "elsewhere", &campaign("camp"), ROOT, OK),
        row("v3electionpb.Election/Proclaim", "of its prefix", &proclaim("app/led/1"), OWNS_PREFIX, not_leader),
        row("v3electionpb.Election/Proclaim", "elsewhere", &proclaim("led/1"), ROOT, not_leader),
        row("v3electionpb.Election/Leader", "of its prefix", &leader("app/led"), READS_PREFIX, OK),
        row("v3electionpb.Election/Leader", "elsewhere", &leader("led"), ROOT, no_leader),
        row("v3electionpb.Election/Observe", "of its prefix", &leader("app/led"), READS_PREFIX, OK),
        row("v3electionpb.Election/Observe", "elsewhere", &leader("camp"), ROOT, OK),
        row("v3electionpb.Election/Resign", "of its prefix", &resign("app/led/1"), OWNS_PREFIX, OK),
        row("v3electionpb.Election/Resign", "elsewhere", &resign("led/1"), ROOT, OK),
    ]
}

fn users() -> Vec<Row> {
    let unknown = "FailedPrecondition: etcdserver: user name not found";
    let there = "FailedPrecondition: etcdserver: user name already exists";
    let (name, role) = ("nobody".to_owned(), "root".to_owned());
    let get = |name: &str| pb::AuthUserGetRequest { name: name.to_owned() };
    let add = pb::AuthUserAddRequest { name: "root".into(), password: "pw".into(), ..Default::default() };
    let change = pb::AuthUserChangePasswordRequest { name: name.clone(), password: "pw".into(), ..Default::default() };
    let grant = pb::AuthUserGrantRoleRequest { user: name.clone(), role: role.clone() };
    let revoke = pb::AuthUserRevokeRoleRequest { name: name.clone(), role };
    vec![
        row("etcdserverpb.Auth/UserAdd", "", &add, ROOT, there),
        row("etcdserverpb.Auth/UserGet", "itself", &get("onkey"), &[OnKey, Root], OK),
        row("etcdserverpb.Auth/UserGet", "root", &get("root"), ROOT, OK),
        row("etcdserverpb.Auth/UserGet", "none", &get("nobody"), ROOT, unknown),
        row("etcdserverpb.Auth/UserList", "", &pb::AuthUserListRequest {}, ROOT, OK),
        row("etcdserverpb.Auth/UserDelete", "", &pb::AuthUserDeleteRequest { name }, ROOT, unknown),
        row("etcdserverpb.Auth/UserChangePassword", "", &change, ROOT, unknown),
        row("etcdserverpb.Auth/UserGrantRole", "", &grant, ROOT, unknown),
        row("etcdserverpb.Auth/UserRevokeRole", "", &revoke, ROOT, unknown),
    ]
}

fn roles() -> Vec<Row> {
    let unknown = "FailedPrecondition: etcdserver: role name not found";
    let there = "FailedPrecondition: etcdserver: role name already exists";
    let get = |role: &str| pb::AuthRoleGetRequest { role: role.to_owned() };
    let perm = Permission { key: "k".into(), ..Default::default() };
    let grant = pb::AuthRoleGrantPermissionRequest { name: "none".into(), perm: Some(perm) };
    let revoke = pb::AuthRoleRevokePermissionRequest { role: "none".into(), key: "k".into(), ..Default::default() };
    vec![
        row("etcdserverpb.Auth/RoleAdd", "", &pb::AuthRoleAddRequest { name: "reader".into() }, ROOT, there),
        row("etcdserverpb.Auth/RoleGet", "its own", &get("writer"), &[Writer, Root], OK),
        row("etcdserverpb.Auth/RoleGet", "root", &get("root"), ROOT, OK),
        row("etcdserverpb.Auth/RoleGet", "none", &get("none"), ROOT, unknown),
        row("etcdserverpb.Auth/RoleList", "", &pb::AuthRoleListRequest {}, ROOT, OK),
        row("etcdserverpb.Auth/RoleDelete", "", &pb::AuthRoleDeleteRequest { role: "none".into() }, ROOT, unknown),
        row("etcdserverpb.Auth/RoleGrantPermission", "", &grant, ROOT, unknown),
        row("etcdserverpb.Auth/RoleRevokePermission", "", &revoke, ROOT, unknown),
    ]
}

/// What is there for those without a name; and the switch.
fn logins() -> Vec<Row> {
    let login = pb::AuthenticateRequest { name: "root".into(), password: "wrong".into() };
    let wrong = "InvalidArgument: etcdserver: authentication failed, invalid user ID or password";
    // Anybody but those with a token of nobody's, who are to log in again.
    let told = &[Nobody, Old, Stranger, Reader, Writer, OnKey, OnPrefix, Root];
    vec![
        row("etcdserverpb.Auth/Authenticate", "", &login, EVERYBODY, wrong),
        row("etcdserverpb.Auth/AuthStatus", "", &pb::AuthStatusRequest {}, told, OK),
        row("etcdserverpb.Auth/AuthEnable", "again", &pb::AuthEnableRequest {}, ROOT, OK),
        row("etcdserverpb.Auth/AuthDisable", "", &pb::AuthDisableRequest {}, ROOT, OK),
    ]
}
