//! Known bugs of consensus systems, each behind a switch that one thread turns on for itself.
//!
//! The proof that the simulator works: every bug here was suffered by somebody, is put back into this code on demand, and
//! must be found. Owns the list and the switch; what a mutant does stands where the sound code stands, behind
//! `mutant!(Name)`. That is a constant `false` unless a crate is built with its feature `mutants`, which only the
//! simulator asks for: this crate is no part of the product.
//!
//! A crate of its own because consensus and key space know nothing of each other and both carry mutants.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;

/// What of the product a mutant lives in, and so what has to be run to meet it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The consensus core.
    Consensus,
    /// The replica around it, its stores and its key space.
    Replica,
}

macro_rules! mutants {
    ($($name:ident: $hazard:literal, $layer:ident, $sentence:literal;)*) => {
        /// A bug that can be switched on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant { $(#[doc = $sentence] $name,)* }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Mutant] = &[$(Mutant::$name,)*];

            /// Its number in the catalogue of hazards (docs/testing.md); 0: what users rely on beside it.
            pub fn hazard(self) -> u32 {
                match self { $(Mutant::$name => $hazard,)* }
            }

            /// What it lives in.
            pub fn layer(self) -> Layer {
                match self { $(Mutant::$name => Layer::$layer,)* }
            }

            /// What goes wrong, in one sentence.
            pub fn sentence(self) -> &'static str {
                match self { $(Mutant::$name => $sentence,)* }
            }
        }
    };
}

