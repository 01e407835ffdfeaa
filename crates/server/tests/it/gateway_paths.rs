//! Every path of etcd's JSON gateway: the same call as gRPC to one node and as JSON to another, and the answers compared.
//!
//! Both nodes get the same calls in the same order, those of the matrix of rights, which ask something of every method.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MessageDescriptor, MethodDescriptor, ReflectMessage as _, Value as Field,
};
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::auth_matrix::rows::{Row, rows};
use crate::auth_matrix::{ask, restore};
use crate::cluster::PATIENCE;
use crate::etcd_auth::{As, NOBODY};
use crate::served::Served;

/// Paths below `/v3/` and the method behind each.
const PATHS: [(&str, &str); 51] = [
    ("kv/range", "etcdserverpb.KV/Range"),
    ("kv/put", "etcdserverpb.KV/Put"),
    ("kv/deleterange", "etcdserverpb.KV/DeleteRange"),
    ("kv/txn", "etcdserverpb.KV/Txn"),
    ("kv/compaction", "etcdserverpb.KV/Compact"),
    ("watch", "etcdserverpb.Watch/Watch"),
    ("lease/grant", "etcdserverpb.Lease/LeaseGrant"),
    ("lease/revoke", "etcdserverpb.Lease/LeaseRevoke"),
    ("kv/lease/revoke", "etcdserverpb.Lease/LeaseRevoke"),
    ("lease/keepalive", "etcdserverpb.Lease/LeaseKeepAlive"),
    ("lease/timetolive", "etcdserverpb.Lease/LeaseTimeToLive"),
    ("kv/lease/timetolive", "etcdserverpb.Lease/LeaseTimeToLive"),
    ("lease/leases", "etcdserverpb.Lease/LeaseLeases"),
    ("kv/lease/leases", "etcdserverpb.Lease/LeaseLeases"),
    ("cluster/member/add", "etcdserverpb.Cluster/MemberAdd"),
    ("cluster/member/remove", "etcdserverpb.Cluster/MemberRemove"),
    ("cluster/member/update", "etcdserverpb.Cluster/MemberUpdate"),
    ("cluster/member/list", "etcdserverpb.Cluster/MemberList"),
    ("cluster/member/promote", "etcdserverpb.Cluster/MemberPromote"),
    ("maintenance/alarm", "etcdserverpb.Maintenance/Alarm"),
    ("maintenance/status", "etcdserverpb.Maintenance/Status"),
    ("maintenance/defragment", "etcdserverpb.Maintenance/Defragment"),
    ("maintenance/hash", "etcdserverpb.Maintenance/Hash"),
    ("maintenance/hashkv", "etcdserverpb.Maintenance/HashKV"),
    ("maintenance/snapshot", "etcdserverpb.Maintenance/Snapshot"),
    ("maintenance/transfer-leadership", "etcdserverpb.Maintenance/MoveLeader"),
    ("maintenance/downgrade", "etcdserverpb.Maintenance/Downgrade"),
    ("auth/enable", "etcdserverpb.Auth/AuthEnable"),
    ("auth/disable", "etcdserverpb.Auth/AuthDisable"),
    ("auth/status", "etcdserverpb.Auth/AuthStatus"),
    ("auth/authenticate", "etcdserverpb.Auth/Authenticate"),
    ("auth/user/add", "etcdserverpb.Auth/UserAdd"),
    ("auth/user/get", "etcdserverpb.Auth/UserGet"),
    ("auth/user/list", "etcdserverpb.Auth/UserList"),
    ("auth/user/delete", "etcdserverpb.Auth/UserDelete"),
    ("auth/user/changepw", "etcdserverpb.Auth/UserChangePassword"),
    ("auth/user/grant", "etcdserverpb.Auth/UserGrantRole"),
    ("auth/user/revoke", "etcdserverpb.Auth/UserRevokeRole"),
    ("auth/role/add", "etcdserverpb.Auth/RoleAdd"),
    ("auth/role/get", "etcdserverpb.Auth/RoleGet"),
    ("auth/role/list", "etcdserverpb.Auth/RoleList"),
    ("auth/role/delete", "etcdserverpb.Auth/RoleDelete"),
    ("auth/role/grant", "etcdserverpb.Auth/RoleGrantPermission"),
    ("auth/role/revoke", "etcdserverpb.Auth/RoleRevokePermission"),
    ("election/campaign", "v3electionpb.Election/Campaign"),
    ("election/proclaim", "v3electionpb.Election/Proclaim"),
    ("election/leader", "v3electionpb.Election/Leader"),
    ("election/observe", "v3electionpb.Election/Observe"),
    ("election/resign", "v3electionpb.Election/Resign"),
    ("lock/lock", "v3lockpb.Lock/Lock"),
    ("lock/unlock", "v3lockpb.Lock/Unlock"),
];

