//! A key space, the watches on it, and streams whose answers are read when the test says so.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use quorate_kv::testing::MemoryRecords;
use quorate_kv::{
    Change, Command, CompactRequest, DeleteRangeRequest, KeySpace, KeyValue, PutRequest, ReadRecords, RecordKey,
    RequestOp, Revision, Step, TxnRequest,
};
use quorate_node::watch::{Answer, Batch, Ended, Events, Hub, Missed, Outlet, Previous, StreamId, WatchLimits};
use quorate_raft::Time;
use quorate_wire::etcd::{WatchCreate, decode_events};

/// What a stream was told, in words, and whether it takes more.
#[derive(Debug, Default)]
pub(crate) struct Client {
    told: Vec<String>,
    /// Bytes of events that were not taken yet.
    waiting: usize,
    full: bool,
    /// How many bytes of events may wait before it is full.
    room: Option<usize>,
}

/// The hub's end of a [`Client`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Line(Rc<RefCell<Client>>);

impl Outlet for Line {
    fn has_room(&mut self) -> bool {
        let client = self.0.borrow();
        !client.full && client.room.is_none_or(|room| client.waiting < room)
    }

    fn put(&mut self, answer: Answer) {
        let mut client = self.0.borrow_mut();
        client.told.extend(in_words(&answer));
        if let Answer::Events { parts, .. } = &answer {
            client.waiting += parts.iter().map(|part| part.body.len()).sum::<usize>();
        }
    }

    fn end(self, why: Ended) {
        self.0.borrow_mut().told.push(format!("ended: {why}"));
    }
}

/// Two keys `a` and `b` are usual; see the helpers below for what happens to them.
pub(crate) struct World {
    pub(crate) space: KeySpace,
    records: MemoryRecords,
    pub(crate) hub: Hub<Line>,
    clients: BTreeMap<u64, Line>,
    pub(crate) now: Time,
    /// Changes that were applied and not published yet.
    held: Option<Batch>,
    /// Publish at once.
    pub(crate) live: bool,
    /// Bytes of former versions that were read at once, at most.
    pub(crate) most_read: Cell<usize>,
}

struct Store<'a>(&'a KeySpace, &'a MemoryRecords, &'a Cell<usize>);

impl Previous for Store<'_> {
    type Error = Infallible;

    fn previous(&self, wanted: &[(Bytes, Revision)], max_bytes: usize) -> Result<Vec<Option<KeyValue>>, Infallible> {
        let version = |(key, revision): &(Bytes, Revision)| {
            let at = self.0.locate(key, *revision)?;
            let Ok(record) = self.1.get(at);
            record.map(|record| record.into_key_value(at))
        };
        let (mut versions, mut bytes) = (Vec::new(), 0);
        for of_one_revision in wanted.chunk_by(|one, other| one.1 == other.1) {
            if !versions.is_empty() && bytes >= max_bytes {
                break;
            }
            let found: Vec<Option<KeyValue>> = of_one_revision.iter().map(version).collect();
            bytes += found.iter().flatten().map(KeyValue::bytes).sum::<usize>();
            versions.extend(found);
        }
        self.2.set(self.2.get().max(bytes));
        Ok(versions)
    }
}

impl World {
    pub(crate) fn new() -> World {
        World::with(WatchLimits { progress_interval: Duration::from_secs(10), ..WatchLimits::default() })
    }

    pub(crate) fn with(limits: WatchLimits) -> World {
        World {
            space: KeySpace::new(),
            records: MemoryRecords::new(),
            hub: Hub::new(limits),
            clients: BTreeMap::new(),
            now: Time(0),
            held: None,
            live: true,
            most_read: Cell::new(0),
        }
    }

    /// Opens stream `id`.
    pub(crate) fn open(&mut self, id: u64) {
        let line = Line::default();
        self.hub.open(StreamId(id), line.clone(), false);
        self.clients.insert(id, line);
    }

    /// Opens stream `id`, which wants a leader to be known.
    pub(crate) fn open_with_leader(&mut self, id: u64) {
        let line = Line::default();
        self.hub.open(StreamId(id), line.clone(), true);
        self.clients.insert(id, line);
    }

    pub(crate) fn create(&mut self, id: u64, create: WatchCreate) {
        self.hub.create(StreamId(id), create, self.now, Duration::ZERO);
        self.hub.check();
    }

    /// Whether stream `id` takes no more.
    pub(crate) fn set_full(&mut self, id: u64, full: bool) {
        self.clients[&id].0.borrow_mut().full = full;
    }

    /// Stream `id` takes no more once so many bytes of events wait for its client.
    pub(crate) fn set_room(&mut self, id: u64, bytes: usize) {
        self.clients[&id].0.borrow_mut().room = Some(bytes);
    }

    /// Bytes of events that wait for the client of stream `id`.
    pub(crate) fn waiting(&self, id: u64) -> usize {
        self.clients[&id].0.borrow().waiting
    }

    /// Takes what stream `id` was told since the last time.
    pub(crate) fn told(&mut self, id: u64) -> Vec<String> {
        let mut client = self.clients[&id].0.borrow_mut();
        client.waiting = 0;
        std::mem::take(&mut client.told)
    }

