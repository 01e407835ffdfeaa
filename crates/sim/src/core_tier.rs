//! The core tier: the consensus core alone, on a model of a disk and of a state machine.
//!
//! Owns the contract between the core and its caller as a caller must keep it: effects in order, messages held until
//! their write is reported, each committed entry applied once. The state machine is the hash of the log it has applied,
//! which makes divergence visible at once.

mod effects;
mod state;
mod tracing;
mod transfer;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use quorate_raft::{
    Entry, Incarnation, Input, LogIndex, Membership, Message, NodeId, Raft, ReadId, RequestId, Restored, RoleKind,
    Status, Term, Time, WriteSeq,
};

use crate::context::Context;
use crate::coverage::{Handler, Reached};
use crate::plan::Plan;
use crate::random::Random;
use crate::tier::{Ask, Harm, Killed, NodeEvent, Tier};

use effects::Reports;
use state::AppliedState;
pub(crate) use transfer::{Packet, describe_message};

/// The tier.
pub(crate) enum CoreTier {}

/// What survives a process beside its log.
pub(crate) struct Disk {
    node: NodeId,
    state: AppliedState,
    /// Its next write or sync fails.
    failing: bool,
}

/// A running node.
pub(crate) struct Process {
    raft: Raft,
    state: AppliedState,
    apply_queue: VecDeque<Entry>,
    /// Number of the apply in progress; a snapshot that is installed meanwhile makes it void.
    applying: Option<u64>,
    applies: u64,
    writing: bool,
    reports: Reports,
    held: Vec<(WriteSeq, Message)>,
    /// The image received last, beside the state.
    received: Option<AppliedState>,
    /// The image that is becoming the state, until that is durable.
    installing: Option<AppliedState>,
    /// Number of the newest image sent to each node, until its fate is known.
    sending: BTreeMap<NodeId, u64>,
    requests: u64,
    proposals: BTreeMap<RequestId, Vec<u64>>,
    unanswered: BTreeMap<LogIndex, (Term, u64)>,
    /// What was committed when each read began.
    reads: BTreeMap<ReadId, LogIndex>,
    /// Confirmed reads that wait for their index to be applied.
    ready: Vec<(LogIndex, LogIndex)>,
    compacted_at: LogIndex,
}

/// What a node waits for.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// The first so many pending writes are durable.
    Synced(usize),
    /// The completion of a write is reported.
    Reported(WriteSeq),
    /// A batch is applied.
    Applied(u64),
    /// The state shall become durable.
    Checkpoint,
    /// Entries shall be read back.
    ReadEntries { to: NodeId, from: LogIndex, max_bytes: usize },
    /// Entries were read back, perhaps long ago.
    EntriesRead { to: NodeId, from: LogIndex, entries: Vec<Entry> },
    /// An image that was sent got no answer.
    ImageTimedOut { to: NodeId, number: u64 },
}

/// What clients remember.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    next: u64,
    acknowledged: Vec<(LogIndex, Term)>,
}

impl Tier for CoreTier {
    type Disk = Disk;
    type Process = Process;
    type Event = Event;
    type Message = Packet;
    type Clients = Clients;
    const NEWEST_VERSION: u32 = 2;
    const GREETS: bool = false;

    fn clients(_plan: &Plan) -> Clients {
        Clients::default()
    }

    fn node_id(incarnation: Incarnation) -> NodeId {
        NodeId((incarnation.0 >> 64) as u64 | 1)
    }

    fn disk(
        _context: &mut Context<Self>,
        node: NodeId,
        _incarnation: Incarnation,
        bootstrap: Option<&Membership>,
    ) -> Disk {
        Disk { node, state: AppliedState::empty(bootstrap), failing: false }
    }

