//! A client of the Watch service for tests: one stream, its requests and its answers.

use quorate_proto::etcdserverpb::watch_client::WatchClient;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::cluster::PATIENCE;

/// One stream of watches.
pub(crate) struct Watcher {
    requests: Option<mpsc::UnboundedSender<WatchRequest>>,
    answers: Streaming<WatchResponse>,
}

impl Watcher {
    /// Opens a stream.
    pub(crate) async fn open(channel: Channel) -> Watcher {
        Watcher::open_with(channel, &[]).await.expect("opened")
    }

    /// Opens a stream with metadata.
    pub(crate) async fn open_with(channel: Channel, metadata: &[(&'static str, &str)]) -> Result<Watcher, Status> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let mut request = Request::new(UnboundedReceiverStream::new(receiver));
        for (name, value) in metadata {
            request.metadata_mut().insert(*name, value.parse().expect("a metadata value"));
        }
        let answers = WatchClient::new(channel).watch(request).await?.into_inner();
        Ok(Watcher { requests: Some(requests), answers })
    }

    /// Asks for a watch and reads the answer, which comes before anything else of that watch.
    pub(crate) async fn create(&mut self, create: WatchCreateRequest) -> WatchResponse {
        self.ask(create);
        let created = self.next().await;
        assert!(created.created && created.events.is_empty(), "{created:?}");
        created
    }

    /// Asks for a watch.
    pub(crate) fn ask(&mut self, create: WatchCreateRequest) {
        self.send(RequestUnion::CreateRequest(create));
    }

    pub(crate) fn cancel(&mut self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
    }

    pub(crate) fn ask_progress(&mut self) {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {}));
    }

    /// Closes the client's half of the stream.
    pub(crate) fn ask_no_more(&mut self) {
        self.requests = None;
    }

    fn send(&mut self, request: RequestUnion) {
        let requests = self.requests.as_ref().expect("asks still");
        requests.send(WatchRequest { request_union: Some(request) }).expect("the stream is open");
    }

    /// The next answer.
    pub(crate) async fn next(&mut self) -> WatchResponse {
        self.try_next().await.expect("no error").expect("the stream goes on")
    }

    /// The next answer, the end or the error.
    pub(crate) async fn try_next(&mut self) -> Result<Option<WatchResponse>, Status> {
        timeout(PATIENCE, self.answers.message()).await.expect("answered in time")
    }

    /// Reads until `count` events came; each with the revision and the kind in words, and the id of its watch.
    pub(crate) async fn events(&mut self, count: usize) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let answer = self.next().await;
            seen.extend(answer.events.iter().map(|event| format!("{}: {}", answer.watch_id, describe(event))));
        }
        assert_eq!(seen.len(), count, "{seen:?}");
        seen
    }
}

/// An event in words: `put a=1 @4`, `delete a @5`, with `was 0` if the former value is told.
pub(crate) fn describe(event: &quorate_proto::mvccpb::Event) -> String {
    let kv = event.kv.as_ref().expect("an event has a key");
    let (key, value) = (String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value));
    let what = if event.r#type == 1 { format!("delete {key}") } else { format!("put {key}={value}") };
    let was = event.prev_kv.as_ref().map(|kv| format!(" was {}", String::from_utf8_lossy(&kv.value)));
    format!("{what} @{}{}", kv.mod_revision, was.unwrap_or_default())
}

/// A request to watch `key` from `start_revision`.
pub(crate) fn watch(key: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest { key: key.to_string().into(), start_revision, ..WatchCreateRequest::default() }
}

/// A request to watch all keys that begin with `prefix`, which ends with a letter.
pub(crate) fn watch_prefix(prefix: &str, start_revision: i64) -> WatchCreateRequest {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("not empty") += 1;
    WatchCreateRequest { range_end: end.into(), ..watch(prefix, start_revision) }
}
