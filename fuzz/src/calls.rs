//! Targets behind the ports of a whole node: calls of every service, HTTP, tokens, peers, and bytes of no form.

use std::hint::black_box;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL};
use bytes::Bytes;
use http::{HeaderValue, Request};
use prost::Message;
use quorate_proto::etcdserverpb as etcd;
use quorate_proto::quorate::peer::v1 as peer;
use quorate_proto::quorate::v1 as admin;
use quorate_proto::{authpb, v3electionpb as election, v3lockpb as lock};
use quorate_server::{JwtOption, TokenOption};
use ring::hmac;

use crate::node::{Node, SECRET, frame, guarded, head, node};
use crate::random::Random;

/// Calls by number. Left out are those that end the node or shut the fuzzer out of it: `Admin/Reset`, `Auth/AuthEnable`.
const CALLS: [&str; 54] = [
    "etcdserverpb.Lease/LeaseGrant",
    "etcdserverpb.Lease/LeaseRevoke",
    "etcdserverpb.Lease/LeaseKeepAlive",
    "etcdserverpb.Lease/LeaseTimeToLive",
    "etcdserverpb.Lease/LeaseLeases",
    "etcdserverpb.Watch/Watch",
    "etcdserverpb.Cluster/MemberAdd",
    "etcdserverpb.Cluster/MemberRemove",
    "etcdserverpb.Cluster/MemberUpdate",
    "etcdserverpb.Cluster/MemberList",
    "etcdserverpb.Cluster/MemberPromote",
    "etcdserverpb.Auth/AuthDisable",
    "etcdserverpb.Auth/AuthStatus",
    "etcdserverpb.Auth/Authenticate",
    "etcdserverpb.Auth/UserAdd",
    "etcdserverpb.Auth/UserGet",
    "etcdserverpb.Auth/UserList",
    "etcdserverpb.Auth/UserDelete",
    "etcdserverpb.Auth/UserChangePassword",
    "etcdserverpb.Auth/UserGrantRole",
    "etcdserverpb.Auth/UserRevokeRole",
    "etcdserverpb.Auth/RoleAdd",
    "etcdserverpb.Auth/RoleGet",
    "etcdserverpb.Auth/RoleList",
    "etcdserverpb.Auth/RoleDelete",
    "etcdserverpb.Auth/RoleGrantPermission",
    "etcdserverpb.Auth/RoleRevokePermission",
    "etcdserverpb.Maintenance/Alarm",
    "etcdserverpb.Maintenance/HashKV",
    "etcdserverpb.Maintenance/MoveLeader",
    "etcdserverpb.Maintenance/Downgrade",
    "v3lockpb.Lock/Lock",
    "v3lockpb.Lock/Unlock",
    "v3electionpb.Election/Campaign",
    "v3electionpb.Election/Proclaim",
    "v3electionpb.Election/Leader",
    "v3electionpb.Election/Observe",
    "v3electionpb.Election/Resign",
    "quorate.v1.Admin/Identify",
    "quorate.v1.Admin/Init",
    "quorate.v1.Admin/Status",
    "quorate.v1.Admin/SetVoters",
    "quorate.v1.Admin/TransferLeader",
    "etcdserverpb.KV/RangeStream",
    "etcdserverpb.KV/Range",
    "etcdserverpb.KV/Put",
    "etcdserverpb.KV/DeleteRange",
    "etcdserverpb.KV/Txn",
    "etcdserverpb.KV/Compact",
    "etcdserverpb.Maintenance/Status",
    "etcdserverpb.Maintenance/Defragment",
    "etcdserverpb.Maintenance/Hash",
    "etcdserverpb.Maintenance/Snapshot",
    "quorate.v1.Admin/Snapshot",
];
/// From this first byte on a call's body is sent as it is, and frames of gRPC are part of the input.
const RAW_FROM: u8 = 200;
/// Methods whose messages are read before they are sent: they may name an address, or raise an alarm.
const READ_BEFORE: [&str; 5] = ["MemberAdd", "MemberUpdate", "SetVoters", "Init", "Alarm"];
/// Of the read that carries headers.
const READ: &str = "etcdserverpb.KV/Range";
/// A range of one key.
const RANGE: &[u8] = &[10, 1, b'k'];