    fn start(context: &mut Context<Self>, disk: &mut Disk) -> Option<Process> {
        let restored = restored(context, disk);
        let jitter = jitter(context);
        let raft = Raft::new(context.plan.raft_in(context.life), disk.node, restored, context.local(), jitter);
        let mut process = Process {
            raft,
            state: disk.state.clone(),
            apply_queue: VecDeque::new(),
            applying: None,
            applies: 0,
            writing: false,
            reports: Reports::default(),
            held: Vec::new(),
            received: None,
            installing: None,
            sending: BTreeMap::new(),
            // Handles of reads must not come again in a later life: a late answer to an old one would confirm a new one.
            requests: context.life.0 << 32,
            proposals: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            reads: BTreeMap::new(),
            ready: Vec::new(),
            compacted_at: context.log().durable().base.0,
        };
        let delay = context.plan.disk.checkpoint_us;
        context.later(delay, Event::Checkpoint);
        process.step(context, disk, Input::Tick { jitter }).ok()?;
        Some(process)
    }

    fn handle(
        context: &mut Context<Self>,
        disk: &mut Disk,
        process: &mut Process,
        event: NodeEvent<Self>,
    ) -> Result<(), Killed> {
        match event {
            NodeEvent::Tick => {
                let jitter = jitter(context);
                process.step(context, disk, Input::Tick { jitter })
            }
            NodeEvent::Message(packet) => process.receive(context, disk, packet),
            NodeEvent::Own(event) => process.own(context, disk, event),
            NodeEvent::Ask(ask) => process.ask(context, disk, ask),
        }
    }

    fn crash(context: &mut Context<Self>, disk: &mut Disk, process: Option<Process>) {
        let log = &mut context.cluster.logs[context.host.0];
        let (kept, lost) = log.crash(&mut context.random);
        if kept > 0 {
            context.coverage.hit(Reached::UnsyncedKept);
        }
        if lost > 0 {
            context.coverage.hit(Reached::UnsyncedLost);
        }
        context.oracle.synced(context.node, &context.cluster.logs[context.host.0]);
        disk.failing = false;
        let Some(process) = process else { return };
        // An image whose switch became durable is the state, though nobody was told.
        if let Some(image) = process.installing
            && context.log().durable().base.0 >= image.index
        {
            disk.state = image;
        }
        for _ in &process.unanswered {
            context.coverage.hit(Reached::WriteUnknown);
        }
    }

    fn harm(_context: &mut Context<Self>, disk: &mut Disk, harm: Harm, _random: &mut Random) -> bool {
        let fails = matches!(harm, Harm::WriteError | Harm::SyncError);
        disk.failing = (disk.failing || fails) && harm != Harm::Repair;
        fails
    }

    fn is_refused(_disk: &Disk) -> bool {
        false
    }

    fn describe(message: &Packet) -> (Handler, u64) {
        transfer::describe(message)
    }

    fn deadline(process: &Process) -> Time {
        process.raft.next_deadline()
    }

    fn leads(process: &Process) -> Option<Term> {
        (process.raft.role() == RoleKind::Leader).then(|| process.raft.term())
    }

    fn status(process: &Process) -> Option<Status> {
        Some(process.raft.status())
    }

    fn unsettled(_context: &mut Context<Self>, _members: &[NodeId]) -> Option<String> {
        None
    }

    fn check_durable(context: &mut Context<Self>, nodes: &[(&Disk, &Process)]) {
        for &(index, term) in &context.clients.acknowledged {
            let committed = context.oracle.committed_at(index);
            assert!(
                committed.is_some_and(|(committed, _)| committed == term),
                "L-10: the write acknowledged at {index} in term {term} is gone; committed there: {committed:?}"
            );
        }
        let newest = context.clients.acknowledged.iter().map(|(index, _)| *index).max().unwrap_or_default();
        for (disk, process) in nodes {
            assert!(
                process.state.index >= newest,
                "L-10: node {} has applied {} and {newest} was acknowledged",
                disk.node,
                process.state.index
            );
        }
    }
}

fn jitter(context: &mut Context<CoreTier>) -> Duration {
    let timeout = context.plan.timeout_us();
    Duration::from_micros(context.random.below(timeout))
}

