//! The full tier: the whole replica on its real stores, with encoded messages on the network.
//!
//! Owns the duties of the runtime, done one at a time in virtual time: it performs effects in order, writes the log in
//! batches, applies, checkpoints, streams images, admits peers and answers clients. Disks keep only what was synced.

mod asking;
mod clients;
mod config;
mod draws;
mod effects;
mod images;
mod key_model;
mod lease_model;
mod log_jobs;
mod model;
mod peers;
mod power;
mod reading;
mod requests;
mod rights;
mod side_reads;
mod state_jobs;
mod storage;
mod stray;
mod watchers;
mod watching;
mod workload;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_kv::ClusterTime;
use quorate_node::{AppliedState, Input, Lifecycle, Node};
use quorate_raft::{
    Entry, Incarnation, LogIndex, Membership, NodeId, RequestId, SnapshotMeta, Status, Term, Time, WriteSeq,
};
use quorate_store::testing::{FaultyDisk, NO_SPACE};
use quorate_store::{LogStore, ReceivedSnapshot, SnapshotSource, StateStore};
use quorate_wire::peer::{Hello, NodeState};
use quorate_wire::{FORMAT_VERSION, derive_node_id};

use crate::context::Context;
use crate::coverage::{Handler, Reached, Struck};
use crate::log_model::LogImage;
use crate::plan::Plan;
use crate::random::Random;
use crate::run::{REDB, endure, last_panic_was_in};
use crate::tier::{Ask, Harm, Killed, NodeEvent, Tier};

use clients::{Clients, FinishedRead, Pending};
use side_reads::Streamed;
use watching::Watching;

/// The one cluster of a run.
const CLUSTER: u128 = 0x5155_4f52_4154_4500;

/// The tier.
pub(crate) enum FullTier {}

/// What survives a process.
pub(crate) struct Disk {
    node: NodeId,
    incarnation: Incarnation,
    files: FaultyDisk,
    /// The log as it is if the write that was under way when the power went is on the disk after all.
    torn: Option<LogImage>,
    /// Syncs that failed, and the power went right after: nothing was written upon what they left.
    syncs_without_harm: u64,
    /// What is on it may have decayed, or may never have reached it.
    doubtful: bool,
    /// A record of its log fails its checksum, in a page that does not.
    rotten: bool,
    /// So does one of its state.
    rotten_state: bool,
    /// Whole pages of it are sound and not where they belong, or not the newest: what is read may be wrong and look right.
    strayed: bool,
    /// The state on it may be another than the log makes.
    diverged: bool,
    /// The process refused to start on it.
    refused: bool,
}

/// A running process.
pub(crate) struct Process {
    /// What its log said to be committed when it started.
    started_at: LogIndex,
    files: FaultyDisk,
    /// Failures of the disk before this life.
    failures_before: u64,
    /// The syncs among them.
    failed_syncs_before: u64,
    /// Its disk is doubtful: reads may fail.
    doubtful: bool,
    /// Whether its state is that of the log.
    course: Course,
    /// The log has no room.
    full: bool,
    /// Writes of a batch that failed: they are on the disk or they are not.
    in_doubt: usize,
    /// None until a cluster has taken this process in.
    node: Option<Node>,
    /// What waits for the replica's next turn.
    queued: Vec<Input>,
    /// Whose clients went away while the replica has not been told yet: those may be answered.
    cancelled: BTreeSet<RequestId>,
    lifecycle: Lifecycle,
    log: LogStore,
    state: StateStore,
    log_jobs: VecDeque<LogJob>,
    state_jobs: VecDeque<StateJob>,
    writing: bool,
    applying: bool,
    /// The state has changed since it was checkpointed.
    dirty: bool,
    /// A whole image beside the state.
    received: Option<ReceivedSnapshot>,
    sending: BTreeMap<NodeId, Sending>,
    images: u64,
    membership: Arc<Membership>,
    /// Incarnations of nodes that this one has heard of.
    peers: BTreeMap<NodeId, Incarnation>,
    requests: u64,
    pending: BTreeMap<RequestId, Pending>,
    /// A range on its way to a client.
    streamed: Option<Streamed>,
    /// What its watch thread knows.
    watching: Watching,
}

/// Whether a state machine does what its log says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Course {
    /// It does.
    #[default]
    True,
    /// Its next write will be another.
    Straying,
    /// It did something else, unless a restart has undone that. With the states since that nothing was known to compare with.
    Strayed(Vec<StateAt>),
}

/// A state: where, and of what revision and hash.
type StateAt = (LogIndex, (Term, quorate_kv::Revision, quorate_kv::Digest));

