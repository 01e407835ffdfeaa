//! What a tier is: the kind of replica that a world runs.
//!
//! The world owns hosts, time, the network and the faults; a tier knows how one process is started, fed and killed and
//! what its disk holds. The core tier drives the consensus core on a model of a disk, the full tier the whole replica
//! on its real stores.

use quorate_raft::{Incarnation, LogIndex, Member, MemberChange, Membership, NodeId, Status, Term, Time, VoterTarget};

use crate::context::Context;
use crate::coverage::Handler;
use crate::plan::Plan;
use crate::random::Random;

/// The process was killed between two effects: it performs no more of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Killed;

/// What reaches a process.
#[derive(Debug, Clone)]
pub(crate) enum NodeEvent<T: Tier> {
    /// Its deadline has come.
    Tick,
    /// A message from another node.
    Message(T::Message),
    /// Something of its own that it was waiting for, such as a completed write.
    Own(T::Event),
    /// A client or an administrator wants something.
    Ask(Ask),
}

/// What a client or an administrator wants of a node. The tier draws the details.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    /// Some write.
    Write,
    /// Some read.
    Read,
    /// The voter set shall be this.
    SetVoters {
        /// The voters.
        target: Vec<VoterTarget>,
        /// Index of the configuration that the caller saw, if it cares.
        expected: Option<LogIndex>,
    },
    /// Leadership shall move.
    Transfer {
        /// Where to; the best voter if none is named.
        to: Option<NodeId>,
    },
    /// A member has a new record.
    UpdateMember {
        /// Whom it concerns.
        id: NodeId,
        /// The record.
        member: Member,
    },
    /// A member comes, goes or becomes a voter, as etcd's calls ask for it.
    ChangeMember(MemberChange),
    /// The cluster version shall rise.
    RaiseVersion,
    /// The disk of this node cannot be trusted with promises for now, or can again.
    StopCampaigning {
        /// Which of the two.
        yes: bool,
    },
    /// The stream to a node broke.
    PeerLost {
        /// The node.
        id: NodeId,
    },
    /// The process shall stop in good order.
    Stop,
    /// The process reads its files through and compares their checksums.
    Verify,
    /// The state machine does something else than the next write says.
    Diverge,
    /// No answer reaches the clients that wait for one; the process does not know.
    LoseClients,
    /// One of the workloads that stand apart makes its next move.
    Workload,
    /// Clients do what they have to do before everything can be told to them.
    Settle,
    /// All history shall be forgotten.
    Compact,
}

/// What befalls a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// One of the next writes fails.
    WriteError,
    /// One of the next syncs fails, and its pages count as clean.
    SyncError,
    /// One of the next reads fails.
    ReadError,
    /// One of the next changes of a directory fails, or making them durable does.
    DirectoryError,
    /// A bit flips at rest. The node that lives there is lost, whether or not it notices; so with the next three.
    BitFlip,
    /// A record of the log is wrong in a page that is right. The process is not running.
    RottenRecord,
    /// A sector is zeroes.
    ZeroSector,
    /// A page was written in another's place.
    Misdirect,
    /// A page is what it was before it was written last.
    StalePage,
    /// Nothing more fits.
    Full,
    /// There is room again.
    SpaceBack,
    /// It is a healthy disk from now on: there is room, and no error that was planned comes any more.
    Repair,
}

/// One kind of replica.
pub(crate) trait Tier: Sized {
    /// What survives the process.
    type Disk;
    /// What dies with it.
    type Process;
    /// What a process waits for.
    type Event: Clone;
    /// What nodes send to each other.
    type Message: Clone;
    /// The newest version that the next release knows. What is stored must be readable for the code that is run: where there are
    /// encoded bytes that takes a build of that release, which `cargo xtask sim` makes (feature `next-format`).
    const NEWEST_VERSION: u32;
    /// Its nodes greet each other when they connect, and say which release they are.
    const GREETS: bool;
    /// Clients' memory, which no fault touches.
    type Clients;

    /// Clients at the start of a run.
    fn clients(plan: &Plan) -> Self::Clients;
    /// The id that an incarnation gets when it is admitted.
    fn node_id(incarnation: Incarnation) -> NodeId;
    /// An empty disk; with a membership, one that has accepted it as its bootstrap configuration.
    fn disk(
        context: &mut Context<Self>,
        node: NodeId,
        incarnation: Incarnation,
        bootstrap: Option<&Membership>,
    ) -> Self::Disk;
    /// Starts a process on `disk`; none if it was killed while starting.
    fn start(context: &mut Context<Self>, disk: &mut Self::Disk) -> Option<Self::Process>;
    /// Feeds one event to the process.
    ///
    /// # Errors
    /// [`Killed`] if a kill struck between two effects.
    fn handle(
        context: &mut Context<Self>,
        disk: &mut Self::Disk,
        process: &mut Self::Process,
        event: NodeEvent<Self>,
    ) -> Result<(), Killed>;
    /// The process dies, and with it what its disk has not made durable.
    fn crash(context: &mut Context<Self>, disk: &mut Self::Disk, process: Option<Self::Process>);
    /// The run is over.
    fn close(_disk: &Self::Disk, _process: Self::Process) {}
    /// Does harm to a disk; false if this tier has no such harm.
    fn harm(context: &mut Context<Self>, disk: &mut Self::Disk, harm: Harm, random: &mut Random) -> bool;
    /// The process refuses to start on this disk, and says why: the data on it is lost.
    fn is_refused(disk: &Self::Disk) -> bool;
    /// What a message is, for the table of coverage, and about how many bytes it takes.
    fn describe(message: &Self::Message) -> (Handler, u64);
    /// When the process wants its next tick, on its own clock.
    fn deadline(process: &Self::Process) -> Time;
    /// The term that the process leads, if it does.
    fn leads(process: &Self::Process) -> Option<Term>;
    /// Status of the consensus core; none if no cluster has taken the process in yet.
    fn status(process: &Self::Process) -> Option<Status>;
    /// Its state differs from that of the others, and it has not noticed yet.
    fn owes_fence(_process: &Self::Process) -> bool {
        false
    }
    /// It has barred itself, since its data cannot be trusted.
    fn is_fenced(_process: &Self::Process) -> bool {
        false
    }
    /// What has not come to its end in a healed world in which nobody asks for anything: leases, and what watches wait for at
    /// `members`. None = nothing.
    fn unsettled(context: &mut Context<Self>, members: &[NodeId]) -> Option<String>;
    /// What is left of the history that [`Ask::Compact`] wants forgotten, on these nodes. None = nothing.
    fn unpruned(_context: &Context<Self>, _nodes: &[(&Self::Disk, &Self::Process)]) -> Option<String> {
        None
    }
    /// Checks a healed and quiet world: everything acknowledged is there, on every one of `nodes`.
    fn check_durable(context: &mut Context<Self>, nodes: &[(&Self::Disk, &Self::Process)]);
}
