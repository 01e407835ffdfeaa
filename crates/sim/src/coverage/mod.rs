//! Counters of what a run met: each fault and each rare state of the protocol.
//!
//! A fault that never happens finds nothing, so a summary over many seeds shows every counter and names the zeros.

mod matrix;

use std::fmt;

pub use matrix::{Handler, Struck};

use crate::run::TierChoice;
use matrix::{Matrix, RUNS_TO_MEET_ALL};

macro_rules! reached {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// One thing worth meeting.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reached { $($(#[$doc])* $name,)* }

        impl Reached {
            /// All of them, in the order of the summary.
            pub const ALL: &[Reached] = &[$(Reached::$name,)*];

            /// Name in the summary.
            pub fn name(self) -> &'static str {
                match self { $(Reached::$name => $text,)* }
            }
        }
    };
}

reached! {
    /// A message was lost.
    Lost => "message lost",
    /// A leader refused a forwarded write.
    ForwardRefused => "forward refused",
    /// A forwarded write, or its refusal, was under way for up to seconds more.
    Detoured => "forward took a detour",
    /// A message arrived twice.
    Duplicated => "message duplicated",
    /// A message overtook an earlier one of its link.
    Reordered => "message reordered",
    /// A copy of a message arrived seconds later.
    Replayed => "old message replayed",
    /// A message met a cut link.
    CutOff => "message cut off",
    /// A host was cut from all others.
    IsolatedHost => "host isolated",
    /// The leader was cut from all others.
    IsolatedLeader => "leader isolated",
    /// The hosts were split in two.
    SplitHosts => "hosts split",
    /// Links were cut in one direction.
    OneWayCut => "one-way cut",
    /// One link was cut, others still reach both ends.
    PartialCut => "partial cut",
    /// Every host reaches its two neighbours alone.
    RingCut => "ring",
    /// The links of some hosts were clogged, and freed host by host.
    SwizzleClog => "swizzle clog",
    /// A process was killed between two events.
    Killed => "process killed",
    /// A process was killed between two effects of one step.
    KilledInStep => "process killed between effects",
    /// A process was killed again soon after its start.
    KilledAtStart => "process killed after start",
    /// All processes were killed at once.
    KilledAll => "all processes killed",
    /// A kill lost writes that were not durable.
    UnsyncedLost => "unsynced writes lost",
    /// A kill came when some unfinished writes had become durable, though never confirmed.
    UnsyncedKept => "unsynced writes kept",
    /// A process stood still.
    Paused => "process paused",
    /// A disk took long.
    DiskStalled => "disk stalled",
    /// A completion was reported after that of a later write.
    CompletionReordered => "write completions reordered",
    /// A replica took inputs of several kinds in one step.
    InputsBatched => "inputs of several kinds in one step",
    /// An answer came long after what it says was read.
    AnswerLate => "answer came late",
    /// A disk was lost, and the host came back empty under its name.
    Wiped => "disk wiped",
    /// A clock jumped forward, as after a suspended machine.
    ClockJumped => "clock jumped",
    /// A machine stood still with its clock.
    Suspended => "machine suspended",
    /// A link came and went.
    LinkFlapped => "link flapped",
    /// A node was cut off right after it was told to campaign.
    SuccessorCutOff => "successor cut off",
    /// A message waited for a narrow link.
    BandwidthLimited => "message waited for a narrow link",
    /// All streams of a host broke.
    StreamsReset => "all streams of a host reset",
    /// A message was under way when its stream broke.
    LostInReset => "message lost with its stream",
    /// A machine was slow.
    HostSlow => "machine slow",
    /// A process on a slow machine came to an event late.
    HandledLate => "event handled late",
    /// A process came back as the next release.
    Upgraded => "process upgraded",
    /// A process came back with other limits.
    LimitsChanged => "limits changed at a start",
    /// A process was told to stop.
    Stopped => "process stopped gracefully",
    /// A write of a disk was to fail.
    WriteErrorPlanned => "write error planned",
    /// A sync of a disk was to fail.
    SyncErrorPlanned => "sync error planned",
    /// A read of a disk was to fail.
    ReadErrorPlanned => "read error planned",
    /// A change of a directory was to fail.
    DirectoryErrorPlanned => "directory error planned",
    /// A process stopped because its disk failed it.
    StoppedByDisk => "process stopped by its disk",
    /// A bit flipped at rest.
    BitFlipped => "bit flipped at rest",
    /// A record of a log or of a state was wrong in a sound page.
    RecordRotten => "record rotten in a sound page",
    /// A start on a state with such a record was possible, and reading it through found the record.
    RotFound => "rotten record of a state found by verification",
    /// A sector was zeroed at rest.
    SectorZeroed => "sector zeroed at rest",
    /// A page was written in the place of another.
    PageMisdirected => "page written elsewhere",
    /// A page went back to an older version.
    PageStale => "page went back to an older version",
    /// A disk stood still for much longer than any election.
    DiskHung => "disk stood still for up to a minute",
    /// Decay was found by reading the files of a running process through.
    DecayFound => "decay found by verification",
    /// Whole files of a running process were read through and found sound.
    Verified => "files verified",
    /// A state machine went its own way.
    Diverged => "state diverged",
    /// A node whose state had diverged fenced itself.
    FencedItself => "divergent node fenced itself",
    /// A process died between the switch to an image and the reset of its log.
    KilledAfterSwitch => "killed between image and log",
    /// A process refused to start on its disk.
    StartRefused => "start refused with a diagnosis",
    /// A start was refused on a disk that is not known to be damaged: a sync had failed, and the process after it built on that.
    RefusedAfterSync => "start refused after a failed sync alone",
    /// A store came back older than it was, because what was newer had decayed.
    DecayUnnoticed => "decayed store came back older",
    /// A disk had no room.
    DiskFilled => "disk filled",
    /// A member got a new record.
    MemberUpdated => "member update asked",
    /// A member was to be added before it was started.
    MemberAdded => "member addition asked",
    /// A member that was added before was found at its address.
    MemberBound => "added member found",
    /// A learner was to be promoted.
    MemberPromoted => "promotion asked",
    /// One member was to be removed.
    MemberRemoved => "removal of one member asked",
    /// The cluster version was to rise.
    VersionAsked => "version rise asked",
    /// The cluster version rose.
    VersionRaised => "cluster version raised",
    /// A node was told not to campaign, or that it may again.
    CampaignsStopped => "campaigning stopped or allowed",
    /// A stream broke.
    StreamLost => "stream lost",
    /// Hosts were cut off from clients alone.
    ClientsCutOff => "hosts cut off from clients",
    /// A client went away before its answer.
    ClientLeft => "client left",
    /// A node became leader.
    Elected => "leader elected",
    /// A settled leader led on though links were cut.
    LeaderHeld => "leader held while links were cut",
    /// A node restarted inside a joint configuration.
    RestartedInJoint => "restart in joint configuration",
    /// A voter change was asked for.
    VotersAsked => "voter change asked",
    /// A joint configuration was committed.
    JointCommitted => "joint configuration committed",
    /// A joint configuration was left.
    JointLeft => "joint configuration left",
    /// A voter change without the leader was asked for.
    LeaderLeaves => "voter change without the leader asked",
    /// A transfer succeeded.
    Transferred => "leadership transferred",
    /// A transfer failed.
    TransferFailed => "transfer failed",
    /// A log tail was overwritten.
    TailReplaced => "log tail replaced",
    /// A log prefix was compacted.
    PrefixTruncated => "log prefix truncated",
    /// A snapshot was sent.
    SnapshotSent => "snapshot sent",
    /// A snapshot got lost on its way.
    SnapshotLost => "snapshot lost",
    /// A bit of a snapshot was flipped on its way.
    ImageDamaged => "snapshot damaged",
    /// A snapshot was installed.
    SnapshotInstalled => "snapshot installed",
    /// A write was acknowledged.
    WriteAcked => "write acknowledged",
    /// The outcome of a write stayed unknown.
    WriteUnknown => "write of unknown outcome",
    /// A write entered through a node that does not lead.
    WriteForwarded => "write through a follower",
    /// A quorum-confirmed read was served.
    ConsistentRead => "consistent read",
    /// A read was served under a lease.
    LeaseRead => "lease read",
    /// A read was served by any node.
    StaleRead => "stale read",
    /// A stale read was refused for its bound.
    StaleRefused => "stale read refused",
    /// A compaction was applied.
    Compacted => "key space compacted",
    /// A transaction's comparison failed.
    CompareFailed => "transaction took the failure branch",
    /// The state was made durable.
    Checkpointed => "state checkpointed",
    /// An order was found that explains what clients saw of a key.
    HistoryDecided => "key histories explained",
    /// The search for one was given up.
    HistoryUndecided => "key histories undecided",
    /// A lease was granted.
    LeaseGranted => "lease granted",
    /// A lease of this id was there already.
    LeaseExisted => "lease granted twice refused",
    /// Leases were given their time again.
    LeaseRenewed => "leases renewed",
    /// A keepalive named a lease that had ended.
    EndedLeaseRenewed => "keepalive of an ended lease",
    /// A lease was revoked.
    LeaseRevoked => "lease revoked",
    /// A lease ran out.
    LeaseExpired => "lease ran out",
    /// Many leases ran out at once.
    LeaseStorm => "storm of expiries",
    /// A put named no lease.
    LeaseLeft => "key put without a lease of its own",
    /// A put that keeps a part of a key found none.
    NothingToKeep => "nothing to keep refused",
    /// An expiry came after a renewal or a second time.
    ExpiryVoid => "expiry without effect",
    /// A contender got a lock.
    LockTaken => "lock taken",
    /// A contender found others before it.
    LockAwaited => "lock awaited",
    /// A contender's lease ran out while it waited.
    LockLost => "lock lost while waiting",
    /// A holder wrote when it was none any more.
    FencedOff => "former lock holder fenced off",
    /// A watch was created.
    WatchCreated => "watch created",
    /// It began before its node's revision.
    WatchOfThePast => "watch of the past",
    /// It began after it.
    WatchOfTheFuture => "watch of the future",
    /// It was no watch.
    WatchRefused => "watch refused",
    /// A watch was refused the id it asked for, which another has.
    WatchIdTaken => "watch refused a taken id",
    /// Its client ended it.
    WatchCanceled => "watch canceled",
    /// What it waited for was forgotten.
    WatchCompacted => "watch ended by compaction",
    /// It went on, on another stream.
    WatchResumed => "watch resumed",
    /// It was told of changes.
    WatchTold => "watch told of changes",
    /// It was told what a key held before.
    WatchToldPrevious => "watch told a former version",
    /// It was told a part of a revision.
    WatchFragment => "watch told a fragment",
    /// It was told how far it is.
    WatchProgress => "watch told its progress",
    /// Its client read too slowly.
    WatchWithoutRoom => "watch without room",
    /// A part of the history was read back for those behind.
    WatchReadBack => "history read back for watches",
    /// Changes were lost on their way to the hub.
    WatchFeedLost => "feed of watches lost",
    /// An image was installed while somebody watched.
    WatchedInstall => "snapshot installed under watches",
    /// An object was created where there was none.
    ObjectCreated => "object created",
    /// An object was updated by its mod revision.
    ObjectUpdated => "object updated",
    /// An object was deleted by its mod revision.
    ObjectDeleted => "object deleted",
    /// The guard of an object failed.
    ObjectConflict => "guard of an object failed",
    /// A write of unknown outcome was asked again and found done.
    RetryFoundDone => "retry found its write done",
    /// A list took more than one page.
    ListPaged => "list in pages",
    /// A list was read to its end.
    ListDone => "list read whole",
    /// The revision of a list was compacted before its end.
    ListExpired => "list expired",
    /// A watch went on from a list.
    ListFollowed => "watch from a list",
    /// An event was written under its lease.
    EventWritten => "event with a lease written",
    /// A transaction with others in it took effect.
    TreeApplied => "nested transaction",
    /// A transaction had one operation less than the limit.
    BelowOperationLimit => "operations: limit less one",
    /// A transaction had as many operations as the limit.
    AtOperationLimit => "operations: limit",
    /// A transaction had one operation more.
    PastOperationLimit => "operations: limit and one",
    /// A transaction was one less deep than any may be.
    BelowDepthLimit => "nesting: limit less one",
    /// A transaction was as deep as any may be.
    AtDepthLimit => "nesting: limit",
    /// A transaction was deeper than that.
    PastDepthLimit => "nesting: limit and one",
    /// A read at an old revision was compared with what was then.
    OldRevisionRead => "read at an old revision",
    /// A range that was streamed was compared with what was at its revision.
    RangeStreamed => "range streamed whole",
    /// History was taken away under a stream, or the whole state, and it was told so.
    StreamOvertaken => "stream overtaken by compaction or an image",
    /// The hashes of two states at one revision were compared.
    HashesCompared => "hashes at a revision compared",
    /// A read at a compacted revision was refused.
    CompactedRead => "read at a compacted revision refused",
    /// A read at a revision of the future was refused.
    FutureRead => "read of the future refused",
    /// Users, roles or the switch were changed by one of many.
    RightsChanged => "rights changed by an official",
    /// The switch of rights was turned off.
    RightsSwitchedOff => "rights switched off",
    /// A login was acknowledged.
    LoggedIn => "login acknowledged",
    /// A login was refused.
    LoginRefused => "login refused",
    /// A write was void for want of a right.
    WriteForbidden => "write void for want of a right",
    /// A lease was not revoked, for want of a right.
    RevokeForbidden => "revoke of a lease void for want of a right",
    /// A read was allowed by the rights of its state.
    ReadAllowed => "read allowed",
    /// A read was forbidden by them.
    ReadForbidden => "read forbidden",
}

