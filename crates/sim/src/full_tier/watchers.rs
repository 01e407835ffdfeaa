//! Clients that watch: on streams of several watches, at any node, from any revision, some of them slow to read, and resumed
//! elsewhere when a node dies or is left.
//!
//! Owns I-28 to I-35: what one watch was told, over all its streams together, is what the replay of the committed log says it
//! has to be told: in order, no event twice and none left out, no revision split over answers without a word, former versions
//! right, progress only past what was told; or the watch was ended because what came next was forgotten.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quorate_kv::KeyValue;
use quorate_node::watch::{Answer, Events, Refusal, StreamId};
use quorate_proto::mvccpb;
use quorate_raft::NodeId;
use quorate_store::StateView;
use quorate_wire::etcd::{WatchCreate, decode_events};

use super::clients::key_name;
use super::key_model::{KeyEvent, holds};
use super::model::Model;
use super::watching::Line;
use super::workload::Followed;
use crate::clock::Instant;
use crate::coverage::{Coverage, Reached};
use crate::random::Random;

/// Watches of a run at once.
const MOST: usize = 8;

/// One watch, for all its life.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    subject: WatchCreate,
    /// Everything up to here was told or is none of its business; None = it begins where its node says.
    told: Option<i64>,
    /// The next of all changes to look at.
    next: usize,
    /// An answer was a fragment: the revision goes on.
    torn: bool,
    /// Its client wants it no more.
    canceled: bool,
}

/// A stream at one node.
#[derive(Debug)]
struct Stream {
    node: NodeId,
    line: Line,
    watches: BTreeMap<i64, Watch>,
    /// Asked for, in order, with the revision that readers of the node saw at that time.
    asked: VecDeque<(Asked, i64)>,
    /// Its client reads nothing before.
    reads_from: Instant,
}

#[derive(Debug)]
enum Asked {
    /// A watch under this id; 0 = any.
    Watch(Watch, i64),
    /// What cannot be.
    Nonsense(Refusal),
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    streams: BTreeMap<StreamId, Stream>,
    next_stream: u64,
    /// Watches begun or resumed.
    begun: i64,
    /// Watches without a stream.
    adrift: Vec<Watch>,
}

/// What a client does next.
#[derive(Debug)]
pub(super) enum Move {
    Open {
        stream: StreamId,
        line: Line,
    },
    Create {
        stream: StreamId,
        create: WatchCreate,
    },
    Cancel {
        stream: StreamId,
        id: i64,
    },
    Progress {
        stream: StreamId,
    },
    Close {
        stream: StreamId,
    },
    /// A client that was slow reads again after so long.
    ReadLater {
        delay_us: u64,
    },
}

fn key_value(kv: mvccpb::KeyValue) -> KeyValue {
    let mvccpb::KeyValue { key, create_revision, mod_revision, version, value, lease } = kv;
    KeyValue { key, create_revision, mod_revision, version, value, lease }
}

impl Watch {
    fn wants(&self, event: &KeyEvent) -> bool {
        let filtered = if event.now.is_some() { self.subject.no_put } else { self.subject.no_delete };
        !filtered && holds(&self.subject.key, &self.subject.range_end, &event.key)
    }

    /// Goes on at the first change after `told`.
    fn stand_at(&mut self, told: i64, events: &[KeyEvent]) {
        self.told = Some(told);
        self.next = events.partition_point(|event| event.revision <= told);
        self.torn = false;
    }