/// Work for the log file.
#[derive(Debug)]
enum LogJob {
    Write {
        seq: WriteSeq,
        write: quorate_store::LogWrite,
    },
    /// The log starts over behind an image, once the state has switched to it.
    Reset {
        seq: WriteSeq,
        meta: SnapshotMeta,
        state: Option<AppliedState>,
    },
    Truncate {
        up_to: LogIndex,
    },
    Mark(quorate_store::NodeMark),
}

/// Work for the state file.
#[derive(Debug)]
enum StateJob {
    Apply { entries: Vec<Entry> },
    Install { meta: SnapshotMeta },
}

/// An image on its way out.
struct Sending {
    number: u64,
    term: Term,
    source: Option<SnapshotSource>,
    chunks: Vec<Bytes>,
}

/// What a process waits for.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// The first so many jobs of the log are done.
    LogDone(usize),
    /// The replica takes what has come for it.
    Turn,
    /// What was held up reaches the replica.
    Late(Input),
    /// A client goes away.
    ClientLeaves(RequestId),
    /// The first job of the state is done.
    StateDone,
    /// The state shall become durable.
    Checkpoint,
    /// Entries shall be read back.
    ReadEntries { to: NodeId, from: LogIndex, max_bytes: usize },
    /// Leases that are due shall be looked for.
    FindDueLeases { until: ClusterTime, max: usize },
    /// The next part of an image shall be read.
    ImageChunk { to: NodeId, number: u64 },
    /// An image that was sent got no answer.
    ImageTimedOut { to: NodeId, number: u64 },
    /// The watch thread does what there is to do.
    WatchTurn,
    /// A read was made a while ago and is answered now.
    ReadFinished(FinishedRead),
}

/// What travels between hosts.
#[derive(Debug, Clone)]
pub(crate) enum Packet {
    /// An encoded message, with the greeting of the stream it came on.
    Message { hello: Arc<Hello>, handler: Handler, bytes: Bytes },
    /// A whole image.
    Image { hello: Arc<Hello>, term: Term, chunks: Arc<Vec<Bytes>>, number: u64 },
    /// It arrived whole.
    ImageReceived { from: NodeId, index: LogIndex, number: u64 },
}

impl Tier for FullTier {
    type Disk = Disk;
    type Process = Process;
    type Event = Event;
    type Message = Packet;
    type Clients = Clients;
    const NEWEST_VERSION: u32 = FORMAT_VERSION;
    const GREETS: bool = true;

    fn clients(plan: &Plan) -> Clients {
        Clients::new(plan)
    }

    fn node_id(incarnation: Incarnation) -> NodeId {
        derive_node_id(CLUSTER, incarnation)
    }

    fn disk(
        _context: &mut Context<Self>,
        node: NodeId,
        incarnation: Incarnation,
        bootstrap: Option<&Membership>,
    ) -> Disk {
        let files = FaultyDisk::new();
        let disk = Disk {
            node,
            incarnation,
            files,
            torn: None,
            syncs_without_harm: 0,
            doubtful: false,
            rotten: false,
            rotten_state: false,
            strayed: false,
            diverged: false,
            refused: false,
        };
        if let Some(membership) = bootstrap {
            storage::bootstrap(&disk, membership);
        }
        disk
    }

    fn start(context: &mut Context<Self>, disk: &mut Disk) -> Option<Process> {
        let mut process = storage::open(context, disk)?;
        let delay = context.plan.disk.checkpoint_us;
        context.later(delay, Event::Checkpoint);
        if process.lifecycle.identity().is_some() {
            let started = dies_of_redb(process.has_doubtful_disk(), || process.start_node(context));
            if started.is_err() {
                storage::crash(context, disk, Some(process));
                return None;
            }
        }
        Some(process)
    }

    fn handle(
        context: &mut Context<Self>,
        disk: &mut Disk,
        process: &mut Process,
        event: NodeEvent<Self>,
    ) -> Result<(), Killed> {
        dies_of_redb(process.has_doubtful_disk(), || process.take(context, disk, event))
    }

    fn crash(context: &mut Context<Self>, disk: &mut Disk, process: Option<Process>) {
        storage::crash(context, disk, process);
    }

    fn close(disk: &Disk, process: Process) {
        storage::let_go(disk, process);
    }

    fn harm(context: &mut Context<Self>, disk: &mut Disk, harm: Harm, random: &mut Random) -> bool {
        storage::harm(context, disk, harm, random)
    }

    fn is_refused(disk: &Disk) -> bool {
        disk.refused
    }

    fn describe(message: &Packet) -> (Handler, u64) {
        match message {
            Packet::Message { handler, bytes, .. } => (*handler, bytes.len() as u64),
            Packet::Image { chunks, .. } => (Handler::Image, images::size(chunks)),
            Packet::ImageReceived { .. } => (Handler::ImageReceived, 60),
        }
    }

