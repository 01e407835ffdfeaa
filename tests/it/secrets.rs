//! Secrets that were told to a node are in nothing that it writes down or shows.
//!
//! CVE-2021-28235 and the like: passwords were found where a debugger of the cluster looks.

use std::path::{Path, PathBuf};
use std::process::Command;

use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::auth_client::AuthClient;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_tests::cluster::Cluster;
use quorate_tests::node::{Build, binary};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::Channel;
use tonic::{Request, Status};

const ROOT: &str = "planted-password-of-root";
const CHANGED: &str = "planted-password-after-a-change";
const WRONG: &str = "planted-password-that-is-wrong";
const TOO_LONG: &str =
    "planted-password-too-long-0123456789012345678901234567890123456789012345678901234567890123456789";
const BY_HTTP: &str = "planted-password-over-http";
const FAKE_TOKEN: &str = "planted-token-of-nobody";
const KEY: &str = "planted-key";
const VALUE: &str = "planted-value";

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("token", token.parse().expect("a metadata value"));
    request
}

async fn log_in(auth: &mut AuthClient<Channel>, name: &str, password: &str) -> Result<String, Status> {
    let request = pb::AuthenticateRequest { name: name.into(), password: password.into() };
    Ok(auth.authenticate(request).await?.into_inner().token)
}

async fn http(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("the port is open");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

/// Tells the node every secret in every way, right and wrong; the token that it gave.
async fn tell(cluster: &Cluster) -> String {
    let mut auth = AuthClient::new(cluster.channel(0));
    let add = |name: &str, password: &str| pb::AuthUserAddRequest {
        name: name.into(),
        password: password.into(),
        ..Default::default()
    };
    auth.user_add(add("root", ROOT)).await.expect("a new user");
    auth.user_add(add("u", ROOT)).await.expect("a new user");
    auth.user_add(add("long", TOO_LONG)).await.expect_err("longer than bcrypt looks");
    let role = pb::AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() };
    auth.user_grant_role(role).await.expect("there");
    auth.auth_enable(pb::AuthEnableRequest {}).await.expect("root is there");
    let token = log_in(&mut auth, "root", ROOT).await.expect("the right password");
    for (name, password) in [("root", WRONG), ("nobody", WRONG), ("root", TOO_LONG)] {
        log_in(&mut auth, name, password).await.expect_err("not the password");
    }
    let change = pb::AuthUserChangePasswordRequest { name: "u".into(), password: CHANGED.into(), ..Default::default() };
    auth.user_change_password(with_token(change, &token)).await.expect("root may");

    let mut kv = KvClient::new(cluster.channel(0));
    let put = pb::PutRequest { key: KEY.into(), value: VALUE.into(), ..Default::default() };
    kv.put(with_token(put.clone(), &token)).await.expect("root may");
    kv.put(with_token(put.clone(), FAKE_TOKEN)).await.expect_err("nobody's token");
    let unfit = pb::PutRequest { ignore_value: true, ..put };
    kv.put(with_token(unfit, &token)).await.expect_err("a value that is to be ignored");
    let body = format!(r#"{{"name":"root","password":"{BY_HTTP}"}}"#);
    let answer = http(
        cluster.nodes[0].config.client,
        &format!(
            "POST /v3/auth/authenticate HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
    .await;
    assert!(answer.contains("authentication failed"), "{answer}");
    token
}

/// The secrets of `secrets` that `bytes` hold.
fn found<'a>(bytes: &[u8], secrets: &[&'a str]) -> Vec<&'a str> {
    let is_there = |secret: &str| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
    secrets.iter().copied().filter(|secret| is_there(secret)).collect()
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a folder").map(|entry| entry.expect("readable").path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2021_28235_no_secret_is_written_down_or_shown() {
    let mut cluster = Cluster::start_adjusted(1, |_, config| {
        // Everything that is ever logged by this program, and what its libraries say to whoever looks for a fault.
        let filter = "RUST_LOG=debug,quorate=trace,quorate_server=trace,quorate_node=trace,quorate_store=trace";
        config.inside = vec!["env".into(), filter.into()];
    })
    .await;
    let token = tell(&cluster).await;
    let config = cluster.nodes[0].config.clone();
    let passwords = [ROOT, CHANGED, WRONG, TOO_LONG, BY_HTTP, FAKE_TOKEN, &token];
    let all = [&passwords[..], &[KEY, VALUE]].concat();

    let metrics = http(config.metrics, "GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await;
    assert!(metrics.contains("etcd_mvcc_put_total 1"), "{metrics}");
    assert_eq!(found(metrics.as_bytes(), &all), Vec::<&str>::new(), "in the metrics");

    assert!(cluster.nodes[0].stop(), "{}", cluster.nodes[0].log_tail());
    let log = std::fs::read(cluster.nodes[0].log_path()).expect("a log");
    assert!(found(&log, &["TRACE", "DEBUG"]).contains(&"DEBUG"), "the log says little");
    assert_eq!(found(&log, &all), Vec::<&str>::new(), "in {}", String::from_utf8_lossy(&log));

    let files = files_below(&config.data_dir);
    let mut values = 0;
    for file in &files {
        let bytes = std::fs::read(file).expect("a file of a stopped node");
        assert_eq!(found(&bytes, &passwords), Vec::<&str>::new(), "in {}", file.display());
        values += found(&bytes, &[VALUE]).len();
    }
    assert!(values >= 1, "the search finds what is there, in {files:?}");
    let dump = Command::new(binary(Build::Current))
        .args(["dump-applied", "--json", "--data-dir"])
        .arg(&config.data_dir)
        .output()
        .expect("the command runs");
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    assert!(!dump.stdout.is_empty());
    assert_eq!(found(&dump.stdout, &passwords), Vec::<&str>::new(), "in the dump");
    assert_eq!(found(&dump.stderr, &all), Vec::<&str>::new(), "in what the dump says beside");
}