    /// The next change up to `through` that it has to be told.
    fn due<'a>(&mut self, events: &'a [KeyEvent], through: i64) -> Option<&'a KeyEvent> {
        while let Some(event) = events.get(self.next).filter(|event| event.revision <= through) {
            // What came to be below the revision at which a watch of the future begins is none of its business.
            if self.told.is_some_and(|told| event.revision > told) && self.wants(event) {
                return Some(event);
            }
            self.next += 1;
        }
        None
    }

    fn check_event(&mut self, event: mvccpb::Event, model: &Model, coverage: &mut Coverage) -> i64 {
        let kv = key_value(event.kv.expect("an event has a key"));
        let revision = kv.mod_revision;
        let told = self.told.expect("events come after the watch was created");
        let due = self.due(model.events(), i64::MAX).cloned();
        let rule = if revision <= told { "I-28/I-29" } else { "I-30" };
        let Some(due) = due else { panic!("{rule}: {self:?} is told {kv:?}, and nothing is due") };
        let deletion = event.r#type == mvccpb::event::EventType::Delete as i32;
        let agrees = match &due.now {
            Some(now) => !deletion && kv == *now,
            None => deletion && kv.key == due.key && revision == due.revision,
        };
        assert!(agrees, "{rule}: {self:?} is told {kv:?} (deleted: {deletion}), and {due:?} is due");
        let previous = event.prev_kv.map(key_value);
        // What came before may be forgotten.
        let forgotten = previous.is_none() && revision - 1 < model.newest().1;
        let wanted = due.before.filter(|_| self.subject.prev_kv);
        assert!(previous == wanted || forgotten, "I-34: {self:?} is told {kv:?} was {previous:?}, it was {wanted:?}");
        if previous.is_some() {
            coverage.hit(Reached::WatchToldPrevious);
        }
        self.next += 1;
        revision
    }

    fn events(&mut self, events: &Events, revision: i64, model: &Model, coverage: &mut Coverage) {
        coverage.hit(Reached::WatchTold);
        let decoded = decode_events(events.body.clone()).expect("a hub sends what can be read");
        assert_eq!(decoded.len() as u32, events.count, "an answer counts its events");
        let mut last = 0;
        for event in decoded {
            last = self.check_event(event, model, coverage);
        }
        assert!(last <= revision, "I-33: an answer at revision {revision} tells of {last}");
        if events.fragment {
            coverage.hit(Reached::WatchFragment);
            assert!(self.subject.fragment, "I-31: {self:?} is told a fragment");
            self.told = self.told.max(Some(last - 1));
            self.torn = true;
            return;
        }
        self.told = self.told.max(Some(last));
        self.torn = false;
        let left = self.due(model.events(), last);
        assert!(left.is_none(), "I-31: {left:?} is missing from an answer to {self:?} about revision {last}");
    }

    fn progress(&mut self, revision: i64, model: &Model) {
        let told = self.told.expect("progress comes after the watch was created");
        assert!(revision >= told, "I-33: {self:?} is told the progress {revision}");
        assert!(!self.torn, "I-33: the progress {revision} comes within a revision of {self:?}");
        let due = self.due(model.events(), revision);
        assert!(due.is_none(), "I-33: the progress {revision} is told to {self:?} before {due:?}");
        self.told = Some(revision);
    }

    /// Ended because what comes next is forgotten; its client goes on with what there is.
    fn compacted(&mut self, compact_revision: i64, model: &Model) {
        let told = self.told.expect("a watch is ended after it was created");
        assert!(
            told + 1 < compact_revision && compact_revision <= model.newest().1,
            "I-30: {self:?} is ended at compact revision {compact_revision}"
        );
        self.stand_at(compact_revision - 1, model.events());
    }
}

impl Stream {
    /// Its client reads what there is; watches that ended there and go on elsewhere are handed out.
    fn read(&mut self, model: &Model, view: &StateView, coverage: &mut Coverage) -> Vec<Watch> {
        let answers = std::mem::take(&mut self.line.0.borrow_mut().answers);
        let mut ended = Vec::new();
        for answer in answers {
            self.answer(answer, model, view, coverage, &mut ended);
        }
        if std::mem::take(&mut self.line.0.borrow_mut().was_full) {
            coverage.hit(Reached::WatchWithoutRoom);
        }
        ended
    }

