//! Runs scenario scripts: commands that steer a small cluster by hand, and the transcript they must produce.
//!
//! A script is a text of blocks: comments (`#`), command lines, `----`, the transcript, an empty line. Every message, write
//! and tick happens when the script says so. `testdata/README.md` lists the commands.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use quorate_raft::*;

use super::node::{Disk, Out, State, TestNode};
use super::schedule::{bootstrap, member};
use super::transcript::{self, Kind};

fn member_change(request: RequestId, change: MemberChange) -> Input {
    Input::ChangeMember { request, change }
}

/// What is on its way between two nodes.
#[derive(Clone)]
enum Parcel {
    Message(Message),
    Image { from: NodeId, to: NodeId, term: Term, meta: SnapshotMeta, state: State },
}

#[derive(Default)]
pub(crate) struct Script {
    config: Config,
    nodes: BTreeMap<NodeId, TestNode>,
    crashed: BTreeMap<NodeId, Disk>,
    parcels: Vec<Parcel>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Disks that do nothing until they are told to.
    stalled: BTreeSet<NodeId>,
    jitter: BTreeMap<NodeId, u64>,
    /// Election timeouts of nodes that differ from the others, in milliseconds.
    timeouts: BTreeMap<NodeId, u64>,
    now: Time,
    requests: u64,
    shown: BTreeSet<Kind>,
    out: String,
}

/// Runs a whole script and returns it with the transcript it produced.
pub(crate) fn rewrite(script: &str) -> String {
    let mut cluster = Script { shown: Kind::ALL.into(), ..Script::default() };
    let mut blocks = Vec::new();
    for block in script.trim_end().split("\n\n") {
        let input = block.split("\n----").next().unwrap_or_default();
        for line in input.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            cluster.command(line);
        }
        let produced = std::mem::take(&mut cluster.out);
        let has_commands = input.lines().any(|line| !line.starts_with('#') && !line.is_empty());
        let shown = if produced.is_empty() { "ok\n".to_owned() } else { produced };
        blocks.push(if has_commands {
            format!("{}\n----\n{}", input.trim_end(), shown.trim_end())
        } else {
            block.to_owned()
        });
    }
    blocks.join("\n\n") + "\n"
}

impl Script {
    fn command(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let args: Vec<&str> = words.collect();
        match (verb, args.as_slice()) {
            ("cluster", options) => self.cluster(options),
            ("show", kinds) => self.shown = kinds.iter().flat_map(|kind| Kind::named(kind)).collect(),
            ("elapse", [ms]) => self.now = self.now + millis(ms),
            ("jitter", [id, ms]) => {
                self.jitter.insert(node(id), number(ms));
            }
            ("timeout", [id, ms]) => {
                self.timeouts.insert(node(id), number(ms));
            }
            ("tick", ids) => ids.iter().for_each(|id| self.tick(node(id))),
            ("run", [ms]) => self.run(millis(ms)),
            ("settle", []) => self.settle(),
            ("deliver", which) => self.deliver(which.first().copied()),
            ("drop", which) => {
                let dropped = self.take_parcels(which.first().copied());
                dropped.iter().for_each(|parcel| self.note(Kind::Messages, &format!("{} lost", parcel.describe())));
            }
            ("duplicate", which) => {
                let parcels = self.take_parcels(which.first().copied());
                self.parcels.extend(parcels.clone());
                self.parcels.extend(parcels);
            }
            ("sync", ids) => ids.iter().for_each(|id| while self.sync_one(node(id)) {}),
            ("sync-one", [id]) => {
                self.sync_one(node(id));
            }
            ("stall", [id]) => {
                self.stalled.insert(node(id));
            }
            ("unstall", [id]) => {
                self.stalled.remove(&node(id));
            }
            ("hold-reads", [id]) => self.nodes.get_mut(&node(id)).expect("a node that runs").holds_reads = true,
            ("release-reads", [id]) => {
                self.nodes.get_mut(&node(id)).expect("a node that runs").holds_reads = false;
                self.tick(node(id));
            }
            ("crash", ids) => ids.iter().for_each(|id| self.crash(node(id))),
            ("restart", ids) => ids.iter().for_each(|id| self.restart(node(id))),
            ("cut", [sides]) => self.cut(sides),
            ("heal", []) => self.cut.clear(),
            ("status", ids) => self.status(ids),
            _ => self.request(verb, &args),
        }
    }

