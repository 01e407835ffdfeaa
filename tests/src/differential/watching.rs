//! One stream of watches: what each watch on it is told, in words, up to what was written last.
//!
//! How events are spread over answers and how watches take turns is a matter of the moment. What must hold of it on both
//! sides is looked at here, and a breach is put into words where the other side has none: no revision comes in two answers
//! unless fragments were asked for, no event comes after progress that covers it, and no progress falls behind an event.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::watch_client::WatchClient;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::answer::settle;
use super::side::Signed;

/// How long a stream may be silent before it is asked again how far it is: etcd brings old watches up to date ten times a
/// second, and does not answer before.
const SILENCE: Duration = Duration::from_millis(30);
/// So often it is asked.
const MAX_ASKED: u32 = 500;
/// A watch that fails to be created has this id, and so has a report of progress that was asked for.
const NO_WATCH: i64 = -1;

/// What a watch must keep to.
#[derive(Debug)]
struct Watch {
    fragments: bool,
    /// Told up to here. At first what lies before the first revision that it may be told.
    last: i64,
    /// Whether the next answer goes on with the revision of the last one.
    goes_on: bool,
    /// Set as long as it begins in the future, where no progress is told.
    begins: i64,
}

/// An open stream.
#[derive(Debug)]
pub(super) struct Watching {
    /// `None` once this half of the stream is closed.
    requests: Option<mpsc::Sender<pb::WatchRequest>>,
    answers: Streaming<pb::WatchResponse>,
    watches: BTreeMap<i64, Watch>,
    /// What each was told since this was asked for last.
    told: BTreeMap<i64, String>,
}

impl Watching {
    /// Opens a stream with its first watch, and gives what that was told up to the revision `now`.
    pub(super) async fn open(to: Signed, create: pb::WatchCreateRequest, now: i64) -> Result<(Self, String), Status> {
        let mut stream = Watching::begin(to, &create, false).await?;
        stream.catch_up(now).await?;
        let told = stream.take();
        Ok((stream, told))
    }