/// What two nodes that were asked the same tell differently: names, sizes and times.
const OF_ONE_NODE: [(&str, &str); 14] = [
    ("ResponseHeader", "member_id"),
    ("ResponseHeader", "raft_term"),
    ("LeaseGrantResponse", "ID"),
    ("LeaseStatus", "ID"),
    ("LeaseTimeToLiveResponse", "TTL"),
    ("Member", "ID"),
    ("Member", "peerURLs"),
    ("Member", "clientURLs"),
    ("StatusResponse", "leader"),
    ("StatusResponse", "raftIndex"),
    ("StatusResponse", "raftAppliedIndex"),
    ("StatusResponse", "raftTerm"),
    ("HashResponse", "hash"),
    ("SnapshotResponse", "blob"),
];
/// As far as it is about the files.
const OF_FILES: [&str; 3] = ["dbSize", "dbSizeInUse", "remaining_bytes"];

fn method(pool: &DescriptorPool, name: &str) -> MethodDescriptor {
    let (service, method) = name.split_once('/').expect("a service and a method");
    let service = pool.get_service_by_name(service).expect("a service");
    service.methods().find(|known| known.name() == method).expect("a method")
}

/// Without what is of one node.
fn comparable(mut message: DynamicMessage) -> DynamicMessage {
    for field in message.descriptor().fields().collect::<Vec<_>>() {
        let name = (field.parent_message().name(), field.name());
        let is_volatile = OF_ONE_NODE.iter().any(|known| (known.0, known.1) == (name.0, name.1));
        if is_volatile || OF_FILES.contains(&field.name()) {
            message.clear_field(&field);
        } else if matches!(field.kind(), Kind::Message(_)) && message.has_field(&field) && !field.is_map() {
            let inner = match message.get_field(&field).into_owned() {
                Field::Message(inner) => Field::Message(comparable(inner)),
                Field::List(all) => Field::List(all.into_iter().map(listed).collect()),
                other => other,
            };
            message.set_field(&field, inner);
        }
    }
    message
}

fn listed(value: Field) -> Field {
    match value {
        Field::Message(inner) => Field::Message(comparable(inner)),
        other => other,
    }
}

fn decoded(descriptor: MessageDescriptor, bytes: Bytes) -> DynamicMessage {
    comparable(DynamicMessage::decode(descriptor, bytes).expect("a message"))
}

fn read(descriptor: MessageDescriptor, value: Value) -> DynamicMessage {
    comparable(DynamicMessage::deserialize(descriptor, value).expect("a message"))
}

/// Status and the first whole line of a body that may have no end.
async fn post(served: &Served, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(served.server.client_address()).await.expect("connected");
    let head = format!("POST /v3/{path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let reading = async {
        loop {
            if let Some(whole) = whole(&answer) {
                return whole;
            }
            assert_ne!(stream.read_buf(&mut answer).await.expect("readable"), 0, "cut: {answer:?}");
        }
    };
    timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("{path} answers in time"))
}

/// The head, and a body of known length or its first chunk, which is a line.
fn whole(answer: &[u8]) -> Option<(u16, String)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let (length, body) = match head.lines().find_map(|line| line.strip_prefix("content-length: ")) {
        Some(length) => (length.parse().ok()?, &answer[end + 4..]),
        None => {
            let size = answer[end + 4..].windows(2).position(|window| window == b"\r\n")?;
            let (size, rest) = answer[end + 4..].split_at(size);
            (usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?, &rest[2..])
        }
    };
    body.get(..length).map(|body| (status, String::from_utf8_lossy(body).into_owned()))
}

/// The status that etcd's gateway gives for a code.
fn http_status(code: Code) -> u16 {
    match code {
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::NotFound => 404,
        Code::Unknown => 500,
        other => panic!("no row ends with {other:?}"),
    }
}

/// What is wrong with the JSON answer, if it is not the gRPC one.
fn differs(method: &MethodDescriptor, grpc: Result<Bytes, Status>, json: (u16, String)) -> Option<String> {
    let Ok(value) = serde_json::from_str::<Value>(&json.1) else { return Some("no JSON".to_owned()) };
    let is_stream = method.is_server_streaming();
    let (expected, told) = match grpc {
        Ok(bytes) => {
            let value = if is_stream { value["result"].clone() } else { value };
            (format!("200 {}", decoded(method.output(), bytes)), format!("{} {}", json.0, read(method.output(), value)))
        }
        Err(status) => {
            let refusal = json!({ "code": status.code() as i32, "message": status.message() });
            let refusal = if is_stream { json!({ "error": refusal }) } else { refusal };
            (format!("{} {refusal}", http_status(status.code())), format!("{} {value}", json.0))
        }
    };
    (told != expected).then(|| format!("{told}, not {expected}"))
}