/// How often each was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    counts: Vec<u64>,
    matrix: Matrix,
    handler: Option<Handler>,
}

impl Default for Coverage {
    fn default() -> Self {
        Coverage { counts: vec![0; Reached::ALL.len()], matrix: Matrix::default(), handler: None }
    }
}

impl Coverage {
    /// Counts one.
    pub fn hit(&mut self, what: Reached) {
        self.counts[what as usize] += 1;
    }

    /// How often `what` was met.
    pub fn count(&self, what: Reached) -> u64 {
        self.counts[what as usize]
    }

    /// What the network's next faults befall.
    pub(crate) fn handling(&mut self, handler: Handler) {
        self.handler = Some(handler);
    }

    /// A fault met what is being handled.
    pub(crate) fn struck_message(&mut self, struck: Struck) {
        if let Some(handler) = self.handler {
            self.matrix.hit(struck, handler);
        }
    }

    /// A fault met a handler.
    pub(crate) fn struck(&mut self, struck: Struck, handler: Handler) {
        self.matrix.hit(struck, handler);
    }

    /// What so many runs of this tier should have met and did not.
    pub fn zeros(&self, tier: TierChoice, runs: u64) -> Vec<String> {
        // Most of what rots is a page that nothing is stored in any more.
        let rare = |what: Reached| matches!(what, Reached::DecayFound | Reached::RotFound);
        let asked = |what: Reached| !rare(what) || runs >= RUNS_TO_MEET_ALL;
        let missing = |what: &&Reached| self.count(**what) == 0 && what.is_of(tier) && asked(**what);
        let counters = Reached::ALL.iter().filter(missing).map(|what| what.name().to_owned());
        counters.chain(self.matrix.zeros(tier, runs)).collect()
    }

