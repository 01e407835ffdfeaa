//! Streams of requests as JSON whose body the client holds open: each message is obeyed as it comes.

use std::time::Duration;

use quorate_proto::etcdserverpb::LeaseGrantRequest;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::PATIENCE;
use crate::served::{MAX_REQUEST_BYTES, Served};

/// A call whose body goes on.
struct Held {
    stream: TcpStream,
    answer: String,
}

impl Held {
    async fn open(served: &Served, path: &str) -> Held {
        let mut stream = TcpStream::connect(served.server.client_address()).await.expect("connected");
        let head = format!("POST /v3/{path} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        Held { stream, answer: String::new() }
    }

    /// Sends a part of the body; nothing ends it.
    async fn send(&mut self, part: &str) {
        let chunk = format!("{:x}\r\n{part}\r\n", part.len());
        self.stream.write_all(chunk.as_bytes()).await.expect("sent");
    }

    /// The next line of the answer.
    async fn line(&mut self) -> Value {
        let reading = async {
            loop {
                if let Some((line, rest)) = self.answer.split_once('\n') {
                    let (line, rest) = (line.trim().to_owned(), rest.to_owned());
                    self.answer = rest;
                    if line.starts_with('{') {
                        return serde_json::from_str(&line).expect("JSON");
                    }
                    continue;
                }
                let mut part = [0; 4096];
                let read = self.stream.read(&mut part).await.expect("readable");
                assert_ne!(read, 0, "cut: {}", self.answer);
                self.answer.push_str(std::str::from_utf8(&part[..read]).expect("text"));
            }
        };
        timeout(PATIENCE, reading).await.expect("answered in time")
    }

    /// The next line, which is an answer.
    async fn result(&mut self) -> Value {
        let mut line = self.line().await;
        assert!(line.get("result").is_some(), "{line}");
        line["result"].take()
    }

    /// The next line, which ends the stream.
    async fn error(&mut self) -> (i64, String) {
        let line = self.line().await;
        let error = &line["error"];
        (error["code"].as_i64().expect("a code"), error["message"].as_str().expect("a text").to_owned())
    }
}

fn create(key: &str) -> String {
    json!({ "create_request": { "key": key } }).to_string()
}

/// Key, value and revision of the one event in an answer.
fn event(answer: &Value) -> (&str, &str, &str) {
    let [event] = &answer["events"].as_array().expect("events")[..] else { panic!("one event: {answer}") };
    let text = |name: &str| event["kv"][name].as_str().expect("a text");
    (text("key"), text("value"), text("mod_revision"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_answered_while_its_client_goes_on_asking() {
    let served = Served::alone().await;
    let mut held = Held::open(&served, "watch").await;
    held.send(&create("YQ==")).await;
    assert_eq!(held.result().await["created"], true);
    served.put("a", "1").await;
    assert_eq!(event(&held.result().await), ("YQ==", "MQ==", "2"));

    // Two messages in three parts.
    let more = format!("\n{}{}\n", json!({ "progress_request": {} }), create("Yg=="));
    for part in [&more[..10], &more[10..40], &more[40..]] {
        held.send(part).await;
    }
    let progress = held.result().await;
    assert_eq!((&progress["watch_id"], &progress["header"]["revision"]), (&json!("-1"), &json!("2")));
    let created = held.result().await;
    assert_eq!((&created["created"], &created["watch_id"]), (&json!(true), &json!("1")));

    held.send(&json!({ "cancel_request": {} }).to_string()).await;
    assert_eq!(held.result().await["canceled"], true);
    served.put("a", "2").await;
    served.put("b", "3").await;
    assert_eq!(event(&held.result().await), ("Yg==", "Mw==", "4"));

    // The end of the body is not that of the answer.
    held.stream.write_all(b"0\r\n\r\n").await.expect("sent");
    served.put("b", "4").await;
    assert_eq!(event(&held.result().await), ("Yg==", "NA==", "5"));
    served.server.stop().await;
    assert_eq!(held.error().await, (14, "etcdserver: server stopped".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keepalive_is_answered_before_the_next_and_what_is_none_ends_the_stream() {
    let served = Served::alone().await;
    LeaseClient::new(served.channel()).lease_grant(LeaseGrantRequest { id: 5, ttl: 60 }).await.expect("granted");
    let mut held = Held::open(&served, "lease/keepalive").await;
    for _ in 0..3 {
        held.send("{\"ID\":5}").await;
        assert_eq!(held.result().await["TTL"], "60");
    }
    held.send("{\"ID\":6}").await;
    assert_eq!(held.result().await["TTL"], Value::Null);
    held.send("{\"ID\":5}{\"ID\":}").await;
    assert_eq!(held.result().await["TTL"], "60");
    let (code, text) = held.error().await;
    assert!(code == 3 && text.starts_with("expected value"), "{code}: {text}");

    let mut cut = Held::open(&served, "watch").await;
    cut.send(&create("YQ==")).await;
    assert_eq!(cut.result().await["created"], true);
    cut.send("{\"create_request\":").await;
    cut.stream.write_all(b"0\r\n\r\n").await.expect("sent");
    assert_eq!(cut.error().await, (3, "unexpected EOF".to_owned()));

    let mut bad = Held::open(&served, "watch").await;
    bad.send("no JSON").await;
    assert_eq!(bad.error().await.0, 3);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_has_a_size_and_a_time_and_the_silence_between_two_has_none() {
    let time = Duration::from_millis(300);
    let served = Served::adjusted(|config| config.limits.request_time = time).await;
    let mut held = Held::open(&served, "watch").await;
    held.send(&create("YQ==")).await;
    assert_eq!(held.result().await["created"], true);
    // Both begin now, and the one that has begun a message is given up.
    let mut begun = Held::open(&served, "watch").await;
    begun.send(&format!("{}{{", create("YQ=="))).await;
    assert_eq!(begun.result().await["created"], true);
    let (code, text) = begun.error().await;
    assert!(text.contains("did not arrive within 300ms"), "{code}: {text}");
    served.put("a", "1").await;
    assert_eq!(event(&held.result().await), ("YQ==", "MQ==", "2"));

    let mut large = Held::open(&served, "watch").await;
    large.send("{\"create_request\":{\"key\":\"").await;
    // Twice what a write may have, since JSON takes more room; what was begun above makes it more than that.
    for _ in 0..2 {
        large.send(&"A".repeat(MAX_REQUEST_BYTES)).await;
    }
    let (code, text) = large.error().await;
    assert!(code == 3 && text.contains("a message is larger than"), "{code}: {text}");
    served.server.stop().await;
}