    /// Opens a stream with its first watch, which is the last one if its half is `closed`.
    async fn begin(to: Signed, create: &pb::WatchCreateRequest, closed: bool) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(4);
        let first = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create.clone())) };
        requests.try_send(first).expect("there is room");
        let requests = (!closed).then_some(requests);
        // Values are large now and then, and what shares an answer is up to the server.
        let mut client = WatchClient::new(to).max_decoding_message_size(usize::MAX);
        let answers = client.watch(ReceiverStream::new(receiver)).await?.into_inner();
        let (watches, told) = (BTreeMap::new(), BTreeMap::new());
        let mut stream = Watching { requests, answers, watches, told };
        stream.created(create).await?;
        Ok(stream)
    }

    /// Sends a request and gives what all watches were told since the last one, up to the revision `now`.
    pub(super) async fn request(&mut self, union: RequestUnion, now: i64) -> Result<String, Status> {
        // etcd may forget what it has not sent yet of a watch that is cancelled.
        self.catch_up(now).await?;
        self.send(union.clone()).await;
        match union {
            RequestUnion::CreateRequest(create) => self.created(&create).await?,
            RequestUnion::CancelRequest(cancel) => {
                while self.watches.contains_key(&cancel.watch_id) {
                    self.hear().await?;
                }
            }
            RequestUnion::ProgressRequest(_) => {}
        }
        self.catch_up(now).await?;
        Ok(self.take())
    }

    /// Takes in everything up to the revision `now`, unless a watch begins later: then nothing tells how far they are.
    pub(super) async fn catch_up(&mut self, now: i64) -> Result<(), Status> {
        for _ in 0..MAX_ASKED {
            if self.watches.is_empty() || self.watches.values().any(|watch| watch.begins > now) {
                return Ok(());
            }
            self.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
            while let Ok(heard) = timeout(SILENCE, self.hear()).await {
                let progress = heard?;
                if progress.is_some_and(|revision| revision >= now) {
                    return Ok(());
                }
                if self.watches.is_empty() {
                    return Ok(());
                }
            }
        }
        self.told.entry(NO_WATCH).or_default().push_str("never told that they were told all\n");
        Ok(())
    }

    async fn send(&self, union: RequestUnion) {
        if let Some(requests) = &self.requests {
            // An error means that the stream has ended, which its answers show.
            let _ = requests.send(pb::WatchRequest { request_union: Some(union) }).await;
        }
    }

    /// Waits for the answer to a creation.
    async fn created(&mut self, create: &pb::WatchCreateRequest) -> Result<(), Status> {
        loop {
            let answer = self.next().await?;
            let (created, id) = (answer.created, answer.watch_id);
            let now = answer.header.as_ref().map_or(0, |header| header.revision);
            let failed = answer.canceled;
            self.note(answer).await;
            if created {
                if !failed {
                    let begins = if create.start_revision > now { create.start_revision } else { 0 };
                    let last = if create.start_revision > 0 { create.start_revision - 1 } else { 0 };
                    self.watches.insert(id, Watch { fragments: create.fragment, last, goes_on: false, begins });
                }
                return Ok(());
            }
        }
    }

    /// Takes in one answer; gives its revision if it is a report of progress that was asked for.
    async fn hear(&mut self) -> Result<Option<i64>, Status> {
        let answer = self.next().await?;
        Ok(self.note(answer).await)
    }

    async fn next(&mut self) -> Result<pb::WatchResponse, Status> {
        self.answers.message().await?.ok_or_else(|| Status::unknown("the stream ended"))
    }

    /// Puts an answer into words; gives its revision if it is a report of progress that was asked for.
    async fn note(&mut self, mut answer: pb::WatchResponse) -> Option<i64> {
        let (id, revision) = (answer.watch_id, answer.header.as_ref().map_or(0, |header| header.revision));
        if answer.canceled && !answer.created && !self.watches.contains_key(&id) {
            // The answer to a cancellation of what had ended.
            return None;
        }
        let told = self.told.entry(id).or_default();
        if answer.created || answer.canceled {
            let is_compacted = answer.compact_revision > 0;
            // Both come to be at the revision of the moment, which is the same for both as long as nothing else goes on.
            settle(&mut answer);
            let _ = writeln!(told, "{answer:?}");
            self.watches.remove(&id);
            if is_compacted {
                // etcd reports no progress on a stream with such a watch until its client cancels it, too.
                self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: id })).await;
            }
            return None;
        }
        if answer.events.is_empty() {
            for (number, watch) in self.watches.iter_mut().filter(|(number, _)| id == NO_WATCH || **number == id) {
                if revision < watch.last && watch.begins == 0 {
                    let _ = writeln!(told, "progress at {revision} when watch {number} was told of {}", watch.last);
                }
                watch.last = watch.last.max(revision);
            }
            return (id == NO_WATCH).then_some(revision);
        }
        let Some(watch) = self.watches.get_mut(&id) else {
            let _ = writeln!(told, "events of no watch: {answer:?}");
            return None;
        };
        let first = answer.events.first().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision);
        if first < watch.last || (first == watch.last && !watch.goes_on) {
            let _ = writeln!(told, "revision {first} after it was told up to {}", watch.last);
        }
        if answer.fragment && !watch.fragments {
            told.push_str("a fragment that nobody asked for\n");
        }
        watch.goes_on = answer.fragment;
        for event in answer.events {
            watch.last = watch.last.max(event.kv.as_ref().map_or(0, |kv| kv.mod_revision));
            let _ = writeln!(told, "{event:?}");
        }
        watch.begins = 0;
        None
    }

    fn take(&mut self) -> String {
        std::mem::take(&mut self.told).into_iter().filter(|(_, told)| !told.is_empty()).fold(
            String::new(),
            |mut whole, (id, told)| {
                let _ = write!(whole, "watch {id}\n{told}");
                whole
            },
        )
    }
}

/// One watch from its creation until it was told all, and its end.
pub(super) async fn once(to: Signed, create: pb::WatchCreateRequest, now: i64) -> Result<String, Status> {
    let (mut stream, told) = Watching::open(to, create, now).await?;
    let Some(id) = stream.watches.keys().next().copied() else { return Ok(told) };
    let cancel = RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: id });
    Ok(told + &stream.request(cancel, now).await?)
}

/// One watch whose client asks nothing else and closes its half of the stream: it tells how far it is by itself.
pub(super) async fn half_closed(to: Signed, create: pb::WatchCreateRequest, now: i64) -> Result<String, Status> {
    let create = pb::WatchCreateRequest { progress_notify: true, ..create };
    let mut stream = Watching::begin(to, &create, true).await?;
    while stream.watches.values().any(|watch| watch.last < now) {
        stream.hear().await?;
    }
    Ok(stream.take())
}