    pub(crate) fn apply(&mut self, command: &Command) {
        let before = self.space.revision();
        let Ok(outcome) = self.space.apply(&mut self.records, command);
        outcome.result.expect("the command is sound");
        let batch = Batch {
            before,
            through: outcome.revision,
            compacted: self.space.compact_revision(),
            changes: outcome.changes,
        };
        match &mut self.held {
            Some(held) => held.extend(batch).expect("follows"),
            None => self.held = Some(batch),
        }
        if self.live {
            self.publish();
        }
    }

    /// Publishes what was held.
    pub(crate) fn publish(&mut self) {
        if let Some(batch) = self.held.take() {
            let Ok(()) = self.hub.publish(batch, &Store(&self.space, &self.records, &self.most_read));
            self.hub.check();
        }
    }

    /// Loses what was held, as a node does that cannot follow: only its revision is published.
    pub(crate) fn lose(&mut self) {
        if let Some(batch) = self.held.take() {
            let lost = Batch { before: batch.through, changes: Vec::new(), ..batch };
            let Ok(()) = self.hub.publish(lost, &Store(&self.space, &self.records, &self.most_read));
            self.hub.check();
        }
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) {
        self.apply(&put(key, value));
    }

    pub(crate) fn delete(&mut self, key: &str) {
        self.apply(&Command::DeleteRange(deletion(key)));
    }

    /// Puts and deletions, all of one revision.
    pub(crate) fn txn(&mut self, ops: Vec<RequestOp>) {
        self.apply(&Command::Txn(TxnRequest { success: ops, ..TxnRequest::default() }));
    }

    /// Forgets what was before `revision`, in the records, too.
    pub(crate) fn compact(&mut self, revision: i64) {
        self.apply(&Command::Compact(CompactRequest { revision, physical: false }));
        loop {
            let Ok(step) = self.space.compact_step(&mut self.records, 100);
            if step == Step::Done {
                return;
            }
        }
    }

    /// Reads back one part of the history, `max_revisions` at most; false if nobody waits for any.
    pub(crate) fn catch_up_by(&mut self, max_revisions: i64) -> bool {
        let Some(Missed { from, to }) = self.hub.behind() else { return false };
        if from < self.space.compact_revision() {
            self.hub.forget(self.space.compact_revision());
            self.hub.check();
            return true;
        }
        let to = Revision(to.0.min(from.0 + max_revisions - 1));
        let mut changes = Vec::new();
        let Ok(()) = self.records.scan(RecordKey::first_of(from), &mut |at, record| {
            if at.revision <= to.0 {
                changes.push(Change { at, record });
            }
            at.revision <= to.0
        });
        let Ok(()) =
            self.hub.catch_up(Missed { from, to }, &changes, &Store(&self.space, &self.records, &self.most_read));
        self.hub.check();
        true
    }

    /// Reads back all that anybody waits for.
    pub(crate) fn catch_up(&mut self) {
        while self.catch_up_by(i64::MAX / 2) {}
    }
}

pub(crate) fn put(key: &str, value: &str) -> Command {
    Command::Put(put_op(key, value))
}

pub(crate) fn put_op(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_string().into(), value: value.to_string().into(), ..PutRequest::default() }
}

pub(crate) fn deletion(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.to_string().into(), ..DeleteRangeRequest::default() }
}

/// A watch of one key.
pub(crate) fn watch(key: &'static str, start_revision: i64) -> WatchCreate {
    WatchCreate { key: Bytes::from_static(key.as_bytes()), start_revision, ..WatchCreate::default() }
}

/// A watch of all keys.
pub(crate) fn watch_all(start_revision: i64) -> WatchCreate {
    WatchCreate { range_end: Bytes::from_static(b"\0"), ..watch("\0", start_revision) }
}

/// `created 0 @1`, or `0,1 @4: put a=1 @3, delete b @4 (was 1)` for each part of events at current revision 4.
fn in_words(answer: &Answer) -> Vec<String> {
    let one = match answer {
        Answer::Created { id, revision } => format!("created {id} @{revision}"),
        Answer::Refused { reason, .. } => format!("refused: {reason}"),
        Answer::Canceled { id, revision } => format!("canceled {id} @{revision}"),
        Answer::Compacted { id, compact_revision } => format!("compacted {id} at {compact_revision}"),
        Answer::Progress { id, revision } => format!("progress {id} @{revision}"),
        Answer::Events { ids, revision, parts } => {
            let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
            return parts
                .iter()
                .map(|part| format!("{} @{revision}: {}", ids.join(","), part_in_words(part)))
                .collect();
        }
    };
    vec![one]
}

fn part_in_words(part: &Events) -> String {
    let decoded = decode_events(part.body.clone()).expect("events");
    assert_eq!(decoded.len() as u32, part.count);
    let events: Vec<String> = decoded.iter().map(event_in_words).collect();
    let more = if part.fragment { " …" } else { "" };
    format!("{}{more}", events.join(", "))
}

fn event_in_words(event: &quorate_proto::mvccpb::Event) -> String {
    let kv = event.kv.as_ref().expect("an event has a key");
    let (key, value) = (String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value));
    let what = if event.r#type == 1 { format!("delete {key}") } else { format!("put {key}={value}") };
    let was = event.prev_kv.as_ref().map(|kv| format!(" (was {})", String::from_utf8_lossy(&kv.value)));
    format!("{what} @{}{}", kv.mod_revision, was.unwrap_or_default())
}