/// What the disk says to a starting core.
fn restored(context: &mut Context<CoreTier>, disk: &Disk) -> Restored {
    let log = context.log().durable();
    let mut terms: Vec<(LogIndex, Term)> = Vec::new();
    for entry in log.entries_from(LogIndex(0)) {
        if terms.last().is_none_or(|(_, term)| *term != entry.term) {
            terms.push((entry.index, entry.term));
        }
    }
    Restored {
        hard_state: log.hard_state,
        base: log.base,
        base_membership: log.base_membership.clone(),
        terms,
        last: log.last(),
        memberships: log.memberships().map(|(index, membership)| (index, membership.clone())).collect(),
        tail: log.entries_from(disk.state.index.next()).cloned().collect(),
        applied: disk.state.index,
    }
}

impl Process {
    fn next_request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    fn ask(&mut self, context: &mut Context<CoreTier>, disk: &mut Disk, ask: Ask) -> Result<(), Killed> {
        let request = self.next_request();
        match ask {
            Ask::Write => {
                let count = context.random.between(1, 3);
                let ids: Vec<u64> = (0..count).map(|i| context.clients.next + i).collect();
                context.clients.next += count;
                let commands = ids.iter().map(|id| command(context, *id)).collect();
                self.proposals.insert(request, ids);
                self.step(context, disk, Input::Propose { request, commands })
            }
            Ask::Read => self.read(context, disk, ReadId(request.0)),
            Ask::SetVoters { target, expected } => {
                self.step(context, disk, Input::SetVoters { request, target, expected })
            }
            Ask::Transfer { to } => self.step(context, disk, Input::TransferLeader { request, to }),
            Ask::UpdateMember { id, member } => self.step(context, disk, Input::UpdateMember { request, id, member }),
            Ask::ChangeMember(change) => self.step(context, disk, Input::ChangeMember { request, change }),
            Ask::RaiseVersion => {
                self.step(context, disk, Input::RaiseVersion { request, version: CoreTier::NEWEST_VERSION })
            }
            Ask::StopCampaigning { yes } => {
                context.coverage.hit(Reached::CampaignsStopped);
                self.step(context, disk, Input::StopCampaigning { yes })
            }
            Ask::PeerLost { id } => self.step(context, disk, Input::PeerUnreachable { id }),
            // A graceful stop is the replica's matter: of the core it asks to hand leadership over.
            Ask::Stop => {
                self.step(context, disk, Input::TransferLeader { request, to: None })?;
                Err(Killed)
            }
            // Of these the core knows nothing.
            Ask::Workload | Ask::Settle | Ask::Compact | Ask::Verify | Ask::Diverge | Ask::LoseClients => Ok(()),
        }
    }

    fn read(&mut self, context: &mut Context<CoreTier>, disk: &mut Disk, read: ReadId) -> Result<(), Killed> {
        let local = context.local();
        if context.plan.clocks_bounded && self.raft.lease_valid(local) {
            let commit = self.raft.commit();
            context.oracle.read(context.node, context.oracle.committed(), commit);
            context.coverage.hit(Reached::LeaseRead);
        }
        if let Some(staleness) = self.raft.staleness(local) {
            let us = staleness.as_micros() as u64;
            context.oracle.stale_read(context.node, context.now(), self.state.index, us, context.plan.clock_ppm);
            context.coverage.hit(Reached::StaleRead);
        }
        self.reads.insert(read, context.oracle.committed());
        self.step(context, disk, Input::ReadIndex { read })
    }
}

/// A command that no other equals; mostly small, sometimes beyond every limit of one message.
fn command(context: &mut Context<CoreTier>, id: u64) -> Bytes {
    let mut command = id.to_le_bytes().to_vec();
    let most = if context.random.chance(20_000) { 3_000 } else { 40 };
    command.resize(8 + context.random.below(most) as usize, 0);
    Bytes::from(command)
}
