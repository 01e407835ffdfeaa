//! One node as a caller would run it: the core, a disk that keeps only what was synced, and a state machine that
//! hashes what it applies.
//!
//! Owns the caller's side of the contract: writes are done in order, what rests on a write leaves after it, a crash loses
//! every write that was not done.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use quorate_raft::*;

/// What a crash leaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    pub(crate) base: (LogIndex, Term),
    pub(crate) base_membership: (LogIndex, Arc<Membership>),
    pub(crate) entries: Vec<Entry>,
    pub(crate) state: State,
}

/// The state machine: how far it has come, and a hash of everything it applied.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) applied: LogIndex,
    pub(crate) term: Term,
    pub(crate) digest: u64,
    pub(crate) membership: (LogIndex, Arc<Membership>),
}

#[derive(Debug, Clone)]
enum Write {
    Log(HardState, Vec<Entry>),
    Install(SnapshotMeta, State),
}

/// What leaves a node.
#[derive(Debug, Clone)]
pub(crate) enum Out {
    Message(Message),
    /// A message that waits for a write.
    Held(WriteSeq, Message),
    Image {
        to: NodeId,
        term: Term,
        meta: SnapshotMeta,
        state: State,
    },
    /// Everything else, for the caller to look at.
    Effect(Effect),
}

pub(crate) struct TestNode {
    pub(crate) id: NodeId,
    pub(crate) raft: Raft,
    pub(crate) disk: Disk,
    pub(crate) state: State,
    /// The log as the core knows it: every write it asked for, done or not.
    pub(crate) memory: Disk,
    writes: VecDeque<(WriteSeq, Write)>,
    done: WriteSeq,
    held: Vec<(WriteSeq, Message)>,
    images: BTreeMap<LogIndex, State>,
    /// Answers to reads from the log store, for the next steps.
    reads: VecDeque<Input>,
    /// Keeps them back.
    pub(crate) holds_reads: bool,
}

impl Disk {
    pub(crate) fn new(bootstrap: Membership) -> Disk {
        let placed = (LogIndex(0), Arc::new(bootstrap));
        let state = State { membership: placed.clone(), ..State::default() };
        Disk { base_membership: placed, state, ..Disk::default() }
    }

    pub(crate) fn last(&self) -> LogIndex {
        LogIndex(self.base.0.0 + self.entries.len() as u64)
    }

    pub(crate) fn entry(&self, index: LogIndex) -> Option<&Entry> {
        let at = index.0.checked_sub(self.base.0.0 + 1)?;
        self.entries.get(at as usize)
    }

    fn write(&mut self, write: Write) -> Option<State> {
        match write {
            Write::Log(hard_state, entries) => {
                self.hard_state = hard_state;
                if let Some(first) = entries.first() {
                    assert!(first.index <= self.last().next(), "a write leaves a gap in the log");
                    self.entries.truncate((first.index.0 - self.base.0.0 - 1) as usize);
                    self.entries.extend(entries);
                }
                assert!(hard_state.commit <= self.last(), "commit is past the end of the log on disk");
                None
            }
            Write::Install(meta, state) => {
                self.base = (meta.index, meta.term);
                self.base_membership = (meta.membership_index, meta.membership);
                self.entries.clear();
                self.state = state.clone();
                Some(state)
            }
        }
    }

    fn truncate_prefix(&mut self, up_to: LogIndex) {
        let Some(entry) = self.entry(up_to) else { return };
        let base = (up_to, entry.term);
        let gone = (up_to.0 - self.base.0.0) as usize;
        let membership = memberships(&self.entries[..gone]).pop();
        self.base = base;
        self.base_membership = membership.unwrap_or_else(|| self.base_membership.clone());
        self.entries.drain(..gone);
    }

    fn restored(&self) -> Restored {
        let mut terms: Vec<(LogIndex, Term)> = Vec::new();
        for entry in &self.entries {
            if terms.last().is_none_or(|(_, term)| *term < entry.term) {
                terms.push((entry.index, entry.term));
            }
        }
        Restored {
            hard_state: self.hard_state,
            base: self.base,
            base_membership: self.base_membership.clone(),
            terms,
            last: self.last(),
            memberships: memberships(&self.entries),
            tail: self.entries.iter().filter(|entry| entry.index > self.state.applied).cloned().collect(),
            applied: self.state.applied,
        }
    }
}

fn memberships(entries: &[Entry]) -> Vec<(LogIndex, Arc<Membership>)> {
    let found = entries.iter().filter_map(|entry| match &entry.payload {
        Payload::Membership(membership) => Some((entry.index, Arc::clone(membership))),
        Payload::Noop | Payload::Command(_) => None,
    });
    found.collect()
}

impl State {
    fn apply(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.applied.next(), "entries are applied in order, each once");
        let payload = match &entry.payload {
            Payload::Noop => vec![0],
            Payload::Command(command) => command.to_vec(),
            Payload::Membership(membership) => {
                self.membership = (entry.index, Arc::clone(membership));
                format!("{membership:?}").into_bytes()
            }
        };
        // FNV-1a over term and payload, chained: equal digests mean equal histories.
        for byte in entry.term.0.to_be_bytes().into_iter().chain(payload) {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.applied = entry.index;
        self.term = entry.term;
    }
}