    fn answer(
        &mut self,
        answer: Answer,
        model: &Model,
        view: &StateView,
        coverage: &mut Coverage,
        out: &mut Vec<Watch>,
    ) {
        let newest = view.revision().0;
        match answer {
            Answer::Created { id, revision } => {
                let Some((Asked::Watch(mut watch, asked), seen)) = self.asked.pop_front() else {
                    panic!("I-29: a watch is created that nobody asked for")
                };
                coverage.hit(Reached::WatchCreated);
                assert!(asked == 0 || asked == id, "I-29: watch {id} is created where {asked} was asked for");
                assert!((seen..=newest).contains(&revision.0), "a watch of {seen} begins at {revision} of {newest}");
                match watch.told {
                    None => watch.stand_at(revision.0, model.events()),
                    Some(told) if told >= revision.0 => coverage.hit(Reached::WatchOfTheFuture),
                    Some(_) => coverage.hit(Reached::WatchOfThePast),
                }
                let before = self.watches.insert(id, watch);
                assert!(before.is_none(), "I-29: watch {id} is created twice");
            }
            Answer::Refused { reason, .. } => {
                let asked = self.asked.pop_front();
                if let (Some((Asked::Watch(watch, id), _)), Refusal::DuplicateId) = (&asked, &reason) {
                    assert!(self.watches.contains_key(id), "I-29: the id {id} of no watch is refused to {watch:?}");
                    coverage.hit(Reached::WatchIdTaken);
                    out.push(watch.clone());
                    return;
                }
                let fits = matches!(&asked, Some((Asked::Nonsense(expected), _)) if *expected == reason);
                assert!(fits, "{asked:?} is refused: {reason}");
                coverage.hit(Reached::WatchRefused);
            }
            Answer::Canceled { id, .. } => {
                let watch = self.watches.remove(&id).expect("a canceled watch was there");
                assert!(watch.canceled, "{watch:?} is canceled, and nobody asked for it");
                coverage.hit(Reached::WatchCanceled);
            }
            Answer::Compacted { id, compact_revision } => {
                let mut watch = self.watches.remove(&id).expect("a compacted watch was there");
                watch.compacted(compact_revision.0, model);
                coverage.hit(Reached::WatchCompacted);
                out.extend(Some(watch).filter(|watch| !watch.canceled));
            }
            Answer::Progress { id, revision } => {
                coverage.hit(Reached::WatchProgress);
                assert!(revision.0 <= newest, "I-33: a node at {newest} tells the progress {revision}");
                let concerned = self.watches.iter_mut().filter(|(watch, _)| id == -1 || **watch == id);
                concerned.for_each(|(_, watch)| watch.progress(revision.0, model));
            }
            Answer::Events { ids, revision, parts } => {
                assert!(revision.0 <= newest, "I-33: a node at {newest} tells of revision {revision}");
                for id in ids.iter() {
                    let watch = self.watches.get_mut(id).expect("events come to a watch that is there");
                    parts.iter().for_each(|part| watch.events(part, revision.0, model, coverage));
                    assert!(!watch.torn, "I-31: {watch:?} is told a response that goes on in another one");
                }
            }
        }
    }

    /// Its watches, for another stream.
    fn into_watches(self) -> impl Iterator<Item = Watch> {
        let asked = self.asked.into_iter().filter_map(|(asked, _)| match asked {
            Asked::Watch(watch, _) => Some(watch),
            Asked::Nonsense(_) => None,
        });
        self.watches.into_values().chain(asked).filter(|watch| !watch.canceled)
    }
}

impl Watchers {
    fn count(&self) -> usize {
        self.adrift.len() + self.streams.values().map(|it| it.watches.len() + it.asked.len()).sum::<usize>()
    }

    /// Everything that these clients were told at a node and read by now.
    pub(super) fn read(
        &mut self,
        node: NodeId,
        model: &Model,
        view: &StateView,
        now: Instant,
        coverage: &mut Coverage,
    ) {
        let mut closed = Vec::new();
        for (id, stream) in self.streams.iter_mut().filter(|(_, it)| it.node == node && it.reads_from <= now) {
            self.adrift.extend(stream.read(model, view, coverage));
            if stream.line.0.borrow().ended.is_some() {
                closed.push(*id);
            }
        }
        for id in closed {
            self.leave(id, model);
        }
    }

    /// A stream ends; its watches go on from the last whole revision they were told.
    fn leave(&mut self, id: StreamId, model: &Model) {
        let Some(stream) = self.streams.remove(&id) else { return };
        for mut watch in stream.into_watches() {
            if let Some(told) = watch.told {
                watch.stand_at(told, model.events());
            }
            self.adrift.push(watch);
        }
    }