    fn deadline(process: &Process) -> Time {
        let Some(node) = &process.node else { return Time::NEVER };
        let own = if process.has_queued() { Time::NEVER } else { node.next_deadline() };
        own.min(process.watching.deadline())
    }

    fn leads(process: &Process) -> Option<Term> {
        process.node.as_ref().and_then(Node::leads)
    }

    fn status(process: &Process) -> Option<Status> {
        process.node.as_ref().map(|node| node.status(Time(0)).raft)
    }

    fn owes_fence(process: &Process) -> bool {
        process.has_strayed() && process.node.is_some() && !FullTier::is_fenced(process)
    }

    fn is_fenced(process: &Process) -> bool {
        process.lifecycle.state() == NodeState::Fenced
    }

    fn unsettled(context: &mut Context<Self>, members: &[NodeId]) -> Option<String> {
        context.clients.unsettled(members)
    }

    fn unpruned(context: &Context<Self>, nodes: &[(&Disk, &Process)]) -> Option<String> {
        let states: Vec<_> = nodes.iter().map(|(disk, process)| (disk.node, &process.state)).collect();
        context.clients.unpruned(&states)
    }

    fn check_durable(context: &mut Context<Self>, nodes: &[(&Disk, &Process)]) {
        let views: Vec<_> = nodes.iter().map(|(disk, process)| (disk.node, process.state.view())).collect();
        context.clients.check_durable(&views, &mut context.coverage);
    }
}

impl Process {
    /// Takes one event.
    fn take(
        &mut self,
        context: &mut Context<FullTier>,
        disk: &mut Disk,
        event: NodeEvent<FullTier>,
    ) -> Result<(), Killed> {
        match event {
            NodeEvent::Tick => {
                // Whoever is behind looks at its clock when its turn comes.
                if !self.has_queued() {
                    let jitter = jitter(context);
                    self.step_batch(context, vec![Input::Tick { jitter }])?;
                    self.check_answers(context);
                }
                self.tick_watches(context);
                Ok(())
            }
            NodeEvent::Message(packet) => self.receive(context, disk, packet),
            NodeEvent::Own(event) => self.own(context, event),
            NodeEvent::Ask(Ask::Verify) => self.verify(context),
            NodeEvent::Ask(Ask::Diverge) => {
                self.course = Course::Straying;
                Ok(())
            }
            NodeEvent::Ask(Ask::LoseClients) => {
                self.lose_clients(context);
                Ok(())
            }
            NodeEvent::Ask(ask) => self.ask(context, ask),
        }
    }

    /// What is read from its disk may be anything.
    fn has_doubtful_disk(&self) -> bool {
        self.doubtful || self.files.decays() > 0
    }

    /// Its state is another than the log makes, as far as anybody but itself knows.
    fn has_strayed(&self) -> bool {
        matches!(self.course, Course::Strayed(_))
    }

    /// What a store answered; a failure that was planned for its disk ends the process before its next promise.
    fn healthy<T, E: fmt::Display>(
        &self,
        context: &mut Context<FullTier>,
        call: Handler,
        result: Result<T, E>,
    ) -> Result<T, Killed> {
        result.map_err(|error| self.stopped_by(context, call, &error))
    }

    /// Ends on an error of the disk, which must be one that was planned.
    fn stopped_by(&self, context: &mut Context<FullTier>, call: Handler, error: &dyn fmt::Display) -> Killed {
        let planned = self.has_doubtful_disk() || self.files.failures() > self.failures_before;
        // What a checkpoint takes is an estimate, which may be short where readers hold the pages of many batches. On a disk that is
        // all but full the node ends then, as on any error of its disk, where it should have refused.
        let estimated = call == Handler::Checkpoint && self.files.is_limited() && error.to_string().contains(NO_SPACE);
        assert!(planned || estimated, "node {} fails to {}, and its disk is sound: {error}", context.node, call.name());
        context.trace.line(context.now(), || format!("host {} stops: {error}", context.host.0));
        context.coverage.hit(Reached::StoppedByDisk);
        context.coverage.struck(Struck::Failed, call);
        Killed
    }
}

/// Does what a process does. On a doubtful disk its pages may be rotten: a panic of redb on them ends the process.
fn dies_of_redb(doubtful: bool, run: impl FnOnce() -> Result<(), Killed>) -> Result<(), Killed> {
    if !doubtful {
        return run();
    }
    endure(run).unwrap_or_else(|panic| {
        if !last_panic_was_in(REDB) {
            resume_unwind(panic);
        }
        Err(Killed)
    })
}

fn jitter(context: &mut Context<FullTier>) -> Duration {
    let timeout = context.plan.timeout_us();
    Duration::from_micros(context.random.below(timeout))
}
