//! The Watch service over real connections: that the rules hold end to end. The rules one by one: `quorate-node`.

use quorate_proto::etcdserverpb::{CompactionRequest, WatchCreateRequest};
use tonic::Code;

use crate::cluster::PATIENCE;
use crate::served::{Served, put};
use crate::watcher::{Watcher, watch, watch_prefix};

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_as_they_happen_and_from_the_past() {
    let served = Served::alone().await;
    let mut watcher = Watcher::open(served.channel()).await;
    let created = watcher.create(watch_prefix("k", 0)).await;
    assert_eq!((created.watch_id, created.header.expect("a header").revision), (0, 1));
    for value in ["1", "2"] {
        served.put("ka", value).await;
    }
    served.put("other", "3").await;
    assert_eq!(watcher.events(2).await, ["0: put ka=1 @2", "0: put ka=2 @3"]);

    let past = WatchCreateRequest { prev_kv: true, ..watch("ka", 2) };
    let created = watcher.create(past).await;
    assert_eq!((created.watch_id, created.header.expect("a header").revision), (1, 4));
    assert_eq!(watcher.events(2).await, ["1: put ka=1 @2", "1: put ka=2 @3 was 1"]);

    watcher.cancel(0);
    let canceled = watcher.next().await;
    assert!(canceled.canceled && canceled.cancel_reason.is_empty() && canceled.watch_id == 0, "{canceled:?}");
    served.put("ka", "4").await;
    assert_eq!(watcher.events(1).await, ["1: put ka=4 @5 was 2"]);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_created_after_a_write_was_answered_begins_after_it() {
    let served = Served::alone().await;
    let mut kv = served.kv();
    for round in 0..50 {
        let mut watcher = Watcher::open(served.channel()).await;
        let before = kv.put(put("k", "before")).await.expect("put").into_inner().header.expect("a header").revision;
        let created = watcher.create(watch("k", 0)).await;
        assert!(created.header.expect("a header").revision >= before, "round {round}");
        served.put("k", "after").await;
        assert_eq!(watcher.events(1).await, [format!("0: put k=after @{}", before + 1)]);
    }
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_asked_for_never_overtakes_an_event() {
    // etcd#15220: requested progress said a revision whose events were still to come.
    let served = Served::alone().await;
    let mut watcher = Watcher::open(served.channel()).await;
    watcher.create(watch_prefix("k", 0)).await;
    let mut kv = served.kv();
    let writing = tokio::spawn(async move {
        for number in 0..200 {
            kv.put(put("k", &number.to_string())).await.expect("put");
        }
    });
    let (mut told, mut reports) = (1, 0);
    watcher.ask_progress();
    while told < 201 || reports == 0 {
        let answer = watcher.next().await;
        if answer.events.is_empty() {
            assert_eq!((answer.watch_id, answer.header.expect("a header").revision), (-1, told));
            reports += 1;
            watcher.ask_progress();
        }
        for event in &answer.events {
            told += 1;
            assert_eq!(event.kv.as_ref().expect("a key").mod_revision, told);
        }
    }
    writing.await.expect("written");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_streams_with_a_word_that_makes_clients_resume_elsewhere() {
    let served = Served::alone().await;
    let mut watcher = Watcher::open(served.channel()).await;
    watcher.create(watch("k", 0)).await;
    let stopping = tokio::spawn(served.server.stop());
    let ended = watcher.try_next().await.expect_err("ended");
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "etcdserver: server stopped"));
    stopping.await.expect("stopped");
}

/// As in etcd, whose streams end with their call and not with the last request.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_no_more_is_told_on_until_its_last_watch_ends() {
    let served = Served::alone().await;
    let mut watcher = Watcher::open(served.channel()).await;
    for id in 0..2 {
        assert_eq!(watcher.create(watch(&format!("k{id}"), 0)).await.watch_id, id);
    }
    watcher.ask(watch_prefix("k", 0));
    watcher.cancel(1);
    watcher.ask_no_more();
    assert!(watcher.next().await.created, "what was asked for before the end is answered");
    assert!(watcher.next().await.canceled);
    for revision in 2..4 {
        assert_eq!(served.put("k0", "v").await, revision);
        let mut told = watcher.events(2).await;
        told.sort();
        assert_eq!(told, [format!("0: put k0=v @{revision}"), format!("2: put k0=v @{revision}")]);
    }
    served.server.stop().await;
    let ended = watcher.try_next().await.expect_err("ended");
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "etcdserver: server stopped"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_no_more_and_has_no_watch_is_not_kept() {
    let served = Served::alone().await;
    for _ in 0..2 {
        served.put("k", "v").await;
    }
    served.kv().compact(CompactionRequest { revision: 3, physical: false }).await.expect("compacted");
    let open = async || Watcher::open(served.channel()).await;

    let mut without = open().await;
    without.ask_no_more();
    assert_eq!(without.try_next().await.expect("no error"), None);

    let mut canceled = open().await;
    canceled.create(watch("k", 0)).await;
    canceled.cancel(0);
    canceled.ask_no_more();
    assert!(canceled.next().await.canceled);
    assert_eq!(canceled.try_next().await.expect("no error"), None);

    let mut refused = open().await;
    refused.ask(watch("k", -1));
    refused.ask_no_more();
    assert!(refused.next().await.canceled);
    assert_eq!(refused.try_next().await.expect("no error"), None);

    let mut compacted = open().await;
    compacted.create(watch("k", 1)).await;
    compacted.ask_no_more();
    assert_eq!(compacted.next().await.compact_revision, 3);
    assert_eq!(compacted.try_next().await.expect("no error"), None);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_freed_when_a_client_that_asks_no_more_goes_away() {
    let served = Served::alone().await;
    let mut watcher = Watcher::open(served.channel()).await;
    watcher.create(watch("k", 0)).await;
    watcher.ask_no_more();
    served.put("k", "v").await;
    watcher.events(1).await;
    let streams = |metrics: &str| metrics.contains("\nquorate_watch_streams 1\n");
    assert!(streams(&served.http("GET", "/metrics", b"").await.text()));
    drop(watcher);
    let freed = async {
        while streams(&served.http("GET", "/metrics", b"").await.text()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.expect("freed in time");
    served.server.stop().await;
}