/// The methods of the port of peers. Who is no member may ask all of them.
const PEER_CALLS: [&str; 4] = ["Stream", "Identify", "Bootstrap", "Snapshot"];

/// Before frames of HTTP/2 (RFC 9113, 3.4), with empty settings behind it.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The JSON paths that are asked, by number. Left out is what would dial others, end the node or refuse all that follows.
const PATHS: [&str; 41] = [
    "kv/range",
    "kv/put",
    "kv/deleterange",
    "kv/txn",
    "kv/compaction",
    "watch",
    "lease/grant",
    "lease/revoke",
    "lease/keepalive",
    "lease/timetolive",
    "lease/leases",
    "cluster/member/remove",
    "cluster/member/list",
    "cluster/member/promote",
    "maintenance/status",
    "maintenance/defragment",
    "maintenance/hash",
    "maintenance/hashkv",
    "maintenance/snapshot",
    "maintenance/transfer-leadership",
    "maintenance/downgrade",
    "auth/disable",
    "auth/status",
    "auth/authenticate",
    "auth/user/add",
    "auth/user/get",
    "auth/user/list",
    "auth/user/delete",
    "auth/user/changepw",
    "auth/user/grant",
    "auth/user/revoke",
    "auth/role/add",
    "auth/role/get",
    "auth/role/grant",
    "auth/role/revoke",
    "election/campaign",
    "election/proclaim",
    "election/leader",
    "election/resign",
    "lock/lock",
    "lock/unlock",
];

/// Whether whoever dials these addresses dials this machine.
fn are_here<'a>(mut addresses: impl Iterator<Item = &'a String>) -> bool {
    addresses.all(|address| {
        let bare = address.trim().strip_prefix("http://").unwrap_or(address);
        let host = bare.split([':', '/']).next().unwrap_or_default();
        (host.is_empty() || host == "127.0.0.1") && !bare.contains('@')
    })
}

fn stays_here(call: &str, message: &[u8]) -> bool {
    match call.rsplit('/').next() {
        Some("MemberAdd") => {
            etcd::MemberAddRequest::decode(message).is_ok_and(|request| are_here(request.peer_ur_ls.iter()))
        }
        Some("MemberUpdate") => {
            etcd::MemberUpdateRequest::decode(message).is_ok_and(|request| are_here(request.peer_ur_ls.iter()))
        }
        Some("SetVoters") => admin::SetVotersRequest::decode(message).is_ok_and(|request| {
            are_here(request.targets.iter().filter_map(|target| match &target.voter {
                Some(admin::target::Voter::Address(address)) => Some(address),
                Some(admin::target::Voter::NewVoter(new)) => Some(&new.peer_address),
                _ => None,
            }))
        }),
        Some("Init") => admin::InitRequest::decode(message)
            .is_ok_and(|request| are_here(request.members.iter().map(|member| &member.peer_address))),
        _ => true,
    }
}

/// The first byte chooses the call; the rest is its message, well framed, or its whole body.
pub(crate) fn calls(input: &[u8]) {
    let Some((first, message)) = input.split_first() else { return };
    let call = CALLS[usize::from(*first) % CALLS.len()];
    if *first >= RAW_FROM {
        // Several messages may be in it.
        if call.rsplit('/').next().is_some_and(|method| !READ_BEFORE.contains(&method)) {
            node().call_raw(call, Bytes::copy_from_slice(message));
        }
    } else if stays_here(call, message) {
        node().call(call, message);
        end_alarm(call, message);
    }
}

/// An alarm that stays would have most of what follows refused.
fn end_alarm(call: &str, message: &[u8]) {
    if let ("etcdserverpb.Maintenance/Alarm", Ok(alarm)) = (call, etcd::AlarmRequest::decode(message)) {
        let end = etcd::AlarmRequest { action: etcd::alarm_request::AlarmAction::Deactivate.into(), ..alarm };
        node().call(call, &end.encode_to_vec());
    }
}

/// The first byte chooses the method of the port of peers, and whether the rest is one message or the whole body.
pub(crate) fn peers(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else { return };
    let method = format!("quorate.peer.v1.Peer/{}", PEER_CALLS[usize::from(first % 4)]);
    let body = if first & 4 == 0 { frame(rest) } else { Bytes::copy_from_slice(rest) };
    node().call_as_peer(&method, body);
}