fn own_rows(served: &Served) -> Vec<Row> {
    rows(&format!("http://{}", served.server.replica().own_identity().member.peer_address))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_answers_as_the_method_behind_it() {
    let pool = DescriptorPool::decode(quorate_proto::FILE_DESCRIPTOR_SET).expect("descriptors");
    let (by_grpc, by_json) = (Served::alone().await, Served::alone().await);
    restore(&by_grpc, &As(None)).await;
    restore(&by_json, &As(None)).await;
    let (mut wrong, mut asked) = (Vec::new(), BTreeSet::new());
    for (row, same) in own_rows(&by_grpc).iter().zip(own_rows(&by_json)) {
        let method = method(&pool, row.method);
        let body = DynamicMessage::decode(method.input(), &same.message[..]).expect("a message");
        let body = serde_json::to_string(&body).expect("has JSON");
        for (path, _) in PATHS.iter().filter(|(_, of)| *of == row.method) {
            let answers = (ask(&by_grpc, row, None).await, post(&by_json, path, &body).await);
            let text = answers.1.1.clone();
            if let Some(difference) = differs(&method, answers.0, answers.1) {
                wrong.push(format!("{path} ({}) {body}: {difference} in {text}", row.what));
            }
            asked.insert(*path);
            restore(&by_grpc, &As(None)).await;
            restore(&by_json, &As(None)).await;
        }
    }
    assert!(wrong.is_empty(), "{} answers differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(asked, PATHS.iter().map(|(path, _)| *path).collect());
    by_grpc.server.stop().await;
    by_json.server.stop().await;
}

/// As etcd 3.7.3 was seen to answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_refused_before_it_begins_says_so_as_streams_do() {
    let (served, _) = Served::with_root().await;
    let nobody = json!({ "code": 3, "message": NOBODY });
    for (path, body) in [("maintenance/snapshot", "{}"), ("lease/keepalive", "{\"ID\":5}")] {
        let (status, text) = post(&served, path, body).await;
        assert_eq!((status, text), (400, format!("{}\n", json!({ "error": nobody }))), "{path}");
    }
    let (status, text) = post(&served, "kv/range", "{\"key\":\"YQ==\"}").await;
    assert_eq!((status, serde_json::from_str::<Value>(&text).expect("JSON")), (400, nobody));
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keepalives_are_a_line_each_and_a_watch_goes_on_with_a_line_a_change() {
    let served = Served::alone().await;
    LeaseClient::new(served.channel()).lease_grant(pb::LeaseGrantRequest { id: 5, ttl: 60 }).await.expect("granted");
    let told = served.http("POST", "/v3/lease/keepalive", b"{\"ID\":5}{\"ID\":\"6\"}").await;
    let lines: Vec<Value> =
        unchunked(&told.text()).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |line: &Value| (line["result"]["ID"].clone(), line["result"].get("TTL").cloned());
    assert_eq!(lines.iter().map(of).collect::<Vec<_>>(), [(json!("5"), Some(json!("60"))), (json!("6"), None)]);

    let mut stream = TcpStream::connect(served.server.client_address()).await.expect("connected");
    let body = "{\"create_request\":{\"key\":\"YQ==\"}}";
    let head = format!("POST /v3/watch HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut text = String::new();
    for (until, put) in
        [("\"created\":true", Some("1")), ("\"value\":\"MQ==\"", Some("2")), ("\"value\":\"Mg==\"", None)]
    {
        let reading = async {
            while !text.contains(until) {
                let mut part = [0; 4096];
                let read = stream.read(&mut part).await.expect("readable");
                assert_ne!(read, 0, "cut: {text}");
                text.push_str(std::str::from_utf8(&part[..read]).expect("text"));
            }
        };
        timeout(PATIENCE, reading).await.expect("told in time");
        if let Some(value) = put {
            served.put("a", value).await;
        }
    }
    let events: Vec<&str> = text.lines().filter(|line| line.starts_with("{\"result\":")).collect();
    assert_eq!(events.len(), 3, "{text}");
    served.server.stop().await;
}

/// etcd takes what it cannot read for the end of the stream: a keepalive that was cut off is an empty answer that looks like
/// success, and a watch never answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_requests_that_cannot_be_read_is_refused_and_nothing_of_it_is_done() {
    let served = Served::alone().await;
    let eof = "unexpected EOF";
    for (path, body, message) in [
        ("lease/keepalive", "{\"ID\":5", eof),
        ("lease/keepalive", "{\"ID\":5}{\"ID\":", eof),
        ("watch", "{\"create_request\":{\"key\":\"YQ==\"", eof),
        ("watch", "{\"create_request\":{\"key\":\"YQ==\"}}{", eof),
        ("watch", "no JSON", "expected ident at line 1 column 2"),
    ] {
        let (status, text) = post(&served, path, body).await;
        let refusal = json!({ "code": 3, "message": message });
        assert_eq!((status, serde_json::from_str::<Value>(&text).expect("JSON")), (400, refusal), "{path} {body}");
    }
    served.server.stop().await;
}

/// A body without the frames of its chunks.
fn unchunked(body: &str) -> String {
    body.lines().filter(|line| line.starts_with('{')).collect::<Vec<_>>().join("\n")
}
