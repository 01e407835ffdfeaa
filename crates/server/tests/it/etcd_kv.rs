//! `etcdserverpb.KV` as a client sees it: headers, error codes and texts, limits, streams, consistency metadata.

use bytes::Bytes;
use prost::Message as _;
use quorate_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
};
use tokio_stream::StreamExt;
use tonic::{Code, Status};

use crate::cluster::CLUSTER;
use crate::served::{MAX_REQUEST_BYTES, Served, put, range};

#[track_caller]
fn check_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, text: &str) {
    let status = answer.expect_err("refused");
    assert_eq!((status.code(), status.message()), (code, text));
}

fn put_op(key: &str, value: &str) -> RequestOp {
    RequestOp { request: Some(request_op::Request::RequestPut(put(key, value))) }
}

fn range_op(key: &str) -> RequestOp {
    RequestOp { request: Some(request_op::Request::RequestRange(range(key))) }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_who_gave_it_and_at_which_revision() {
    let served = Served::alone().await;
    let status = served.server.replica().status();
    let identity = status.identity.expect("a member");
    let header = served.kv().put(put("a", "1")).await.expect("written").into_inner().header.expect("a header");
    assert_eq!(header.cluster_id, CLUSTER as u64);
    assert_eq!(header.member_id, identity.node_id.0);
    assert_eq!(header.raft_term, status.raft.expect("runs").term.0);
    assert_eq!(header.revision, 2);

    let read = served.kv().range(RangeRequest { revision: 1, ..range("a") }).await.expect("read").into_inner();
    assert_eq!(read.count, 0);
    assert_eq!(read.header.expect("a header").revision, 2, "the current revision, not the one asked for");

    let txn = TxnRequest { success: vec![put_op("b", "2"), range_op("b")], ..TxnRequest::default() };
    let answer = served.kv().txn(txn).await.expect("done").into_inner();
    assert_eq!(answer.header.expect("a header").revision, 3);
    assert_eq!(answer.responses.len(), 2);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_codes_and_texts_that_clients_compare() {
    let served = Served::alone().await;
    let mut kv = served.kv();
    served.put("a", "1").await;
    let revision = served.put("a", "2").await;

    check_refused(kv.range(range("")).await, Code::InvalidArgument, "etcdserver: key is not provided");
    check_refused(kv.put(put("", "1")).await, Code::InvalidArgument, "etcdserver: key is not provided");
    check_refused(
        kv.delete_range(DeleteRangeRequest::default()).await,
        Code::InvalidArgument,
        "etcdserver: key is not provided",
    );
    check_refused(
        kv.put(PutRequest { ignore_value: true, ..put("a", "1") }).await,
        Code::InvalidArgument,
        "etcdserver: value is provided",
    );
    check_refused(
        kv.put(PutRequest { ignore_value: true, ..put("none", "") }).await,
        Code::InvalidArgument,
        "etcdserver: key not found",
    );
    check_refused(
        kv.put(PutRequest { lease: 77, ..put("a", "1") }).await,
        Code::NotFound,
        "etcdserver: requested lease not found",
    );
    check_refused(
        kv.range(RangeRequest { sort_order: 9, ..range("a") }).await,
        Code::InvalidArgument,
        "etcdserver: invalid sort option",
    );
    check_refused(
        kv.range(RangeRequest { revision: revision + 1, ..range("a") }).await,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
    let twice = TxnRequest { success: vec![put_op("k", "1"), put_op("k", "2")], ..TxnRequest::default() };
    check_refused(kv.txn(twice).await, Code::InvalidArgument, "etcdserver: duplicate key given in txn request");

    kv.compact(CompactionRequest { revision, physical: true }).await.expect("compacted");
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    check_refused(kv.range(RangeRequest { revision: revision - 1, ..range("a") }).await, Code::OutOfRange, compacted);
    check_refused(kv.compact(CompactionRequest { revision, physical: false }).await, Code::OutOfRange, compacted);
    let at = kv.range(RangeRequest { revision, ..range("a") }).await.expect("readable").into_inner();
    assert_eq!(at.kvs[0].value, "2", "the compact revision itself stays readable");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_takes_as_many_operations_as_the_limit_and_no_more() {
    let served = Served::alone().await;
    let of = |count: usize| TxnRequest {
        success: (0..count).map(|number| put_op(&format!("k{number}"), "v")).collect(),
        ..TxnRequest::default()
    };
    served.kv().txn(of(128)).await.expect("at the limit");
    check_refused(
        served.kv().txn(of(129)).await,
        Code::InvalidArgument,
        "etcdserver: too many operations in txn request",
    );
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_past_the_size_limit_are_refused_and_smaller_ones_go_on() {
    let served = Served::alone().await;
    let of = |bytes: usize| PutRequest { value: Bytes::from(vec![b'v'; bytes]), ..put("big", "") };
    let head = of(MAX_REQUEST_BYTES).encoded_len() - MAX_REQUEST_BYTES;
    served.kv().put(of(MAX_REQUEST_BYTES - head)).await.expect("at the limit");
    check_refused(
        served.kv().put(of(MAX_REQUEST_BYTES - head + 1)).await,
        Code::InvalidArgument,
        "etcdserver: request is too large",
    );
    let refused = served.kv().put(of(MAX_REQUEST_BYTES + 600 * 1024)).await.expect_err("refused unread");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    served.put("small", "v").await;
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_reads_makes_no_log_entry_and_one_with_a_put_does() {
    let served = Served::alone().await;
    served.put("a", "1").await;
    let last = || served.server.replica().status().raft.expect("runs").last;
    let before = last();
    let exists = Compare {
        key: "a".into(),
        target: CompareTarget::Version.into(),
        result: CompareResult::Greater.into(),
        target_union: Some(TargetUnion::Version(0)),
        ..Compare::default()
    };
    let reads = TxnRequest { compare: vec![exists.clone()], success: vec![range_op("a")], failure: Vec::new() };
    let answer = served.kv().txn(reads).await.expect("read").into_inner();
    assert!(answer.succeeded);
    assert_eq!(answer.header.expect("a header").revision, 2);
    assert_eq!(last(), before);
    let writes = TxnRequest { compare: vec![exists], success: vec![put_op("a", "2")], failure: Vec::new() };
    served.kv().txn(writes).await.expect("written");
    assert!(last() > before);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_range_is_the_range_in_chunks_at_one_revision() {
    let served = Served::alone().await;
    for number in 0..40 {
        served.put(&format!("k/{number:02}"), "v").await;
    }
    let all = RangeRequest { range_end: "k0".into(), ..range("k/") };
    let whole = served.kv().range(all.clone()).await.expect("read").into_inner();
    let mut stream = served.kv().range_stream(all.clone()).await.expect("streams").into_inner();
    let (mut kvs, mut chunks) = (Vec::new(), 0);
    while let Some(chunk) = stream.next().await {
        let part = chunk.expect("a chunk").range_response.expect("a part of the range");
        let last = part.header.is_some();
        assert!(last || (!part.more && part.count == 0), "header, more and count come with the last chunk");
        if last {
            assert_eq!((part.count, part.more), (whole.count, whole.more));
        }
        kvs.extend(part.kvs);
        chunks += 1;
    }
    assert_eq!(kvs, whole.kvs);
    assert!(chunks > 1, "{chunks}");

    let count = RangeRequest { count_only: true, ..all.clone() };
    let counted: Vec<_> = served.kv().range_stream(count).await.expect("streams").into_inner().collect().await;
    assert_eq!(counted.len(), 1, "a count is one message");

    let sorted = RangeRequest { sort_order: 2, ..all.clone() };
    check_refused(
        served.kv().range_stream(sorted).await,
        Code::Unimplemented,
        "RangeStream does not support custom sort orders",
    );
    let filtered = RangeRequest { min_mod_revision: 2, ..all };
    check_refused(
        served.kv().range_stream(filtered).await,
        Code::Unimplemented,
        "RangeStream does not support revision filters",
    );
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_told_how_it_was_served_if_it_asked() {
    let served = Served::alone().await;
    served.put("a", "1").await;
    let silent = served.range_with(range("a"), &[]).await.expect("read");
    assert!(silent.metadata().get("quorate-consistency").is_none());
    for mode in ["default", "consistent", "stale"] {
        let read = served.range_with(range("a"), &[("quorate-consistency", mode)]).await.expect("read");
        let told = |name: &str| read.metadata().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        assert_eq!(told("quorate-consistency").as_deref(), Some(mode));
        assert_eq!(told("quorate-known-leader").as_deref(), Some("true"));
        assert!(told("quorate-lag-entries").is_some());
    }
    let bounded =
        [("quorate-consistency", "stale"), ("quorate-max-staleness-ms", "60000"), ("quorate-min-revision", "2")];
    served.range_with(range("a"), &bounded).await.expect("within the bound");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contradicting_choices_are_invalid_arguments() {
    let served = Served::alone().await;
    let serializable = RangeRequest { serializable: true, ..range("a") };
    for (request, metadata) in [
        (&serializable, &[("quorate-consistency", "consistent")][..]),
        (&serializable, &[("quorate-consistency", "default")]),
        (&range("a"), &[("quorate-max-staleness-ms", "10")]),
        (&range("a"), &[("quorate-consistency", "consistent"), ("quorate-on-stale", "wait")]),
        (&range("a"), &[("quorate-consistency", "stale"), ("quorate-consistency", "default")]),
        (&range("a"), &[("quorate-consistency", "linearizable")]),
        (&range("a"), &[("quorate-consistency", "stale"), ("quorate-max-staleness-ms", "soon")]),
    ] {
        let refused = served.range_with(request.clone(), metadata).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{metadata:?}: {refused}");
    }
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_node_says_what_it_waits_for() {
    let served = Served::empty().await;
    let refused = served.kv().put(put("a", "1")).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let refused = served.range_with(range("a"), &[("quorate-consistency", "stale")]).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    served.server.stop().await;
}

/// Whether it is a bound of transactions or of the decoder that they pass.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_nest_too_deep_are_refused_alike_however_deep() {
    let served = Served::alone().await;
    let within = |inner: TxnRequest| TxnRequest {
        success: vec![RequestOp { request: Some(request_op::Request::RequestTxn(inner)) }],
        ..TxnRequest::default()
    };
    let nested = |depth: usize| (1..depth).fold(TxnRequest::default(), |inner, _| within(inner));
    served.kv().txn(nested(24)).await.expect("as deep as it may be");
    for depth in [25, 49, 50, 51, 52, 100, 200] {
        let refused = served.kv().txn(nested(depth)).await.expect_err("too deep");
        let told = (refused.code(), refused.message());
        assert_eq!(told, (Code::InvalidArgument, "etcdserver: too many operations in txn request"), "{depth}");
    }
    for depth in [25, 40, 50, 1000] {
        let body = format!("{}{}", "{\"success\":[{\"request_txn\":".repeat(depth - 1), "{}");
        let body = format!("{body}{}", "}]}".repeat(depth - 1));
        let refused = served.http("POST", "/v3/kv/txn", body.as_bytes()).await;
        assert_eq!((refused.status, &refused.json()["code"]), (400, &serde_json::json!(3)), "{depth}");
    }
    served.server.stop().await;
}
