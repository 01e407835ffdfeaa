//! Numbered rounds, and the lease that follows from them (thesis 6.4.1).
//!
//! Owns what a leader may conclude from answered rounds. A majority that answered a round heard this leader after the
//! round was sent, and each of them refuses its vote for as long as it says from then on, also after a restart. So no
//! other leader exists until that time after the round was sent, less the drift between clocks. The lease is measured
//! from sending, never from the answer, and ends for the whole term when a successor was told to campaign.

use std::time::Duration;

use crate::ids::Time;
use crate::progress::Progress;
use crate::raft::Raft;
use crate::role::{ConfirmedRound, Role};

impl Raft {
    /// Whether a read may be served at `now` on this leader's word alone. Ask again after the read: time has passed.
    pub fn lease_valid(&self, now: Time) -> bool {
        if self.log.membership().1.is_only_voter(self.id) && self.role.leader().is_some() {
            return self.own_term_committed() || mutant!(SoleVoterReadsAtBoot);
        }
        self.lease_until().is_some_and(|until| now < until)
    }

    /// How old what this node has applied may be at `now`; None = no bound is known.
    pub fn staleness(&self, now: Time) -> Option<Duration> {
        let alone = self.log.membership().1.is_only_voter(self.id) && self.own_term_committed();
        if alone && self.applied >= self.log.commit() {
            return Some(Duration::ZERO);
        }
        self.freshness.at().map(|at| now.since(at))
    }

    /// End of the lease; None without one. A node that is the only voter needs none: see [`Raft::lease_valid`].
    pub fn lease_until(&self) -> Option<Time> {
        let leader = self.role.leader()?;
        let confirmed = leader.rounds.confirmed?;
        let gave_up_lease = leader.gave_up_lease && !mutant!(LeaseKeptOverTransfer);
        let holds = self.own_term_committed() && !gave_up_lease;
        holds.then(|| confirmed.sent_at + self.config.lease_duration(confirmed.promise))
    }

    /// Whether this node leads and has committed an entry of its term: only then is its commit index the newest.
    pub(crate) fn own_term_committed(&self) -> bool {
        self.role.leader().is_some_and(|leader| self.log.commit() >= leader.term_start)
    }

    /// Starts a round; reads that wait are confirmed by its answers.
    pub(crate) fn start_round(&mut self) {
        let (commit, current) = (self.log.commit(), self.own_term_committed() || mutant!(ReadBeforeOwnTerm));
        let Role::Leader(leader) = &mut self.role else { unreachable!("only a leader starts rounds") };
        let round = leader.rounds.current.next();
        leader.rounds.current = round;
        leader.rounds.sent_at = self.now;
        leader.rounds.open.push_back((round, self.now, commit));
        if current {
            leader.reads.round_started(round, commit);
        }
        self.broadcast_heartbeat();
    }

    /// Looks up the newest round that a majority of each half has answered.
    pub(crate) fn confirm_rounds(&mut self) {
        let own_term_committed = self.own_term_committed();
        let Role::Leader(leader) = &mut self.role else { return };
        let own = (leader.rounds.current, self.config.election_timeout);
        let answer_of = |id| {
            let answer = |progress: &Progress| (progress.round_acked, progress.promise);
            if id == self.id { own } else { leader.progress.get(&id).map_or_else(Default::default, answer) }
        };
        let membership = &self.log.membership().1;
        let answered = membership.quorum_value(|id| answer_of(id).0);
        if leader.rounds.open.front().is_none_or(|(round, ..)| *round > answered) {
            return;
        }
        // Nodes that were started with other settings promise more, or less, than this one would.
        let promise = membership.quorum_value(|id| {
            let (round, promise) = answer_of(id);
            if round >= answered || mutant!(LeaseOfOldAnswers) { promise } else { Duration::ZERO }
        });
        while let Some((round, sent_at, commit)) = leader.rounds.open.pop_front_if(|(round, _, _)| *round <= answered) {
            let from = if mutant!(LeaseFromAnswer) { self.now } else { sent_at };
            leader.rounds.confirmed = Some(ConfirmedRound { round, sent_at: from, promise });
            // Before an own-term commit, somebody may know of a newer commit index than this leader does.
            if own_term_committed && commit >= leader.term_start {
                self.freshness.note(sent_at, commit, self.applied);
            }
        }
    }
}
