//! All watches of one node: creating, canceling, progress, ends.
//!
//! [`super::deliver`] holds the other half: how changes reach them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_kv::Revision;
use quorate_raft::Time;
use quorate_wire::etcd::WatchCreate;

use super::answer::{Answer, Ended, NO_WATCH, Outlet, Refusal};
use super::groups::{GroupId, Groups};
use super::pack::Splits;
use super::subject::Subject;
use super::turns::Turns;

/// One client's stream of watches, named by the caller, never twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// How much a node takes on.
#[derive(Debug, Clone, Copy)]
pub struct WatchLimits {
    /// Watches of one stream.
    pub stream_watches: usize,
    /// Watches of the node.
    pub node_watches: usize,
    /// A response with several revisions ends with the one that reaches this size.
    pub response_bytes: usize,
    /// Largest response to a client that takes fragments.
    pub fragment_bytes: usize,
    /// Published changes are told, and former versions read for changes, so much at once: up to the revision that reaches
    /// this size. In between outlets are asked for room again.
    pub part_bytes: usize,
    /// Pause between two reports of progress to a watch to which nothing happens.
    pub progress_interval: Duration,
}

impl Default for WatchLimits {
    fn default() -> Self {
        WatchLimits {
            stream_watches: 50_000,
            node_watches: 200_000,
            response_bytes: 512 << 10,
            // The largest request and what etcd allows for its frame.
            fragment_bytes: 2 << 20,
            part_bytes: 1 << 20,
            progress_interval: Duration::from_secs(600),
        }
    }
}

/// Numbers for whoever observes the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Open streams.
    pub streams: usize,
    /// Watches of all streams.
    pub watches: usize,
    /// Watches that are behind.
    pub behind: usize,
    /// Events told, one for each watch that was told.
    pub events_told: u64,
}

#[derive(Debug)]
pub(super) struct Stream<O> {
    pub(super) outlet: O,
    watches: BTreeMap<i64, Watch>,
    next_id: i64,
    /// Watches that are behind, by the revision they are told next.
    pub(super) behind: BTreeSet<(i64, i64)>,
    /// Watches that begin in the future.
    ahead: usize,
    /// When progress is reported next; `None` if no watch wants that.
    progress_at: Option<Time>,
    needs_leader: bool,
}

#[derive(Debug)]
struct Watch {
    group: GroupId,
    standing: Standing,
    progress_notify: bool,
}

/// Where a watch is in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Told everything up to the published revision.
    Synced,
    /// Told everything before `next`; the rest is read back from the store.
    Behind { next: i64 },
    /// Told nothing before `start`, which is not published yet.
    Ahead { start: i64 },
}

/// See the module `watch`.
#[derive(Debug)]
pub struct Hub<O> {
    pub(super) limits: WatchLimits,
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) streams: BTreeMap<StreamId, Stream<O>>,
    pub(super) groups: Groups,
    ahead: BTreeSet<(i64, StreamId, i64)>,
    /// Streams with a watch that is behind.
    pub(super) lagging: BTreeSet<StreamId>,
    pub(super) turns: Turns,
    timers: BTreeSet<(Time, StreamId)>,
    /// Streams that need a leader.
    leader_needed: usize,
    pub(super) figures: Figures,
}

impl<O: Outlet> Hub<O> {
    /// No watches, in a store that nothing was written to. [`Hub::begin_at`] tells where it really is.
    #[must_use]
    pub fn new(limits: WatchLimits) -> Hub<O> {
        Hub {
            limits,
            revision: Revision::EMPTY.0,
            compacted: Revision::NEVER_COMPACTED.0,
            streams: BTreeMap::new(),
            groups: Groups::default(),
            ahead: BTreeSet::new(),
            lagging: BTreeSet::new(),
            turns: Turns::default(),
            timers: BTreeSet::new(),
            leader_needed: 0,
            figures: Figures::default(),
        }
    }

    /// Takes the store's revisions, if there is no watch that would miss what was changed meanwhile: whoever publishes may
    /// be silent while nobody watches.
    pub fn begin_at(&mut self, revision: Revision, compacted: Revision) {
        if self.figures.watches == 0 {
            self.revision = self.revision.max(revision.0);
            self.compacted = self.compacted.max(compacted.0);
        }
    }