    /// A process ended.
    pub(super) fn died(&mut self, node: NodeId, model: &Model) {
        let ids: Vec<StreamId> = self.streams.iter().filter(|(_, it)| it.node == node).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.leave(id, model));
    }

    fn new_watch(random: &mut Random, keys: u64, model: &Model) -> Watch {
        let (revision, compacted) = model.newest();
        let (key, range_end): (Bytes, Bytes) = match random.below(7) {
            0 => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
            1 => (Bytes::from_static(b"k"), Bytes::from_static(b"l")),
            2 => (Bytes::from_static(b"lease/"), Bytes::from_static(b"lock0")),
            3 => {
                // Up to, and without, a key that is written.
                let first = random.below(keys);
                (key_name(first), key_name(first + random.between(1, 3)))
            }
            _ => (key_name(random.below(keys)), Bytes::new()),
        };
        let told = match random.below(6) {
            0 | 1 => None,
            // The future, as a client of a node that lags sees it.
            2 => Some(revision + random.below(20) as i64),
            3 => Some(random.below(compacted.max(1) as u64) as i64),
            _ => Some(compacted.max(0) + random.below((revision - compacted.max(0)) as u64 + 1) as i64),
        };
        let subject = WatchCreate {
            key,
            range_end,
            progress_notify: random.coin(),
            no_put: random.chance(150_000),
            no_delete: random.chance(150_000),
            prev_kv: random.coin(),
            fragment: random.coin(),
            ..WatchCreate::default()
        };
        let mut watch = Watch { subject, told, next: 0, torn: false, canceled: false };
        if let Some(told) = told {
            watch.stand_at(told, model.events());
        }
        watch
    }

    /// A client that has listed keys watches from there on; no matter if others do already, or too many.
    pub(super) fn follow(&mut self, followed: Followed, model: &Model, coverage: &mut Coverage) {
        if self.count() >= MOST {
            return;
        }
        coverage.hit(Reached::ListFollowed);
        let Followed { key, range_end, after } = followed;
        let subject = WatchCreate { key, range_end, prev_kv: true, ..WatchCreate::default() };
        let mut watch = Watch { subject, told: None, next: 0, torn: false, canceled: false };
        watch.stand_at(after, model.events());
        self.adrift.push(watch);
    }

    /// A stream at a node: one that is there, or a new one.
    fn stream(&mut self, random: &mut Random, node: NodeId, now: Instant, moves: &mut Vec<Move>) -> StreamId {
        let open: Vec<StreamId> = self.at(node);
        if let Some(id) = random.pick(&open).copied().filter(|_| !random.chance(300_000)) {
            return id;
        }
        self.next_stream += 1;
        let stream = StreamId(self.next_stream);
        let line = Line::new(*random.pick(&[1, 2, 8, 1_000]).expect("choices"));
        moves.push(Move::Open { stream, line: line.clone() });
        let it = Stream { node, line, watches: BTreeMap::new(), asked: VecDeque::new(), reads_from: now };
        self.streams.insert(stream, it);
        stream
    }

    fn at(&self, node: NodeId) -> Vec<StreamId> {
        self.streams.iter().filter(|(_, it)| it.node == node).map(|(id, _)| *id).collect()
    }

    fn create(&mut self, id: StreamId, asked: Asked, subject: WatchCreate, seen: i64, moves: &mut Vec<Move>) {
        self.streams.get_mut(&id).expect("just found").asked.push_back((asked, seen));
        moves.push(Move::Create { stream: id, create: subject });
    }

    /// Begins or resumes a watch at a node whose readers see `seen`.
    fn begin(&mut self, id: StreamId, watch: Watch, seen: i64, moves: &mut Vec<Move>) {
        let start_revision = watch.told.map_or(0, |told| told + 1);
        // Some clients choose ids, and few of them, so that many are taken; also such as the node gives out by itself.
        self.begun += 1;
        let watch_id = if self.begun % 3 == 0 { self.begun % 4 } else { 0 };
        let subject = WatchCreate { start_revision, watch_id, ..watch.subject.clone() };
        self.create(id, Asked::Watch(watch, watch_id), subject, seen, moves);
    }

    /// Some client of a node makes a move; the node's readers see the revision `seen`.
    pub(super) fn draw(
        &mut self,
        random: &mut Random,
        node: NodeId,
        (seen, now, timeout_us): (i64, Instant, u64),
        keys: u64,
        model: &Model,
        coverage: &mut Coverage,
    ) -> Vec<Move> {
        let mut moves = Vec::new();
        if let Some(watch) = self.adrift.pop() {
            coverage.hit(Reached::WatchResumed);
            let id = self.stream(random, node, now, &mut moves);
            self.begin(id, watch, seen, &mut moves);
            return moves;
        }
        let here = self.at(node);
        let some = random.pick(&here).copied();
        match (random.below(12), some) {
            (0..=3, _) | (_, None) if self.count() < MOST => {
                let watch = Self::new_watch(random, keys, model);
                let id = self.stream(random, node, now, &mut moves);
                self.begin(id, watch, seen, &mut moves);
            }
            (4..=6, Some(stream)) => moves.push(Move::Progress { stream }),
            (7 | 8, Some(stream)) => {
                let delay_us = random.below(timeout_us * 6);
                let it = self.streams.get_mut(&stream).expect("just found");
                it.reads_from = it.reads_from.max(Instant(now.0 + delay_us));
                moves.push(Move::ReadLater { delay_us: delay_us + 1 });
            }
            (9, Some(stream)) => {
                let it = self.streams.get_mut(&stream).expect("just found");
                let ids: Vec<i64> = it.watches.iter().filter(|(_, it)| !it.canceled).map(|(id, _)| *id).collect();
                if let Some(&id) = random.pick(&ids) {
                    it.watches.get_mut(&id).expect("just found").canceled = true;
                    moves.push(Move::Cancel { stream, id });
                }
            }
            (10, Some(stream)) => {
                self.leave(stream, model);
                moves.push(Move::Close { stream });
            }
            (_, Some(stream)) => self.nonsense(random, stream, seen, &mut moves),
            _ => {}
        }
        moves
    }

    fn nonsense(&mut self, random: &mut Random, stream: StreamId, seen: i64, moves: &mut Vec<Move>) {
        let usual = WatchCreate { key: Bytes::from_static(b"k"), ..WatchCreate::default() };
        let (create, why) = if random.coin() {
            (WatchCreate { start_revision: -1, ..usual }, Refusal::NegativeRevision)
        } else {
            (WatchCreate { range_end: Bytes::from_static(b"a"), ..usual }, Refusal::EmptyRange)
        };
        self.create(stream, Asked::Nonsense(why), create, seen, moves);
    }

    /// In a healed world: clients of nodes that are no members leave, those that are slow read, all watches are resumed here.
    pub(super) fn settle(&mut self, node: NodeId, seen: i64, now: Instant, random: &mut Random) -> Vec<Move> {
        let mut moves = Vec::new();
        self.streams.values_mut().filter(|it| it.node == node).for_each(|it| it.reads_from = now);
        for watch in std::mem::take(&mut self.adrift) {
            let id = self.stream(random, node, now, &mut moves);
            self.begin(id, watch, seen, &mut moves);
        }
        // Whoever is slow now reads with the next turn.
        moves.push(Move::ReadLater { delay_us: 1 });
        moves
    }

    /// I-35: why not every watch has been told everything. Streams at other nodes than `members` are left.
    pub(super) fn unsettled(&mut self, members: &[NodeId], model: &Model) -> Option<String> {
        let elsewhere: Vec<StreamId> =
            self.streams.iter().filter(|(_, it)| !members.contains(&it.node)).map(|(id, _)| *id).collect();
        elsewhere.into_iter().for_each(|id| self.leave(id, model));
        let (newest, _) = model.newest();
        if !self.adrift.is_empty() {
            return Some(format!("I-35: {} watches have no stream", self.adrift.len()));
        }
        for stream in self.streams.values_mut() {
            if !stream.asked.is_empty() {
                return Some(format!("I-35: node {} does not answer {:?}", stream.node, stream.asked));
            }
            for (id, watch) in &mut stream.watches {
                let due = watch.due(model.events(), i64::MAX).map(|event| event.revision);
                if let Some(revision) = due.filter(|_| !watch.canceled) {
                    return Some(format!("I-35: watch {id} of node {} waits for {revision}: {watch:?}", stream.node));
                }
                // Told with the next interval, or with the one after it if there were events in this one.
                let lacks_progress = watch.told < Some(newest) && watch.subject.progress_notify && !watch.canceled;
                if lacks_progress {
                    return Some(format!("I-35: watch {id} of node {} is not told the progress {newest}", stream.node));
                }
            }
        }
        None
    }
}
