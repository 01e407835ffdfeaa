//! Clients beside the load that hold something for a long time: one follows every change, one keeps leases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::watch_client::WatchClient;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest, RangeRequest, WatchCreateRequest, WatchRequest,
};
use tokio::task::JoinHandle;
use tonic::Status;

use crate::cluster::{PATIENCE, channel};
use crate::history::{Event, History};

/// A lease that somebody keeps lives this long without them: longer than any interruption of a test.
const KEPT_SECONDS: i64 = 60;
/// One that nobody keeps, as short as one may be on a node with the usual election timeout.
const LEFT_SECONDS: i64 = 2;
/// Time between two calls of one companion.
const PACE: Duration = Duration::from_millis(500);
const HELD: &str = "held";
const LEFT: &str = "left-";

/// Key and value by the revision of their change.
type Changes = BTreeMap<i64, (String, String)>;

/// Who is asked next.
struct Endpoints {
    addresses: Vec<String>,
    next: usize,
}

impl Endpoints {
    fn next(&mut self) -> tonic::transport::Channel {
        self.next += 1;
        channel(&self.addresses[self.next % self.addresses.len()])
    }
}

/// Follows every change of keys below a prefix, through whichever node answers.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    seen: JoinHandle<Result<Changes, String>>,
}

impl Watcher {
    /// Begins with the changes after `revision`.
    pub fn start(addresses: Vec<String>, prefix: &'static str, revision: i64) -> Watcher {
        let stop = Arc::new(AtomicBool::new(false));
        let (endpoints, told) = (Endpoints { addresses, next: 0 }, Arc::clone(&stop));
        Watcher { stop, seen: tokio::spawn(follow(endpoints, prefix, revision, told)) }
    }

    /// Ends it, once it has seen everything that was acknowledged, and compares.
    ///
    /// # Errors
    /// What it missed, saw twice, out of order or otherwise than it was written.
    pub async fn finish(self, history: &History) -> Result<usize, String> {
        tokio::time::sleep(PACE).await;
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.seen.await.expect("a watcher does not panic")?;
        for operation in &history.operations {
            let Event::Written { value, revision } = &operation.event else { continue };
            if seen.get(revision) != Some(&(operation.key.clone(), value.clone())) {
                return Err(format!("{operation:?} was seen as {:?}", seen.get(revision)));
            }
        }
        Ok(seen.len())
    }
}

async fn follow(
    mut endpoints: Endpoints,
    prefix: &'static str,
    mut last: i64,
    stop: Arc<AtomicBool>,
) -> Result<Changes, String> {
    let mut seen = Changes::new();
    loop {
        let mut client = WatchClient::new(endpoints.next());
        let mut range_end = prefix.as_bytes().to_vec();
        *range_end.last_mut().expect("a prefix") += 1;
        let create = WatchCreateRequest {
            key: prefix.as_bytes().to_vec().into(),
            range_end: range_end.into(),
            start_revision: last + 1,
            ..WatchCreateRequest::default()
        };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The stream of requests stays open: its end would end the watch.
        let (sender, requests) = tokio::sync::mpsc::channel(1);
        sender.send(request).await.expect("there is room for one");
        let watching = client.watch(tokio_stream::wrappers::ReceiverStream::new(requests));
        let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, watching).await else { continue };
        let mut answers = answer.into_inner();
        loop {
            let answer = match tokio::time::timeout(PACE, answers.message()).await {
                Ok(Ok(Some(answer))) => answer,
                Ok(Ok(None) | Err(_)) => break,
                // Nothing for a while: all is seen, or this node is cut off from the rest.
                Err(_) if stop.load(Ordering::Relaxed) => return Ok(seen),
                Err(_) => break,
            };
            if answer.canceled && answer.compact_revision > 0 {
                return Err(format!("what came after {last} was compacted up to {}", answer.compact_revision));
            }
            for event in answer.events {
                let pair = event.kv.expect("an event has a key");
                if pair.mod_revision <= last {
                    return Err(format!("revision {} came after {last}", pair.mod_revision));
                }
                last = pair.mod_revision;
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                seen.insert(last, (text(&pair.key), text(&pair.value)));
            }
        }
    }
}