    /// Everything up to here was published.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    /// Numbers; cheap.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures { streams: self.streams.len(), ..self.figures }
    }

    /// Begins a stream. One that `needs_leader` is ended by [`Hub::leader_is_lost`].
    ///
    /// # Panics
    /// If the id was used before.
    pub fn open(&mut self, id: StreamId, outlet: O, needs_leader: bool) {
        let stream = Stream {
            outlet,
            watches: BTreeMap::new(),
            next_id: 0,
            behind: BTreeSet::new(),
            ahead: 0,
            progress_at: None,
            needs_leader,
        };
        self.leader_needed += usize::from(needs_leader);
        assert!(self.streams.insert(id, stream).is_none(), "{id:?} is opened twice");
    }

    /// Begins a watch, or says why not. `jitter` spreads the reports of progress of streams created together.
    /// A stream that ended meanwhile hears nothing.
    pub fn create(&mut self, id: StreamId, create: WatchCreate, now: Time, jitter: Duration) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let (start, progress_notify) = (create.start_revision, create.progress_notify);
        let revision = Revision(self.revision);
        let admitted = admit(stream, self.figures.watches, &self.limits, create);
        let (watch, subject) = match admitted {
            Ok(admitted) => admitted,
            Err(reason) => return stream.outlet.put(Answer::Refused { revision, reason }),
        };
        stream.outlet.put(Answer::Created { id: watch, revision });
        if start > 0 && start < self.compacted {
            stream.outlet.put(Answer::Compacted { id: watch, compact_revision: Revision(self.compacted) });
            return;
        }
        if progress_notify && stream.progress_at.is_none() {
            let due = now + self.limits.progress_interval + jitter;
            stream.progress_at = Some(due);
            self.timers.insert((due, id));
        }
        let group = self.groups.join(subject);
        self.figures.watches += 1;
        let standing = match start {
            0 => Standing::Synced,
            start if start > self.revision && mutant!(FutureWatchToldOld) => Standing::Synced,
            start if start > self.revision => Standing::Ahead { start },
            next => Standing::Behind { next },
        };
        stream.watches.insert(watch, Watch { group, standing, progress_notify });
        self.enter(id, watch, standing, false);
    }

    /// Tells a stream that a watch is refused by somebody else's judgement.
    pub fn refuse(&mut self, id: StreamId, reason: Refusal) {
        let revision = Revision(self.revision);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.outlet.put(Answer::Refused { revision, reason });
        }
    }

    /// Ends one watch; an unknown one is none.
    pub fn cancel(&mut self, id: StreamId, watch: i64) {
        if self.remove(id, watch) {
            let revision = Revision(self.revision);
            let stream = self.streams.get_mut(&id).expect("it had the watch");
            stream.outlet.put(Answer::Canceled { id: watch, revision });
        }
    }

    /// Says how far the stream is, if all its watches are there. If not, nothing is said: the client asks again.
    pub fn progress(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let is_current = (stream.ahead == 0 && stream.behind.is_empty()) || mutant!(ProgressBeforeEvents);
        if !stream.watches.is_empty() && is_current {
            stream.outlet.put(Answer::Progress { id: NO_WATCH, revision: Revision(self.revision) });
        }
    }

    /// Ends a stream whose client is gone, or that was told its end.
    pub fn close(&mut self, id: StreamId) {
        let _ = self.take(id);
    }

    /// Whether a stream is open that needs a leader.
    #[must_use]
    pub fn needs_leader(&self) -> bool {
        self.leader_needed > 0
    }

    /// For long no leader was known: ends the streams that need one.
    pub fn leader_is_lost(&mut self) {
        let streams: Vec<StreamId> =
            self.streams.iter().filter(|(_, stream)| stream.needs_leader).map(|(id, _)| *id).collect();
        for id in streams {
            self.end(id, Ended::NoLeader);
        }
    }

    /// Ends all streams: their clients find another node.
    pub fn end_all(&mut self) {
        while let Some(id) = self.streams.first_key_value().map(|(id, _)| *id) {
            self.end(id, Ended::Stopped);
        }
    }

    fn end(&mut self, id: StreamId, why: Ended) {
        if let Some(stream) = self.take(id) {
            stream.outlet.end(why);
        }
    }

    fn take(&mut self, id: StreamId) -> Option<Stream<O>> {
        let watches: Vec<i64> = self.streams.get(&id)?.watches.keys().copied().collect();
        // From the last on: groups keep the watches of a stream in order, and an end is taken off without moving the rest.
        for watch in watches.into_iter().rev() {
            self.remove(id, watch);
        }
        let stream = self.streams.remove(&id)?;
        self.leader_needed -= usize::from(stream.needs_leader);
        if let Some(due) = stream.progress_at {
            self.timers.remove(&(due, id));
        }
        Some(stream)
    }

    /// When [`Hub::tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Reports progress to the watches that want it and were told nothing for an interval. The next report of a stream comes
    /// an interval and `jitter` later.
    pub fn tick(&mut self, now: Time, jitter: Duration) {
        while let Some((due, id)) = self.timers.first().copied().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, id));
            let stream = self.streams.get_mut(&id).expect("a stream takes its timer with it");
            let next = now + self.limits.progress_interval + jitter;
            stream.progress_at = Some(next);
            self.timers.insert((next, id));
            report_progress(stream, id, &mut self.groups, Revision(self.revision));
        }
    }

    /// Puts a watch into the sets of its standing.
    fn enter(&mut self, id: StreamId, watch: i64, standing: Standing, told: bool) {
        let stream = self.streams.get_mut(&id).expect("the stream of a watch");
        let entry = stream.watches.get_mut(&watch).expect("the watch is known");
        entry.standing = standing;
        match standing {
            Standing::Synced => self.groups.add_synced(entry.group, id, watch, told),
            Standing::Behind { next } => {
                stream.behind.insert((next, watch));
                self.lagging.insert(id);
                self.figures.behind += 1;
            }
            Standing::Ahead { start } => {
                stream.ahead += 1;
                self.ahead.insert((start, id, watch));
            }
        }
    }

    /// Takes a watch out of the sets of its standing.
    fn leave(&mut self, id: StreamId, watch: i64) {
        let stream = self.streams.get_mut(&id).expect("the stream of a watch");
        let entry = &stream.watches[&watch];
        match entry.standing {
            Standing::Synced => self.groups.remove_synced(entry.group, id, watch),
            Standing::Behind { next } => {
                stream.behind.remove(&(next, watch));
                self.figures.behind -= 1;
                if stream.behind.is_empty() {
                    self.lagging.remove(&id);
                }
            }
            Standing::Ahead { start } => {
                stream.ahead -= 1;
                self.ahead.remove(&(start, id, watch));
            }
        }
    }

    /// Forgets a watch; false if there is none.
    fn remove(&mut self, id: StreamId, watch: i64) -> bool {
        if !self.streams.get(&id).is_some_and(|stream| stream.watches.contains_key(&watch)) {
            return false;
        }
        self.leave(id, watch);
        let stream = self.streams.get_mut(&id).expect("just looked at");
        let Watch { group, .. } = stream.watches.remove(&watch).expect("just looked at");
        self.groups.leave(group);
        self.figures.watches -= 1;
        true
    }

    /// A watch that is behind is told next of `next`.
    pub(super) fn fall_behind(&mut self, id: StreamId, watch: i64, next: i64) {
        self.leave(id, watch);
        self.enter(id, watch, Standing::Behind { next }, false);
    }

    /// The synced watches of one stream in one group are told next of `next`.
    pub(super) fn members_fall_behind(&mut self, group: GroupId, id: StreamId, next: i64) {
        for watch in self.groups.take_synced(group, id).iter() {
            self.enter(id, *watch, Standing::Behind { next }, false);
        }
    }

    /// All synced watches are told next of `next`.
    pub(super) fn all_fall_behind(&mut self, next: i64) {
        for (id, watches) in self.groups.take_all_synced() {
            for watch in watches.iter() {
                self.enter(id, *watch, Standing::Behind { next }, false);
            }
        }
    }

    /// A watch that was behind has been told everything up to the published revision. Where there was nothing to tell
    /// (`!told`), it hears of that with the next progress: etcd's clients expect one within an interval.
    pub(super) fn caught_up(&mut self, id: StreamId, watch: i64, told: bool) {
        self.leave(id, watch);
        self.enter(id, watch, Standing::Synced, told);
    }

    /// Watches that begin at `reached` or earlier are told of changes from now on.
    pub(super) fn begin_those_ahead(&mut self, reached: i64) {
        while let Some((start, id, watch)) = self.ahead.first().copied().filter(|(start, ..)| *start <= reached) {
            self.leave(id, watch);
            let standing = if start > self.revision { Standing::Synced } else { Standing::Behind { next: start } };
            self.enter(id, watch, standing, false);
        }
    }

    /// Ends the watches that are told next of something that is forgotten (etcd#17529).
    pub(super) fn end_compacted(&mut self) {
        let compact_revision = Revision(self.compacted);
        for id in self.lagging.clone() {
            let lost: Vec<i64> = {
                let behind = &self.streams[&id].behind;
                behind.range(..(self.compacted, i64::MIN)).map(|(_, watch)| *watch).collect()
            };
            for watch in lost {
                if mutant!(SlowWatchSkipsCompacted) {
                    self.fall_behind(id, watch, self.compacted);
                    continue;
                }
                self.remove(id, watch);
                let stream = self.streams.get_mut(&id).expect("a stream outlives its watches");
                stream.outlet.put(Answer::Compacted { id: watch, compact_revision });
            }
        }
    }

    pub(super) fn group_of(&self, id: StreamId, watch: i64) -> GroupId {
        self.streams[&id].watches[&watch].group
    }

    pub(super) fn splits(&self) -> Splits {
        Splits { response_bytes: self.limits.response_bytes, fragment_bytes: self.limits.fragment_bytes }
    }

    /// Panics if an invariant is broken. Looks at every watch.
    pub fn check(&self) {
        self.groups.check();
        let mut figures = Figures { events_told: self.figures.events_told, ..Figures::default() };
        for (id, stream) in &self.streams {
            figures.watches += stream.watches.len();
            figures.behind += stream.behind.len();
            assert_eq!(self.lagging.contains(id), !stream.behind.is_empty());
            assert_eq!(self.timers.iter().any(|(_, timed)| timed == id), stream.progress_at.is_some());
            for (watch, Watch { group, standing, .. }) in &stream.watches {
                let members = self.groups.get(*group).synced.get(id);
                let synced = members.is_some_and(|members| members.ids.binary_search(watch).is_ok());
                assert_eq!(synced, *standing == Standing::Synced);
                match *standing {
                    Standing::Synced => {}
                    Standing::Behind { next } => {
                        assert!(next <= self.revision && stream.behind.contains(&(next, *watch)))
                    }
                    Standing::Ahead { start } => {
                        assert!(start > self.revision && self.ahead.contains(&(start, *id, *watch)));
                    }
                }
            }
        }
        assert_eq!(figures, self.figures);
    }
}

