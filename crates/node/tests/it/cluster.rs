//! A cluster in one thread. Every message goes through its real bytes; the test decides what is delivered, lost, repeated or
//! held, and when a disk or a state machine finishes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_kv::testing::MemoryRecords;
use quorate_kv::{Command, KeySpace, Outcome, PutRequest};
use quorate_node::{
    Answer, AppliedResult, AppliedState, AppliedSummary, Barred, ClientOp, Consistency, Effect, Input, Lease, Node,
    NodeConfig, NodeState, NodeStatus, ReadOptions, Restored,
};
use quorate_raft::{
    Entry, HardState, Incarnation, LogIndex, Member, Membership, NodeId, Payload, RequestId, SnapshotMeta, Term, Time,
    VoterTarget,
};
use quorate_wire::peer::{AdminOperation, PeerMessage};
use quorate_wire::{Bootstrap, Identity, decode_envelope, decode_peer, derive_node_id, encode_peer};

pub(crate) const CLUSTER: u128 = 7;
pub(crate) const ELECTION: Duration = Duration::from_millis(1000);

/// What survives a crash of one node, and the state machine.
struct Disk {
    hard_state: HardState,
    base: (LogIndex, Term),
    base_membership: (LogIndex, Arc<Membership>),
    log: BTreeMap<LogIndex, Entry>,
    machine: Machine,
}

struct Machine {
    space: KeySpace,
    records: MemoryRecords,
    index: LogIndex,
    term: Term,
}

impl Machine {
    fn copy(&self) -> Machine {
        let Ok(space) = KeySpace::rebuild(self.space.meta(), &self.records);
        Machine { space, records: self.records.clone(), ..*self }
    }

    fn state(&self) -> AppliedState {
        AppliedState {
            index: self.index,
            term: self.term,
            revision: self.space.revision(),
            digest: self.space.digest(),
            leases: self.space.lease_summary(),
        }
    }
}

pub(crate) struct Peer {
    pub(crate) node: Node,
    disk: Disk,
    image: Option<(SnapshotMeta, Machine)>,
    /// Completions the test holds back.
    pub(crate) held: VecDeque<Input>,
    pub(crate) hold_writes: bool,
    pub(crate) hold_applies: bool,
    /// Corrupts the state hash that is told.
    pub(crate) lies: bool,
    pub(crate) lease: Option<Lease>,
    pub(crate) states: Vec<NodeState>,
    pub(crate) stopped: bool,
    pub(crate) down: bool,
}

pub(crate) struct Cluster {
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    pub(crate) now: Time,
    pub(crate) wire: VecDeque<(NodeId, NodeId, Bytes)>,
    /// Directed links that lose everything.
    pub(crate) cut: BTreeSet<(NodeId, NodeId)>,
    pub(crate) answers: BTreeMap<RequestId, Answer>,
    config: NodeConfig,
    runs: u128,
    next_request: u64,
}

fn incarnation(number: u8) -> Incarnation {
    Incarnation(0x1000 + u128::from(number))
}

pub(crate) fn member(number: u8) -> Member {
    Member {
        incarnation: incarnation(number),
        name: format!("n{number}"),
        peer_address: format!("n{number}:2380"),
        client_addresses: vec![format!("n{number}:2379")],
        max_version: 1,
    }
}

pub(crate) fn node_id(number: u8) -> NodeId {
    derive_node_id(CLUSTER, incarnation(number))
}

pub(crate) fn put(key: &str, value: &str) -> Command {
    Command::Put(PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..PutRequest::default()
    })
}

impl Cluster {
    /// `voters` nodes, initialised and idle, and as many empty ones as the configuration does not name.
    pub(crate) fn new(voters: u8) -> Cluster {
        Cluster::with_config(voters, |_| {})
    }

    pub(crate) fn with_config(voters: u8, change: impl Fn(&mut NodeConfig)) -> Cluster {
        let mut config = NodeConfig::new(quorate_raft::Config::default(), member(1));
        change(&mut config);
        let mut cluster = Cluster {
            peers: BTreeMap::new(),
            now: Time(1_000_000),
            wire: VecDeque::new(),
            cut: BTreeSet::new(),
            answers: BTreeMap::new(),
            config,
            runs: 0,
            next_request: 1,
        };
        let bootstrap = Bootstrap::new(CLUSTER, (1..=voters).map(member)).expect("a sound configuration");
        for number in 1..=voters {
            cluster.start(number, bootstrap.membership().1);
        }
        cluster
    }

