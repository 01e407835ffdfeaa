//! What the Watch service says when a watch cannot go on as asked: refusals, cancels, fragments, progress, and streams that
//! go away.

use std::time::Duration;

use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use tokio::time::timeout;
use tonic::Code;

use crate::cluster::PATIENCE;
use crate::served::{MAX_REQUEST_BYTES, Served, put};
use crate::watcher::{Watcher, watch, watch_prefix};

/// Both marks of a watch that never was, with its reason.
#[track_caller]
fn refused(answer: &WatchResponse, reason: &str) {
    assert_eq!(
        (answer.created, answer.canceled, answer.watch_id, answer.cancel_reason.as_str()),
        (true, true, -1, reason),
        "{answer:?}"
    );
    assert!(answer.events.is_empty(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_what_is_compacted_is_canceled_at_once_and_one_from_the_compacted_revision_goes_on() {
    // kine#238: a watch that was not cancelled left Kubernetes waiting.
    let served = Served::alone().await;
    for value in ["1", "2", "3"] {
        served.put("k", value).await;
    }
    served.kv().compact(pb::CompactionRequest { revision: 3, physical: false }).await.expect("compacted");
    let mut watcher = Watcher::open(served.channel()).await;
    let created = watcher.create(watch("k", 2)).await;
    assert!(!created.canceled, "{created:?}");
    let ended = watcher.next().await;
    assert_eq!((ended.canceled, ended.created, ended.watch_id), (true, false, created.watch_id));
    assert_eq!((ended.compact_revision, ended.cancel_reason.as_str()), (3, ""));
    assert_eq!(ended.header.expect("a header").revision, 0, "as etcd says it");

    let created = watcher.create(watch("k", 3)).await;
    let seen = watcher.events(2).await;
    assert_eq!(seen, ["put k=2 @3", "put k=3 @4"].map(|event| format!("{}: {event}", created.watch_id)));

    watcher.ask(watch("k", -1));
    refused(&watcher.next().await, "etcdserver: mvcc: required revision has been compacted");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_cannot_be_is_refused_in_its_turn_and_the_stream_goes_on() {
    let served = Served::alone().await;
    let mut watcher = Watcher::open(served.channel()).await;
    watcher.create(WatchCreateRequest { watch_id: 7, ..watch("k", 0) }).await;
    watcher.ask(WatchCreateRequest { watch_id: 7, ..watch("other", 0) });
    refused(&watcher.next().await, "mvcc: duplicate watch ID provided on the WatchStream");
    watcher.ask(WatchCreateRequest { range_end: "a".into(), ..watch("b", 0) });
    refused(&watcher.next().await, "mvcc: watcher range is empty");
    watcher.cancel(99);
    served.put("k", "1").await;
    assert_eq!(watcher.events(1).await, ["7: put k=1 @2"], "a cancel of an unknown id says nothing");
    watcher.cancel(7);
    assert!(watcher.next().await.canceled);
    let again = watcher.create(WatchCreateRequest { watch_id: 7, ..watch("k", 2) }).await;
    assert_eq!(again.watch_id, 7, "an id is free again once its watch was cancelled");
    assert_eq!(watcher.events(1).await, ["7: put k=1 @2"]);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_tells_the_revision_of_the_moment_where_nobody_watches() {
    let (served, root) = Served::with_root().await;
    for revision in 2..5 {
        served.kv_as(&root).put(put("k", "v")).await.expect("root may");
        let mut watcher = Watcher::open(served.channel()).await;
        watcher.ask(watch("k", 0));
        let answer = watcher.next().await;
        refused(&answer, "rpc error: code = InvalidArgument desc = etcdserver: user name is empty");
        assert_eq!(answer.header.expect("a header").revision, revision);
    }
    served.server.stop().await;
}

/// Keys whose values together are more than a request may have, and etcd's margin of half a MiB.
const LARGE_KEYS: usize = 20;

async fn put_large_keys(served: &Served) {
    let value = "x".repeat(MAX_REQUEST_BYTES / 8 * 7);
    for number in 0..LARGE_KEYS {
        served.put(&format!("k{number:02}"), &value).await;
    }
}

/// One revision, that tells all the former values to those who ask for them.
async fn delete_large_keys(served: &Served) {
    let delete = pb::DeleteRangeRequest { key: "k".into(), range_end: "l".into(), prev_kv: false };
    served.kv().delete_range(delete).await.expect("deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_is_split_into_fragments_for_those_who_ask_and_for_nobody_else() {
    let served = Served::alone().await;
    put_large_keys(&served).await;
    let whole = WatchCreateRequest { prev_kv: true, ..watch_prefix("k", 0) };
    let mut watcher = Watcher::open(served.channel()).await;
    watcher.create(whole.clone()).await;
    let mut split = Watcher::open(served.channel()).await;
    split.create(WatchCreateRequest { fragment: true, ..whole }).await;
    delete_large_keys(&served).await;
    let expected = watcher.next().await;
    assert_eq!((expected.events.len(), expected.fragment), (LARGE_KEYS, false));
    let (mut seen, mut fragments) = (Vec::new(), 0);
    while seen.len() < LARGE_KEYS {
        let answer = split.next().await;
        assert_eq!(
            answer.fragment,
            seen.len() + answer.events.len() < LARGE_KEYS,
            "all parts but the last are fragments"
        );
        fragments += usize::from(answer.fragment);
        seen.extend(answer.events);
    }
    assert_eq!(seen, expected.events);
    assert!(fragments >= 1, "what is larger than an answer may be is split");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_watches_of_a_stream_are_told_their_fragments_one_watch_after_the_other() {
    // etcd's Go client puts one fragmented response together at a time, and drops what it is told of another watch meanwhile.
    let served = Served::alone().await;
    put_large_keys(&served).await;
    let mut watcher = Watcher::open(served.channel()).await;
    let equal = WatchCreateRequest { prev_kv: true, fragment: true, ..watch_prefix("k", 0) };
    let ids = [watcher.create(equal.clone()).await.watch_id, watcher.create(equal).await.watch_id];
    delete_large_keys(&served).await;
    for id in ids {
        let mut told = 0;
        while told < LARGE_KEYS {
            let answer = watcher.next().await;
            assert_eq!(answer.watch_id, id, "{told} of {LARGE_KEYS} events were told");
            told += answer.events.len();
            assert_eq!(answer.fragment, told < LARGE_KEYS);
        }
    }
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_to_a_quiet_watch_that_wants_it_and_to_no_other() {
    let served = Served::adjusted(|config| config.replica.watch_progress_interval = Duration::from_millis(100)).await;
    let mut watcher = Watcher::open(served.channel()).await;
    let quiet = watcher.create(watch("quiet", 0)).await.watch_id;
    let wants = watcher.create(WatchCreateRequest { progress_notify: true, ..watch("wants", 0) }).await.watch_id;
    assert_ne!(quiet, wants);
    let revision = served.put("other", "1").await;
    loop {
        let told = watcher.next().await;
        assert!(told.events.is_empty() && !told.canceled && told.watch_id == wants, "{told:?}");
        // The store may not have told the stream of the write yet; never 0 (kine#568).
        let at = told.header.expect("a header").revision;
        assert!((1..=revision).contains(&at), "{at}");
        if at == revision {
            break;
        }
    }
    watcher.ask_progress();
    let mut told = watcher.next().await;
    while told.watch_id == wants {
        told = watcher.next().await;
    }
    assert_eq!((told.watch_id, told.header.expect("a header").revision), (-1, revision));
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_follows_the_answer_to_a_cancel_however_it_races_with_writes() {
    let served = Served::alone().await;
    let mut kv = served.kv();
    let writing = tokio::spawn(async move {
        loop {
            kv.put(put("k", "1")).await.expect("written");
        }
    });
    let mut watcher = Watcher::open(served.channel()).await;
    let mut canceled = Vec::new();
    for round in 0..200 {
        watcher.ask(watch("k", 0));
        let mut cancel = None;
        loop {
            let answer = watcher.next().await;
            assert!(!canceled.contains(&answer.watch_id), "round {round}: {answer:?}");
            if answer.created {
                watcher.cancel(answer.watch_id);
                cancel = Some(answer.watch_id);
            } else if answer.canceled {
                assert_eq!(Some(answer.watch_id), cancel);
                canceled.push(answer.watch_id);
                break;
            }
        }
    }
    writing.abort();
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_whose_clients_went_away_are_not_kept() {
    let served = Served::alone().await;
    for _ in 0..50 {
        let mut watcher = Watcher::open(served.channel()).await;
        watcher.create(watch("k", 0)).await;
        watcher.create(watch("other", 0)).await;
        // The connection goes with its only stream.
    }
    let none_left = async {
        loop {
            let metrics = served.http("GET", "/metrics", b"").await.text();
            let gone = |name: &str| metrics.lines().any(|line| line == format!("{name} 0"));
            if gone("etcd_debugging_mvcc_watch_stream_total") && gone("etcd_debugging_mvcc_watcher_total") {
                break;
            }
        }
    };
    timeout(PATIENCE, none_left).await.expect("streams and watches come back to none");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_requires_a_leader_is_refused_at_once_where_there_is_none() {
    let served = Served::empty().await;
    let refused = match Watcher::open_with(served.channel(), &[("hasleader", "true")]).await {
        Err(refused) => refused,
        Ok(mut watcher) => watcher.try_next().await.expect_err("refused"),
    };
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "etcdserver: no leader"));
    served.init().await;
    let mut watcher = Watcher::open_with(served.channel(), &[("hasleader", "true")]).await.expect("there is one");
    watcher.create(watch("k", 0)).await;
    served.server.stop().await;
}