/// Judges a request and finds its id.
fn admit<O>(
    stream: &mut Stream<O>,
    node_watches: usize,
    limits: &WatchLimits,
    create: WatchCreate,
) -> Result<(i64, Subject), Refusal> {
    let (start, asked) = (create.start_revision, create.watch_id);
    // A revision that nothing can have is an old one to etcd, not the current (etcd#20711). Looked at first, as there.
    if start < 0 {
        return Err(Refusal::NegativeRevision);
    }
    let subject = Subject::of(create).ok_or(Refusal::EmptyRange)?;
    if stream.watches.len() >= limits.stream_watches {
        return Err(Refusal::StreamFull { limit: limits.stream_watches });
    }
    if node_watches >= limits.node_watches {
        return Err(Refusal::NodeFull { limit: limits.node_watches });
    }
    if asked != 0 {
        let free = !stream.watches.contains_key(&asked) || mutant!(AskedIdTaken);
        return if free { Ok((asked, subject)) } else { Err(Refusal::DuplicateId) };
    }
    while stream.watches.contains_key(&stream.next_id) {
        stream.next_id += 1;
    }
    stream.next_id += 1;
    Ok((stream.next_id - 1, subject))
}

fn report_progress<O: Outlet>(stream: &mut Stream<O>, id: StreamId, groups: &mut Groups, revision: Revision) {
    // A stream that does not take what it has is told so by its silence.
    if stream.outlet.has_room() && !mutant!(ProgressWithheld) {
        for (watch, Watch { group, standing, .. }) in stream.watches.iter().filter(|(_, watch)| watch.progress_notify) {
            let told = groups.get(*group).synced.get(&id).is_some_and(|members| members.told);
            if *standing == Standing::Synced && !told {
                stream.outlet.put(Answer::Progress { id: *watch, revision });
            }
        }
    }
    for Watch { group, .. } in stream.watches.values() {
        if let Some(members) = groups.get_mut(*group).synced.get_mut(&id) {
            members.told = false;
        }
    }
}