    /// Starts a node whose directory holds nothing but this configuration; an empty one for a node that joins.
    pub(crate) fn start(&mut self, number: u8, membership: Membership) {
        let disk = Disk {
            hard_state: HardState::default(),
            base: (LogIndex(0), Term(0)),
            base_membership: (LogIndex(0), Arc::new(membership)),
            log: BTreeMap::new(),
            machine: Machine {
                space: KeySpace::new(),
                records: MemoryRecords::new(),
                index: LogIndex(0),
                term: Term(0),
            },
        };
        self.boot(number, disk);
    }

    /// Kills a node and starts it again from its disk, as another run.
    pub(crate) fn restart(&mut self, number: u8) {
        let peer = self.peers.remove(&node_id(number)).expect("it runs");
        self.wire.retain(|(from, to, _)| *from != node_id(number) && *to != node_id(number));
        self.boot(number, peer.disk);
    }

    fn boot(&mut self, number: u8, disk: Disk) {
        self.runs += 1;
        let mut terms: Vec<(LogIndex, Term)> = Vec::new();
        let mut memberships = Vec::new();
        for (index, entry) in &disk.log {
            if terms.last().map_or(disk.base.1, |(_, term)| *term) != entry.term {
                terms.push((*index, entry.term));
            }
            if let Payload::Membership(membership) = &entry.payload {
                memberships.push((*index, Arc::clone(membership)));
            }
        }
        let restored = Restored {
            raft: quorate_raft::Restored {
                hard_state: disk.hard_state,
                base: disk.base,
                base_membership: disk.base_membership.clone(),
                terms,
                last: disk.log.last_key_value().map_or(disk.base.0, |(index, _)| *index),
                memberships,
                tail: disk.log.range(disk.machine.index.next()..).map(|(_, entry)| entry.clone()).collect(),
                applied: disk.machine.index,
            },
            applied: disk.machine.state(),
            log_bytes: 0,
            barred: None::<Barred>,
            session: Incarnation(self.runs << 64 | self.runs << 32),
        };
        let config = NodeConfig { member: member(number), ..self.config.clone() };
        let id = node_id(number);
        let identity = Identity { cluster_id: CLUSTER, node_id: id };
        // Jitter by number: who campaigns first is known.
        let jitter = Duration::from_millis(u64::from(number) * 150);
        let peer = Peer {
            node: Node::new(config, identity, restored, self.now, jitter),
            disk,
            image: None,
            held: VecDeque::new(),
            hold_writes: false,
            hold_applies: false,
            lies: false,
            lease: None,
            states: Vec::new(),
            stopped: false,
            down: false,
        };
        self.peers.insert(id, peer);
    }

    pub(crate) fn peer(&mut self, number: u8) -> &mut Peer {
        self.peers.get_mut(&node_id(number)).expect("it runs")
    }

    pub(crate) fn status(&self, number: u8) -> NodeStatus {
        self.peers[&node_id(number)].node.status(self.now)
    }

    /// Lets time pass until node 1 leads and everybody follows.
    pub(crate) fn elect(&mut self) {
        self.advance(ELECTION * 2);
        assert_eq!(self.leader(), Some(node_id(1)), "node 1 has the shortest timeout");
        self.advance(ELECTION);
    }