    /// Commands that hand one input to one node.
    fn request(&mut self, verb: &str, args: &[&str]) {
        self.requests += 1;
        let request = RequestId(self.requests);
        let (at, input) = match (verb, args) {
            ("propose", [at, commands @ ..]) => {
                let commands = commands.iter().map(|text| Bytes::from(text.to_string())).collect();
                (at, Input::Propose { request, commands })
            }
            ("read", [at]) => (at, Input::ReadIndex { read: ReadId(self.requests) }),
            ("voters", [at, list, rest @ ..]) => {
                let target = list.split(',').map(voter_target).collect();
                let expected = rest.first().map(|index| LogIndex(number(index)));
                (at, Input::SetVoters { request, target, expected })
            }
            ("add", [at, id]) => (
                at,
                member_change(
                    request,
                    MemberChange::Add { id: node(id), peer_address: format!("host{id}"), rises: true },
                ),
            ),
            ("add-learner", [at, id]) => (
                at,
                member_change(
                    request,
                    MemberChange::Add { id: node(id), peer_address: format!("host{id}"), rises: false },
                ),
            ),
            ("promote", [at, id]) => (at, member_change(request, MemberChange::Promote { id: node(id) })),
            ("remove", [at, id]) => (at, member_change(request, MemberChange::Remove { id: node(id) })),
            ("announce", [at, id, version]) => {
                let id = node(id);
                let member = Member { max_version: number(version) as u32, ..member(id.0) };
                (at, Input::UpdateMember { request, id, member })
            }
            ("raise-version", [at, version]) => (at, Input::RaiseVersion { request, version: number(version) as u32 }),
            ("transfer", [at]) => (at, Input::TransferLeader { request, to: None }),
            ("transfer", [at, to]) => (at, Input::TransferLeader { request, to: Some(node(to)) }),
            ("stop", [at]) => (at, Input::StopCampaigning { yes: true }),
            ("resume", [at]) => (at, Input::StopCampaigning { yes: false }),
            ("unreachable", [at, id]) => (at, Input::PeerUnreachable { id: node(id) }),
            ("compact", [at, index]) => {
                if let Some(node) = self.nodes.get_mut(&node(at)) {
                    node.checkpoint();
                }
                (at, Input::Compact { up_to: LogIndex(number(index)) })
            }
            _ => panic!("no such command: {verb} {args:?}"),
        };
        self.step(node(at), input);
    }

    fn cluster(&mut self, options: &[&str]) {
        let mut config = Config {
            election_timeout: Duration::from_millis(100),
            heartbeat_interval: Duration::from_millis(20),
            clock_drift_ppm: 100_000,
            ..Config::default()
        };
        let mut voters = Vec::new();
        let mut joining = Vec::new();
        for option in options {
            let (name, value) = option.split_once('=').expect("options are NAME=VALUE");
            match name {
                "voters" => voters = ids(value),
                "joining" => joining = ids(value),
                "catch-up" => config.catch_up_entries = number(value),
                "append-entries" => config.max_append_entries = number(value) as usize,
                "append-bytes" => config.max_append_bytes = number(value) as usize,
                "inflight" => config.max_inflight_appends = number(value) as usize,
                "inflight-bytes" => config.max_inflight_bytes = number(value) as usize,
                "cache" => config.log_cache_bytes = number(value) as usize,
                _ => panic!("no such option: {option}"),
            }
        }
        let promise = config.election_timeout;
        self.config = config;
        let first = bootstrap(voters.iter().map(|id| id.0));
        self.crashed.extend(voters.iter().map(|id| (*id, Disk::new(first.clone()))));
        self.crashed.extend(joining.iter().map(|id| (*id, Disk::new(Membership::default()))));
        // As if all had been started before: the first write is one that the script asks for.
        self.crashed.values_mut().for_each(|disk| disk.hard_state.promise = promise);
        for id in voters.into_iter().chain(joining) {
            self.restart(id);
        }
    }

