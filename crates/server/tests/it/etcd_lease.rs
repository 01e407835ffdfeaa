//! `etcdserverpb.Lease` as a client sees it: ids, times to live, keepalives in order, keys that go with a lease.

use std::ops::Range;

use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest,
};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::cluster::PATIENCE;
use crate::served::{Served, put, range};

async fn leases(served: &Served) -> LeaseClient<Channel> {
    LeaseClient::new(served.channel())
}

async fn grant(client: &mut LeaseClient<Channel>, id: i64, ttl: i64) -> Result<LeaseGrantResponse, Status> {
    Ok(client.lease_grant(LeaseGrantRequest { ttl, id }).await?.into_inner())
}

async fn time_to_live(client: &mut LeaseClient<Channel>, id: i64) -> LeaseTimeToLiveResponse {
    client.lease_time_to_live(LeaseTimeToLiveRequest { id, keys: true }).await.expect("told").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_draws_an_id_and_raises_a_short_time_to_live() {
    let served = Served::alone().await;
    let mut client = leases(&served).await;
    let drawn = grant(&mut client, 0, 60).await.expect("granted");
    assert!(drawn.id > 0);
    assert_eq!((drawn.ttl, drawn.error.as_str()), (60, ""));
    assert_eq!(drawn.header.expect("a header").revision, 1, "a lease is no change of keys");
    // One and a half election timeouts of 500 ms.
    assert_eq!(grant(&mut client, 5, 0).await.expect("granted").ttl, 1);
    let refused = grant(&mut client, 5, 60).await.expect_err("taken");
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "etcdserver: lease already exists"));
    let refused = grant(&mut client, 6, 9_000_000_001).await.expect_err("too long");
    assert_eq!((refused.code(), refused.message()), (Code::OutOfRange, "etcdserver: too large lease TTL"));
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_takes_the_keys_along_and_is_refused_the_second_time() {
    let served = Served::alone().await;
    let mut client = leases(&served).await;
    grant(&mut client, 7, 60).await.expect("granted");
    for key in ["b", "a"] {
        served.kv().put(PutRequest { lease: 7, ..put(key, "1") }).await.expect("written");
    }
    let left = time_to_live(&mut client, 7).await;
    assert_eq!((left.id, left.granted_ttl), (7, 60));
    assert!((50..=60).contains(&left.ttl), "{left:?}");
    assert_eq!(left.keys, ["a", "b"]);

    let revoked = client.lease_revoke(LeaseRevokeRequest { id: 7 }).await.expect("revoked").into_inner();
    assert_eq!(revoked.header.expect("a header").revision, 4, "both keys in one revision");
    assert_eq!(served.kv().range(range("a")).await.expect("read").into_inner().count, 0);
    let refused = client.lease_revoke(LeaseRevokeRequest { id: 7 }).await.expect_err("gone");
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "etcdserver: requested lease not found"));
    let gone = time_to_live(&mut client, 7).await;
    assert_eq!((gone.ttl, gone.granted_ttl, gone.keys.len()), (-1, 0, 0));
    let refused = served.kv().put(PutRequest { lease: 7, ..put("a", "1") }).await.expect_err("gone");
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "etcdserver: requested lease not found"));
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keepalives_are_answered_in_order_and_a_lease_that_is_not_there_has_nothing_left() {
    let served = Served::alone().await;
    let mut client = leases(&served).await;
    for id in [1, 2] {
        grant(&mut client, id, 60).await.expect("granted");
    }
    let (requests, receiver) = tokio::sync::mpsc::channel(600);
    for n in 0..500 {
        requests.send(LeaseKeepAliveRequest { id: n % 3 + 1 }).await.expect("there is room");
    }
    let mut answers = client.lease_keep_alive(ReceiverStream::new(receiver)).await.expect("opened").into_inner();
    for n in 0..500 {
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await.expect("in time");
        let answer = answer.expect("an answer").expect("no error");
        let ttl = if n % 3 == 2 { 0 } else { 60 };
        assert_eq!((answer.id, answer.ttl), (n % 3 + 1, ttl));
        assert_ne!(answer.header.expect("a header").member_id, 0);
    }
    drop(requests);
    assert!(answers.next().await.is_none(), "the stream ends with the client's");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_keepalives_that_stays_open_does_not_keep_the_server_from_stopping() {
    let served = Served::alone().await;
    let mut client = leases(&served).await;
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let mut answers = client.lease_keep_alive(ReceiverStream::new(receiver)).await.expect("opened").into_inner();
    requests.send(LeaseKeepAliveRequest { id: 9 }).await.expect("taken");
    assert_eq!(answers.next().await.expect("an answer").expect("no error").ttl, 0);
    tokio::time::timeout(PATIENCE, served.server.stop()).await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_listed_by_when_they_run_out() {
    let served = Served::alone().await;
    let mut client = leases(&served).await;
    for (id, ttl) in [(1, 300), (2, 100), (3, 200)] {
        grant(&mut client, id, ttl).await.expect("granted");
    }
    let listed = client.lease_leases(LeaseLeasesRequest {}).await.expect("listed").into_inner().leases;
    assert_eq!(listed.iter().map(|lease| lease.id).collect::<Vec<_>>(), [2, 3, 1]);
    served.server.stop().await;
}

/// Many ids and many keys take memory, as the records of a range do.
#[tokio::test(flavor = "multi_thread")]
async fn ids_and_keys_of_leases_past_the_budget_of_answers_are_refused_and_the_lease_alone_is_not() {
    let served = Served::adjusted(|config| config.answers.max_bytes = 17 * 1024).await;
    let grant_all = async |ids: Range<i64>| {
        let mut grants = JoinSet::new();
        for id in ids {
            let mut client = leases(&served).await;
            grants.spawn(async move { grant(&mut client, id, 600).await.map(drop) });
            if grants.len() == 16 {
                grants.join_next().await.expect("one is under way").expect("ends").expect("granted");
            }
        }
        grants.join_all().await.into_iter().for_each(|granted| granted.expect("granted"));
    };
    let mut client = leases(&served).await;
    // 16 bytes each: the first thousand is too little to be counted, one hundred more is too much.
    grant_all(1..1_001).await;
    let listed = client.lease_leases(LeaseLeasesRequest {}).await.expect("listed").into_inner().leases;
    assert_eq!(listed.len(), 1_000);
    grant_all(1_001..1_101).await;
    let refused = client.lease_leases(LeaseLeasesRequest {}).await.expect_err("too many");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");

    let put_under = async |lease: i64, keys: usize| {
        for number in 0..keys {
            let key = format!("{lease}/{number:0100}");
            served.kv().put(PutRequest { lease, ..put(&key, "") }).await.expect("written");
        }
    };
    put_under(1, 90).await;
    put_under(2, 110).await;
    assert_eq!(time_to_live(&mut client, 1).await.keys.len(), 90);
    let with_keys = client.lease_time_to_live(LeaseTimeToLiveRequest { id: 2, keys: true }).await;
    let refused = with_keys.expect_err("its keys are too much");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let bare = client.lease_time_to_live(LeaseTimeToLiveRequest { id: 2, keys: false }).await.expect("told");
    assert_eq!(bare.into_inner().granted_ttl, 600);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_runs_out_takes_its_key_along_and_is_counted() {
    let served = Served::alone().await;
    let mut client = leases(&served).await;
    let granted = grant(&mut client, 0, 1).await.expect("granted");
    served.kv().put(PutRequest { lease: granted.id, ..put("a", "1") }).await.expect("written");
    let replica = served.server.replica();
    let gone = async {
        while replica.view().is_none_or(|view| view.lease_count() > 0) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it runs out");
    assert_eq!(served.kv().range(range("a")).await.expect("read").into_inner().count, 0);
    let metrics = served.http("GET", "/metrics", b"").await.text();
    for name in ["lease_granted_total", "lease_revoked_total", "server_lease_expired_total"] {
        assert!(metrics.contains(&format!("\netcd_debugging_{name} 1\n")), "{name}: {metrics}");
    }
    served.server.stop().await;
}