/// Keeps one lease alive, with a key that goes with it, and grants others that nobody keeps.
#[derive(Debug)]
pub struct Keeper {
    stop: Arc<AtomicBool>,
    kept: JoinHandle<Result<usize, String>>,
    addresses: Vec<String>,
}

impl Keeper {
    /// Begins.
    pub fn start(addresses: Vec<String>) -> Keeper {
        let stop = Arc::new(AtomicBool::new(false));
        let (endpoints, told) = (Endpoints { addresses: addresses.clone(), next: 0 }, Arc::clone(&stop));
        Keeper { stop, kept: tokio::spawn(keep(endpoints, told)), addresses }
    }

    /// Ends it. The kept lease must live, and the others must end with their keys.
    ///
    /// # Errors
    /// Which lease ended that should not have, or did not end.
    pub async fn finish(self) -> Result<usize, String> {
        self.stop.store(true, Ordering::Relaxed);
        let granted = self.kept.await.expect("a keeper does not panic")?;
        let mut endpoints = Endpoints { addresses: self.addresses, next: 0 };
        crate::cluster::wait_for("leases that nobody keeps to end", || {
            let mut client = KvClient::new(endpoints.next());
            async move { (count(&mut client, LEFT).await.ok()? == 0).then_some(()) }
        })
        .await;
        let held = count(&mut KvClient::new(endpoints.next()), HELD).await.map_err(|status| status.to_string())?;
        if held == 1 { Ok(granted) } else { Err("the key of the lease that was kept is gone".to_owned()) }
    }
}

async fn count(client: &mut KvClient<tonic::transport::Channel>, prefix: &str) -> Result<i64, Status> {
    let mut range_end = prefix.as_bytes().to_vec();
    *range_end.last_mut().expect("a prefix") += 1;
    let key = prefix.as_bytes().to_vec().into();
    let range = RangeRequest { key, range_end: range_end.into(), count_only: true, ..RangeRequest::default() };
    Ok(client.range(range).await?.into_inner().count)
}

/// Tries at one node after the other.
async fn keep(mut endpoints: Endpoints, stop: Arc<AtomicBool>) -> Result<usize, String> {
    let held = loop {
        match grant(endpoints.next(), HELD, KEPT_SECONDS).await {
            Ok(id) => break id,
            Err(_) => tokio::time::sleep(PACE).await,
        }
    };
    let mut granted = 0;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(PACE).await;
        let renewed = keep_alive(endpoints.next(), held).await;
        if matches!(renewed, Ok(ttl) if ttl <= 0) {
            return Err(format!("the lease that was kept ended: {renewed:?}"));
        }
        let key = format!("{LEFT}{granted}");
        granted += usize::from(grant(endpoints.next(), &key, LEFT_SECONDS).await.is_ok());
    }
    Ok(granted)
}

async fn grant(channel: tonic::transport::Channel, key: &str, ttl: i64) -> Result<i64, Status> {
    let request = LeaseGrantRequest { ttl, id: 0 };
    let lease = LeaseClient::new(channel.clone()).lease_grant(request).await?.into_inner().id;
    let key = key.as_bytes().to_vec().into();
    KvClient::new(channel).put(PutRequest { key, lease, ..PutRequest::default() }).await?;
    Ok(lease)
}

async fn keep_alive(channel: tonic::transport::Channel, id: i64) -> Result<i64, Status> {
    let once = tokio_stream::once(LeaseKeepAliveRequest { id });
    let mut answers = LeaseClient::new(channel).lease_keep_alive(once).await?.into_inner();
    let answer = answers.message().await?;
    answer.map(|answer| answer.ttl).ok_or_else(|| Status::unavailable("no answer"))
}