mutants! {
    ChangeBeforeOwnTermCommit: 1, Consensus, "A new leader changes the configuration before an entry of its term is committed.";
    TwoChangesAtOnce: 2, Consensus, "A second configuration is appended while the first one is uncommitted.";
    MembershipOnCommit: 3, Consensus, "A configuration counts from its commit, not from its append.";
    ChangeWhileJoint: 4, Consensus, "A new voter set is accepted in a joint phase, checked as if there was none.";
    LeavesOnlyWhatItEntered: 5, Consensus, "Only the leader that entered a joint phase leaves it.";
    RestartForgetsOutgoing: 7, Consensus, "A node that restarts in a joint phase forgets the outgoing voters.";
    LeavesUncommittedJoint: 8, Consensus, "The joint phase is left before its own entry is committed.";
    RemovedLeaderStays: 10, Consensus, "A leader removes itself and goes on leading.";
    StrandedLeaderStays: 10, Consensus, "A node that leads once more, to commit the configuration without it, leads on after that.";
    LearnerRefusesVote: 11, Consensus, "A node refuses its vote because it does not know yet that it is a voter.";
    LearnerCampaigns: 12, Consensus, "A node campaigns without being a voter.";
    LearnerPromotedAtOnce: 13, Consensus, "A learner becomes a voter before it has caught up.";
    SilentLearnerPromoted: 13, Consensus, "A learner becomes a voter though nothing was heard of it lately.";
    UpdatePromotes: 14, Consensus, "An update of a learner's addresses makes it a voter.";
    NoPreVote: 16, Consensus, "A node that hears nobody raises the term without asking first.";
    IdentityOutlivesDisk: 17, Consensus, "A node whose disk was lost comes back empty under its old id.";
    ImageKeepsOldMembership: 20, Consensus, "An installed image leaves the configuration of the log it replaced in force.";
    LearnersCount: 21, Consensus, "Acknowledgements of learners count towards the quorum.";
    DepartedCount: 21, Consensus, "Acknowledgements of nodes that have left count towards the quorum.";
    JointCommitByIncoming: 22, Consensus, "In a joint phase the incoming half alone commits.";
    JointElectionByIncoming: 22, Consensus, "In a joint phase the incoming half alone elects.";
    VoteWrittenLater: 23, Consensus, "The term is written without the vote, which follows with the next write.";
    RestartForgetsVote: 23, Consensus, "A node that restarts keeps its term and forgets its vote.";
    VoteBeforeSync: 24, Consensus, "A vote leaves before it is durable.";
    AckBeforeSync: 24, Consensus, "An append is acknowledged before its entries are durable.";
    LowerTermsUnanswered: 25, Consensus, "Nodes of a lower term get no answer, though nobody's term rises without one.";
    HigherTermIgnored: 27, Consensus, "A leader ignores answers of a higher term, so a node of that term never gets back in.";
    LatePreVoteCampaigns: 28, Consensus, "A grant left over from the pre-vote makes the new leader campaign again.";
    StaleVoteCounts: 30, Consensus, "A vote for an earlier candidacy counts for the present one.";
    VotesTwice: 30, Consensus, "A node votes for whoever asks, also twice in a term.";
    NoCheckQuorum: 32, Consensus, "A leader that hears no quorum leads on.";
    LeaseKeptOverTransfer: 33, Consensus, "A leader trusts its lease after it told a successor to campaign.";
    TransferNeverEnds: 33, Consensus, "A transfer whose target does not take over blocks writes for ever.";
    CommitsOlderTerm: 34, Consensus, "An entry of an older term is committed by counting its copies.";
    QuorumOfUnsorted: 35, Consensus, "The quorum's index is taken from a list that nobody sorted.";
    MissingPrevMatches: 36, Consensus, "An append whose preceding entry is not in the log passes for a match.";
    AppliesPastPage: 37, Consensus, "Committed entries are handed out in pages, and what lies past the first is skipped.";
    OverwrittenWriteCounts: 38, Consensus, "The completion of a write counts for entries that replaced it meanwhile.";
    WindowLeaksBytes: 39, Consensus, "Acknowledged bytes stay in the window of what is in flight.";
    ProposalsLeak: 39, Replica, "Applied proposals still count as unapplied.";
    ProbeNeverAgain: 40, Consensus, "A follower whose probe was lost is never probed again.";
    HeartbeatAtMatched: 40, Consensus, "A heartbeat asks for what matched, not for what was sent, so what was lost never shows.";
    MatchFalls: 41, Consensus, "A late acknowledgement takes back what a follower is known to hold.";
    OldAppendTruncates: 42, Consensus, "A repeated append cuts off the entries after it.";
    UnknownFollowerGetsNothing: 43, Consensus, "A follower that nothing is known of gets no image when the log has gone.";
    LargeEntryNeverSent: 45, Consensus, "An entry beyond the limit of a message is never sent.";
    ImageNotSynced: 47, Replica, "An image is renamed into place before its content is durable.";
    ImageUnchecked: 48, Replica, "The checksums of an image are not compared.";
    CompactionKeepsOldMembership: 49, Consensus, "Compaction keeps the oldest configuration instead of the one in force.";
    ImageOfOldMembership: 49, Replica, "A state does not take in a new configuration, and its images name the one before.";
    OldImageInstalled: 50, Consensus, "An image older than what is committed is installed.";
    ImageStrandsWrites: 51, Replica, "Writes that an image may hide are never answered.";
    LogNeverCut: 52, Replica, "The log is never cut.";
    ReadBeforeOwnTerm: 54, Consensus, "A leader serves reads before it has committed an entry of its term.";
    ReadJoinsOpenRound: 55, Consensus, "A read is confirmed by answers to a round that began before it.";
    ReadIdUsedAgain: 55, Replica, "A round of reads that is asked again uses its old number.";
    SoleVoterReadsAtBoot: 57, Consensus, "A single voter serves reads at its start, before it knows what is committed.";
    LeaseFromAnswer: 58, Consensus, "The lease runs from the answers to a round, not from its sending.";
    LeaseIgnoresDrift: 59, Consensus, "The lease leaves no room for clocks that differ.";
    PromiseForgotten: 60, Consensus, "A node that restarts votes at once, whatever it promised a leader.";
    LeaseByOwnTimeout: 60, Consensus, "A lease counts by the leader's own election timeout, whatever its voters promise.";
    LeaseOfOldAnswers: 60, Consensus, "A lease counts what voters promised with answers to earlier rounds.";
    LeaseOfOldVoters: 60, Consensus, "A lease outlives the voters whose promises it rests on.";
    OwnVoteUnpromised: 60, Consensus, "A node that starts anew with a shorter timeout campaigns, whatever it promised a leader.";
    VoteInsideLease: 60, Consensus, "A node votes though it has just heard a leader.";
    StalledDiskLeads: 61, Consensus, "A leader whose disk stands still leads on.";
    AppliedIndexApart: 62, Replica, "The applied index is written apart from what was applied.";
    LeaderCountsUnsynced: 63, Consensus, "A leader counts its own entries before they are durable.";
    SyncErrorIgnored: 64, Replica, "A failed sync is ignored.";
    DamageCutOff: 65, Replica, "A damaged record is healed by cutting the log off before it.";
    RenameNotSynced: 66, Replica, "A renamed file is used before its name is durable.";
    FullDiskForEver: 67, Replica, "A node that once had a full disk takes no more writes.";
    CommitBeforeEntries: 68, Replica, "The commit index is written before the entries it speaks of.";
    RevisionOfRecords: 71, Replica, "At a start the revision is taken from the newest value there is, and a deletion leaves none.";
    TxnRangeOfPruned: 72, Replica, "A transaction's range is refused by what this node has pruned, not by what the cluster compacted.";
    AppliesByBatch: 73, Replica, "What a batch applies depends on where the batch was cut.";
    CountStopsAtLimit: 74, Replica, "A range with a limit counts only what it returns.";
    SlowWatchSkipsCompacted: 75, Replica, "A watch whose next revision is forgotten goes on behind the gap without a word.";
    TombstoneAtTargetPruned: 76, Replica, "Compaction takes away a deletion made at the very revision it compacts to.";
    ProgressBeforeEvents: 77, Replica, "Progress that is asked for is told before the events up to it.";
    WatchBackAfterImage: 78, Replica, "A store that an image replaced is told to its watches from the beginning.";
    FutureWatchToldOld: 79, Replica, "A watch of the future is told what happens before it begins.";
    EventsTwice: 80, Replica, "A watch that fell behind is told its last revision again.";
    RevisionSplit: 80, Replica, "The changes of one revision are told in several answers.";
    ExpiryUnchecked: 81, Replica, "A late expiry ends a lease that was renewed meanwhile.";
    KeepAliveOfDeposed: 81, Replica, "A leader answers keepalives on its own word.";
    LeaseClockBegunAnew: 81, Replica, "A new leader counts the time of leases from the beginning.";
    LockNotRechecked: 82, Replica, "A lock is taken without a look whether its lease outlived the wait.";
    ForwardTakenTwice: 83, Replica, "A forwarded write that arrives twice is proposed twice.";
    RefusedForgotten: 83, Replica, "A forwarded write that was refused is taken when a copy of it comes.";
    RetriesInFlight: 83, Replica, "A write in flight is proposed again as soon as the leader changes.";
    QueueWithoutLimit: 84, Replica, "Writes are taken without end.";
    OldRightsServe: 0, Replica, "A request that was let in by older rights is served by them.";
    RevokedRightLives: 0, Replica, "What is taken from a role stays with its users.";
    LoginUnchecked: 0, Replica, "A login counts though its password was changed meanwhile.";
    OldRangeOfToday: 0, Replica, "A range at an old revision, the second page of a list for example, reads the newest one.";
    DeletedSinceLeftOut: 0, Replica, "The pages of a list at an old revision leave out what was deleted since the first of them.";
    MovedKeyKeepsLease: 0, Replica, "A key that is put under another lease, or under none, stays with the one it had.";
    RevokeUnchecked: 0, Replica, "A lease is revoked whoever may not write its keys.";
    ProgressWithheld: 0, Replica, "A watch that nothing happens to is never told how far it is.";
    StandingLearnerLeaves: 0, Consensus, "A learner that was added to stay leaves with a change of the voters.";
    LeaseGoneAfterTransfer: 0, Consensus, "A leader whose transfer came to nothing has no lease for the rest of its term.";
    AnnouncesUnbound: 0, Replica, "A node that was added before it was started takes the configurations before its start for a forgery.";
    ReadsBeforeReplay: 0, Replica, "A restarted node serves stale reads before it has replayed what it knew to be committed.";
    MinRevisionForgotten: 0, Replica, "A read under the lease does not wait for the revision that it asks for.";
    FencedServesReads: 0, Replica, "A node that was fenced or removed serves reads.";
    PassClaimsNewest: 0, Replica, "A pass of compaction claims to have done what was asked in its middle.";
    LineageOfNewest: 0, Replica, "An older version of a key is shown with the version and create revision of the newest.";
    KeepsOfDeleted: 0, Replica, "A put keeps the value of a key that was deleted before it in the same transaction.";
    IgnoreLeaseDetaches: 0, Replica, "A put that keeps the lease of its key takes it away.";
    PrevValueUnjudged: 0, Replica, "A put tells the value before to who may not read it.";
    BarredVotes: 0, Consensus, "A node that may not campaign still votes.";
    CompactsFuture: 0, Replica, "A compaction to a revision that is yet to come is carried out.";
    NeighboursApart: 0, Replica, "Rights on two intervals that touch do not add up to one on both.";
    FailureBranchUnjudged: 0, Replica, "The branch of a transaction that is taken when a compare fails is not judged.";
    WatchEndIncluded: 0, Replica, "A watch is told of the key at which its interval ends.";
    NestedCompareUnjudged: 0, Replica, "The conditions of a nested transaction are not judged.";
    SmallRangeSeesBatch: 0, Replica, "A small range sees writes of a batch that is not yet whole.";
    StreamReadsPruned: 0, Replica, "A range that is streamed goes on at a revision that was compacted away meanwhile.";
    HashOfUnpruned: 0, Replica, "The hash at a revision counts records that a node has yet to prune.";
    AskedIdTaken: 0, Replica, "A watch takes the id of another one of its stream.";
    NestedSeesWrites: 0, Replica, "The conditions of a nested transaction see what was written before it in the same one.";
}

thread_local! {
    static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Switches one mutant on for this thread, or all of them off.
pub fn switch(mutant: Option<Mutant>) {
    ON.set(mutant);
}

/// The one that is on for this thread.
#[must_use]
pub fn current() -> Option<Mutant> {
    ON.get()
}

/// Whether `mutant` is on for this thread.
#[inline]
pub fn is_on(mutant: Mutant) -> bool {
    ON.get() == Some(mutant)
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Mutant {
    type Err = String;
    fn from_str(text: &str) -> Result<Mutant, String> {
        let found = Mutant::ALL.iter().find(|mutant| mutant.to_string() == text);
        found.copied().ok_or_else(|| format!("no mutant is named {text}"))
    }
}
