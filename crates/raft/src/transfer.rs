//! Handing leadership over (thesis 3.10): bring the target up to date, tell it to campaign, and take no writes meanwhile.
//!
//! Owns the transfer under way and what its caller is told. A transfer ends within an election timeout, one way or the
//! other. From the moment the target was told, this leader's lease is over for the term: the target's voters are freed
//! from their promise. If the target does not take over, the leader stands for election itself, in the next term.

use crate::effect::{Effect, Refused, TransferFailed};
use crate::ids::{NodeId, RequestId, Time};
use crate::message::Body;
use crate::raft::Raft;
use crate::role::{Role, Transfer};

/// A transfer whose leader has stepped back: its outcome shows when the next leader is heard.
#[derive(Debug)]
pub(crate) struct EndingTransfer {
    request: RequestId,
    to: NodeId,
    pub(crate) deadline: Time,
}

impl Raft {
    pub(crate) fn transfer_leader(&mut self, request: RequestId, to: Option<NodeId>) {
        if let Err(reason) = self.begin_requested_transfer(request, to) {
            self.effects.push(Effect::Refused { request, reason });
        }
    }

    fn begin_requested_transfer(&mut self, request: RequestId, to: Option<NodeId>) -> Result<(), Refused> {
        if self.role.leader().is_none() {
            return Err(self.not_leader());
        }
        let to = match to {
            Some(to) => to,
            None => {
                self.best_successor(|_| true).ok_or_else(|| Refused::Invalid("no other voter is reachable".into()))?
            }
        };
        let membership = &self.log.membership().1;
        if !membership.is_member(to) {
            return Err(Refused::UnknownMember { id: to });
        }
        if !membership.is_voter(to) {
            return Err(Refused::NotVoter { id: to });
        }
        if to == self.id {
            self.effects.push(Effect::TransferEnded { request, result: Ok(()) });
            return Ok(());
        }
        self.begin_transfer(to, Some(request));
        Ok(())
    }

    /// The reachable voter, of the incoming half in a joint phase, whose log is furthest.
    pub(crate) fn best_successor(&self, acceptable: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let leader = self.role.leader()?;
        let voters = self.log.membership().1.voters.iter().filter(|id| **id != self.id && acceptable(**id));
        let reachable = voters.filter_map(|id| Some((*id, leader.progress.get(id)?)));
        let active = reachable.filter(|(_, progress)| progress.is_active(self.now, &self.config));
        active.max_by_key(|(id, progress)| (progress.matched, std::cmp::Reverse(*id))).map(|(id, _)| id)
    }

    pub(crate) fn begin_transfer(&mut self, to: NodeId, request: Option<RequestId>) {
        let deadline = self.now + self.config.election_timeout;
        let Role::Leader(leader) = &mut self.role else { unreachable!("only a leader hands over") };
        let before = leader.transfer.replace(Transfer { to, request, deadline, told: false });
        if let Some(request) = before.and_then(|transfer| transfer.request) {
            let result = Err(TransferFailed::Superseded);
            self.effects.push(Effect::TransferEnded { request, result });
        }
    }

    /// Tells the target to campaign as soon as it has the whole log.
    pub(crate) fn drive_transfer(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        let to = transfer.to;
        if !self.log.membership().1.is_voter(to) {
            self.end_transfer(TransferFailed::TargetRemoved);
            return;
        }
        let ready = leader.progress.get(&to).is_some_and(|progress| progress.matched == self.log.last());
        if ready && !transfer.told {
            transfer.told = true;
            leader.gave_up_lease = true;
            self.send(to, Body::TimeoutNow);
        }
    }

    pub(crate) fn expire_transfer(&mut self) {
        let Some(leader) = self.role.leader() else { return };
        let Some(transfer) = leader.transfer else { return };
        let told_in_term = leader.gave_up_lease;
        if self.now >= transfer.deadline && !mutant!(TransferNeverEnds) {
            self.end_transfer(TransferFailed::TimedOut);
            // Only a new term makes the word to a target void, wherever it is, and lets a lease hold again. The target told may
            // be that of an earlier transfer, whose place this one took.
            let again = told_in_term && transfer.request.is_some() && !mutant!(LeaseGoneAfterTransfer);
            if again && self.may_campaign() {
                self.campaign(true);
            }
        } else if transfer.told {
            // The word may have been lost; one that arrives twice does no harm.
            self.send(transfer.to, Body::TimeoutNow);
        }
    }

    fn end_transfer(&mut self, reason: TransferFailed) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = leader.transfer.take() else { return };
        match transfer.request {
            Some(request) => self.effects.push(Effect::TransferEnded { request, result: Err(reason) }),
            None => {
                leader.handover_tried.insert(transfer.to);
            }
        }
    }

    /// This node must not lead any longer: the best successor is told to campaign at once, and may win or not.
    pub(crate) fn abandon_leadership(&mut self) {
        let Some(to) = self.best_successor(|_| true) else { return };
        if let Role::Leader(leader) = &mut self.role {
            leader.gave_up_lease = true;
        }
        self.send(to, Body::TimeoutNow);
    }

    /// Keeps a transfer's caller waiting until the next leader is known.
    pub(crate) fn outlive_transfer(&mut self, transfer: Transfer) {
        let Some(request) = transfer.request else { return };
        self.ending_transfer = Some(EndingTransfer { request, to: transfer.to, deadline: transfer.deadline });
    }

    /// Tells the caller of a transfer who leads now.
    pub(crate) fn note_transfer_outcome(&mut self) {
        let Some(leader) = self.leader() else { return };
        let Some(ending) = self.ending_transfer.take() else { return };
        let result = if leader == ending.to { Ok(()) } else { Err(TransferFailed::LostLeadership) };
        self.effects.push(Effect::TransferEnded { request: ending.request, result });
    }

    pub(crate) fn expire_ending_transfer(&mut self) {
        if let Some(ending) = self.ending_transfer.take_if(|ending| self.now >= ending.deadline) {
            let result = Err(TransferFailed::TimedOut);
            self.effects.push(Effect::TransferEnded { request: ending.request, result });
        }
    }
}