    /// Jitter of a node's next timeouts: ten milliseconds for each of its number, unless the script says otherwise.
    fn jitter_of(&self, id: NodeId) -> Duration {
        Duration::from_millis(self.jitter.get(&id).copied().unwrap_or(10 * id.0))
    }

    fn tick(&mut self, id: NodeId) {
        let jitter = self.jitter_of(id);
        self.step(id, Input::Tick { jitter });
    }

    fn step(&mut self, id: NodeId, input: Input) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let out = node.step(self.now, input);
        self.take_in(id, out);
    }

    fn take_in(&mut self, id: NodeId, out: Vec<Out>) {
        for out in out {
            match out {
                Out::Message(message) => self.post(Parcel::Message(message)),
                Out::Held(after, message) => {
                    let text = format!("{} after seq={after} (held)", transcript::message(&message));
                    self.note(Kind::Messages, &text);
                }
                Out::Image { to, term, meta, state } => self.post(Parcel::Image { from: id, to, term, meta, state }),
                Out::Effect(effect) => {
                    if let Some((kind, text)) = transcript::effect(&effect) {
                        self.note(kind, &format!("{id}: {text}"));
                    }
                }
            }
        }
    }

    fn post(&mut self, parcel: Parcel) {
        self.note(Kind::Messages, &parcel.describe());
        if !self.cut.contains(&parcel.route()) {
            self.parcels.push(parcel);
        }
    }

    /// Passes time: nodes tick when they want to, disks and the network do their work at once.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        self.settle();
        loop {
            let next = self.nodes.iter().map(|(id, node)| (node.raft.next_deadline(), *id)).min();
            let Some((deadline, id)) = next.filter(|(deadline, _)| *deadline <= end) else { break };
            self.now = self.now.max(deadline);
            self.tick(id);
            self.settle();
        }
        self.now = end;
    }

    /// Syncs and delivers until nothing is on its way.
    fn settle(&mut self) {
        loop {
            let ids: Vec<NodeId> = self.nodes.keys().copied().filter(|id| !self.stalled.contains(id)).collect();
            let mut moved = false;
            for id in ids {
                while self.sync_one(id) {
                    moved = true;
                }
            }
            if !moved && self.parcels.is_empty() {
                return;
            }
            self.deliver(None);
        }
    }

    fn sync_one(&mut self, id: NodeId) -> bool {
        let Some((seq, free)) = self.nodes.get_mut(&id).and_then(TestNode::sync_one) else { return false };
        self.note(Kind::Writes, &format!("{id}: synced seq={seq}"));
        for message in free {
            self.post(Parcel::Message(message));
        }
        self.step(id, Input::Persisted { seq });
        true
    }

    /// Delivers what is on its way now, all of it or on one route; what follows from it stays on its way.
    fn deliver(&mut self, route: Option<&str>) {
        for parcel in self.take_parcels(route) {
            if self.cut.contains(&parcel.route()) {
                continue;
            }
            match parcel {
                Parcel::Message(message) => self.step(message.to, Input::Message(message)),
                Parcel::Image { from, to, term, meta, state } => {
                    let sent = Ok(meta.index);
                    if let Some(node) = self.nodes.get_mut(&to) {
                        let out = node.receive_image(self.now, from, term, meta, state);
                        self.take_in(to, out);
                        self.step(from, Input::SnapshotReport { to, sent });
                    } else {
                        self.step(from, Input::SnapshotReport { to, sent: Err(()) });
                    }
                }
            }
        }
    }

    /// Takes what is on its way: everything, on `A->B`, or to `B`.
    fn take_parcels(&mut self, route: Option<&str>) -> Vec<Parcel> {
        let wanted: Box<dyn Fn(&Parcel) -> bool> = match route.map(|route| route.split_once("->").ok_or(route)) {
            None => Box::new(|_| true),
            Some(Ok((from, to))) => {
                let route = (node(from), node(to));
                Box::new(move |parcel| parcel.route() == route)
            }
            Some(Err(to)) => {
                let to = node(to);
                Box::new(move |parcel| parcel.route().1 == to)
            }
        };
        let (taken, left) = std::mem::take(&mut self.parcels).into_iter().partition(|parcel| wanted(parcel));
        self.parcels = left;
        taken
    }

    fn crash(&mut self, id: NodeId) {
        let Some(mut node) = self.nodes.remove(&id) else { return };
        node.checkpoint();
        for seq in node.unfinished_writes() {
            self.note(Kind::Writes, &format!("{id}: lost seq={seq}"));
        }
        for message in node.held_messages() {
            self.note(Kind::Messages, &format!("{} never sent", transcript::message(&message)));
        }
        self.crashed.insert(id, node.crash());
    }

    fn restart(&mut self, id: NodeId) {
        if self.nodes.contains_key(&id) {
            self.crash(id);
        }
        let disk = self.crashed.remove(&id).expect("a node that was crashed");
        let mut config = self.config.clone();
        if let Some(timeout) = self.timeouts.get(&id) {
            config.election_timeout = Duration::from_millis(*timeout);
        }
        let started = TestNode::start(id, config, disk, self.now, self.jitter_of(id));
        self.nodes.insert(id, started);
    }

    /// `1,2|3,4`: nothing passes between the sides. `1>2`: nothing passes from the first to the second.
    fn cut(&mut self, sides: &str) {
        let one_way = sides.split_once('>');
        let (left, right) = one_way.or(sides.split_once('|')).expect("two sides");
        for from in ids(left) {
            for to in ids(right) {
                self.cut.insert((from, to));
                if one_way.is_none() {
                    self.cut.insert((to, from));
                }
            }
        }
    }

    fn status(&mut self, wanted: &[&str]) {
        let wanted: BTreeSet<NodeId> = wanted.iter().map(|id| node(id)).collect();
        let lines: Vec<String> = self
            .nodes
            .values()
            .filter(|node| wanted.is_empty() || wanted.contains(&node.id))
            .map(|node| transcript::status(node, self.now))
            .collect();
        for line in lines {
            writeln!(self.out, "{line}").expect("writing to a string");
        }
    }

    fn note(&mut self, kind: Kind, text: &str) {
        if self.shown.contains(&kind) {
            writeln!(self.out, "{text}").expect("writing to a string");
        }
    }
}

impl Parcel {
    fn route(&self) -> (NodeId, NodeId) {
        match self {
            Parcel::Message(message) => (message.from, message.to),
            Parcel::Image { from, to, .. } => (*from, *to),
        }
    }

    fn describe(&self) -> String {
        match self {
            Parcel::Message(message) => transcript::message(message),
            Parcel::Image { from, to, meta, .. } => format!("{from}->{to}: image up to {}/{}", meta.index, meta.term),
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

fn millis(text: &str) -> Duration {
    Duration::from_millis(number(text))
}

fn node(text: &str) -> NodeId {
    NodeId(number(text))
}

fn ids(text: &str) -> Vec<NodeId> {
    text.split(',').map(node).collect()
}

/// `4` is a member, `+4` a node to admit.
fn voter_target(text: &str) -> VoterTarget {
    match text.strip_prefix('+') {
        Some(id) => VoterTarget::New { id: node(id), member: member(number(id)) },
        None => VoterTarget::Existing(node(text)),
    }
}