    /// The whole table, for one tier.
    pub fn table(&self, tier: TierChoice) -> impl fmt::Display + '_ {
        Table { coverage: self, tier }
    }

    /// Adds the counts of another run.
    pub fn merge(&mut self, other: &Coverage) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.matrix.merge(&other.matrix);
    }
}

impl Reached {
    /// Whether a run of this tier can meet it.
    fn is_of(self, tier: TierChoice) -> bool {
        match self {
            Reached::ImageDamaged
            | Reached::Detoured
            | Reached::InputsBatched
            | Reached::ForwardRefused
            | Reached::WriteForwarded
            | Reached::StaleRefused
            | Reached::Compacted
            | Reached::CompareFailed
            | Reached::ReadErrorPlanned
            | Reached::DirectoryErrorPlanned
            | Reached::BitFlipped
            | Reached::RecordRotten
            | Reached::SectorZeroed
            | Reached::PageMisdirected
            | Reached::PageStale
            | Reached::DecayFound
            | Reached::Verified
            | Reached::Diverged
            | Reached::FencedItself
            | Reached::StartRefused
            | Reached::DiskFilled
            | Reached::KilledAfterSwitch
            | Reached::ClientLeft
            | Reached::HistoryDecided
            | Reached::LeaseGranted
            | Reached::LeaseExisted
            | Reached::LeaseRenewed
            | Reached::EndedLeaseRenewed
            | Reached::LeaseRevoked
            | Reached::LeaseExpired
            | Reached::LeaseStorm
            | Reached::LeaseLeft
            | Reached::NothingToKeep
            | Reached::ExpiryVoid
            | Reached::LockTaken
            | Reached::LockAwaited
            | Reached::LockLost
            | Reached::FencedOff
            | Reached::WatchCreated
            | Reached::WatchOfThePast
            | Reached::WatchOfTheFuture
            | Reached::WatchRefused
            | Reached::WatchIdTaken
            | Reached::WatchCanceled
            | Reached::WatchCompacted
            | Reached::WatchResumed
            | Reached::WatchTold
            | Reached::WatchToldPrevious
            | Reached::WatchFragment
            | Reached::WatchProgress
            | Reached::WatchWithoutRoom
            | Reached::WatchReadBack
            | Reached::WatchFeedLost
            | Reached::ObjectCreated
            | Reached::ObjectUpdated
            | Reached::ObjectDeleted
            | Reached::ObjectConflict
            | Reached::RetryFoundDone
            | Reached::ListPaged
            | Reached::ListDone
            | Reached::ListExpired
            | Reached::ListFollowed
            | Reached::EventWritten
            | Reached::TreeApplied
            | Reached::BelowOperationLimit
            | Reached::AtOperationLimit
            | Reached::PastOperationLimit
            | Reached::BelowDepthLimit
            | Reached::AtDepthLimit
            | Reached::PastDepthLimit
            | Reached::OldRevisionRead
            | Reached::RangeStreamed
            | Reached::StreamOvertaken
            | Reached::HashesCompared
            | Reached::CompactedRead
            | Reached::FutureRead
            | Reached::RightsChanged
            | Reached::RightsSwitchedOff
            | Reached::LoggedIn
            | Reached::LoginRefused
            | Reached::WriteForbidden
            | Reached::RevokeForbidden
            | Reached::ReadAllowed
            | Reached::ReadForbidden
            | Reached::RotFound
            | Reached::WatchedInstall => tier == TierChoice::Full,
            // Possible, and too rare to be asked for.
            Reached::DecayUnnoticed | Reached::RefusedAfterSync => false,
            // Better never; the summary has its own word on it.
            Reached::HistoryUndecided => false,
            _ => true,
        }
    }
}

struct Table<'a> {
    coverage: &'a Coverage,
    tier: TierChoice,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &what in Reached::ALL.iter().filter(|what| what.is_of(self.tier)) {
            writeln!(f, "  {:>12}  {}", self.coverage.count(what), what.name())?;
        }
        self.coverage.matrix.write(f, self.tier)
    }
}
