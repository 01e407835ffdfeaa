//! Targets behind the client port of a whole node: calls of every service, HTTP, and tokens.

use std::hint::black_box;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use bytes::Bytes;
use http::Request;
use prost::Message;
use quorate_proto::etcdserverpb as etcd;
use quorate_proto::quorate::v1 as admin;
use quorate_proto::{authpb, v3electionpb as election, v3lockpb as lock};
use quorate_server::TokenOption;
use ring::hmac;

use crate::node::{SECRET, guarded, node};
use crate::random::Random;

/// Calls by number. Left out are those that end the node or shut the fuzzer out of it: `Admin/Reset`, `Auth/AuthEnable`.
const CALLS: [&str; 44] = [
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
];

/// The JSON paths that are asked, by number.
const PATHS: [&str; 10] = [
    "/v3/kv/put",
    "/v3/kv/range",
    "/v3/kv/txn",
    "/v3/lease/grant",
    "/v3/lease/keepalive",
    "/v3/watch",
    "/v3/auth/user/add",
    "/v3/auth/role/grant",
    "/v3/lock/lock",
    "/v3/maintenance/alarm",
];

/// Whether whoever dials these addresses dials this machine.
fn are_here<'a>(mut addresses: impl Iterator<Item = &'a String>) -> bool {
    addresses.all(|address| {
        let bare = address.strip_prefix("http://").unwrap_or(address);
        let host = bare.split([':', '/']).next().unwrap_or_default();
        host.is_empty() || host == "127.0.0.1"
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

/// The first byte chooses the call; the rest is its message, well framed.
pub(crate) fn calls(input: &[u8]) {
    let Some((first, message)) = input.split_first() else { return };
    let call = CALLS[usize::from(*first) % CALLS.len()];
    if stays_here(call, message) {
        node().call(call, message);
    }
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
        Some(path) => (Request::post(format!("http://fuzz{path}")), rest),
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
    let bodies: [(u8, &str); 14] = [
        (0, r#"{"key":"a2V5","value":"dmFsdWU=","lease":"0","prev_kv":true}"#),
        (1, r#"{"key":"a2V5","range_end":"a2V6","limit":3,"sort_order":"DESCEND","revision":"1"}"#),
        (
            2,
            r#"{"compare":[{"target":"VERSION","key":"a2V5","version":"1"}],"success":[{"requestPut":{"key":"a2V5"}}]}"#,
        ),
        (3, r#"{"TTL":"60","ID":"5"}"#),
        (4, r#"{"ID":5}"#),
        (5, r#"{"create_request":{"key":"a2V5","start_revision":"1","filters":["NOPUT"]}}"#),
        (6, r#"{"name":"u","options":{"no_password":true}}"#),
        (7, r#"{"name":"r","perm":{"permType":"READ","key":"a2V5"}}"#),
        (8, r#"{"name":"a2V5"}"#),
        (9, r#"{"action":"GET","memberID":"1","alarm":"NOSPACE"}"#),
        (10, "key?recurse&separator=%2F\n"),
        (11, "key?cas=1\nvalue"),
        (12, "key%2F?recurse\n"),
        (1, "[]"),
    ];
    bodies.map(|(number, body)| [&[number], body.as_bytes()].concat()).to_vec()
}

/// `--auth-token` and tokens. The first byte says how: as an option, as a token, or as claims behind a sound signature.
pub(crate) fn tokens(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else { return };
    let token = match first % 3 {
        0 => {
            _ = black_box(String::from_utf8_lossy(rest).parse::<TokenOption>());
            return;
        }
        1 => rest.to_vec(),
        _ => signed(rest),
    };
    let request = Request::post("http://fuzz/etcdserverpb.KV/Range").header("content-type", "application/grpc");
    if let Ok(request) = request.header("token", token).body(()) {
        guarded().exchange(request, Bytes::from_static(&[0, 0, 0, 0, 3, 10, 1, b'k']));
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
    vec![
        with(0, b"simple"),
        with(0, b"jwt,pub-key=a.pem,priv-key=b.pem,sign-method=RS512,ttl=10m"),
        with(1, &signed(claims)),
        with(1, b"name.7"),
        with(2, claims),
        with(2, br#"{"username":"u","revision":1.5,"exp":"never","nbf":-1}"#),
    ]
}
