//! Tokens over gRPC and HTTP: what a signed one must say and how it must be signed, and that every node knows the simple ones.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as BASE64URL};
use quorate_proto::authpb::permission::Type;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::cluster_client::ClusterClient;
use quorate_raft::NodeId;
use quorate_wire::peer::NodeState;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use tonic::Code;

use crate::cluster::CLUSTER;
use crate::etcd_auth::{As, DENIED, refused, turn_on, user_with};
use crate::served::{Served, http_text, put, range};
use crate::signed::{Secret, claims};

const INVALID: (Code, &str) = (Code::Unauthenticated, "etcdserver: invalid auth token");

/// The auth revision.
async fn revision(served: &Served) -> u64 {
    let status = served.auth_as(&As(None)).auth_status(pb::AuthStatusRequest {}).await;
    status.expect("told to everybody").into_inner().auth_revision
}

/// What a read with this token ends with.
async fn told(served: &Served, token: &str) -> (Code, String) {
    match served.kv_as(&As::token(token)).range(range("a")).await {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => (status.code(), status.message().to_owned()),
    }
}

/// A good set of claims with one of them changed; `null` leaves it out.
fn but(username: &str, revision: u64, name: &str, value: Value) -> Value {
    let mut claims = claims(username, revision);
    let all = claims.as_object_mut().expect("an object");
    if value.is_null() {
        all.remove(name)
    } else {
        all.insert(name.to_owned(), value)
    };
    claims
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_token_is_taken_for_what_it_says_under_the_nodes_method_and_key_alone() {
    let secret = Secret::new("secret");
    let (served, login) = Served::with_root_adjusted(|config| config.auth_token = secret.option()).await;
    served.kv_as(&login).put(put("a", "1")).await.expect("what the node signs, it takes");
    let now = revision(&served).await;
    let good = claims("root", now);
    let unsigned =
        |header: Value| format!("{}.{}.", BASE64URL.encode(header.to_string()), BASE64URL.encode(good.to_string()));
    let whole = secret.token(&good);
    let (said, _) = whole.rsplit_once('.').expect("three parts");
    let done = (Code::Ok, "");
    for (what, token, expected) in [
        ("by a stranger to the node, who has the secret", whole.clone(), done),
        ("a revision to come", secret.token(&claims("root", now + 1)), done),
        (
            "an old revision",
            secret.token(&claims("root", now - 1)),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
        ),
        ("a user that is not there", secret.token(&claims("nobody", now)), (Code::PermissionDenied, DENIED)),
        ("no user", secret.token(&but("root", now, "username", Value::Null)), INVALID),
        ("no revision", secret.token(&but("root", now, "revision", Value::Null)), INVALID),
        ("no end", secret.token(&but("root", now, "exp", Value::Null)), INVALID),
        ("an end that has come", secret.token(&but("root", now, "exp", json!(1))), INVALID),
        ("a beginning to come", secret.token(&but("root", now, "nbf", json!(u32::MAX))), INVALID),
        ("another secret", Secret::new("other").token(&good), INVALID),
        ("another method", secret.signed("HS512", hmac::HMAC_SHA512, &good), INVALID),
        ("another method under the right name", secret.signed("HS256", hmac::HMAC_SHA512, &good), INVALID),
        ("the right method under another name", secret.signed("HS512", hmac::HMAC_SHA256, &good), INVALID),
        ("no method", secret.signed("none", hmac::HMAC_SHA256, &good), INVALID),
        ("no method and no signature", unsigned(json!({ "alg": "none", "typ": "JWT" })), INVALID),
        ("no signature", unsigned(json!({ "alg": "HS256", "typ": "JWT" })), INVALID),
        ("half a token", said.to_owned(), INVALID),
    ] {
        let told = told(&served, &token).await;
        assert_eq!((told.0, told.1.as_str()), expected, "{what}");
    }
    for (token, status) in [(whole.as_str(), 200), (said, 401)] {
        let call = format!(
            "POST /v3/kv/range HTTP/1.1\r\nhost: test\r\nconnection: close\r\nauthorization: {token}\r\ncontent-length: 14\r\n\r\n{{\"key\":\"YQ==\"}}"
        );
        assert_eq!(http_text(served.server.client_address(), &call).await.status, status, "{token}");
    }
    served.server.stop().await;
}

/// A node that checks by a public key must not take that key, which everybody knows, for a secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_public_key_signs_nothing() {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("random");
    let public = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key").public_key().as_ref().to_vec();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(pkcs8.as_ref()));
    std::fs::write(file.path(), pem).expect("written");
    let option = format!("jwt,sign-method=EdDSA,priv-key={}", file.path().display());
    let (served, login) = Served::with_root_adjusted(|config| config.auth_token = option.parse().expect("sound")).await;
    served.kv_as(&login).put(put("a", "1")).await.expect("what the node signs, it takes");
    let known = Secret::of_bytes(&public);
    let good = claims("root", revision(&served).await);
    for named in ["EdDSA", "HS256"] {
        let told = told(&served, &known.signed(named, hmac::HMAC_SHA256, &good)).await;
        assert_eq!((told.0, told.1.as_str()), INVALID, "{named}");
    }
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_at_one_node_is_known_at_all_of_them_and_ends_at_all_of_them() {
    let nodes = Served::together(3).await;
    turn_on(&nodes[0]).await;
    for (at, node) in nodes.iter().enumerate() {
        let root = node.log_in("root", "rootpw").await.expect("the right password");
        for other in &nodes {
            // At once: whoever has not applied the login yet waits for it.
            other.kv_as(&root).range(range("a")).await.unwrap_or_else(|refused| panic!("given by {at}: {refused}"));
        }
    }
    let root = nodes[2].log_in("root", "rootpw").await.expect("the right password");
    let user = user_with(&nodes[0], &root, Type::Readwrite, "a", "").await;
    nodes[1].kv_as(&user).put(put("a", "1")).await.expect("its right");
    let change = pb::AuthUserChangePasswordRequest { name: "u".into(), password: "new".into(), ..Default::default() };
    nodes[1].auth_as(&root).user_change_password(change).await.expect("root may");
    for node in &nodes {
        // One that is behind judges by what it knows, finds out, and has the caller ask again.
        let first = node.kv_as(&user).put(put("a", "2")).await.expect_err("its password is not what it was");
        let behind = (Code::InvalidArgument, "etcdserver: revision of auth store is old");
        assert!([INVALID, behind].contains(&(first.code(), first.message())), "{first}");
        refused(node.kv_as(&user).put(put("a", "2")).await, INVALID.0, INVALID.1);
        refused(node.kv_as(&user).range(range("a")).await, INVALID.0, INVALID.1);
    }
    let kept = nodes[0].kv_as(&root).range(range("a")).await.expect("root may").into_inner();
    assert_eq!(kept.kvs[0].value, "1");
    for node in &nodes {
        node.server.replica().clone().halt().await;
    }
}

/// Users and their revisions say nothing against it: both clusters were set up by the same calls.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_of_the_cluster_a_node_left_is_worth_nothing_in_the_next() {
    let nodes = Served::together(2).await;
    let (stays, leaves) = (&nodes[0], &nodes[1]);
    turn_on(stays).await;
    let root = stays.log_in("root", "rootpw").await.expect("the right password");
    leaves.kv_as(&root).range(range("a")).await.expect("known here, too");
    let id = leaves.server.replica().stamp().node_id;
    let mut members = ClusterClient::with_interceptor(stays.channel(), root.clone());
    members.member_remove(pb::MemberRemoveRequest { id }).await.expect("root may");
    leaves.until("knows it was removed", |change| change.state == NodeState::Removed).await;

    leaves.server.replica().reset(CLUSTER, NodeId(id)).await.expect("it is no member");
    let alone = vec![leaves.server.replica().own_identity().member];
    leaves.server.replica().init(CLUSTER + 1, alone).await.expect("an empty node accepts");
    leaves.until("leads its own cluster", |change| change.leader.is_some()).await;
    turn_on(leaves).await;
    refused(leaves.kv_as(&root).range(range("a")).await, INVALID.0, INVALID.1);
    for node in &nodes {
        node.server.replica().clone().halt().await;
    }
}