pub(crate) fn peer_call_samples(random: &mut Random) -> Vec<Vec<u8>> {
    let hello = peer::Hello { cluster_id: random.bytes(16).into(), ..Default::default() };
    let stream = peer::Frame { hello: Some(hello.clone()), ..Default::default() };
    let start = peer::SnapshotStart { hello: Some(hello), term: 3 };
    let chunk = peer::SnapshotChunk { start: Some(start), data: Bytes::from_static(b"QUORSNAP") };
    let with = |first: u8, message: Vec<u8>| [vec![first], message].concat();
    let streamed = [frame(&stream.encode_to_vec()), frame(&stream.encode_to_vec())].concat();
    vec![
        with(0, stream.encode_to_vec()),
        with(1, peer::IdentifyRequest::default().encode_to_vec()),
        with(2, peer::BootstrapRequest::default().encode_to_vec()),
        with(3, chunk.encode_to_vec()),
        with(4, streamed),
    ]
}

/// Bytes on a connection. The first says to which port, and whether they are frames of HTTP/2.
pub(crate) fn connections(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else { return };
    let bytes = if first & 2 == 0 { rest.to_vec() } else { [PREFACE, rest].concat() };
    node().send_bytes(first & 1 == 1, &bytes);
}

pub(crate) fn connection_samples(_: &mut Random) -> Vec<Vec<u8>> {
    let texts: [(u8, &[u8]); 9] = [
        (0, b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"),
        (0, b"GET /v1/kv/key?recurse HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"),
        (0, b"PUT /v1/kv/key HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nvalue\r\n0\r\n\r\n"),
        (0, b"POST /v3/kv/range HTTP/1.1\r\nhost: a\r\ncontent-length: 14\r\n\r\n{\"key\":\"a2V5\"}"),
        (0, b"GET /version HTTP/1.0\r\n\r\n"),
        // A request for "/" in indexed headers, settings, a ping, a reset.
        (2, b"\0\0\x03\x01\x05\0\0\0\x01\x82\x84\x86"),
        (2, b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x01"),
        (3, b"\0\0\x08\x06\0\0\0\0\0abcdefgh"),
        (3, b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08"),
    ];
    texts.map(|(first, text)| [&[first], text].concat()).to_vec()
}

pub(crate) fn call_samples(_: &mut Random) -> Vec<Vec<u8>> {
    let name = || "name".to_owned();
    let key = || Bytes::from_static(b"key");
    let urls = vec!["http://127.0.0.1:1".to_owned()];
    let create = etcd::WatchCreateRequest { key: key(), start_revision: 1, ..Default::default() };
    let watch = etcd::watch_request::RequestUnion::CreateRequest(create);
    let permission = authpb::Permission { perm_type: 2, key: key(), range_end: Bytes::from_static(b"kez") };
    let leader = election::LeaderKey { name: key(), key: key(), rev: 1, lease: 1 };
    let messages: Vec<(&str, Vec<u8>)> = vec![
        ("LeaseGrant", etcd::LeaseGrantRequest { ttl: 60, id: 1 }.encode_to_vec()),
        ("LeaseRevoke", etcd::LeaseRevokeRequest { id: 1 }.encode_to_vec()),
        ("LeaseKeepAlive", etcd::LeaseKeepAliveRequest { id: 1 }.encode_to_vec()),
        ("LeaseTimeToLive", etcd::LeaseTimeToLiveRequest { id: 1, keys: true }.encode_to_vec()),
        ("Watch", etcd::WatchRequest { request_union: Some(watch) }.encode_to_vec()),
        ("MemberAdd", etcd::MemberAddRequest { peer_ur_ls: urls.clone(), is_learner: true }.encode_to_vec()),
        ("MemberRemove", etcd::MemberRemoveRequest { id: 7 }.encode_to_vec()),
        ("MemberUpdate", etcd::MemberUpdateRequest { id: 7, peer_ur_ls: urls }.encode_to_vec()),
        ("Authenticate", etcd::AuthenticateRequest { name: name(), password: name() }.encode_to_vec()),
        ("UserAdd", {
            let options = Some(authpb::UserAddOptions { no_password: true });
            etcd::AuthUserAddRequest { name: name(), options, ..Default::default() }.encode_to_vec()
        }),
        ("UserGet", etcd::AuthUserGetRequest { name: name() }.encode_to_vec()),
        ("UserGrantRole", etcd::AuthUserGrantRoleRequest { user: name(), role: name() }.encode_to_vec()),
        ("RoleAdd", etcd::AuthRoleAddRequest { name: name() }.encode_to_vec()),
        (
            "RoleGrantPermission",
            etcd::AuthRoleGrantPermissionRequest { name: name(), perm: Some(permission) }.encode_to_vec(),
        ),
        (
            "RoleRevokePermission",
            etcd::AuthRoleRevokePermissionRequest { role: name(), key: key(), range_end: key() }.encode_to_vec(),
        ),
        ("Alarm", etcd::AlarmRequest { action: 1, member_id: 3, alarm: 1 }.encode_to_vec()),
        ("HashKV", etcd::HashKvRequest { revision: 2 }.encode_to_vec()),
        ("Downgrade", etcd::DowngradeRequest { action: 1, version: "3.5.0".to_owned() }.encode_to_vec()),
        ("Lock", lock::LockRequest { name: key(), lease: 0 }.encode_to_vec()),
        ("Unlock", lock::UnlockRequest { key: key() }.encode_to_vec()),
        ("Campaign", election::CampaignRequest { name: key(), lease: 0, value: key() }.encode_to_vec()),
        ("Proclaim", election::ProclaimRequest { leader: Some(leader.clone()), value: key() }.encode_to_vec()),
        ("Leader", election::LeaderRequest { name: key() }.encode_to_vec()),
        ("Resign", election::ResignRequest { leader: Some(leader) }.encode_to_vec()),
        ("RangeStream", etcd::RangeRequest { key: key(), range_end: key(), ..Default::default() }.encode_to_vec()),
    ];
    // Each call without a message, too.
    let empty = (0..CALLS.len()).map(|number| vec![u8::try_from(number).expect("few calls")]);
    let with = messages.into_iter().map(|(method, message)| {
        let number = CALLS.iter().position(|call| call.ends_with(&format!("/{method}"))).expect("a call");
        [vec![u8::try_from(number).expect("few calls")], message].concat()
    });
    empty.chain(with).collect()
}

/// The first byte chooses a path of the JSON gateway, or `/v1/kv` with the rest up to a line's end as its query.
pub(crate) fn http(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else { return };
    let number = usize::from(*first) % (PATHS.len() + 3);
    let (request, body) = match PATHS.get(number) {
        Some(path) => (Request::post(format!("http://fuzz/v3/{path}")), rest),
        None => {
            let at = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let (query, body) = (String::from_utf8_lossy(&rest[..at]), rest.get(at + 1..).unwrap_or_default());
            let method = ["GET", "PUT", "DELETE"][number - PATHS.len()];
            (Request::builder().method(method).uri(format!("http://fuzz/v1/kv/{query}")), body)
        }
    };
    if let Ok(request) = request.header("content-type", "application/json").body(()) {
        node().exchange(request, Bytes::copy_from_slice(body));
    }
}

pub(crate) fn http_samples(_: &mut Random) -> Vec<Vec<u8>> {
    let at = |path: &str| PATHS.iter().position(|known| *known == path).expect("a path") as u8;
    let kv = PATHS.len() as u8;
    let bodies = [
        (at("kv/put"), r#"{"key":"a2V5","value":"dmFsdWU=","lease":"0","prev_kv":true}"#),
        (at("kv/range"), r#"{"key":"a2V5","range_end":"a2V6","limit":3,"sort_order":"DESCEND","revision":"1"}"#),
        (at("kv/range"), "[]"),
        (
            at("kv/txn"),
            r#"{"compare":[{"target":"VERSION","key":"a2V5","version":"1"}],"success":[{"requestPut":{"key":"a2V5"}}]}"#,
        ),
        (at("lease/grant"), r#"{"TTL":"60","ID":"5"}"#),
        (at("lease/keepalive"), r#"{"ID":5}"#),
        (at("watch"), r#"{"create_request":{"key":"a2V5","start_revision":"1","filters":["NOPUT"]}}"#),
        (at("auth/user/add"), r#"{"name":"u","options":{"no_password":true}}"#),
        (at("auth/role/grant"), r#"{"name":"r","perm":{"permType":"READ","key":"a2V5"}}"#),
        (at("lock/lock"), r#"{"name":"a2V5"}"#),
        (kv, "key?recurse&separator=%2F\n"),
        (kv + 1, "key?cas=1\nvalue"),
        (kv + 2, "key%2F?recurse\n"),
    ];
    bodies.map(|(number, body)| [&[number], body.as_bytes()].concat()).to_vec()
}

/// `--auth-token`, the keys it names, tokens, and what else a call says in headers. The first byte says which.
pub(crate) fn tokens(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else { return };
    let token = match first % 5 {
        0 => {
            _ = black_box(String::from_utf8_lossy(rest).parse::<TokenOption>());
            return;
        }
        1 => rest.to_vec(),
        2 => signed(rest),
        3 => return read_headers(rest),
        _ => return read_key(rest),
    };
    read_with(&guarded(), [("token", &token[..])]);
}

/// Reads with these headers; not at all if a value cannot be sent.
fn read_with<'a>(node: &Node, headers: impl IntoIterator<Item = (&'static str, &'a [u8])>) {
    let mut request = head(READ);
    for (name, value) in headers {
        let Ok(value) = HeaderValue::from_bytes(value) else { return };
        request.headers_mut().insert(name, value);
    }
    node.exchange(request, frame(RANGE));
}

/// How a read may be served: values of the four headers, by lines.
fn read_headers(lines: &[u8]) {
    let names = ["quorate-consistency", "quorate-max-staleness-ms", "quorate-on-stale", "quorate-min-revision"];
    let values = lines.split(|byte| *byte == b'\n');
    read_with(&node(), names.into_iter().zip(values).filter(|(_, value)| !value.is_empty()));
}

/// A key file, as it is and as the content of a certificate. The first byte chooses the method and which key it is.
fn read_key(input: &[u8]) {
    let Some((first, text)) = input.split_first() else { return };
    let method = ["HS256", "RS256", "PS512", "ES256", "EdDSA"][usize::from(first / 2 % 5)].to_owned();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64.encode(text));
    for content in [text, pem.as_bytes()] {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), content).expect("the file can be written");
        let named = Some(file.path().to_owned());
        let (public_key, private_key) = if first % 2 == 0 { (named, None) } else { (None, named) };
        let option = JwtOption { public_key, private_key, method: method.clone(), ttl: Duration::from_secs(60) };
        _ = black_box(TokenOption::Jwt(option).check().map_err(|error| error.to_string()));
    }
}

fn signed(claims: &[u8]) -> Vec<u8> {
    let head = BASE64URL.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
    let text = format!("{head}.{}", BASE64URL.encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), text.as_bytes());
    format!("{text}.{}", BASE64URL.encode(signature)).into_bytes()
}

pub(crate) fn token_samples(_: &mut Random) -> Vec<Vec<u8>> {
    let claims = br#"{"username":"root","revision":1,"exp":99999999999}"#;
    let with = |first: u8, text: &[u8]| [&[first], text].concat();
    // A certificate as far as it is read: version, number, four sequences, the key.
    let key = [&[0x30, 0x0d, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x04, 0, 1, 2, 3][..]].concat();
    let fields = [&[0xa0, 0x03, 0x02, 0x01, 0x02, 0x02, 0x01, 0x01][..], &[0x30, 0].repeat(4), &key].concat();
    let der = [&[0x30, fields.len() as u8 + 2, 0x30, fields.len() as u8][..], &fields].concat();
    vec![
        with(0, b"simple"),
        with(0, b"jwt,pub-key=a.pem,priv-key=b.pem,sign-method=RS512,ttl=10m"),
        with(1, &signed(claims)),
        with(1, b"name.7"),
        with(2, claims),
        with(2, br#"{"username":"u","revision":1.5,"exp":"never","nbf":-1}"#),
        with(3, b"stale\n500\nwait\n7"),
        with(3, b"consistent"),
        with(4, &with(8, &der)),
        with(4, &with(9, b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n")),
    ]
}