    /// The one node that leads the highest term, if any does.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let running = self.peers.iter().filter(|(_, peer)| !peer.down);
        let statuses = running.map(|(id, peer)| (*id, peer.node.status(self.now).raft));
        statuses
            .filter(|(_, status)| status.role == quorate_raft::RoleKind::Leader)
            .max_by_key(|(_, status)| status.term)
            .map(|(id, _)| id)
    }

    pub(crate) fn input(&mut self, id: NodeId, input: Input) {
        self.inputs(id, vec![input]);
    }

    pub(crate) fn inputs(&mut self, id: NodeId, inputs: Vec<Input>) {
        let now = self.now;
        let mut queue = VecDeque::from([inputs]);
        while let Some(inputs) = queue.pop_front() {
            let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.down) else { return };
            let effects = peer.node.step_batch(now, inputs);
            peer.node.check();
            peer.lease = peer.node.lease();
            for effect in effects {
                if let Some(completion) = self.carry_out(id, effect) {
                    queue.push_back(vec![completion]);
                }
            }
        }
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) -> Option<Input> {
        let peer = self.peers.get_mut(&id).expect("it runs");
        let disk = &mut peer.disk;
        match effect {
            Effect::WriteLog { seq, hard_state, entries } => {
                disk.hard_state = hard_state;
                if let Some(first) = entries.first() {
                    drop(disk.log.split_off(&first.index));
                }
                disk.log.extend(entries.into_iter().map(|entry| (entry.index, entry)));
                return peer.complete(Input::LogWritten { seq }, peer.hold_writes);
            }
            Effect::Apply { entries } => {
                let summary = peer.apply(&entries);
                return peer.complete(Input::Applied(summary), peer.hold_applies);
            }
            Effect::Send { to, message } => {
                let bytes = encode_peer(&message);
                if !self.cut.contains(&(id, to)) {
                    self.wire.push_back((id, to, bytes));
                }
            }
            Effect::Answer { request, answer } => {
                let twice = self.answers.insert(request, answer);
                assert!(twice.is_none(), "request {request} was answered twice");
            }
            Effect::ReadEntries { to, from, .. } => {
                let entries = disk.log.range(from..).map(|(_, entry)| entry.clone()).collect::<Vec<_>>();
                let whole = disk.log.contains_key(&from);
                return Some(Input::EntriesRead { to, from, entries: if whole { entries } else { Vec::new() } });
            }
            Effect::FindDueLeases { until, max } => {
                return Some(Input::LeasesDue { due: disk.machine.space.due_leases(until, max) });
            }
            Effect::SendSnapshot { to, term } => return Some(self.send_snapshot(id, to, term)),
            Effect::InstallSnapshot { seq, meta } => {
                let (of, machine) = peer.image.take().expect("an image was received");
                assert_eq!(of, meta);
                disk.machine = machine;
                disk.log.clear();
                disk.base = (meta.index, meta.term);
                disk.base_membership = (meta.membership_index, meta.membership);
                // What was being applied to the former state is of no interest any more.
                peer.held.retain(|input| !matches!(input, Input::Applied(_)));
                let state = disk.machine.state();
                return peer.complete(Input::SnapshotInstalled { seq, state }, peer.hold_writes);
            }
            Effect::TruncateLog { up_to } => {
                let term = disk.log[&up_to].term;
                for entry in disk.log.range(..=up_to).map(|(_, entry)| entry) {
                    if let Payload::Membership(membership) = &entry.payload {
                        disk.base_membership = (entry.index, Arc::clone(membership));
                    }
                }
                disk.log = disk.log.split_off(&up_to.next());
                disk.base = (up_to, term);
            }
            Effect::MembershipChanged { .. } | Effect::RoleChanged { .. } => {}
            Effect::StateChanged { state, .. } => peer.states.push(state),
            Effect::Stopped => peer.stopped = true,
        }
        None
    }

    fn send_snapshot(&mut self, from: NodeId, to: NodeId, term: Term) -> Input {
        let lost = Input::SnapshotSent { to, result: Err(()) };
        let disk = &self.peers[&from].disk;
        let machine = disk.machine.copy();
        let in_log = disk.log.range(..=machine.index).rev().find_map(|(index, entry)| match &entry.payload {
            Payload::Membership(membership) => Some((*index, Arc::clone(membership))),
            _ => None,
        });
        let (membership_index, membership) = in_log.unwrap_or_else(|| disk.base_membership.clone());
        if self.cut.contains(&(from, to)) || self.cut.contains(&(to, from)) {
            return lost;
        }
        let Some(receiver) = self.peers.get_mut(&to).filter(|peer| !peer.down) else { return lost };
        let meta = SnapshotMeta { index: machine.index, term: machine.term, membership, membership_index };
        receiver.image = Some((meta.clone(), machine));
        let index = meta.index;
        self.input(to, Input::SnapshotReceived { from, term, meta });
        Input::SnapshotSent { to, result: Ok(index) }
    }

    /// Delivers everything on the wire, and what follows from it, until nothing moves.
    pub(crate) fn run(&mut self) {
        let mut steps = 0;
        while let Some((from, to, bytes)) = self.wire.pop_front() {
            self.deliver(from, to, bytes);
            steps += 1;
            assert!(steps < 100_000, "messages go round in circles");
        }
    }

    pub(crate) fn deliver(&mut self, from: NodeId, to: NodeId, bytes: Bytes) {
        if self.cut.contains(&(from, to)) {
            return;
        }
        let message = decode_peer(bytes).expect("nodes speak their own language");
        self.input(to, Input::Peer { from, message });
    }

    /// Takes the messages of one kind off the wire.
    pub(crate) fn intercept(&mut self, which: impl Fn(&PeerMessage) -> bool) -> Vec<(NodeId, NodeId, Bytes)> {
        let (taken, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.wire)
            .into_iter()
            .partition(|(_, _, bytes)| which(&decode_peer(bytes.clone()).expect("sound bytes")));
        self.wire = left.into();
        taken
    }

    /// Lets time pass, waking nodes when they asked for it and delivering at once.
    pub(crate) fn advance(&mut self, span: Duration) {
        let end = self.now + span;
        self.run();
        let mut wakes = 0;
        loop {
            wakes += 1;
            assert!(wakes < 100_000, "a node wants to be woken without end");
            let next = self.peers.values().filter(|peer| !peer.down).map(|peer| peer.node.next_deadline()).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            // A deadline that is past is due now; time moves at least a little, as it does.
            self.now = next.max(self.now + Duration::from_micros(1));
            for id in self.peers.keys().copied().collect::<Vec<_>>() {
                let due = self.peers[&id].node.next_deadline() <= self.now;
                if due {
                    self.input(id, Input::Tick { jitter: self.jitter(id) });
                }
            }
            self.run();
        }
        self.now = self.now.max(end);
    }

    fn jitter(&self, id: NodeId) -> Duration {
        let number = (1..=9).find(|number| node_id(*number) == id).expect("a node of this cluster");
        Duration::from_millis(u64::from(number) * 100)
    }

    /// Cuts a node off from all others, or joins it to them again.
    pub(crate) fn isolate(&mut self, number: u8, yes: bool) {
        let id = node_id(number);
        for other in self.peers.keys().copied().filter(|other| *other != id).collect::<Vec<_>>() {
            for link in [(id, other), (other, id)] {
                if yes {
                    self.cut.insert(link)
                } else {
                    self.cut.remove(&link)
                };
            }
        }
    }

    /// Gives the node what the test held back.
    pub(crate) fn release(&mut self, number: u8) {
        let peer = self.peer(number);
        peer.hold_writes = false;
        peer.hold_applies = false;
        for input in std::mem::take(&mut self.peer(number).held) {
            self.input(node_id(number), input);
        }
    }

    pub(crate) fn client(&mut self, number: u8, op: ClientOp) -> RequestId {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.input(node_id(number), Input::Client { request, op });
        request
    }

    pub(crate) fn write(&mut self, number: u8, command: Command) -> RequestId {
        self.client(number, ClientOp::Write { actor: quorate_kv::Actor::Anonymous, command })
    }

    pub(crate) fn read(&mut self, number: u8, consistency: Consistency) -> RequestId {
        self.client(number, ClientOp::Read(ReadOptions { consistency, ..ReadOptions::default() }))
    }

    pub(crate) fn set_voters(&mut self, number: u8, voters: &[u8]) -> RequestId {
        let existing = self.status(number).raft.membership.members.clone();
        let target = voters
            .iter()
            .map(|number| match existing.contains_key(&node_id(*number)) {
                true => VoterTarget::Existing(node_id(*number)),
                false => VoterTarget::New { id: node_id(*number), member: member(*number) },
            })
            .collect();
        self.client(number, ClientOp::Admin(AdminOperation::SetVoters { target, expected: None }))
    }

    pub(crate) fn answer(&self, request: RequestId) -> &Answer {
        self.answers.get(&request).unwrap_or_else(|| panic!("request {request} is not answered"))
    }

    pub(crate) fn outcome(&self, request: RequestId) -> &Outcome {
        match self.answer(request) {
            Answer::Written(outcome) => outcome,
            other => panic!("request {request} is not written: {other:?}"),
        }
    }

    /// How often the put of `key` stands in the applied state of a node.
    pub(crate) fn times_applied(&self, number: u8, key: &str) -> usize {
        let records = &self.peers[&node_id(number)].disk.machine.records;
        records.iter().filter(|(_, record)| record.key == key.as_bytes()).count()
    }

    pub(crate) fn revision(&self, number: u8) -> i64 {
        self.peers[&node_id(number)].disk.machine.space.revision().0
    }

    pub(crate) fn space(&self, number: u8) -> &KeySpace {
        &self.peers[&node_id(number)].disk.machine.space
    }

    pub(crate) fn log_first(&self, number: u8) -> LogIndex {
        self.peers[&node_id(number)].disk.base.0.next()
    }
}

impl Peer {
    fn complete(&mut self, input: Input, hold: bool) -> Option<Input> {
        if hold {
            self.held.push_back(input);
            return None;
        }
        Some(input)
    }

    fn apply(&mut self, entries: &[Entry]) -> AppliedSummary {
        let machine = &mut self.disk.machine;
        let mut results = Vec::new();
        for entry in entries {
            assert_eq!(entry.index, machine.index.next(), "entries come in order, once");
            machine.index = entry.index;
            machine.term = entry.term;
            if let Payload::Command(bytes) = &entry.payload {
                let envelope = decode_envelope(bytes).expect("a sound entry");
                let Ok(outcome) = machine.space.apply(&mut machine.records, &envelope.command);
                results.push(AppliedResult {
                    index: entry.index,
                    origin: envelope.origin,
                    session: envelope.incarnation,
                    sequence: envelope.sequence,
                    outcome,
                });
            }
        }
        let mut state = machine.state();
        if self.lies {
            state.digest.0 ^= 1;
        }
        AppliedSummary { state, results }
    }
}