impl TestNode {
    pub(crate) fn start(id: NodeId, config: Config, disk: Disk, now: Time, jitter: Duration) -> TestNode {
        let raft = Raft::new(config, id, disk.restored(), now, jitter);
        raft.check();
        TestNode {
            id,
            raft,
            state: disk.state.clone(),
            memory: disk.clone(),
            disk,
            writes: VecDeque::new(),
            done: WriteSeq(0),
            held: Vec::new(),
            images: BTreeMap::new(),
            reads: VecDeque::new(),
            holds_reads: false,
        }
    }

    /// What a crash leaves: the disk alone.
    pub(crate) fn crash(self) -> Disk {
        self.disk
    }

    /// Steps the core and does everything that is done at once.
    pub(crate) fn step(&mut self, now: Time, input: Input) -> Vec<Out> {
        let mut out = Vec::new();
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let effects = self.raft.step(now, input);
            self.raft.check();
            for effect in effects {
                self.take_in(effect, &mut inputs, &mut out);
            }
            if inputs.is_empty() && !self.holds_reads {
                inputs.extend(self.reads.pop_front());
            }
        }
        out
    }

    fn take_in(&mut self, effect: Effect, inputs: &mut VecDeque<Input>, out: &mut Vec<Out>) {
        match &effect {
            Effect::Persist { seq, hard_state, entries } => {
                self.enqueue(*seq, Write::Log(*hard_state, entries.clone()));
            }
            Effect::InstallSnapshot { seq, meta } => {
                let state = self.images.remove(&meta.index).expect("an image that was received");
                self.enqueue(*seq, Write::Install(meta.clone(), state));
            }
            Effect::Send(message) => {
                out.push(Out::Message(message.clone()));
                return;
            }
            Effect::SendAfter { after, message } => {
                // The word of a write may come late: the core then holds back what could leave already.
                if *after <= self.done {
                    out.push(Out::Message(message.clone()));
                } else {
                    self.held.push((*after, message.clone()));
                    out.push(Out::Held(*after, message.clone()));
                }
                return;
            }
            Effect::Apply { entries } => {
                entries.iter().for_each(|entry| self.state.apply(entry));
                inputs.push_back(Input::Applied { index: self.state.applied });
            }
            Effect::ReadEntries { to, from, max_bytes } => {
                let entries = self.read_entries(*from, *max_bytes);
                self.reads.push_back(Input::EntriesRead { to: *to, from: *from, entries });
            }
            Effect::SendSnapshot { to } => {
                let State { applied, term, membership: (membership_index, membership), .. } = self.state.clone();
                let meta = SnapshotMeta { index: applied, term, membership, membership_index };
                out.push(Out::Image { to: *to, term: self.raft.term(), meta, state: self.state.clone() });
            }
            Effect::TruncatePrefix { up_to } => {
                assert!(*up_to <= self.disk.state.applied, "the log is cut past the durable state");
                self.disk.truncate_prefix(*up_to);
            }
            _ => {}
        }
        out.push(Out::Effect(effect));
    }

    fn enqueue(&mut self, seq: WriteSeq, write: Write) {
        self.memory.write(write.clone());
        self.writes.push_back((seq, write));
    }

    fn read_entries(&self, from: LogIndex, max_bytes: usize) -> Vec<Entry> {
        let mut bytes = 0;
        let from_disk = (from.0..).map_while(|index| self.disk.entry(LogIndex(index)));
        let fits = from_disk.enumerate().take_while(|(position, entry)| {
            bytes += entry.size();
            *position == 0 || bytes <= max_bytes
        });
        fits.map(|(_, entry)| entry.clone()).collect()
    }

    pub(crate) fn unfinished_writes(&self) -> Vec<WriteSeq> {
        self.writes.iter().map(|(seq, _)| *seq).collect()
    }

    pub(crate) fn held_messages(&self) -> Vec<Message> {
        self.held.iter().map(|(_, message)| message.clone()).collect()
    }

    /// Does the oldest write. The core is told apart, by `Input::Persisted`; what waited for the write leaves now.
    pub(crate) fn sync_one(&mut self) -> Option<(WriteSeq, Vec<Message>)> {
        let (seq, write) = self.writes.pop_front()?;
        if let Some(state) = self.disk.write(write) {
            self.state = state;
        }
        self.done = seq;
        let (free, held) = std::mem::take(&mut self.held).into_iter().partition(|(after, _)| *after <= seq);
        self.held = held;
        Some((seq, free.into_iter().map(|(_, message): (WriteSeq, Message)| message).collect()))
    }

    /// Makes the state machine durable up to what it has applied.
    pub(crate) fn checkpoint(&mut self) {
        // An image that waits to be installed replaces the state: nothing older may be made durable over it.
        if self.state.applied > self.disk.state.applied {
            self.disk.state = self.state.clone();
        }
    }

    /// An image arrived whole.
    pub(crate) fn receive_image(
        &mut self,
        now: Time,
        from: NodeId,
        term: Term,
        meta: SnapshotMeta,
        state: State,
    ) -> Vec<Out> {
        self.images.insert(meta.index, state);
        self.step(now, Input::SnapshotReceived { from, term, meta })
    }
}
